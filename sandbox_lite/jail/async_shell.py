"""A persistent shell for asyncio, and the programs on its terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sandbox_lite.jail.coroutines import follow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from sandbox_lite.jail.interaction import Interaction
    from sandbox_lite.jail.shell import Shell
    from sandbox_lite.spec import CommandResult


class AsyncInteraction:
    """`Interaction` for asyncio."""

    def __init__(self, interaction: Interaction) -> None:
        self._interaction = interaction

    @property
    def terminal(self) -> int:
        """See `Interaction.terminal`."""
        return self._interaction.terminal

    @property
    def over(self) -> bool:
        """Whether the program has ended."""
        return self._interaction.over

    @property
    def before(self) -> str:
        """What the program printed before the last match of `expect`."""
        return self._interaction.before

    def send(self, data: str | bytes) -> None:
        """Type some characters."""
        self._interaction.send(data)

    def sendline(self, line: str = "") -> None:
        """Type a line and press Enter."""
        self._interaction.sendline(line)

    def control(self, letter: str) -> None:
        """See `Interaction.control`."""
        self._interaction.control(letter)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the program the size of its window."""
        self._interaction.resize(rows, columns)

    def echo(self, on: bool) -> None:
        """See `Interaction.echo`."""
        self._interaction.echo(on)

    async def expect(self, pattern: str, *, timeout: float = 30.0) -> str:
        """See `Interaction.expect`."""
        return await follow(self._interaction.expect_steps(pattern, timeout=timeout))

    async def finish(self, *, timeout: float | None = 30.0) -> CommandResult:
        """See `Interaction.finish`."""
        return await follow(self._interaction.finish_steps(timeout=timeout))

    async def result(self, timeout: float | None) -> CommandResult:
        """See `Interaction.result`."""
        return await follow(self._interaction.result_steps(timeout))


class AsyncShell:
    """`Shell` for asyncio: one command at a time, others take turns in the order they came."""

    def __init__(self, shell: Shell, turn: asyncio.Lock) -> None:
        self._shell = shell
        self._turn = turn

    @property
    def name(self) -> str:
        """Its name in the sandbox."""
        return self._shell.name

    @property
    def cwd(self) -> str:
        """The shell's directory, as far as it has said."""
        return self._shell.cwd

    async def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        merge: bool = False,
        on_output: Callable[[str, bytes], None] | None = None,
        cancel_fd: int | None = None,
    ) -> CommandResult:
        """See `Shell.run`."""
        async with self._turn:
            return await follow(
                self._shell.run_steps(
                    command, timeout=timeout, merge=merge, on_output=on_output, cancel_fd=cancel_fd
                )
            )

    @contextlib.asynccontextmanager
    async def interact(self, command: str | bytes) -> AsyncIterator[AsyncInteraction]:
        """See `Shell.interact`."""
        async with self._turn:
            with self._shell.interact(command) as interaction:
                try:
                    yield AsyncInteraction(interaction)
                finally:
                    # before the shell's own end of it, which would wait in this thread
                    await follow(interaction.end_steps())
