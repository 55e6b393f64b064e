"""What people do all day, in a sandbox of whoever runs the tests, with the package indexes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Sandbox
from sandbox_lite.jail.rootfs.store import Store
from tests.conftest import private_mirrors

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
    "npm": (
        "apt-get install -y -qq npm >/dev/null && mkdir n && cd n && npm init -y >/dev/null"
        " && npm install --no-fund --no-audit is-number >/dev/null"
        " && node -p 'require(\"is-number\")(5)'; cd ..",
        "true",
    ),
    "redis": (
        "apt-get install -y -qq redis-server >/dev/null && redis-server --daemonize yes >/dev/null"
        " && for i in $(seq 100); do redis-cli ping 2>/dev/null && break; sleep 0.1; done",
        "PONG",
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
    sandbox = Sandbox(
        "standard", network="packages", allow_private=private_mirrors(),
        limits=Limits.of(timeout=200),
    )  # fmt: skip
    with sandbox:
        for name, (command, expected) in WORK.items():
            result = sandbox.run(command)
            assert result.ok, (name, result.output[-2000:])
            assert expected in result.stdout, (name, result.output[-2000:])
    verified = Store().verify("standard")
    assert verified.ok
    assert verified.actual == before
