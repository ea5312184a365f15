"""Real servers as fixtures: each starts once per run, when the first test asks for it, and is gone at its end. With
xdist, once per worker. A test that asks for one that this machine can't run is not run, and is listed.

They are shared: take a bucket, repository or image name of your own, and leave no container. A test that wants a server
with options, or one to kill, opens its own: ``with run_docker_registry(auth="basic") as registry:``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support import needs

if TYPE_CHECKING:
    from tests.support.servers.docker_registry import DockerRegistry
    from tests.support.servers.engine import Engine
    from tests.support.servers.rclone import RcloneServer
    from tests.support.servers.s3client import S3Server

# The servers' modules are imported where they are needed: a test that asks for none pays for none.


@pytest.fixture(scope="session")
def swift_s3() -> Iterator[S3Server]:
    """OpenStack Swift with s3api: the strict S3 server."""
    _require("swift")
    from tests.support.servers.swift import run_swift

    with run_swift() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_s3() -> Iterator[RcloneServer]:
    """``rclone serve s3`` with keys: the odd S3 server."""
    _require("rclone")
    from tests.support.servers.rclone import run_rclone

    with run_rclone() as server:
        yield server


@pytest.fixture(scope="session")
def docker_registry() -> Iterator[DockerRegistry]:
    """Debian's docker-registry, open to all."""
    _require("docker-registry")
    from tests.support.servers.docker_registry import run_docker_registry

    with run_docker_registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def dockerd(docker_registry: DockerRegistry) -> Iterator[Engine]:
    """A private dockerd that takes the Hub's images (``docker.io/…``) from ``docker_registry``."""
    _require("dockerd")
    from tests.support.servers.engines import run_dockerd

    with run_dockerd(hub=docker_registry.host) as engine:
        yield engine


@pytest.fixture(scope="session")
def podman(docker_registry: DockerRegistry) -> Iterator[Engine]:
    """A private Podman that takes the Hub's images (both spellings) from ``docker_registry``."""
    _require("podman")
    from tests.support.servers.engines import run_podman

    with run_podman(hub=docker_registry.host, insecure=(docker_registry.host,)) as engine:
        yield engine


@pytest.fixture(scope="session", params=["dockerd", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the two engines in turn."""
    found: Engine = request.getfixturevalue(request.param)
    return found


def _require(need: str) -> None:
    if reason := needs.missing(need):
        pytest.skip(f"needs {need}: {reason}")
