"""The scripted model: words and programs come from here, every value from what the tools answered.

It keeps no state. What comes next follows from the conversation alone: each call has an id, and
what was observed under which id decides what is said. An observation that does not hold what a
real run shows leaves the script at a loss, and it says so instead of going on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One tool call of the script."""

    id: str
    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One message of the script."""

    text: str
    calls: tuple[Call, ...] = ()


class AtALossError(Exception):
    """The conversation does not hold what the next message needs."""


class Conversation:
    """What the tools answered so far, by the id of the call."""

    def __init__(self, messages: Sequence[Json]) -> None:
        self._seen = {
            str(message.get("tool_call_id")): str(message.get("content") or "")
            for message in messages
            if message.get("role") == "tool"
        }

    def __contains__(self, call: str) -> bool:
        return call in self._seen

    def text(self, call: str) -> str:
        """Return an observation without line numbers, in one line."""
        if call not in self._seen:
            raise AtALossError(f"there was no answer to {call!r}")
        return " ".join(re.sub(r"(?m)^ *\d+\t", "", self._seen[call]).split())

    def lines(self, call: str) -> list[str]:
        """Return an observation's lines."""
        return self._seen.get(call, "").splitlines()

    def find(self, call: str, pattern: str) -> re.Match[str]:
        """Return where a pattern stands in an observation.

        Raises:
            AtALossError: It does not stand there.
        """
        match = re.search(pattern, self.text(call))
        if match is None:
            raise AtALossError(f"the answer to {call!r} does not hold {pattern!r}")
        return match

    def succeeded(self, call: str) -> None:
        """Check that a command ended with exit code 0.

        Raises:
            AtALossError: It did not.
        """
        self.find(call, r"^Exit code: 0\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Directories of the task, as the prompt names them."""

    working_dir: str
    input_dir: str
    output_dir: str


def reply(messages: Sequence[Json], places: Places) -> Reply:
    """Return the script's next message in a conversation."""
    seen = Conversation(messages)
    try:
        for call, needed, say in _MOVES:
            if call not in seen and needed(seen):
                return say(seen, places)
    except AtALossError as loss:
        return Reply(text=f"This is a script, and it cannot go on: {loss}.")
    return Reply(text="The task is submitted; the script has nothing more to say.")


def _always(seen: Conversation) -> bool:
    del seen
    return True


def _failed(seen: Conversation) -> bool:
    return "ValueError" in seen.text("run")


def _bash(call: str, command: str) -> Call:
    return Call(id=call, name="execute_bash", arguments={"command": command})


def _editor(call: str, command: str, path: str, **rest: object) -> Call:
    arguments = {"command": command, "path": path, **rest}
    return Call(id=call, name="str_replace_editor", arguments=arguments)


def _look(seen: Conversation, places: Places) -> Reply:
    del seen
    return Reply(
        text="Let me see first what there is.",
        calls=(_bash("look", f"cd {places.input_dir} && ls -l && wc -l *"),),
    )


def _heads(seen: Conversation, places: Places) -> Reply:
    lines = seen.find("look", r"(\d+) station_manual\.md \d+ total")[1]
    return Reply(
        text=f"Three tables and two documents. The manual has {lines} lines; I look at the first "
        "rows of the tables and at the headings, and then read the sections that matter.",
        calls=(
            _bash("heads", f"cd {places.input_dir} && head -n 5 *.csv"),
            _bash("headings", f"grep -n '^## ' {places.input_dir}/station_manual.md"),
        ),
    )


def _read(seen: Conversation, places: Places) -> Reply:
    seen.find("heads", r"date,stage .*\d{4}-\d\d-\d\d,\d")
    at = {
        match[2]: int(match[1])
        for line in seen.lines("headings")
        if (match := re.match(r"(\d+):## \d+ (.+)", line))
    }
    try:
        rating, nitrate, end = at["Rating"], at["Nitrate"], at["The yearly figures"]
    except KeyError as missing:
        raise AtALossError(f"the manual has no section {missing}") from None
    manual = f"{places.input_dir}/station_manual.md"
    return Reply(
        text=f"The figures are made by sections 5 to 9. I read the rating (from line {rating}) and "
        f"then nitrate, load and storm days (from line {nitrate}).",
        calls=(
            _editor("rating", "view", manual, view_range=[rating, nitrate - 1]),
            _editor("rules", "view", manual, view_range=[nitrate, end + 6]),
        ),
    )


def _log(seen: Conversation, places: Places) -> Reply:
    turn = _rating(seen)["BREAK"]
    return Reply(
        text=f"Rating R7 applies (two branches, break at {turn} m), not R6. Now the field log: "
        "units, shifts of the sensor, void bottles, change of laboratory. Entries are paragraphs, "
        "so I search by paragraph.",
        calls=(
            _bash(
                "log",
                "awk -v RS= -v ORS='\\n\\n' '/metres|too (high|low)|void|laborator|level/' "
                f"{places.input_dir}/field_log.md",
            ),
        ),
    )


def _odd(seen: Conversation, places: Places) -> Reply:
    found = _station(seen)
    return Reply(
        text=f"So the stage is in centimetres from {found['CM_FIRST']} to {found['CM_LAST']}, "
        f"{found['SHIFT']} m off from {found['SHIFT_FIRST']} to {found['SHIFT_LAST']}, bottles up "
        f"to {found['LAST_ION']} are nitrate ion, and {found['VOID_NAMES']} are void. Which "
        "values of stage and nitrate are no numbers?",
        calls=(
            _bash(
                "odd",
                f"cd {places.input_dir}\n"
                "tail -n +2 stage.csv | cut -d, -f2 | grep -vE '^[0-9.]+$' | sort | uniq -c\n"
                "tail -n +2 nitrate.csv | cut -d, -f3 | grep -vE '^[0-9.]+$' | sort | uniq -c\n"
                "sed -n '/^### 4.2/,/^### 4.3/p' station_manual.md",
            ),
        ),
    )


def _write(seen: Conversation, places: Places) -> Reply:
    seen.succeeded("odd")
    seen.find("odd", "interpolated linearly in time")
    errors = re.search(r"(\d+) ERR", seen.text("odd"))
    return Reply(
        text=f"{errors[1] if errors else 'No'} days have ERR: interpolate after the corrections. "
        "Results behind `<` count as half. Now the program.",
        calls=(
            _editor(
                "write", "create", f"{places.working_dir}/analysis.py",
                file_text=_program("analysis", _station(seen), places),
            ),
        ),
    )  # fmt: skip


def _run(seen: Conversation, places: Places) -> Reply:
    seen.find("write", "File created at")
    return Reply(
        text="Run it.", calls=(_bash("run", f"cd {places.working_dir} && python analysis.py"),)
    )


def _trace(seen: Conversation, places: Places) -> Reply:
    value = seen.find("run", r"could not convert string to float: '([^']*)'")[1]
    return Reply(
        text=f"rain.csv holds {value!r}: I had checked the other two tables for such values, but "
        "not this one. What does the manual say of it?",
        calls=(
            _bash(
                "trace",
                f"cd {places.input_dir} && grep -c ',{value}$' rain.csv; "
                f"grep -n -A2 '`{value}`' station_manual.md",
            ),
        ),
    )


def _repair(seen: Conversation, places: Places) -> Reply:
    value = seen.find("run", r"could not convert string to float: '([^']*)'")[1]
    count = seen.find("trace", r"\[STDOUT\] (\d+)")[1]
    amount = seen.find("trace", r"counts as ([\d.]+) mm")[1]
    return Reply(
        text=f"A trace of rain, on {count} days, and it counts as {amount} mm.",
        calls=(
            _editor(
                "repair", "str_replace", f"{places.working_dir}/analysis.py",
                old_str='    rain[day(row["date"])] = float(row["rain_mm"])',
                new_str='    text = row["rain_mm"]  # a trace has a letter in place of a number\n'
                f'    rain[day(row["date"])] = {amount} if text == "{value}" else float(text)',
            ),
        ),
    )  # fmt: skip


def _rerun(seen: Conversation, places: Places) -> Reply:
    seen.find("repair", "has been edited")
    return Reply(
        text="Again.", calls=(_bash("rerun", f"cd {places.working_dir} && python analysis.py"),)
    )


def _second(seen: Conversation, places: Places) -> Reply:
    load, share = _figures(seen, _last_run(seen))
    return Reply(
        text=f"{float(load):.1f} t and {float(share):.1f} %. Before I rely on that I compute both "
        "a second time by another way, as the manual wants: with arrays, and sharing no code.",
        calls=(
            _editor(
                "second", "create", f"{places.working_dir}/crosscheck.py",
                file_text=_program("crosscheck", _station(seen), places),
            ),
            _bash("second-run", f"cd {places.working_dir} && python crosscheck.py"),
        ),
    )  # fmt: skip


def _report(seen: Conversation, places: Places) -> Reply:
    first, second = _figures(seen, _last_run(seen)), _figures(seen, "second-run")
    if any(abs(float(a) - float(b)) > 1e-4 for a, b in zip(first, second, strict=True)):
        raise AtALossError(f"the two ways disagree: {first} and {second}")
    values = _station(seen) | {"SECOND_LOAD": second[0], "SECOND_SHARE": second[1]}
    return Reply(
        text=f"Both ways agree: {second[0]} t and {second[1]} %. Now answer, plot and report.",
        calls=(
            _editor(
                "report", "create", f"{places.working_dir}/report.py",
                file_text=_program("report", values, places),
            ),
            _bash("report-run", f"cd {places.working_dir} && python report.py"),
        ),
    )  # fmt: skip


def _check(seen: Conversation, places: Places) -> Reply:
    seen.succeeded("report-run")
    return Reply(
        text="Is everything in place, and does the report hold what it should?",
        calls=(
            _bash(
                "check",
                f"cd {places.output_dir} && ls -l && cat answer.txt && file plot.png && "
                "grep -c 'data:image/png;base64' report.html && "
                "sed -n '/class=\"figures\"/,/<h2>/p' report.html",
            ),
        ),
    )


def _submit(seen: Conversation, places: Places) -> Reply:
    del places
    seen.succeeded("check")
    load, share = seen.find("check", r"([\d.]+) t, ([\d.]+) %").groups()
    return Reply(
        text=f"The river carried {load} tonnes of nitrate nitrogen, {share} percent of it on storm "
        "days. Answer, plot and report are in the output directory.",
        calls=(Call(id="submit", name="submit", arguments={}),),
    )


def _last_run(seen: Conversation) -> str:
    return "rerun" if "rerun" in seen else "run"


def _figures(seen: Conversation, call: str) -> tuple[str, str]:
    seen.succeeded(call)
    match = seen.find(call, r"load ([\d.]+) t storm share ([\d.]+) %")
    return match[1], match[2]


def _rating(seen: Conversation) -> dict[str, str]:
    number, curve = r"(\d+\.\d+)", r"Q = (\d+\.\d+) \* \(h - (\d+\.\d+)\) \^ (\d+\.\d+)"
    match = seen.find("rating", f"Rating R7 .*?Break: h = {number} m.*?{curve}.*?{curve}")
    return dict(zip(("BREAK", "A1", "H1", "B1", "A2", "H2", "B2"), match.groups(), strict=True))


def _station(seen: Conversation) -> dict[str, str]:
    """Return all that the programs need of manual and log, read from the observations."""
    days = r"from (\S+) to (\S+), both included,"
    centimetres = seen.find("log", f"{days} are in centimetres")
    shift = seen.find("log", rf"{days} are ([\d.]+) m too (high|low)")
    ion = seen.find("log", r"including bottle (N-\d+) were reported as the nitrate ion")
    void = re.findall(r"Bottle (N-\d+) is void", seen.text("log"))
    return _rating(seen) | {
        "CM_FIRST": centimetres[1],
        "CM_LAST": centimetres[2],
        "SHIFT_FIRST": shift[1],
        "SHIFT_LAST": shift[2],
        "SHIFT": shift[3] if shift[4] == "high" else f"-{shift[3]}",
        "VOID": ", ".join(f'"{bottle}"' for bottle in void),
        "VOID_NAMES": ", ".join(void) or "none",
        "LAST_ION": ion[1],
        "ION_TO_N": seen.find("rules", r"\(NO3\), multiply by (\d\.\d+)")[1],
        "STORM": seen.find("rules", r"is at least ([\d.]+) mm")[1],
    }


def _program(name: str, values: Mapping[str, str], places: Places) -> str:
    source = resources.files("sandbox_lite.demo") / "programs" / f"{name}.py.txt"
    known = {**values, "INPUT": places.input_dir, "OUTPUT": places.output_dir}
    return re.sub(
        "@([A-Z0-9_]+)@", lambda match: known[match[1]], source.read_text(encoding="utf-8")
    )


_MOVES: tuple[
    tuple[str, Callable[[Conversation], bool], Callable[[Conversation, Places], Reply]], ...
] = (
    ("look", _always, _look),
    ("heads", _always, _heads),
    ("rating", _always, _read),
    ("log", _always, _log),
    ("odd", _always, _odd),
    ("write", _always, _write),
    ("run", _always, _run),
    ("trace", _failed, _trace),
    ("repair", _failed, _repair),
    ("rerun", _failed, _rerun),
    ("second", _always, _second),
    ("report", _always, _report),
    ("check", _always, _check),
    ("submit", _always, _submit),
)
"""Each move by the id of its first call, and when it is needed."""
