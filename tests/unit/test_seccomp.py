"""The shipped filters, run by an interpreter of their language: so arm64's is tested here too."""

from __future__ import annotations

import os
import platform
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_lite.errors import HostError
from sandbox_lite.jail import seccomp

ROOT = Path(__file__).parents[2]
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, NOTHING, KILL = 0x7FFF0000, 0x00050000, 0x00000000
# numbers of the kernel's own tables (asm/unistd_64.h, asm-generic/unistd.h), not libseccomp's
CALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "open": 2, "chmod": 90, "chown": 92, "fchown": 93, "lchown": 94, "setuid": 105,
        "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117,
        "setresgid": 119, "setfsuid": 122, "setfsgid": 123, "capset": 126, "fchownat": 260,
        "mknod": 133, "mknodat": 259, "fsync": 74, "fdatasync": 75, "sync": 162, "syncfs": 306,
        "msync": 26, "sync_file_range": 277,
    },
    "aarch64": {
        "read": 63, "openat": 56, "fchmod": 52, "fchown": 55, "fchownat": 54, "setuid": 146,
        "setgid": 144, "setreuid": 145, "setregid": 143, "setgroups": 159, "setresuid": 147,
        "setresgid": 149, "setfsuid": 151, "setfsgid": 152, "capset": 91, "mknodat": 33,
        "fsync": 82, "fdatasync": 83, "sync": 81, "syncfs": 267, "msync": 227,
        "sync_file_range": 84,
    },
}  # fmt: skip
REAL = {"read", "open", "openat", "chmod", "fchmod"}
SYNCS = {"fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range"}
NODES = {"mknod": 1, "mknodat": 2}


def program(name: str, machine: str) -> bytes:
    return (ROOT / "sandbox_lite" / "jail" / "filters" / f"{name}.{machine}.bpf").read_bytes()


def answer(code: bytes, machine: str, number: int, args: tuple[int, ...] = ()) -> int:
    """Return what a filter says of a call, as the kernel would."""
    words = struct.pack("<II", number & 0xFFFFFFFF, ARCHES[machine]) + struct.pack(
        "<Q6Q", 0, *(*args, 0, 0, 0, 0, 0, 0)[:6]
    )
    steps = list(struct.iter_unpack("<HBBI", code))
    at = accumulator = 0
    while True:
        operation, then, other, value = steps[at]
        at += 1
        match operation:
            case 0x20:  # ld [k]
                accumulator = int(struct.unpack_from("<I", words, value)[0])
            case 0x54:  # and #k
                accumulator &= value
            case 0x05:  # ja
                at += value
            case 0x15:  # jeq
                at += then if accumulator == value else other
            case 0x25:  # jgt
                at += then if accumulator > value else other
            case 0x35:  # jge
                at += then if accumulator >= value else other
            case 0x06:  # ret
                return int(value)
            case _:
                raise AssertionError(f"an instruction this test does not know: {operation:#x}")


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("name", ["fakeroot", "build"])
def test_what_a_filter_pretends_and_what_it_lets_through(name: str, machine: str) -> None:
    code = program(name, machine)
    for call, number in CALLS[machine].items():
        if call in NODES:
            continue
        real = call in REAL or (call in SYNCS and name == "fakeroot")
        assert answer(code, machine, number) == (ALLOW if real else NOTHING), call


DENIED: dict[str, dict[str, int]] = {
    "x86_64": {
        "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308, "bpf": 321,
        "keyctl": 250, "add_key": 248, "request_key": 249, "perf_event_open": 298, "reboot": 169,
        "userfaultfd": 323, "open_by_handle_at": 304, "settimeofday": 164, "clock_settime": 227,
        "init_module": 175, "kexec_load": 246, "swapon": 167, "syslog": 103, "iopl": 172,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "pivot_root": 41, "unshare": 97, "setns": 268, "bpf": 280,
        "keyctl": 219, "add_key": 217, "request_key": 218, "perf_event_open": 241, "reboot": 142,
        "userfaultfd": 282, "open_by_handle_at": 265, "settimeofday": 170, "clock_settime": 112,
        "init_module": 105, "kexec_load": 104, "swapon": 224, "syslog": 116,
    },
}  # fmt: skip
ABSENT = {"clone3": 435, "fsopen": 430, "move_mount": 429, "io_uring_setup": 425, "mseal": 462}
"""The same number everywhere."""
CLONE, IOCTL, SOCKET = {"x86_64": 56, "aarch64": 220}, {"x86_64": 16, "aarch64": 29}, {
    "x86_64": 41, "aarch64": 198,
}  # fmt: skip
REFUSED, MISSING, KILLED = 0x00050001, 0x00050026, 0x80000000


@pytest.mark.parametrize("machine", ARCHES)
def test_what_is_denied(machine: str) -> None:
    code = program("deny", machine)
    for call, number in DENIED[machine].items():
        assert answer(code, machine, number) == REFUSED, call
    for call, number in ABSENT.items():
        assert answer(code, machine, number) == MISSING, call
    assert answer(code, machine, 451) == MISSING
    assert answer(code, machine, 100_000) == MISSING
    for call in REAL | SYNCS:
        if call in CALLS[machine]:
            assert answer(code, machine, CALLS[machine][call]) == ALLOW, call
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(code, machine, CLONE[machine], (flag | 17,)) == REFUSED
    # what the C library asks for a thread, and for a child
    assert answer(code, machine, CLONE[machine], (0x3D0F00,)) == ALLOW
    assert answer(code, machine, CLONE[machine], (0x1200011,)) == ALLOW
    for request in (0x5412, 0x541C, 0x7700005412):
        assert answer(code, machine, IOCTL[machine], (0, request)) == REFUSED
    assert answer(code, machine, IOCTL[machine], (0, 0x5401)) == ALLOW
    assert answer(code, machine, SOCKET[machine], (40,)) == 0x00050000 | 97
    assert answer(code, machine, SOCKET[machine], (2,)) == ALLOW
    assert answer(code, machine, 0x40000000 + 1) == KILLED
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert answer(code, other, 1) == KILLED


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("call", NODES)
def test_only_device_nodes_are_pretended(call: str, machine: str) -> None:
    number = CALLS[machine].get(call)
    if number is None:
        assert (call, machine) == ("mknod", "aarch64"), "arm64 alone has no mknod"
        return
    for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, 0):
        args = [0, 0, 0]
        args[NODES[call]] = kind | 0o4644
        expected = NOTHING if kind in (stat.S_IFCHR, stat.S_IFBLK) else ALLOW
        assert answer(program("fakeroot", machine), machine, number, tuple(args)) == expected


def test_other_abis_are_killed() -> None:
    code = program("fakeroot", "x86_64")
    assert answer(code, "aarch64", 0) == KILL
    assert answer(code, "x86_64", 0x40000000) == KILL, "x32"


def test_the_shipped_filters_are_those_the_script_makes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make-filters", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_each_start_gets_a_pipe_of_its_own() -> None:
    first, second = seccomp.pipe_of("fakeroot"), seccomp.pipe_of("fakeroot")
    try:
        for descriptor in (first, second):
            assert os.read(descriptor, 1 << 16) == seccomp.filter_bytes("fakeroot")
            assert os.read(descriptor, 1) == b"", "bwrap reads to the end"
            assert not os.get_inheritable(descriptor)
    finally:
        os.close(first)
        os.close(second)


def test_an_unknown_architecture_is_an_error_and_not_no_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError, match="riscv64"):
        seccomp.pipe_of("fakeroot")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
