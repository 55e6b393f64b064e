"""Settings, from the weakest source to the strongest: default, file, environment, flags.

Each value knows where it came from. Keys are no settings: the environment alone holds them, and
only the name of the variable is kept here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from sandbox_lite.errors import HostError, SpecError
from sandbox_lite.jail import places
from sandbox_lite.spec import IDS, LEAST_CPUS, Limits, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DEFAULT = "default"
_SECRET = re.compile(r"key$|token$|secret|passw|authorization|credential", re.IGNORECASE)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value.strip()


def _name(value: object) -> str:
    text = _text(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is None:
        raise ValueError("the name of an environment variable")
    return text


def _url(value: object) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != -1
    except ValueError:
        good = False
    if not good:
        raise ValueError("an address such as http://127.0.0.1:8000/v1")
    return text


def _size(value: object) -> str:
    text = str(value) if isinstance(value, int) else _text(value)
    try:
        parse_size(text)
    except SpecError:
        raise ValueError("a size such as 512MiB") from None
    return text


def _ids(value: object) -> str:
    text = _text(value)
    if text not in IDS:
        raise ValueError(" or ".join(IDS))
    return text


def _share(value: object) -> float:
    number = _seconds(value)
    if number < LEAST_CPUS:
        raise ValueError(f"a number of at least {LEAST_CPUS}")
    return number


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a positive whole number")
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError("a positive whole number")
    return number


def _words(value: object) -> tuple[str, ...]:
    """Read a list, or one text with commas between; a rule with methods is one of a list."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(one, str) for one in words):
        raise ValueError("a list of texts")
    return tuple(one.strip() for one in words if one.strip())


def _retries(value: object) -> int:
    return 0 if value in (0, "0") and not isinstance(value, bool) else _count(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a number")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not -1e9 < number < 1e9:
        raise ValueError("a number")
    return number


def _seconds(value: object) -> float:
    try:
        number = _number(value)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise ValueError("a positive number of seconds")
    return number


def _object(value: object) -> dict[str, object]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise ValueError("""a JSON object such as '{"top_k": 20}'""")
    return value


def _setting(
    read: Callable[[object], Any], help_text: str, *variables: str, default: object = None
) -> Any:  # it stands where the type of the field is wanted
    return field(
        default=default, metadata={"read": read, "help": help_text, "variables": variables}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that can be set for good; a flag of the same name is stronger."""

    model: str | None = _setting(_text, "name of the model")
    base_url: str | None = _setting(
        _url, "OpenAI-compatible server; none is OpenAI's own", "OPENAI_BASE_URL"
    )
    api_key_env: str = _setting(
        _name, "environment variable that holds the key", default="OPENAI_API_KEY"
    )
    temperature: float | None = _setting(_number, "none leaves it to the server")
    completion_tokens: int | None = _setting(_count, "the most tokens of one answer")
    extra_body: Mapping[str, object] | None = _setting(
        _object, "further members of every request, a JSON object"
    )
    model_timeout: float = _setting(_seconds, "seconds for one request", default=600.0)
    model_retries: int = _setting(_retries, "further tries of a failed request", default=4)
    rootfs: str = _setting(_text, "root file system of sandboxes", default="standard")
    ids: Literal["own", "subordinate"] = _setting(
        _ids, "own, or subordinate: chown and su are real, by the host's /etc/subuid", default="own"
    )
    network: str | None = _setting(
        _text, "network mode of sandboxes; none is web for run, and no network elsewhere"
    )
    allow: tuple[str, ...] = _setting(
        _words, "what may be reached beside the mode's own list", default=()
    )
    allow_private: tuple[str, ...] = _setting(
        _words, "hosts that may have an address which is not public", default=()
    )
    memory: str | None = _setting(_size, "memory of a sandbox, such as 2GiB; none is the default")
    cpus: float | None = _setting(_share, "processors of a sandbox, such as 0.5; none is all")
    pids: int | None = _setting(_count, "processes and threads of a sandbox")
    disk: str | None = _setting(_size, "what a sandbox may write, such as 4GiB")
    wall: float | None = _setting(_seconds, "seconds of a sandbox from its start to its end")
    timeout: float = _setting(_seconds, "seconds for one command of an agent", default=120.0)
    max_steps: int = _setting(_count, "messages of the model in one run", default=100)
    max_tokens: int | None = _setting(_count, "tokens of one run, prompts included")
    max_seconds: float = _setting(_seconds, "seconds of one run", default=3600.0)
    prompt: str | None = _setting(_text, "prompt file; none is the built-in one")
    runs_dir: str = _setting(_text, "where runs are kept", default="runs")
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each value came from: `default`, the file, a variable or a flag."""

    def network_or(self, default: str) -> str:
        """Return the network mode, where nobody has set one `allow` if there is a list for it."""
        return self.network or ("allow" if self.allow and default == "none" else default)

    def limits(self, timeout: float | None) -> Limits:
        """Return the bounds of a sandbox; what was set is hard, whatever set it.

        Args:
            timeout: Seconds for one command; None is no bound.

        Raises:
            SpecError: A value is too small.
        """
        given = {name: getattr(self, name) for name in ("memory", "cpus", "pids", "disk", "wall")}
        named = {name: value for name, value in given.items() if value is not None}
        return Limits.of(timeout=timeout, **named)

    def shown(self, name: str) -> object:
        """Return a value as it may be printed or recorded: without passwords and keys."""
        value = getattr(self, name)
        if name == "base_url" and value is not None:
            parts = urlsplit(value)
            return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return masked(value)

    def api_key(self, environ: Mapping[str, str] | None = None) -> str | None:
        """Return the key; None where the default variable is not set.

        Raises:
            SpecError: A variable was named and is not set.
        """
        value = (os.environ if environ is None else environ).get(self.api_key_env, "").strip()
        if not value and self.origins.get("api_key_env", DEFAULT) != DEFAULT:
            raise SpecError(
                f"the environment variable {self.api_key_env} is not set",
                hint=f"it was named by {self.origins['api_key_env']} to hold the API key",
            )
        return value or None


def masked(value: object) -> object:
    """Return a value in which members that look like secrets are stars."""
    if isinstance(value, dict):
        return {
            key: "***" if _SECRET.search(str(key)) else masked(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting, for those who list, read or write them."""

    name: str
    help: str
    variables: tuple[str, ...]
    """Environment variables, the strongest first."""
    read: Callable[[object], object]


OPTIONS: Mapping[str, Option] = {
    f.name: Option(
        name=f.name,
        help=f.metadata["help"],
        variables=(f"SANDBOX_LITE_{f.name.upper()}", *f.metadata["variables"]),
        read=f.metadata["read"],
    )
    for f in dataclasses.fields(Settings)
    if f.metadata
}


def load(
    flags: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        flags: What the command line named; None as a value means that it did not.
        file: By default the one in the platform's place; it need not exist.
        environ: By default the process's own.

    Raises:
        SpecError: A value is wrong, or the file holds what is no setting.
        HostError: The file cannot be read.
    """
    file = file or places.config_file()
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    origins = dict.fromkeys(OPTIONS, DEFAULT)
    for name, value in read_file(file).items():
        values[name], origins[name] = _read(name, value, f"{file}"), f"{file}"
    for name, option in OPTIONS.items():
        for variable in option.variables:
            # set but empty is how a variable is switched off for one command
            if environ.get(variable, "").strip():
                values[name], origins[name] = _read(name, environ[variable], variable), variable
                break
    for name, value in (flags or {}).items():
        if value is not None:
            flag = "--" + name.replace("_", "-")
            values[name], origins[name] = _read(name, value, flag), flag
    return Settings(**values, origins=origins)  # type: ignore[arg-type]  # each was read as its kind


def _read(name: str, value: object, origin: str) -> object:
    try:
        return OPTIONS[name].read(value)
    except ValueError as error:
        raise SpecError(
            f"{name} must be {error}, not {str(value)[:80]!r} (from {origin})",
            hint=f"{name}: {OPTIONS[name].help}",
        ) from None


def read_file(file: Path) -> dict[str, object]:
    """Return what a configuration file holds, checked for names only; nothing where there is none.

    Raises:
        SpecError: It is no TOML, or holds what is no setting.
        HostError: It cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HostError(
            f"cannot read the configuration {file}: {error.strerror}",
            hint="it is a text file in TOML; move aside what stands there",
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"the configuration {file} is not UTF-8 text") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(
            f"the configuration {file} is no TOML: {error}",
            hint='a line looks like: model = "NAME"',
        ) from error
    for name in data:
        _check_name(name, str(file))
    return data


def _check_name(name: str, where: str) -> None:
    if name in OPTIONS:
        return
    if _SECRET.search(name):
        raise SpecError(
            f"keys are not kept in files: {name!r} in {where}",
            hint="set OPENAI_API_KEY, or name another variable with api_key_env",
        )
    raise SpecError(
        f"no such setting: {name!r} in {where}", hint=f"the settings are: {', '.join(OPTIONS)}"
    )


def store(name: str, value: str | None, *, file: Path | None = None) -> Path:
    """Write one setting into the configuration file and leave the rest of it as it is.

    Args:
        name: A setting.
        value: As on the command line; None removes it.
        file: By default the one in the platform's place; made where it lacks.

    Returns:
        The file.

    Raises:
        SpecError: There is no such setting, or it cannot have that value.
        HostError: The file cannot be written.
    """
    file = file or places.config_file()
    _check_name(name, "the command line")
    before = read_file(file)
    wanted = {key: item for key, item in before.items() if key != name}
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    pattern = re.compile(rf"^[ \t]*{name}[ \t]*=.*\n?", re.MULTILINE)
    if value is None:
        text = pattern.sub("", text)
    else:
        read = _read(name, value, "the command line")
        if masked(read) != read:
            raise SpecError(
                f"keys are not kept in files: {name} holds what looks like one",
                hint="give it behind the flag, from a variable of your shell",
            )
        # an object stays JSON: it is read back from text
        wanted[name] = value if isinstance(read, dict) else read
        line = f"{name} = {_literal(wanted[name])}\n"
        text, found = pattern.subn(lambda _: line, text, count=1)
        if not found:
            text = line + text  # in front: behind a [table] it would belong to that
    try:
        same = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise SpecError(
            f"cannot change {name} in {file} without touching the rest of it",
            hint="change it with an editor",
        )
    _replace(file, text)
    return file


def _literal(value: object) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's too; only DEL must be escaped in TOML and not in JSON
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _replace(file: Path, text: str) -> None:
    stage = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        # a link to a file kept elsewhere stays a link
        target = file.resolve()
        stage = target.with_name(stage.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        stage.write_text(text, encoding="utf-8")
        stage.replace(target)
    except OSError as error:
        stage.unlink(missing_ok=True)
        raise HostError(
            f"cannot write the configuration {file}: {error.strerror}",
            hint=f"it must be a file of yours; {places.HOME_VARIABLE} moves it elsewhere",
        ) from error
