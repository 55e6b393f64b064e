"""Instructions about form, checked by IFBench's own checkers, loosely.

Loosely: an instruction counts as followed when any variant of the answer follows it: as it is,
without the first line, without the last, without both, and each of these without asterisks. All
instructions of a row must be followed. The checkers are those of the installed package `ifbench`;
there are none of ours, and none of another benchmark.

The paper's scorer leaves out three of IFBench's eight variants (lines and asterisks taken off
together), takes an instruction that is unknown, and a checker that fails, for not followed, and
never gives a checker the prompt it asks for. The default mends that, and tells a row that cannot be
checked here from one that was not followed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.graders.grader import Grader, Question, Verdict, wrong
from sandbox_lite.bench.libraries import need
from sandbox_lite.errors import HostError, TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTALL = "pip install 'ifbench @ git+https://github.com/allenai/IFBench'"
_CONTROL = "This is a first plain sentence.\nThis is a second one, and it is a little longer."


def score(question: Question) -> Verdict:
    """Return 1 where every instruction is followed, else 0; which ones is in the details."""
    published = question.scorer == "paper"
    try:
        wanted = json.loads(question.truth)
        names, settings = list(wanted["instruction_id_list"]), list(wanted["kwargs"])
    except (ValueError, KeyError, TypeError) as error:
        if published:
            return wrong("incorrect", error=str(error))
        raise TaskError(
            "the ground truth of this row is no JSON with instruction_id_list and kwargs",
            hint="the data is not that of IFBench",
        ) from error
    checkers = registry()
    # a file ends with a line break that nobody meant
    variants = [v for v in loose(question.answer.strip(), published=published) if v.strip()]
    followed: dict[str, bool] = {}
    for number, name in enumerate(names):
        given = {k: v for k, v in settings[number].items() if v is not None}
        try:
            checker = _checker(checkers, name, given, "" if published else question.statement)
            followed[f"{number} {name}"] = any(
                bool(checker.check_following(variant)) for variant in variants
            )
        except LookupError as error:
            if "nltk" in str(error).lower():
                raise HostError(
                    f"{name} needs data of NLTK that is not here",
                    hint="python -m nltk.downloader punkt punkt_tab stopwords "
                    "averaged_perceptron_tagger_eng",
                ) from error
            if not published:
                raise
            followed[f"{number} {name}"] = False
        except Exception:
            if not published:
                raise
            followed[f"{number} {name}"] = False
    right = all(followed.values())
    text = "all instructions followed" if right else "an instruction is not followed"
    return Verdict(value=float(right), text=text, details={"followed": followed})


def registry() -> Mapping[str, Any]:
    """Return IFBench's checkers by name.

    Raises:
        HostError: There is no `ifbench`, or it holds no registry.
    """
    module = need("ifbench.instructions_registry", "instruct_follow", install=INSTALL)
    found = getattr(module, "INSTRUCTION_DICT", None)
    if not found:
        raise HostError("the installed ifbench holds no INSTRUCTION_DICT", hint=INSTALL)
    checkers: Mapping[str, Any] = found
    return checkers


def loose(answer: str, *, published: bool) -> tuple[str, ...]:
    """Return the variants of an answer: the eight of IFBench, or the paper's five."""
    lines = answer.split("\n")
    shorter = tuple("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))
    plain = answer.replace("*", "")
    if published:
        return (answer, plain, *shorter)
    return (answer, plain, *shorter, *(part.replace("*", "") for part in shorter))


def _checker(checkers: Mapping[str, Any], name: str, given: dict[str, Any], prompt: str) -> Any:
    if name not in checkers:
        raise TaskError(
            f"the installed ifbench has no checker {name!r}",
            hint=f"install the version that the data was made for: {INSTALL}",
        )
    checker = checkers[name](name)
    checker.build_description(**given)
    arguments = checker.get_instruction_args() if prompt else None
    if arguments and "prompt" in arguments:
        checker.build_description(prompt=prompt)
    return checker


GRADER = Grader(
    name="ifbench",
    score=score,
    libraries=("ifbench.instructions_registry",),
    install=INSTALL,
    tried_by_row=True,
    control=lambda question: _CONTROL,
)
