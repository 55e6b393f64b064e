"""System call filters, shipped as data: the host needs no libseccomp.

`scripts/make-filters` makes the files of `filters/`; a test makes them again and compares.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

from sandbox_lite.errors import HostError

FilterName = Literal["deny", "fakeroot", "build"]
"""`deny`: what reaches beyond a sandbox is refused, what nobody has looked at is missing.
`fakeroot`: ids and device nodes are pretended. `build`: fsync and its like are too."""

_FILTERS = Path(__file__).parent / "filters"


def filter_path(name: FilterName) -> Path:
    """Return where the filter for this machine is, if there is one."""
    return _FILTERS / f"{name}.{platform.machine()}.bpf"


def filter_bytes(name: FilterName) -> bytes:
    """Return the BPF program of a filter for this machine.

    Raises:
        HostError: The package has no filter for this architecture.
    """
    try:
        return filter_path(name).read_bytes()
    except FileNotFoundError:
        raise HostError(
            f"no {name} filter for the architecture {platform.machine()!r}",
            hint="sandboxes run on x86_64 and aarch64; another one needs a filter from "
            "scripts/make-filters",
        ) from None


def pipe_of(name: FilterName) -> int:
    """Return the read end of a fresh pipe that holds a filter; the caller closes it.

    `bwrap --seccomp FD` reads from the descriptor's current offset, which duplicates share: of two
    starts through one memfd the second would load an empty filter. A pipe serves exactly one.

    Raises:
        HostError: The package has no filter for this architecture.
    """
    program = filter_bytes(name)
    # a filter is at most a few KiB, so the pipe's buffer takes it whole and the write cannot block
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(writer, program)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return reader
