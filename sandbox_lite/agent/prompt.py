"""Prompts are data: a TOML file with two texts and three directories."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from sandbox_lite.errors import TaskError

if TYPE_CHECKING:
    from pathlib import Path

_KEYS = ("system_prompt", "instance_prompt", "working_dir", "input_dir", "output_dir")
_DIRECTORIES = _KEYS[2:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is told before it begins."""

    system_prompt: str
    instance_prompt: str
    working_dir: str = "/testbed"
    input_dir: str = "/testbed/input"
    output_dir: str = "/testbed/output"

    @property
    def directories(self) -> tuple[str, str, str]:
        """Where the model works, finds the input, leaves the output."""
        return (self.working_dir, self.input_dir, self.output_dir)

    def render(self, task: str) -> tuple[str, str]:
        """Return the system and the user message for a task."""
        values = {
            "problem_statement": task,
            "working_dir": self.working_dir,
            "input_dir": self.input_dir,
            "output_dir": self.output_dir,
        }
        # one pass, so that a task which holds braces or these very words stays as it is
        pattern = re.compile("{(" + "|".join(values) + ")}")
        system, instance = (
            pattern.sub(lambda match: values[match[1]], text).strip()
            for text in (self.system_prompt, self.instance_prompt)
        )
        return system, instance


def load(path: Path | None = None) -> Prompt:
    """Return the prompt in a TOML file; None is the one that ships with the package.

    Raises:
        TaskError: The file cannot be read, or is no prompt.
    """
    return _loaded(path) if path is not None else _own()


@functools.cache
def _own() -> Prompt:
    return _loaded(None)


def _loaded(path: Path | None) -> Prompt:
    source = path or resources.files("sandbox_lite") / "prompts" / "default.toml"
    try:
        data = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise TaskError(
            f"cannot read the prompt {path}: {error.strerror}", hint="check the path of --prompt"
        ) from error
    except ValueError as error:
        raise TaskError(f"the prompt {path} is no TOML: {error}") from error
    unknown = sorted(set(data) - set(_KEYS))
    if unknown or not all(isinstance(value, str) for value in data.values()):
        what = f"an unknown entry {unknown[0]!r}" if unknown else "an entry that is no text"
        raise TaskError(f"the prompt {path} has {what}", hint=f"its entries: {', '.join(_KEYS)}")
    if "{problem_statement}" not in data.get("instance_prompt", ""):
        raise TaskError(
            f"the prompt {path} never names the task",
            hint="put {problem_statement} into its instance_prompt",
        )
    for name in _DIRECTORIES:
        if not data.get(name, "/").startswith("/"):
            raise TaskError(f"{name} in the prompt {path} must be an absolute path")
    return Prompt(**({"system_prompt": ""} | data))
