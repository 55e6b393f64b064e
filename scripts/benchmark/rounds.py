"""What is measured in turn, again and again: a machine's milliseconds drift, ratios hold."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import births, floors, names, peering
from sandbox_lite import Limits, Pool, Sandbox, SandboxSpec
from sandbox_lite.jail import places

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmark.bench import Bench
    from sandbox_lite.jail.snapshots import Snapshot

_REPEATS = 5
_DIRTY_FILES = 200
_DIRTY = f"""mkdir -p /srv/dirty && cd /srv/dirty && for i in {{1..{_DIRTY_FILES}}}; do
head -c 100000 /dev/urandom >$i; done; cd /"""


def cold(bench: Bench) -> None:
    """Start a sandbox, use it in every way, and close it."""
    sandbox = Sandbox(bench.rootfs)
    with contextlib.closing(sandbox):
        bench.notes.time(names.COLD, lambda: (sandbox.open(), sandbox.run("echo hi")))
        for use in USES:
            use(bench, sandbox)
        bench.notes.time(names.CLOSE, sandbox.close)


def unlimited(bench: Bench) -> None:
    """Start one without limits."""
    with contextlib.closing(Sandbox(bench.rootfs, limits=Limits.none())) as one:
        bench.notes.time(names.UNLIMITED, lambda: (one.open(), one.run("echo hi")))


def warm(bench: Bench) -> None:
    """Take one from a pool that has had time to fill, and let it fill again."""
    with Pool(SandboxSpec(rootfs=bench.rootfs), size=1) as pool:
        for _ in range(3):
            pool.await_ready()
            with contextlib.ExitStack() as stack:
                _take(bench, pool, stack)


def _take(bench: Bench, pool: Pool, stack: contextlib.ExitStack) -> None:
    bench.notes.time(names.WARM, lambda: stack.enter_context(pool.take()).run("echo hi"))


def commands(bench: Bench, sandbox: Sandbox) -> None:
    """Run commands of every kind."""
    for _ in range(_REPEATS):
        bench.notes.time(names.BUILTIN, lambda: sandbox.run(":"))
        bench.notes.time(names.EXTERNAL, lambda: sandbox.run("/bin/true"))
        bench.notes.time(names.EXEC, lambda: sandbox.exec(["true"]))
    long = "x='" + "x" * 100_000 + "'"
    bench.notes.time(names.LONG_COMMAND, lambda: sandbox.run(long))
    sandbox.run("unset x")
    bench.notes.time(names.AFTER_EXIT, lambda: (sandbox.run("exit 1"), sandbox.run(":")))


def small_files(bench: Bench, sandbox: Sandbox) -> None:
    """Write a file and read it."""
    data = b"x" * 4096
    for _ in range(_REPEATS):
        bench.notes.time(names.FILE_WRITE, lambda: sandbox.files.write("/tmp/f", data))
        bench.notes.time(names.FILE_READ, lambda: sandbox.files.read("/tmp/f"))


def snapshots(bench: Bench) -> None:
    """Take a snapshot of many fresh files, one more, and go back."""
    with Sandbox(bench.rootfs) as sandbox, contextlib.ExitStack() as stack:
        sandbox.run(_DIRTY)

        def take() -> Snapshot:
            return stack.enter_context(sandbox.snapshot())

        bench.notes.time(names.SNAPSHOT_DIRTY, take)
        for _ in range(_REPEATS):
            bench.notes.time(names.SNAPSHOT_CLEAN, take)
        taken = take()
        sandbox.run("echo changed >/srv/dirty/1")
        bench.notes.time(names.ROLLBACK, lambda: sandbox.rollback(taken))


def copy(bench: Bench) -> None:
    """Copy as many files with cp, where our own are."""
    # what bears no living owner's number there is swept away by whoever starts a sandbox next
    with tempfile.TemporaryDirectory(dir=_made(places.run_dir()), prefix=f"{os.getpid()}-") as name:
        source = Path(name, "source")
        source.mkdir()
        for number in range(_DIRTY_FILES):
            (source / str(number)).write_bytes(bytes([number]) * 100_000)
        argv = ["cp", "-a", str(source), str(Path(name, "copy"))]
        bench.notes.time(names.COPY, lambda: subprocess.run(argv, check=True))
        shutil.rmtree(source)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


USES: tuple[Callable[[Bench, Sandbox], None], ...] = (commands, small_files)

ROUND: tuple[Callable[[Bench], None], ...] = (
    floors.bash,
    floors.bwrap,
    floors.reference,
    unlimited,
    births.groups,
    cold,
    warm,
    snapshots,
    copy,
    peering.turns,
)
