"""What ``fetcher doctor`` remarks on: each thing that is lax, its cure, and nothing where nothing is."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fetcher import config
from fetcher.cli.lax import Place, Remark, Seen, _is_mapped, _is_own_group, lax
from fetcher.config import Settings, load
from tests.cli.support import Program, check
from tests.support.cli import CommandLine

OWN_UID, OTHER_UID = 1000, 1001
DIRECTORY, FILE = stat.S_IFDIR, stat.S_IFREG

SOUND = Seen(
    OWN_UID,
    directories=(
        Place("/srv/node/.cache/fetcher", DIRECTORY | 0o700, OWN_UID),
        Place("/srv/node/.cache", DIRECTORY | 0o755, OWN_UID),
        Place("/var", DIRECTORY | 0o755, 0),
        Place("/tmp", DIRECTORY | 0o1777, 0),
    ),
    configuration=(Place("/srv/node/.config/fetcher/config.toml", FILE | 0o644, OWN_UID),),
    secret_files=(Place("/srv/node/.cache/huggingface/token", FILE | 0o600, OWN_UID),),
)


def remarks(environ: dict[str, str] | None = None, seen: Seen = SOUND, **more: Any) -> list[Remark]:
    """Of a set-up whose settings are all from ``environ``."""
    given = {"HOME": "/srv/node", **(environ or {})}
    found = lax(load(environ=given), given, seen, **more)
    for remark in found:
        assert remark.about
        assert remark.hint
        assert "hf_" not in str(remark)
    return found


def one(environ: dict[str, str] | None = None, seen: Seen = SOUND, **more: Any) -> Remark:
    (remark,) = remarks(environ, seen, **more)
    return remark


def test_a_default_set_up_has_none() -> None:
    assert remarks() == []


@pytest.mark.parametrize(
    "networks", ["8.8.8.8", "10.1.2.0/24", "192.168.7.7", "fd12:3456::/32", "169.254.10.0/24", "::ffff:10.1.2.0/120"]
)
def test_a_few_addresses_are_no_remark(networks: str) -> None:
    assert remarks({"FETCHER_ALLOW_NET": networks}) == []


@pytest.mark.parametrize(
    ("networks", "word"),
    [
        ("0.0.0.0/0", "everything"),
        ("::/0", "everything"),
        ("0.0.0.0/1,128.0.0.0/1", "everything"),
        ("::ffff:0.0.0.0/96", "everything"),
        ("2000::/3", "everything"),
        ("127.0.0.0/8", "this machine itself"),
        ("127.0.0.1", "this machine itself"),
        ("126.0.0.0/7", "this machine itself"),
        ("::1", "this machine itself"),
        ("::ffff:127.0.0.1", "this machine itself"),
        ("169.254.0.0/16", "metadata"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("10.0.0.0/8", "private range"),
        ("172.16.0.0/12", "private range"),
        ("192.168.0.0/16", "private range"),
        ("192.160.0.0/11", "private range"),
    ],
)
def test_networks_of_jobs(networks: str, word: str) -> None:
    remark = one({"FETCHER_ALLOW_NET": networks})
    assert remark.about == "jobs' network"
    assert word in remark.message
    assert "FETCHER_ALLOW_NET" in remark.hint


def test_one_network_may_be_lax_in_more_than_one_way() -> None:
    found = remarks({"FETCHER_ALLOW_NET": "96.0.0.0/5,fc00::/7"})
    assert ["metadata" in remark.message for remark in found] == [True, False]
    assert "private range" in found[1].message


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("HF_ENDPOINT", "http://hub.example.org"),
        ("HF_ENDPOINT", "http://10.0.0.7:8080"),
        ("AWS_ENDPOINT_URL_S3", "http://s3.example.org"),
        ("FETCHER_OLLAMA_URL", "http://registry.example.org"),
        ("FETCHER_MARKET_URL", "http://markets.example.org/{market}"),
    ],
)
def test_endpoints_over_plain_http(variable: str, url: str) -> None:
    remark = one({variable: url})
    assert remark.about == "endpoint"
    assert "can change what it says" in remark.message
    assert "your credentials" not in remark.message
    assert "https" in remark.hint
    https = {variable: url.replace("http:", "https:")}
    here = {variable: "http://127.0.0.1:9/{market}" if "{market}" in url else "http://localhost:9"}
    assert remarks(https) == remarks(here) == []


@pytest.mark.parametrize(
    ("variable", "credential"),
    [
        ("HF_ENDPOINT", "HF_TOKEN"),
        ("AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE"),
    ],
)
def test_credentials_over_plain_http(variable: str, credential: str) -> None:
    remark = one({variable: "http://models.example.org", credential: "hf_secret0123456789"})
    assert "your credentials" in remark.message
    assert "secret" not in remark.message
    assert remarks({credential: "hf_secret0123456789"}) == []


def test_a_proxy_that_is_trusted_and_pins_that_are_shared() -> None:
    assert one({"FETCHER_PROXY_FILTERS": "true"}).about == "jobs' network"
    assert one({"FETCHER_PROOF_FOR_S": "2d"}).about == "proofs"
    remark = one({"FETCHER_SHARED_PINS": "market:nvidia-3090"})
    assert "market:nvidia-3090" in remark.message
    assert "share = true" in remark.hint


@pytest.mark.parametrize(
    ("variable", "value", "about"),
    [
        ("FETCHER_FRESH_FOR_S", "30d", "fresh for"),
        ("FETCHER_STALE_IF_ERROR_S", "7d", "stale if error"),
        ("FETCHER_SPACE_FLOOR_BYTES", "0", "space floor"),
        ("FETCHER_CACHE_GROUP", "100", "cache mode"),
    ],
)
def test_settings_that_weaken_a_promise(variable: str, value: str, about: str) -> None:
    remark = one({variable: value})
    assert remark.about == about
    assert variable in remark.hint


def test_root() -> None:
    root = replace(SOUND, user_id=0, directories=(), configuration=(), secret_files=())
    assert one(seen=root).about == "user"
    assert remarks(seen=replace(root, is_mapped=True)) == []


@pytest.mark.parametrize(
    ("table", "mapped"),
    [
        ("         0          0 4294967295\n", False),
        ("         0       1000          1\n         1     100000      65536\n", True),
        ("rubbish", False),
    ],
)
def test_root_of_a_namespace_is_another_outside(table: str, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: table)
    assert _is_mapped(0) is mapped


@pytest.mark.parametrize(
    "place",
    [
        Place("/srv/node/.cache/fetcher", DIRECTORY | 0o770, OWN_UID),
        Place("/srv", DIRECTORY | 0o777, 0),
        Place("/srv", DIRECTORY | 0o775, OWN_UID),
        Place("/srv", DIRECTORY | 0o755, OTHER_UID),
        Place("/srv", DIRECTORY | 0o1777, OTHER_UID),
    ],
)
def test_directories_that_others_can_change(place: Place) -> None:
    remark = one(seen=replace(SOUND, directories=(*SOUND.directories, place)))
    assert remark.about == "directories"
    assert place.path in remark.message
    assert place.path in remark.hint


def test_a_group_of_the_owner_alone_is_nobody_else() -> None:
    """Where each user has a group, ``mkdir`` and editors leave 0775 and 0664."""
    directory = Place("/srv/node/.config", DIRECTORY | 0o775, OWN_UID, own_group=True)
    file = Place("/srv/node/.config/fetcher/config.toml", FILE | 0o664, OWN_UID, own_group=True)
    assert remarks(seen=replace(SOUND, directories=(directory,), configuration=(file, directory))) == []
    open_to_all = replace(directory, mode=DIRECTORY | 0o777)
    assert one(seen=replace(SOUND, directories=(open_to_all,))).about == "directories"


@pytest.mark.parametrize(
    ("primary", "name", "members", "own"),
    [
        (1000, "node", [], True),
        (1000, "node", ["node"], True),
        (1000, "node", ["node", "mallory"], False),
        (1000, "users", [], False),  # it may be the first group of many
        (100, "node", [], False),
    ],
)
def test_whose_group_it_is(
    primary: int, name: str, members: list[str], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.struct_passwd(("node", "x", 1000, primary, "", "/srv/node", "/bin/sh"))
    monkeypatch.setattr("pwd.getpwuid", lambda uid: user)
    monkeypatch.setattr("grp.getgrgid", lambda gid: grp.struct_group((name, "x", 1000, members)))
    assert _is_own_group(1000, 1000) is own


@pytest.mark.parametrize(
    "place",
    [
        Place("/etc/fetcher.toml", FILE | 0o666, OWN_UID),
        Place("/etc/fetcher.toml", FILE | 0o1664, OWN_UID),
        Place("/etc/fetcher.toml", FILE | 0o600, OTHER_UID),
    ],
)
def test_a_configuration_that_others_can_change(place: Place) -> None:
    assert one(seen=replace(SOUND, configuration=(place,))).about == "configuration"


def test_a_configuration_that_may_hold_a_key() -> None:
    environ = {"FETCHER_MARKET_URL": "https://markets.example.org/{market}?key=hf_secret0123456789"}
    remark = one(environ)
    assert remark.about == "configuration"
    assert "secret" not in str(remark)
    private = Place("/srv/node/.config/fetcher/config.toml", FILE | 0o600, OWN_UID)
    assert remarks(environ, replace(SOUND, configuration=(private,))) == []


def test_credentials_that_others_can_read() -> None:
    place = Place("/srv/node/.aws/credentials", FILE | 0o644, OWN_UID)
    remark = one(seen=replace(SOUND, secret_files=(place,)))
    assert remark.about == "credentials"
    assert place.path in remark.hint


# --- as the program tells it


def told(program: Program) -> list[dict[str, Any]]:
    (line,) = program("doctor", "--json").json
    check(line)
    assert line["ok"]
    found = [each for each in line["checks"] if each["lax"]]
    assert all(each["status"] == "warn" for each in found)
    return found


def test_the_machine_is_looked_at(
    program: Program, isolated_environment: pytest.MonkeyPatch, cache_dir: Path, tmp_path: Path
) -> None:
    isolated_environment.setenv("FETCHER_SPACE_FLOOR_BYTES", "256MiB")
    before = {each["name"] for each in told(program)}
    assert before <= {"user", "directories"}  # what the machine that runs the tests is itself
    home = tmp_path / "home"
    settings = home / ".config" / "fetcher" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('allow_net = ["10.0.0.0/8"]\n')
    settings.chmod(0o666)
    token = home / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text("hf_secret0123456789")
    token.chmod(0o644)
    cache_dir.parent.chmod(0o777)
    try:
        found = told(program)
        text = program("doctor")
    finally:
        cache_dir.parent.chmod(0o755)
    assert {each["name"] for each in found} >= {"jobs' network", "configuration", "credentials", "directories"}
    assert any(each["name"] == "directories" and each["message"].startswith(f"{home} ") for each in found)
    assert text.exit_code == 0
    assert f"hint: chmod go= {token}" in text.out
    assert "hf_secret" not in text.out


def test_a_cache_in_a_directory_that_was_open_before(program: Program, cache_dir: Path) -> None:
    """The directories in it are closed, so nothing of it can be read."""
    cache_dir.mkdir(mode=0o755, parents=True)
    (cache_dir / "notes.txt").touch()

    def mode() -> tuple[str, str]:
        (line,) = program("doctor", "--json").json
        (found,) = [each for each in line["checks"] if each["name"] == "cache mode"]
        assert found["lax"] is (found["status"] == "warn")
        return found["status"], found["message"]

    assert mode() == ("ok", "0755; the directories in it are closed to other users")
    (cache_dir / "blobs-v1").chmod(0o755)
    status, message = mode()
    assert status == "warn" and "blobs-v1 open too" in message and "snapshots-v1" not in message


def test_keys_that_jobs_do_not_get_are_said_once(program: Program, isolated_environment: pytest.MonkeyPatch) -> None:
    isolated_environment.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY")
    isolated_environment.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    text = program("doctor").out
    assert text.count("AWS_SECRET_ACCESS_KEY") == 1
    assert "jobs use their own IAM" in text
    assert "canary" not in text.lower()


@pytest.mark.needs("ordinary-user")
def test_an_ordinary_users_default_set_up_has_none(run_cli: CommandLine) -> None:
    done = run_cli("doctor", "--json", env={"FETCHER_CACHE_DIR": None}, user="ordinary")
    assert [each for each in done.last["checks"] if each["lax"]] == []
    assert os.path.isdir(run_cli.home("ordinary") / ".cache" / "fetcher")
    as_root = run_cli("doctor", "--json")
    assert "user" in {each["name"] for each in as_root.last["checks"] if each["lax"]}


def test_every_setting_named_by_a_remark_is_one() -> None:
    named = {"fresh_for_s", "stale_if_error_s", "space_floor_bytes", "cache_group", "allow_net", "market_url"}
    assert named <= {name for name in Settings.__dataclass_fields__ if config.variable(name)}
