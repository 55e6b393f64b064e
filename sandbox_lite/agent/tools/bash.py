"""`execute_bash`: one command in the sandbox's persistent shell."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from sandbox_lite.agent.tools.tool import Refusal, Reply, Tool, clip, readable
from sandbox_lite.agent.work import answer
from sandbox_lite.errors import FileAccessError, ShellDiedError
from sandbox_lite.spec import Limits, Outcome, format_size

if TYPE_CHECKING:
    from sandbox_lite.agent.tools.tool import AnyComputer, Arguments, ToolContext
    from sandbox_lite.agent.work import Work
    from sandbox_lite.spec import CommandResult, LimitName


def _execute(computer: AnyComputer, arguments: Arguments, context: ToolContext) -> Work[Reply]:
    command = str(arguments["command"])
    if not command.strip():
        raise Refusal("`command` is empty. Give a bash command such as `ls -la`.")
    if "\0" in command:
        raise Refusal("A command cannot hold a NUL byte. Write such bytes with printf '\\0'.")
    timeout = _timeout(arguments.get("timeout"), context)
    try:
        result = yield from answer(
            computer.run(command, timeout=timeout, on_output=context.on_output)
        )
    except ShellDiedError as error:
        if error.inside:
            # no fault of the machine: else a model could leave whenever its answer is wrong
            raise Refusal(
                f"No command can run any more: {error.message}. What bash needs was changed or "
                "removed in the sandbox. The editor and `submit` still work."
            ) from error
        if not error.restarted:
            raise
        raise Refusal(
            f"The shell died ({error.message}). A fresh one is ready; set directory and variables "
            "again before you go on."
        ) from error
    text = yield from _text(computer, result, timeout, context)
    return Reply(content=text, exit_code=result.exit_code, usage=result.usage)


def _timeout(asked: object, context: ToolContext) -> float:
    seconds = float(asked) if isinstance(asked, (int, float)) else context.timeout_seconds
    if not 0 < seconds <= context.max_timeout_seconds:  # NaN is refused too
        raise Refusal(
            f"`timeout` must be above 0 and at most {context.max_timeout_seconds:g} seconds. "
            "Start what takes longer in the background: nohup COMMAND > LOG 2>&1 &"
        )
    return seconds if context.seconds_left is None else max(0.1, min(seconds, context.seconds_left))


def _text(
    computer: AnyComputer, result: CommandResult, timeout: float, context: ToolContext
) -> Work[str]:
    stdout, stderr = readable(result.stdout), readable(result.stderr)
    where = result.full_output
    fits = all(
        clip(text, max_lines=context.max_lines, max_bytes=context.max_bytes) == text
        for text in (stdout, stderr)
    )
    if not fits and where is None:
        where = yield from _keep(computer, result)
    stdout, stderr = (
        clip(text, max_lines=context.max_lines, max_bytes=context.max_bytes, where=where)
        for text in (stdout, stderr)
    )
    parts = [f"Exit code: {result.exit_code}", "[STDOUT]"]
    parts.append(stdout.removesuffix("\n") if stdout or stderr else "(no output)")
    if stderr:
        parts += ["[STDERR]", stderr.removesuffix("\n")]
    limits = getattr(getattr(computer, "spec", None), "limits", None)
    parts += [f"[NOTE] {note}" for note in _notes(result, timeout, limits)]
    return "\n".join(parts)


def _keep(computer: AnyComputer, result: CommandResult) -> Work[str | None]:
    """Write the whole output to a file inside, for reading what is not shown."""
    path = f"/tmp/output-{secrets.token_hex(4)}.txt"
    try:
        yield from answer(computer.files.write(path, result.merged_bytes))
    except FileAccessError:  # a full disk must not hide what the command said
        return None
    return path


def _notes(result: CommandResult, timeout: float, limits: Limits | None) -> list[str]:
    notes = []
    if "wall" in result.limits_hit:
        notes.append("The time of this sandbox is over; no further command can run.")
    elif result.outcome is Outcome.TIMED_OUT:
        notes.append(
            f"The command was stopped after {timeout:g} s. The shell keeps its state. Give a "
            "larger `timeout`, or run it in the background: nohup COMMAND > LOG 2>&1 &"
        )
    notes += _limit_notes(result, limits or Limits())
    reasons = list(dict.fromkeys(one.reason for one in result.refused))
    notes += [f"Network: {reason}" for reason in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        notes.append(f"Network: {len(reasons) - _MOST_REASONS} more requests were refused.")
    if result.outcome is Outcome.KILLED:
        notes.append("The command was killed from outside, perhaps for want of memory.")
    if result.restarted:
        notes.append(
            "The command ended the shell; a fresh one has the directory and variables back. "
            "Put `exit` and `exec` in a script or in ( ... )."
        )
    if result.background:
        place = f" to {result.full_output}" if result.full_output else ""
        notes.append(f"A background job goes on; its further output goes{place or ' unseen'}.")
    return notes


def _limit_notes(result: CommandResult, limits: Limits) -> list[str]:
    """Return one line for each limit that was met, with what can be done about it."""
    failed = result.outcome in _LIMIT_OUTCOMES
    how = "killed" if failed else "the command went on, but a process of it was killed"
    whose = " (or one that ran meanwhile)" if result.shared else ""
    memory, disk, shm = (
        format_size(size) if size is not None else "what there is"
        for size in (limits.memory_bytes, limits.disk_bytes, limits.shm_bytes)
    )
    lines: dict[LimitName, str] = {
        "memory": f"{how}: the command{whose} needed more than {memory} of memory, the limit of "
        "this sandbox. Work on smaller pieces, or stream the data.",
        "disk": f"the disk is full: {disk}, or the number of files that goes with it, is the limit "
        "of this sandbox. Remove what is not needed.",
        "shm": f"/dev/shm is full: {shm} is the limit of this sandbox. Remove what is not needed "
        "there, or use the disk.",
        "pids": f"processes were refused: {limits.pids} at once, threads included, is the limit "
        "of this sandbox. Start fewer at a time.",
    }
    notes = [lines[name] for name in result.limits_hit if name in lines]
    if result.leftovers_killed:
        notes.append(
            f"{result.leftovers_killed} processes that earlier commands had left behind used up "
            "the limit of processes and were killed."
        )
    if result.repeats and (failed or result.outcome is Outcome.TIMED_OUT):
        notes.append(
            f"{result.repeats + 1} commands in a row have ended so. Try something different."
        )
    return notes


_MOST_REASONS = 3
_LIMIT_OUTCOMES = (Outcome.OUT_OF_MEMORY, Outcome.PIDS_LIMIT, Outcome.DISK_FULL)


TOOL = Tool(
    name="execute_bash",
    aliases=("bash",),
    parameter_aliases={"cmd": "command"},
    description=(
        "Run a command in a persistent bash shell inside the sandbox. Directory, variables, "
        "functions and an activated venv carry over to the next call. Standard input is empty: "
        "use non-interactive flags. Long output is cut in the middle and the whole of it kept in a "
        "file that is named in the observation."
    ),
    parameters={
        "command": {
            "type": "string",
            "description": "The bash command, of any length, e.g. `python solve.py`.",
        },
        "timeout": {
            "type": "number",
            "description": "Seconds after which the command is stopped. Default: 120.",
        },
    },
    required=("command",),
    function=_execute,
)
