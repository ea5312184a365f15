"""``verify``: what it prints, in words and in JSON, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fetcher import hashing
from fetcher.cache.damage import Damage
from fetcher.cache.records import Snapshot
from fetcher.cache.store import Cache
from fetcher.cli.verify import BLOCKS_TOLD_MAX, damage_json
from fetcher.config import load
from fetcher.engine import verify as engine
from fetcher.errors import CacheError
from fetcher.model.resource import HF
from tests.cli.support import FILES, Program, check, stock
from tests.support.cli import CHECKOUT, CommandLine

URI = "hf://acme/tiny"


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(0o444)


def test_a_sound_cache(program: Program, tiny: Snapshot) -> None:
    done = program("verify")
    assert (done.exit_code, done.out) == (0, "")
    assert done.err == "1 entry, 3 files: read 100 kB in 0s, all sound\n"
    assert program("verify", "--quiet").err == ""
    (line,) = [line for line in program("verify", URI, "--json").json if line["event"] != "progress"]
    names = ("event", "snapshots", "files", "blobs", "bytes", "damaged", "in_use", "hidden")
    assert {name: line[name] for name in names} == {
        "event": "verified",
        "snapshots": 1,
        "files": 3,
        "blobs": 2,
        "bytes": sum(len(data) for data in FILES.values()),
        "damaged": 0,
        "in_use": 0,
        "hidden": 0,
    }


def test_an_empty_cache(program: Program, cache_dir: Path) -> None:
    assert program("verify", "--dry-run").exit_code == 0
    assert not cache_dir.exists(), "looking makes nothing"
    assert program("verify").exit_code == 0


def test_damage_in_words(program: Program, tiny: Snapshot) -> None:
    flip(tiny.path / "weights/model.bin")
    dry = program("verify", "--dry-run")
    assert dry.exit_code == 40
    first, where, cure = dry.out.splitlines()
    assert first == f"{tiny.uri}  weights/model.bin: other bytes than were verified"
    assert Path(where.strip()).samefile(tiny.path / "weights/model.bin")
    assert "--dry-run" in cure
    assert tiny.path.exists()
    done = program("verify", URI)
    assert done.exit_code == 40
    assert done.out.splitlines()[0] == first
    assert "the next fetch gets what was damaged anew" in done.out
    assert done.err.endswith("1 damaged\n")
    assert program("get", URI, "--offline").exit_code == 24
    again = program("verify")
    assert (again.exit_code, again.out) == (0, "")
    assert again.err.endswith("all sound; 1 more was taken out before (`fetcher ls`)\n")


def test_damage_in_json(program: Program, tiny: Snapshot) -> None:
    flip(tiny.path / "weights/model.bin")
    (tiny.path / "empty").unlink()
    done = program("verify", "--json")
    assert (done.exit_code, done.err) == (40, "")
    *damage, verified = [line for line in done.json if line["event"] != "progress"]
    assert [(line["event"], line["reason"], line["action"]) for line in damage] == [
        ("damage", "missing", "removed"),
        ("damage", "content", "removed"),
    ]
    assert damage[1]["files"] == [
        {"resource": tiny.uri, "id": tiny.id, "path": "weights/model.bin", "lease": None, "leases": []}
    ]
    assert (damage[1]["blocks"], damage[1]["blocks_more"], damage[0]["blocks"]) == ([0], 0, None)
    assert (verified["event"], verified["damaged"], verified["dry_run"]) == ("verified", 2, False)


def test_what_is_leased(program: Program, tiny: Snapshot) -> None:
    lease = program("get", URI, "--lease", "1h", "--json").json[-1]["lease"]["id"]
    flip(tiny.path / "config.json")
    (damage,) = [line for line in program("verify", "--json").json if line["event"] == "damage"]
    assert damage["action"] == "in_use" and damage["files"][0]["lease"] == lease
    done = program("verify")
    assert done.exit_code == 40 and done.err.endswith(", 1 damaged\n")
    assert done.out.splitlines()[0] == f"{tiny.uri}: was found damaged before"
    assert f"in use by lease {lease}" in done.out and f"`fetcher release {lease}`" in done.out
    (entry,) = program("ls", "--json").json
    assert entry["damaged"] is True and program("ls").out.splitlines()[1].endswith(" damaged, leased")
    (inspected,) = program("inspect", URI, "--json").json
    assert inspected["damaged"] is True and inspected["file_list"] == []
    assert "state:        damaged, leased" in program("inspect", URI).out
    assert program("get", URI, "--offline").exit_code == 24, "no hit for anybody else"
    assert program("release", lease).exit_code == 0
    assert program("verify").exit_code == 0


def test_a_pin_stays(program: Program, tiny: Snapshot) -> None:
    program("pin", URI, "--name", "mine")
    flip(tiny.path / "config.json")
    assert program("verify").exit_code == 40
    assert [entry["damaged"] for entry in program("ls", "--json").json] == [True]
    assert program("rm", URI).exit_code == 60, "the pin keeps what is sound of it"
    stock(HF("acme/tiny"))
    pins = {entry["damaged"]: entry["pins"] for entry in program("ls", "--json").json}
    assert pins == {False: ["mine"], True: []}, "the pin holds the sound one now"
    with Cache.open(load()) as cache:
        assert cache.gc().snapshots == (tiny.id,)


@pytest.mark.parametrize("json_lines", [(), ("--json",)], ids=["words", "json"])
def test_an_error_ends_it_with_what_was_found_told(
    program: Program, tiny: Snapshot, monkeypatch: pytest.MonkeyPatch, json_lines: tuple[str, ...]
) -> None:
    (tiny.path / "empty").unlink()

    def check(*_: object) -> None:
        raise CacheError("no descriptors", hint="raise the limit")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "check", check)
        done = program("verify", *json_lines)
    assert done.exit_code == CacheError.exit_code
    assert "is missing" in done.out and ("no descriptors" in done.out + done.err)
    assert program("get", URI, "--offline").exit_code == 24


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["deed", "dry-run"])
def test_what_is_not_there(program: Program, tiny: Snapshot, dry: tuple[str, ...]) -> None:
    done = program("verify", "hf://acme/none", *dry, "--json")
    assert (done.exit_code, done.json[-1]["kind"]) == (21, "not_found")
    assert program("verify", "acme/tiny").exit_code == 10


def test_blocks_are_bounded() -> None:
    damage = Damage("content", Path("/x"), "m", "a" * 64, 1, tuple(range(250)), (), "removed")
    line = damage_json(damage)
    check(line)
    assert line["blocks"] == list(range(BLOCKS_TOLD_MAX)) and line["blocks_more"] == 250 - BLOCKS_TOLD_MAX


def test_hostile_names_are_made_harmless(program: Program, tiny: Snapshot) -> None:
    (tiny.path / "a\x1b[2Jb").write_bytes(b"x")
    done = program("verify")
    assert done.exit_code == 40
    assert "\x1b" not in done.out + done.err and "a\\x1b[2Jb" in done.out


def test_no_event_loop_is_loaded(program: Program, tiny: Snapshot) -> None:
    script = (
        "import sys\nfrom fetcher.cli.app import main\ncode = main(['verify', '--json'])\n"
        "sys.stderr.write('\\n'.join(sys.modules))\nraise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0
    assert not set(done.stderr.splitlines()) & {"asyncio", "aiohttp", "msgspec", "rich", "uvloop", "ssl", "yarl"}


@pytest.fixture
def slow(program: Program) -> Snapshot:
    """Takes a minute at 10 kB/s."""
    return stock(HF("acme/slow"), {f"{number}": bytes([number]) * 100_000 for number in range(6)})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("json_lines", [False, True])
def test_ctrl_c_ends_it_cleanly(run_cli: CommandLine, slow: Snapshot, number: signal.Signals, json_lines: bool) -> None:
    (slow.path / "3").unlink()
    process = run_cli.start("verify", "--limit-rate", "10k", *(["--json"] if json_lines else []))
    with process:
        assert process.stdout is not None and process.stderr is not None
        deadline = time.monotonic() + 20
        sidecar = slow.path.with_name(f"{slow.id}.json")
        while sidecar.exists():  # found and taken out
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        began = time.monotonic()
        process.wait(20)
        out, err = process.stdout.read().decode(), process.stderr.read().decode()
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert "Traceback" not in err
    if json_lines:
        assert '"event":"damage"' in out and '"kind":"interrupted"' in out.splitlines()[-1]
        assert '"event":"verified"' not in out
    else:
        assert f"{slow.uri}  3: is missing" in out and err.startswith("error: stopped")
    with Cache.open(load()) as cache:
        assert [known.damaged for known in cache.snapshots()] == [True]


def test_a_reader_that_leaves_ends_it(run_cli: CommandLine, slow: Snapshot) -> None:
    process = run_cli.start("verify", "--limit-rate", "10k", "--json")
    with process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        began = time.monotonic()
        process.wait(20)
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
    assert time.monotonic() - began < 10


def test_progress_is_told_at_most_ten_times_a_second(run_cli: CommandLine, slow: Snapshot) -> None:
    began = time.monotonic()
    done = run_cli("verify", "--json", "--limit-rate", "500k")
    elapsed_s = time.monotonic() - began
    progress = done.events("progress")
    assert 1 <= len(progress) <= 10 * elapsed_s + 1
    for line in progress:
        check(line)
    assert done.last["event"] == "verified"
    assert not run_cli("verify", "--json", "--quiet").events("progress")


def test_plain_mode(run_cli: CommandLine, program: Program) -> None:
    """Files are named, blocks are not; the exit codes are the same."""
    snapshot = stock(HF("acme/tiny"))
    with Cache.open(load()) as cache:
        from tests.cache.world import MIB, paint, put_large

        blob = put_large(cache, paint(3 * MIB + 1))
    env = {"FETCHER_NATIVE": "plain"}
    assert run_cli("verify", env=env).exit_code == 0
    flip(blob.path)
    flip(snapshot.path / "config.json")
    done = run_cli("verify", "--json", env=env)
    assert done.exit_code == 40
    found = {line["size"]: line["blocks"] for line in done.events("damage")}
    assert found == {3 * MIB + 1: None, 2: [0]}
    assert run_cli("verify", env=env).exit_code == 0
    assert not os.path.lexists(blob.path)


@pytest.mark.skipif(not hashing.HAS_TREE, reason="without chaining values there is nothing to mend")
def test_a_damaged_tree_is_mended(program: Program) -> None:
    with Cache.open(load()) as cache:
        from tests.cache.world import MIB, paint, put_large

        blob = put_large(cache, paint(2 * MIB))
        flip(cache.layout.tree(blob.root))
    done = program("verify")
    assert done.exit_code == 40
    assert "in no entry: " in done.out and "the file itself is right" in done.out and "made anew" in done.out
    assert program("verify").exit_code == 0
