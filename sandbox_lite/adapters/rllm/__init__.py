"""Environment and agent of rllm 0.2, on which LLM-in-Sandbox-RL was trained; rllm is not imported.

What its engine does with them: `reset`, `step`, `compute_final_reward` and `close` run in threads
of an executor, and only `step` is bounded there: one that takes too long is left running while the
engine goes on to the reward. It tries a trajectory again when something was raised, zeroes the
reward itself where it ended a trajectory for its length, and asserts that environments and agents
are of its own base classes, of which `install` makes ours virtual ones.
"""

from __future__ import annotations

import importlib

from sandbox_lite.adapters.rllm.agent import SandboxAgent
from sandbox_lite.adapters.rllm.environment import SandboxEnvironment, environment_of
from sandbox_lite.errors import HostError

__all__ = [
    "AGENT",
    "ENVIRONMENT",
    "SandboxAgent",
    "SandboxEnvironment",
    "environment_of",
    "install",
]

ENVIRONMENT = "sandbox_lite"
AGENT = "sandbox_lite_agent"
"""Names for `rllm.env.name` and `rllm.agent.name`, after `install`."""


def install(environments: type[SandboxEnvironment] = SandboxEnvironment) -> None:
    """Make both known to the rllm of this process, under `ENVIRONMENT` and `AGENT`.

    Call it where the trainer runs, before it looks them up: in the process of its task runner.

    Raises:
        HostError: rllm is not installed, or is another than the fork.
    """
    try:
        base = importlib.import_module("rllm.environments.base.base_env").BaseEnv
        agents = importlib.import_module("rllm.agents.agent").BaseAgent
        names = importlib.import_module("rllm.trainer.env_agent_mappings")
        base.register(environments)
        agents.register(SandboxAgent)
        names.ENV_CLASS_MAPPING[ENVIRONMENT] = environments
        names.AGENT_CLASS_MAPPING[AGENT] = SandboxAgent
    except (ImportError, AttributeError) as error:
        raise HostError(
            f"this environment has no rllm that is known here: {error}",
            hint="it is made for rllm 0.2, as in github.com/llm-in-sandbox/llm-in-sandbox-rl",
        ) from error
