"""Subordinate ids: which a user has, and how they get into a user namespace.

A user may map no id but his own. `newuidmap` and `newgidmap`, which are set-user-ID root or have a
capability, map those that `/etc/subuid` and `/etc/subgid` give him: subuid(5), newuidmap(1).
Nothing but the standard library is needed here.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sandbox_lite.errors import HostError

COUNT = 65535
"""Ids beside root's: all of 16 bits, `nobody` among them, as Debian's packages may use."""

_PROGRAMS = {"newuidmap": Path("/etc/subuid"), "newgidmap": Path("/etc/subgid")}
_FOLDERS = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_SECONDS = 10.0
_FREE_START = 100_000
"""Where useradd(8) begins to give ids away, SUB_UID_MIN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """Some ids that follow each other."""

    start: int
    count: int


def ranges(text: str, name: str, number: int) -> tuple[IdRange, ...]:
    """Return what a file such as /etc/subuid gives to a user, as far as `COUNT` goes.

    Args:
        text: Its content: lines of `NAME:START:COUNT`, where the name may be a number.
        name: The user's name.
        number: The user's id.
    """
    found = []
    left = COUNT
    for line in text.splitlines():
        match = re.fullmatch(r"([^:#]+):(\d{1,10}):(\d{1,10})", line.strip())
        if match is not None and match[1] in (name, str(number)) and left and int(match[3]):
            found.append(IdRange(start=int(match[2]), count=min(left, int(match[3]))))
            left -= found[-1].count
    return tuple(found)


def free_start(text: str) -> int:
    """Return the first id from which on a file such as /etc/subuid gives none away."""
    lines = re.findall(r"^[^:#\n]+:(\d{1,10}):(\d{1,10})\s*$", text, re.MULTILINE)
    return max([_FREE_START, *(int(start) + int(count) for start, count in lines)])


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _own(program: str) -> tuple[IdRange, ...]:
    return ranges(_text(_PROGRAMS[program]), _user_name(), os.getuid())


def _may_map(path: str) -> bool:
    """Return whether a program has the right to map ids when this process starts it."""
    if os.geteuid() == 0:
        return True
    found = os.stat(path)  # noqa: PTH116  # beside getxattr
    if found.st_mode & stat.S_ISUID and found.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _no_new_privileges() -> bool:
    return "\nNoNewPrivs:\t1" in _text(Path("/proc/self/status"))


def _programs_missing() -> HostError | None:
    for program in _PROGRAMS:
        path = shutil.which(program, path=_FOLDERS)
        if path is None:
            return HostError(
                f"subordinate ids need the program {program}, which is not on this machine",
                hint="install it: apt-get install uidmap (Debian, Ubuntu), shadow-utils (Fedora)",
            )
        if not _may_map(path):
            return HostError(
                f"{path} is neither set-user-ID root nor has a file capability, so it can map "
                "no subordinate ids",
                hint=f"sudo chmod u+s {path}, or reinstall its package (uidmap)",
            )
    if os.geteuid() != 0 and _no_new_privileges():
        return HostError(
            "this process runs with no_new_privs, under which newuidmap gets no rights",
            hint="start it outside of the container or service (NoNewPrivileges=) that set it",
        )
    return None


def missing() -> HostError | None:
    """Return what keeps this user from subordinate ids, with the remedy; None where nothing does.

    It looks and starts nothing: whether the kernel and its security modules agree shows at a start.
    """
    problem = _programs_missing()
    if problem is not None:
        return problem
    name = _user_name()
    short = [path for program, path in _PROGRAMS.items()
             if sum(one.count for one in _own(program)) < COUNT]  # fmt: skip
    if not short:
        return None
    start = max(free_start(_text(path)) for path in _PROGRAMS.values())
    end = start + COUNT
    return HostError(
        f"{name} has fewer than {COUNT} subordinate ids in {' and '.join(map(str, short))}",
        hint=f"sudo usermod --add-subuids {start}-{end} --add-subgids {start}-{end} {name}"
        f" (or the line '{name}:{start}:{COUNT + 1}' in both files)",
    )


def mapping(own: int, given: tuple[IdRange, ...]) -> tuple[str, ...]:
    """Return the words of newuidmap that make `own` root, and what is given 1 and up."""
    words = ["0", str(own), "1"]
    first = 1
    for one in given:
        words += [str(first), str(one.start), str(one.count)]
        first += one.count
    return tuple(words)


def unshare_words() -> tuple[str, ...]:
    """Return the words of util-linux's unshare(1) that map the same, for a person to paste."""
    options = zip(("--map-users", "--map-groups"), _PROGRAMS, strict=True)
    words = ["unshare", "--map-root-user"]
    for option, program in options:
        first = 1
        # from outside to inside: with colons, which older ones lack, it is the other way round
        for one in _own(program):
            words.append(f"{option}={one.start},{first},{one.count}")
            first += one.count
    return (*words, "--")


def write_maps(pid: int) -> None:
    """Map this user to root, and his subordinate ids, in the user namespace of a waiting process.

    Raises:
        HostError: It could not be done.
    """
    problem = missing()
    if problem is not None:
        raise problem
    running = []
    # one after the other takes twice as long, and neither needs the other
    for program, own in zip(_PROGRAMS, (os.getuid(), os.getgid()), strict=True):
        path = shutil.which(program, path=_FOLDERS)
        assert path is not None, "it was there just now"
        words = [path, str(pid), *mapping(own, _own(program))]
        running.append(
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, env={}, text=True)
        )  # fmt: skip
    said = []
    for one in running:
        try:
            said.append(one.communicate(timeout=_SECONDS)[1])
        except subprocess.TimeoutExpired:
            one.kill()
            said.append(one.communicate()[1] + "it did not end")
    if any(one.returncode for one in running):
        text = " ".join(" ".join(said).split())
        raise HostError(
            f"the subordinate ids could not be mapped: {text}",
            hint="look at /etc/subuid and /etc/subgid; a container must itself have been given the "
            "ids that stand there, and its /usr must not be mounted nosuid",
        )
