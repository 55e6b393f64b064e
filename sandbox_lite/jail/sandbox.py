"""A sandbox from its start to its end, and what can be done with it in between."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sandbox_lite.errors import LaunchError, PolicyError, SandboxClosedError, SpecError
from sandbox_lite.jail import (
    bwrap,
    commands,
    etc,
    host,
    janitor,
    layers,
    limits,
    nests,
    opened,
    process,
    restricted,
    served_files,
    snapshots,
    subids,
)  # fmt: skip
from sandbox_lite.jail import network as networks
from sandbox_lite.jail.kept.client import KeptSandbox
from sandbox_lite.jail.launch import launch
from sandbox_lite.jail.limits import states, watchdog
from sandbox_lite.jail.limits.meter import Meter
from sandbox_lite.jail.limits.processes import Processes
from sandbox_lite.jail.native import nest as native_nest
from sandbox_lite.jail.pause import paused
from sandbox_lite.jail.process import admitted, explained, uninterrupted
from sandbox_lite.jail.program import Program
from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.pump import Drainer
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.jail.shell import Shell
from sandbox_lite.jail.snapshots import Freezer, Snapshot
from sandbox_lite.jail.steps import finish
from sandbox_lite.jail.workspace import live as workspaces
from sandbox_lite.spec import Enforcement, Limits, Publish, SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.egress.serving import Egress
    from sandbox_lite.jail.files import Files
    from sandbox_lite.jail.interaction import Interaction
    from sandbox_lite.jail.layers import Layer, Upper
    from sandbox_lite.jail.limits.backend import Box
    from sandbox_lite.jail.limits.disk import DirectoryDisk, TmpfsDisk
    from sandbox_lite.jail.nest import Nest
    from sandbox_lite.jail.rootfs.store import Progress, Rootfs, RootfsInfo
    from sandbox_lite.jail.steps import Steps
    from sandbox_lite.jail.supervisor import Supervisor
    from sandbox_lite.spec import (
        CommandResult,
        Ids,
        Mount,
        NetworkRequest,
        PublishedPort,
        SandboxStats,
        WeakerName,
    )

_HOMES_SECONDS = 30.0


def _published(ports: Mapping[int, int] | Sequence[Publish]) -> tuple[Publish, ...]:
    if isinstance(ports, Mapping):
        return tuple(Publish(port=port, inner_port=inner) for port, inner in ports.items())
    return tuple(ports)


def open_all(sandboxes: list[Sandbox]) -> list[Sandbox]:
    """Open sandboxes, several at once, and return them; where one fails, none is left open.

    Raises:
        SandboxLiteError: See `Sandbox.open`.
    """
    try:
        if len(sandboxes) == 1:
            sandboxes[0].open()
        elif sandboxes:
            with ThreadPoolExecutor(process.STARTS_AT_ONCE) as threads:
                list(threads.map(Sandbox.open, sandboxes))
    except BaseException:
        for one in sandboxes:
            one.close()
        raise
    return sandboxes


class Sandbox:
    """A computer for code that nobody has read: open it with `with`.

    Nothing of it outlives the block, nor this process, however it ends.
    """

    def __init__(
        self,
        rootfs: str | SandboxSpec | Snapshot = "standard",
        *,
        network: str | None = None,
        allow: Sequence[str] = (),
        allow_private: Sequence[str] = (),
        publish: Mapping[int, int] | Sequence[Publish] = (),
        workdir: str = "/testbed",
        user: str = "root",
        ids: Ids = "own",
        env: Mapping[str, str] | None = None,
        mounts: Sequence[Mount] = (),
        limits: Limits | None = None,
        allow_weaker: Collection[WeakerName] = (),
        require: str | None = None,
        store: Store | None = None,
        snapshot: Snapshot | None = None,
    ) -> None:
        """Ask for a sandbox; it starts with the `with` block, or `open`.

        Args:
            rootfs: A name in the store, `host`, the whole request, or a snapshot.
            network: `none`; through a proxy `packages` (indexes of pip, apt, npm), `web` (every
                public host) or `allow`; `internet` (raw packets to public addresses, where the host
                has pasta or slirp4netns); or `host` (unsafe: the host's own, loopback included).
                The default is `allow` where `allow` names something, else `none`.
            allow: What may be reached beside the mode's list, `[METHOD,METHOD ]HOST[:PORT]`:
                `example.org`, `*.example.org`, `example.org:8443`, `GET,HEAD example.org:80`.
            allow_private: Hosts that may have an address which is not public.
            publish: Ports of the host's loopback, each with the port inside to which it leads.
            workdir: Where commands start; made if it is not there.
            user: An account of the rootfs: everything inside is its own, and it has no capability;
                for programs that refuse root.
            ids: `own`: the caller's id is root's, and other ids are pretended. `subordinate`: they
                are real, those that this host gives the caller in /etc/subuid and /etc/subgid.
            env: Further environment variables of all commands.
            mounts: Directories of the host to show inside.
            limits: Bounds; the defaults of `Limits` where None.
            allow_weaker: Limits that were named, and may yet be held less firmly or not at all;
                `overlay`: a host without one may copy the rootfs for this sandbox.
            require: Who must hold the limits, such as `cgroup`; None takes the best there is.
            store: Where to look for the rootfs, if not in the user's own store.
            snapshot: What its files and shells begin as, where another request than the
                snapshot's own is made: another user, say, or network.

        Raises:
            SpecError: The request makes no sense.
        """
        if isinstance(rootfs, Snapshot):
            snapshot, rootfs = rootfs, rootfs.spec
        self._snapshot = snapshot
        if isinstance(rootfs, SandboxSpec):
            self.spec = rootfs
        else:
            self.spec = SandboxSpec(
                rootfs=rootfs, network=network or ("allow" if allow else "none"),
                allow=tuple(allow), allow_private=tuple(allow_private),
                publish=_published(publish), workdir=workdir, user=user, ids=ids,
                env=dict(env or {}), mounts=tuple(mounts), limits=limits or Limits(),
                allow_weaker=tuple(allow_weaker), require=require,
            )  # fmt: skip
        self._several_ids = self.spec.ids == "subordinate"
        self._filters = commands.filters(self.spec)
        self._mode = networks.find(self.spec.network)
        self._policy = networks.policy(self.spec)
        self._egress: Egress | None = None
        self._carrier = ""
        self._store = store or Store()
        self._stack = contextlib.ExitStack()
        self._shells: dict[str, Shell] = {}
        self._shells_lock = threading.Lock()
        self._freezing = threading.Lock()
        self._joined: commands.Command | None = None
        self._supervisor: Supervisor | None = None
        self._files: Files | None = None
        self._enforcement: Enforcement | None = None
        self._drainer: Drainer | None = None
        self._meter: Meter | None = None
        self._freezer: Freezer | None = None
        self._processes: Processes | None = None
        self._cover: Callable[[Sequence[tuple[str, str]]], Callable[[], int]] | None = None
        self._covered: Callable[[], int] | None = None
        """Waits until its /proc is covered, which must be before anything of others runs inside."""
        self._workspaces: dict[Mount, workspaces.Workspace] = {}

    def like(self, spec: SandboxSpec) -> Sandbox:
        """Return another, not open yet, by that request, of the same store and snapshot."""
        return Sandbox(spec, store=self._store, snapshot=self._snapshot)

    def __enter__(self) -> Self:
        """Open the sandbox, see `open`, unless it is open already, as a fork is."""
        return self if self._supervisor is not None else self.open()

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
        layers.guard()
        # All that is held goes into one stack from the first moment, with no handing over at the
        # end, in which Ctrl-C could lose it.
        stack = self._stack
        try:
            with explained("start a sandbox"), admitted():
                uninterrupted(lambda: self._open(stack))
        except BaseException:
            self._supervisor = None
            stack.close()
            raise
        return self

    def begin(self) -> bool:
        """Let its wall time begin now, as if it were opened now; False where it has ended."""
        if self._supervisor is None or self._meter is None or not self._supervisor.alive():
            return False
        self._meter.begin()
        return True

    def _open(self, stack: contextlib.ExitStack) -> None:
        spec = self.spec
        self._mode.check()
        problem = subids.missing() if self._several_ids else None
        if problem is not None:
            raise problem
        rootfs = stack.enter_context(self._store.lease(spec.rootfs))
        base = self._base(stack, rootfs)
        layers.check_places((*rootfs.lowers, *(layer.top for layer in base)))
        whole = any(layer.whole for layer in base)
        rung, probe = limits.choose(spec.require, bounded=spec.limits.bounded)
        path = find_bwrap()
        kind = spec.upper
        if kind == "auto":
            # a snapshot without an overlay goes on without one
            weaker = "overlay" in spec.allow_weaker
            kind = "copy" if whole else host.upper_kind(path, weaker=weaker)
        self._workspaces = workspaces.looked_at(stack, spec.mounts, kind)

        def lowers() -> Sequence[Path]:
            below = () if whole else commands.lowers(spec, rootfs)
            return [*below, *(layer.top for layer in base)]

        upper = stack.enter_context(
            layers.upper(kind, spec.limits.disk_bytes, lowers, several_ids=self._several_ids)
        )
        asked = states.ask(spec.limits, kind, spec.mounts, several_ids=self._several_ids)
        found = states.states(spec.limits, probe.holds_for(asked), kind, asked)
        states.check(spec, found, probe, limits.remedy(rung))
        box = stack.enter_context(rung.box(asked))
        self._drainer = stack.enter_context(contextlib.closing(Drainer()))
        frozen = () if kind == "copy" else tuple(layer.path for layer in base)
        self._supervisor = self._launched(stack, path, rootfs, upper, box, frozen)
        for number, one in enumerate((*rootfs.mounts, *spec.mounts)):
            if one in self._workspaces:
                self._workspaces[one].begin(self._supervisor.holder, self._supervisor.pid, number)
        proc = opened.proc(stack, self._supervisor)
        looks = opened.looks(stack, proc, self._supervisor) if self._several_ids else None
        disk = opened.disk(stack, self._supervisor, upper, spec, looks)
        processes = Processes(proc, others=None if looks is None else looks.memfds)
        self._processes = processes
        inside = Path(f"/proc/{self._supervisor.holder}/root{bwrap.UPPER}/upper")
        top = inside if upper.path is None else upper.path
        self._freezer = stack.enter_context(
            Freezer(top, base, processes, whole=kind == "copy", shells=self._states())
        )
        self._watch(stack, self._supervisor, box, disk, processes)
        published = self._connected(stack, self._supervisor)
        self._open_inside(stack, self._supervisor)
        if self._several_ids and spec.programs and spec.writable is None:
            self._give_homes(etc.people(rootfs.lowers))
        self._enforcement = Enforcement(
            rootfs=snapshots.label(rootfs),
            upper=kind,
            network=self._mode.name,
            reachable="" if self._policy is None else self._policy.summary(),
            published=published,
            carrier=self._carrier,
            seccomp=self._filters,
            capabilities=commands.capabilities(spec),
            user=spec.user,
            ids=spec.ids,
            backend=rung.name,
            limits=states.states(spec.limits, box.holds, kind, asked),
            writable=spec.writable,
            programs=spec.programs,
        )

    def _base(self, stack: contextlib.ExitStack, rootfs: Rootfs) -> tuple[Layer, ...]:
        """Return the frozen layers below, which are kept until the sandbox ends."""
        if self._snapshot is None:
            return ()
        self._snapshot.check(self.spec, rootfs)
        base = self._snapshot.keep()
        for layer in base:
            stack.callback(layer.let_go)
        return base

    def _connected(
        self, stack: contextlib.ExitStack, supervisor: Supervisor
    ) -> tuple[PublishedPort, ...]:
        """Open the ways out and in, before anything of others runs inside."""
        if self._policy is None and not self.spec.publish:
            return ()
        # asyncio and all that goes with it are slow to import, and most sandboxes need none of it
        from sandbox_lite.jail.egress import serving

        namespace = os.open(f"/proc/{supervisor.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, namespace)
        if self._policy is not None:
            self._egress = stack.enter_context(serving.egress(namespace, self._policy))
        return stack.enter_context(serving.published(namespace, self.spec.publish))

    def _watch(
        self,
        stack: contextlib.ExitStack,
        supervisor: Supervisor,
        box: Box,
        disk: TmpfsDisk | DirectoryDisk,
        processes: Processes,
    ) -> None:
        dog = watchdog.shared()
        meter = Meter(
            self.spec.limits, box, processes, disk,
            end=supervisor.expire,
            wake=lambda: dog.wake(meter),
            soften=lambda: dog.soften(meter),
            turns=dog.turns,
        )  # fmt: skip
        self._meter = meter
        stack.enter_context(dog.watching(meter))

    def _launched(
        self,
        stack: contextlib.ExitStack,
        path: Path,
        rootfs: Rootfs,
        upper: Upper,
        box: Box,
        frozen: tuple[Path, ...],
    ) -> Supervisor:
        command = commands.join(
            self.spec, path, rootfs, upper,
            filters=self._filters, proxied=self._policy is not None, frozen=frozen,
            covers={mount: one.covers for mount, one in self._workspaces.items()},
        )  # fmt: skip

        def protect(one: Nest, first: int) -> Callable[[], object]:
            box.protect(first)
            if self._mode.carrying is not None:
                # before namespaces are forbidden: the carrier locks itself away into some
                self._carrier = stack.enter_context(self._mode.carrying(one.pid, first))
            if self._several_ids:
                # beside the filter: bwrap's own way, --disable-userns, is a further user namespace
                janitor.SHARED.forbid_namespaces(one.pid)
            # where /proc/sys is read-only servers do without, as in any container of that kind
            return int if self._mode.shares_host else one.open_low_ports(first)

        self._joined = command
        places = {} if command.uppers is None else {str(command.uppers): bwrap.UPPERS}
        sources = [one.source for one in rootfs.mounts if one.source]
        try:
            if self._several_ids:
                # its user namespace is the jail's as well
                taken = nests.SHARED.private(command.outer, subids.write_maps)
            elif any(one.source for one in self.spec.mounts):
                # what is mounted below a directory of the caller's later on would not show, and
                # his disk would stay busy
                taken = nests.SHARED.private(command.outer)
            else:
                state = nests.states((*command.lowers, *places, *sources))
                taken = nests.SHARED.taken(command.outer, state)
            nest = stack.enter_context(taken)
            supervisor = launch(
                stack,
                command.argv,
                nest=nest,
                mounts=(
                    *native_nest.mounts(command.own, commands.inodes(self.spec.limits), places),
                    *native_nest.devices(bwrap.DEVICES, bwrap.SHM, bwrap.NODES),
                ),
                filter_names=command.filters,
                box=box,
                protect=protect,
                environment=command.environment,
                workdir=self.spec.workdir,
            )
            # not before process 1 stands where bwrap has put it
            self._cover = functools.partial(nest.cover, supervisor.pid)
            self._covered = self._cover(native_nest.mounts(command.covers, {}, {}))
            return supervisor
        except LaunchError as error:
            known = workspaces.explain(error.stderr, self.spec.mounts)
            known = known or host.explain(error.stderr, path)
            if known is None:
                raise
            raise known from error

    def _open_inside(self, stack: contextlib.ExitStack, supervisor: Supervisor) -> None:
        root = os.open(f"/proc/{supervisor.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        self._files, served = served_files.opened(
            root, supervisor.pid, workdir=self.spec.workdir, ids=self.spec.ids
        )
        if served is not None:
            stack.callback(served.close)
        stack.callback(self._close_shells)
        stack.callback(supervisor.end)
        assert self._covered is not None
        problem = self._covered()
        if problem:
            raise LaunchError(
                f"the sandbox's /proc cannot be covered: {os.strerror(problem)}",
                hint="run: sandbox-lite doctor",
            )
        if self.spec.writable is not None:
            assert self._cover is not None
            restricted.hold_files(self._cover, self._files, supervisor, self.spec.writable)
        if self.spec.programs:
            self.shell()
        else:
            restricted.check_no_programs(supervisor)

    def _give_homes(self, people: Sequence[etc.Account]) -> None:
        """Make people's homes theirs: the rootfs was unpacked where there was one id alone."""
        for one in people:
            # a rootfs may lack the directory, or the program
            words = ["chown", "-hR", f"{one.uid}:{one.gid}", "--", one.home]
            self.exec(words, cwd="/", timeout=_HOMES_SECONDS)

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

    def _open_for_programs(self) -> Supervisor:
        if not self.spec.programs:
            raise PolicyError(
                "nothing runs in this sandbox: it was asked for without programs",
                hint="read and write its files",
            )
        return self._open_supervisor()

    @property
    def alive(self) -> bool:
        """Whether it can be used: open, this process's, and its process 1 runs."""
        try:
            supervisor = self._open_supervisor()
        except (SpecError, SandboxClosedError):
            return False
        return supervisor.alive()

    def shell(self, name: str = "main") -> Shell:
        """Return the persistent shell of that name, started at the first call.

        Raises:
            LaunchError: It did not start.
            PolicyError: Nothing runs in this sandbox.
        """
        supervisor = self._open_for_programs()
        known = self._shells.get(name)
        if known is not None:
            return known
        with supervisor.in_use(), self._shells_lock:
            if name not in self._shells:
                assert self._drainer is not None
                assert self._meter is not None
                self._shells[name] = Shell(
                    supervisor, self._drainer, self._meter,
                    name=name, output_bytes=self.spec.limits.output_bytes,
                    state=self._states().get(name, b""),
                )  # fmt: skip
            return self._shells[name]

    def end_shell(self, name: str) -> None:
        """End the persistent shell of that name, if there is one; not the main one."""
        if name == "main":
            raise SpecError("the main shell stays", hint="close the sandbox instead")
        with self._open_supervisor().in_use(), self._shells_lock:
            shell = self._shells.pop(name, None)
            if shell is not None:
                shell.end()

    def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
        shell: str = "main",
    ) -> CommandResult:
        """Run a command in a persistent shell; see `Shell.run`.

        Args:
            command: Any text that bash can read.
            timeout: Seconds; None means `limits.timeout_seconds`.
            merge: One pipe for both streams, so that their order is exact.
            on_output: Called with `"stdout"` or `"stderr"` and bytes while they come.
            cancel_fd: A descriptor; when it can be read, or is hung up, the command is ended and
                `concurrent.futures.CancelledError` raised.
            shell: The name of the shell, which is started where there is none.

        Returns:
            What happened; a failing or timed out command is a result.

        Raises:
            SandboxClosedError: The sandbox is closed or another process's.
            ShellDiedError: The shell ended and no other could be started.
        """
        return finish(
            self.run_steps(
                command, timeout=timeout, merge=merge, on_output=on_output, cancel_fd=cancel_fd,
                shell=shell,
            )
        )  # fmt: skip

    def run_steps(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
        shell: str = "main",
    ) -> Steps[CommandResult]:
        """Return the steps of `run`, for whoever waits in another way."""
        seconds = self.spec.limits.timeout_seconds if timeout is None else timeout
        before = self._requests_so_far()
        steps = self.shell(shell).run_steps(
            command, timeout=seconds, merge=merge, on_output=on_output, cancel_fd=cancel_fd
        )
        return self._with_refusals((yield from steps), before)

    def interact(
        self, command: str | bytes, *, shell: str = "main"
    ) -> contextlib.AbstractContextManager[Interaction]:
        """Run an interactive program on a shell's terminal; use the result with `with`."""
        return self.shell(shell).interact(command)

    def exec(
        self,
        argv: Sequence[str | bytes],
        *,
        input: bytes | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
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
            cancel_fd: A descriptor; when it can be read, or is hung up, the command is ended and
                `concurrent.futures.CancelledError` raised.

        Returns:
            What happened; 127 where there is no such program, 126 where it cannot be run.

        Raises:
            SandboxClosedError: The sandbox is closed or another process's.
        """
        return finish(
            self.exec_steps(
                argv, input=input, env=env, cwd=cwd, timeout=timeout, on_output=on_output,
                cancel_fd=cancel_fd,
            )
        )  # fmt: skip

    def exec_steps(
        self,
        argv: Sequence[str | bytes],
        *,
        input: bytes | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
    ) -> Steps[CommandResult]:
        """Return the steps of `exec`, for whoever waits in another way."""
        if isinstance(argv, (str, bytes)):
            raise SpecError("exec takes a list of words; use run for a command line")
        supervisor = self._open_for_programs()
        assert self._drainer is not None
        assert self._meter is not None
        program = Program(
            supervisor, self._drainer, self._meter, output_bytes=self.spec.limits.output_bytes
        )
        seconds = self.spec.limits.timeout_seconds if timeout is None else timeout
        before = self._requests_so_far()
        result = yield from program.run(
            argv, env=env or {}, cwd=cwd, stdin=input, timeout=seconds, on_output=on_output,
            cancel_fd=cancel_fd,
        )  # fmt: skip
        return self._with_refusals(result, before)

    def _requests_so_far(self) -> int:
        return 0 if self._egress is None else self._egress.count

    def _with_refusals(self, result: CommandResult, before: int) -> CommandResult:
        if self._egress is None or self._egress.count == before:
            return result
        fresh = self._egress.since(before)
        refused = tuple(one for one in fresh if one.verdict != "allowed")
        return dataclasses.replace(result, refused=refused)

    def requests(self, after: int = 0) -> tuple[NetworkRequest, ...]:
        """Return what was asked of the outside, after the first so many requests.

        The latest ten thousand are remembered; there are none where the mode has no proxy.
        """
        return () if self._egress is None else self._egress.since(after)

    @property
    def egress(self) -> Egress:
        """The way out: what may be reached, grants of more, and the requests that were made.

        Raises:
            SpecError: The network mode of this sandbox has no list.
        """
        self._open_supervisor()
        if self._egress is None:
            raise SpecError(
                f"network {self._mode.name} has no list", hint="use network allow, packages or web"
            )
        return self._egress

    @property
    def files(self) -> Files:
        """Byte-exact access to the sandbox's files."""
        self._open_supervisor()
        assert self._files is not None
        return self._files

    def workspace(self, target: str | None = None) -> workspaces.Workspace:
        """Return a directory of the host that is mounted as an overlay, and what became of it.

        Args:
            target: Where it is mounted inside; None where there is one alone.

        Raises:
            SpecError: There is no such mount.
        """
        self._open_supervisor()
        return workspaces.find(self._workspaces, target)

    @property
    def enforcement(self) -> Enforcement:
        """What is really in force."""
        self._open_supervisor()
        assert self._enforcement is not None
        return self._enforcement

    def stats(self) -> SandboxStats:
        """Return what the sandbox takes just now."""
        self._open_supervisor()
        assert self._meter is not None
        return self._meter.stats()

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep every process inside from running until the block ends; files can be read in it.

        For whoever must know that nothing inside changes a file while he looks at it. No command
        may be under way in another thread.

        Raises:
            HostError: They make new ones faster than they can be stopped.
            SandboxClosedError: The sandbox is closed.
        """
        with self._open_supervisor().in_use(), self._freezing:
            assert self._processes is not None
            with paused(self._processes):
                yield

    # -- branches -----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Freeze files and shells as they are now, and go on.

        The processes are stopped for that moment. What they hold in memory, /dev/shm and further
        mounts are no part of it. A command that runs in another thread is waited for, unless
        `exec` runs it.

        Returns:
            The snapshot, to be closed; where nothing has changed since the last one it shares its
            layers and costs next to nothing.

        Raises:
            HostError: There is no room for it, or a process cannot be stopped.
            ShellDiedError: A shell does not tell its state.
            SpecError: The sandbox has subordinate ids, or a workspace.
            SandboxClosedError: It is closed.
        """
        supervisor = self._open_supervisor()
        snapshots.check_files(self.spec)
        assert self._freezer is not None
        assert self._meter is not None
        assert self._enforcement is not None
        with supervisor.in_use(), self._freezing, contextlib.ExitStack() as stack:
            with self._shells_lock:
                shells = dict(self._shells)
            pids = {shell.pid for shell in shells.values()}
            frozen = self._freezer.unchanged(self._begun(), pids)
            if frozen is None:
                states = {name: stack.enter_context(one.quiet()) for name, one in shells.items()}
                pids = {shell.pid for shell in shells.values()}
                frozen = self._freezer.freeze(self._begun(), pids, states)
            kept, told = frozen
            return Snapshot(
                spec=self.spec, rootfs=self._enforcement.rootfs, layers=kept, shells=told
            )

    def _start(self) -> Snapshot:
        """Return a snapshot of what was there before the first command."""
        self._open_supervisor()
        assert self._freezer is not None
        assert self._enforcement is not None
        if self._enforcement.upper == "copy":
            raise SpecError(
                "what a copy was at its start is not known", hint="take a snapshot right after it"
            )
        return Snapshot(
            spec=self.spec, rootfs=self._enforcement.rootfs, shells={},
            layers=tuple(layer.keep() for layer in self._freezer.base),
        )  # fmt: skip

    def _states(self) -> Mapping[str, bytes]:
        """Return what its shells begin with."""
        if self._snapshot is None:
            return {}
        was, environment = self._snapshot.spec, {}
        if self._joined is not None and was.user != self.spec.user:
            environment = {name: self._joined.environment[name] for name in commands.PERSONAL}
        for name, value in self.spec.env.items():
            if was.env.get(name) != value:
                environment[name] = value
        # what was asked for goes before what a shell of another request had exported
        exports = "".join(f"\nexport {k}={shlex.quote(v)}" for k, v in environment.items())
        return {name: one + exports.encode() for name, one in self._snapshot.shells.items()}

    def _begun(self) -> tuple[int, int]:
        assert self._meter is not None
        assert self._files is not None
        return self._meter.begun, self._files.writes

    def fork(self, count: int = 1) -> list[Sandbox]:
        """Return so many open sandboxes that begin as this one is now, each to be closed.

        They are independent of it and of each other. Ports that it publishes are published under
        free ports of the host.

        Raises:
            HostError: See `snapshot` and `open`, as for all others.
        """
        with self.snapshot() as snapshot:
            spec = dataclasses.replace(
                self.spec,
                publish=tuple(dataclasses.replace(one, port=0) for one in self.spec.publish),
            )
            return open_all(
                [Sandbox(spec, snapshot=snapshot, store=self._store) for _ in range(count)]
            )

    def rollback(self, snapshot: Snapshot) -> None:
        """Bring files and shells back to what they were; every process ends.

        The sandbox starts anew: its wall time, its requests and the limit of its disk too.

        Raises:
            SpecError: The snapshot is closed, or of another kind of sandbox.
            HostError: See `open`, as for all others; the sandbox is closed then.
        """
        self._open_supervisor()
        snapshot.check(self.spec)
        # whoever closes it meanwhile, or has closed it once the sandbox is opened again
        with snapshot.kept():
            self.close()
            self._supervisor, self._egress = None, None
            self._snapshot = snapshot
            self.open()

    def diff(self, snapshot: Snapshot | None = None) -> tuple[Change, ...]:
        """Return what differs from a snapshot: added, changed and deleted files with their sizes.

        Args:
            snapshot: Which; None is what the sandbox was at its start.

        Raises:
            SpecError: The snapshot is closed, or of another kind of sandbox.
            HostError: See `snapshot`.
        """
        if snapshot is None:
            with self._start() as start:
                return self.diff(start)
        snapshot.check(self.spec)
        with self.snapshot() as now, self._store.lease(self.spec.rootfs) as rootfs:
            return snapshots.diff(snapshot, now, commands.lowers(self.spec, rootfs))

    def commit(self, name: str, *, progress: Progress | None = None) -> RootfsInfo:
        """Make a rootfs of that name of what the sandbox shows now, in its store.

        Raises:
            SpecError: It is no name, or the sandbox shows the host's own files.
            RootfsError: The store cannot be written.
            HostError: See `snapshot`.
        """
        with self.snapshot() as now, self._store.lease(self.spec.rootfs) as rootfs:
            return snapshots.commit(now, rootfs, self._store, name, progress)

    @staticmethod
    def connect(name: str) -> KeptSandbox:
        """Return a sandbox that `sandbox-lite create` keeps, for any process of its user.

        Raises:
            SpecError: There is none of that name.
            HostError: It is another user's.
            SandboxClosedError: It has ended.
        """
        return KeptSandbox(name)

    @property
    def pid(self) -> int:
        """Host pid of the sandbox's process 1."""
        return self._open_supervisor().pid

    def command_line(self) -> str:
        """Return the command that made this sandbox, as it can be pasted into a shell.

        A person's bash stands in the place of our process 1, the filter is read from its file,
        and the environment is spelled out. Empty before the sandbox is open.
        """
        return "" if self._joined is None else self._joined.printable()
