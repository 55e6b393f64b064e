"""The paper's prompts, read from an installed `llm-in-sandbox`; none of them is copied here.

Its files are found and read without importing the package, which needs Docker's client and more.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sandbox_lite.agent.prompt import Prompt
from sandbox_lite.bench import plugin
from sandbox_lite.bench.libraries import need
from sandbox_lite.errors import HostError, TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INSTALL = "pip install --no-deps llm-in-sandbox"
_FOLDERS = {"context": "instruct_pretrain"}
_DIRECTORIES = {
    "working_dir": "/testbed", "input_dir": "/testbed/documents", "output_dir": "/testbed",
}  # fmt: skip
"""What its runner takes where a task names none."""

JUDGE_TEMPERATURE = 0.7
JUDGE_MAX_TOKENS = 16_384
JUDGE_REPEATS = 4
"""What its judge runs with by default."""


def version() -> str:
    """Return the version of the installed package, or `unknown`."""
    try:
        return metadata.version("llm-in-sandbox")
    except metadata.PackageNotFoundError:
        return "unknown"


def prompt(task: str) -> Prompt:
    """Return system and instance prompt of a task, and its directories.

    Raises:
        HostError: `llm-in-sandbox` is not installed.
        TaskError: It has no such task, or none that can be read.
    """
    path = _folder(task) / "config.yaml"
    yaml = need("yaml", "reading the paper's prompts")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        texts = {name: _undoubled(data[name]) for name in ("system_prompt", "instance_prompt")}
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise TaskError(f"{path} holds no prompts: {error!r}") from error
    places = {name: str(data.get(name) or default) for name, default in _DIRECTORIES.items()}
    return Prompt(**texts, **places)


def plain_prompt(task: str) -> Callable[[Mapping[str, Any]], str]:
    """Return the function that makes the one message of a plain model from a row's fields.

    Raises:
        HostError: `llm-in-sandbox` is not installed.
        TaskError: It has no such task.
    """
    made = plugin.module(str(_folder(task) / "vanilla_llm_prompt.py")).create_prompt
    return cast("Callable[[Mapping[str, Any]], str]", made)


def judge_prompt() -> Callable[[str, str, str], str]:
    """Return the function that makes the judge's message from question, truth and candidate.

    Raises:
        HostError: `llm-in-sandbox` is not installed.
        TaskError: Its judge cannot be imported.
    """
    made = plugin.module(str(_folder("physics") / "judge.py")).create_judge_prompt
    return cast("Callable[[str, str, str], str]", made)


def _undoubled(text: str) -> str:
    """Its runner puts texts through `str.format`, for which braces stand twice."""
    return text.replace("{{", "{").replace("}}", "}")


def _folder(task: str) -> Path:
    spec = importlib.util.find_spec("llm_in_sandbox")
    if spec is None or spec.origin is None:
        raise HostError(
            "the paper's prompts need llm-in-sandbox, which is not installed", hint=INSTALL
        )
    folder = Path(spec.origin).parent / "benchmark" / _FOLDERS.get(task, task)
    if not folder.is_dir():
        raise TaskError(
            f"the installed llm-in-sandbox {version()} has no task {folder.name!r}",
            hint="use our prompts, or a directory of your own",
        )
    return folder
