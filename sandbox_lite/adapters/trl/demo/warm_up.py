"""The short supervised start of the multi-turn demo: how to call, and to write what was read.

Which document is the right one it hardly teaches: that is left to the reward. A probe ends it, for
the number of steps that it takes differs from seed to seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sandbox_lite.adapters.trl.demo import policy
from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_lite.agent.completion import Message

RIGHT_SHARE = 0.4
"""Of the lessons read the document that was asked for; the others any."""
ENOUGH_RIGHT, ENOUGH_COPIED = 0.15, 0.97
MOST_STEPS = 600
_LESSONS, _BATCH, _EVERY = 1024, 64, 20
_IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """What the supervised start came to."""

    steps: int
    right: float
    """Probability of the right document."""
    copied: float
    """Probability of writing what was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A conversation: the policy reads a document, writes what it said, and submits."""

    messages: tuple[Message, ...]


def warm_up(
    model: Any, tokenizer: Any, lesson: Callable[[random.Random, float], Lesson], *, seed: int
) -> WarmUp:
    """Take supervised steps until the probe is content.

    Raises:
        TaskError: It never was.
    """
    drawn = random.Random(f"warm-up-{seed}")
    probes = [_tokens(tokenizer, lesson(drawn, 1.0)) for _ in range(64)]
    lessons = [_tokens(tokenizer, lesson(drawn, RIGHT_SHARE)) for _ in range(_LESSONS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    slow = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    right = copied = 0.0
    for step in range(1, MOST_STEPS + 1):
        model.train()
        ids, mask, labels = _padded(drawn.sample(lessons, _BATCH), tokenizer.pad_token_id)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        slow.step()
        if step % _EVERY == 0:
            right, copied = _probe(model, probes, tokenizer.pad_token_id)
            if right >= ENOUGH_RIGHT and copied >= ENOUGH_COPIED:
                return WarmUp(steps=step, right=right, copied=copied)
    raise TaskError(
        f"the format warm start was not learned in {MOST_STEPS} steps: right document "
        f"{right:.2f}, copied {copied:.2f}",
        hint="try another --seed",
    )


def _tokens(tokenizer: Any, lesson: Lesson) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation, and of them what the policy said as labels."""
    ids: list[int] = []
    labels: list[int] = []
    for index, message in enumerate(lesson.messages):
        if message["role"] != "assistant":
            continue
        prompt = policy.prompt_ids(tokenizer, lesson.messages[:index])
        calls = [call["function"] for call in message["tool_calls"]]
        said = "".join(policy.call_text(call["name"], call["arguments"]) for call in calls)
        answer = [*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id]
        labels += [_IGNORED] * (len(prompt) - len(ids)) + answer
        ids = prompt + answer
    return ids, labels


def _padded(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any, Any]:
    longest = max(len(ids) for ids, _ in rows)
    return (
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        torch.tensor([labels + [_IGNORED] * (longest - len(ids)) for ids, labels in rows]),
    )


def _probe(
    model: Any, rows: Sequence[tuple[list[int], list[int]]], pad: int
) -> tuple[float, float]:
    """Return the probabilities of the first call and of the second, over right conversations."""
    model.eval()
    ids, mask, labels = _padded(rows, pad)
    with torch.no_grad():
        chances = model(input_ids=ids, attention_mask=mask).logits.softmax(-1)
    firsts: list[float] = []
    seconds: list[float] = []
    for number, (_, said) in enumerate(rows):
        places = [at for at, label in enumerate(said) if label != _IGNORED]
        # each message is its call and the token that ends it
        for place, found in ((places[0], firsts), (places[2], seconds)):
            found.append(float(chances[number, place - 1, labels[number, place]]))
    return sum(firsts) / len(firsts), sum(seconds) / len(seconds)
