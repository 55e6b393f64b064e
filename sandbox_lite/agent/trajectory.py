"""What happened in one run: steps, why it stopped; as JSON lines, and back.

Reads two formats: our own, which is written step by step, and the one in which the authors of
LLM-in-Sandbox published their runs.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sandbox_lite
from sandbox_lite.agent.tools.tool import Observation, ToolCall
from sandbox_lite.errors import HostError, SandboxLiteError, TaskError
from sandbox_lite.spec import (
    Enforcement,
    Limits,
    LimitState,
    Mount,
    NetworkRequest,
    Publish,
    PublishedPort,
    SandboxSpec,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1

DIRECTORIES = ("/testbed", "/testbed/input", "/testbed/output")
"""Of the published runs: where the model works, finds the input, leaves the output."""

Json = dict[str, Any]


class StopReason(StrEnum):
    """Why a run ended."""

    SUBMITTED = "submitted"
    STEP_LIMIT = "step_limit"
    TOKEN_LIMIT = "token_limit"
    TIME_LIMIT = "time_limit"
    CONTEXT_FULL = "context_full"
    NO_TOOL_CALL = "no_tool_call"
    """The model kept talking without calling a tool."""
    MODEL_ERROR = "model_error"
    SANDBOX_ERROR = "sandbox_error"
    INTERRUPTED = "interrupted"

    @property
    def exit_code(self) -> int:
        """What the command line ends with: 0, 1 without an answer, 125 our fault, 130 Ctrl-C."""
        codes = {"submitted": 0, "model_error": 125, "sandbox_error": 125, "interrupted": 130}
        return codes.get(self.value, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of one step, as the server counts them."""

    prompt: int = 0
    completion: int = 0
    environment: int = 0
    """Part of the prompt that is new since the last completion: observations and reminders."""
    estimated: bool = False
    """The server gave no counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seconds:
    """Wall time of one step."""

    model: float = 0.0
    environment: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One message of the model and what its calls brought."""

    index: int
    """From 1."""
    thought: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    observations: tuple[Observation, ...] = ()
    """One of each call, in the same order."""
    note: str = ""
    """What the loop told the model after the observations: a reminder, the steps remaining."""
    finish_reason: str = ""
    tokens: Tokens = field(default_factory=Tokens)
    seconds: Seconds = field(default_factory=Seconds)
    requests: tuple[NetworkRequest, ...] = ()
    """What the sandbox asked of the outside since the step before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One run."""

    task: str
    model: str = ""
    system_prompt: str = ""
    instance_prompt: str = ""
    directories: tuple[str, ...] = DIRECTORIES
    """Made before the first step; commands start in the first of them."""
    started: str = ""
    """ISO 8601, UTC."""
    spec: SandboxSpec | None = None
    enforcement: Enforcement | None = None
    steps: tuple[Step, ...] = ()
    stop: StopReason | None = None
    """None: the run was cut off before it could say."""
    answer: str | None = None
    """Content of answer.txt in the output directory."""
    error: str | None = None
    """What failed, where something did."""
    hint: str | None = None
    source: Literal["sandbox-lite", "published"] = "sandbox-lite"

    @property
    def tokens(self) -> Tokens:
        """Sum over all steps."""
        return Tokens(
            prompt=sum(step.tokens.prompt for step in self.steps),
            completion=sum(step.tokens.completion for step in self.steps),
            environment=sum(step.tokens.environment for step in self.steps),
            estimated=any(step.tokens.estimated for step in self.steps),
        )

    @property
    def seconds(self) -> Seconds:
        """Sum over all steps."""
        return Seconds(
            model=sum(step.seconds.model for step in self.steps),
            environment=sum(step.seconds.environment for step in self.steps),
        )


class TrajectoryWriter(AbstractContextManager["TrajectoryWriter"]):
    """Writes a trajectory while it happens; each line is on the disk before the next step.

    Raises:
        HostError: The file cannot be written, from every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: after a full disk nothing is left over that a later close would choke on
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(self, *args: object) -> None:
        self.close()

    def whole(self, trajectory: Trajectory) -> None:
        """Write a run that is over: all its lines together wait for the disk once."""
        self._write(
            [_header(trajectory), *map(_step_line, trajectory.steps), _end_line(trajectory)]
        )

    def begin(self, trajectory: Trajectory) -> None:
        """Write the header; steps and end of `trajectory` are not looked at."""
        self._write([_header(trajectory)])

    def step(self, step: Step) -> None:
        """Write one step."""
        self._write([_step_line(step)])

    def end(self, trajectory: Trajectory) -> None:
        """Write why the run stopped, and the totals."""
        self._write([_end_line(trajectory)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, lines: Iterable[Json]) -> None:
        text = "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in lines)
        # a lone surrogate becomes the escape that JSON has for it
        left = memoryview(text.encode(errors="backslashreplace"))
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe knows no fsync
                raise self._failed(error) from error

    def _failed(self, error: OSError) -> HostError:
        return HostError(
            f"cannot write {self.path}: {error.strerror}",
            hint="free some space, or name another directory for the run",
        )


def _header(trajectory: Trajectory) -> Json:
    spec = trajectory.spec
    return {
        "kind": "header",
        "format": FORMAT,
        "version": sandbox_lite.__version__,
        "started": trajectory.started or now(),
        "task": trajectory.task,
        "model": trajectory.model,
        "system_prompt": trajectory.system_prompt,
        "instance_prompt": trajectory.instance_prompt,
        "directories": trajectory.directories,
        "spec": None if spec is None else _spec_json(spec),
        "enforcement": trajectory.enforcement and dataclasses.asdict(trajectory.enforcement),
    }


def _step_line(step: Step) -> Json:
    return {"kind": "step", **dataclasses.asdict(step)}


def _end_line(trajectory: Trajectory) -> Json:
    return {
        "kind": "end",
        "stop": trajectory.stop,
        "answer": trajectory.answer,
        "error": trajectory.error,
        "hint": trajectory.hint,
        "steps": len(trajectory.steps),
        "tokens": dataclasses.asdict(trajectory.tokens),
        "seconds": dataclasses.asdict(trajectory.seconds),
    }


def now() -> str:
    """Return the time as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load(path: Path) -> Trajectory:
    """Return a recorded trajectory, ours or a published one; a torn last line is left out.

    Raises:
        TaskError: The file cannot be read, or is no trajectory.
    """
    try:
        text = path.read_bytes().decode(errors="replace")  # a torn line may end within a character
    except OSError as error:
        raise TaskError(
            f"cannot read the trajectory {path}: {error.strerror}",
            hint="name a trajectory.jsonl of a run, or a published trajectory",
        ) from error
    try:
        header = _parse(text.partition("\n")[0])
        if header is not None and header.get("kind") == "header":
            return _ours(header, text, path)
        return _published(json.loads(text))
    except SandboxLiteError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TaskError(
            f"{path} is no trajectory: {type(error).__name__} {error}",
            hint="name a trajectory.jsonl of a run, or a published trajectory",
        ) from error


def _parse(line: str) -> Json | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _ours(header: Json, text: str, path: Path) -> Trajectory:
    if header["format"] != FORMAT:
        raise TaskError(
            f"{path} has format {header['format']}, and this version reads {FORMAT}",
            hint="use the version of sandbox-lite that wrote it",
        )
    lines = [_parse(line) for line in text.split("\n")[1:] if line.strip()]
    if None in lines[:-1]:
        raise TaskError(f"{path} is damaged: line {lines.index(None) + 2} is no JSON")
    found = [line for line in lines if line is not None]
    end = next((line for line in found if line.get("kind") == "end"), {})
    enforcement = header.get("enforcement")
    return Trajectory(
        task=header["task"],
        model=header.get("model", ""),
        system_prompt=header.get("system_prompt", ""),
        instance_prompt=header.get("instance_prompt", ""),
        directories=tuple(header.get("directories") or DIRECTORIES),
        started=header.get("started", ""),
        spec=_spec(header["spec"]) if header.get("spec") else None,
        enforcement=_enforcement(enforcement) if enforcement else None,
        steps=tuple(_step(line) for line in found if line.get("kind") == "step"),
        stop=StopReason(end["stop"]) if end.get("stop") else None,
        answer=end.get("answer"),
        error=end.get("error"),
        hint=end.get("hint"),
    )


def _enforcement(data: Json) -> Enforcement:
    parts: Json = {
        "limits": tuple(LimitState(**_known(LimitState, o)) for o in data.get("limits") or ()),
        "published": tuple(
            PublishedPort(**_known(PublishedPort, one)) for one in data.get("published") or ()
        ),
    }
    return Enforcement(**(_tuples(_known(Enforcement, data)) | parts))


def _step(line: Json) -> Step:
    parts: Json = {
        "calls": tuple(ToolCall(**_known(ToolCall, item)) for item in line["calls"]),
        "observations": tuple(_observation(item) for item in line["observations"]),
        "tokens": Tokens(**_known(Tokens, line["tokens"])),
        "seconds": Seconds(**_known(Seconds, line["seconds"])),
    }
    parts["requests"] = tuple(
        NetworkRequest(**_known(NetworkRequest, item)) for item in line.get("requests") or ()
    )
    return Step(**(_known(Step, line) | parts))


def _observation(data: Json) -> Observation:
    usage = data.get("usage")
    parts: Json = {"usage": usage and Usage(**_known(Usage, usage))}
    return Observation(**(_known(Observation, data) | parts))


def _known(kind: type, data: Json) -> Json:
    """Return the members that this version knows; a later one may have written more."""
    names = {entry.name for entry in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def _tuples(data: Json) -> Json:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def _spec_json(spec: SandboxSpec) -> Json:
    # values of variables are where people keep keys; a record needs the names alone
    data = dataclasses.asdict(dataclasses.replace(spec, env={}))
    return data | {"env": dict.fromkeys(spec.env, "***")}


def _spec(data: Json) -> SandboxSpec | None:
    try:
        mounts: Iterable[Json] = data.get("mounts") or ()
        parts: Json = {
            "env": {},
            "publish": tuple(Publish(**_known(Publish, one)) for one in data.get("publish") or ()),
            "limits": Limits(**_tuples(_known(Limits, data["limits"]))),
            "mounts": tuple(
                Mount(**(_known(Mount, m) | {"source": m["source"] and Path(m["source"])}))
                for m in mounts
            ),
        }
        return SandboxSpec(**(_tuples(_known(SandboxSpec, data)) | parts))
    except (SandboxLiteError, KeyError, TypeError):
        return None  # another version's vocabulary; the steps are what is wanted


def _published(data: Json) -> Trajectory:
    return Trajectory(
        task=data["problem_statement"],
        steps=tuple(_published_step(item, n) for n, item in enumerate(data["steps"], 1)),
        source="published",
    )


def _published_step(item: Json, index: int) -> Step:
    action, text = item.get("action"), str(item.get("observation") or "")
    seconds = Seconds(model=float((item.get("metadata") or {}).get("exec_time") or 0))
    thought, reasoning = item.get("thought") or "", item.get("reasoning_content") or ""
    if not isinstance(action, dict) or not action.get("function"):
        return Step(index=index, thought=thought, reasoning=reasoning, note=text, seconds=seconds)
    call = ToolCall(
        id=f"step_{index}",
        name=str(action["function"]),
        arguments=json.dumps(action.get("parameters") or {}),
    )
    return Step(
        index=index,
        thought=thought,
        reasoning=reasoning,
        calls=(call,),
        observations=(Observation(call_id=call.id, content=text),),
        seconds=seconds,
    )
