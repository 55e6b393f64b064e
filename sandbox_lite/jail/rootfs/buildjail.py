"""The jail in which a rootfs is configured: its tree is the root, writable, and no overlay."""

from __future__ import annotations

import os
import re
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import bwrap, etc, host, process, programs, seccomp
from sandbox_lite.jail.orphans import kill_orphans
from sandbox_lite.spec import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sandbox_lite.errors import SandboxLiteError

_CA = "/run/ca-certificates.crt"
_CA_VARIABLES = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"),
    *("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"),
)
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "DEBIAN_PRIORITY": "critical",
}
_LOG_LINES = 400
_SHOWN_LINES = 25


class BuildJail:
    """Runs programs as the fake root of a tree.

    Args:
        tree: The root directory; what they write stays in it, but for `/tmp`, `/run` and `/dev`.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def run(
        self,
        argv: Sequence[str],
        *,
        doing: str,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        tail_lines: int | None = _LOG_LINES,
    ) -> str:
        """Run a program to its end and return the tail of its output, both streams together.

        Args:
            argv: The program and its arguments.
            doing: What for, for the error message.
            network: Give it the host's network, resolver, proxies and certificates meanwhile.
            env: On top of the environment of a build.
            on_line: Called with each line as it comes.
            tail_lines: How many lines to return at most; none returns all.

        Raises:
            RootfsError: It failed; the message ends in what it printed last.
            HostError: bwrap could not start it.
        """
        tail: deque[str] = deque(maxlen=tail_lines)

        def take(line: str) -> None:
            tail.append(line)
            if on_line is not None:
                on_line(line)

        with ExitStack() as held:
            words, fds = self._words(argv, network, env or {}, held)
            code = _run(words, fds, take)
        if code != 0:
            raise _failed(doing, code, list(tail)[-_SHOWN_LINES:])
        return "\n".join(tail)

    def _words(
        self, argv: Sequence[str], network: bool, env: Mapping[str, str], held: ExitStack
    ) -> tuple[list[str], list[int]]:
        environment = dict(_ENVIRONMENT)
        words = [
            str(programs.find_bwrap()),
            *bwrap.namespaces(network_host=network),
            *("--bind", str(self.tree), "/"),
            *bwrap.devices(shm_bytes=256 * MIB),
            *("--tmpfs", "/run", "--perms", "1777", "--tmpfs", "/tmp"),
        ]
        fds: list[int] = []
        if network:
            for name in ("/etc/resolv.conf", "/etc/hosts"):
                # often a link into /run, which the jail does not have
                source = Path(os.path.realpath(name))
                if source.is_file() and (self.tree / name[1:]).is_file():
                    words += ["--ro-bind", str(source), name]
            environment |= network_environment()
            bundle = _certificates(self.tree)
            if bundle:
                fds.append(held.enter_context(_memory("certificates", bundle)))
                words += ["--ro-bind-data", str(fds[-1]), _CA]
                environment |= dict.fromkeys(_CA_VARIABLES, _CA)
        environment |= env
        # in bwrap's own words a password in a proxy's or index's address would show in `ps`
        hidden = b"".join(word.encode() + b"\0" for word in bwrap.environment(environment))
        fds.append(held.enter_context(_memory("environment", hidden)))
        words += ["--args", str(fds[-1])]
        fds.append(seccomp.pipe_of("build"))
        held.callback(os.close, fds[-1])
        words += ["--seccomp", str(fds[-1]), *bwrap.identity(hostname="sandbox"), "--chdir", "/"]
        return [*words, "--", *argv], fds


_CAUSES = (
    (r"No space left on device|Disk quota exceeded",
     "the disk is full: free some space, or set SANDBOX_LITE_HOME to a directory on another one"),
    (r"Unable to locate package|has no installation candidate|broken packages",
     "the recipe names a package that its suite does not have, or two that exclude each other"),
    (r"No matching distribution|from versions: none|ResolutionImpossible",
     "the recipe names a version that the package index does not have"),
    (r"name resolution|NewConnectionError|SSLError|SSLCertVerification|ProxyError|timed out",
     "the package index cannot be reached from here: set PIP_INDEX_URL, https_proxy or "
     "SSL_CERT_FILE as for a pip of your own"),
)  # fmt: skip


def _failed(doing: str, code: int, lines: Sequence[str]) -> SandboxLiteError:
    shown = "\n".join(lines)
    if lines and lines[-1].startswith("bwrap: ") and "execvp" not in lines[-1]:
        known = host.explain(lines[-1], programs.find_bwrap())
        return known or HostError(
            f"bwrap cannot {doing} on this machine: {lines[-1]}", hint="run: sandbox-lite doctor"
        )
    hint = next((hint for pattern, hint in _CAUSES if re.search(pattern, shown)), None)
    return RootfsError(
        f"could not {doing} (exit code {code}):\n{shown}".rstrip(),
        hint=hint
        or "nothing was stored; what failed stands above, so mend the recipe or try again",
    )


@contextmanager
def _memory(name: str, content: bytes) -> Iterator[int]:
    with os.fdopen(os.memfd_create(name), "wb") as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield file.fileno()


def _run(words: Sequence[str], fds: Sequence[int], take: Callable[[str], None]) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reader, "r", errors="replace", newline="\n") as output:
        try:
            # a session of its own: Ctrl-C is for us, who then end it and clean up
            child = process.spawn(words, fds=fds, stdout=writer, stderr=writer, new_session=True)
        finally:
            os.close(writer)
        try:
            for line in output:
                # apt and pip draw progress with carriage returns
                take(line.rstrip("\n").rpartition("\r")[2])
            return child.wait()
        except BaseException:
            child.kill()
            child.wait()
            kill_orphans()
            # bwrap's end brings down the jail's first process and with it all others, a moment
            # later; each holds the pipe, so its end says that nobody writes to the tree any more
            with suppress(OSError, KeyboardInterrupt):
                while output.read(1 << 16):
                    pass
            raise


def network_environment() -> dict[str, str]:
    """Return what of the host's environment a build's network programs need.

    That is proxies and package indexes, the latter only as http and https addresses: a file
    path of the host means nothing inside.
    """
    found = {}
    for name in _PROXY_VARIABLES:
        for spelling in (name, name.upper()):
            if value := os.environ.get(spelling):
                found[spelling] = value
    for name in _INDEX_VARIABLES:
        urls = os.environ.get(name, "").split()
        if urls := [url for url in urls if url.startswith(("http://", "https://"))]:
            found[name] = " ".join(urls)
    return found


def _certificates(tree: Path) -> bytes:
    """Return the tree's authorities with those this host adds, in PEM; nothing if it adds none."""
    bundle = b""
    with suppress(OSError):
        bundle = (tree / etc.BUNDLE).read_bytes()
    extra = etc.extra_certificates(bundle)
    return bundle.rstrip() + b"\n" + b"".join(extra) if extra else b""
