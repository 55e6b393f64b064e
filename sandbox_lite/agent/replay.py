"""Execute a recorded run's actions again, in a fresh sandbox, and compare step by step.

A difference is drift, unless an expectation names its cause. Our shell keeps its state between
commands, while the published runs gave each command a fresh bash in the working directory; so does
a replay of them, with a `cd` in between.
"""

from __future__ import annotations

import json
import re
import shlex
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent import tools
from sandbox_lite.agent.comparison import difference, parse, same_output
from sandbox_lite.agent.episode import make_directories
from sandbox_lite.agent.tools import ToolContext
from sandbox_lite.agent.work import answer, finish, follow
from sandbox_lite.errors import TaskError
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sandbox_lite.agent.tools import AnyComputer, AsyncComputer, Computer, Observation, ToolCall
    from sandbox_lite.agent.trajectory import Step, Trajectory
    from sandbox_lite.agent.work import Work

KINDS = (
    "package version",
    "date",
    "mirror",
    "hash seed",
    "directory order",
    "recorder's clipping",
)
"""Causes that may excuse a difference."""

FIELDS = ("exit_code", "output")


class Verdict(StrEnum):
    """What became of one action."""

    SAME = "same"
    EXPECTED = "expected"
    """It differs as an expectation says."""
    DRIFT = "drift"


class Compare(StrEnum):
    """What an expectation still demands of an output that differs."""

    ANY = "any"
    LINES = "lines"
    """The same lines in any order."""
    WORDS = "words"
    """The same words in any order."""
    LAST_LINE = "last_line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A known difference of one step, and its cause."""

    step: int
    """From 1, as the report numbers them."""
    cause: str
    """One sentence."""
    kind: str
    """One of `KINDS`."""
    fields: tuple[str, ...] = ("output",)
    compare: Compare = Compare.ANY
    match: str | None = None
    """Regular expression that must be found in the output of the replay."""
    always: bool = True
    """Whether it is worth telling when nothing differs; some causes depend on the machine."""

    def excuses(self, fields: Sequence[str], output: str, recorded: str) -> bool:
        """Return whether a difference in these fields is the one that is expected."""
        if not set(fields) <= set(self.fields):
            return False
        if self.match is not None and not re.search(self.match, output, re.MULTILINE):
            return False
        return _form(recorded, self.compare) == _form(output, self.compare)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One action of the record, executed again."""

    step: int
    tool: str
    action: str
    """The command, or the editor's command and path."""
    verdict: Verdict
    fields: tuple[str, ...] = ()
    """Which differ."""
    recorded_exit_code: int | None = None
    exit_code: int | None = None
    difference: str = ""
    """Unified difference of the outputs, recorded first."""
    cause: str = ""
    """Of an expected difference."""
    stale: bool = False
    """An expectation names this step, and nothing differs."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """All that was replayed."""

    steps: tuple[Replayed, ...]
    unused: tuple[Expectation, ...] = ()
    """Expectations of steps that the record does not have."""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every difference was an expected one."""
        return not self.count(Verdict.DRIFT)

    def count(self, verdict: Verdict) -> int:
        """Return how many actions ended so."""
        return sum(step.verdict is verdict for step in self.steps)


def load_expectations(path: Path) -> tuple[Expectation, ...]:
    """Return the known differences in a TOML file: a list of `[[step]]` tables.

    Each has `step`, `kind`, `cause`, and as far as wanted `fields`, `compare`, `match` and
    `always`.

    Raises:
        TaskError: The file cannot be read, or an entry makes no sense.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(
            f"cannot read the expectations {path}: {error.strerror}", hint="check --expect"
        ) from error
    except ValueError as error:
        raise TaskError(f"the expectations {path} are no TOML: {error}") from error
    entries = data.pop("step", [])
    if data or not isinstance(entries, list):
        raise TaskError(f"the expectations {path} must be a list of [[step]] tables")
    return tuple(_expectation(entry, path) for entry in entries)


def _expectation(entry: Any, path: Path) -> Expectation:
    try:
        found = Expectation(
            **{
                **entry,
                "fields": tuple(entry.get("fields", ("output",))),
                "compare": Compare(entry.get("compare", "any")),
            }
        )
        if found.match is not None:
            re.compile(found.match)
        problem = _problem(found)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise TaskError(f"an expectation in {path} makes no sense: {error}") from error
    if problem:
        raise TaskError(f"the expectation of step {found.step} in {path} {problem}")
    return found


def _problem(found: Expectation) -> str | None:
    if found.step < 1:
        return "needs a step number from 1"
    if found.kind not in KINDS:
        return f"has the kind {found.kind!r}; the kinds are: {', '.join(KINDS)}"
    if not found.cause.strip():
        return "gives no cause"
    unknown = set(found.fields) - set(FIELDS)
    return f"excuses {sorted(unknown)[0]!r}, which is none of {FIELDS}" if unknown else None


def replay(
    trajectory: Trajectory,
    sandbox: Computer,
    expectations: Sequence[Expectation] = (),
    *,
    context: ToolContext | None = None,
    on_step: Callable[[Replayed], None] | None = None,
) -> ReplayReport:
    """Execute the actions of a record again and compare.

    Args:
        trajectory: The record.
        sandbox: A fresh one, with the input files of the record in place.
        expectations: Known differences.
        context: Time of the tools; what they show is not cut, or there were nothing to compare.
        on_step: Told of each action when it is compared.

    Raises:
        SandboxLiteError: The sandbox failed.
    """
    return finish(_replayed(trajectory, sandbox, expectations, context, on_step))


async def replay_async(
    trajectory: Trajectory,
    sandbox: AsyncComputer,
    expectations: Sequence[Expectation] = (),
    *,
    context: ToolContext | None = None,
    on_step: Callable[[Replayed], None] | None = None,
) -> ReplayReport:
    """Do what `replay` does, for asyncio."""
    return await follow(_replayed(trajectory, sandbox, expectations, context, on_step))


def _replayed(
    trajectory: Trajectory,
    sandbox: AnyComputer,
    expectations: Sequence[Expectation],
    context: ToolContext | None,
    on_step: Callable[[Replayed], None] | None,
) -> Work[ReplayReport]:
    roomy = replace(
        context or ToolContext(timeout_seconds=900.0), max_lines=10**9, max_bytes=64 * MIB
    )
    yield from make_directories(sandbox, trajectory.directories)
    done: list[Replayed] = []
    for step in trajectory.steps:
        known = [one for one in expectations if one.step == step.index]
        for call, observation in zip(step.calls, step.observations, strict=True):
            if trajectory.source == "published":
                yield from _go_back(sandbox, trajectory.directories[0], call)
            done.append((yield from _again(step, call, observation, sandbox, known, roomy)))
            if on_step is not None:
                on_step(done[-1])
    indexes = {step.index for step in trajectory.steps}
    notes = ["the shell keeps its state between commands; a recorder may have used fresh ones"]
    if trajectory.source == "published":
        notes = ["each recorded command ran in a fresh bash; here one shell ran them all"]
    return ReplayReport(
        steps=tuple(done),
        unused=tuple(one for one in expectations if one.step not in indexes),
        notes=tuple(notes),
    )


def _go_back(sandbox: AnyComputer, directory: str, call: ToolCall) -> Work[None]:
    """Go to where the recorder's fresh shell started."""
    found = tools.find(call.name)
    if found is not None and found.name == "execute_bash":
        yield from answer(sandbox.run(f"cd -- {shlex.quote(directory)}", timeout=60))


def _again(
    step: Step,
    call: ToolCall,
    observation: Observation,
    sandbox: AnyComputer,
    known: Sequence[Expectation],
    context: ToolContext,
) -> Work[Replayed]:
    started = time.monotonic()
    seen = yield from tools.call_work(sandbox, call, context)
    seconds = time.monotonic() - started
    tool = tools.find(call.name)
    name = tool.name if tool else call.name
    recorded = parse(observation.content, name)
    found = parse(seen.content, name)
    fields: list[str] = []
    # the words of `submit` are the recorder's own, and it does nothing in the sandbox
    if not (seen.final and name == "submit"):
        if recorded.exit_code != found.exit_code:
            fields.append("exit_code")
        if not same_output(recorded.output, found.output):
            fields.append("output")
    excuse = next(
        (one for one in known if one.excuses(fields, found.output, recorded.output)), None
    )
    verdict = Verdict.SAME
    if fields:
        verdict = Verdict.EXPECTED if excuse else Verdict.DRIFT
    return Replayed(
        step=step.index,
        tool=name,
        action=_action(call),
        verdict=verdict,
        fields=tuple(fields),
        recorded_exit_code=recorded.exit_code,
        exit_code=found.exit_code,
        difference=difference(recorded.output, found.output) if "output" in fields else "",
        cause=f"{excuse.kind}: {excuse.cause}" if fields and excuse else "",
        stale=not fields and any(one.always for one in known),
        seconds=seconds,
    )


def _form(text: str, compare: Compare) -> object:
    lines = [line for line in text.split("\n") if line.strip()]
    match compare:
        case Compare.ANY:
            return None
        case Compare.LINES:
            return Counter(lines)
        case Compare.WORDS:
            return Counter(re.findall(r"\w+", text))
        case Compare.LAST_LINE:
            return lines[-1:]


def _action(call: ToolCall) -> str:
    try:
        given = json.loads(call.arguments)
        words = given.get("command", ""), given.get("path", "")
    except (ValueError, AttributeError):
        return call.arguments
    return " ".join(str(word) for word in words if word)
