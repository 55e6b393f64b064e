"""What the nest understands: a sandbox to bear."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BEAR, PORTS, COVER = b"BPC"
_PLAN = struct.Struct("=6I")


_TERMINALS = "newinstance,ptmxmode=0666,mode=620"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A bwrap to start, and what is its sandbox's alone in the mount namespace around it."""

    words: tuple[str, ...]
    """The program, by its path, and its arguments; its environment is empty."""
    mounts: tuple[tuple[str, str], ...]
    fds: Mapping[int, int]
    """The numbers that it shall find, each with our descriptor."""
    group: int | None = None
    """Descriptor of the directory of the control group to be born in."""
    tasks: tuple[int, ...] = ()
    """Descriptors of the `tasks` files of the groups to enter."""
    waits: int | None = None
    """Descriptor from which it reads before it goes on."""

    def encoded(self) -> bytes:
        """Return what the nest reads."""
        head = _PLAN.pack(
            self.group is not None, len(self.tasks), self.waits is not None, len(self.fds),
            len(self.mounts), len(self.words),
        )  # fmt: skip
        numbers = struct.pack(f"={len(self.fds)}i", *self.fds)
        strings = (word for pair in self.mounts for word in pair)
        return head + numbers + os.fsencode("\0".join((*strings, *self.words, "")))

    def descriptors(self) -> tuple[int, ...]:
        """Return those that go with it, in the order in which the nest takes them."""
        single = (one for one in (self.group,) if one is not None)
        waits = (one for one in (self.waits,) if one is not None)
        return (*single, *self.tasks, *waits, *self.fds.values())


def mounts(
    words: Sequence[str], inodes: Mapping[str, int], places: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return what bwrap would do for these words of its own, in a form for the nest.

    Args:
        words: `--size`, `--perms`, `--tmpfs`, `--dir`, `--bind` and `--ro-bind-try`, as bwrap
            takes them.
        inodes: How many files each tmpfs takes, by its path, which bwrap cannot be told.
        places: Directories of the host, each with its name in the nest.
    """
    return tuple(_mounts(iter(words), inodes, places))


def _mounts(
    words: Iterator[str], inodes: Mapping[str, int], places: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    options: dict[str, str] = {}
    for word in words:
        if word == "--size":
            options["size"] = next(words)
        elif word == "--perms":
            options["mode"] = next(words)
        elif word == "--dir":
            yield f"d{next(words)}", ""
        elif word == "--tmpfs":
            target = next(words)
            if target in inodes:
                options["nr_inodes"] = str(inodes[target])
            yield f"t{target}", ",".join(f"{name}={value}" for name, value in options.items())
            options = {}
        elif word == "--bind":
            source, target = next(words), next(words)
            base, _, name = source.rpartition("/")
            yield f"b{target}", f"{places[base]}/{name}"
        elif word == "--ro-bind-try":
            source, target = next(words), next(words)
            yield f"r{target}", source
        else:
            raise ValueError(word)


def devices(directory: str, shm: str, nodes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the mounts of a /dev that are one sandbox's alone, of which bwrap has no words.

    Args:
        directory: Where the nest has that /dev.
        shm: What stands in it as `shm`.
        nodes: Names of the host's devices in it. Their owner, the host's root, is root inside where
            root runs the sandbox, and could change their modes for the whole host; on a read-only
            mount he cannot, and they work as ever. Bwrap makes none that has devices too.
    """
    protected = ((f"n{directory}/{name}", "") for name in nodes)
    return ((f"p{directory}/pts", _TERMINALS), (f"b{directory}/shm", shm), *protected)


def bound(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the mounts of files over themselves, after which each has flags of its own."""
    return tuple((f"b{path}", path) for path in paths)


def read_only(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return what makes mounts read-only that are there already."""
    return tuple((f"o{path}", "") for path in paths)


def covers(mounts: Sequence[tuple[str, str]]) -> bytes:
    """Return these mounts as the nest reads them, to be made inside a jail."""
    return Plan(words=(), mounts=tuple(mounts), fds={}).encoded()
