"""What a tool is: call, observation, arguments checked against a literal schema, text cut to fit.

Knows neither the tools nor a model. `Computer` is all that a tool may ask of a sandbox, and
`AsyncComputer` the same of one that is asyncio's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sandbox_lite.spec import KIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sandbox_lite.agent.work import Work
    from sandbox_lite.spec import CommandResult, Usage

CLIP_MARK = re.compile(r"\n?\[\.\.\. (?:(\d+) bytes|[^\n]*?) left out[^\n]* \.\.\.\]\n?")
"""The line between head and tail; the jail's own capture writes one of the same shape."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


class FileEntry(Protocol):
    """One name in a directory."""

    @property
    def name(self) -> str:
        """The name, without its directory."""

    @property
    def kind(self) -> str:
        """`directory`, or something else."""


class FileAccess(Protocol):
    """What a tool needs of `Sandbox.files`."""

    def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file, refused (EFBIG) where it is longer."""

    def write(self, path: str, data: bytes | str) -> None:
        """Write a file, making its directories."""

    def list(self, path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory."""


class Computer(Protocol):
    """What a tool needs of `Sandbox`."""

    @property
    def files(self) -> FileAccess:
        """The sandbox's files."""

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> CommandResult:
        """Run a command in the persistent shell."""


class AsyncFileAccess(Protocol):
    """What a tool needs of `AsyncSandbox.files`."""

    def read(self, path: str, *, max_bytes: int | None = None) -> Awaitable[bytes]:
        """See `FileAccess.read`."""

    def write(self, path: str, data: bytes | str) -> Awaitable[None]:
        """See `FileAccess.write`."""

    def list(self, path: str) -> Awaitable[Sequence[FileEntry]]:
        """See `FileAccess.list`."""


class AsyncComputer(Protocol):
    """What a tool needs of `AsyncSandbox`."""

    @property
    def files(self) -> AsyncFileAccess:
        """The sandbox's files."""

    def run(
        self,
        command: str,
        *,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> Awaitable[CommandResult]:
        """See `Computer.run`."""


AnyComputer = Computer | AsyncComputer
"""What a tool is given: it asks by `work.answer`, and need not know which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What the model asked for; `arguments` is the text it wrote, JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the model is shown of one call."""

    call_id: str
    content: str
    is_error: bool = False
    """The call was refused and changed nothing; a command that failed is no error."""
    final: bool = False
    """The run ends here."""
    exit_code: int | None = None
    """Of a command."""
    usage: Usage | None = None
    """What a command took; for the record, the model is not shown it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a tool's function returns: an observation that does not know its call yet."""

    content: str
    final: bool = False
    exit_code: int | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What surrounds a call: time and room."""

    without: frozenset[str] = frozenset()
    """Names of tools that are neither offered nor executed."""

    timeout_seconds: float = 120.0
    """Of a command whose call names none."""
    max_timeout_seconds: float = 3600.0
    """The most that a call may name."""
    seconds_left: float | None = None
    """Of the whole run; bounds every command."""
    max_lines: int = 400
    """Shown of one stream or file."""
    max_bytes: int = 24 * KIB
    """Shown of one stream or file."""
    max_file_bytes: int = 16 * 1024 * KIB
    """The largest file that the editor opens."""
    on_output: Callable[[str, bytes], None] | None = None
    """Told of a command's output while it comes."""


class Refusal(Exception):
    """A call that cannot be served; its text says what to do instead."""


Arguments = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool: names, literal JSON schema, function."""

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, object]]
    """JSON schema of each parameter."""
    required: tuple[str, ...]
    function: Callable[[AnyComputer, Arguments, ToolContext], Work[Reply]]
    aliases: tuple[str, ...] = ()
    """Names under which other packages' models know it."""
    parameter_aliases: Mapping[str, str] = field(default_factory=dict)
    any_parameters: bool = False
    """Unknown parameters are ignored rather than refused."""

    @property
    def schema(self) -> dict[str, object]:
        """The tool as the `tools` list of a chat completion wants it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {name: dict(rule) for name, rule in self.parameters.items()},
                    "required": list(self.required),
                },
            },
        }

    def parse(self, arguments: str) -> Arguments:
        """Return the checked arguments of a call.

        Raises:
            Refusal: They are no JSON object, or do not fit the schema.
        """
        given = _json_object(arguments)
        checked: Arguments = {}
        for key, value in given.items():
            name = self.parameter_aliases.get(key, key)
            if value is None:  # many models write null for what they leave out
                continue
            if name not in self.parameters:
                if self.any_parameters:
                    continue
                raise Refusal(
                    f"{self.name} has no parameter `{key}`. Its parameters are: "
                    + (", ".join(f"`{known}`" for known in self.parameters) or "none")
                    + "."
                )
            checked[name] = _fit(name, value, self.parameters[name])
        missing = [name for name in self.required if name not in checked]
        if missing:
            names = ", ".join(f"`{name}`" for name in missing)
            raise Refusal(
                f"{self.name} needs {names}. Call it again with every required parameter."
            )
        return checked


def _json_object(text: str) -> dict[str, object]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text, strict=False)  # models write raw newlines into JSON strings
    except (ValueError, RecursionError) as error:
        raise Refusal(
            f"The arguments are not valid JSON ({error}). Nothing was done. Call the tool again "
            "with one JSON object; escape quotes, backslashes and newlines inside strings."
        ) from None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return _json_object(value)  # encoded twice
    if not isinstance(value, dict):
        raise Refusal('The arguments must be one JSON object such as {"command": "ls"}.')
    return value


def _fit(name: str, value: object, rule: Mapping[str, object]) -> object:
    """Return `value` as the type its rule names; what can be meant in one way only is converted."""
    kind = rule["type"]
    if kind in ("array", "integer", "number") and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if isinstance(value, float) and kind in ("integer",) and value.is_integer():
        value = int(value)
    right = {
        "string": isinstance(value, str),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, (int, float)) and not isinstance(value, bool),
        "array": isinstance(value, list)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value),
    }[str(kind)]
    if not right:
        wanted = "a list of integers" if kind == "array" else f"of type {kind}"
        raise Refusal(f"`{name}` must be {wanted}. Call the tool again with that.")
    allowed = rule.get("enum")
    if isinstance(allowed, (list, tuple)) and value not in allowed:
        raise Refusal(f"`{name}` must be one of: {', '.join(map(str, allowed))}; not {value!r}.")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refusal(
                f"`{name}` holds half of a surrogate pair, which is no character. Write the "
                "character itself, or build the bytes with a program."
            ) from None
    return value


def clip(text: str, *, max_lines: int, max_bytes: int, where: str | None = None) -> str:
    """Return the head and the tail of a text that is too long, with a line between that counts.

    Args:
        text: What a command wrote.
        max_lines: Lines kept, half of them of the head.
        max_bytes: Bytes kept, as UTF-8, half of them of the head.
        where: Path of the whole text, named in the line between.
    """
    data = text.encode(errors="replace")
    head_end = min(_end_of_line(data, max_lines - max_lines // 2), max_bytes - max_bytes // 2)
    tail_start = max(_start_of_line(data, max_lines // 2), len(data) - max_bytes // 2)
    if tail_start <= head_end:
        return text
    head = data[:head_end].decode(errors="ignore")
    tail = data[tail_start:].decode(errors="ignore")
    middle = data[head_end:tail_start]
    inner = CLIP_MARK.search(middle.decode(errors="replace"))
    dropped = int(inner[1] or 0) if inner else 0
    hint = f"; the whole text is in {where}" if where else ""
    lines = middle.count(b"\n")
    return (
        f"{head.removesuffix(chr(10))}\n[... {len(middle) + dropped} bytes left out"
        f" ({'more than ' if dropped else ''}{lines} lines){hint} ...]\n{tail}"
    )


def _end_of_line(data: bytes, count: int) -> int:
    """Return the offset after the `count`-th line."""
    end = 0
    for _ in range(count):
        end = data.find(b"\n", end) + 1
        if end == 0:
            return len(data)
    return end


def _start_of_line(data: bytes, count: int) -> int:
    """Return the offset of the `count`-th line from the end."""
    start = len(data) - data.endswith(b"\n")
    for _ in range(count):
        start = data.rfind(b"\n", 0, start)
        if start < 0:
            return 0
    return start + 1


def readable(text: str) -> str:
    """Return text without terminal escapes, and NUL, which some servers refuse, written out."""
    return _ESCAPES.sub("", text).replace("\0", "\\0")
