"""A stand-in for `Sandbox` that runs on the host, for tests of what stands above the jail."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.errors import FileAccessError
from sandbox_lite.spec import CommandResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeEntry:
    name: str
    kind: str


class FakeFiles:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.fail_once = False
        """The next write cuts its file short and finds no space."""

    def on_host(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def read(self, path: str, *, max_bytes: int | None = None, follow_links: bool = True) -> bytes:
        try:
            if not follow_links and self.on_host(path).is_symlink():
                raise OSError(errno.ELOOP, "it is a link")
            if max_bytes is not None and self.on_host(path).stat().st_size > max_bytes:
                raise OSError(errno.EFBIG, "it is too long")
            return self.on_host(path).read_bytes()
        except OSError as error:
            raise self._error("read", path, error) from error

    def write(self, path: str, data: bytes | str) -> None:
        target = self.on_host(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.fail_once:
                self.fail_once = False
                target.write_bytes(b"")
                raise OSError(errno.ENOSPC, "No space left on device")
            target.write_bytes(data.encode() if isinstance(data, str) else data)
        except OSError as error:
            raise self._error("write", path, error) from error

    def list(self, path: str) -> Sequence[FakeEntry]:
        try:
            return tuple(self._entries(self.on_host(path)))
        except OSError as error:
            raise self._error("list", path, error) from error

    @staticmethod
    def _entries(directory: Path) -> Iterator[FakeEntry]:
        for found in directory.iterdir():
            kind = "symlink" if found.is_symlink() else "directory" if found.is_dir() else "file"
            yield FakeEntry(name=found.name, kind=kind)

    @staticmethod
    def _error(verb: str, path: str, error: OSError) -> FileAccessError:
        return FileAccessError(
            f"could not {verb} {path}: {error.strerror}",
            errno=error.errno or errno.EIO,
            path=path,
        )


class FakeSandbox:
    """Paths inside stand for paths below `root`; a command begins in `root`/testbed,
    which it may call /testbed."""

    def __init__(self, root: Path) -> None:
        self.files = FakeFiles(root)
        self.workdir = root / "testbed"
        self.workdir.mkdir(exist_ok=True)
        self.commands: list[str] = []
        self.timeouts: list[float | None] = []
        self.raises: BaseException | None = None
        """Raised by the next command."""

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        if "|| mkdir -p -- " not in command:  # the loop's own preparation
            self.commands.append(command)
            self.timeouts.append(timeout)
        if self.commands and self.raises is not None:
            error, self.raises = self.raises, None
            raise error
        process = subprocess.Popen(
            ["bash", "-c", command.replace("/testbed", str(self.workdir))],
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        outcome = Outcome.EXITED
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            outcome = Outcome.TIMED_OUT
        if on_output is not None:
            on_output("stdout", stdout)
        code = process.returncode
        return CommandResult(
            command=command,
            outcome=outcome,
            exit_code=code if code >= 0 else 128 - code,
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            merged_bytes=stdout + stderr,
            cwd=str(self.workdir),
        )


class AsyncFakeFiles:
    def __init__(self, files: FakeFiles) -> None:
        self._files = files

    async def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        return self._files.read(path, max_bytes=max_bytes)

    async def write(self, path: str, data: bytes | str) -> None:
        self._files.write(path, data)

    async def list(self, path: str) -> Sequence[FakeEntry]:
        return self._files.list(path)


class AsyncFakeSandbox:
    """The same for asyncio."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self._sandbox = sandbox
        self.files = AsyncFakeFiles(sandbox.files)

    async def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        return self._sandbox.run(command, timeout=timeout, on_output=on_output)
