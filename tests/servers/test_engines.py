"""The container engines are real: they pull, and run a shell as any user that reads what was mounted; and they go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.servers.docker_registry import DockerRegistry, run_docker_registry
from tests.support.servers.engine import Engine, EngineError
from tests.support.servers.engines import run_dockerd, run_podman
from tests.support.servers.images import busybox_layer, image_of, index_of, layer_of, push
from tests.support.servers.sweep import cgroups_named, mounts_below, processes_of, shim_sockets

pytestmark = pytest.mark.needs("docker-registry", "static-busybox")

Run = Callable[..., AbstractContextManager[Engine]]

BOTH = [
    pytest.param(run_dockerd, id="dockerd", marks=pytest.mark.needs("dockerd")),
    pytest.param(run_podman, id="podman", marks=pytest.mark.needs("podman")),
]


def _push(registry: DockerRegistry, repository: str, **options: tuple[str, str] | None) -> str:
    """An index with this machine's image in it; returns the name to pull."""
    image = image_of([busybox_layer(), layer_of({"etc/name": repository.encode()})])
    other = image_of([layer_of({"etc/name": b"another machine's"})], architecture="riscv64")
    push(index_of({"amd64": image, "riscv64": other}), registry.endpoint, repository, "v1", **options)
    return f"{registry.host}/{repository}:v1"


def test_a_container_reads_a_mount_as_an_ordinary_user(
    engine: Engine, docker_registry: DockerRegistry, ordinary_directory: Path
) -> None:
    name = _push(docker_registry, "run/check")
    engine.pull(name)
    assert name in engine.names()
    content = bytes(range(256)) * 1000
    (ordinary_directory / "file").write_bytes(content)
    ended = engine.run(
        *(name, "sh", "-c", "id -u; cat /etc/name; sha256sum < /mnt/file; touch /mnt/new"),
        mounts={ordinary_directory: "/mnt"},
        user=1000,
    )
    assert ended.stdout == f"1000\nrun/check{hashlib.sha256(content).hexdigest()}  -\n"
    assert "Read-only file system" in ended.stderr
    assert ended.exit_code == 1
    ended = engine.run(name, "touch", "/mnt/new", mounts={ordinary_directory: "/mnt"}, read_only=False, user=1000)
    assert ended.exit_code == 0
    assert (ordinary_directory / "new").stat().st_uid == 1000


def test_a_second_pull_asks_for_no_layer(engine: Engine, docker_registry: DockerRegistry) -> None:
    name = _push(docker_registry, f"again/{engine.kind}")
    engine.pull(name)
    before = len(docker_registry.blob_requests())
    engine.pull(name)
    # Podman reads the small configuration once more.
    assert len(docker_registry.blob_requests()) - before <= 1


def test_an_image_that_is_not_there_is_an_error(engine: Engine, docker_registry: DockerRegistry) -> None:
    name = f"{docker_registry.host}/no/such:v1"
    with pytest.raises(EngineError, match=r"unknown|not found"):
        engine.pull(name)
    assert engine.inspect(name) is None


def test_a_hub_image_comes_from_the_registry_beside_it(engine: Engine, docker_registry: DockerRegistry) -> None:
    _push(docker_registry, "company/tool")
    engine.pull("docker.io/company/tool:v1")
    assert engine.inspect("docker.io/company/tool:v1") is not None
    engine.remove("docker.io/company/tool:v1")
    assert engine.inspect("docker.io/company/tool:v1") is None


@pytest.mark.needs("podman")
def test_podman_takes_the_long_spelling_of_the_hub_from_there_too(
    podman: Engine, docker_registry: DockerRegistry
) -> None:
    _push(docker_registry, "company/long")
    podman.pull("registry.hub.docker.com/company/long:v1")
    assert "registry.hub.docker.com/company/long:v1" in podman.names()


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_private_image_needs_its_password(engine: Engine, auth: str) -> None:
    with run_docker_registry(auth=auth) as registry:  # type: ignore[arg-type]
        name = _push(registry, "private/tool", credentials=registry.credentials)
        with pytest.raises(EngineError, match=r"auth|denied"):
            engine.pull(name)
        engine.pull(name, credentials=registry.credentials)
        assert name in engine.names()
        engine.remove(name)


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("run", BOTH)
def test_nothing_of_it_stays_although_a_container_runs(run: Run, end: str, docker_registry: DockerRegistry) -> None:
    name = _push(docker_registry, "left/running")
    with run() as engine:
        engine.pull(name)
        container = engine.create(name, "sleep", "100")
        engine.ask("POST", f"/containers/{container}/start")
        assert len(processes_of(engine.directory)) >= 3  # the engine, a monitor, the container
        assert mounts_below(engine.directory)
        # Of this engine alone: others run beside this test, and their shims come and go in the same directory.
        sockets = [place for pid in processes_of(engine.directory) for place in shim_sockets(pid)]
        assert bool(sockets) == (run is run_dockerd)
        if end == "kill":
            engine.server.kill()
            assert processes_of(engine.directory)
    assert not engine.directory.exists()
    assert not processes_of(engine.directory)
    assert not mounts_below(engine.directory)
    assert not cgroups_named(engine.directory.name)
    assert not [place for place in sockets if place.exists()]
