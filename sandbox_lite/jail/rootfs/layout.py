"""What every Debian rootfs of ours has beside its packages, and what it must not keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_lite.jail.rootfs import mirror as mirrors
from sandbox_lite.jail.rootfs.recipe import KEYRING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_lite.jail.rootfs.recipe import Recipe
    from sandbox_lite.jail.rootfs.release import Release

# armoured, and named so: apt takes .gpg as binary
_OWN_KEYRING = "/etc/apt/keyrings/sandbox-lite.asc"

CLEAN = r"""
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/man/* /root/.cache
mkdir -p /var/lib/apt/lists/partial
# Java's packages make links to their manuals there, with or without manuals
mkdir -p /usr/share/man/man{1..9}
# all are configured in one go, and ca-certificates may be before base-files makes /usr/local
mkdir -p /usr/local/share/ca-certificates
# what a new day or a second run would write differently
find /var/log /var/tmp -xdev -mindepth 1 ! -type d -delete
rm -f /var/cache/ldconfig/aux-cache /var/lib/dpkg/*-old /var/cache/debconf/*-old
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
[ ! -e /etc/machine-id ] || : > /etc/machine-id
# on the host these bits would lend the rights of whoever built it; inside they do nothing
find / -xdev -type f -perm /6000 -exec chmod a-s {} +
find / -xdev -type s -delete
"""
"""Shell script of the end, inside the jail."""


def base_files(
    recipe: Recipe, own: Sequence[Release], older: Sequence[Release]
) -> dict[str, tuple[str, int]]:
    """Return text and mode of the files that make apt and dpkg work in a jail, by path."""
    files = {
        # a host name without an address makes sudo and others wait for a resolver
        "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n",
        "/etc/hostname": "sandbox\n",
        "/etc/resolv.conf": "",
        "/etc/apt/sources.list.d/debian.sources": _sources(recipe, [*own, *older]),
        "/etc/apt/apt.conf.d/90sandbox-lite": _apt(own),
        "/etc/dpkg/dpkg.cfg.d/90sandbox-lite": _dpkg(recipe),
    }
    if recipe.older is not None:
        files["/etc/apt/preferences.d/90sandbox-lite"] = "".join(
            f"Package: *\nPin: release n={release.suite}\nPin-Priority: 100\n\n"
            for release in older
        )
    if recipe.keyring != KEYRING:
        files[_OWN_KEYRING] = _armoured(recipe.keyring.read_bytes())
    made = {path: (text, 0o644) for path, text in files.items()}
    # there is no init inside: packages must not start their services
    made["/usr/sbin/policy-rc.d"] = ("#!/bin/sh\nexit 101\n", 0o755)
    return made


def _armoured(keyring: bytes) -> str:
    import pysequoia

    if keyring.startswith(b"-----BEGIN"):
        return keyring.decode()
    return str(pysequoia.armor(keyring, pysequoia.ArmorKind.PublicKey))


def _sources(recipe: Recipe, used: Sequence[Release]) -> str:
    keyring = (
        "/usr/share/keyrings/debian-archive-keyring.gpg"
        if recipe.keyring == KEYRING
        else _OWN_KEYRING
    )
    return "\n".join(
        f"Types: deb\nURIs: {mirrors.public(release.mirror)}\nSuites: {release.suite}\n"
        f"Components: {' '.join(recipe.components)}\nSigned-By: {keyring}\n"
        for release in used
    )


def _apt(own: Sequence[Release]) -> str:
    lines = [
        "// apt downloads as the user _apt, which a namespace of one id does not have",
        'APT::Sandbox::User "root";',
        'Acquire::Languages "none";',
    ]
    if mirrors.ignores_valid_until() or any(release.expired for release in own):
        lines += [
            "// the mirror this was built from is a frozen one",
            'Acquire::Check-Valid-Until "false";',
        ]
    return "\n".join(lines) + "\n"


def _dpkg(recipe: Recipe) -> str:
    lines = ["# a sandbox does not outlive a power cut: no fsync", "force-unsafe-io"]
    lines += [f"path-exclude={pattern}" for pattern in recipe.exclude]
    lines += [f"path-include={pattern}" for pattern in recipe.include]
    return "\n".join(lines) + "\n"
