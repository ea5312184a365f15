"""Ollama models from Debian's docker-registry, through the program: stores that Ollama can read, doors, a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.origins.ollama_reader import models_in
from tests.real import support
from tests.real.support import MIB, got, model_of, noise, refusal, tree_of
from tests.support.cli import CommandLine
from tests.support.servers.docker_registry import DockerRegistry, run_docker_registry
from tests.support.servers.images import push
from tests.support.servers.rclone import run_rclone

pytestmark = pytest.mark.needs("docker-registry")

WEIGHTS = noise(5 * MIB + 321, "weights")
LICENSE = b"free\n"
CONNECTIONS = 4


def test_two_models_come_into_one_store(docker_registry: DockerRegistry, run_cli: CommandLine) -> None:
    small = model_of(("model", WEIGHTS), ("license", LICENSE))
    large = model_of(("model", WEIGHTS), ("license", LICENSE), ("system", b"You are two."))
    push(small, docker_registry.endpoint, "library/e2e-tiny", "1b")
    push(large, docker_registry.endpoint, "acme/e2e-other", "latest")
    environment = {"FETCHER_OLLAMA_URL": docker_registry.endpoint}
    uri = "ollama://e2e-tiny:1b,acme/e2e-other"
    before = len(docker_registry.blob_requests())
    snapshot = got(run_cli("get", uri, "--json", env=environment))
    store = Path(snapshot["path"])
    assert models_in(store) == {
        "registry.ollama.ai/library/e2e-tiny:1b": sum(map(len, small.blobs.values())),
        "registry.ollama.ai/acme/e2e-other:latest": sum(map(len, large.blobs.values())),
    }
    assert snapshot["verified_by"] == "sha256"
    # What both have was asked for once.
    asked = docker_registry.blob_requests()[before:]
    assert sum(request.body_bytes for request in asked) == len(WEIGHTS) + len(LICENSE) + sum(
        len(small.blobs[small.config_digest]) if part == "config" else len(b"You are two.")
        for part in ("config", "system")
    )
    # One of them alone is made of what is here.
    requests = len(docker_registry.blob_requests())
    alone = got(run_cli("get", "ollama://e2e-tiny:1b", "--json", env=environment))
    assert list(models_in(Path(alone["path"]))) == ["registry.ollama.ai/library/e2e-tiny:1b"]
    assert alone["downloaded"] < 10_000
    assert len(docker_registry.blob_requests()) == requests
    # A tag that moved is another snapshot after the day; within it nobody is asked.
    push(large, docker_registry.endpoint, "library/e2e-tiny", "1b")
    assert got(run_cli("get", "ollama://e2e-tiny:1b", "--json", env=environment))["path"] == alone["path"]
    moved = got(run_cli("get", "ollama://e2e-tiny:1b", "--json", "--refresh", env=environment))
    assert models_in(Path(moved["path"])) == {
        "registry.ollama.ai/library/e2e-tiny:1b": sum(map(len, large.blobs.values()))
    }


def test_other_hosts_are_asked_over_https_only(docker_registry: DockerRegistry, run_cli: CommandLine) -> None:
    result = run_cli("get", f"ollama://{docker_registry.host}/acme/x", "--json", env={"FETCHER_API_TIME_MAX_S": "1"})
    told = refusal(result, 25)  # typed by a person, but another host: judged
    assert "127.0.0.1" in told["message"]
    allowed = {"FETCHER_ALLOW_NET": support.LOOPBACK, "FETCHER_API_TIME_MAX_S": "1"}
    told = refusal(run_cli("get", f"ollama://{docker_registry.host}/acme/x", "--json", env=allowed), 30)
    assert "FETCHER_OLLAMA_URL" in told["hint"]


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_models_are_asked_for_as_anybody(auth: Any, run_cli: CommandLine) -> None:
    """With tokens a public repository is open to all; behind a password nothing is, and that is told."""
    model = model_of(("model", noise(MIB, "closed")))
    with run_docker_registry(auth=auth, public_repositories=("library/open",)) as registry:
        for repository in ("library/open", "acme/closed"):
            push(model, registry.endpoint, repository, "latest", credentials=registry.credentials)
        environment = {"FETCHER_OLLAMA_URL": registry.endpoint, "FETCHER_ALLOW_NET": support.LOOPBACK}
        for name in ("open", "acme/closed") if auth == "basic" else ("acme/closed", "acme/none"):
            told = refusal(run_cli("get", f"ollama://{name}", "--json", env=environment), 21)
            assert name.rpartition("/")[2] in told["message"]
            assert told["hint"]
        if auth == "token":
            snapshot = got(run_cli("get", "ollama://open", "--json", env=environment))
            assert list(models_in(Path(snapshot["path"]))) == ["registry.ollama.ai/library/open:latest"]


@pytest.mark.needs("rclone")
def test_blobs_may_lie_elsewhere(run_cli: CommandLine) -> None:
    """The registry redirects to an object store, which answers to a range in its own way."""
    model = model_of(("model", WEIGHTS), ("license", LICENSE))
    with run_rclone(anonymous=True) as store, run_docker_registry(redirect_to=store.endpoint) as registry:
        push(model, registry.endpoint, "library/far", "latest")
        blobs = {
            path.relative_to(registry.storage / "docker").as_posix(): path.read_bytes()
            for path in (registry.storage / "docker").rglob("data")
        }
        store.fill("docker", blobs)
        named = {"FETCHER_OLLAMA_URL": registry.endpoint, "FETCHER_PART_BYTES": "1MiB"}
        # The registry was named by a person; where it leads to was not.
        told = refusal(run_cli("get", "ollama://far", "--json", env=named), 25)
        assert "127.0.0.1" in told["message"]
        allowed = {**named, "FETCHER_ALLOW_NET": support.LOOPBACK}
        snapshot = got(run_cli("get", "ollama://far", "--json", env=allowed))
        assert models_in(Path(snapshot["path"])) == {
            "registry.ollama.ai/library/far:latest": sum(map(len, model.blobs.values()))
        }
        assert all(request.status == 307 for request in registry.blob_requests())


@pytest.mark.needs("native")
def test_a_kill_in_mid_blob_costs_a_block_per_connection(docker_registry: DockerRegistry, run_cli: CommandLine) -> None:
    size = 32 * MIB + 77
    model = model_of(("model", noise(size, "killed")))
    push(model, docker_registry.endpoint, "library/e2e-killed", "latest")
    environment = {
        "FETCHER_OLLAMA_URL": docker_registry.endpoint,
        "FETCHER_PART_BYTES": "4MiB",
        "FETCHER_CONNECTIONS_MAX": str(CONNECTIONS),
    }
    get = ("get", "ollama://e2e-killed", "--json")
    with run_cli.start(*get, "--limit-rate", "12M", env=environment) as process:
        assert process.stdout is not None
        received = 0
        while received < 18 * MIB:
            received = json.loads(process.stdout.readline())["bytes_downloaded"]
        process.kill()
        assert process.wait(10) == -9
    assert received < size - 4 * MIB, "too late to be killed in the middle"
    # A request is logged when it is over, which the killed one's are in a moment.
    before = _settled(docker_registry)
    snapshot = got(run_cli(*get, env=environment))
    assert list(models_in(Path(snapshot["path"]))) == ["registry.ollama.ai/library/e2e-killed:latest"]
    assert sum(request.body_bytes for request in docker_registry.blob_requests()[before:]) <= (
        size - received + CONNECTIONS * 2 * MIB
    )
    assert snapshot["downloaded"] < size - 8 * MIB
    assert len(tree_of(Path(snapshot["path"]))) == 3


def _settled(registry: DockerRegistry) -> int:
    """How many requests for blobs there were, once none is under way any more."""
    count = -1

    def quiet() -> bool:
        nonlocal count
        earlier, count = count, len(registry.blob_requests())
        return count == earlier and not support.connected(registry.port)

    support.wait_until(quiet, "the registry to be left alone")
    return count
