"""Opening one name at a time in a tree that a model may be changing: errors, permissions, kinds."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from sandbox_lite.errors import FileAccessError
from sandbox_lite.jail.openat2 import kernel_file_system

if TYPE_CHECKING:
    from collections.abc import Iterator

# descriptors, of which pathlib knows nothing:
# ruff: noqa: PTH101

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# without O_NONBLOCK the opening of a FIFO waits for its other end, for ever
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def fault(error: OSError, doing: str, path: str) -> FileAccessError:
    """Return the error for what the kernel said about one path."""
    number = error.errno or errno.EIO
    hint = None
    if number in (errno.ENOSPC, errno.EDQUOT):
        hint = "the disk, or the sandbox's own limit on it, is full"
    return FileAccessError(
        f"cannot {doing} {path!r}: {os.strerror(number)}", errno=number, path=path, hint=hint
    )


@contextmanager
def faults(doing: str, path: str) -> Iterator[None]:
    """Turn any OSError of the block into the FileAccessError for `path`."""
    try:
        yield
    except OSError as error:
        raise fault(error, doing, path) from error


@contextmanager
def permitted(pinned: int) -> Iterator[None]:
    """Give the owner all permissions on what an O_PATH descriptor pins, until the block ends.

    Inside, uid 0 reads files of mode 000; outside, an ordinary user does not, although they are
    his.

    Raises:
        OSError: It belongs to another user, or is a link.
    """
    status = os.fstat(pinned)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    old = stat.S_IMODE(status.st_mode)
    more = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR | stat.S_IWUSR
    # an O_PATH descriptor knows no fchmod, but its name in /proc is the very inode
    name = f"/proc/self/fd/{pinned}"
    os.chmod(name, old | more)
    try:
        yield
    finally:
        # somebody else may have removed or closed it meanwhile: nothing to put back then
        with suppress(OSError):
            os.chmod(name, old)


def permitted_if_ours(pinned: int) -> AbstractContextManager[None]:
    """Return `permitted` where it is needed and possible, else a context that does nothing."""
    status = os.fstat(pinned)
    needed = not stat.S_ISLNK(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU
    return permitted(pinned) if needed and status.st_uid == os.geteuid() else nullcontext()


@contextmanager
def opened(parent: int, name: bytes, flags: int) -> Iterator[int]:
    """Yield a descriptor of one entry of an open directory, whatever its permissions.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    with ExitStack() as stack:
        try:
            descriptor = os.open(name, flags, dir_fd=parent)
        except PermissionError:
            path_only = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            pinned = os.open(name, path_only, dir_fd=parent)
            stack.callback(os.close, pinned)
            stack.enter_context(permitted(pinned))
            descriptor = os.open(f"/proc/self/fd/{pinned}", flags & ~os.O_NOFOLLOW)
        stack.callback(os.close, descriptor)
        yield descriptor


def refuse_kernels(descriptor: int, doing: str, path: str) -> None:
    """Refuse what the kernel itself answers for, such as /proc.

    It looks at the credentials of whoever asks. Where the host's program runs as root, a model's
    link to /proc/kcore would otherwise be read with the rights of the host's root.

    Raises:
        FileAccessError: The file is on such a file system (errno EACCES).
    """
    kernels = kernel_file_system(descriptor)
    if kernels is not None:
        raise FileAccessError(
            f"cannot {doing} {path!r}: it is the kernel's ({kernels})",
            errno=errno.EACCES,
            path=path,
            hint="use a command inside the sandbox, such as `cat`",
        )


def kind_of(mode: int) -> str:
    """Return what a file is, in a word: `file`, `directory`, `link`, `fifo`, `socket`, `device`."""
    kinds = {
        stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link",
        stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "device")
