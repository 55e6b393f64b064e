"""Public data sets, fetched once by the hub's own client and kept.

A revision such as `main` is resolved to a commit when it is first fetched. From then on it is that
commit, also when the hub has moved on, until `refresh`; a note beside the files says which, with
their digests. What is noted is read without a look at the network.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_lite.bench.libraries import need
from sandbox_lite.errors import HostError, TaskError
from sandbox_lite.jail import places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox_lite.bench.task import HubSource

ENDPOINT = "https://huggingface.co"
SUFFIXES = (".parquet", ".jsonl", ".json")
_REVISION = re.compile(r"[\w./-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Files of a data set on this machine."""

    repository: str
    config: str
    split: str
    revision: str
    """As it was asked for."""
    commit: str
    """What it is."""
    files: tuple[str, ...]
    """Their paths in the data set."""
    sha256: tuple[str, ...]
    paths: tuple[Path, ...]


def fetch(
    source: HubSource, *, revision: str | None = None, offline: bool = False, refresh: bool = False
) -> Fetched:
    """Return the files of one split, from the cache where they are there.

    Args:
        source: Which.
        revision: Another than the source's own: a commit, branch or tag.
        offline: Never look at the network.
        refresh: Resolve the revision anew.

    Raises:
        HostError: They are not here and cannot be fetched; the message says which and why.
        TaskError: The data set holds no such split, or a file of the cache was changed.
    """
    wanted = revision or source.revision
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise TaskError(f"not a revision: {wanted!r}")
    note = _note(source, wanted)
    if not refresh:
        found = _noted(note, source, wanted)
        if found is not None:
            return found
    if offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise _unreachable(source, wanted, "it is not in the cache, and the network is not asked")
    found = _download(source, wanted)
    note.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"commit": found.commit, "files": dict(zip(found.files, found.sha256, strict=True))}
    )
    part = note.with_name(f"{note.name}.{secrets.token_hex(4)}")
    part.write_text(text, encoding="utf-8")
    part.replace(note)
    return found


def cache() -> Path:
    """Return the directory of fetched data sets; it may not exist."""
    return places.cache_dir() / "datasets"


def _note(source: HubSource, revision: str) -> Path:
    words = (source.repository, source.config, source.split, revision)
    return cache() / "notes" / ("--".join(word.replace("/", "__") for word in words) + ".json")


def _noted(note: Path, source: HubSource, revision: str) -> Fetched | None:
    """Return what a note says is here; None where there is none, or a file was deleted."""
    try:
        data = json.loads(note.read_text(encoding="utf-8"))
        commit, files = str(data["commit"]), dict(data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    library = need("huggingface_hub", f"the data set {source.repository}")
    paths = []
    for name, digest in files.items():
        path = library.try_to_load_from_cache(
            source.repository, name, cache_dir=cache() / "hub", revision=commit,
            repo_type="dataset",
        )  # fmt: skip
        if not isinstance(path, str) or not Path(path).is_file():
            return None
        if _sha256(Path(path)) != digest:
            raise TaskError(
                f"{name} of {source.repository} was changed since it was fetched: {path}",
                hint=f"remove {cache()} and fetch it again",
            )
        paths.append(Path(path))
    return _fetched(source, revision, commit, tuple(files), tuple(files.values()), tuple(paths))


def _download(source: HubSource, revision: str) -> Fetched:
    library = need("huggingface_hub", f"the data set {source.repository}")
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    bars = need("tqdm", f"the data set {source.repository}").tqdm
    quiet = type("Quiet", (bars,), {"__init__": _quiet(bars), "monitor_interval": 0})
    trouble = _trouble()
    try:
        information = library.HfApi(endpoint=endpoint).dataset_info(
            source.repository, revision=revision, timeout=20
        )
        commit = str(information.sha)
        listed = sorted(item.rfilename for item in information.siblings or ())
        files = _files(source, listed, getattr(information, "card_data", None))
        paths = tuple(
            Path(
                library.hf_hub_download(
                    source.repository, name, repo_type="dataset", revision=commit,
                    cache_dir=cache() / "hub", endpoint=endpoint, etag_timeout=20,
                    tqdm_class=quiet,
                )
            )
            for name in files
        )  # fmt: skip
    except TaskError:
        raise
    except trouble as error:
        first = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {first[0]}"[:300]
        raise _unreachable(source, revision, f"{endpoint} gave {reason}") from error
    digests = tuple(_sha256(path) for path in paths)
    return _fetched(source, revision, commit, files, digests, paths)


def _quiet(bars: Any) -> Callable[..., None]:
    """Return what makes a progress bar that nobody sees: only the command line prints."""

    def start(self: object, *words: object, **named: object) -> None:
        bars.__init__(self, *words, **{**named, "disable": True})

    return start


def _trouble() -> tuple[type[Exception], ...]:
    """Return all that the client raises for a hub that cannot be had."""
    import httpx2

    errors = need("huggingface_hub.errors", "public data sets")
    return (
        OSError,
        ValueError,
        httpx2.HTTPError,
        httpx2.InvalidURL,
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
    )


def _unreachable(source: HubSource, revision: str, why: str) -> HostError:
    return HostError(
        f"the data set {source.repository} ({source.config}, {source.split}, revision {revision}) "
        f"could not be fetched: {why}",
        hint="fetch it once where the hub can be reached (HF_ENDPOINT names a mirror), or give a "
        "local JSONL or Parquet file with the same fields: --data FILE",
    )


def _files(source: HubSource, listed: Sequence[str], card: Any) -> tuple[str, ...]:
    """Return the files of a split: those the card names, else those named by convention."""
    patterns = list(_of_card(card, source.config, source.split))
    found = [name for name in listed if any(fnmatch.fnmatch(name, p) for p in patterns)]
    if not patterns:
        config, split = source.config, source.split
        shapes = (
            f"{config}/{split}[-.]*", f"data/{config}/{split}[-.]*", f"{config}/{split}/*",
            f"{config}[-_]{split}[-.]*", f"{config}.*",
        )  # fmt: skip
        for shape in shapes:
            found = [name for name in listed if fnmatch.fnmatch(name, shape)]
            if found:
                break
    found = [name for name in found if name.endswith(SUFFIXES)]
    if not found:
        raise TaskError(
            f"{source.repository} holds no {source.split} of {source.config}; it holds: "
            f"{', '.join(listed[:20]) or 'nothing'}",
            hint="has the data set changed? Name another revision, or give a local file",
        )
    return tuple(found)


def _of_card(card: Any, config: str, split: str) -> Iterator[str]:
    """Yield the patterns that a data set's card names for a split of a configuration."""
    data = card.to_dict() if hasattr(card, "to_dict") else card
    configs = data.get("configs") if isinstance(data, dict) else None
    for one in configs if isinstance(configs, list) else ():
        if not isinstance(one, dict) or one.get("config_name") != config:
            continue
        files = one.get("data_files")
        if isinstance(files, str):
            files = [{"split": "train", "path": files}]
        for item in files if isinstance(files, list) else ():
            if isinstance(item, dict) and item.get("split") == split:
                path = item.get("path")
                yield from [path] if isinstance(path, str) else path or ()


def _fetched(
    source: HubSource, revision: str, commit: str, files: tuple[str, ...],
    digests: tuple[str, ...], paths: tuple[Path, ...],
) -> Fetched:  # fmt: skip
    return Fetched(
        repository=source.repository, config=source.config, split=source.split,
        revision=revision, commit=commit, files=files, sha256=digests, paths=paths,
    )  # fmt: skip


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
