"""Which system calls a container profile refuses are refused in a sandbox as well?

    scripts/audit PROFILE.json [--rootfs minimal] [--json]

PROFILE is one in the format of Docker and Podman, such as the `seccomp.json` of Debian's package
golang-github-containers-common. Every call that it refuses to a container without further
capabilities is made inside, each in a process of its own with arguments that mean nothing: EPERM,
ENOSYS or a kill is a refusal, everything else reached the kernel's own code. Needs pyseccomp.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pyseccomp

from sandbox_lite import Sandbox

PROBE = """
import ctypes, errno, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}
for name, number in json.load(sys.stdin).items():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(2)
        arguments = [ctypes.c_long(-1)] * 6
        if libc.syscall(ctypes.c_long(number), *arguments) == -1:
            os.write(writer, errno.errorcode.get(ctypes.get_errno(), "?").encode())
        else:
            os.write(writer, b"0")
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 100).decode()
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    found[name] = said or signal.Signals(os.WTERMSIG(status)).name
print(json.dumps(found))
"""
REFUSALS = ("EPERM", "ENOSYS", "SIGSYS")


def refused_by(profile: dict[str, object]) -> list[str]:
    """Return what the profile refuses whatever the arguments are, of a container's usual rights."""
    named: set[str] = set()
    allowed: set[str] = set()
    for rule in profile["syscalls"]:  # type: ignore[attr-defined]
        named.update(rule["names"])
        if rule["action"] == "SCMP_ACT_ALLOW" and not (rule.get("includes") or {}).get("caps"):
            allowed.update(rule["names"])
    return sorted(named - allowed)


def main() -> int:
    """Print what differs; exit 1 where something does."""
    parser = argparse.ArgumentParser(description="Compare a sandbox with a container profile.")
    parser.add_argument("profile", type=Path)
    parser.add_argument("--rootfs", default="minimal")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = refused_by(json.loads(arguments.profile.read_text()))
    arch = pyseccomp.system_arch()
    numbers = {name: pyseccomp.resolve_syscall(arch, name) for name in names}
    numbers = {name: number for name, number in numbers.items() if number >= 0}
    with Sandbox(arguments.rootfs) as sandbox:
        result = sandbox.exec(["python3", "-c", PROBE], input=json.dumps(numbers).encode())
    found = json.loads(result.check().stdout)
    through = {name: said for name, said in found.items() if said not in REFUSALS}
    if arguments.json:
        print(json.dumps({"refused": len(found) - len(through), "through": through}))
    else:
        print(
            f"{len(found)} calls that the profile refuses, {len(through)} of them reach the kernel"
        )
        for name, said in through.items():
            print(f"  {name:24}{said}")
    return 1 if through else 0


if __name__ == "__main__":
    sys.exit(main())
