"""The directory of a benchmark: what was asked for, and one line for each finished episode.

`run.json` says what is tried, and is written before the first episode; `episodes.jsonl` has one
writer, who holds a lock on it. Whoever comes back to the directory does the rest, and must come
with the same experiment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.episode import Episode
from sandbox_lite.errors import HostError, SpecError, TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sandbox_lite.bench.episode import Json, Key

FORMAT = 1
HEADER = "run.json"
EPISODES = "episodes.jsonl"
RESULTS = "results.json"


class Ledger(AbstractContextManager["Ledger"]):
    """The open `episodes.jsonl` of a directory; close it in the end.

    Args:
        directory: Made where it is not there.
        experiment: All that must be the same at a second start, as JSON has it.
        about: Further members of the header, which may differ.

    Raises:
        SpecError: The directory holds another experiment, or something else.
        TaskError: What it holds is damaged.
        HostError: It cannot be written, or another process writes there.
    """

    def __init__(self, directory: Path, experiment: Json, about: Json) -> None:
        self.directory = directory
        self.done: dict[Key, Episode] = {}
        """The last line of each episode."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(
                directory / EPISODES, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._lock()
            # an experiment as it comes back from the file: tuples are lists there
            self._begin(json.loads(json.dumps(experiment, default=str)), about)
            self._read()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.fsync(fd)
            os.close(fd)

    def append(self, episode: Episode) -> None:
        """Write one line.

        Raises:
            HostError: The disk is full, or the like; a torn line is redone by the next start.
        """
        text = json.dumps(episode.to_json(), ensure_ascii=False, default=str) + "\n"
        line = memoryview(text.encode(errors="backslashreplace"))
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError as error:
            raise self._failed(error) from error
        self.done[episode.key] = episode

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"another process writes to {self.directory}",
                hint="wait for its end, or name another directory with --out",
            ) from None

    def _begin(self, experiment: Json, about: Json) -> None:
        if (self.directory / HEADER).exists():
            check_same(load_header(self.directory)["experiment"], experiment, self.directory)
            return
        if os.fstat(self._fd).st_size:
            raise SpecError(
                f"{self.directory} holds episodes, and no {HEADER} that says of what",
                hint="name another directory with --out",
            )
        write_json(self.directory / HEADER, {"format": FORMAT, **about, "experiment": experiment})

    def _read(self) -> None:
        path = self.directory / EPISODES
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.ftruncate(self._fd, whole)  # torn: it is done anew
        self.done = parsed(data[:whole], path)

    def _failed(self, error: OSError) -> HostError:
        return HostError(
            f"cannot write {self.directory}: {error.strerror}",
            hint="free some space, or name another directory with --out",
        )


def parsed(data: bytes, path: Path) -> dict[Key, Episode]:
    """Return the last line of each episode.

    Raises:
        TaskError: A line is none.
    """
    found: dict[Key, Episode] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            episode = Episode.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TaskError(
                f"{path} is damaged: line {number} is no episode ({error!r})",
                hint="remove that line, and the episode is done anew",
            ) from error
        found[episode.key] = episode
    return found


def load_header(directory: Path) -> Json:
    """Return what `run.json` of a directory holds.

    Raises:
        TaskError: It cannot be read, or is none.
    """
    path = directory / HEADER
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT or not isinstance(data["experiment"], dict):
            raise ValueError(f"its format is {data['format']}, not {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(
            f"{path} is no header of a benchmark: {error}", hint="name the --out of a bench"
        ) from error
    header: Json = data
    return header


def load_results(directory: Path) -> Json:
    """Return what `results.json` of a directory holds.

    Raises:
        TaskError: It cannot be read, or is none.
    """
    path = directory / RESULTS
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise TaskError(
            f"{path} holds no results: {error}", hint="name the --out of a bench"
        ) from error
    return data


def load_episodes(directory: Path) -> dict[Key, Episode]:
    """Return the last line of each episode; a torn last line is left out.

    Raises:
        TaskError: The file cannot be read, or is damaged.
    """
    path = directory / EPISODES
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror}") from error
    return parsed(data[: data.rfind(b"\n") + 1], path)


def check_same(before: Json, now: Json, directory: Path) -> None:
    """Look whether two experiments are one.

    Raises:
        SpecError: They are not; the message names what differs.
    """
    different = sorted(_differences(before, now, ""))
    if different:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise SpecError(
            f"{directory} holds another experiment: {different[0]}{more}",
            hint="ask for the same again, or name another directory with --out",
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[str]:
    found = []
    for name in before.keys() | now.keys():
        old, new, path = before.get(name), now.get(name), f"{where}{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{path}.")
        elif old != new:
            found.append(f"{path} was {str(old)[:60]}, and is {str(new)[:60]}")
    return found


def write_json(path: Path, data: Json) -> None:
    """Write a file as a whole, or not at all.

    Raises:
        HostError: It cannot be written.
    """
    stage = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(data, indent=1, ensure_ascii=False, default=str)
    try:
        stage.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        stage.replace(path)
    except OSError as error:
        stage.unlink(missing_ok=True)
        raise HostError(
            f"cannot write {path}: {error.strerror}",
            hint="free some space, or name another directory with --out",
        ) from error
