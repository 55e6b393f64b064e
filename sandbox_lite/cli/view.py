"""What a person or a program sees of a run: live panels, plain lines, or JSON lines."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from sandbox_lite.cli.terminal import clip_lines, console, say_in_force, status, visible
from sandbox_lite.spec import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.live import Live
    from rich.spinner import Spinner

    from sandbox_lite.agent.tools import ToolCall
    from sandbox_lite.agent.trajectory import Step
    from sandbox_lite.cli.job import Job, JobResult
    from sandbox_lite.spec import Enforcement

_THOUGHT_LINES, _CALL_LINES, _OUTPUT_LINES, _TAIL_LINES = 6, 12, 12, 6
_TAIL_BYTES = 4096


class View(AbstractContextManager["View"], Protocol):
    """Told what happens in a run; entered while the agent works."""

    def begin(self, job: Job, enforcement: Enforcement, directory: Path) -> None:
        """The sandbox is there."""

    def call(self, call: ToolCall, thought: str) -> None:
        """A tool call is about to be executed; `thought` is what the model said with it."""

    def output(self, stream: str, data: bytes) -> None:
        """It writes something."""

    def step(self, step: Step) -> None:
        """A step is complete."""

    def end(self, result: JobResult) -> None:
        """The run is over and everything is saved."""


def choose(*, as_json: bool) -> View:
    """Return the view that suits where stdout leads."""
    if as_json:
        return JsonView()
    return LiveView() if sys.stdout.isatty() else PlainView()


def described(call: ToolCall) -> str:
    """Return a tool call as a person reads it."""
    try:
        given = json.loads(call.arguments or "{}", strict=False)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return f"{call.name} {visible(call.arguments)}"
    command, path = given.get("command"), given.get("path")
    if isinstance(command, str) and path is None:
        return f"$ {visible(command)}"
    if isinstance(command, str) and isinstance(path, str):
        return f"{visible(command)} {visible(path)}{_edit(given)}"
    rest = " ".join(f"{key}={json.dumps(value)}" for key, value in given.items())
    return visible(f"{call.name} {rest}").strip()


def _edit(given: dict[str, Any]) -> str:
    if given.get("view_range"):
        return f" {given['view_range']}"
    if given.get("file_text"):
        return "\n" + visible(str(given["file_text"]))
    old, new = (visible(str(given.get(key) or "")).splitlines() for key in ("old_str", "new_str"))
    if not (old or new):
        return ""
    return "\n" + "\n".join([*(f"- {line}" for line in old), *(f"+ {line}" for line in new)])


def _closing(result: JobResult) -> Iterator[str]:
    """Yield the lines under a run."""
    record = result.trajectory
    tokens, seconds = record.tokens, record.seconds
    stop = "cut off" if record.stop is None else record.stop.value.replace("_", " ")
    count = len(record.steps)
    yield (
        f"{stop} after {count} step{'' if count == 1 else 's'}; "
        f"{seconds.model:.1f} s model, {seconds.environment:.1f} s sandbox; "
        f"{tokens.prompt:,} + {tokens.completion:,} tokens"
        f"{' (estimated)' if tokens.estimated else ''}"
    )
    if result.files is not None:
        many = "file" if result.files.files == 1 else "files"
        size = format_size(result.files.bytes)
        yield f"{result.files.files} {many} ({size}) in {result.directory / 'files'}"
    yield f"record: {result.directory / 'trajectory.jsonl'}"


def _model_line(job: Job) -> str:
    where = job.settings.shown("base_url") or "OpenAI's server"
    return f"model: {job.settings.model} at {where}"


class _Quiet(View):
    """What all views share: once nobody reads stdout any more, the run goes on unseen."""

    def __init__(self) -> None:
        self._gone = False

    def __exit__(self, *_: object) -> None:
        return None

    def _print(self, line: str) -> None:
        if self._gone:
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self._gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def begin(self, job: Job, enforcement: Enforcement, directory: Path) -> None:
        say_in_force(enforcement)
        status(_model_line(job))
        status(f"run: {directory}")

    def call(self, call: ToolCall, thought: str) -> None:
        del call, thought

    def output(self, stream: str, data: bytes) -> None:
        del stream, data


class JsonView(_Quiet):
    """One JSON object for each step, and one for the end, on stdout."""

    def _emit(self, data: object) -> None:
        self._print(json.dumps(data, default=str))

    def step(self, step: Step) -> None:
        """Print the step."""
        self._emit({"kind": "step", **dataclasses.asdict(step)})

    def end(self, result: JobResult) -> None:
        """Print how it ended."""
        record = result.trajectory
        self._emit(
            {
                "kind": "end",
                "stop": record.stop,
                "exit_code": result.exit_code,
                "answer": record.answer,
                "error": result.error and result.error.message,
                "hint": result.error and result.error.hint,
                "steps": len(record.steps),
                "tokens": dataclasses.asdict(record.tokens),
                "seconds": dataclasses.asdict(record.seconds),
                "rootfs": record.enforcement and record.enforcement.rootfs,
                "network": record.enforcement and record.enforcement.network,
                "run_dir": str(result.directory),
                "files": result.files and dataclasses.asdict(result.files),
            }
        )


class PlainView(_Quiet):
    """A few lines for each step, for logs and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self._index = 1
        self._thought = ""

    def _lines(self, text: str, limit: int) -> None:
        for line in clip_lines(text, limit).split("\n"):
            self._print(f"    {line}")

    def _think(self, thought: str) -> None:
        """Print what the model said, once for all calls of a step."""
        if thought and thought != self._thought:
            self._print(f"[{self._index}] thought")
            self._lines(visible(thought), _THOUGHT_LINES)
        self._thought = thought

    def call(self, call: ToolCall, thought: str) -> None:
        """Print the call before it is executed."""
        self._think(thought)
        self._print(f"[{self._index}] {call.name}")
        self._lines(described(call), _CALL_LINES)

    def step(self, step: Step) -> None:
        """Print what was observed."""
        if not step.calls:
            self._think(step.thought or step.reasoning)
        for observation in step.observations:
            self._print(f"[{step.index}] observation")
            self._lines(visible(observation.content), _OUTPUT_LINES)
        seconds = step.seconds
        self._print(
            f"[{step.index}] {seconds.model:.1f} s model, {seconds.environment:.1f} s sandbox"
        )
        self._index, self._thought = step.index + 1, ""

    def end(self, result: JobResult) -> None:
        """Print answer and totals."""
        if result.trajectory.answer:
            self._print("answer:")
            self._print(visible(result.trajectory.answer))
        for line in _closing(result):
            self._print(line)


class LiveView(_Quiet):
    """A panel for each step, and below them what is happening now."""

    def __init__(self) -> None:
        super().__init__()
        self._screen = console()
        self._live: Live | None = None
        self._spinner: Spinner | None = None
        self._job: Job | None = None
        self._started = self._since = time.monotonic()
        self._now: ToolCall | None = None
        self._thought = ""
        self._tail = b""
        self._record: list[Step] = []

    def begin(self, job: Job, enforcement: Enforcement, directory: Path) -> None:
        """Say what is in force."""
        super().begin(job, enforcement, directory)
        self._job = job
        self._started = time.monotonic()

    def __enter__(self) -> LiveView:
        """Start drawing."""
        from rich.live import Live

        self._since = time.monotonic()
        self._live = Live(
            self, console=self._screen, refresh_per_second=8, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the panels stay."""
        if self._live is not None:
            self._live.stop()

    def call(self, call: ToolCall, thought: str) -> None:
        """Show the call as running."""
        self._now, self._tail, self._since = call, b"", time.monotonic()
        self._thought = thought

    def output(self, stream: str, data: bytes) -> None:
        """Show the last lines of it."""
        del stream
        self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    def step(self, step: Step) -> None:
        """Put a panel above."""
        self._record.append(step)
        self._now, self._since = None, time.monotonic()
        self._screen.print(_panel(step))

    def end(self, result: JobResult) -> None:
        """Show answer and totals."""
        from rich.panel import Panel
        from rich.text import Text

        answer = result.trajectory.answer
        if answer:
            text = Text(clip_lines(visible(answer), 40))
            self._screen.print(Panel(text, title="answer", border_style="green"))
        for line in _closing(result):
            self._screen.print(line, soft_wrap=True)

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what is happening now."""
        del screen
        from rich.panel import Panel
        from rich.spinner import Spinner
        from rich.text import Text

        width = max(10, options.max_width - 4)
        if self._now is not None:
            lines = [line[:width] for line in clip_lines(described(self._now), 4).split("\n")]
            tail = clip_lines(visible(self._tail.decode(errors="replace")), _TAIL_LINES, tail=True)
            body = Text(no_wrap=True, overflow="ellipsis")
            if self._thought.strip():
                body.append(clip_lines(visible(self._thought).strip(), 3) + "\n", style="italic")
            body.append("\n".join(lines), style="bold cyan")
            if tail.strip():
                body.append("\n" + tail, style="dim")
            yield Panel(body, border_style="yellow", title="running", title_align="left")
        if self._spinner is None:
            self._spinner = Spinner("dots")
        self._spinner.update(text=Text(self._status(), no_wrap=True, overflow="ellipsis"))
        yield self._spinner

    def _status(self) -> str:
        assert self._job is not None
        settings, now = self._job.settings, time.monotonic()
        doing = "the model thinks" if self._now is None else f"{self._now.name} runs"
        used = sum(one.tokens.prompt + one.tokens.completion for one in self._record)
        bound = f" of {settings.max_tokens:,}" if settings.max_tokens else ""
        left = max(0.0, settings.max_seconds - (now - self._started))
        return (
            f"{doing} {now - self._since:.0f} s | step {len(self._record) + 1} of "
            f"{settings.max_steps} | {used:,}{bound} tokens | {left:.0f} s left"
        )


def _panel(step: Step) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    parts: list[RenderableType] = []
    thought = visible(step.thought or step.reasoning).strip()
    if thought:
        parts.append(Text(clip_lines(thought, _THOUGHT_LINES), style="italic"))
    for number, call in enumerate(step.calls):
        parts.append(Text(clip_lines(described(call), _CALL_LINES), style="bold cyan"))
        if number < len(step.observations):
            observation = step.observations[number]
            shown = clip_lines(visible(observation.content), _OUTPUT_LINES)
            parts.append(Text(shown, style="red" if observation.is_error else "dim"))
    if not step.calls:
        parts.append(Text("(no tool call)", style="red"))
    seconds = step.seconds
    failed = any(one.is_error or one.exit_code not in (None, 0) for one in step.observations)
    return Panel(
        Group(*parts),
        title=f"step {step.index}",
        title_align="left",
        subtitle=f"model {seconds.model:.1f} s, sandbox {seconds.environment:.1f} s",
        subtitle_align="right",
        border_style="red" if failed else "blue",
    )
