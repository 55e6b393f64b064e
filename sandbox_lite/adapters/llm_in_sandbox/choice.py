"""Which sandbox stands for a Docker image and the options of `docker run`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_lite import config
from sandbox_lite.errors import SpecError
from sandbox_lite.jail.rootfs.store import Store
from sandbox_lite.spec import MIB, UNNAMED, Limits, Mount, SandboxSpec

if TYPE_CHECKING:
    from sandbox_lite.config import Settings
    from sandbox_lite.spec import MountMode

OUTPUT_BYTES = 16 * MIB
"""Of each stream: the package reads whole files through the output of `cat` to edit them."""

PATH = (
    "/root/.local/bin:/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
VARIABLES: Mapping[str, str] = {
    "PATH": PATH,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_NO_WARN_SCRIPT_LOCATION": "1",
}
"""The package gives these to every command, whatever else was asked for."""

_NETWORKS = {"none": "none", "host": "host"}
_USUAL_NETWORKS = ("bridge", "default")
_WITHOUT_MEANING = ("auto_remove", "labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What sandboxes the package is given; what is None comes from the settings.

    These are the environment and the configuration file, as for `sandbox-lite run`:
    `SANDBOX_LITE_ROOTFS`, `SANDBOX_LITE_NETWORK`, `SANDBOX_LITE_MEMORY` and so on.
    """

    rootfs: str | None = None
    """For every image that `images` does not name; `standard` where no setting names one."""
    network: str | None = None
    """`web` where no setting names one: a container of Docker reaches the network."""
    allow: tuple[str, ...] | None = None
    allow_private: tuple[str, ...] | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    """Rootfs by the name of an image."""

    def rootfs_of(self, image: str, settings: Settings | None = None) -> str:
        """Return the rootfs that stands for an image.

        Raises:
            SpecError: A setting is wrong.
        """
        return self.images.get(image) or (settings or self._settings()).rootfs

    def check(self, image: str) -> None:
        """Return where the rootfs of an image is there.

        Raises:
            RootfsError: It is not; the hint says how it is made.
        """
        with Store().lease(self.rootfs_of(image)):
            pass

    def spec(self, image: str, workdir: str, options: Mapping[str, object]) -> SandboxSpec:
        """Return the sandbox that stands for a container.

        Args:
            image: Its image.
            workdir: Where its commands run; absolute.
            options: Those of docker-py's `containers.run`.

        Raises:
            SpecError: A value is none, or an option has no counterpart here.
        """
        settings = self._settings()
        asked = _Options(options)
        environment = {str(k): str(v) for k, v in asked.mapping("environment").items()}
        network = asked.network() or settings.network_or("web")
        return SandboxSpec(
            rootfs=self.rootfs_of(image, settings),
            network=network,
            allow=settings.allow if network not in ("none", "host") else (),
            allow_private=settings.allow_private if network not in ("none", "host") else (),
            workdir=workdir,
            env={**VARIABLES, **environment},
            mounts=asked.mounts(),
            limits=asked.limits(settings.limits(timeout=None)),
            user=asked.user,
            ids=settings.ids if asked.user == "root" else "own",
            hostname=asked.text("hostname", "sandbox"),
        )

    def _settings(self) -> Settings:
        return config.load(
            {
                "rootfs": self.rootfs, "network": self.network,
                "allow": self.allow, "allow_private": self.allow_private,
            }
        )  # fmt: skip


class _Options:
    """The options of `docker run`, of which each must be understood."""

    _KNOWN = (
        "environment", "network_mode", "network_disabled", "mem_limit", "nano_cpus", "pids_limit",
        "shm_size", "hostname", "user", "volumes", *_WITHOUT_MEANING,
    )  # fmt: skip

    def __init__(self, given: Mapping[str, object]) -> None:
        unknown = sorted(set(given) - set(self._KNOWN))
        if unknown:
            raise SpecError(
                f"a sandbox has no counterpart to docker's {', '.join(unknown)}",
                hint=f"it knows: {', '.join(self._KNOWN)}",
            )
        self._given = given

    def mapping(self, name: str) -> Mapping[object, object]:
        value = self._given.get(name) or {}
        if not isinstance(value, Mapping):
            raise SpecError(f"docker's {name} must be a mapping, not {value!r}")
        return value

    def text(self, name: str, usual: str = "") -> str:
        value = self._given.get(name, usual)
        if not isinstance(value, str):
            raise SpecError(f"docker's {name} must be a text, not {value!r}")
        return value

    def _number(self, name: str) -> int:
        value = self._given[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise SpecError(f"docker's {name} must be a whole number, not {value!r}")
        return value

    def _size(self, name: str) -> str | int:
        return self.text(name) if isinstance(self._given[name], str) else self._number(name)

    @property
    def user(self) -> str:
        user = self.text("user")
        return "root" if user in ("", "0", "0:0", "root:root") else user

    def network(self) -> str | None:
        """Return the mode that the options name; None where they leave it to the settings."""
        if self._given.get("network_disabled"):
            return "none"
        mode = self._given.get("network_mode")
        if mode is None or mode in _USUAL_NETWORKS:
            return None
        if mode not in _NETWORKS:
            raise SpecError(
                f"a sandbox has no counterpart to docker's network_mode {mode!r}",
                hint=f"it knows: {', '.join((*_NETWORKS, *_USUAL_NETWORKS))}",
            )
        return _NETWORKS[str(mode)]

    def limits(self, usual: Limits) -> Limits:
        """Return the bounds of the settings, with those that the options name in their place."""
        given = self._given
        pids = self._number("pids_limit") if "pids_limit" in given else 0
        named = Limits.of(
            memory=self._size("mem_limit") if "mem_limit" in given else UNNAMED,
            cpus=self._number("nano_cpus") / 1e9 if "nano_cpus" in given else UNNAMED,
            # docker's words for no bound
            pids=UNNAMED if "pids_limit" not in given else None if pids <= 0 else pids,
            shm=self._size("shm_size") if "shm_size" in given else UNNAMED,
        )
        fields = {
            "memory": "memory_bytes", "cpus": "cpus", "pids": "pids", "shm": "shm_bytes",
        }  # fmt: skip
        changed = {fields[name]: getattr(named, fields[name]) for name in named.named}
        return dataclasses.replace(
            usual, **changed, output_bytes=OUTPUT_BYTES, named=(*usual.named, *named.named)
        )

    def mounts(self) -> tuple[Mount, ...]:
        value = self._given.get("volumes") or ()
        if isinstance(value, Mapping):
            triples = [(str(k), str(v["bind"]), str(v.get("mode", "rw"))) for k, v in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            triples = [_triple(str(one)) for one in value]
        else:
            raise SpecError(f"docker's volumes are a mapping or a list, not {value!r}")
        return tuple(_mount(*one) for one in triples)


_MODES: Mapping[str, MountMode] = {"rw": "bind", "ro": "ro_bind"}


def _triple(text: str) -> tuple[str, str, str]:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    return source, target, mode or "rw"


def _mount(source: str, target: str, mode: str) -> Mount:
    if not source.startswith("/") or mode not in _MODES:
        raise SpecError(
            f"a sandbox has no counterpart to docker's volume {source}:{target}:{mode}",
            hint="name a directory of the host by its absolute path, and rw or ro",
        )
    return Mount(source=Path(source), target=target, mode=_MODES[mode])
