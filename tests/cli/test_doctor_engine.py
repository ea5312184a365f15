"""``fetcher doctor --engine``: what the container engine sees of the cache, told in one line. The real engines are
asked in tests/real/test_doctor_engine.py."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import check
from tests.images.stub import StubEngine, engine_in_thread
from tests.support.cli import CommandLine

LARGE, SMALL = {"Id": "sha256:large", "Size": 9000}, {"Id": "sha256:small", "Size": 10}
KINDS = {"docker": None, "podman": "4.3.1"}


def environment(engine: StubEngine, **more: str) -> dict[str, str]:
    return {"DOCKER_HOST": f"unix://{engine.socket}", "FETCHER_SPACE_FLOOR_BYTES": "0", **more}


def looked(run_cli: CommandLine, *arguments: str, env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Exit code, and what is said of the engine."""
    done = run_cli("doctor", "--engine", *arguments, "--json", env=env)
    check(done.last)
    found = [line for line in done.last["checks"] if line["name"] == "engine"]
    assert len(found) == 1
    return done.exit_code, found[0]


def nothing_left(engine: StubEngine, cache_dir: Path) -> None:
    assert engine.containers == {}
    assert [name for name in os.listdir(cache_dir) if name.startswith(".")] == []
    assert not [request for request in engine.requests if "/start" in request or "/images/create" in request]


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_sees_the_cache(run_cli: CommandLine, cache_dir: Path, kind: str) -> None:
    with engine_in_thread(libpod=KINDS[kind], images=[LARGE, SMALL], sees={str(cache_dir): cache_dir}) as engine:
        code, line = looked(run_cli, env=environment(engine))
        assert (code, line["status"], line["hint"]) == (0, "ok", None)
        assert line["message"] == f"{kind.title()} at {engine.socket} sees the cache at {cache_dir}"
        nothing_left(engine, cache_dir)
        text = run_cli("doctor", "--engine", env=environment(engine))
        assert f"ok    engine:           {line['message']}" in text.stdout.splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_the_path_is_the_engines_own(run_cli: CommandLine, cache_dir: Path, tmp_path: Path, kind: str) -> None:
    """A node in a container sees the cache at one place, the engine at another; both must fit."""
    seen = {"/var/lib/volumes/cache": cache_dir, "/srv/other": tmp_path}
    with engine_in_thread(libpod=KINDS[kind], images=[SMALL], sees=seen) as engine:
        right = environment(engine, FETCHER_ENGINE_CACHE_DIR="/var/lib/volumes/cache")
        assert looked(run_cli, env=right)[1]["status"] == "ok"
        for wrong in ("/var/lib/volumes/cash", "/srv/other", None):
            env = environment(engine) if wrong is None else environment(engine, FETCHER_ENGINE_CACHE_DIR=wrong)
            code, line = looked(run_cli, env=env)
            assert (code, line["status"]) == (51, "fail"), wrong
            assert f"does not see the cache at {wrong or cache_dir} (" in line["message"]
            cure = f"set FETCHER_ENGINE_CACHE_DIR to the path at which the engine sees {cache_dir}"
            assert line["hint"] == cure
            nothing_left(engine, cache_dir)


def test_the_smallest_image_serves_and_another_if_that_one_does_not(run_cli: CommandLine, cache_dir: Path) -> None:
    with engine_in_thread(images=[LARGE, SMALL], sees={str(cache_dir): cache_dir}) as engine:
        engine.create_refusals["sha256:small"] = "the image is for another platform"
        assert looked(run_cli, env=environment(engine))[1]["status"] == "ok"
        engine.create_refusals["sha256:large"] = "no room"
        code, line = looked(run_cli, env=environment(engine))
        assert (code, line["status"]) == (0, "warn")
        assert line["message"].endswith("could not make a container: no room")
        nothing_left(engine, cache_dir)


def test_without_an_image_it_can_not_be_known(run_cli: CommandLine, cache_dir: Path) -> None:
    with engine_in_thread(sees={str(cache_dir): cache_dir}) as engine:
        code, line = looked(run_cli, env=environment(engine))
        assert (code, line["status"]) == (0, "warn")
        assert "no image" in line["message"]
        assert line["hint"] == "pull an image, any will do, and look again"
        nothing_left(engine, cache_dir)


def test_without_an_engine(run_cli: CommandLine) -> None:
    code, line = looked(run_cli, env={"DOCKER_HOST": "unix:///nowhere/engine.sock", "FETCHER_SPACE_FLOOR_BYTES": "0"})
    assert (code, line["status"]) == (51, "fail")
    assert line["message"].startswith("no container engine answers (DOCKER_HOST=unix:///nowhere")
    assert line["hint"]
    code, line = looked(run_cli, env={"DOCKER_HOST": "tcp://127.0.0.1:9", "FETCHER_SPACE_FLOOR_BYTES": "0"})
    assert (code, line["status"]) == (51, "fail")
    assert "unix socket" in line["message"]


def test_an_engine_that_lies_or_clings(run_cli: CommandLine, cache_dir: Path) -> None:
    with engine_in_thread(images=[SMALL], sees={str(cache_dir): cache_dir}) as engine:
        engine.archive_says = b"no archive"
        assert looked(run_cli, env=environment(engine))[1]["status"] == "warn"
        nothing_left(engine, cache_dir)
        engine.archive_says, engine.may_remove = None, False
        line = looked(run_cli, env=environment(engine))[1]
        assert line["status"] == "warn"
        assert "does not remove the container fetcher-doctor-" in line["message"]


def test_it_is_asked_only_if_told_to(run_cli: CommandLine, cache_dir: Path) -> None:
    with engine_in_thread(images=[SMALL], sees={str(cache_dir): cache_dir}) as engine:
        names = [line["name"] for line in run_cli("doctor", "--json", env=environment(engine)).last["checks"]]
        assert "engine" not in names
        code, line = looked(run_cli, "--dry-run", env=environment(engine))
        assert (code, line["status"]) == (0, "warn")
        assert engine.requests == []


def test_ctrl_c_leaves_nothing(run_cli: CommandLine, cache_dir: Path) -> None:
    with engine_in_thread(images=[SMALL], sees={str(cache_dir): cache_dir}, archive_delay_s=30.0) as engine:
        with run_cli.start("doctor", "--engine", env=environment(engine)) as process:
            try:
                deadline = time.monotonic() + 30
                while not any("/archive" in request for request in engine.requests):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                process.send_signal(signal.SIGINT)
                _, stderr = process.communicate(timeout=20)
            finally:
                process.kill()
        assert process.returncode == 130
        assert b"Traceback" not in stderr
        nothing_left(engine, cache_dir)


def test_what_a_killed_look_has_left_is_removed_later(run_cli: CommandLine, cache_dir: Path) -> None:
    with engine_in_thread(images=[SMALL], sees={str(cache_dir): cache_dir}) as engine:
        looked(run_cli, env=environment(engine))
        old, young = cache_dir / ".doctor-old_1234", cache_dir / ".doctor-young123"
        for left in (old, young):
            left.mkdir()
            (left / "marker").write_text("x")
        theirs = cache_dir / ".doctor-notes-of-mine"
        theirs.mkdir()
        os.utime(old, (1, 1))
        os.utime(theirs, (1, 1))
        looked(run_cli, env=environment(engine))
        assert not old.exists()
        assert young.exists() and theirs.exists()
