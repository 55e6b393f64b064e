"""What the rollouts of one training have in common: how each is made, ended, counted and closed.

TRL builds environments when it likes, uses them again, and closes none. Here is who owns them all.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sandbox_lite.adapters.trl.ahead import Ahead, Announced
from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.bench.task import Row
from sandbox_lite.errors import RootfsError, SandboxLiteError, SpecError, TaskError
from sandbox_lite.rl.turn import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from sandbox_lite.agent.trajectory import Trajectory
    from sandbox_lite.rl.turn import Info, Observation, Result

Calls = tuple[tuple[str, dict[str, Any]], ...]
"""Tools with their arguments."""

_SUBMIT = ToolCall(id="call_submit", name="submit", arguments="{}")
_FIELDS = ("id", "problem_statement", "ground_truth", "domain", "input_files")


class Episodes(Protocol):
    """What is needed of `rl.env.SandboxEnv`."""

    @property
    def trajectory(self) -> Trajectory:
        """What happened so far."""

    @property
    def info(self) -> Info:
        """How it stands."""

    def reset(self, row: Row, *, seed: int = 0) -> Observation:
        """Begin an episode in a fresh sandbox."""

    def step(self, action: Action) -> Result:
        """Do what the policy said."""

    def compute_final_reward(self) -> float | None:
        """End and grade it."""

    def close(self) -> None:
        """Release the sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One rollout, over and graded; its sandbox is gone."""

    number: int
    """In the order in which the trainer began them, from 0."""
    row: Row
    reward: float | None
    """None: nothing is known of it through no fault of the policy."""
    info: Info | None
    """How it ended; None where no sandbox could be had."""
    trajectory: Trajectory | None
    """None where no sandbox could be had."""
    seconds: float
    """That its sandbox took, from the first command to the reward, the policy's time left out."""


def row_of(columns: Mapping[str, Any]) -> Row:
    """Return the problem in the columns of a dataset's row.

    Args:
        columns: `id`, `problem_statement`, `ground_truth`; `domain` and `input_files` (a dict, or
            one as JSON) where there are any. `prompt` is for the trainer; all else is `extra`.

    Raises:
        SpecError: One is missing.
    """
    missing = [name for name in _FIELDS[:3] if name not in columns]
    if missing:
        raise SpecError(
            f"the training data has no column {missing[0]!r}",
            hint="make it with adapters.trl.dataset.columns, or `sandbox-lite rl data`",
        )
    files = columns.get("input_files") or {}
    if isinstance(files, str):
        files = json.loads(files)
    return Row(
        id=str(columns["id"]),
        problem_statement=str(columns["problem_statement"]),
        ground_truth=str(columns["ground_truth"]),
        domain=str(columns.get("domain") or ""),
        # the columns of a table have the keys of all rows, and None where a row has none
        input_files={str(name): str(text) for name, text in files.items() if text is not None},
        extra={k: v for k, v in columns.items() if k not in (*_FIELDS, "prompt")},
    )


class Rollout:
    """One episode, begun in the background and ended there."""

    def __init__(self, owner: Rollouts, row: Row, number: int) -> None:
        self._owner = owner
        self._row = row
        self._number = number
        self._calls = 0
        self._seconds = 0.0
        self._episode: Episodes | None = None
        self._info: Info | None = None
        self._failed: SandboxLiteError | None = None
        self._ending: Future[float | None] | None = None
        self._opening: Announced = owner.ahead.announce(self._open)

    @property
    def done(self) -> bool:
        """Whether nothing more can be done in it."""
        return self._ending is not None

    @property
    def failed(self) -> SandboxLiteError | None:
        """Why no sandbox could be had, where none could."""
        return self._failed

    def say(self, text: str = "", calls: Calls = ()) -> str:
        """Do what the policy said, and return what it is shown: nothing where that is the end.

        Raises:
            SandboxLiteError: No sandbox could be had.
        """
        made = []
        for name, arguments in calls:
            self._calls += 1
            made.append(
                ToolCall(id=f"call_{self._calls}", name=name, arguments=json.dumps(arguments))
            )
        if self._owner.one_step:
            # nobody is shown anything any more: the trainer need not wait for it either
            action = Action(text=text, calls=(*made, _SUBMIT))
            self._ending = self._owner.ahead.submit(lambda: self._played(action))
            return ""
        shown, done = self._step(Action(text=text, calls=tuple(made)))
        if done:
            self._ending = self._owner.ahead.submit(self._graded)
        return shown

    def reward(self) -> float | None:
        """End the episode where it goes on, and return its reward; None: not known.

        Raises:
            SandboxLiteError: No sandbox could be had, or the grader is broken.
        """
        if self._ending is None:
            if self._owner.one_step:
                self.say()  # it called nothing: that is an answer too, and a wrong one
            else:
                self._begun()
                self._ending = self._owner.ahead.submit(self._graded)
        assert self._ending is not None
        return self._ending.result()

    def close(self) -> None:
        """Leave no sandbox behind, at whatever point."""
        if not self._opening.taken:
            begun = self._owner.ahead.drop(self._opening)
            if begun is not None and not begun.cancel():
                begun.exception()
        if self._ending is not None and not self._ending.cancel():
            self._ending.exception()
        if self._episode is not None:
            self._episode.close()
        self._owner.forget(self)

    def _open(self) -> None:
        began = time.monotonic()
        self._episode = self._owner.make()
        try:
            self._episode.reset(self._row)
        except SandboxLiteError as error:
            self._failed = error  # told to whoever asks for the episode, each time
        self._seconds += time.monotonic() - began

    def _begun(self) -> Episodes:
        if not self._opening.taken:
            self._owner.ahead.take(self._opening)
        assert self._episode is not None
        if self._failed is not None:
            raise self._failed
        return self._episode

    def _step(self, action: Action) -> tuple[str, bool]:
        episode = self._begun()
        began = time.monotonic()
        result = episode.step(action)
        self._seconds += time.monotonic() - began
        return result.observation.text, result.done

    def _played(self, action: Action) -> float | None:
        self._step(action)
        return self._graded()

    def _graded(self) -> float | None:
        assert self._episode is not None
        began = time.monotonic()
        try:
            reward = self._episode.compute_final_reward()
            record, self._info = self._episode.trajectory, self._episode.info
        finally:
            self._episode.close()
        self._seconds += time.monotonic() - began
        self._tell(reward, record)
        return reward

    def lose(self) -> None:
        """Give the episode up: its sandbox failed, and its reward is not known."""
        self.close()
        self._tell(None, None)

    def _tell(self, reward: float | None, record: Trajectory | None) -> None:
        ended = Ended(
            number=self._number, row=self._row, reward=reward, info=self._info,
            trajectory=record, seconds=self._seconds,
        )  # fmt: skip
        self._owner.told(ended)
        self._owner.forget(self)


class Rollouts(AbstractContextManager["Rollouts"]):
    """All rollouts of one training; close it in the end, as the interpreter's end does too.

    Args:
        make: Makes one episode's environment, a `SandboxEnv`; starts nothing.
        one_step: A rollout is over after one message, and ends as submitted.
        workers: Threads that open and end sandboxes while the trainer is busy.
        ahead: Sandboxes that wait for their first command, at most.
        told: Told of each rollout that is over, in the thread that ended it, one at a time.
    """

    def __init__(
        self,
        make: Callable[[], Episodes],
        *,
        one_step: bool = False,
        workers: int = 4,
        ahead: int = 8,
        told: Callable[[Ended], None] = lambda _: None,
    ) -> None:
        if workers < 1 or ahead < 1:
            raise SpecError("workers and ahead of rollouts must be positive")
        self.make = make
        self.one_step = one_step
        self.workers = workers
        self.ahead = Ahead(workers, ahead)
        self.waited_seconds = 0.0
        """That the trainer's thread spent in environments."""
        self._told = told
        self._lock = threading.Lock()
        self._open: set[Rollout] = set()
        self._begun = 0
        atexit.register(self.close)

    def __exit__(self, *args: object) -> None:
        self.close()

    def begin(self, row: Row) -> Rollout:
        """Return an episode, which opens in the background."""
        with self._lock:
            number, self._begun = self._begun, self._begun + 1
        rollout = Rollout(self, row, number)
        with self._lock:
            self._open.add(rollout)
        return rollout

    def told(self, ended: Ended) -> None:
        """Hand an ended rollout on."""
        with self._lock:
            self._told(ended)

    def forget(self, rollout: Rollout) -> None:
        """Own it no longer: its sandbox is gone."""
        with self._lock:
            self._open.discard(rollout)

    def close(self) -> None:
        """Close every sandbox, and end the threads."""
        atexit.unregister(self.close)
        with self._lock:
            left = list(self._open)
        for rollout in left:
            rollout.close()
        self.ahead.close()


def rewarded(rollout: Rollout) -> float | None:
    """Return a rollout's reward, None where its sandbox failed: TRL leaves such a row out.

    Raises:
        SandboxLiteError: The training itself is set up wrongly; another rollout would fail as well.
    """
    try:
        return rollout.reward()
    except SandboxLiteError as error:
        if error is not rollout.failed or isinstance(error, (SpecError, TaskError, RootfsError)):
            rollout.close()
            raise
        rollout.lose()
        return None
