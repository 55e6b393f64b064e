"""Reads an answer that a model left behind, whatever it left there.

A model may leave anything at the path of its answer: nothing, a directory, a link to another file,
a FIFO nobody writes to, gigabytes, or bytes that are no text. Each is told apart; none hangs the
reader or fills its memory. What is read is decided here alone, the same for every task:

- a link is no answer: what it leads to may be any file of the sandbox;
- up to `HUGE_BYTES` the first `MAX_BYTES` are the answer, marked as cut; a longer file is none;
- a NUL byte makes it binary and no answer; bytes that are no UTF-8 are replaced (U+FFFD).
"""

from __future__ import annotations

import codecs
import errno
from typing import TYPE_CHECKING, Protocol

from sandbox_lite.bench.task import Answer, NoAnswer
from sandbox_lite.errors import FileAccessError, HostError, SandboxClosedError
from sandbox_lite.spec import KIB, MIB

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sandbox_lite.bench.task import NoAnswerReason

MAX_BYTES = 64 * KIB
HUGE_BYTES = MIB
ARTEFACT_BYTES = 4 * MIB
"""Of a file that a problem asks for beside its answer; a longer one is none."""

_REASONS: dict[int, tuple[NoAnswerReason, str]] = {
    errno.ENOENT: ("missing", "there is no {path}"),
    errno.ENOTDIR: ("missing", "there is no {path}"),
    errno.EISDIR: ("directory", "{path} is a directory"),
    errno.ELOOP: ("link", "{path} is a symbolic link"),
    errno.EINVAL: ("special", "{path} is no regular file"),
    errno.ENXIO: ("special", "{path} is no regular file"),
    errno.EACCES: ("special", "{path} may not be read"),
    errno.EFBIG: ("huge", "{path} is longer than {most} bytes"),
}


class AnswerFiles(Protocol):
    """What is needed of `Sandbox.files`."""

    def read(self, path: str, *, max_bytes: int | None = None, follow_links: bool = True) -> bytes:
        """See `Files.read`."""


class Stoppable(Protocol):
    """What is needed of `Sandbox`."""

    @property
    def files(self) -> AnswerFiles:
        """See `Sandbox.files`."""

    def still(self) -> AbstractContextManager[None]:
        """See `Sandbox.still`."""


def read_answer(files: AnswerFiles, path: str) -> Answer | NoAnswer:
    """Return the answer in a file of a sandbox, or why there is none.

    Raises:
        FileAccessError: The disk failed; that is no fault of the model.
    """
    try:
        data = files.read(path, max_bytes=HUGE_BYTES, follow_links=False)
    except FileAccessError as error:
        return no_answer(error)
    return answer_of_bytes(data)


def sealed_answer(sandbox: Stoppable, path: str) -> Answer | NoAnswer:
    """Return the answer as it is when every process of a sandbox has been stopped.

    Raises:
        SandboxLiteError: The sandbox failed.
    """
    try:
        with sandbox.still():
            return read_answer(sandbox.files, path)
    except (SandboxClosedError, HostError) as error:
        return unsealed(error)


def no_answer(error: FileAccessError, *, most: int = HUGE_BYTES) -> NoAnswer:
    """Return why a file that could not be read holds no answer; `most` bytes were to be read.

    Raises:
        FileAccessError: The same, where the reason is no doing of the model.
    """
    if error.errno not in _REASONS:
        raise error
    reason, text = _REASONS[error.errno]
    return NoAnswer(reason=reason, text=text.format(path=error.path, most=most))


def unsealed(error: SandboxClosedError | HostError) -> NoAnswer:
    """Return why the processes of a sandbox could not be stopped for a look at the answer.

    Raises:
        SandboxClosedError: The same, where the sandbox failed.
    """
    if isinstance(error, SandboxClosedError):
        if not error.expired:
            raise error
        return NoAnswer(reason="missing", text="the sandbox's time was over, and its files gone")
    # its own processes multiply on: were it a fault, that would be a way out of a wrong answer
    return NoAnswer(reason="unstoppable", text=error.message)


def answer_of_bytes(data: bytes) -> Answer | NoAnswer:
    """Return the answer that a file's content is; only its head where it is long."""
    if len(data) > HUGE_BYTES:
        return NoAnswer(reason="huge", text=f"the answer is longer than {HUGE_BYTES} bytes")
    head = data.removeprefix(codecs.BOM_UTF8)[:MAX_BYTES]
    if b"\0" in head:
        return NoAnswer(reason="binary", text="the answer holds NUL bytes: it is no text")
    truncated = len(data) > MAX_BYTES
    if truncated:  # a character must not be cut in two
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = decoder.decode(head)
    else:
        text = head.decode(errors="replace")
    return _answer(text, len(data), truncated)


def answer_of_text(text: str) -> Answer | NoAnswer:
    """Return the answer that a plain model's message is; only its tail where it is long.

    A message ends with its conclusion, where a file begins with it. Thoughts that a server left in
    the text are not part of it.
    """
    _, mark, rest = text.rpartition("</think>")
    data = (rest if mark else text).encode(errors="replace")
    tail = data[-MAX_BYTES:].decode(errors="ignore").replace("\0", "")
    return _answer(tail, len(data), len(data) > MAX_BYTES)


def _answer(text: str, size_bytes: int, truncated: bool) -> Answer | NoAnswer:
    if not text.strip():
        return NoAnswer(reason="empty", text="the answer is empty")
    return Answer(text=text, size_bytes=size_bytes, truncated=truncated)
