"""A model that judges whether two answers mean the same.

The answer under judgement is a model's text and may speak to the judge. It gains nothing: it stands
between marks with a random number that it cannot know, without characters that are not seen and
without the marks of chat templates; and a verdict counts only in the form asked for, with a second
random number, so that a judge that repeats what it reads gives none. A judge that gives no verdict
on one answer, and gives one where that answer is taken out, has been talked out of it: incorrect.

It runs in the program's own process: it only cuts and joins the text, and the server's answer is
bounded in time and tokens.
"""

from __future__ import annotations

import json
import re
import secrets
import tomllib
import unicodedata
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.graders.grader import Grader, Question, Verdict
from sandbox_lite.errors import ContextLengthError, ModelError, SpecError, TaskError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_lite.agent.completion import Completion
    from sandbox_lite.agent.model import Chat

GRADER = Grader(name="judge", score=None)

_NOTHING = "(there is no answer)"
_LEAST = 2000
"""Characters of an answer below which it is not cut to fit the judge."""
_VERDICTS = ("correct", "incorrect")
_PAPER_VERDICT = re.compile(r"(IN)?CORRECT")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt:
    """What a judge is told; `{question}`, `{official}`, `{candidate}`, `{mark}` and `{check}` are
    replaced.
    """

    system_prompt: str
    user_prompt: str
    source: str = "ours"

    def render(self, values: dict[str, str]) -> tuple[str, str]:
        """Return both messages; in one pass, so that an answer that holds braces stays."""
        pattern = re.compile("{(" + "|".join(values) + ")}")
        system, user = (
            pattern.sub(lambda match: values[match[1]], text).strip()
            for text in (self.system_prompt, self.user_prompt)
        )
        return system, user


def load_prompt(path: Path | None = None) -> JudgePrompt:
    """Return a judge's prompt from a TOML file; None is ours.

    Raises:
        TaskError: It cannot be read, or names not all it must.
    """
    source = path or resources.files("sandbox_lite") / "bench" / "prompts" / "judge.toml"
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
        prompt = JudgePrompt(**data, source=str(path) if path else "ours")
    except (OSError, ValueError, TypeError) as error:
        raise TaskError(
            f"the judge's prompt {path} cannot be read: {error}",
            hint="a TOML file with system_prompt and user_prompt",
        ) from error
    for name in ("question", "official", "candidate", "mark", "check"):
        if f"{{{name}}}" not in prompt.system_prompt + prompt.user_prompt:
            raise TaskError(f"the judge's prompt {path} never says {{{name}}}")
    return prompt


@dataclass(slots=True)
class _Tally:
    """What the judge said of one answer."""

    votes: list[dict[str, str]] = field(default_factory=list)
    parse_failures: int = 0
    cut_to: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False


class Judge:
    """A model as judge. Any number of threads may ask at once.

    Args:
        chat: The model; `agent.model.Model` of any OpenAI-compatible server.
        prompt: None is ours.
        repeats: Judgements of one answer; their mean is its score.
        attempts: Tries for one judgement until a verdict can be read.
        published: The paper's prompt as a function of question, official answer and candidate, see
            `paper.judge_prompt`; its verdict is then the last such word of the reply, as there.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        prompt: JudgePrompt | None = None,
        repeats: int = 1,
        attempts: int = 3,
        published: Callable[[str, str, str], str] | None = None,
        name: str = "",
    ) -> None:
        if repeats < 1 or attempts < 1:
            raise SpecError("repeats and attempts of a judge must be positive")
        self._chat = chat
        self._prompt = prompt or load_prompt()
        self._repeats = repeats
        self._attempts = attempts
        self._published = published
        self.name = name or getattr(getattr(chat, "settings", None), "model", "")

    @property
    def published(self) -> bool:
        """Whether it judges with the paper's prompt."""
        return self._published is not None

    @property
    def prompt_source(self) -> str:
        """Where its prompt comes from."""
        return "paper" if self.published else self._prompt.source

    def assess(self, question: Question) -> Verdict:
        """Return the mean verdict on an answer.

        Returns:
            With `votes` (verdict and reason of each), `parse_failures`, `agreement` (share of the
            commonest verdict), and the tokens it took, in the details.

        Raises:
            ModelError: The server failed, or gives no verdict on anything.
        """
        tally = _Tally()
        for _ in range(self._repeats):
            tally.votes.append(self._vote(question, tally))
        return self._verdict(tally)

    def _verdict(self, tally: _Tally) -> Verdict:
        named = [vote["verdict"] for vote in tally.votes]
        counts = {name: named.count(name) for name in named}
        most = max(counts.values())
        winners = [name for name, count in counts.items() if count == most]
        details: dict[str, Any] = {
            "judge": self.name,
            "prompt": self.prompt_source,
            "votes": tally.votes,
            "parse_failures": tally.parse_failures,
            "agreement": most / len(named),
            "prompt_tokens": tally.prompt_tokens,
            "completion_tokens": tally.completion_tokens,
            "tokens_estimated": tally.estimated,
        }
        if tally.cut_to is not None:
            details["answer_cut_to_characters"] = tally.cut_to
        return Verdict(
            value=counts.get("correct", 0) / len(named),
            text=winners[0] if len(winners) == 1 else "split",
            details=details,
        )

    def _vote(self, question: Question, tally: _Tally) -> dict[str, str]:
        if self._published is not None:
            said = self._ask_published(question, tally)
            verdict = last_word(said)
            tally.parse_failures += verdict == "unknown"
            return {"verdict": verdict, "reason": said[:2000]}
        try:
            vote = self._judged(question, tally)
            why = "it gave no verdict"
        except ModelError as error:
            if error.retryable:
                raise
            vote, why = None, error.message
        if vote is not None:
            return vote
        bare = Question(answer=_NOTHING, truth=question.truth, statement=question.statement)
        if self._judged(bare, _Tally()) is None:
            raise ModelError(
                f"the judge {self.name} gives no verdict that can be read",
                hint="use a model that follows instructions, or another prompt",
            )
        return {"verdict": "incorrect", "reason": f"on this answer alone the judge failed: {why}"}

    def _judged(self, question: Question, tally: _Tally) -> dict[str, str] | None:
        candidate = harmless(question.answer)
        tries = 0
        while tries < self._attempts:
            mark, check = secrets.token_hex(8), secrets.token_hex(8)
            values = {
                "question": question.statement,
                "official": question.truth,
                "candidate": candidate,
                "mark": mark,
                "check": check,
            }
            try:
                said = self._ask(*self._prompt.render(values), tally)
            except ContextLengthError:
                if len(candidate) <= _LEAST:
                    raise
                candidate = candidate[-(len(candidate) // 2) :]
                tally.cut_to = len(candidate)
                continue
            tries += 1
            vote = structured(said.text, check)
            if vote is not None:
                return vote
            tally.parse_failures += 1
        return None

    def _ask(self, system: str, user: str, tally: _Tally) -> Completion:
        messages = [{"role": "user", "content": user}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        said = self._chat.complete(messages, ())
        tally.prompt_tokens += said.usage.prompt_tokens
        tally.completion_tokens += said.usage.completion_tokens
        tally.estimated |= said.usage.estimated
        return said

    def _ask_published(self, question: Question, tally: _Tally) -> str:
        assert self._published is not None
        user = self._published(question.statement, question.truth, question.answer)
        return self._ask("", user, tally).text


def harmless(answer: str) -> str:
    """Return an answer without thoughts, invisible characters, and marks of chat templates."""
    _, mark, rest = answer.rpartition("</think>")
    text = "".join(
        character
        for character in (rest if mark else answer)
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cn")
    )
    text = re.sub(r"<\|?/?(?:im_start|im_end|system|user|assistant|eot_id)[^<>]{0,40}>", " ", text)
    return re.sub(r"<\|[^<>|]{0,60}\|>|\[/?INST\]", " ", text).strip()


def structured(said: str, check: str) -> dict[str, str] | None:
    """Return verdict and reason from a judge's reply; None where there is not exactly one.

    A verdict is a JSON object with `verdict` and the `check` that was asked for.
    """
    _, mark, rest = said.rpartition("</think>")
    text = rest if mark else said
    decoder = json.JSONDecoder()
    found: list[dict[str, str]] = []
    place = text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place = text.find("{", place + 1)
            continue
        if isinstance(value, dict) and str(value.get("check")) == check:
            verdict = str(value.get("verdict")).strip().lower()
            found.append({"verdict": verdict, "reason": str(value.get("reason", ""))[:2000]})
        place = text.find("{", end)
    verdicts = {vote["verdict"] for vote in found}
    if len(verdicts) != 1 or not verdicts <= set(_VERDICTS):
        return None
    return found[-1]


def last_word(said: str) -> str:
    """Return the verdict as the paper's judge reads it: the last of both words, wherever."""
    words = _PAPER_VERDICT.findall(said.upper())
    if not words:
        return "unknown"
    return "incorrect" if words[-1] else "correct"
