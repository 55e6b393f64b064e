"""What a call counts for: commands as models write them, and the editor."""

from __future__ import annotations

import json

import pytest

from sandbox_lite.agent.tools import ToolCall
from sandbox_lite.agent.trajectory import Step, Trajectory
from sandbox_lite.bench.tool_use import ToolUse, of_calls, of_command, of_run

KINDS = {
    # as in the runs that the authors published
    "python3 -c \"import rdkit; print('there')\" 2>/dev/null || echo 'not there'": "computation",
    "pip install rdkit-pypi 2>&1 | tail -20": "network",
    "cd /testbed && python3 parse.py 2>&1": "computation",
    "which obabel 2>/dev/null || echo 'not found'": "",
    "apt-get update && apt-get install -y openbabel 2>&1 | tail -10": "network",
    "obabel -L formats 2>&1 | grep -i iupac": "",
    "apt-cache search opsin 2>&1 | head -5": "",
    "chmod +x /testbed/convert.sh && /testbed/convert.sh": "computation files",
    'find /usr -name "*opsin*" -type f 2>/dev/null | head -20': "files",
    "echo -n A > /testbed/output/answer.txt": "files",
    "wc -c /testbed/output/answer.txt": "files",
    'cd /testbed/input && grep -n -i "industry.*law\\|law.*industry" State.txt': "files",
    "cd /testbed/input && grep -r -i 'law' . | grep -i 'industry'": "files",
    "python3 -c \"\ns = 'Clovis\\\\'s church'\nprint(len(s))\n\"": "computation",
    # and further ones
    "curl -s https://example.org | python3 -": "computation network",
    'python3 -c "import requests; print(requests.get(\'x\').text)"': "computation network",
    "python3 - <<'EOF'\nimport urllib.request\nit's = 1\nEOF": "computation network",
    "cat > x.py <<'EOF'\nimport requests # it's\nEOF\npython3 x.py": "computation files network",
    "cat > notes.txt <<EOF\npython3 is no command here\nEOF": "files",
    "python3 -m pip install numpy": "network",
    "python3 -m http.server": "computation",
    "uv pip install numpy": "network",
    "pip list": "",
    "git clone x y": "network",
    "git commit -m 'fetch all of it; update'": "",
    "git log": "",
    "bash -c 'cat a.txt'": "files",
    "sudo -E timeout 20 python3.11 x.py": "computation",
    "PYTHONPATH=. OMP_NUM_THREADS=1 python x.py >/dev/null": "computation",
    "x=$(ls | wc -l); echo $x": "files",
    "for f in *.txt; do sed -n 1p \"$f\"; done": "files",
    "if [ -f a ]; then ./run.sh; fi": "computation",
    "gcc -o a a.c &&\n./a": "computation",
    "python x.py 2>&1 | tee log.txt": "computation",
    "ls # python": "files",
    "# python": "",
    "echo hi": "",
    "echo hi >&2": "",
    "cd /testbed": "",
    "pwd": "",
    "": "",
    "echo 'a quote that never ends; ls": "files",
}  # fmt: skip


@pytest.mark.parametrize("command", KINDS)
def test_a_command_is_of_kinds(command: str) -> None:
    assert " ".join(sorted(of_command(command))) == KINDS[command]


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(id="1", name=name, arguments=json.dumps(arguments))


def test_a_call_counts_once_for_each_kind() -> None:
    calls = (
        call("str_replace_editor", command="create", path="/a", file_text="import requests"),
        call("execute_bash", command="ls; cat a; python a.py; python b.py"),
        call("bash", cmd="pip install x"),
        call("execute_bash", command="true"),
        call("submit"),
    )
    expected = ToolUse(calls=4, network=1, files=2, computation=1, other=1)
    assert of_calls(calls) == expected
    steps = (Step(index=1, thought="", calls=calls[:2]), Step(index=2, thought="", calls=calls[2:]))
    assert of_run(Trajectory(task="", steps=steps)) == expected


@pytest.mark.parametrize("arguments", ["", "no JSON", "[1]", "{}", "null", '{"command": null}'])
def test_what_cannot_be_read_is_of_no_kind(arguments: str) -> None:
    calls = (
        ToolCall(id="1", name="execute_bash", arguments=arguments),
        ToolCall(id="2", name="no_such_tool", arguments=arguments),
    )
    assert of_calls(calls) == ToolUse(calls=2, other=2)
