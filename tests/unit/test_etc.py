"""The host's extra certificates, and nothing else of it, in a thin layer of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandbox_lite.errors import HostError, RootfsError
from sandbox_lite.jail import etc

if TYPE_CHECKING:
    from pathlib import Path

KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


def certificate(body: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A company's bundle that this host names in its environment, with a key beside it."""
    path = tmp_path / "company.pem"
    path.write_text(f"{KEY}{certificate('QUJD')}text\r\n{certificate('REVG')}")
    for name in etc._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    monkeypatch.setattr(etc, "_ANCHORS", ())
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(tmp_path / "home"))
    return path


def rootfs(tmp_path: Path, text: str) -> Path:
    tree = tmp_path / "tree"
    (tree / etc.BUNDLE).parent.mkdir(parents=True)
    (tree / etc.BUNDLE).write_text(text)
    return tree


def test_certificates_join_the_bundle_and_keys_do_not(bundle: Path, tmp_path: Path) -> None:
    tree = rootfs(tmp_path, certificate("QUJD"))
    files = etc.trust([tree])
    assert files[etc.BUNDLE].decode() == certificate("QUJD") + certificate("REVG")
    extra = {name: data for name, data in files.items() if name != etc.BUNDLE}
    assert [data.decode() for data in extra.values()] == [certificate("REVG")]
    assert not any(b"PRIVATE" in data or b"c2VjcmV0" in data for data in files.values())


def test_nothing_is_added_where_the_rootfs_knows_all(bundle: Path, tmp_path: Path) -> None:
    tree = rootfs(tmp_path, certificate("REVG") + certificate("QUJD"))
    assert etc.trust([tree]) == {}


def test_missing_and_unreadable_bundles_are_passed_over(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nosuch"))
    monkeypatch.setenv("PIP_CERT", str(tmp_path))
    assert len(etc.extra_certificates()) == 2


def test_link_in_a_rootfs_leads_to_nothing_of_the_host(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("user:x:1000:1000::/home/user:/bin/sh\n" + certificate("R0hJ"))
    tree = tmp_path / "tree"
    for name in (etc.BUNDLE, "etc/passwd"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(secret)
    assert b"user:x" not in etc.trust([tree])[etc.BUNDLE]
    with pytest.raises(RootfsError):
        etc.account([tree], "user")
    # the same link is followed where it stays inside
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to("/other")
    (tree / "other").write_text(secret.read_text())
    assert etc.account([tree], "user").uid == 1000


def test_bundle_that_changes_is_read_again(bundle: Path, tmp_path: Path) -> None:
    tree = rootfs(tmp_path, certificate("QUJD"))
    assert certificate("SktM") not in etc.trust([tree])[etc.BUNDLE].decode()
    bundle.write_text(certificate("SktM"))
    assert certificate("SktM") in etc.trust([tree])[etc.BUNDLE].decode()


def test_layer_is_made_once_and_shared(bundle: Path, tmp_path: Path) -> None:
    files = {"etc/hosts": etc.hosts("box"), "usr/local/x": b"1"}
    path = etc.layer(files)
    assert (path / "etc/hosts").read_text().startswith("127.0.0.1 localhost\n127.0.1.1 box\n")
    assert etc.layer(dict(reversed(files.items()))) == path
    assert etc.layer({**files, "usr/local/x": b"2"}) != path
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]


def test_cache_that_cannot_be_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_LITE_HOME", str(bundle))
    with pytest.raises(HostError, match="cannot write the cache"):
        etc.layer({"etc/hosts": b""})
