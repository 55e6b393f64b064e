"""What a persistent shell must survive, with the shell's state intact afterwards."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pexpect
import pytest

from sandbox_lite import Limits, Outcome
from sandbox_lite.errors import CommandFailedError, SandboxClosedError, SpecError
from tests.faces import made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_lite import Sandbox
    from tests.faces import FaceName

STATE = """
cd /tmp
plain='two  words'
export exported=yes
declare -a list=(a 'b c' d)
f() { echo "f says $1"; }
alias hello='echo aliased'
shopt -s extglob
umask 027
"""
PROBE = """
echo "$PWD|$plain|$exported|${list[1]}|$(f x)|$(umask)"
shopt -q extglob && hello
"""
EXPECTED = "/tmp|two  words|yes|b c|f says x|0027\naliased\n"


@pytest.fixture(scope="module")
def box(rootfs_home: Path, face: FaceName) -> Iterator[Sandbox]:
    """One sandbox for all cases of this file: each leaves it as it was, or a test fails."""
    before = os.environ.get("SANDBOX_LITE_HOME")
    os.environ["SANDBOX_LITE_HOME"] = str(rootfs_home)
    try:
        limits = Limits.of(timeout=15, output="256KiB")
        with made(face, "minimal", limits=limits) as opened:
            yield opened
    finally:
        os.environ.pop("SANDBOX_LITE_HOME")
        if before is not None:
            os.environ["SANDBOX_LITE_HOME"] = before


@pytest.fixture
def sb(box: Sandbox) -> Sandbox:
    # as a fresh one: what an earlier case switched on goes with its shell
    box.run("set +euxvf; exit 0")
    box.run(STATE).check()
    return box


def intact(sb: Sandbox) -> None:
    result = sb.run(PROBE, timeout=10)
    assert (result.stdout, result.stderr) == (EXPECTED, "")


HARMLESS = {
    "syntax: unbalanced quote": "echo 'no end",
    "syntax: open if": "if true; then echo x",
    "syntax: open heredoc": "cat <<EOF\nline",
    "syntax: trailing backslash": "echo x \\",
    "syntax: stray parenthesis": "echo )",
    "break": "break",
    "continue": "continue",
    "return": "return 4",
    "unset variable": "set -u; echo $nope; echo not reached",
    "required variable": "echo ${nope:?must be set}",
    "stdout closed by exec": "exec >/dev/null; echo gone",
    "all streams moved": "exec 2>&1 </dev/null",
    "control-like fds closed": "exec 3>&- 4>&- 5>&- 6>&-",
    "ignored signals": "trap '' INT TERM; trap - INT TERM",
    "debug trap": "trap 'true' DEBUG; echo x; trap - DEBUG",
    "err trap": "trap 'echo err' ERR; false; trap - ERR",
    "xtrace": "set -x; echo x; set +x",
    "verbose": "set -v; echo x; set +v",
    "noexec": "set -n; echo x",
    "noglob": "set -f; echo *; set +f",
    "ifs": "IFS=x; echo axb; unset IFS",
    "posix": "set -o posix; echo x; set +o posix",
    "extdebug": "shopt -s extdebug; echo x; shopt -u extdebug",
    "path gone": "(unset PATH; nosuch)",
    "printf function": "printf() { echo mine; }; printf x; unset -f printf",
    "stty raw": "stty raw </dev/tty",
    "exec of nothing": "exec nosuchprogram",
    "deleted directory": "mkdir /tmp/gone; cd /tmp/gone; rmdir /tmp/gone; cd /tmp",
    "job control": "sleep 100 & kill %1; wait",
    "history expansion": 'echo "a!b!!"',
    "kill everything else": "sleep 100 & kill -9 -1",
    "pending coproc": "coproc cat; echo x",
    "prompt command": "PROMPT_COMMAND='echo prompt'; PS1='$ '",
    "prompt command gone": "unset PROMPT_COMMAND; PS1=",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_command_leaves_the_shell_alive(sb: Sandbox, name: str) -> None:
    pid = sb.run("echo $$").stdout
    result = sb.run(HARMLESS[name], timeout=10)
    assert result.outcome is Outcome.EXITED
    assert not result.restarted
    intact(sb)
    assert sb.run("echo $$").stdout == pid


DEADLY = {
    "exit 3": ("exit 3", 3, Outcome.EXITED),
    "exit in a function": ("g() { exit 5; }; g", 5, Outcome.EXITED),
    "errexit": ("set -e; false; echo not reached", 1, Outcome.EXITED),
    "exec ends as the program": ("exec sh -c 'exit 7'", 7, Outcome.EXITED),
    "exec bash": ("exec bash -c 'exit 6'", 6, Outcome.EXITED),
    "kill -9 itself": ("kill -9 $$", 137, Outcome.KILLED),
    "kill -HUP itself": ("kill -HUP $$", 129, Outcome.KILLED),
    "own exit trap": ("trap 'echo bye' EXIT; exit 9", 9, Outcome.EXITED),
}


@pytest.mark.parametrize("name", DEADLY)
def test_shell_that_ends_is_replaced_with_its_state(sb: Sandbox, name: str) -> None:
    command, code, outcome = DEADLY[name]
    result = sb.run(command)
    assert (result.exit_code, result.outcome, result.restarted) == (code, outcome, True)
    intact(sb)


def test_every_descriptor_closed(sb: Sandbox) -> None:
    sb.run('for ((n = 0; n < 256; n++)); do eval "exec $n>&-"; done', timeout=5)
    # the shell has lost its input and is about to end; what comes next must still be run, once
    assert sb.run("echo x >>/tmp/count; wc -l </tmp/count; rm /tmp/count").stdout == "1\n"
    intact(sb)


def test_output_of_exit_is_complete(sb: Sandbox) -> None:
    result = sb.run("echo last words; echo more >&2; exit 1")
    assert (result.stdout, result.stderr) == ("last words\n", "more\n")


def test_functions_and_aliases_over_our_words(sb: Sandbox) -> None:
    sb.run(
        "alias printf=false builtin=false .=false source=false time=false; "
        "printf() { :; }; builtin() { :; }; enable -n printf"
    )
    assert sb.run("echo still here; (exit 5)").exit_code == 5
    sb.run("unalias -a; unset -f printf builtin; enable printf").check()
    sb.run("alias hello='echo aliased'")
    intact(sb)


@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 128, 137, 139, 255])
def test_exit_codes_are_exact(sb: Sandbox, code: int) -> None:
    assert sb.run(f"(exit {code})").exit_code == code
    assert sb.run("echo $?").stdout == f"{code}\n"


def test_unknown_program_is_127_and_no_executable_126(sb: Sandbox) -> None:
    assert sb.run("nosuchprogram").exit_code == 127
    assert sb.run("/etc/passwd").exit_code == 126


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_large_command(sb: Sandbox, size: int) -> None:
    text = "x" * size
    result = sb.run(f"value='{text}'; echo ${{#value}}; unset value")
    assert result.stdout == f"{size}\n"


def test_quoting_of_every_kind(sb: Sandbox) -> None:
    script = "cat <<'EOF'\na'b\"c`d`$e\\f\tg!!\nEOF\nprintf '%s|' \"a'b\" 'c\"d' $'e\\nf'"
    assert sb.run(script).stdout == "a'b\"c`d`$e\\f\tg!!\na'b|c\"d|e\nf|"


def test_every_byte_comes_out(sb: Sandbox) -> None:
    result = sb.run("printf '%b' \"$(printf '\\\\x%02x' {0..255})\"")
    assert result.stdout_bytes == bytes(range(256))
    assert "�" in result.stdout


def test_bytes_of_the_command_are_kept(sb: Sandbox) -> None:
    raw = bytes(byte for byte in range(1, 256) if byte not in b"'\r")
    assert sb.run(b"printf '%s' '" + raw + b"'").stdout_bytes == raw
    with pytest.raises(SpecError):
        sb.run("echo a\0b")


@pytest.mark.parametrize("text", ["no newline", "", "\n", "\n\n a \n"])
def test_output_is_exact(sb: Sandbox, text: str) -> None:
    result = sb.run(f"printf %s '{text}'; printf %s '{text}' >&2")
    assert (result.stdout, result.stderr) == (text, text)


def test_forged_marks_change_nothing(sb: Sandbox) -> None:
    result = sb.run(r"for n in {0..40}; do printf '\1%d 0 /\2\n' $n; done; (exit 4)")
    assert result.exit_code == 4
    assert result.stdout.count("\x01") == 41
    intact(sb)


def test_merged_output_is_in_exact_order(sb: Sandbox) -> None:
    script = "for n in {1..2000}; do echo o$n; echo e$n >&2; done"
    lines = "".join(f"o{n}\ne{n}\n" for n in range(1, 2001))
    merged = sb.run(script, merge=True)
    assert merged.output == merged.stdout == lines
    apart = sb.run(script)
    assert sorted(apart.output.split()) == sorted(lines.split())


@pytest.mark.parametrize(
    "reader", ["cat", "read x; echo $?", "python3 -c 'input()' 2>&1 | tail -1", "bash", "head -1"]
)
def test_readers_of_stdin_get_end_of_file(sb: Sandbox, reader: str) -> None:
    result = sb.run(reader, timeout=10)
    assert result.outcome is Outcome.EXITED
    assert result.seconds < 5


def test_background_job_neither_holds_the_call_nor_dies(sb: Sandbox) -> None:
    result = sb.run(
        "(while ! test -e /tmp/go; do sleep .02; done; echo late) & echo now", timeout=5
    )
    assert (result.stdout, result.background) == ("now\n", True)
    assert result.full_output is not None
    sb.run("touch /tmp/go; wait; rm /tmp/go").check()
    late = sb.run(
        f"for n in {{1..200}}; do grep -q late {result.full_output} && break; sleep .02; done; "
        f"cat {result.full_output}"
    )
    assert late.stdout == "now\nlate\n"


def test_daemonised_grandchild_outlives_its_call(sb: Sandbox) -> None:
    sb.run("setsid -f sleep 300", timeout=5).check()
    # it has forked, and becomes another program a moment later
    look = "until grep -qx sleep /proc/[0-9]*/comm; do sleep 0.01; done"
    assert sb.run(look, timeout=10).ok
    sb.run("kill $(grep -l '^sleep$' /proc/[0-9]*/comm | tr -dc '0-9\\n')")


def test_endless_background_writer_does_not_hold_the_call(sb: Sandbox) -> None:
    result = sb.run("yes & echo started; sleep .2", timeout=10)
    assert result.outcome is Outcome.EXITED
    sb.run("kill %yes; wait")
    intact(sb)


TIMEOUTS = {
    "sleep": "sleep 100",
    "loop of builtins": "while :; do :; done",
    "pipeline": "sleep 100 | cat",
    "substitution": 'x="$(sleep 100)"',
    "wait": "sleep 100 & wait",
    "ignores INT": "bash -c 'trap \"\" INT; sleep 100'",
    "ignores INT and TERM": "bash -c 'trap \"\" INT TERM; while :; do sleep 1; done'",
    "loop of ignoring children": "while :; do bash -c 'trap \"\" INT TERM; sleep 5'; done",
    "reads the terminal": "cat </dev/tty",
    "stops itself": "bash -c 'kill -STOP $$'",
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_time_out_ends_the_command_and_keeps_the_shell(sb: Sandbox, name: str) -> None:
    result = sb.run(f"echo before; {TIMEOUTS[name]}", timeout=0.5)
    if name == "stops itself":
        # a stopped job gives the prompt back, as at any terminal
        assert result.outcome is Outcome.EXITED
    else:
        assert result.outcome is Outcome.TIMED_OUT
    assert result.stdout.startswith("before\n")
    assert result.seconds < 3
    intact(sb)


@pytest.mark.parametrize(
    "command",
    ["trap '' INT TERM; while :; do :; done", "kill -STOP $$", "while :; do sleep 1 || :; done"],
)
def test_time_out_of_a_shell_that_cannot_be_interrupted(sb: Sandbox, command: str) -> None:
    result = sb.run(command, timeout=0.3)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.seconds < 3
    intact(sb)


@pytest.mark.timeout(60)
def test_a_gigabyte_in_bounded_memory(sb: Sandbox) -> None:
    import psutil

    before = psutil.Process().memory_info().rss
    result = sb.run(
        "echo first; yes 0123456789abcdef | head -c 1000000000; echo; echo last", timeout=60
    )
    grown = psutil.Process().memory_info().rss - before
    assert result.stdout.startswith("first\n")
    assert result.stdout.endswith("last\n")
    assert 1_000_000_000 - 300_000 < result.dropped_bytes < 1_000_000_100
    assert grown < 64 * 1024 * 1024
    assert result.full_output is not None
    assert result.full_output in result.stdout
    size = sb.run(f"stat -c %s {result.full_output}; rm -f {result.full_output}")
    assert int(size.stdout) == 64 * 1024 * 1024


def test_cut_output_counts_and_tells_where_the_whole_is(sb: Sandbox) -> None:
    result = sb.run("seq 1 100000")
    whole = "".join(f"{n}\n" for n in range(1, 100001))
    assert result.stdout.startswith("1\n2\n")
    assert result.stdout.endswith("99999\n100000\n")
    assert result.dropped_bytes == len(whole) - 256 * 1024
    assert result.full_output is not None
    assert sb.exec(["sha256sum", result.full_output]).ok
    assert sb.run(f"seq 1 100000 | cmp - {result.full_output}").exit_code == 0


def test_output_streams_while_it_comes(sb: Sandbox) -> None:
    seen: list[tuple[str, bytes]] = []
    first = threading.Event()

    def on_output(stream: str, data: bytes) -> None:
        seen.append((stream, data))
        first.set()

    def release() -> None:
        assert first.wait(10)
        sb.exec(["touch", "/tmp/seen"])

    waiter = threading.Thread(target=release)
    waiter.start()
    result = sb.run(
        "echo one; while ! test -e /tmp/seen; do sleep .02; done; echo two >&2", on_output=on_output
    )
    waiter.join()
    assert result.ok
    assert seen[0] == ("stdout", b"one\n")
    assert ("stderr", b"two\n") in seen
    sb.run("rm /tmp/seen").check()


def test_callback_that_raises_ends_the_command(sb: Sandbox) -> None:
    def on_output(stream: str, data: bytes) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        sb.run("echo x; sleep 100", on_output=on_output)
    intact(sb)


def test_interactive_python_across_calls(sb: Sandbox) -> None:
    with sb.interact("python3 -q") as python:
        python.expect(">>> ")
        python.sendline("x = 20 + 1")
        python.expect(">>> ")
        python.sendline("print(x * 2)")
        assert python.expect(r"\d+") == "42"
        python.sendline("exit(5)")
        assert python.finish(timeout=10).exit_code == 5
    intact(sb)


def test_interactive_read_and_interrupt(sb: Sandbox) -> None:
    with sb.interact("read -p 'name? ' name; echo \"hello $name\"") as reader:
        reader.expect(r"name\? ")
        reader.sendline("Ada")
        reader.expect("hello Ada")
        assert reader.finish(timeout=10).ok
    assert sb.run("echo $name").stdout == "Ada\n"
    with sb.interact("python3 -c \"print('up'); import time; time.sleep(100)\"") as sleeper:
        sleeper.expect("up")
        sleeper.control("c")
        result = sleeper.finish(timeout=10)
        assert (result.exit_code, result.outcome) == (130, Outcome.EXITED)
    intact(sb)


def test_interaction_left_open_is_ended(sb: Sandbox) -> None:
    with sb.interact("cat") as cat:
        cat.sendline("echo me")
        cat.expect("echo me")
    intact(sb)
    with sb.interact("true") as gone, pytest.raises(pexpect.EOF):
        gone.expect("never printed", timeout=10)
    with sb.interact("sleep 100") as sleeper, pytest.raises(pexpect.TIMEOUT):
        sleeper.expect("never printed", timeout=0.2)
    intact(sb)


def test_terminal_is_a_terminal(sb: Sandbox) -> None:
    with sb.interact("tty; test -t 0 && test -t 1 && stty size") as program:
        program.expect(r"/dev/pts/\d+")
        assert program.finish(timeout=10).ok


def test_further_named_shells_run_beside(sb: Sandbox) -> None:
    other = sb.shell("other")
    results = []
    thread = threading.Thread(
        target=lambda: results.append(
            other.run("while ! test -e /tmp/x; do sleep .02; done; echo o")
        )
    )
    thread.start()
    sb.run("touch /tmp/x").check()
    thread.join(10)
    assert results[0].stdout == "o\n"
    other.run("cd /etc; mine=1").check()
    assert sb.run('echo "$mine" "$PWD"').stdout == " /tmp\n"
    assert other.run('echo "$mine" "$PWD"').stdout == "1 /etc\n"
    sb.run("rm /tmp/x").check()


def test_check_raises_for_a_failed_command(sb: Sandbox) -> None:
    with pytest.raises(CommandFailedError) as caught:
        sb.run("echo because >&2; exit 4").check()
    assert caught.value.exit_code == 4
    assert "because" in caught.value.message


def test_directory_after_each_command(sb: Sandbox) -> None:
    assert sb.run("mkdir -p '/tmp/a b%s\n'; cd '/tmp/a b%s\n'").cwd == "/tmp/a b%s\n"
    assert sb.run("cd /").cwd == "/"


def test_large_state_does_not_make_every_command_slow(sb: Sandbox) -> None:
    sb.run("big=$(head -c 6000000 /dev/zero | tr '\\0' x)").check()
    started = time.monotonic()
    for _ in range(10):
        sb.run(":")
    assert time.monotonic() - started < 8
    assert sb.run("echo ${#big}; unset big").stdout == "6000000\n"


def test_closed_sandbox_says_so(home: Path, face: FaceName) -> None:
    sandbox = made(face, "minimal")
    with sandbox:
        assert sandbox.run("echo x").ok
    with pytest.raises(SandboxClosedError):
        sandbox.run("echo x")


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 3"])
def test_options_of_both_kinds_outlive_the_shell(sb: Sandbox, end: str) -> None:
    # one that is off by default and one that is on, of `set` and of `shopt`
    change = "set -o noglob; set +o braceexpand; shopt -s nullglob; shopt -u progcomp"
    look = "set +o; shopt -p"
    before = sb.run(look).check().stdout
    changed = sb.run(f"{change}; {look}").check().stdout
    assert len(set(changed.splitlines()) - set(before.splitlines())) == 4
    assert sb.run(end).restarted
    assert sb.run(look).check().stdout == changed
    undo = "set +o noglob; set -o braceexpand; shopt -u nullglob; shopt -s progcomp"
    assert sb.run(f"{undo}; {look}").check().stdout == before


def test_state_larger_than_a_pipe_holds_no_command_up(sb: Sandbox) -> None:
    # the shell prints it behind the command, and reads the next one only then
    sb.run("large=$(head -c 300000 /dev/zero | tr '\\0' x)").check()
    for _ in range(3):
        assert sb.run("echo ${#large}").check().stdout == "300000\n"
    assert sb.run("kill -9 $$").restarted
    assert sb.run("echo ${#large}; unset large").stdout == "300000\n"


def test_output_of_two_commands_never_meets(sb: Sandbox) -> None:
    # the pipe of a command serves the next one, unless somebody holds it
    sb.run("(for n in 1 2 3; do sleep 0.05; echo late; done) & echo first").check()
    for number in range(20):
        assert sb.run(f"echo {number}; echo {number} >&2").output == f"{number}\n{number}\n"
    assert sb.run("wait; echo last").stdout == "last\n"


def test_output_that_is_watched_comes_at_once(sb: Sandbox) -> None:
    parts: list[tuple[str, bytes]] = []
    script = "echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c"
    result = sb.run(script, on_output=lambda stream, data: parts.append((stream, data)))
    assert parts == [("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c\n")]
    assert result.merged_bytes == b"a\nb\nc\n"
