"""Grades answers: the one place that a runner, and a second look at stored answers, calls."""

from __future__ import annotations

import dataclasses
import os
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.agent.model import Model
from sandbox_lite.bench import graders, paper
from sandbox_lite.bench.bounded import BoundedGraders
from sandbox_lite.bench.graders.grader import Question
from sandbox_lite.bench.graders.judge import Judge
from sandbox_lite.bench.task import Answer, NoAnswer, Score, Ungraded
from sandbox_lite.errors import HostError, SandboxLiteError, SpecError, TaskError
from sandbox_lite.spec import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from sandbox_lite.agent.model import ModelSettings
    from sandbox_lite.bench.graders.judge import JudgePrompt
    from sandbox_lite.bench.task import Row, Scorer, Task

_EMPTY = Answer(text="", size_bytes=0)
_NO_FILE = NoAnswer(reason="missing", text="the file that the problem asks for was not kept")


@contextmanager
def opened_judge(
    settings: ModelSettings,
    *,
    scorer: Scorer = "default",
    repeats: int | None = None,
    prompt: JudgePrompt | None = None,
) -> Iterator[Judge]:
    """Yield a judge for a scorer, and close its connections in the end.

    What `settings` leave open is temperature 0 and one judgement of each answer by default; for
    `paper` it is what the paper's judge runs with (temperature 0.7, 16,384 tokens, 4 judgements).

    Raises:
        HostError: The scorer is `paper`, and `llm-in-sandbox` is not installed; or `openai` is not.
        SpecError: The scorer is `paper`, and another prompt is named.
    """
    published = scorer == "paper"
    if published and prompt is not None:
        raise SpecError("the scorer `paper` judges with the paper's prompt", hint="name no other")
    temperature = paper.JUDGE_TEMPERATURE if published else 0.0
    settings = dataclasses.replace(
        settings,
        temperature=temperature if settings.temperature is None else settings.temperature,
        max_tokens=settings.max_tokens or (paper.JUDGE_MAX_TOKENS if published else None),
    )
    with Model(settings) as model:
        yield Judge(
            model,
            prompt=prompt,
            repeats=repeats or (paper.JUDGE_REPEATS if published else 1),
            published=paper.judge_prompt() if published else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingSettings:
    """Who grades: what opens a `Grading` on any machine."""

    scorer: Scorer = "default"
    judge: ModelSettings | None = None
    """With its key; None leaves answers ungraded where a task needs one."""
    repeats: int | None = None
    """Judgements of one answer."""

    @contextmanager
    def opened(self) -> Iterator[Grading]:
        """Yield who grades on this machine, one answer for each of its processors at once.

        Raises:
            HostError: As `opened_judge`.
            SpecError: There is no such scorer.
        """
        with ExitStack() as stack:
            judge: Judge | None = None
            if self.judge is not None:
                judge = stack.enter_context(
                    opened_judge(self.judge, scorer=self.scorer, repeats=self.repeats)
                )
            processes = len(os.sched_getaffinity(0))
            yield stack.enter_context(Grading(scorer=self.scorer, judge=judge, processes=processes))


class Grading(AbstractContextManager["Grading"]):
    """Grades answers of any task. Any number of threads may ask at once; close it in the end.

    Args:
        scorer: `paper` reproduces the published scorers with their quirks.
        judge: Who judges where a task needs it; None leaves such answers ungraded.
        processes: How many answers are graded at once.
        timeout: Seconds for one answer; a judge has the time-outs of its model.
        memory_bytes: For one answer.
    """

    def __init__(
        self,
        *,
        scorer: Scorer = "default",
        judge: Judge | None = None,
        processes: int = 1,
        timeout: float = 30.0,
        memory_bytes: int = GIB,
    ) -> None:
        if scorer not in ("default", "paper"):
            raise SpecError(f"no scorer {scorer!r}", hint="one of: default, paper")
        if judge is not None and judge.published != (scorer == "paper"):
            raise SpecError(
                "the paper's judge goes with the scorer `paper`, and no other",
                hint="open it with opened_judge(settings, scorer=...)",
            )
        self.scorer: Scorer = scorer
        self.judge = judge
        self._bounded = BoundedGraders(
            processes=processes, timeout=timeout, memory_bytes=memory_bytes
        )

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """End the grading processes."""
        self._bounded.close()

    def check(self, task: Task, rows: Iterable[Row]) -> tuple[str, ...]:
        """Look before a run whether these rows can be graded here.

        Returns:
            What will stay ungraded and why, a sentence each; empty where all will be graded.

        Raises:
            HostError: A library lacks, such as `ifbench`, or data of one; the hint is the command
                that installs it.
            SpecError: A grader is not known.
            TaskError: A row is broken.
        """
        rows = tuple(rows)
        notes = []
        for name in sorted({task.grader(row, self.scorer) for row in rows}):
            grader = graders.find(name)
            if grader.score is not None:
                self._bounded.check(name)
            elif self.judge is None:
                notes.append(f"{task.name} needs a judge: its answers are kept and stay ungraded")
            if grader.tried_by_row:
                self._try([row for row in rows if task.grader(row, self.scorer) == name], name)
        return tuple(notes)

    def _try(self, rows: Sequence[Row], name: str) -> None:
        failed: list[SandboxLiteError] = []
        for row in rows:
            try:
                self._bounded.try_control(name, self._question(row, ""))
            except (HostError, TaskError) as error:
                failed.append(error)
        if failed:
            raise type(failed[0])(
                f"{len(failed)} of {len(rows)} rows cannot be graded here: {failed[0].message}",
                hint=failed[0].hint,
            )

    def grade(
        self,
        task: Task,
        row: Row,
        answer: Answer | NoAnswer,
        *,
        file: bytes | Path | NoAnswer | None = None,
    ) -> Score | Ungraded:
        """Return the score of an answer, or why it has none yet.

        Args:
            task: Whose.
            row: To which problem.
            answer: The text; where the row asks for a file, that alone counts.
            file: That file, or where it is kept, or why there is none.

        Raises:
            HostError: A library lacks.
            ModelError: The judge's server failed.
            TaskError: The grader or the row is broken; that is no fault of the answer.
        """
        name = task.grader(row, self.scorer)
        judged = graders.find(name).score is None
        if judged and self.judge is None:
            # also where there is no answer: zeros alone would be a mean of nothing but failures
            return Ungraded(reason="no judge is named", grader=name)
        if row.artefact:
            lacking = _NO_FILE if file is None else file if isinstance(file, NoAnswer) else None
        else:
            lacking = answer if isinstance(answer, NoAnswer) else None
        if lacking is not None:
            return Score(
                value=0.0,
                verdict=f"no {'file' if row.artefact else 'answer'}: {lacking.reason}",
                grader=name,
                scorer=self.scorer,
                details={"why": lacking.text},
            )
        text = answer if isinstance(answer, Answer) else _EMPTY
        question = self._question(row, text.text)
        if judged:
            assert self.judge is not None
            verdict = self.judge.assess(question)
        else:
            made = file if row.artefact and not isinstance(file, NoAnswer) else None
            verdict = self._bounded.score(name, question, file=made)
        details = dict(verdict.details)
        if text.truncated:
            details["answer_bytes"] = text.size_bytes
        return Score(
            value=min(1.0, max(0.0, verdict.value)),
            verdict=verdict.text,
            grader=name,
            scorer=self.scorer,
            details=details,
        )

    def _question(self, row: Row, answer: str) -> Question:
        return Question(
            answer=answer,
            truth=row.ground_truth,
            statement=row.problem_statement,
            domain=row.domain,
            extra=row.extra,
            scorer=self.scorer,
        )
