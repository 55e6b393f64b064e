"""The store on a real disk that is full: a tmpfs of a few megabytes in a namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from sandbox_lite.jail.programs import find_bwrap
from sandbox_lite.jail.rootfs.archive import export_archive
from sandbox_lite.jail.rootfs.store import Store

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import os, sys
from pathlib import Path
from sandbox_lite.errors import RootfsError
from sandbox_lite.jail.rootfs.archive import export_archive, import_archive
from sandbox_lite.jail.rootfs.store import Store

source = Path(sys.argv[1])
store = Store(Path("/mnt/store"))
for act in (
    lambda: import_archive(store, source),
    lambda: export_archive(Store(source.parent / "store"), "big", Path("/mnt/big.tar.zst")),
):
    try:
        act()
    except RootfsError as error:
        print(error)
print(sorted(os.listdir("/mnt")), sorted(os.listdir("/mnt/store")))
import_archive(store, source.with_name("small.tar.zst"))
print(store.verify("small").ok)
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    # bytes that zstd cannot shrink
    noise = subprocess.run(
        ["head", "-c", "6000000", "/dev/urandom"], capture_output=True, check=True
    )
    for name, size in (("big", 6_000_000), ("small", 1000)):
        with store.stage(name) as stage:
            (stage.tree / "data").write_bytes(noise.stdout[:size])
            stage.commit()
        export_archive(store, name, tmp_path / f"{name}.tar.zst")
    words = [
        *(str(find_bwrap()), "--unshare-user", "--bind", "/", "/"),
        *("--size", str(4 << 20), "--tmpfs", "/mnt", "--", sys.executable, "-c", SCRIPT),
        str(tmp_path / "big.tar.zst"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=15, check=False)
    assert done.returncode == 0, done.stderr
    *complaints, names, verified = done.stdout.splitlines()
    assert sum("No space left on device" in line for line in complaints) == 2, complaints
    assert sum(line.startswith("hint: free some space") for line in complaints) == 2
    assert names == "['store'] ['.lock', 'format']"
    assert verified == "True"
