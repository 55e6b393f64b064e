"""A sandbox that is none: a dict for files, and the demo's few commands done in this process.

For proof alone: training in it must give the very curve of training in real sandboxes. It isolates
nothing, and nothing outside the proof may use it.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
import shlex
from typing import TYPE_CHECKING, cast

from sandbox_lite.errors import FileAccessError
from sandbox_lite.spec import CommandResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.rl.source import Start


class _Files:
    def __init__(self, contents: dict[str, bytes]) -> None:
        self._contents = contents

    def read(self, path: str, *, max_bytes: int | None = None, follow_links: bool = True) -> bytes:
        """See `Sandbox.files.read`."""
        del max_bytes, follow_links
        try:
            return self._contents[path]
        except KeyError:
            raise FileAccessError("no such file", errno=errno.ENOENT, path=path) from None

    def write(self, path: str, data: bytes | str) -> None:
        """See `Sandbox.files.write`."""
        self._contents[path] = data.encode() if isinstance(data, str) else data


class StubSandbox:
    """What the demo asks of a sandbox."""

    spec = None
    enforcement = None
    pid = 0
    alive = True

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self.files = _Files(self._contents)
        self._cwd = "/"

    def open(self) -> StubSandbox:
        """Nothing is started."""
        return self

    def close(self) -> None:
        """Nothing is left."""

    def __enter__(self) -> StubSandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """No process runs anyway."""
        yield

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        """Do what the command would."""
        del timeout, on_output
        code, stdout, stderr = self._interpreted(shlex.split(command))
        return CommandResult(
            command=command, outcome=Outcome.EXITED, exit_code=code,
            stdout_bytes=stdout, stderr_bytes=stderr, merged_bytes=stdout + stderr, cwd=self._cwd,
        )  # fmt: skip

    def _interpreted(self, words: list[str]) -> tuple[int, bytes, bytes]:
        match words:
            case ["{", "[[", *_, "&&", "cd", "--", where]:
                self._cwd = where
                return 0, b"", b""
            case ["export", *_]:  # seeds of what differs by chance
                return 0, b"", b""
            case ["cat", name] if (data := self._file(name)) is not None:
                return 0, data, b""
            case ["cp", name, target] if (data := self._file(name)) is not None:
                self._contents[self._path(target)] = data
                return 0, b"", b""
            case ["echo", word, ">", target]:
                self._contents[self._path(target)] = f"{word}\n".encode()
                return 0, b"", b""
            case _:
                # a guess would make the proof worth nothing
                raise NotImplementedError(f"the stub does not know {shlex.join(words)}")

    def _path(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self._cwd, name))

    def _file(self, name: str) -> bytes | None:
        return self._contents.get(self._path(name))


class StubSource:
    """Hands out stubs where the demo takes sandboxes."""

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        """See `rl.source.Source.take`."""
        sandbox = cast("Sandbox", StubSandbox())
        start.prepare(sandbox)
        yield sandbox
