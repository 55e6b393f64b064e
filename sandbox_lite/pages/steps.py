"""A trajectory as its page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_lite.pages import pictures
from sandbox_lite.pages.edits import Asked, asked
from sandbox_lite.pages.text import Room, coloured, flat

if TYPE_CHECKING:
    from markupsafe import Markup

    from sandbox_lite.agent.trajectory import Step, Trajectory

_UNFOLDED = 3
"""A run of so few steps is shown open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One call and what it brought."""

    name: str
    asked: Asked
    output: Markup
    exit_code: int | None
    refused: bool
    pictures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One message of the model."""

    index: int
    title: str
    thought: str
    reasoning: str
    calls: tuple[CallView, ...]
    note: str
    requests: tuple[str, ...]
    numbers: str
    """Seconds and tokens."""
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What a model made: shown in a frame alone."""

    prompts: tuple[tuple[str, str], ...]
    """Heading and text of what it was told."""
    steps: tuple[StepView, ...]
    answer: str | None
    error: str | None
    pictures: tuple[tuple[str, str], ...]
    """Name and address."""
    unfolded: bool


def viewed(
    record: Trajectory, *, made: tuple[tuple[str, str], ...] = (), room: Room | None = None
) -> RunView:
    """Return what is shown of a run.

    Args:
        record: The run.
        made: Pictures that it left: name and address.
        room: How much text is shown.
    """
    room = room or Room()
    told = (("system prompt", record.system_prompt), ("prompt", record.instance_prompt))
    prompts = tuple((name, flat(room.cut(text))) for name, text in told if text)
    if not record.instance_prompt:
        prompts += (("task", flat(room.cut(record.task))),)
    answer = None if record.answer is None else flat(room.cut(record.answer))
    return RunView(
        prompts=prompts,
        steps=tuple(_step(one, room) for one in record.steps),
        answer=answer,
        error=None if record.error is None else flat(room.cut(record.error)),
        pictures=made,
        unfolded=len(record.steps) <= _UNFOLDED,
    )


def _step(step: Step, room: Room) -> StepView:
    by_id = {one.call_id: one for one in step.observations}
    calls = []
    for place, call in enumerate(step.calls):
        in_order = step.observations[place] if place < len(step.observations) else None
        seen = by_id.get(call.id, in_order)
        content = "" if seen is None else seen.content
        calls.append(
            CallView(
                name=flat(call.name)[:80],
                asked=asked(call, room),
                output=coloured(room.cut(content)),
                exit_code=None if seen is None else seen.exit_code,
                refused=seen is not None and seen.is_error,
                pictures=pictures.inline(content),
            )
        )
    thought = flat(room.cut(step.thought)).strip()
    title = calls[0].asked.title if calls else " ".join(thought[:300].split())[:160]
    seconds, tokens = step.seconds, step.tokens
    about = "about " if tokens.estimated else ""
    return StepView(
        index=step.index,
        title=title + (f" (and {len(calls) - 1} more)" if len(calls) > 1 else ""),
        thought=thought,
        reasoning=flat(room.cut(step.reasoning)).strip(),
        calls=tuple(calls),
        note=flat(room.cut(step.note)).strip(),
        requests=tuple(
            flat(f"{one.verdict}: {one.method} {one.host}:{one.port} {one.reason}").strip()
            for one in step.requests[:200]
        ),
        numbers=(
            f"model {seconds.model:.1f} s, sandbox {seconds.environment:.1f} s, "
            f"{about}{tokens.prompt:,} + {tokens.completion:,} tokens"
        ),
        failed=any(one.refused or one.exit_code not in (None, 0) for one in calls),
    )
