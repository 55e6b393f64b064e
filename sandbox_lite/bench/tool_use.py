"""What a model used its computer for: network, files, computation, as in the paper's analysis.

The rule, by call: whatever the editor does is `files`. A command is of every kind that one of its
programs is of, once each, and `other` where none is of any:

* `network`: programs that fetch (`curl`, `wget`, `git clone`, `pip install`, `apt-get update`), and
  an interpreter whose code names a library of the network or an address.
* `computation`: interpreters, compilers, calculators, and programs that are started by their path.
* `files`: programs that list, search, read, change or pack files, and output sent to a file. What
  stands behind a pipe only trims what came before, and is of no kind, unless it is an interpreter.

`submit` is no use of the computer and is not counted.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sandbox_lite.agent import tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sandbox_lite.agent.tools import ToolCall
    from sandbox_lite.agent.trajectory import Trajectory


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FETCH = _words(
    "curl wget aria2c ssh scp sftp rsync ftp nc ncat telnet ping dig nslookup host lynx w3m "
    "gh huggingface-cli hf yt-dlp add-apt-repository"
)
_FETCH_WORDS = {
    name: _words(verbs)
    for names, verbs in (
        ("git", "clone fetch pull push ls-remote submodule"),
        (
            "apt apt-get aptitude",
            "update install upgrade full-upgrade dist-upgrade download source build-dep",
        ),
        (
            "pip pip3 pipx uv poetry conda mamba micromamba",
            "install download add sync search create update upgrade index",
        ),
        ("npm yarn pnpm", "install i ci add update view"),
        (
            "apk dnf yum brew cargo gem go cpan luarocks",
            "add install update upgrade fetch get search",
        ),
    )
    for name in names.split()
}
"""Programs that fetch with one of these words only."""
_COMPUTE = _words(
    "python perl ruby node nodejs deno bun Rscript R julia octave lua luajit php java javac scala "
    "kotlin ghc runghc ocaml swipl gcc g++ cc c++ clang clang++ rustc make cmake ninja bc dc calc "
    "gp maxima sage gnuplot sqlite3 duckdb ipython jupyter pytest bash sh zsh dash source . expr "
    "numactl mpirun ffmpeg convert magick"
)
_FILES = _words(
    "ls dir tree cat tac head tail less more nl grep egrep fgrep rg ag find fd locate sed awk gawk "
    "wc sort uniq cut paste tr join comm cp mv rm rmdir mkdir touch ln chmod chown stat file du df "
    "tar zip unzip gzip gunzip zcat bzip2 xz zstd diff cmp patch tee split csplit truncate dd "
    "xxd hexdump od strings md5sum sha256sum sha1sum realpath readlink basename dirname iconv "
    "pdftotext jq xmllint rename install shred mktemp"
)
_FRONT = _words(
    "sudo env time nohup nice ionice stdbuf exec command then do else if while until ! { xargs "
    "timeout setsid"
)
"""What only stands before the program that counts."""
_VALUES = {"timeout": 1}
_NONE: frozenset[str] = frozenset()
_FEW = 3
"""Words among which a package manager is told what to do, as in `uv pip install`."""
_SHELLS = frozenset({"bash", "sh", "zsh", "dash"})
_CODE_OF_NETWORK = re.compile(
    r"https?://|\b(?:requests|urllib|http\.client|httpx|aiohttp|socket|ftplib|smtplib|wget|"
    r"urlopen|urlretrieve|LWP|node-fetch|axios|huggingface_hub|datasets)\b"
)
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """How many calls of a run used what; one call may count for several."""

    calls: int = 0
    """Of the editor and of commands, refused ones too."""
    network: int = 0
    files: int = 0
    computation: int = 0
    other: int = 0
    """Calls of none of these kinds."""

    def __add__(self, more: ToolUse) -> ToolUse:
        """Return both together."""
        return ToolUse(
            calls=self.calls + more.calls,
            network=self.network + more.network,
            files=self.files + more.files,
            computation=self.computation + more.computation,
            other=self.other + more.other,
        )


def of_run(trajectory: Trajectory) -> ToolUse:
    """Return what all calls of a run used."""
    return of_calls(call for step in trajectory.steps for call in step.calls)


def of_calls(calls: Iterable[ToolCall]) -> ToolUse:
    """Return what these calls used."""
    total = ToolUse()
    for call in calls:
        tool = tools.find(call.name)
        if tool is not None and tool.name == "submit":
            continue
        kinds = frozenset({"other"})
        if tool is not None and tool.name == "str_replace_editor":
            kinds = frozenset({"files"})
        elif tool is not None:
            kinds = of_command(_command(call)) or kinds
        total += ToolUse(calls=1, **dict.fromkeys(kinds, 1))
    return total


def of_command(command: str) -> frozenset[str]:
    """Return of which kinds a bash command is; empty where it is of none."""
    text, bodies = _without_bodies(command.replace("\\\n", " "))
    found: set[str] = set()
    behind = False
    for words, separator in _simple(text):
        found |= _kinds(words, "\n".join(bodies), behind=behind)
        behind = separator in ("|", "|&")
    return frozenset(found)


def _command(call: ToolCall) -> str:
    try:
        given = json.loads(call.arguments, strict=False)
        return str(given.get("command", given.get("cmd", "")))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _without_bodies(text: str) -> tuple[str, list[str]]:
    """Return a command without its here-documents, and these: quotes in them are no quotes."""
    kept: list[str] = []
    bodies: list[str] = []
    ends: list[str] = []
    for line in text.split("\n"):
        if ends:
            if line.strip() == ends[0]:
                ends.pop(0)
            else:
                bodies.append(line)
            continue
        kept.append(line)
        ends = [found[2] for found in _HEREDOC.finditer(line)]
    return "\n".join(kept), bodies


def _simple(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the words of each simple command, and what stands behind it."""
    words: list[str] = []
    for token in _tokens(text):
        # several of these in a row come as one
        if token and set(token) <= set(";&|()\n"):
            separator = "|" if token.strip("\n") in ("|", "|&") else ";"
            yield words, separator
            words = []
        else:
            words.append(token)
    yield words, ""


def _tokens(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:  # a quote that never ends
        return re.findall(r"[;&|()<>\n]+|[^\s;&|()<>]+", text)


def _kinds(words: Sequence[str], bodies: str, *, behind: bool) -> set[str]:
    words, writes = _redirected(words)
    found = {"files"} if writes else set()
    words = _program(words)
    if not words or words[0].startswith("#"):
        return found
    name = PurePosixPath(words[0]).name
    plain = re.sub(r"[\d.]+$", "", name) or name
    rest = words[1:]
    if plain in ("python", "pypy") and rest[:2] in (["-m", "pip"], ["-m", "uv"]):
        plain, rest = rest[1], rest[2:]
    if plain in _SHELLS and rest[:1] in (["-c"], ["-lc"]) and len(rest) > 1:
        return found | of_command(rest[1])
    asked = [word for word in rest if not word.startswith("-")][:_FEW]
    if plain in _FETCH or _FETCH_WORDS.get(name, _FETCH_WORDS.get(plain, _NONE)) & set(asked):
        return found | {"network"}
    if plain in _COMPUTE or plain == "pypy" or _by_path(words[0], plain):
        found.add("computation")
        if _CODE_OF_NETWORK.search("\n".join((*rest, bodies))):
            found.add("network")
    elif plain in _FILES and not behind:
        found.add("files")
    return found


def _by_path(word: str, plain: str) -> bool:
    return "/" in word and plain not in _FILES and not word.endswith("/")


def _redirected(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return the words without redirections, and whether one of these writes a file."""
    kept: list[str] = []
    writes = False
    place = 0
    while place < len(words):
        word = words[place]
        if set(word) <= set("<>&") and set(word) & set("<>"):
            target = words[place + 1] if place + 1 < len(words) else ""
            writes |= ">" in word and not target.startswith("/dev/") and not target.isdigit()
            # the number of a descriptor stands before it
            if kept and kept[-1].isdigit():
                kept.pop()
            place += 2
            continue
        kept.append(word)
        place += 1
    return kept, writes


def _program(words: Sequence[str]) -> list[str]:
    """Return the words from the program on that counts."""
    left = list(words)
    while left:
        first = left[0]
        if _ASSIGNMENT.match(first):
            left.pop(0)
        elif first in _FRONT:
            left.pop(0)
            while left and left[0].startswith("-"):
                left.pop(0)
            for _ in range(_VALUES.get(first, 0)):
                left[:1] = []
        else:
            break
    return left
