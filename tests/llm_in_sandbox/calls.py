"""Calls of the package's runtime, one after the other in one container, and what they answer.

`record` plays them on the package's own class with Docker, once and by hand; the tests play them
on ours. Nothing here needs more than the standard library, for the package has a Python of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FACE = Path(__file__).with_name("face.json")

RUN = (
    # what a shell leaves to the next: files and background processes, nothing else
    {"code": "pwd; id -u; ls -A input output; echo $HOME $SHLVL $PATH"},
    {"code": "env | grep ^PIP_ | grep -v CERT | sort; echo $GIVEN"},
    {"code": "cd /tmp; X=1; f() { echo f; }; export Y=2; umask 077"},
    {"code": "pwd; echo $X $Y; f; umask"},
    {"code": "nohup sleep 77 >/dev/null 2>&1 & echo $! > bg; echo started"},
    {"code": "kill -0 $(cat bg) && echo it is alive"},
    {"code": "pkill -x sleep; sleep 0.1"},
    {"code": "pwd", "workdir": "/tmp"},
    {"code": "pwd", "workdir": ""},
    {"code": ""},
    {"code": None},
    # exit codes
    {"code": "echo out; echo err >&2; exit 3"},
    {"code": "exit 124"},
    {"code": "kill -9 $$"},
    {"code": "kill -TERM $$"},
    {"code": "no-such-program"},
    {"code": "syntax ( error"},
    {"code": "set -e; false; echo not reached"},
    # time-outs
    {"code": "echo lost; sleep 60", "timeout": 0.3},
    {"code": "sleep 60", "timeout": 0.2},
    {"code": "sleep 60", "timeout": "0.3s"},
    {"code": "sleep 0.1; echo in time", "timeout": 0},
    {"code": "trap 'exit 7' TERM; sleep 60 & wait", "timeout": 0.3},
    {"code": "kill -STOP $$", "timeout": 0.3},
    # output
    {"code": "printf '\\033[1;31mred\\033[0m\\r\\nbut \\033[2J stays'"},
    {"code": "printf 'a\\377b\\303'"},
    {"code": "printf '\\303\\251 \\360\\237\\230\\200'"},
    {"code": "echo '\ud800'"},
    {"code": "seq 200000 | md5sum; seq 200000 | tail -n 1"},
    {"code": "echo 'it'\"'\"'s'; cat <<'EOF'\n$not `expanded` \\n\nEOF"},
    {"code": "cat; tty; test -t 1 || echo no terminal"},
    # what no program can be given
    {"code": "echo a\0b"},
    {"code": "true " + "x" * 140_000},
)  # fmt: skip

LISTED = (
    "find {0} -mindepth 1 \\( -type l -printf '%P -> %l\\n' -o -type d -printf '%P/ %m\\n' "
    "-o -printf '%P %y %m %Ts\\n' \\) | sort"
)

COPIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("copy_to_container", {"src_path": "{host}/file", "dest_path": "/testbed/new/name"}),
    ("run", {"code": "cat new/name; stat -c '%a %U %Y' new/name"}),
    ("copy_to_container", {"src_path": "{host}/file", "dest_path": "relative"}),
    ("run", {"code": "cat /relative"}),
    ("run", {"code": "mkdir -p taken/below; ln -s /etc/nowhere link"}),
    ("copy_to_container", {"src_path": "{host}/file", "dest_path": "/testbed/taken"}),
    ("copy_to_container", {"src_path": "{host}/file", "dest_path": "/testbed/link"}),
    ("run", {"code": "cat taken link; ls /etc/nowhere"}),
    ("copy_to_container", {"src_path": "{host}/tree", "dest_path": "/testbed/tree"}),
    ("run", {"code": LISTED.format("tree")}),
    ("run", {"code": "rm tree/deep/leaf; echo mine > tree/deep/mine"}),
    ("copy_to_container", {"src_path": "{host}/tree", "dest_path": "/testbed/tree"}),
    ("run", {"code": LISTED.format("tree").replace("%Ts", "")}),
    ("copy_to_container", {"src_path": "{host}/nothing", "dest_path": "/testbed/nothing"}),
    ("run", {"code": "echo file > afile; ln -s /tmp/to to; mkdir /tmp/to"}),
    ("copy_to_container", {"src_path": "{host}/file", "dest_path": "/testbed/afile/x"}),
    ("copy_to_container", {"src_path": "{host}/file", "dest_path": "/testbed/to/x"}),
    ("run", {"code": "cat /tmp/to/x"}),
    ("copy_dir_to_container", {"src_dir": "{host}/tree", "dest_dir": "/testbed/a/b"}),
    ("run", {"code": LISTED.format("a/b")}),
    ("copy_dir_to_container", {"src_dir": "{host}/tree", "dest_dir": "/testbed/to"}),
    ("run", {"code": "ls to"}),
    ("run", {"code": "mkdir -p over/program/below; echo > over/stays; mkdir over/deep"}),
    ("copy_dir_to_container", {"src_dir": "{host}/tree", "dest_dir": "/testbed/over"}),
    ("run", {"code": "ls -p over over/deep"}),
    ("copy_dir_to_container", {"src_dir": "{host}/tree", "dest_dir": "/testbed/afile"}),
    ("copy_dir_to_container", {"src_dir": "{host}/nothing", "dest_dir": "/testbed/nothing"}),
    ("copy_dir_to_container", {"src_dir": "{host}/file", "dest_dir": "/testbed/nothing"}),
    ("run", {"code": "cd output; mkdir -p a/b c; echo 1 > one; echo 2 > a/b/two; ln -s one l"}),
    ("run", {"code": "chmod 750 output/one; ln -s output whole"}),
    ("copy_from_container", {"container_path": "/testbed/output", "local_path": "{out}/1/2"}),
    ("copy_from_container", {"container_path": "/testbed/output/", "local_path": "{out}/3"}),
    ("copy_from_container", {"container_path": "/testbed/output/c", "local_path": "{out}/4"}),
    ("copy_from_container", {"container_path": "testbed/output/a", "local_path": "{out}/5"}),
    ("copy_from_container", {"container_path": "/testbed/whole", "local_path": "{out}/6"}),
    ("copy_from_container", {"container_path": "/testbed/whole/", "local_path": "{out}/7"}),
    ("copy_from_container", {"container_path": "/testbed/absent", "local_path": "{out}/8"}),
)  # fmt: skip

ENVIRONMENT = {"GIVEN": "a b", "PIP_ROOT_USER_ACTION": "it stays ignore"}
"""What the caller asks for; the package's own variables win."""

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, one) for one in RUN for name in ("run", "demux_run")),
    *COPIES,
    ("get_task_instruction", {"problem_statement": "as it is"}),
    ("close", {}),
    ("close", {}),
)


def prepare(host: Path) -> None:
    """Make what is copied in."""
    (host / "tree" / "deep").mkdir(parents=True)
    (host / "file").write_text("of the host\n")
    (host / "tree" / "deep" / "leaf").write_text("leaf\n")
    (host / "tree" / "program").write_text("#!/bin/sh\n")
    (host / "tree" / "program").chmod(0o755)
    (host / "tree" / "link").symlink_to("program")
    (host / "tree" / "outside").symlink_to("/etc/passwd")
    for path in sorted(host.rglob("*"), reverse=True):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
        if not path.is_symlink() and path.name != "program":
            path.chmod(0o755 if path.is_dir() else 0o644)


def play(runtime: Any, host: Path, out: Path) -> list[Any]:
    """Return what each call answers: its value, or that it raised; and what came out in the end."""
    answers: list[Any] = []
    for name, arguments in CALLS:
        given = {
            key: value.format(host=host, out=out) if "path" in key or "_dir" in key else value
            for key, value in arguments.items()
        }
        try:
            value = getattr(runtime, name)(**given)
            answers.append(list(value) if isinstance(value, tuple) else value)
        except Exception:  # noqa: BLE001 -- the classes are Docker's there, and ours here
            answers.append({"raised": True})
    answers.append(
        sorted(
            f"{path.relative_to(out)} {path.readlink()}"
            if path.is_symlink()
            else f"{path.relative_to(out)} {path.stat().st_mode:o}"
            for path in out.rglob("*")
        )
    )
    return answers
