"""Looking at the cache and tidying it, and hits of get and job: all that needs no origin."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from blake3 import blake3

from fetcher.cache import lock_probe
from fetcher.cache.records import GoneError, Snapshot
from fetcher.cache.store import Cache
from fetcher.cli import doctor, fetching
from fetcher.config import load
from fetcher.model.resource import HF
from tests.cli.support import COMMIT, FILES, Program, stock

URI = "hf://acme/tiny"
DAY_S = 86_400


# --- ls


def test_ls_of_nothing(program: Program, cache_dir: Path) -> None:
    done = program("ls")
    assert (done.exit_code, done.out) == (0, "")
    assert "nothing in" in done.err
    assert program("ls", "--json").out == ""
    assert not cache_dir.exists()  # looking makes nothing


def test_ls(program: Program, tiny: Snapshot) -> None:
    other = stock(HF("acme/other"), age_s=2 * DAY_S)
    header, *rows = program("ls").out.splitlines()
    assert header.split() == ["RESOURCE", "REVISION", "FILES", "SIZE", "AGE", "STATE"]
    assert [row.split()[0] for row in rows] == [tiny.uri, other.uri]
    assert COMMIT[:12] in rows[0]
    assert rows[0].endswith("fresh")
    assert rows[1].endswith("stale")
    assert str(tiny.path) in program("ls", "--verbose").out


def test_ls_json(program: Program, tiny: Snapshot) -> None:
    (entry,) = program("ls", "--json").json
    assert (entry["resource"], entry["path"], entry["revision"]) == (tiny.uri, str(tiny.path), COMMIT)
    assert (entry["files"], entry["bytes"]) == (3, sum(len(data) for data in FILES.values()))
    assert entry["verified_by"] == "sha256"
    assert entry["fresh_until"] == pytest.approx(time.time() + DAY_S, abs=60)


# --- inspect


def test_inspect_agrees_with_other_programs(program: Program, tiny: Snapshot) -> None:
    (entry,) = program("inspect", URI, "--json").json
    listed = {file["path"]: file for file in entry["file_list"]}
    assert set(listed) == set(FILES)
    for path, data in FILES.items():
        assert listed[path]["size"] == len(data)
        assert listed[path]["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert listed[path]["blake3"] == (blake3(data).hexdigest() if data else None)


def test_inspect_by_uri_or_any_path(program: Program, tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    by_uri = program("inspect", URI, "--json").json
    monkeypatch.chdir(tiny.path)
    for path in (tiny.path, tiny.path / "weights" / "model.bin", Path("config.json")):
        assert program("inspect", path, "--json").json == by_uri
    text = program("inspect", URI).out
    assert "weights/model.bin" in text
    assert hashlib.sha256(FILES["config.json"]).hexdigest() in text


def test_inspect_shows_every_entry_of_a_uri(program: Program, tiny: Snapshot) -> None:
    stock(HF("acme/tiny", files=("config.json",)), {"config.json": b"{}"})
    assert sorted(entry["files"] for entry in program("inspect", URI, "--json").json) == [1, 3]


# --- df, cache dir


def test_df(program: Program, tiny: Snapshot, cache_dir: Path) -> None:
    (usage,) = program("df", "--json").json
    assert usage["path"] == str(cache_dir)
    assert usage["blob_bytes"] >= sum(len(data) for data in FILES.values())
    assert (usage["snapshots"], usage["blobs"]) == (1, 2)
    assert usage["free_bytes"] <= usage["total_bytes"]
    assert (usage["copies"], usage["copy_bytes"]) == (0, 0)
    out = program("df").out
    assert "free on the file system" in out and "private writable copies" in out


def test_cache_dir(program: Program, cache_dir: Path, tmp_path: Path) -> None:
    assert program("cache", "dir").out == f"{cache_dir}\n"
    (line,) = program("cache", "dir", "--json").json
    assert line["path"] == line["state_path"] == str(cache_dir)
    assert program("--cache-dir", tmp_path, "cache", "dir").out == f"{tmp_path}\n"
    assert not cache_dir.exists()


# --- get and job of what is there


def test_a_hit_prints_the_path_and_nothing_else(program: Program, tiny: Snapshot) -> None:
    done = program("get", URI)
    assert (done.exit_code, done.out, done.err) == (0, f"{tiny.path}\n", "")
    assert (tiny.path / "config.json").read_bytes() == b"{}"
    assert program("ls", "--json").json[0]["leases"] == []


def test_verbose_says_what_was_done(program: Program, tiny: Snapshot, tmp_path: Path) -> None:
    done = program("get", URI, "--verbose")
    assert done.out == f"{tiny.path}\n"
    assert "a hit, verified by sha256, from http://127.0.0.1:9" in done.err
    assert f"at commit {COMMIT}" in program("job", _job(tmp_path), "--verbose").err


@pytest.mark.parametrize("command", ["get", "job"])
def test_what_is_evicted_before_its_lease_is_no_hit(
    program: Program, tiny: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def evicted(*_: object, **__: object) -> None:
        raise GoneError("gone")

    monkeypatch.setattr(Cache, "lease_timed", evicted)
    monkeypatch.setattr(fetching, "run_on_loop", lambda context, main: 77)
    arguments = ["get", URI, "--lease", "1h"] if command == "get" else ["job", str(_job(tmp_path))]
    done = program(*arguments)
    assert (done.exit_code, done.out) == (77, "")


def test_one_line_per_uri_in_order(program: Program, tiny: Snapshot) -> None:
    other = stock(HF("acme/other"), {"x": b"1"})
    assert program("get", "hf://acme/other", URI, "hf://acme/other").out.splitlines() == [
        str(other.path),
        str(tiny.path),
        str(other.path),
    ]


def test_a_hit_in_json(program: Program, tiny: Snapshot) -> None:
    (line,) = program("get", URI, "--json").json
    assert line["event"] == "snapshot"
    assert (line["hit"], line["downloaded"], line["lease"]) == (True, 0, None)
    assert (line["path"], line["files"], line["revision"]) == (str(tiny.path), 3, COMMIT)


def test_other_files_are_another_resource(program: Program, tiny: Snapshot) -> None:
    assert program("get", URI, "--file", "config.json", "--offline").exit_code == 24


def test_a_lease_is_taken_shown_renewed_and_released(program: Program, tiny: Snapshot) -> None:
    (line,) = program("get", URI, "--lease", "1h", "--json").json
    lease = line["lease"]
    assert lease["expires_at"] == pytest.approx(time.time() + 3_600, abs=60)
    (entry,) = program("ls", "--json").json
    assert entry["leases"] == [{"id": lease["id"], "kind": "timed", "expires_at": lease["expires_at"]}]
    assert program("ls").out.splitlines()[1].endswith("fresh, leased")
    assert lease["id"] in program("inspect", URI).out

    (renewed,) = program("renew", lease["id"], "--lease", "2d", "--json").json
    assert renewed["expires_at"] == pytest.approx(time.time() + 2 * DAY_S, abs=60)
    (renewed,) = program("renew", lease["id"], "--json").json
    assert renewed["expires_at"] == pytest.approx(time.time() + DAY_S, abs=60)
    assert program("renew", lease["id"], "--dry-run").exit_code == 0
    assert program("renew", "nope", "--dry-run").exit_code == program("release", "nope", "--dry-run").exit_code == 60

    program("release", lease["id"], "--dry-run")
    assert program("ls", "--json").json[0]["leases"]
    done = program("release", lease["id"])
    assert (done.exit_code, done.out, done.err) == (0, "", "")
    assert program("ls", "--json").json[0]["leases"] == []
    assert program("release", lease["id"]).exit_code == 60


def _job(tmp_path: Path, **more: object) -> Path:
    resources = [
        {"type": "HF", "repo": "acme/tiny", "target": "/data/inner"},
        {"type": "HF", "repo": "acme/tiny", "target": "/data", **more},
        {"__spread__": "%%ops.first.results.list%%"},
    ]
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"ops": [{"id": "run", "args": {"resources": resources}}]}))
    return path


def test_a_job_of_hits(program: Program, tiny: Snapshot, tmp_path: Path) -> None:
    (line,) = program("job", _job(tmp_path), "--json").json
    assert [mount["target"] for mount in line["mounts"]] == ["/data", "/data/inner"]
    assert line["mounts"][1] == {
        "op": "run",
        "at": "$.ops[0].args.resources[0]",
        "resource": tiny.uri,
        "source": str(tiny.path),
        "target": "/data/inner",
        "read_only": True,
        "revision": COMMIT,
        "bytes": tiny.bytes,
        "verified_by": "sha256",
    }
    assert line["deferred"][0]["at"] == "$.ops[0].args.resources[2]"
    assert line["lease"]["expires_at"] == pytest.approx(time.time() + DAY_S, abs=60)
    assert program("ls", "--json").json[0]["leases"][0]["id"] == line["lease"]["id"]


def test_the_engines_view_of_the_cache(
    program: Program, tiny: Snapshot, tmp_path: Path, isolated_environment: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    isolated_environment.setenv("FETCHER_ENGINE_CACHE_DIR", "/var/lib/cache")
    (line,) = program("job", _job(tmp_path), "--json").json
    assert line["mounts"][0]["source"] == f"/var/lib/cache/{tiny.path.relative_to(cache_dir)}"


def test_docker_arguments(program: Program, tiny: Snapshot, tmp_path: Path) -> None:
    done = program("job", _job(tmp_path), "--format", "docker")
    assert done.out.splitlines() == [
        f"--mount type=bind,source={tiny.path},target=/data,readonly",
        f"--mount type=bind,source={tiny.path},target=/data/inner,readonly",
    ]
    assert "lease: " in done.err
    assert "deferred: $.ops[0].args.resources[2]" in done.err


@pytest.mark.parametrize(
    "target",
    [
        "/x --privileged",
        "/x,readonly=false",
        "/x$(id)",
        "/x;id",
        "/x*",
        "/x'y",
        '/x"y',
        "/x\\y",
        "/x,source=/y",
        "/x&y",
        "/x|y",
        "/x#y",
    ],
)
def test_no_target_becomes_an_argument_of_its_own(
    program: Program, tiny: Snapshot, tmp_path: Path, target: str
) -> None:
    done = program("job", _job(tmp_path, target=target), "--format", "docker")
    assert (done.exit_code, done.out) == (2, "")
    assert "--json" in done.err
    (line,) = program("job", _job(tmp_path, target=target), "--json").json
    assert target in [mount["target"] for mount in line["mounts"]]


def test_a_cache_whose_path_is_no_plain_word_is_refused_before_anything_is_fetched(
    program: Program, tmp_path: Path, isolated_environment: pytest.MonkeyPatch
) -> None:
    isolated_environment.setenv("FETCHER_CACHE_DIR", str(tmp_path / "my cache"))
    done = program("job", _job(tmp_path), "--format", "docker", "--offline")
    assert (done.exit_code, done.out) == (2, "")
    assert "the cache can't be written as a plain word" in done.err
    isolated_environment.setenv("FETCHER_ENGINE_CACHE_DIR", "/cache")
    assert program("job", _job(tmp_path), "--format", "docker", "--offline").exit_code == 24, (
        "nothing else is wrong with it"
    )


def test_a_job_for_people(program: Program, tiny: Snapshot, tmp_path: Path) -> None:
    done = program("job", _job(tmp_path))
    header, *rows = done.out.splitlines()
    assert header.split()[:3] == ["OP", "RESOURCE", "TARGET"]
    assert len(rows) == 2
    assert str(tiny.path) in rows[0]


def test_format_json_is_the_last_line_alone(program: Program, tiny: Snapshot, tmp_path: Path) -> None:
    done = program("job", _job(tmp_path), "--format", "json")
    assert [line["event"] for line in done.json] == ["mounts"]


def test_a_job_without_resources(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"ops": []}')
    (line,) = program("job", path, "--json").json
    assert line == {"event": "mounts", "lease": None, "mounts": [], "deferred": []}


@pytest.mark.parametrize(("token", "told"), [(None, True), ("hf_own", False)])
def test_a_token_that_the_job_does_not_get_is_mentioned_once(
    program: Program,
    tiny: Snapshot,
    tmp_path: Path,
    isolated_environment: pytest.MonkeyPatch,
    token: str | None,
    told: bool,
) -> None:
    isolated_environment.setenv("HF_TOKEN", "hf_operator_secret")
    path = tmp_path / "job.json"
    resource = {"type": "HF", "repo": "acme/tiny", "target": "/a"} | ({"accessToken": token} if token else {})
    resources = [resource, {**resource, "target": "/b"}]
    path.write_text(json.dumps({"ops": [{"id": "run", "args": {"resources": resources}}]}))
    done = program("job", path, "--offline")
    assert done.err.count("HF_TOKEN") == told
    assert "secret" not in done.out + done.err
    assert "HF_TOKEN" not in program("job", path, "--offline", "--quiet").err


# --- rm, prune


def test_rm(program: Program, tiny: Snapshot) -> None:
    stock(HF("acme/tiny", files=("config.json",)), {"config.json": b"{}"})
    (dry,) = program("rm", URI, "--dry-run", "--json").json
    assert (dry["dry_run"], len(dry["snapshots"])) == (True, 2)
    assert tiny.path.exists()
    (gone,) = program("rm", URI, "--json").json
    assert gone["snapshots"] == dry["snapshots"]
    assert gone["bytes_freed"] >= len(FILES["weights/model.bin"])
    assert not tiny.path.exists()
    assert program("ls", "--json").json == []
    assert program("rm", URI).exit_code == 21


def test_what_is_leased_is_not_removed(program: Program, tiny: Snapshot) -> None:
    (line,) = program("get", URI, "--lease", "1h", "--json").json
    done = program("rm", URI)
    assert done.exit_code == 60
    assert line["lease"]["id"] in done.err
    assert program("prune", "--max-size", "0", "--json").json[0]["snapshots"] == []
    assert tiny.path.exists()


def test_prune_takes_what_is_past_its_time(program: Program, tiny: Snapshot) -> None:
    old = stock(HF("acme/old"), {"x": b"old" * 1000}, age_s=3 * DAY_S)
    (dry,) = program("prune", "--dry-run", "--json").json
    assert [item["resource"] for item in dry["snapshots"]] == [old.uri]
    assert old.path.exists()
    (gone,) = program("prune", "--json").json
    assert [item["resource"] for item in gone["snapshots"]] == [old.uri]
    assert not old.path.exists()
    assert tiny.path.exists()


def test_prune_to_a_size(program: Program, tiny: Snapshot) -> None:
    done = program("prune", "--max-size", "1kB")
    assert tiny.uri in done.out
    assert "1 entry, freed" in done.err
    assert not tiny.path.exists()


def test_pins_are_shown_and_kept(program: Program, tiny: Snapshot) -> None:
    with Cache.open(load()) as cache:
        cache.pin("market:abc", tiny.key)
    assert program("ls", "--json").json[0]["pins"] == ["market:abc"]
    program("prune", "--max-size", "0")
    assert tiny.path.exists()


# --- doctor


def _checks(program: Program) -> dict[str, tuple[str, str]]:
    (line,) = program("doctor", "--json").json
    assert line["ok"] is all(check["status"] != "fail" for check in line["checks"])
    return {check["name"]: (check["status"], check["message"]) for check in line["checks"]}


def test_doctor_of_a_sound_machine(program: Program) -> None:
    done = program("doctor")
    assert done.exit_code == 0
    assert {line.split()[0] for line in done.out.splitlines()} <= {"ok", "warn", "hint:"}
    checks = _checks(program)
    assert checks["python"][0] == checks["cache"][0] == checks["clock"][0] == "ok"
    assert checks["endpoint"][1] == "http://127.0.0.1:9"


def test_doctor_finds_what_is_wrong(
    program: Program, isolated_environment: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    isolated_environment.setenv("FETCHER_CASHE_DIR", "/x")
    isolated_environment.setenv("FETCHER_ALLOW_NET", "0.0.0.0/0")
    isolated_environment.setenv("HF_TOKEN", "hf_secret")
    done = program("doctor")
    assert "FETCHER_CASHE_DIR" in done.out
    assert "did you mean FETCHER_CACHE_DIR?" in done.out
    assert "hf_secret" not in done.out
    checks = _checks(program)
    assert checks["configuration"][0] == checks["jobs' network"][0] == "warn"
    assert checks["token"] == ("ok", "a Hub token is there, for get; jobs use their own")


def test_doctor_knows_every_variable_that_is_read(
    program: Program, isolated_environment: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    for name, value in (("SHA256", "hashlib"), ("SIMD", "portable"), ("DEBUG", "0")):
        isolated_environment.setenv(f"FETCHER_{name}", value)
    assert _checks(program)["configuration"][0] == "ok"
    isolated_environment.setenv("FETCHER_QQQQQQQQQQQQQQQQQQ", "1")
    assert "docs/MACHINE.md lists the variables, docs/BUILDING.md those of the core" in program("doctor").out


def test_doctor_of_a_cache_that_is_a_file(program: Program, cache_dir: Path) -> None:
    cache_dir.parent.mkdir(parents=True, exist_ok=True)
    cache_dir.write_text("")
    done = program("doctor")
    assert done.exit_code == 51
    assert "\nfail  cache:" in done.out


def test_doctor_leaves_nothing(program: Program, tiny: Snapshot, cache_dir: Path) -> None:
    before = sorted(os.listdir(cache_dir))
    program("doctor")
    assert sorted(os.listdir(cache_dir)) == before


def test_doctor_writes_nothing_with_dry_run(
    program: Program, cache_dir: Path, isolated_environment: pytest.MonkeyPatch
) -> None:
    done = program("doctor", "--dry-run")
    assert done.exit_code == 0
    assert "not looked at: there is none yet" in done.out
    assert not cache_dir.exists()
    program("doctor")

    def names() -> set[str]:
        # What SQLite itself puts beside an index that is looked at is none of ours.
        return {name for name in os.listdir(cache_dir) if not name.endswith(("-shm", "-wal"))}

    before = names()

    def written(directory: Path) -> None:
        raise AssertionError("it writes")

    isolated_environment.setattr(doctor, "_links", written)
    (line,) = program("doctor", "--dry-run", "--json").json
    checks = {check["name"]: check["status"] for check in line["checks"]}
    assert checks["cache"] == checks["locks"] == checks["cache mode"] == "ok"
    assert names() == before


def test_doctor_says_when_the_disk_is_full(program: Program, isolated_environment: pytest.MonkeyPatch) -> None:
    isolated_environment.setenv("FETCHER_SPACE_FLOOR_BYTES", "1000PB")
    assert program("doctor").exit_code == 51
    assert _checks(program)["space"][0] == "fail"


def test_doctor_says_whether_locks_are_believed(
    program: Program, isolated_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _checks(program)["locks"] == ("ok", "seen by other processes")
    isolated_environment.setenv("FETCHER_CACHE_DIR", str(tmp_path / "other"))
    isolated_environment.setenv("FETCHER_STATE_DIR", str(tmp_path / "state"))
    isolated_environment.setattr(lock_probe, "probe_locks", lambda *_: False)
    status, message = _checks(program)["locks"]
    assert status == "warn"
    assert "after 30 s of silence" in message
