"""The caller's side of a kept sandbox: the methods of `Sandbox`, from any process of its user."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sandbox_lite.errors import SandboxClosedError
from sandbox_lite.jail import served_files
from sandbox_lite.jail.capture import Output, Spool
from sandbox_lite.jail.interaction import Interaction
from sandbox_lite.jail.kept import registry, wire
from sandbox_lite.jail.rootfs.info import RootfsInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.files import Files
    from sandbox_lite.jail.steps import Steps
    from sandbox_lite.jail.workspace.applying import ApplyReport
    from sandbox_lite.spec import CommandResult, Enforcement

_UNSET: Any = object()


class KeptSandbox:
    """A sandbox that somebody else's process holds; closing this leaves it as it is."""

    def __init__(self, name: str) -> None:
        """Find a kept sandbox.

        Raises:
            SpecError: There is none of that name.
            HostError: It is another user's.
            SandboxClosedError: It has ended.
        """
        self.name = registry.checked(name)
        status = self._ask({"op": "status"})
        self.pid = int(status["pid"])
        """Host pid of the sandbox's process 1."""
        self.enforcement: Enforcement = wire.enforcement_from_json(status["enforcement"])
        """What is really in force."""
        self._timeout: float | None = status["timeout"]
        self._output_bytes = int(status["output_bytes"])
        try:
            self._root = os.open(
                f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            )
        except OSError as error:
            raise self._gone() from error
        self.files: Files
        self.files, self._served = served_files.opened(
            self._root, self.pid, workdir=status["workdir"], ids=self.enforcement.ids
        )
        """Byte-exact access to the sandbox's files."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it; see `close`."""
        self.close()

    def close(self) -> None:
        """Let go of the sandbox, which goes on; a second call does nothing."""
        if self._served is not None:
            self._served.close()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _gone(self) -> SandboxClosedError:
        return SandboxClosedError(
            f"the kept sandbox {self.name!r} has ended",
            hint="make another: sandbox-lite create; what is left of it: sandbox-lite prune",
        )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                with registry.directory(self.name) as directory:
                    connection.connect(registry.address(directory))
            except (ConnectionError, FileNotFoundError) as error:
                raise self._gone() from error
            try:
                yield connection
            except wire.Hangup as error:
                raise self._gone() from error

    def _ask(self, request: wire.Json) -> wire.Json:
        with self._connection() as connection:
            wire.send_json(connection, request)
            return _checked(wire.receive_json(connection))

    def _command(
        self,
        request: wire.Json,
        on_output: Callable[[str, bytes], None] | None,
        stdin: int | None = None,
    ) -> CommandResult:
        with self._connection() as connection:
            wire.send_json(connection, request | {"stream": on_output is not None})
            if stdin is not None:
                wire.send_fd(connection, stdin)
            # whatever ends this block hangs up, and the keeper ends the command
            while True:
                kind, data = wire.receive(connection)
                if kind == "J":
                    break
                if on_output is not None:
                    on_output("stdout" if kind == "O" else "stderr", data)
            return wire.receive_result(connection, _checked(wire.parsed(data))["result"])

    def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        shell: str = "main",
    ) -> CommandResult:
        """Run a command in a persistent shell that all callers share; see `Sandbox.run`."""
        text = command if isinstance(command, str) else command.decode(errors="surrogateescape")
        request = {
            "op": "run", "shell": shell, "command": text, "merge": merge,
            "timeout": self._timeout if timeout is None else timeout,
        }  # fmt: skip
        return self._command(request, on_output)

    def exec(
        self,
        argv: Sequence[str | bytes],
        *,
        input: bytes | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        """Run a program beside the shell; see `Sandbox.exec`."""
        words = [os.fsdecode(word) if isinstance(word, bytes) else word for word in argv]
        request = {
            "op": "exec", "argv": words, "env": dict(env or {}), "cwd": cwd,
            "timeout": self._timeout if timeout is None else timeout, "input": input is not None,
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            stdin = input
            if isinstance(input, bytes):
                stdin = os.memfd_create("input")
                stack.callback(os.close, stdin)
                with os.fdopen(os.dup(stdin), "wb") as file:
                    file.write(input)
                os.lseek(stdin, 0, os.SEEK_SET)
            return self._command(request, on_output, stdin)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def interact(
        self, command: str | bytes, *, shell: str = "main", passing: bool = False
    ) -> Iterator[Interaction]:
        """Run an interactive program on a shell's terminal; use the result with `with`.

        Args:
            command: What to run.
            shell: On whose terminal; made if there is none of that name.
            passing: End that shell afterwards.
        """
        text = command if isinstance(command, str) else command.decode(errors="surrogateescape")
        with self._connection() as connection, contextlib.ExitStack() as stack:
            wire.send_json(
                connection, {"op": "interact", "shell": shell, "command": text, "passing": passing}
            )
            _checked(wire.receive_json(connection))
            terminal = wire.receive_fd(connection)
            stack.callback(os.close, terminal)
            done: list[CommandResult] = []

            def over() -> bool:
                if done:
                    return True
                wire.send_json(connection, {"op": "over"})
                return bool(_checked(wire.receive_json(connection))["over"])

            def finish(timeout: float | None) -> Steps[CommandResult]:
                yield from ()  # the keeper is who waits
                wire.send_json(connection, {"op": "finish", "timeout": timeout})
                data = _checked(wire.receive_json(connection))
                done.append(wire.receive_result(connection, data["result"]))
                return done[0]

            output = Output(self._output_bytes, Spool("", lambda: -1))
            yield Interaction(terminal, output, over=over, finish=finish)

    def workspace(self, target: str | None = None) -> KeptWorkspace:
        """Return a directory of the host that it has as an overlay; see `Sandbox.workspace`."""
        return KeptWorkspace(self, target)

    def diff(self) -> tuple[Change, ...]:
        """Return what differs from its start; see `Sandbox.diff`."""
        found = self._ask({"op": "diff"})["changes"]
        return tuple(wire.change_from_json(one) for one in found)

    def export_snapshot(self, target: Path) -> None:
        """Write a snapshot of it to a file; see `Sandbox.snapshot` and `Snapshot.export`."""
        self._ask({"op": "snapshot", "path": str(target.absolute())})

    def commit(self, name: str) -> RootfsInfo:
        """Make a rootfs of what it shows now; see `Sandbox.commit`."""
        return RootfsInfo.from_json(json.dumps(self._ask({"op": "commit", "rootfs": name})["info"]))

    def stats(self) -> wire.Json:
        """Return what the sandbox takes just now: the fields of `SandboxStats`."""
        return self._ask({"op": "stats"})

    def remove(self) -> None:
        """End the sandbox, for all its callers."""
        self._ask({"op": "end"})


class KeptWorkspace:
    """`Workspace` of a kept sandbox: whoever holds that does the work."""

    def __init__(self, sandbox: KeptSandbox, target: str | None) -> None:
        self._sandbox = sandbox
        self._target = target

    def _asked(self, verb: str, paths: Sequence[str], **options: bool) -> wire.Json:
        return self._sandbox._ask(self._request(verb, paths, options))

    def _request(self, verb: str, paths: Sequence[str], options: wire.Json) -> wire.Json:
        return {
            "op": "workspace", "verb": verb, "target": self._target, "paths": list(paths),
            "options": options,
        }  # fmt: skip

    @property
    def source(self) -> Path:
        """That directory."""
        return Path(self._asked("changes", ())["source"])

    def changes(self) -> tuple[Change, ...]:
        """See `Workspace.changes`."""
        return self.chosen(())

    def chosen(self, paths: Sequence[str]) -> tuple[Change, ...]:
        """See `ChangeSet.chosen`."""
        found = self._asked("changes", paths)["changes"]
        return tuple(wire.change_from_json(one) for one in found)

    def patch(self, paths: Sequence[str] = ()) -> Iterator[bytes]:
        """See `ChangeSet.patch`."""
        with self._sandbox._connection() as connection:
            wire.send_json(connection, self._request("patch", paths, {}))
            while True:
                kind, data = wire.receive(connection)
                if kind == "J":
                    _checked(wire.parsed(data))
                    return
                yield data

    def apply(
        self, paths: Sequence[str] = (), *, outward_links: bool = False, overwrite: bool = False
    ) -> ApplyReport:
        """See `ChangeSet.apply`."""
        found = self._asked("apply", paths, outward_links=outward_links, overwrite=overwrite)
        return wire.report_from_json(found)

    def discard(self, paths: Sequence[str] = ()) -> ApplyReport:
        """See `Workspace.discard`."""
        return wire.report_from_json(self._asked("discard", paths))


def _checked(data: wire.Json) -> wire.Json:
    if "error" in data:
        raise wire.error_from_json(data)
    return data
