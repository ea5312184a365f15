"""Settings: who wins, what is understood, and what a wrong value is told."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fetcher import config
from fetcher.config import MIB, Settings, load, variable
from fetcher.errors import UsageError

HOME = {"HOME": "/h"}


def _set(**environ: str) -> Settings:
    return load(environ={**HOME, **environ})


def _refused(**environ: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        _set(**environ)
    assert caught.value.hint
    return caught.value


def test_defaults_are_the_promised_ones() -> None:
    settings = _set()
    plain = Settings(cache_dir=Path("/h/.cache/fetcher"), state_dir=Path("/h/.cache/fetcher"))
    assert settings == plain
    assert (settings.fresh_for_s, settings.keep_for_s) == (86_400, 86_400)
    assert (settings.connect_timeout_s, settings.part_idle_timeout_s, settings.no_progress_timeout_s) == (10, 15, 120)
    assert (settings.part_slow_bytes_per_s, settings.part_slow_window_s, settings.part_moves_max) == (131_072, 10, 3)
    assert (settings.api_tries_max, settings.api_time_max_s, settings.retry_after_max_s) == (10, 120, 120)
    assert (settings.backoff_min_s, settings.backoff_max_s) == (0.2, 10)


def test_every_field_can_be_read() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert set(config._READERS) == fields
    text = {"bool": "true", "int": "16777216", "float": "40"}
    special = {
        "cache_dir": "/c",
        "state_dir": "/s",
        "engine_cache_dir": "/e",
        "cache_group": "7",
        "allow_net": "10.0.0.0/8",
        "proxy": "http://u:p@proxy:3128",
        "hf_endpoint": "http://h",
        "ollama_url": "http://o:1",
        "s3_endpoint": "http://s:2",
        "market_url": "https://m/{market}/list,http://n/x/{market}",
        "keep_from": "use",
        "connections_max": "8",
        "connections_per_host_max": "8",
        "limit_rate_bytes_per_s": "16777216",
        "heartbeat_s": "2",
        "quota_bytes": "1GiB",
        "market": "nvidia-3090",
        "shared_pins": "market:nvidia-3090,market:nvidia-4090",
    }
    values = {field.name: special.get(field.name) or text[str(field.type)] for field in dataclasses.fields(Settings)}
    from_variables = _set(**{variable(name): value for name, value in values.items()})
    from_arguments = load(arguments=values, environ=HOME)
    assert from_variables == from_arguments
    default = _set()
    unchanged = {name for name in fields if getattr(from_variables, name) == getattr(default, name)}
    assert unchanged <= {"part_bytes"}  # 16 MiB is its default


def test_argument_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('connect_timeout_s = "3s"\napi_timeout_s = 4\nkeep_from = "use"\n')
    environ = {**HOME, "FETCHER_CONFIG": str(file), "FETCHER_CONNECT_TIMEOUT_S": "5s", "FETCHER_API_TIMEOUT_S": "6"}
    settings = load(arguments={"connect_timeout_s": 7.0, "offline": None}, environ=environ)
    assert (settings.connect_timeout_s, settings.api_timeout_s, settings.keep_from) == (7, 6, "use")
    assert settings.part_idle_timeout_s == 15
    assert settings.offline is False


def test_the_file_of_the_user_is_found(tmp_path: Path) -> None:
    (tmp_path / "fetcher").mkdir()
    (tmp_path / "fetcher" / "config.toml").write_text(
        'allow_net = ["10.0.0.0/8"]\noffline = true\npart_bytes = "4MiB"\n'
    )
    settings = _set(XDG_CONFIG_HOME=str(tmp_path))
    assert (settings.allow_net, settings.offline, settings.part_bytes) == (("10.0.0.0/8",), True, 4 * MIB)
    assert _set(XDG_CONFIG_HOME=str(tmp_path), FETCHER_ALLOW_NET="").allow_net == ()


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("conect_timeout_s = 3", "unknown key conect_timeout_s", "did you mean connect_timeout_s?"),
        ("[cache]\ndir = 1", "unknown key cache", ""),
        ("connect_timeout_s = [1]", "key connect_timeout_s", "docs/MACHINE.md"),
        ("connect_timeout_s = true", "key connect_timeout_s", "docs/MACHINE.md"),
        ("connect_timeout_s = inf", "must be finite", ""),
        ("part_bytes = 1.5", "must not be less", ""),
        ("api_tries_max = 2.5", "whole number", ""),
        ("cache_dir = 3", "a path is a text", ""),
        ("hf_endpoint = 3", "endpoint is a text", ""),
        ("allow_net = [3]", "a network is a text", ""),
        ("allow_net = 3", "list of networks", ""),
        ("nonsense", "is not TOML", "https://toml.io"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, words: str, hint: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(environ=HOME, file=file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_file_that_was_named_must_be_there_and_readable(tmp_path: Path) -> None:
    assert "no configuration file" in str(_refused(FETCHER_CONFIG=str(tmp_path / "none.toml")))
    assert "can't read" in str(_refused(FETCHER_CONFIG=str(tmp_path)))
    (tmp_path / "latin.toml").write_bytes(b'cache_dir = "\xff"')
    assert "is not TOML" in str(_refused(FETCHER_CONFIG=str(tmp_path / "latin.toml")))


@pytest.mark.parametrize(
    ("environ", "cache_dir"),
    [
        ({}, "/h/.cache/fetcher"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/fetcher"),
        ({"XDG_CACHE_HOME": "relative"}, "/h/.cache/fetcher"),
        ({"FETCHER_CACHE_DIR": "/c/../d//"}, "/d"),
        ({"FETCHER_CACHE_DIR": "~/d"}, "/h/d"),
        ({"FETCHER_CACHE_DIR": ""}, "/h/.cache/fetcher"),
    ],
)
def test_where_the_cache_is(environ: dict[str, str], cache_dir: str) -> None:
    settings = _set(**environ)
    assert settings.cache_dir == settings.state_dir == Path(cache_dir)
    assert _set(**environ, FETCHER_STATE_DIR="/s").state_dir == Path("/s")


def test_a_relative_cache_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _set(FETCHER_CACHE_DIR="c").cache_dir == tmp_path / "c"
    assert "must be absolute" in str(_refused(FETCHER_ENGINE_CACHE_DIR="c"))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://huggingface.co/", "https://huggingface.co"),
        ("HTTPS://HuggingFace.co:443", "https://huggingface.co"),
        ("http://localhost:8080///", "http://localhost:8080"),
        ("http://127.0.0.1:0080", "http://127.0.0.1"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://h:80", "https://h:80"),
        (" https://hf-mirror.com ", "https://hf-mirror.com"),
    ],
)
def test_endpoints_have_one_form(text: str, normal: str) -> None:
    assert _set(HF_ENDPOINT=text).hf_endpoint == normal


@pytest.mark.parametrize(
    "text",
    [
        "huggingface.co",
        "ftp://h",
        "https://",
        "https://h/path",
        "https://h?q=1",
        "https://h#f",
        "https://user:hunter2@h",
        "https://h:0",
        "https://h:99999",
        "https://h:x",
        "https://a b",
        "https://h\n",
        "https://-h",
        "https://h.\u0430",
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    if text == "https://h\n":
        assert _set(HF_ENDPOINT=text).hf_endpoint == "https://h"  # a newline at the end of a variable is an accident
        return
    error = _refused(HF_ENDPOINT=text)
    assert "HF_ENDPOINT" in str(error)
    assert "hunter2" not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("127.0.0.0/8", ("127.0.0.0/8",)),
        (" 10.1.2.3 ,, fd00::/8,", ("10.1.2.3/32", "fd00::/8")),
        ("", ()),
        (",", ()),
    ],
)
def test_networks(text: str, networks: tuple[str, ...]) -> None:
    assert _set(FETCHER_ALLOW_NET=text).allow_net == networks


@pytest.mark.parametrize(
    ("text", "cure"), [("10.0.0.1/8", "write 10.0.0.0/8"), ("localhost", "10.0.0.0/8"), ("1.2.3.4/33", "10.0.0.0/8")]
)
def test_what_is_no_network(text: str, cure: str) -> None:
    error = _refused(FETCHER_ALLOW_NET=text)
    assert "FETCHER_ALLOW_NET" in str(error)
    assert cure in str(error)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("fresh_for_s", "1d", 86_400),
        ("fresh_for_s", "0", 0),
        ("offline", "Yes", True),
        ("offline", "off", False),
        ("limit_rate_bytes_per_s", "50M", 50_000_000),
        ("part_bytes", "8MiB", 8 * MIB),
        ("connections_max", "64", 64),
        ("part_slow_bytes_per_s", "128KiB", 131_072),
        ("cache_group", "root", 0),
    ],
)
def test_units_are_understood(name: str, text: str, value: object) -> None:
    assert getattr(_set(**{variable(name): text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fresh_for_s", "-1"),
        ("fresh_for_s", "soon"),
        ("connect_timeout_s", "0"),
        ("offline", "maybe"),
        ("limit_rate_bytes_per_s", "0"),
        ("limit_rate_bytes_per_s", "50Mbit"),
        ("part_bytes", "3MB"),
        ("part_bytes", "512KiB"),
        ("sync_bytes", "0"),
        ("sync_bytes", "1023KiB"),
        ("connections_max", "0"),
        ("connections_max", "1025"),
        ("connections_max", "many"),
        ("api_tries_max", "0"),
        ("keep_from", "today"),
        ("cache_group", "no-such-group-here"),
        ("cache_dir", "/a\nb"),
        ("window_bytes", "1MiB"),
        ("backoff_min_s", "11s"),
        ("heartbeat_s", "30s"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, text: str) -> None:
    assert re.search(rf"{variable(name)}|\b{name}\b", str(_refused(**{variable(name): text})))


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        load(arguments={"cashe_dir": "/c"}, environ=HOME)
    assert caught.value.hint == "did you mean cache_dir?"
    with pytest.raises(UsageError, match="setting part_bytes"):
        load(arguments={"part_bytes": 5}, environ=HOME)


def test_some_settings_can_be_overridden() -> None:
    base = _set(FETCHER_CACHE_DIR="/c", FETCHER_OFFLINE="1")
    changed = config.override(base, {"cache_dir": "/d", "part_bytes": "4MiB", "refresh": None})
    assert (changed.cache_dir, changed.state_dir) == (Path("/d"), Path("/d"))  # the index follows its cache
    assert (changed.part_bytes, changed.offline, changed.refresh) == (4 * MIB, True, False)
    apart = config.override(_set(FETCHER_CACHE_DIR="/c", FETCHER_STATE_DIR="/s"), {"cache_dir": "/d"})
    assert apart.state_dir == Path("/s")
    with pytest.raises(UsageError, match="unknown setting"):
        config.override(base, {"cash": 1})
    with pytest.raises(UsageError, match="less than part_bytes"):
        config.override(base, {"window_bytes": "1MiB"})


def test_without_a_file_nothing_heavy_is_loaded() -> None:
    script = "import sys, fetcher.config; fetcher.config.load(environ={'HOME': '/h'}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"tomllib", "asyncio", "difflib", "grp"} & set(done.stdout.split())
