"""The same sandbox for asyncio: what waits there lets the loop go on, and takes no thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

from sandbox_lite.jail.sandbox import Sandbox

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from sandbox_lite.jail.changes import Change
    from sandbox_lite.jail.egress.serving import Egress
    from sandbox_lite.jail.files import FileEntry, Files
    from sandbox_lite.jail.steps import Steps, Wait
    from sandbox_lite.jail.transfer import TransferReport
    from sandbox_lite.jail.workspace.applying import ApplyReport
    from sandbox_lite.jail.workspace.live import Workspace
    from sandbox_lite.spec import (
        CommandResult,
        Enforcement,
        NetworkRequest,
        SandboxSpec,
        SandboxStats,
    )

_T = TypeVar("_T")


async def follow(steps: Steps[_T]) -> _T:
    """Do all the steps while the loop goes on.

    A cancellation is raised in the work, which ends what it has begun; that is waited for, and a
    second one does not cut it short.
    """
    error: BaseException | None = None
    interrupted = False
    while True:
        try:
            wait = next(steps) if error is None else steps.throw(error)
        except StopIteration as ended:
            result: _T = ended.value
            return result
        error = None
        try:
            await _elapse(wait)
        except BaseException as caught:  # noqa: BLE001  # the work decides what becomes of it
            # what is being ended already is, within a second or so
            error, interrupted = None if interrupted else caught, True


async def _elapse(wait: Wait) -> None:
    if wait.source is None:
        await asyncio.sleep(wait.seconds or 0.0)
        return
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    timer = None
    if wait.seconds is not None:
        timer = loop.call_later(wait.seconds, _settle, ready)
    descriptor = wait.source.fileno()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
        if timer is not None:
            timer.cancel()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class AsyncFiles:
    """`Files` for asyncio: what may take long is done in a thread, all else at once."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def read(self, path: str | os.PathLike[str], *, max_bytes: int | None = None) -> bytes:
        """See `Files.read`."""
        return self._files.read(path, max_bytes=max_bytes)

    async def write(
        self, path: str | os.PathLike[str], data: bytes | str, *, mode: int | None = None
    ) -> None:
        """See `Files.write`."""
        self._files.write(path, data, mode=mode)

    async def list(self, path: str | os.PathLike[str] = ".") -> tuple[FileEntry, ...]:
        """See `Files.list`."""
        return self._files.list(path)

    async def exists(self, path: str | os.PathLike[str]) -> bool:
        """See `Files.exists`."""
        return self._files.exists(path)

    async def remove(self, path: str | os.PathLike[str], *, recursive: bool = False) -> None:
        """See `Files.remove`."""
        if recursive:
            await asyncio.to_thread(self._files.remove, path, recursive=True)
        else:
            self._files.remove(path)

    async def upload(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str]
    ) -> TransferReport:
        """See `Files.upload`."""
        return await asyncio.to_thread(self._files.upload, source, target)

    async def download(
        self, path: str | os.PathLike[str], directory: str | os.PathLike[str]
    ) -> TransferReport:
        """See `Files.download`."""
        return await asyncio.to_thread(self._files.download, path, directory)


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

    Thousands share one loop and one thread: only to open, to close and to move whole trees of files
    takes a thread for that time. A call that is cancelled ends its command and keeps the shell.
    """

    def __init__(self, rootfs: str | SandboxSpec = "standard", **options: Any) -> None:
        """Ask for a sandbox; see `Sandbox` for all that can be asked for.

        Raises:
            SpecError: The request makes no sense.
        """
        self._sandbox = Sandbox(rootfs, **options)
        self._turns: dict[str, asyncio.Lock] = {}

    async def __aenter__(self) -> Self:
        """Open the sandbox; see `open`."""
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        """Close the sandbox."""
        await self.close()

    async def open(self) -> Self:
        """Start the sandbox and its shell; see `Sandbox.open`.

        Returns:
            Itself.

        Raises:
            HostError: See there, as for the next two.
            RootfsError: See there.
            LaunchError: See there.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(self._sandbox.open))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # a start goes on to its end, so that what it made has an owner
            await asyncio.wait((opening,))
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End every process of the sandbox and drop its files; see `Sandbox.close`."""
        await asyncio.shield(asyncio.to_thread(self._sandbox.close))

    async def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        shell: str = "main",
    ) -> CommandResult:
        """Run a command in a persistent shell; see `Sandbox.run`.

        One command of a shell at a time: others wait for their turn, in the order they came.
        """
        async with self._turns.setdefault(shell, asyncio.Lock()):
            return await follow(
                self._sandbox.run_steps(
                    command, timeout=timeout, merge=merge, on_output=on_output, shell=shell
                )
            )

    async def exec(
        self,
        argv: Sequence[str | bytes],
        *,
        input: bytes | int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        """Run a program beside the shell, any number at once; see `Sandbox.exec`."""
        return await follow(
            self._sandbox.exec_steps(
                argv, input=input, env=env, cwd=cwd, timeout=timeout, on_output=on_output
            )
        )

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

    def stats(self) -> SandboxStats:
        """See `Sandbox.stats`."""
        return self._sandbox.stats()

    def command_line(self) -> str:
        """See `Sandbox.command_line`."""
        return self._sandbox.command_line()
