"""The same sandbox for asyncio: what waits there lets the loop go on, and takes no thread."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Self

from sandbox_lite.jail.async_files import AsyncFiles
from sandbox_lite.jail.async_shell import AsyncShell
from sandbox_lite.jail.coroutines import Waits, follow, in_thread
from sandbox_lite.jail.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from sandbox_lite.jail.async_shell import AsyncInteraction
    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.egress.serving import Egress
    from sandbox_lite.jail.rootfs.store import Progress, RootfsInfo, Store
    from sandbox_lite.jail.snapshots import Snapshot
    from sandbox_lite.jail.workspace.applying import ApplyReport
    from sandbox_lite.jail.workspace.live import Workspace
    from sandbox_lite.spec import (
        CommandResult,
        Enforcement,
        Ids,
        Limits,
        Mount,
        NetworkRequest,
        Publish,
        SandboxSpec,
        SandboxStats,
        WeakerName,
    )


class AsyncWorkspace:
    """`Workspace` for asyncio: all that reads or writes files is done in a thread."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def source(self) -> Path:
        """The directory of the host."""
        return self._workspace.source

    async def changes(self) -> tuple[Change, ...]:
        """See `Workspace.changes`."""
        return await asyncio.to_thread(self._workspace.changes)

    async def patch(self, paths: Sequence[str] = ()) -> tuple[bytes, ...]:
        """See `Workspace.patch`."""
        return await asyncio.to_thread(lambda: tuple(self._workspace.patch(paths)))

    async def apply(
        self, paths: Sequence[str] = (), *, outward_links: bool = False, overwrite: bool = False
    ) -> ApplyReport:
        """See `Workspace.apply`."""
        return await asyncio.to_thread(
            self._workspace.apply, paths, outward_links=outward_links, overwrite=overwrite
        )

    async def discard(self, paths: Sequence[str] = ()) -> ApplyReport:
        """See `Workspace.discard`."""
        return await asyncio.to_thread(self._workspace.discard, paths)


class AsyncSandbox:
    """`Sandbox` for asyncio, with its names; open it with `async with`.

    Thousands share one loop and one thread: only to open, to close, to start a further shell and
    to move long files takes one of a few threads for that time. A call that is cancelled ends its
    command and keeps the shell.
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
        """Ask for a sandbox; see `Sandbox`, which takes the same.

        Raises:
            SpecError: The request makes no sense.
        """
        self._own(
            Sandbox(
                rootfs, network=network, allow=allow, allow_private=allow_private, publish=publish,
                workdir=workdir, user=user, ids=ids, env=env, mounts=mounts, limits=limits,
                allow_weaker=allow_weaker, require=require, store=store, snapshot=snapshot,
            )
        )  # fmt: skip

    def _own(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._turns: dict[str, asyncio.Lock] = {}
        self._waits: Waits | None = None

    @classmethod
    def around(cls, sandbox: Sandbox) -> Self:
        """Return the face for asyncio of a sandbox that was made without, such as a pool's.

        Use one of the two faces only; to close it stays with whoever opened it.
        """
        made = cls.__new__(cls)
        made._own(sandbox)
        return made

    def like(self, spec: SandboxSpec) -> AsyncSandbox:
        """See `Sandbox.like`."""
        return AsyncSandbox.around(self._sandbox.like(spec))

    async def __aenter__(self) -> Self:
        """Open the sandbox, see `open`, unless it is open already, as a fork is."""
        return self if self._waits is not None else await self.open()

    async def __aexit__(self, *_: object) -> None:
        """Close the sandbox."""
        await self.close()

    async def open(self) -> Self:
        """Start the sandbox and its shell; see `Sandbox.open`.

        Cancelled, it closes what has been started.

        Returns:
            Itself.

        Raises:
            HostError: See there, as for the next two.
            RootfsError: See there.
            LaunchError: See there.
        """
        try:
            # The kernel makes namespaces and mounts in calls that wait themselves: nothing of a
            # start could be left to a loop but the waiting for a few pipes.
            await in_thread("opening", self._sandbox.open)
        except asyncio.CancelledError:
            await self.close()
            raise
        # from one call to the next
        self._waits = Waits.held()
        return self

    async def close(self) -> None:
        """End every process of the sandbox and drop its files; see `Sandbox.close`."""
        # in a thread: calls that are under way in this one must see the end before it is over
        waits, self._waits = self._waits, None
        try:
            await in_thread("closing", self._sandbox.close, surely=True)
        finally:
            if waits is not None:
                waits.release()

    def begin(self) -> bool:
        """See `Sandbox.begin`."""
        return self._sandbox.begin()

    async def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
        shell: str = "main",
    ) -> CommandResult:
        """Run a command in a persistent shell; see `Sandbox.run`.

        One command of a shell at a time: others wait for their turn, in the order they came.
        """
        if not self._is_started(shell):
            await self.shell(shell)
        async with self._turn(shell):
            return await follow(
                self._sandbox.run_steps(
                    command, timeout=timeout, merge=merge, on_output=on_output,
                    cancel_fd=cancel_fd, shell=shell,
                )
            )  # fmt: skip

    async def exec(
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
        """Run a program beside the shell, any number at once; see `Sandbox.exec`."""
        return await follow(
            self._sandbox.exec_steps(
                argv, input=input, env=env, cwd=cwd, timeout=timeout, on_output=on_output,
                cancel_fd=cancel_fd,
            )
        )  # fmt: skip

    def _is_started(self, name: str) -> bool:
        return name == "main" or name in self._turns

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    async def shell(self, name: str = "main") -> AsyncShell:
        """Return the persistent shell of that name; see `Sandbox.shell`."""
        start = partial(self._sandbox.shell, name)
        started = start() if self._is_started(name) else await in_thread("shells", start)
        return AsyncShell(started, self._turn(name))

    async def end_shell(self, name: str) -> None:
        """End the persistent shell of that name, if there is one; see `Sandbox.end_shell`."""
        await in_thread("shells", partial(self._sandbox.end_shell, name))
        self._turns.pop(name, None)

    @contextlib.asynccontextmanager
    async def interact(
        self, command: str | bytes, *, shell: str = "main"
    ) -> AsyncIterator[AsyncInteraction]:
        """Run an interactive program on a shell's terminal; use the result with `async with`."""
        async with (await self.shell(shell)).interact(command) as interaction:
            yield interaction

    @property
    def files(self) -> AsyncFiles:
        """Byte-exact access to the sandbox's files."""
        return AsyncFiles(self._sandbox.files)

    def workspace(self, target: str | None = None) -> AsyncWorkspace:
        """See `Sandbox.workspace`."""
        return AsyncWorkspace(self._sandbox.workspace(target))

    @property
    def egress(self) -> Egress:
        """See `Sandbox.egress`."""
        return self._sandbox.egress

    @property
    def enforcement(self) -> Enforcement:
        """What is really in force."""
        return self._sandbox.enforcement

    @property
    def alive(self) -> bool:
        """See `Sandbox.alive`."""
        return self._sandbox.alive

    @property
    def pid(self) -> int:
        """Host pid of the sandbox's process 1."""
        return self._sandbox.pid

    @property
    def spec(self) -> SandboxSpec:
        """What was asked for."""
        return self._sandbox.spec

    def requests(self, after: int = 0) -> tuple[NetworkRequest, ...]:
        """See `Sandbox.requests`."""
        return self._sandbox.requests(after)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Wait until no shell has a command, and keep all from taking one."""
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted({"main", *self._turns}):
                await stack.enter_async_context(self._turn(name))
            yield

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Keep every process inside from running until the block ends; see `Sandbox.still`."""
        stack = contextlib.ExitStack()
        async with self._alone():
            try:
                enter = partial(stack.enter_context, self._sandbox.still())
                await in_thread("snapshots", enter, surely=True)
                yield
            finally:
                await in_thread("snapshots", stack.close, surely=True)

    async def snapshot(self) -> Snapshot:
        """Freeze files and shells as they are now; see `Sandbox.snapshot`."""
        made: list[Snapshot] = []
        async with self._alone():
            try:
                work = self._sandbox.snapshot
                await in_thread("snapshots", lambda: made.append(work()), surely=True)
            except asyncio.CancelledError:
                for one in made:
                    one.close()
                raise
        return made[0]

    async def fork(self, count: int = 1) -> list[AsyncSandbox]:
        """Return open sandboxes that begin as this one is now; see `Sandbox.fork`."""
        made: list[AsyncSandbox] = []

        def work() -> None:
            made.extend(AsyncSandbox.around(one) for one in self._sandbox.fork(count))

        async with self._alone():
            try:
                await in_thread("snapshots", work, surely=True)
            except asyncio.CancelledError:
                for one in made:
                    await one.close()
                raise
        for one in made:
            one._waits = Waits.held()
        return made

    async def rollback(self, snapshot: Snapshot) -> None:
        """Bring files and shells back to what they were; see `Sandbox.rollback`."""
        async with self._alone():
            await in_thread("snapshots", partial(self._sandbox.rollback, snapshot), surely=True)
        for name in self._turns.keys() - {"main"}:
            del self._turns[name]

    async def diff(self, snapshot: Snapshot | None = None) -> tuple[Change, ...]:
        """Return what differs from a snapshot; see `Sandbox.diff`."""
        async with self._alone():
            return await in_thread("snapshots", partial(self._sandbox.diff, snapshot))

    async def commit(self, name: str, *, progress: Progress | None = None) -> RootfsInfo:
        """Make a rootfs of what the sandbox shows now; see `Sandbox.commit`."""
        work = partial(self._sandbox.commit, name, progress=progress)
        async with self._alone():
            return await in_thread("snapshots", work)

    def stats(self) -> SandboxStats:
        """See `Sandbox.stats`."""
        return self._sandbox.stats()

    def command_line(self) -> str:
        """See `Sandbox.command_line`."""
        return self._sandbox.command_line()
