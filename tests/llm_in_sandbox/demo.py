"""What a scripted model does in the package's four demo problems and one more, and how it is asked.

Its own runner looks for the answer in /testbed/answer.txt and puts the input into
/testbed/documents, whatever the demo's settings say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.model_server import Json, Scripted, says

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TRAJECTORY = Path(__file__).with_name("trajectory.json")
MODEL = "scripted"


def _bash(command: str) -> tuple[str, object]:
    return "execute_bash", {"command": command}


def _edit(command: str, path: str, **more: object) -> tuple[str, object]:
    return "str_replace_editor", {"command": command, "path": path, **more}


_CAPITAL = "/testbed/work/capital.py"
_SUBMIT = says(None, ("submit", {}))

SCRIPTS: Mapping[str, Sequence[Scripted]] = {
    "What is 2 + 3?": (
        says("A look around first.", _bash("cd /tmp && VALUE=5 && pwd && ls -A /testbed")),
        says(None, _bash('pwd; echo "value: [$VALUE]"; echo nothing stays >&2')),
        says(None, _bash("python3 -c 'print(2 + 3)' > /testbed/answer.txt; exit 3")),
        says(None, _bash("cat /testbed/answer.txt"), reasoning_content="It should be 5."),
        _SUBMIT,
    ),
    "What is the capital of France?": (
        says(None, _edit("create", "/testbed/a b/capital.py", file_text="no")),
        says(
            None,
            _edit(
                "create", _CAPITAL,
                file_text="city = 'Rome'\nprint(f\"{city}\")\t# it's \\n `here` $HOME é",
            ),
        ),
        says(None, _edit("str_replace", _CAPITAL, old_str="Rome", new_str="Paris")),
        says(None, _edit("str_replace", _CAPITAL, old_str="none", new_str="x")),
        says(None, _edit("insert", _CAPITAL, insert_line=1, new_str="import os")),
        says(None, _edit("view", _CAPITAL)),
        says(None, _edit("view", "/testbed/work")),
        says(None, _edit("view", "/testbed/work/missing.py")),
        says(None, _bash("python3 work/capital.py | tee answer.txt")),
        _SUBMIT,
    ),
    "Write a Python script that prints": (
        says(
            None,
            _edit("create", "/testbed/output/hello.py", file_text="print('Hello World')\n"),
            _bash("echo only the first call of a message is done > /testbed/second"),
        ),
        says(None, _bash("python3 /testbed/output/hello.py; ls /testbed/second /nowhere")),
        says(None, _bash("seq 200; printf '\\033[31mred\\033[0m\\r\\n' >&2")),
        says(None, _bash("exit 124")),
        says(None, ("no_such_tool", {"x": 1})),
        says(None, _bash("echo done > /testbed/answer.txt; git status --short")),
        _SUBMIT,
    ),
    "Copy the word.": (
        says(None, _bash("cp /testbed/input/deep/word.txt /testbed/output/answer.txt")),
        _SUBMIT,
    ),
    "Read the file /testbed/input/numbers.txt": (
        says("I think that it is 42."),
        says(None, ("execute_bash", "{not json")),
        says(None, _bash("")),
        says(None, _bash("ls -R /testbed/documents; cat /testbed/documents/numbers.txt")),
        says(None, _bash("awk '{ s += $1 } END { print s }' documents/*.txt > answer.txt")),
        says(None, _bash("kill -9 $$")),
        _SUBMIT,
    ),
}  # fmt: skip


def reply(request: Json) -> Scripted:
    """Return the next message of the script that the conversation follows."""
    asked: str = request["messages"][1]["content"]
    said = [one["role"] for one in request["messages"]].count("assistant")
    script = next(script for start, script in SCRIPTS.items() if start in asked)
    return script[min(int(said), len(script) - 1)]


def words(base_url: str, output: Path, *more: str) -> tuple[str, ...]:
    """Return what the package's command line is given."""
    return (
        "benchmark", "--task", "demo", "--llm_name", MODEL, "--llm_base_url", base_url,
        "--output_dir", str(output), *more,
    )  # fmt: skip


def environment(directory: Path) -> dict[str, str]:
    """Return what the package must find in its environment to look for nothing on the network."""
    return {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "scripted",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(directory / "hub"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def trajectory(output: Path) -> dict[str, Any]:
    """Return the package's trajectory file, but for the seconds that its steps took."""
    (path,) = output.glob("*/trajectory.json")
    found: dict[str, Any] = json.loads(path.read_text())
    for problem in found.values():
        for step in problem["trajectory"]:
            assert step["metadata"].pop("exec_time") > 0
    return found
