"""Graders: one file each, one line in the table."""

from __future__ import annotations

from sandbox_lite.bench import plugin
from sandbox_lite.bench.graders import (
    animation,
    choice,
    choices,
    exact,
    ifbench,
    judge,
    mathematics,
    name,
    open_ended,
    poster,
    quantity,
    rouge,
    trip_page,
    tune,
)
from sandbox_lite.bench.graders.grader import Grader
from sandbox_lite.errors import SpecError

_ALL = (
    mathematics.GRADER, choice.GRADER, choices.GRADER, rouge.GRADER, open_ended.GRADER,
    ifbench.GRADER, judge.GRADER, quantity.GRADER, name.GRADER, exact.GRADER, trip_page.GRADER,
    poster.GRADER, animation.GRADER, tune.GRADER,
)  # fmt: skip
GRADERS = {grader.name: grader for grader in _ALL}


def find(name: str) -> Grader:
    """Return the grader of that name, or a third party's by `module:NAME` or `FILE.py:NAME`.

    Raises:
        SpecError: There is none.
        TaskError: Its module cannot be imported.
    """
    if name in GRADERS:
        return GRADERS[name]
    module, colon, attribute = name.rpartition(":")
    if not colon:
        raise SpecError(
            f"no grader {name!r}", hint=f"one of: {', '.join(GRADERS)}; or module:NAME of your own"
        )
    found = getattr(plugin.module(module), attribute, None)
    if not isinstance(found, Grader):
        raise SpecError(f"{name} is no Grader but of type {type(found).__name__}")
    return found
