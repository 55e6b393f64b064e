"""Words for bwrap, compared whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_lite import Mount
from sandbox_lite.jail import bwrap
from sandbox_lite.jail.native import nest


def test_namespaces() -> None:
    everything = (
        "--unshare-user", "--disable-userns", "--unshare-ipc", "--unshare-pid", "--unshare-uts",
        "--unshare-cgroup-try", "--unshare-net", "--as-pid-1", "--new-session",
        "--die-with-parent",
    )  # fmt: skip
    assert bwrap.namespaces(network_host=False) == everything
    shared = tuple(word for word in everything if word != "--unshare-net")
    assert bwrap.namespaces(network_host=True) == shared


def test_identity_drops_all_but_a_few_capabilities() -> None:
    assert bwrap.identity(hostname="box") == (
        "--hostname", "box", "--uid", "0", "--gid", "0", "--cap-drop", "ALL",
        "--cap-add", "CAP_DAC_OVERRIDE", "--cap-add", "CAP_FOWNER", "--cap-add", "CAP_SETFCAP",
    )  # fmt: skip


def test_true_root_has_no_user_namespace_of_the_inner_bwrap() -> None:
    words = bwrap.namespaces(network_host=False, users=False)
    assert "--unshare-user" not in words
    assert "--disable-userns" not in words
    assert set(bwrap.namespaces(network_host=False)) - set(words) == {
        "--unshare-user", "--disable-userns",
    }  # fmt: skip


def test_true_root_holds_a_part_of_dockers_list() -> None:
    words = bwrap.true_root(hostname="box")
    assert words[:4] == ("--hostname", "box", "--cap-drop", "ALL")
    assert "--uid" not in words, "bwrap takes it only with a user namespace that it makes"
    docker = {
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
        "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    }  # fmt: skip
    held = {word.removeprefix("CAP_") for word in words[4:] if word != "--cap-add"}
    assert docker - held == {"MKNOD", "NET_RAW", "NET_BIND_SERVICE", "AUDIT_WRITE"}
    assert held < docker


def test_environment_is_replaced() -> None:
    assert bwrap.environment({"A": "1", "B": "x y"}) == (
        "--clearenv", "--setenv", "A", "1", "--setenv", "B", "x y",
    )  # fmt: skip


def test_overlay_names_the_lowest_layer_first() -> None:
    assert bwrap.overlay(2) == (
        "--overlay-src", "/lower/0", "--overlay-src", "/lower/1",
        "--overlay", "/upper/upper", "/upper/work", "/",
    )  # fmt: skip


def test_mounts_are_named_by_number() -> None:
    source = Path("/home/somebody/secret")
    assert bwrap.mount(Mount(source=source, target="/data"), 3) == (
        "--ro-bind", "/mounts/3", "/data",
    )  # fmt: skip
    assert bwrap.mount(Mount(source=source, target="/w", mode="bind"), 0) == (
        "--bind", "/mounts/0", "/w",
    )  # fmt: skip
    assert bwrap.mount(Mount(target="/t", mode="tmpfs", size_bytes=99), 1) == (
        "--size", "99", "--tmpfs", "/t",
    )  # fmt: skip


def test_an_overlay_over_a_directory_of_the_user() -> None:
    one = Mount(source=Path("/home/somebody/project"), target="/w/", mode="overlay")
    assert bwrap.mount(one, 2) == (
        "--overlay-src", "/mounts/2",
        "--overlay", "/upper/mounts/2/upper", "/upper/mounts/2/work", "/w/",
    )  # fmt: skip
    assert bwrap.covered(one, 2, {".git": True, "part/.git": False}) == (
        "--overlay-src", "/upper/mounts/2/empty", "--overlay-src", "/mounts/2/.git",
        "--ro-overlay", "/w/.git",
        "--ro-bind", "/mounts/2/part/.git", "/w/part/.git",
    )  # fmt: skip
    assert bwrap.uppers_of(()) == ()
    assert nest.mounts(bwrap.uppers_of([2]), {}, {}) == (
        ("d/upper/mounts", ""), ("d/upper/mounts/2", ""), ("d/upper/mounts/2/upper", ""),
        ("d/upper/mounts/2/work", ""), ("d/upper/mounts/2/empty", ""),
    )  # fmt: skip
    words = bwrap.nest(lowers=[], uppers=None, mounts=[one])
    assert words[-3:] == ("--ro-bind", "/home/somebody/project", "/mounts/0")


def test_only_the_outer_bwrap_names_paths_of_the_host() -> None:
    words = bwrap.nest(
        lowers=[Path("/home/somebody/rootfs")],
        uppers=Path("/home/somebody/run"),
        mounts=[Mount(source=Path("/home/somebody/in"), target="/in")],
    )
    at = words.index("/home/somebody/rootfs")
    assert words[at - 1 : at + 2] == ("--ro-bind", "/home/somebody/rootfs", "/lower/0")
    at = words.index("/home/somebody/in")
    assert words[at - 1 : at + 2] == ("--ro-bind", "/home/somebody/in", "/mounts/0")
    at = words.index("/home/somebody/run")
    assert words[at - 1 : at + 2] == ("--bind", "/home/somebody/run", "/uppers")


def test_what_the_nest_mounts_is_what_bwrap_would() -> None:
    words = bwrap.own(
        ("--size", "9", "--perms", "0755", "--tmpfs", "/upper", "--dir", "/upper/work"),
        control_bytes=7,
    )
    assert nest.mounts(words, {"/upper": 3}, {}) == (
        ("t/upper", "size=9,mode=0755,nr_inodes=3"), ("d/upper/work", ""),
        ("t/shm", "mode=1777"), ("t/control", "size=7,mode=0755"),
    )  # fmt: skip
    assert nest.mounts(("--bind", "/var/run/x", "/upper"), {}, {"/var/run": "/uppers"}) == (
        ("b/upper", "/uppers/x"),
    )
    with pytest.raises(ValueError, match="--proc"):
        nest.mounts(("--proc", "/proc"), {}, {})


def test_what_the_nest_covers_is_what_bwrap_would() -> None:
    words = bwrap.covers(["/proc/acpi/", "/proc/cmdline"])
    printed = bwrap.devices(hidden=["/proc/acpi/", "/proc/cmdline"])
    at = printed.index("--ro-bind-try")
    assert printed[at : at + len(words)] == words
    assert nest.mounts(words, {}, {}) == (
        *((f"r{path}", path) for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/fs")),
        ("t/proc/acpi", "size=4096,mode=0755"), ("r/proc/cmdline", "/dev/null"),
    )  # fmt: skip


def test_the_nest_holds_the_devices() -> None:
    words = bwrap.nest(lowers=[], uppers=None, mounts=())
    made = {words[n + 2] for n, word in enumerate(words) if word == "--dev-bind"}
    names = ("full", "null", "random", "tty", "urandom", "zero")
    assert made == {"/dev", *(f"{bwrap.DEVICES}/{name}" for name in names)}
    # the last word on it: nothing takes files but what is mounted there for one sandbox
    assert words[words.index("--remount-ro") + 1] == bwrap.DEVICES
    own = nest.devices(bwrap.DEVICES, bwrap.SHM, bwrap.NODES)
    shown = ("ppts", "bshm", *(f"n{name}" for name in bwrap.NODES))
    assert [target for target, _ in own] == [f"{at[0]}{bwrap.DEVICES}/{at[1:]}" for at in shown]
    assert sorted(bwrap.NODES) == sorted(names)


def test_command_can_be_pasted() -> None:
    assert bwrap.printable(["a b", "$c", "d'e"]) == "'a b' '$c' 'd'\"'\"'e'"
