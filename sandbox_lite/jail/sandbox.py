"""A sandbox from its start to its end: the only place that joins the parts to one command."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

from sandbox_lite.errors import LaunchError, SandboxClosedError, SpecError
from sandbox_lite.jail import bwrap, etc, host, layers, seccomp
from sandbox_lite.jail.files import Files
from sandbox_lite.jail.network import find as find_network
from sandbox_lite.jail.process import pidfd_signal, spawn
from sandbox_lite.jail.program import Program, text_of
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.pump import Drainer
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.jail.shell import Shell
from sandbox_lite.jail.supervisor import Control, Supervisor, script
from sandbox_lite.spec import MIB, ArgvPart, Enforcement, Limits, SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.jail.interaction import Interaction
    from sandbox_lite.jail.rootfs.store import Rootfs
    from sandbox_lite.spec import CommandResult, Mount

START_SECONDS = 60.0
CONTROL_BYTES = 512 * MIB
"""Of the control directory, where output too long to return is kept for reading inside."""

_CLOSE_SECONDS = 30.0
_BASE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
}


def _read_child_pid(fd: int, deadline: float, name: str) -> int:
    """Return the pid in the first JSON object of a bwrap's status descriptor."""
    text = b""
    # the JSON may arrive in pieces
    while b"}" not in text:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise LaunchError(f"the {name} bwrap did not start in time")
        data = os.read(fd, 4096)
        if not data:
            raise LaunchError(f"the {name} bwrap ended before the sandbox was there")
        text += data
    return int(json.loads(text[: text.index(b"}") + 1])["child-pid"])


class Sandbox:
    """A computer for code that nobody has read: open it with `with`.

    Nothing of it outlives the block, nor this process, however it ends.
    """

    def __init__(
        self,
        rootfs: str | SandboxSpec = "standard",
        *,
        network: str = "none",
        workdir: str = "/testbed",
        env: Mapping[str, str] | None = None,
        mounts: Sequence[Mount] = (),
        limits: Limits | None = None,
        store: Store | None = None,
    ) -> None:
        """Ask for a sandbox; it starts with the `with` block, or `open`.

        Args:
            rootfs: A name in the store, `host`, or the whole request.
            network: `none`, or `host` (unsafe: the host's own, loopback included).
            workdir: Where commands start; made if it is not there.
            env: Further environment variables of all commands.
            mounts: Directories of the host to show inside.
            limits: Bounds; the defaults of `Limits` where None.
            store: Where to look for the rootfs, if not in the user's own store.

        Raises:
            SpecError: The request makes no sense.
        """
        if isinstance(rootfs, SandboxSpec):
            self.spec = rootfs
        else:
            self.spec = SandboxSpec(
                rootfs=rootfs, network=network, workdir=workdir, env=dict(env or {}),
                mounts=tuple(mounts), limits=limits or Limits(),
            )  # fmt: skip
        self._mode = find_network(self.spec.network)
        self._store = store or Store()
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._shells: dict[str, Shell] = {}
        self._argv: tuple[str, ...] = ()
        self._supervisor: Supervisor | None = None
        self._files: Files | None = None
        self._enforcement: Enforcement | None = None
        self._drainer: Drainer | None = None

    def __enter__(self) -> Self:
        """Open the sandbox; see `open`."""
        return self.open()

    def __exit__(self, *_: object) -> None:
        """Close the sandbox."""
        self.close()

    # -- start and end ------------------------------------------------------------------------

    def open(self) -> Self:
        """Start the sandbox and its shell.

        Returns:
            Itself.

        Raises:
            HostError: This machine cannot make it; the hint names the remedy.
            RootfsError: There is no such rootfs.
            LaunchError: The jail or its bash did not start.
        """
        if self._supervisor is not None:
            raise SpecError("the sandbox is open already")
        _sweep_once(os.getpid())
        with contextlib.ExitStack() as stack:
            rootfs = stack.enter_context(self._store.lease(self.spec.rootfs))
            path = find_bwrap()
            kind = host.upper_kind(path) if self.spec.upper == "auto" else self.spec.upper
            upper = stack.enter_context(layers.upper(kind, self.spec.limits.disk_bytes))
            self._enforcement = Enforcement(
                rootfs=f"{rootfs.name} {rootfs.digest}".strip(),
                upper=kind,
                network=self._mode.name,
                seccomp=("fakeroot",),
                disk="kernel" if kind == "tmpfs" else "none",
                capabilities=bwrap.CAPABILITIES,
            )
            self._drainer = stack.enter_context(contextlib.closing(Drainer()))
            self._start(stack, path, rootfs, upper)
            self._stack = stack.pop_all()
        return self

    def _argv_of(
        self, path: Path, rootfs: Rootfs, upper: ArgvPart, fds: tuple[int, int, int]
    ) -> tuple[str, ...]:
        """Join all parts to the one command that makes this sandbox."""
        outer_status, inner_status, seccomp_fd = fds
        spec = self.spec
        trust = etc.trust(rootfs.lowers)
        files = {"etc/hosts": etc.hosts(spec.hostname), **self._mode.files(), **trust}
        lowers = (*rootfs.lowers, etc.layer(files))
        mounts = (*rootfs.mounts, *spec.mounts)
        env = {**_BASE_ENV, **rootfs.env, **(etc.TRUST_ENV if trust else {}), **spec.env}
        libraries, inner = host.inner_bwrap(path)
        return (
            *upper.prefix,
            str(path), "--json-status-fd", str(outer_status),
            *libraries,
            *bwrap.holder(
                lowers=lowers, upper=upper.outer, mounts=mounts, control_bytes=CONTROL_BYTES
            ),
            "--", inner, "--json-status-fd", str(inner_status),
            *bwrap.namespaces(network_host=self._mode.shares_host),
            *bwrap.identity(hostname=spec.hostname),
            "--seccomp", str(seccomp_fd),
            *bwrap.overlay(len(lowers)),
            *bwrap.devices(shm_bytes=spec.limits.shm_bytes),
            *(word for n, one in enumerate(mounts) for word in bwrap.mount(one, n)),
            "--ro-bind", bwrap.HELD, bwrap.CONTROL,
            "--dir", spec.workdir, "--chdir", "/",
            *upper.bwrap,
            *bwrap.environment({**env, "SANDBOX_WORKDIR": spec.workdir}),
            "--", "bash", "--noprofile", "--norc", "-c", script("init.bash"), "init",
        )  # fmt: skip

    def _start(
        self, stack: contextlib.ExitStack, path: Path, rootfs: Rootfs, upper: ArgvPart
    ) -> None:
        deadline = time.monotonic() + START_SECONDS
        with contextlib.ExitStack() as ours:
            outer_read, outer_write = _pipe(ours)
            inner_read, inner_write = _pipe(ours)
            reports, reports_write = _pipe(ours)
            requests_read, requests = _pipe(ours)
            errors, errors_write = _pipe(ours)
            filter_fd = seccomp.pipe_of("fakeroot")
            ours.callback(os.close, filter_fd)
            fds = (outer_write.fd, inner_write.fd, filter_fd)
            self._argv = self._argv_of(path, rootfs, upper, fds)
            process = spawn(
                self._argv, fds=(*fds, *upper.fds),
                stdin=requests_read.fd, stdout=reports_write.fd, stderr=errors_write.fd,
                # Ctrl-C of a terminal goes to every process of the foreground group: it is ours
                # to interrupt the command, and the sandbox must outlive it
                new_session=True,
            )  # fmt: skip
            stack.callback(_reap, process)
            try:
                # only the jail holds these ends from here on: its death shows as end of file
                for end in (outer_write, inner_write, reports_write, errors_write):
                    end.close()
                held = _read_child_pid(outer_read.fd, deadline, "outer")
                first = _read_child_pid(inner_read.fd, deadline, "inner")
                first_pidfd = os.pidfd_open(first)
                stack.callback(os.close, first_pidfd)
                stack.callback(pidfd_signal, first_pidfd, signal.SIGKILL)
                supervisor = self._supervise(stack, held, first, requests, reports)
                supervisor.await_ready(deadline - time.monotonic())
                self._open_inside(stack, supervisor)
            except (LaunchError, SandboxClosedError, OSError) as error:
                process.kill()
                process.wait()
                raise self._launch_error(error, errors.fd, path) from error

    def _supervise(
        self, stack: contextlib.ExitStack, held: int, first: int, requests: _End, reports: _End
    ) -> Supervisor:
        # The outer namespace's own view: inside the jail the same tmpfs is read-only.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        control = Control(os.open(f"/proc/{held}/root{bwrap.HELD}", flags))
        supervisor = Supervisor(
            requests=requests.keep(), reports=reports.keep(), pid=first, control=control
        )
        self._supervisor = supervisor
        stack.callback(supervisor.close)
        return supervisor

    def _open_inside(self, stack: contextlib.ExitStack, supervisor: Supervisor) -> None:
        root = os.open(f"/proc/{supervisor.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        self._files = Files(root, workdir=self.spec.workdir)
        stack.callback(self._close_shells)
        self.shell()

    def _launch_error(self, error: Exception, errors: int, path: Path) -> Exception:
        os.set_blocking(errors, False)
        with contextlib.suppress(OSError):
            stderr = os.read(errors, 65536).decode(errors="replace")
            known = host.explain(stderr, path)
            if known is not None:
                return known
            return LaunchError(
                f"the sandbox did not start: {stderr.strip() or error}",
                hint="run: sandbox-lite doctor", argv=self._argv, stderr=stderr,
            )  # fmt: skip
        return LaunchError(f"the sandbox did not start: {error}", argv=self._argv)

    def _close_shells(self) -> None:
        for shell in self._shells.values():
            shell.close()
        self._shells.clear()

    def close(self) -> None:
        """End every process of the sandbox and drop its files; a second call does nothing.

        In a child that was forked meanwhile it does nothing at all: the sandbox is its parent's.
        """
        if self._supervisor is not None and self._supervisor.owner != os.getpid():
            self._stack.pop_all()
            return
        self._stack.close()

    # -- use ----------------------------------------------------------------------------------

    def _open_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise SpecError("the sandbox is not open", hint="use it in a with block")
        self._supervisor.check_open()
        return self._supervisor

    def shell(self, name: str = "main") -> Shell:
        """Return the persistent shell of that name, started at the first call.

        Raises:
            LaunchError: It did not start.
        """
        supervisor = self._open_supervisor()
        if name not in self._shells:
            assert self._drainer is not None
            self._shells[name] = Shell(
                supervisor, self._drainer, name=name, output_bytes=self.spec.limits.output_bytes
            )
        return self._shells[name]

    def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command in the persistent shell; see `Shell.run`.

        Args:
            command: Any text that bash can read.
            timeout: Seconds; None means `limits.timeout_seconds`.
            merge: One pipe for both streams, so that their order is exact.
            on_output: Called with `"stdout"` or `"stderr"` and bytes while they come.

        Returns:
            What happened; a failing or timed out command is a result.

        Raises:
            SandboxClosedError: The sandbox is closed or another process's.
            ShellDiedError: The shell ended and no other could be started.
        """
        seconds = self.spec.limits.timeout_seconds if timeout is None else timeout
        return self.shell().run(command, timeout=seconds, merge=merge, on_output=on_output)

    def interact(self, command: str | bytes) -> contextlib.AbstractContextManager[Interaction]:
        """Run an interactive program on the shell's terminal; use the result with `with`."""
        return self.shell().interact(command)

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
        """Run a program beside the shell, any number at once from any thread.

        Args:
            argv: The program and its arguments, any bytes but NUL.
            input: Bytes for its standard input, or a descriptor that is read as far as the
                program takes it; empty by default.
            env: Variables beside those of the sandbox.
            cwd: Its directory; `workdir` by default. Exit code 126 if it cannot be entered.
            timeout: Seconds; then its process group gets SIGTERM and SIGKILL.
            on_output: Called with `"stdout"` or `"stderr"` and bytes while they come.

        Returns:
            What happened; 127 where there is no such program, 126 where it cannot be run.

        Raises:
            SandboxClosedError: The sandbox is closed or another process's.
        """
        if isinstance(argv, (str, bytes)):
            raise SpecError("exec takes a list of words; use run for a command line")
        supervisor = self._open_supervisor()
        assert self._drainer is not None
        program = Program(
            supervisor, self._drainer,
            key=f"program-{next(self._numbers)}", output_bytes=self.spec.limits.output_bytes,
        )  # fmt: skip
        seconds = self.spec.limits.timeout_seconds if timeout is None else timeout
        return program.run(
            argv, text=text_of(argv, env, cwd), stdin=input, timeout=seconds, on_output=on_output
        )

    @property
    def files(self) -> Files:
        """Byte-exact access to the sandbox's files."""
        self._open_supervisor()
        assert self._files is not None
        return self._files

    @property
    def enforcement(self) -> Enforcement:
        """What is really in force."""
        self._open_supervisor()
        assert self._enforcement is not None
        return self._enforcement

    @property
    def pid(self) -> int:
        """Host pid of the sandbox's process 1."""
        return self._open_supervisor().pid

    def command_line(self) -> str:
        """Return the command that made this sandbox, as it can be pasted into a shell."""
        return bwrap.printable(self._argv)


class _End:
    """One end of a pipe, closed once: a second close of a number could hit somebody else's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def keep(self) -> int:
        """Return the descriptor, which is the caller's from now on."""
        fd, self.fd = self.fd, -1
        return fd


def _pipe(stack: contextlib.ExitStack) -> tuple[_End, _End]:
    reader, writer = (_End(fd) for fd in os.pipe2(os.O_CLOEXEC))
    stack.callback(reader.close)
    stack.callback(writer.close)
    return reader, writer


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=_CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_swept: set[int] = set()


def _sweep_once(pid: int) -> None:
    if pid not in _swept:
        _swept.add(pid)
        layers.sweep()
