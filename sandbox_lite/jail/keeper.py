"""The process that holds one kept sandbox: a socket that its user alone may open, and an end.

Started by `create` in a session of its own; it ends with its sandbox, at the time to live, or when
it is told to. The program of whoever made it may be long gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.errors import HostError, SandboxLiteError, SpecError
from sandbox_lite.jail.kept import registry, wire
from sandbox_lite.jail.kept.registry import Record
from sandbox_lite.jail.owner import Owner
from sandbox_lite.jail.removal import remove_tree
from sandbox_lite.jail.sandbox import Sandbox
from sandbox_lite.jail.snapshots import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_lite.spec import CommandResult, SandboxSpec

START_SECONDS = 120.0
_LOG_BYTES = 4 * 1024 * 1024
_LOGGED_BYTES = 4096
"""Of each stream of a command, the tail."""
_LOOK_SECONDS = 0.5
_PAUSE_SECONDS = 0.05
_PROGRAM = "from sandbox_lite.jail.keeper import serve; serve()"


def create(
    name: str, spec: SandboxSpec, *, ttl_seconds: float | None, snapshot: Path | None = None
) -> Record:
    """Start a keeper with a sandbox, and wait until it takes callers.

    Args:
        name: What it is called from now on.
        spec: What is asked for.
        ttl_seconds: When it ends, from now on; None is never.
        snapshot: The file of the snapshot that it begins as.

    Returns:
        What is known of it.

    Raises:
        SpecError: The name is none, or is taken.
        SandboxLiteError: The sandbox did not start.
    """
    registry.prune()
    path = registry.make(name)
    try:
        return _start(name, spec, ttl_seconds, snapshot)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(path)
        raise


def _start(
    name: str, spec: SandboxSpec, ttl_seconds: float | None, snapshot: Path | None
) -> Record:
    order = {
        "name": name, "spec": wire.spec_to_json(spec), "ttl": ttl_seconds,
        "snapshot": snapshot and str(snapshot.absolute()),
    }  # fmt: skip
    package = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    # the order comes by a pipe: variables in it must not show in the host's process list
    keeper = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search},
        cwd="/",
        start_new_session=True,
    )
    answer = b""
    try:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with contextlib.suppress(BrokenPipeError), keeper.stdin:
            keeper.stdin.write(json.dumps(order).encode())
        with keeper.stdout:
            answer = _read_answer(keeper.stdout.fileno(), name)
    finally:
        if not answer:
            # it has no sandbox that anybody could reach; its own janitor does the rest
            keeper.kill()
            keeper.wait()
    # it lives on, and is nobody's to wait for: this keeps Popen from complaining
    keeper.returncode = 0
    data = json.loads(answer or b"{}")
    if "error" in data:
        raise wire.error_from_json(data)
    if "ready" not in data:
        raise HostError(f"the keeper of {name!r} ended at once", hint="run: sandbox-lite doctor")
    return registry.read(name)


def _read_answer(fd: int, name: str) -> bytes:
    """Return what the keeper says before it closes its end."""
    deadline = time.monotonic() + START_SECONDS
    answer = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        data = os.read(fd, 65536)
        if not data:
            return answer
        answer += data
    raise HostError(f"the keeper of {name!r} did not start in time", hint="try again")


def serve() -> None:
    """Be a keeper: read the order, open the sandbox, answer callers until the end."""
    order = json.loads(sys.stdin.buffer.read())
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name = order["name"]
    try:
        spec = wire.spec_from_json(order["spec"])
        with _sandbox(spec, order["snapshot"]) as sandbox, _bound(name) as listener:
            _Keeper(sandbox, listener, name, order["ttl"]).run()
    except SandboxLiteError as error:
        _say(wire.error_to_json(error))
    finally:
        with contextlib.suppress(OSError):
            remove_tree(registry.base() / name)


def _sandbox(spec: SandboxSpec, snapshot: str | None) -> Sandbox:
    if snapshot is None:
        return Sandbox(spec)
    # open, it has its own share in what the snapshot holds
    with Snapshot.load(Path(snapshot), spec) as loaded:
        return Sandbox(loaded).open()


def _say(data: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(data).encode())
    # the caller reads to the end of it
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)


def _bound(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with registry.directory(name) as directory:
            before = os.umask(0o177)
            try:
                listener.bind(registry.address(directory))
            finally:
                os.umask(before)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


class _Keeper:
    """One sandbox and its callers, each with a thread of its own."""

    def __init__(
        self, sandbox: Sandbox, listener: socket.socket, name: str, ttl_seconds: float | None
    ) -> None:
        self._sandbox = sandbox
        self._listener = listener
        self._name = name
        self._ttl = ttl_seconds
        self._end = threading.Event()
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._log_lock = threading.Lock()

    def run(self) -> None:
        """Answer until the end."""
        signal.signal(signal.SIGTERM, lambda *_: self._finish())
        deadline = None if self._ttl is None else time.monotonic() + self._ttl
        enforcement = self._sandbox.enforcement
        registry.write(
            Record(
                name=self._name,
                owner=Owner.current(),
                host=socket.gethostname(),
                rootfs=enforcement.rootfs,
                network=enforcement.network,
                created=time.time(),
                ends=None if self._ttl is None else time.time() + self._ttl,
            )
        )
        _say({"ready": True})
        poll = select.poll()
        for fd in (self._listener.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        self._listener.setblocking(False)
        while not self._end.is_set():
            left = _LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0 or not self._lives():
                return
            poll.poll(min(left, _LOOK_SECONDS) * 1000)
            try:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except BlockingIOError:
                continue
            except (OSError, RuntimeError):
                # too many callers at once: those who are there must not lose the sandbox
                self._end.wait(_PAUSE_SECONDS)

    def _lives(self) -> bool:
        with contextlib.suppress(SandboxLiteError):
            return os.path.exists(f"/proc/{self._sandbox.pid}/root/proc")  # noqa: PTH110  # /proc
        return False

    def _finish(self) -> None:
        self._end.set()
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"x")

    # -- one caller -----------------------------------------------------------------------------

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(wire.Hangup, CancelledError):
            connection.setblocking(True)
            if _peer(connection) != os.getuid():
                # the directory keeps out all but root, who has no business here either
                refusal = HostError("the sandbox is another user's", hint="make one of your own")
                wire.send_json(connection, wire.error_to_json(refusal))
                return
            request = wire.receive_json(connection)
            handler = _HANDLERS.get(str(request.get("op")))
            try:
                if handler is None:
                    raise SpecError(f"the keeper knows no {request.get('op')!r}")
                handler(self, connection, request)
            except (wire.Hangup, CancelledError):
                raise
            except SandboxLiteError as error:
                wire.send_json(connection, wire.error_to_json(error))
            except Exception as error:  # noqa: BLE001  # told to whoever asked; the others go on
                fault = HostError(f"the keeper failed: {type(error).__name__}: {error}")
                wire.send_json(connection, wire.error_to_json(fault))

    def status(self, connection: socket.socket, request: wire.Json) -> None:
        """Tell what a caller needs to reach the files, and what is in force."""
        del request
        wire.send_json(
            connection,
            {
                "pid": self._sandbox.pid,
                "workdir": self._sandbox.spec.workdir,
                "output_bytes": self._sandbox.spec.limits.output_bytes,
                "timeout": self._sandbox.spec.limits.timeout_seconds,
                "enforcement": dataclasses.asdict(self._sandbox.enforcement),
            },
        )

    def stats(self, connection: socket.socket, request: wire.Json) -> None:
        """Tell what it takes just now."""
        del request
        wire.send_json(connection, dataclasses.asdict(self._sandbox.stats()))

    def end(self, connection: socket.socket, request: wire.Json) -> None:
        """End the sandbox, and this process."""
        del request
        self._finish()
        wire.send_json(connection, {"ending": True})

    def run_command(self, connection: socket.socket, request: wire.Json) -> None:
        """Run a command in a persistent shell."""
        result = self._sandbox.shell(request["shell"]).run(
            request["command"],
            timeout=request["timeout"],
            merge=request["merge"],
            on_output=_forward(connection) if request["stream"] else None,
            cancel_fd=connection.fileno(),
        )
        self._log("run", result)
        wire.send_result(connection, result)

    def execute(self, connection: socket.socket, request: wire.Json) -> None:
        """Run a program beside the shell; its standard input comes as a descriptor."""
        stdin = wire.receive_fd(connection) if request["input"] else None
        try:
            result = self._sandbox.exec(
                request["argv"],
                input=stdin,
                env=request["env"],
                cwd=request["cwd"],
                timeout=request["timeout"],
                on_output=_forward(connection) if request["stream"] else None,
                cancel_fd=connection.fileno(),
            )
        finally:
            if stdin is not None:
                os.close(stdin)
        self._log("exec", result)
        wire.send_result(connection, result)

    def interact(self, connection: socket.socket, request: wire.Json) -> None:
        """Hand over the terminal of a shell, and tell about the program that runs on it."""
        with contextlib.ExitStack() as stack:
            shell = self._sandbox.shell(request["shell"])
            if request["passing"]:
                stack.callback(self._sandbox.end_shell, request["shell"])
            interaction = stack.enter_context(shell.interact(request["command"]))
            wire.send_json(connection, {"terminal": True})
            wire.send_fd(connection, interaction.terminal)
            while True:
                # a caller who hangs up leaves the block, which ends the program
                asked = wire.receive_json(connection)
                if asked["op"] == "over":
                    wire.send_json(connection, {"over": interaction.over})
                else:
                    result = interaction.result(asked["timeout"])
                    self._log("interact", result)
                    wire.send_result(connection, result)
                    return

    def workspace(self, connection: socket.socket, request: wire.Json) -> None:
        """Tell what changed in a workspace, and what becomes of it."""
        found = self._sandbox.workspace(request["target"])
        verb, paths = request["verb"], request["paths"]
        if verb == "changes":
            changes = [dataclasses.asdict(one) for one in found.chosen(paths)]
            wire.send_json(
                connection,
                {"source": str(found.source), "target": found.target, "changes": changes},
            )
        elif verb == "patch":
            for piece in found.patch(paths):
                wire.send(connection, "B", piece)
            wire.send_json(connection, {"end": True})
        else:
            report = (
                found.discard(paths)
                if verb == "discard"
                else found.apply(paths, **request["options"])
            )
            wire.send_json(connection, dataclasses.asdict(report))

    def diff(self, connection: socket.socket, request: wire.Json) -> None:
        """Tell what changed since the start."""
        del request
        changes = [dataclasses.asdict(one) for one in self._sandbox.diff()]
        wire.send_json(connection, {"changes": changes})

    def snapshot(self, connection: socket.socket, request: wire.Json) -> None:
        """Write a snapshot to a file."""
        with self._sandbox.snapshot() as snapshot:
            snapshot.export(Path(request["path"]))
        wire.send_json(connection, {"written": True})

    def commit(self, connection: socket.socket, request: wire.Json) -> None:
        """Make a rootfs of it."""
        info = self._sandbox.commit(request["rootfs"])
        wire.send_json(connection, {"info": json.loads(info.to_json())})

    def _log(self, how: str, result: CommandResult) -> None:
        line = {
            "time": round(time.time(), 3), "how": how, "command": result.command[:_LOGGED_BYTES],
            "outcome": result.outcome, "exit_code": result.exit_code,
            "seconds": round(result.seconds, 3), "limits_hit": list(result.limits_hit),
            "output": result.merged_bytes[-_LOGGED_BYTES:].decode(errors="replace"),
        }  # fmt: skip
        path = registry.log_path(self._name)
        with self._log_lock, contextlib.suppress(OSError):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                size = file.tell()
            if size > _LOG_BYTES:
                path.replace(path.with_suffix(".1"))


_HANDLERS: dict[str, Callable[[_Keeper, socket.socket, wire.Json], None]] = {
    "status": _Keeper.status,
    "stats": _Keeper.stats,
    "end": _Keeper.end,
    "run": _Keeper.run_command,
    "exec": _Keeper.execute,
    "interact": _Keeper.interact,
    "workspace": _Keeper.workspace,
    "diff": _Keeper.diff,
    "snapshot": _Keeper.snapshot,
    "commit": _Keeper.commit,
}


def _peer(connection: socket.socket) -> int:
    """Return the uid of whoever called: SO_PEERCRED of unix(7), which nobody can forge."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", found)[1])


def _forward(connection: socket.socket) -> Callable[[str, bytes], None]:
    def forward(stream: str, data: bytes) -> None:
        wire.send(connection, "O" if stream == "stdout" else "E", data)

    return forward
