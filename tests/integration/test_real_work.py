"""What people do all day, in a sandbox of whoever runs the tests, with the network on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Sandbox
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from pathlib import Path

WORK = {
    "the paper's libraries": (
        "python -c 'import numpy, scipy, sympy, mpmath, matplotlib, IPython, chardet; print(42)'",
        "42",
    ),
    "apt": (
        "apt-get update -qq && apt-get install -y -qq jq openbabel >/dev/null"
        " && echo '{\"a\": 5}' | jq .a && obabel -:CCO -ocan",
        "5\nCCO",
    ),
    "pip": (
        "pip install -q rdkit && python -c 'from rdkit import Chem;"
        ' print(Chem.MolToSmiles(Chem.MolFromSmiles("C1=CC=CC=C1O")))\'',
        "Oc1ccccc1",
    ),
    "venv and uv": (
        "python3 -m venv v && . v/bin/activate && pip install -q six && uv pip install -q idna"
        " && python -c 'import six, idna; print(six.__file__)'; deactivate",
        "/testbed/v/lib",
    ),
    "git": (
        "mkdir r && cd r && git init -q && git config user.email a@example.org"
        " && git config user.name A && echo x >f && git add f && git commit -q -m first"
        " && git log --format=%s; cd ..",
        "first",
    ),
    "gcc": (
        "printf '#include <stdio.h>\\nint main(void) { puts(\"hello\"); }\\n' >hello.c"
        " && gcc hello.c -o hello && ./hello",
        "hello",
    ),
    "useradd": ("useradd -m bob && grep -c ^bob: /etc/passwd && ls /home", "1\nbob"),
    "Node.js": (
        "apt-get install -y -qq nodejs >/dev/null && node -e 'console.log(\"from node\")'",
        "from node",
    ),
    "curl over TLS": ("curl -sSI https://pypi.org/simple/ | head -1", "HTTP/"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_work_and_an_unchanged_rootfs(
    standard_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(standard_home))
    before = Store().info("standard").digest
    with Sandbox("standard", network="host", limits=Limits.of(timeout=200)) as sandbox:
        for name, (command, expected) in WORK.items():
            result = sandbox.run(command)
            assert result.ok, (name, result.output[-2000:])
            assert expected in result.stdout, (name, result.output[-2000:])
    verified = Store().verify("standard")
    assert verified.ok
    assert verified.actual == before
