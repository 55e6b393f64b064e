"""The environment: `SandboxEnv` in the shape that the engine of rllm 0.2 drives."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sandbox_lite.adapters.rllm.agent import action_of
from sandbox_lite.agent.trajectory import StopReason
from sandbox_lite.bench import data, prompt, tasks
from sandbox_lite.bench.grading import Grading
from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.rl.env import EnvSettings, SandboxEnv
from sandbox_lite.spec import SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox_lite.rl.env import Info, Source

_BESIDE = ("rootfs", "network", "task")
"""Arguments of `rllm.env.env_args`, which the trainer puts beside a row's fields."""
_MORE_SECONDS = 60.0
"""What a step may take beside its command: opening a sandbox anew, reading and sealing."""


class SandboxEnvironment:
    """One environment: a fresh sandbox for each trajectory that is reset into it.

    A subclass that `environment_of` makes has settings of its own; this one makes them of the row.
    """

    settings: ClassVar[EnvSettings | None] = None
    source: ClassVar[Source | None] = None

    def __init__(self, entry: Mapping[str, Any], settings: EnvSettings | None = None) -> None:
        """Take a row's fields, as `sandbox-lite rl data` writes them; nothing is started.

        Raises:
            SpecError: No settings are there.
            TaskError: The row lacks a field.
        """
        settings = settings or self.settings
        if settings is None:
            raise SpecError("no settings", hint="use from_dict or environment_of")
        self.entry = dict(entry)
        self._row = data.row_of(self.entry, settings.task.name, "a row of rllm")
        self._env = SandboxEnv(settings, source=self.source)
        self._lock = threading.Lock()

    @classmethod
    def from_dict(cls, extra_info: Mapping[str, Any] | str) -> Self:
        """Return an environment of a row; `rootfs`, `network` and `task` may stand beside it.

        Raises:
            SpecError: The class has settings of its own, and one of those is there as well.
            TaskError: The row lacks a field.
        """
        found = json.loads(extra_info) if isinstance(extra_info, str) else dict(extra_info)
        beside = {name: str(found.pop(name)) for name in _BESIDE if name in found}
        if cls.settings is None:
            return cls(found, _default(**beside))
        if beside:
            raise SpecError(
                f"settings stand in the class and in {', '.join(beside)}", hint="leave one out"
            )
        return cls(found)

    @staticmethod
    def is_multithread_safe() -> bool:
        """Return True: each has a sandbox of its own."""
        return True

    @property
    def env(self) -> SandboxEnv:
        """The neutral environment, with the trajectory of the last episode."""
        return self._env

    def reset(self) -> tuple[str, dict[str, Any]]:
        """Begin a trajectory in a fresh sandbox; return its text, and what the agent reads of it.

        Raises:
            SandboxLiteError: No sandbox could be had. The engine tries again.
        """
        with self._turn():
            observation = self._env.reset(self._row)
        more = {"extra_info": self.entry, "messages": list(observation.messages)}
        return observation.text, more

    def step(self, action: Any) -> tuple[str, float, bool, dict[str, Any]]:
        """Execute what the policy said; the reward is 0 until the end.

        Args:
            action: Of our agent, or the fork's own with `function_name` and `parameters`.
        """
        with self._turn():
            result = self._env.step(action_of(action))
        more = {"messages": list(result.observation.messages), **_said(result.info)}
        return result.observation.text, result.reward, result.done, more

    def compute_final_reward(self) -> float:
        """Return the reward, after a step that the engine left running has ended.

        Raises:
            HostError: The machine failed, not the model: there is no reward. The engine begins the
                trajectory anew; were it 0, the policy would learn from it.
        """
        with self._turn():
            # ended by the engine: what the answer is worth is ours to say, a penalty the engine's
            reward = self._env.compute_final_reward(stop=StopReason.TIME_LIMIT)
            info = self._env.info
            if reward is None:
                self._env.close()  # the engine will not, after what is raised here
                why = info.fault.message if info.fault is not None else str(info.score)
                raise HostError(
                    f"row {self._row.id!r} has no reward: {why}",
                    hint="the trajectory is begun anew; if it fails again, look at the host",
                )
        return reward

    def close(self) -> None:
        """Release the sandbox; a second call does nothing."""
        with self._turn():
            self._env.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a step that is under way, as long as its own limits allow it to take."""
        settings = self._env.settings
        command = settings.context.max_timeout_seconds
        seconds = max(settings.limits.seconds or 0.0, command) + command + _MORE_SECONDS
        if not self._lock.acquire(timeout=seconds):
            raise HostError(
                f"a step of row {self._row.id!r} has not ended within {seconds:.0f} s",
                hint="end this process: what it holds is released by the next start",
            )
        try:
            yield
        finally:
            self._lock.release()


def environment_of(settings: EnvSettings, source: Source | None = None) -> type[SandboxEnvironment]:
    """Return the environment class of these settings, and of a source of sandboxes."""
    members = {"settings": settings, "source": source, "__doc__": SandboxEnvironment.__doc__}
    return type("SandboxEnvironment", (SandboxEnvironment,), members)


@functools.cache
def _default(rootfs: str = "standard", network: str = "none", task: str = "context") -> EnvSettings:
    """Return settings that all rows of a process share, grading processes included."""
    grading = Grading()
    atexit.register(grading.close)
    return EnvSettings(
        task=tasks.find(task),
        prompts=prompt.load(task),
        sandbox=SandboxSpec(rootfs=rootfs, network=network),
        grading=grading,
    )


def _said(info: Info) -> dict[str, Any]:
    return {
        "stop": info.stop and str(info.stop),
        "cause": info.cause and str(info.cause),
        "masked": info.masked,
        "overlong": info.overlong,
        "steps": info.steps,
        "steps_left": info.steps_left,
        "environment_seconds": info.environment_seconds,
    }
