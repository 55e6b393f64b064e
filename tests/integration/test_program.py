"""`Sandbox.exec`: programs beside the shell, byte-exact, any number at once."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import Limits, Outcome
from sandbox_lite.errors import FileAccessError, SandboxClosedError, SpecError
from sandbox_lite.jail.native.first import MOST_CHILDREN
from tests.faces import made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox_lite import Sandbox
    from tests.faces import FaceName


@pytest.fixture
def sandbox(either: Sandbox) -> Sandbox:
    return either


def test_three_streams_are_byte_exact(sandbox: Sandbox) -> None:
    data = random.Random(1).randbytes(300_000)
    result = sandbox.exec(["cat"], input=data)
    assert result.ok
    assert result.stdout_bytes == data
    script = "import sys; d = sys.stdin.buffer.read(); sys.stderr.buffer.write(d[::-1])"
    assert sandbox.exec(["python3", "-c", script], input=data).stderr_bytes == data[::-1]


@pytest.mark.parametrize(
    "words",
    [
        ["a b", "c'd", 'e"f', "$HOME", "`id`", "\\", "", "\n", "*", "-n", "ü"],
        [bytes(byte for byte in range(1, 256))],
    ],
)
def test_arguments_are_byte_exact(sandbox: Sandbox, words: list[str | bytes]) -> None:
    script = "import os, sys; os.write(1, b'\\0'.join(os.fsencode(a) for a in sys.argv[1:]))"
    result = sandbox.exec(["python3", "-c", script, *words])
    expected = b"\0".join(word if isinstance(word, bytes) else word.encode() for word in words)
    assert result.stdout_bytes == expected


def test_a_megabyte_of_arguments(sandbox: Sandbox) -> None:
    words = ["x" * 100_000] * 10
    assert sandbox.exec(["printf", "%s", *words]).stdout == "x" * 1_000_000


def test_exit_codes(sandbox: Sandbox) -> None:
    assert sandbox.exec(["sh", "-c", "exit 77"]).exit_code == 77
    assert sandbox.exec(["nosuchprogram"]).exit_code == 127
    assert sandbox.exec(["/etc/passwd"]).exit_code == 126
    assert sandbox.exec(["true"], cwd="/nosuchdir").exit_code == 126
    assert sandbox.exec(["sh", "-c", "kill -TERM $$"]).exit_code == 143


def test_environment_and_directory(sandbox: Sandbox) -> None:
    result = sandbox.exec(["sh", "-c", 'echo "$A|$PWD"'], env={"A": "it's\n$x"}, cwd="/usr/lib")
    assert result.stdout == "it's\n$x|/usr/lib\n"
    assert sandbox.exec(["pwd"]).stdout == "/testbed\n"


def test_nothing_of_ours_is_in_the_environment(sandbox: Sandbox) -> None:
    names = {line.partition("=")[0] for line in sandbox.exec(["env"]).stdout.splitlines()}
    assert "SANDBOX_WORKDIR" not in names
    assert "PATH" in names
    inside = sandbox.run("env").stdout
    assert "SANDBOX_WORKDIR" not in inside


def test_requests_that_make_no_sense(sandbox: Sandbox) -> None:
    for bad in ([], ["a\0b"]):
        with pytest.raises(SpecError):
            sandbox.exec(bad)
    with pytest.raises(SpecError):
        sandbox.exec("echo x")
    with pytest.raises(SpecError):
        sandbox.exec(["true"], env={"A B": "x"})


def test_no_input_is_end_of_file(sandbox: Sandbox) -> None:
    assert sandbox.exec(["cat"], timeout=10).outcome is Outcome.EXITED


def test_program_that_does_not_read_its_input(sandbox: Sandbox) -> None:
    result = sandbox.exec(["true"], input=b"x" * 1_000_000)
    assert result.ok


def test_server_and_client_at_once(sandbox: Sandbox) -> None:
    sandbox.files.write("/testbed/index.html", b"<p>served</p>")
    stop = threading.Event()
    outcomes = []

    def serve() -> None:
        outcomes.append(sandbox.exec(["python3", "-m", "http.server", "8000"], timeout=8))
        stop.set()

    server = threading.Thread(target=serve)
    server.start()
    script = (
        "import time, urllib.request as u\n"
        "for _ in range(200):\n"
        "    try: print(u.urlopen('http://127.0.0.1:8000/index.html').read().decode()); break\n"
        "    except OSError: time.sleep(.02)\n"
    )
    assert sandbox.exec(["python3", "-c", script]).stdout == "<p>served</p>\n"
    sandbox.run("kill $(grep -l http.server /proc/[0-9]*/cmdline | tr -dc '0-9\\n')")
    assert stop.wait(10)
    server.join()
    assert outcomes[0].exit_code == 143


def test_many_at_once_beside_the_shell(sandbox: Sandbox) -> None:
    # each waits for the last: none could end if they ran one after another
    script = (
        "touch /tmp/here.$0; "
        "while test $(ls /tmp/here.* | wc -l) -lt 8; do sleep .02; done; echo $0"
    )
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(sandbox.exec, ["sh", "-c", script, str(n)]) for n in range(7)]
        assert sandbox.run("touch /tmp/here.shell; echo shell").ok
        results = [future.result() for future in futures]
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(7)]


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_time_out_ends_the_whole_group(sandbox: Sandbox, trap: str) -> None:
    result = sandbox.exec(["sh", "-c", f"{trap}echo x; sleep 300 & sleep 300"], timeout=0.4)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.stdout == "x\n"
    assert result.seconds < 5
    assert not sandbox.run("grep -l '^sleep$' /proc/[0-9]*/comm").ok


def test_default_signals(sandbox: Sandbox) -> None:
    status = sandbox.exec(["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]).stdout
    assert set(status.split()[1::2]) == {"0" * 16}
    shell = sandbox.run("grep -E '^Sig(Ign|Blk)' /proc/self/status").stdout
    assert set(shell.split()[1::2]) == {"0" * 16}


def test_orphans_are_reaped(sandbox: Sandbox) -> None:
    sandbox.exec(["sh", "-c", "for n in 1 2 3 4 5; do (sh -c 'sleep .05 &'); done"])
    script = "grep -l '^State:.Z' /proc/[0-9]*/status; grep -c . /dev/null"
    counts = sandbox.run(
        "for n in $(seq 200); do ls -d /proc/[0-9]* | wc -l; "
        "grep -ql '^sleep' /proc/[0-9]*/comm || break; sleep .02; done >/dev/null; " + script
    )
    assert "/proc" not in counts.stdout


def test_callback_that_raises_ends_the_program(sandbox: Sandbox) -> None:
    def on_output(stream: str, data: bytes) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        sandbox.exec(["sh", "-c", "echo x; sleep 300"], on_output=on_output)
    assert not sandbox.run("grep -l '^sleep$' /proc/[0-9]*/comm").ok


def test_more_programs_and_shells_than_process_1_remembers(sandbox: Sandbox) -> None:
    for _ in range(MOST_CHILDREN // 2 + 1):
        assert sandbox.exec(["true"]).exit_code == 0
    for _ in range(MOST_CHILDREN // 2 + 1):
        sandbox.shell("more")
        sandbox.end_shell("more")
    assert sandbox.exec(["sh", "-c", "exit 5"]).exit_code == 5


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "said"),
    [
        (["no-such"], None, 127, "exec: no-such: not found"),
        (["/no/such"], None, 127, "exec: /no/such: No such file or directory"),
        ([""], None, 127, "exec: : not found"),
        (["/tmp"], None, 126, "exec: /tmp: Permission denied"),
        (["/tmp/none"], None, 126, "exec: /tmp/none: Permission denied"),
        (["true"], "/no", 126, "cd: /no: No such file or directory"),
        (["true"], "no", 126, "cd: no: No such file or directory"),
        (["sh", "-c", "exit 126"], None, 126, ""),
        (["true", "x" * 140_000], None, 126, "exec: true: Argument list too long"),
    ],
)
def test_what_cannot_be_started(
    sandbox: Sandbox, argv: list[str], cwd: str | None, code: int, said: str
) -> None:
    sandbox.run("echo >/tmp/none")
    result = sandbox.exec(argv, cwd=cwd)
    assert (result.exit_code, result.stderr.strip()) == (code, said)


def test_script_without_a_first_line_is_a_shells(sandbox: Sandbox) -> None:
    sandbox.run(
        "echo 'echo $0 $1 ${BASH_VERSION:+bash}' >/tmp/plainly; chmod +x /tmp/plainly"
    ).check()
    assert sandbox.exec(["/tmp/plainly", "a b"]).stdout == "/tmp/plainly a b bash\n"
    assert (
        sandbox.exec(["plainly", "c"], env={"PATH": "/usr/bin:/tmp"}).stdout
        == "/tmp/plainly c bash\n"
    )


def test_empty_element_of_path_is_the_directory_of_the_program(sandbox: Sandbox) -> None:
    sandbox.run("printf '#!/bin/sh\\necho here' >here; chmod +x here").check()
    assert sandbox.exec(["here"], env={"PATH": "/usr/bin:"}).stdout == "here\n"
    assert sandbox.exec(["here"], env={"PATH": ""}).stdout == "here\n"


@pytest.mark.timeout(60)
def test_what_a_limit_has_done_is_told(home: Path, face: FaceName) -> None:
    limits = Limits.of(memory="64MiB", pids=40, disk="16MiB", timeout=30)
    with made(face, "minimal", limits=limits) as sandbox:
        hungry = ["python3", "-c", "b = bytearray(300 << 20); import time; time.sleep(5)"]
        eaten = sandbox.exec(hungry)
        assert (eaten.outcome, eaten.limits_hit) == (Outcome.OUT_OF_MEMORY, ("memory",))
        full = sandbox.run("head -c 40M /dev/zero >/testbed/full")
        assert (full.outcome, full.limits_hit) == (Outcome.DISK_FULL, ("disk",))
        sandbox.run("rm /testbed/full").check()
        many = sandbox.run("for n in {1..80}; do sleep 1 & done; wait", timeout=10)
        assert many.limits_hit[:1] == ("pids",)
        late = sandbox.run("sleep 100", timeout=0.2)
        assert (late.outcome, late.limits_hit[-1]) == (Outcome.TIMED_OUT, "timeout")
        assert sandbox.run("echo on").stdout == "on\n"


def test_a_descriptor_cancels_a_command_and_a_program(sandbox: Sandbox) -> None:
    def cancelling(stream: str, data: bytes) -> None:
        os.write(writer, b"x")

    reader, writer = os.pipe()
    program = ["sh", "-c", "echo; exec sleep 77"]
    try:
        with pytest.raises(CancelledError):
            sandbox.run("echo; sleep 77", on_output=cancelling, cancel_fd=reader)
        os.read(reader, 1)
        with pytest.raises(CancelledError):
            sandbox.exec(program, on_output=cancelling, cancel_fd=reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert sandbox.run("pgrep sleep; echo on").stdout == "on\n"


def test_a_closed_sandbox_refuses_everything(home: Path, face: FaceName) -> None:
    sandbox = made(face, "minimal")
    unopened: tuple[Callable[[], object], ...] = (
        lambda: sandbox.run("echo"),
        lambda: sandbox.exec(["true"]),
        lambda: sandbox.files,
        lambda: sandbox.shell("other"),
        lambda: sandbox.pid,
        lambda: sandbox.stats(),
        lambda: sandbox.enforcement,
        lambda: sandbox.interact("true").__enter__(),
    )
    for call in unopened:
        with pytest.raises(SpecError, match="not open"):
            call()
    with sandbox:
        files = sandbox.files
        with pytest.raises(SpecError, match="open already"):
            sandbox.open()
        assert sandbox.begin()
    for call in (*unopened, lambda: files.read("/etc/passwd")):
        with pytest.raises((SandboxClosedError, FileAccessError)):
            call()
