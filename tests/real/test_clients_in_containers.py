"""Clients in containers that dockerd and Podman make, each with the cache's volume at another path: one download,
takeover when one is killed, leases and collecting across them.

Their image is a folder and nothing else; the program, its Python and its libraries are the host's, mounted read-only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest
from tests.e2e.support import Gate, held_by, kept_blocks, tree_of, wait_until
from tests.real.support import MIB, job_of
from tests.support.cli import CHECKOUT, CommandLine
from tests.support.servers.docker_registry import DockerRegistry
from tests.support.servers.engine import Engine
from tests.support.servers.images import image_of, layer_of, push
from tests.support.servers.process import server_directory

pytestmark = [
    pytest.mark.needs("root", "docker-registry"),
    pytest.mark.usefixtures("docker_registry"),
    pytest.mark.timeout(180),
]

REPO, WEIGHTS = "acme/weights", "weights.bin"


@pytest.fixture
def volume() -> Iterator[Path]:
    """The cache, as the host and the engine have it."""
    with server_directory("volume") as directory:
        cache = directory / "cache"
        cache.mkdir(mode=0o700)
        yield cache


def host_directories() -> list[str]:
    """All that this Python needs to run the program: where the loader finds its libraries, itself, our environment."""
    wanted = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, sys.prefix, str(CHECKOUT)]
    return [path for path in dict.fromkeys(wanted) if Path(path).exists()]


class Container:
    """One container with a run of the program as its pid 1."""

    def __init__(
        self, engine: Engine, image: str, volume: Path, place: str, hub: Hub, arguments: Sequence[str], **environ: str
    ) -> None:
        self._engine = engine
        environment: Mapping[str, str] = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(CHECKOUT),
            "FETCHER_CACHE_DIR": place,
            "FETCHER_ALLOW_NET": "127.0.0.0/8",
            "FETCHER_CONNECTIONS_MAX": "2",
            "FETCHER_NO_PROGRESS_TIMEOUT_S": "600",
            "FETCHER_PART_BYTES": "1MiB",
            "FETCHER_SPACE_FLOOR_BYTES": "0",
            "HF_ENDPOINT": hub.endpoint,
            **{name: value for name, value in os.environ.items() if name == "FETCHER_NATIVE"},
            **environ,
        }
        mounts = [
            {"Type": "bind", "Source": os.path.realpath(path), "Target": path, "ReadOnly": True}
            for path in host_directories()
        ]
        document = {
            "Image": image,
            "Cmd": [sys.executable, "-m", "fetcher", *arguments],
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "User": "0:0",
            "HostConfig": {
                "NetworkMode": "host",
                "Ulimits": [{"Name": name, "Soft": 1024, "Hard": 1024} for name in ("nofile", "nproc")],
                "Mounts": [*mounts, {"Type": "bind", "Source": str(volume), "Target": place}],
            },
        }
        self.id: str = json.loads(engine.ask("POST", "/containers/create", document=document))["Id"]
        engine.ask("POST", f"/containers/{self.id}/start")

    def kill(self) -> None:
        """kill -9 of its pid 1."""
        self._engine.ask("POST", f"/containers/{self.id}/kill", query={"signal": "SIGKILL"})
        self.wait()

    def wait(self) -> int:
        status: int = json.loads(self._engine.ask("POST", f"/containers/{self.id}/wait"))["StatusCode"]
        return status

    def lines(self) -> list[dict[str, Any]]:
        """What it has said so far."""
        whole = self._engine.output(self.id)[0].rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def done(self) -> dict[str, Any]:
        """Its last line; it must have succeeded."""
        status = self.wait()
        stdout, stderr = self._engine.output(self.id)
        assert status == 0, stderr
        last: dict[str, Any] = json.loads(stdout.splitlines()[-1])
        return last

    def remove(self) -> None:
        self._engine.ask("DELETE", f"/containers/{self.id}", query={"force": "true"})


@contextmanager
def containers(engine: Engine, registry: DockerRegistry, volume: Path, hub: Hub) -> Iterator[Any]:
    """Makes containers; all are gone when the block is left."""
    image = f"{registry.host}/clients/empty:v1"
    push(image_of([layer_of({"tmp/nothing": b""})]), registry.endpoint, "clients/empty", "v1")
    engine.pull(image)
    made: list[Container] = []

    def start(*arguments: str, **environ: str) -> Container:
        made.append(Container(engine, image, volume, f"/volume-{len(made)}/cache", hub, arguments, **environ))
        return made[-1]

    try:
        yield start
    finally:
        for container in made:
            container.remove()


def test_clients_in_containers_of_an_engine(
    engine: Engine, docker_registry: DockerRegistry, hub: Hub, volume: Path, run_cli: CommandLine
) -> None:
    size = 12 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1), "a.txt": "text"})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=6))
    with containers(engine, docker_registry, volume, hub) as start:
        owner = start("get", f"hf://{REPO}", "--json")
        wait_until(lambda: hub.count("cdn") >= 6)
        waiters = [start("get", f"hf://{REPO}", "--json") for _ in range(2)]
        wait_until(lambda: all(any(line.get("bytes_done", 0) for line in waiter.lines()) for waiter in waiters))
        wait_until(lambda: kept_blocks(volume, 6))
        owner.kill()
        gate.open()
        told = [waiter.done() for waiter in waiters]
        assert [line["path"].split("/")[1] for line in told] == ["volume-1", "volume-2"]
        snapshot = volume / "snapshots-v1" / Path(told[0]["path"]).name
        assert tree_of(snapshot) == held_by(hub, REPO)
        assert sorted(line["downloaded"] for line in told)[0] == 0, "one of them went on, the other waited for it"

        # A lease of one holds for all, and what it prints is what the engine has to be told.
        job = job_of({"type": "HF", "repo": REPO, "target": "/models"})
        (volume / "job.json").write_text(json.dumps(job))
        leased = start(
            *("job", "/volume-3/cache/job.json", "--lease", "1h", "--json"), FETCHER_ENGINE_CACHE_DIR=str(volume)
        ).done()
        assert Path(leased["mounts"][0]["source"]) == snapshot
        assert start("prune", "--max-size", "0", "--json").done()["snapshots"] == []
        here = run_cli("ls", "--json", "--cache-dir", str(volume))
        assert [lease["id"] for lease in here.json[0]["leases"]] == [leased["lease"]["id"]]
        released = start("release", leased["lease"]["id"])
        assert released.wait() == 0
        (gone,) = start("prune", "--max-size", "0", "--json").done()["snapshots"]
        assert gone["id"] == snapshot.name
        assert not snapshot.exists()
