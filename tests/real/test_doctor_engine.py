"""``fetcher doctor --engine`` with the real engines: a word written below the cache, read back through dockerd and
Podman at the path that a mount would have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import CommandLine
from tests.support.servers.docker_registry import DockerRegistry
from tests.support.servers.engine import Engine
from tests.support.servers.images import image_of, layer_of, push
from tests.support.servers.process import server_directory

pytestmark = [pytest.mark.needs("root", "docker-registry"), pytest.mark.usefixtures("docker_registry")]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can enter and that is root's."""
    with server_directory("sight") as directory:
        yield directory


def looked(run_cli: CommandLine, engine: Engine, cache_dir: Path, **more: str) -> tuple[int, dict[str, Any]]:
    env = {"FETCHER_CACHE_DIR": str(cache_dir), "FETCHER_SPACE_FLOOR_BYTES": "0", "CONTAINER_HOST": engine.host, **more}
    done = run_cli("doctor", "--engine", "--json", env=env)
    (line,) = (line for line in done.last["checks"] if line["name"] == "engine")
    return done.exit_code, line


def assert_nothing_left(engine: Engine, *directories: Path) -> None:
    assert json.loads(engine.ask("GET", "/containers/json", query={"all": "true"})) == []
    for directory in directories:
        assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []


def test_the_engine_sees_the_cache_where_it_is(
    engine: Engine, docker_registry: DockerRegistry, run_cli: CommandLine, place: Path
) -> None:
    cache_dir, elsewhere, stranger = place / "cache", place / "elsewhere", place / "stranger"
    stranger.mkdir()
    # Of this image no container could ever run: there is no program in it, and it is for no machine that exists.
    name = f"{docker_registry.host}/doctor/data:v1"
    push(image_of([layer_of({"only-data": b"x"})]), docker_registry.endpoint, "doctor/data", "v1")
    engine.pull(name)

    code, line = looked(run_cli, engine, cache_dir)
    assert (code, line["status"]) == (0, "ok"), line
    assert line["message"].endswith(f"sees the cache at {cache_dir}")
    assert_nothing_left(engine, cache_dir)

    for wrong in (elsewhere, stranger):
        code, line = looked(run_cli, engine, cache_dir, FETCHER_ENGINE_CACHE_DIR=str(wrong))
        assert (code, line["status"]) == (51, "fail"), line
        assert f"does not see the cache at {wrong} (" in line["message"]
        assert line["hint"].startswith("set FETCHER_ENGINE_CACHE_DIR to the path at which the engine sees ")
        assert_nothing_left(engine, cache_dir, stranger)
        assert not elsewhere.exists(), "no engine was made to make it up"

    # The same directory under another name, as a volume has in a container and outside.
    elsewhere.symlink_to(cache_dir)
    code, line = looked(run_cli, engine, cache_dir, FETCHER_ENGINE_CACHE_DIR=str(elsewhere))
    assert (code, line["status"]) == (0, "ok"), line
    assert_nothing_left(engine, cache_dir)
