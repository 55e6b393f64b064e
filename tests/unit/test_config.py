"""Settings: which source wins, what is refused, what a written file keeps."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from sandbox_lite import config
from sandbox_lite.errors import HostError, SpecError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "config.toml"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_each_source_beats_the_one_before(file: Path) -> None:
    assert config.load(file=file, environ={}).rootfs == "standard"
    write(file, 'rootfs = "of-file"\nmax_steps = 5\n')
    assert config.load(file=file, environ={}).rootfs == "of-file"
    environ = {"SANDBOX_LITE_ROOTFS": "of-variable"}
    assert config.load(file=file, environ=environ).rootfs == "of-variable"
    settings = config.load({"rootfs": "of-flag", "network": None}, file=file, environ=environ)
    assert settings.rootfs == "of-flag"
    assert settings.origins["rootfs"] == "--rootfs"
    assert (settings.max_steps, settings.origins["max_steps"]) == (5, str(file))
    assert (settings.network, settings.origins["network"]) == (None, "default")


def test_our_variable_beats_the_clients(file: Path) -> None:
    environ = {"OPENAI_BASE_URL": "http://a/v1"}
    settings = config.load(file=file, environ=environ)
    assert (settings.base_url, settings.origins["base_url"]) == ("http://a/v1", "OPENAI_BASE_URL")
    environ["SANDBOX_LITE_BASE_URL"] = "http://b/v1"
    assert config.load(file=file, environ=environ).base_url == "http://b/v1"


def test_an_empty_variable_counts_for_nothing(file: Path) -> None:
    write(file, 'model = "m"\n')
    assert config.load(file=file, environ={"SANDBOX_LITE_MODEL": ""}).model == "m"


def test_every_setting_has_a_variable_and_a_line_of_help() -> None:
    for name, option in config.OPTIONS.items():
        assert option.variables[0] == f"SANDBOX_LITE_{name.upper()}"
        assert option.help


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "  "),
        ("base_url", "ftp://x/"),
        ("base_url", "http://[::1"),
        ("base_url", "127.0.0.1:8000"),
        ("api_key_env", "sk-123"),
        ("temperature", "warm"),
        ("temperature", "nan"),
        ("max_steps", "0"),
        ("max_steps", "1.5"),
        ("max_steps", True),
        ("model_retries", "-1"),
        ("timeout", "0"),
        ("timeout", "inf"),
        ("extra_body", "[]"),
        ("extra_body", "{"),
    ],
)
def test_wrong_values_name_their_origin(file: Path, name: str, value: object) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(SpecError, match=rf"{name} must be .*\(from {flag}\)"):
        config.load({name: value}, file=file, environ={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model =", "is no TOML"),
        ("modell = 'x'", "no such setting: 'modell'"),
        ("api_key = 'sk-1'", "keys are not kept in files"),
        ("OPENAI_API_KEY = 'sk-1'", "keys are not kept in files"),
        ("max_steps = 'many'", "max_steps must be"),
        ("max_steps = true", "max_steps must be"),
    ],
)
def test_wrong_files(file: Path, text: str, said: str) -> None:
    write(file, text)
    with pytest.raises(SpecError, match=said):
        config.load(file=file, environ={})


def test_a_file_that_is_none(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(HostError, match="cannot read the configuration"):
        config.load(file=file, environ={})
    with pytest.raises(HostError, match="cannot read the configuration"):
        config.store("model", "m", file=file)


def test_the_file_may_hold_a_table(file: Path) -> None:
    write(file, "[extra_body]\ntop_k = 3\n")
    assert config.load(file=file, environ={}).extra_body == {"top_k": 3}


def test_secrets_are_never_shown() -> None:
    settings = config.load(
        {
            "base_url": "https://me:pw@host/v1",
            "extra_body": '{"api_key": "sk-1", "list": [{"Authorization": "x"}], "max_tokens": 5}',
        },
        environ={},
    )
    assert settings.shown("base_url") == "https://host/v1"
    assert settings.shown("extra_body") == {
        "api_key": "***", "list": [{"Authorization": "***"}], "max_tokens": 5
    }  # fmt: skip


def test_the_key_comes_from_the_variable_that_is_named(file: Path) -> None:
    settings = config.load({"api_key_env": "MINE"}, file=file, environ={})
    assert settings.api_key({"MINE": " sk-1 ", "OPENAI_API_KEY": "sk-2"}) == "sk-1"
    with pytest.raises(SpecError, match="MINE is not set"):
        settings.api_key({})
    assert config.load(file=file, environ={}).api_key({}) is None


def test_storing_keeps_the_rest(file: Path) -> None:
    write(file, '# mine\nmodel = "a" # this one\nmax_steps = 3\n\n[extra_body]\ntop_k = 3\n')
    config.store("model", 'b "quoted" \\ \x7f \u00e9', file=file)
    config.store("temperature", "0.5", file=file)
    config.store("max_steps", None, file=file)
    text = file.read_text()
    assert text.startswith("temperature = 0.5\n# mine\nmodel = ")
    assert tomllib.loads(text) == {
        "model": 'b "quoted" \\ \x7f \u00e9', "temperature": 0.5, "extra_body": {"top_k": 3}
    }  # fmt: skip
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_is_stored_is_read_back(file: Path) -> None:
    config.store("extra_body", '{"a": [1, "\\u00e9"]}', file=file)
    config.store("max_seconds", "12.5", file=file)
    settings = config.load(file=file, environ={})
    assert settings.extra_body == {"a": [1, "\u00e9"]}
    assert settings.max_seconds == 12.5


def test_storing_refuses_what_it_cannot_do(file: Path) -> None:
    text = 'model = """\nover two lines"""\n'
    write(file, text)
    with pytest.raises(SpecError, match="without touching the rest"):
        config.store("model", "m", file=file)
    with pytest.raises(SpecError, match="no such setting"):
        config.store("modell", "m", file=file)
    with pytest.raises(SpecError, match="keys are not kept"):
        config.store("api_key", "sk-1", file=file)
    with pytest.raises(SpecError, match="keys are not kept"):
        config.store("extra_body", '{"api_key": "sk-1"}', file=file)
    with pytest.raises(SpecError, match="max_steps must be"):
        config.store("max_steps", "x", file=file)
    assert file.read_text() == text


def test_a_linked_file_stays_a_link(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("max_steps = 3\n")
    file.parent.mkdir()
    file.symlink_to(real)
    config.store("model", "m", file=file)
    assert file.is_symlink()
    assert tomllib.loads(real.read_text()) == {"model": "m", "max_steps": 3}
