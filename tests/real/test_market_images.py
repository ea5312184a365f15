"""A market's images through ``fetcher prefetch``: real engines, real registries; judged by the engines' own lists."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import Trickle
from fetcher.testing.market import Market, market_in_thread
from fetcher.testing.registry import registry_in_thread
from tests.origins.ollama_reader import models_in
from tests.real import support
from tests.real.support import MIB, hashes_of, model_of, noise, tree_of
from tests.support.cli import CommandLine, Completed
from tests.support.servers.docker_registry import PASSWORD, DockerRegistry, run_docker_registry
from tests.support.servers.engine import Engine
from tests.support.servers.engines import run_dockerd, run_podman
from tests.support.servers.images import Image, image_of, layer_of, push

MARKET = "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf"
MODEL = model_of(("model", noise(MIB, "market model")))
HUB_FILES = {"config.json": b"{}", "weights": noise(2 * MIB, "market hub")}


@pytest.fixture
def market() -> Iterator[Market]:
    """The embedded market."""
    with market_in_thread() as running:
        yield running


@pytest.fixture
def word(request: pytest.FixtureRequest) -> str:
    """Of this test and engine alone: engines keep what they have."""
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


def image(word: str, name: str) -> Image:
    return image_of([layer_of({"data": noise(MIB, word + name)}), layer_of({"name": f"{word} {name}".encode()})])


def environment(engine: Engine, market: Market, hub: Hub, **more: str) -> dict[str, str | None]:
    """A node's, with the engine named in the variable that is its own."""
    return {
        "CONTAINER_HOST" if engine.kind == "podman" else "DOCKER_HOST": engine.host,
        "FETCHER_MARKET_URL": market.template,
        "FETCHER_ALLOW_NET": support.LOOPBACK,
        "HF_ENDPOINT": hub.endpoint,
        **more,
    }


def items_of(result: Completed) -> dict[str, dict[str, Any]]:
    """The items of the summary, by what they are of."""
    last = result.last
    assert last["event"] == "summary"
    return {item["resource"]: item for item in last["items"]}


@pytest.mark.needs("docker-registry")
def test_a_market_is_made_present_as_far_as_it_can_be(
    engine: Engine, docker_registry: DockerRegistry, market: Market, hub: Hub, word: str, run_cli: CommandLine
) -> None:
    hub.add_repo("acme/mixed", files=HUB_FILES)
    open_host = docker_registry.host
    push(MODEL, docker_registry.endpoint, f"library/model-{word}", "latest")
    for name in ("app", "here"):
        push(image(word, name), docker_registry.endpoint, f"acme/{name}-{word}", "1")
    by_digest = push(image(word, "pinned"), docker_registry.endpoint, f"acme/pinned-{word}", "1")
    app, here = f"{open_host}/acme/app-{word}:1", f"{open_host}/acme/here-{word}:1"
    pinned, none = f"{open_host}/acme/pinned-{word}@{by_digest}", f"{open_host}/acme/none-{word}:1"
    engine.pull(here)
    with run_docker_registry(auth="basic") as locked:
        push(image(word, "locked"), locked.endpoint, "acme/locked", "1", credentials=locked.credentials)
        assert locked.credentials is not None
        user, password = locked.credentials
        closed = f"{locked.host}/acme/locked:1"
        login = {"name": closed, "server": locked.host, "username": user, "password": password}
        resources = [{"type": "HF", "url": "acme/mixed"}, {"type": "Ollama", "model": f"model-{word}"}]
        wanted = [app, login, none, here, pinned]
        market.set(MARKET, {"required_images": wanted, "required_remote_resources": resources})
        settings = environment(engine, market, hub, FETCHER_OLLAMA_URL=docker_registry.endpoint)

        planned = run_cli("prefetch", MARKET, "--json", "--dry-run", env=settings)
        assert planned.exit_code == 0, planned.stderr
        (plan,) = planned.events("plan")
        assert {row["name"]: row["action"] for row in plan["images"]} == {
            **dict.fromkeys([app, closed, none, pinned], "pull"),
            here: "present",
        }
        costs = {row["name"]: row["bytes"] for row in plan["images"]}
        for name, part in ((app, "app"), (closed, "locked"), (pinned, "pinned")):
            assert costs[name] == sum(map(len, image(word, part).blobs.values()))
        assert costs[none] is None
        assert engine.names() & {app, closed, none} == set()

        result = run_cli("prefetch", MARKET, "--json", env=settings)
        assert result.exit_code == 11, result.stdout + result.stderr
        items = items_of(result)
        statuses = {name: item["status"] for name, item in items.items()}
        assert statuses == {
            "hf://acme/mixed@main": "done",
            f"ollama://model-{word}:latest": "done",
            f"docker://{app}": "done",
            f"docker://{closed}": "done",
            f"docker://{none}": "failed",
            f"docker://{here}": "hit",
            f"docker://{pinned}": "done",
        }
        (error,) = result.events("error")
        assert (error["kind"], error["resource"]) == ("image", f"docker://{none}")
        assert error["message"].startswith(f"{engine.kind.title()} could not pull {none}: ")
        assert error["hint"]
        assert PASSWORD not in result.stdout + result.stderr
        # By the engine's own list: the exact names, and no other.
        assert {app, closed, here} <= engine.names()
        assert none not in engine.names()
        found = engine.inspect(pinned)
        assert found is not None and pinned in found["RepoDigests"]
        sizes = {name: item["bytes"] for name, item in items.items() if item["kind"] == "image"}
        assert sizes[f"docker://{app}"] > MIB

        # What is there is there: the registries are not asked again, for images or models.
        rest = [name for name in wanted if name != none]
        market.set(MARKET, {"required_images": rest, "required_remote_resources": resources})
        time.sleep(0.1)  # a request is logged when it is over
        asked = len(docker_registry.requests()), len(locked.requests()), len(hub.requests)
        again = run_cli("prefetch", MARKET, "--json", env=settings)
        assert again.exit_code == 0, again.stdout + again.stderr
        assert {item["status"] for item in again.last["items"]} == {"hit"}
        assert len(again.last["items"]) == 6
        assert (len(docker_registry.requests()), len(locked.requests()), len(hub.requests)) == asked

        # And the resources are what they should be, pinned for the market.
        paths = {
            uri: Path(run_cli("get", uri, "--json", "--offline", env=settings).last["path"])
            for uri in ("hf://acme/mixed", f"ollama://model-{word}")
        }
        assert tree_of(paths["hf://acme/mixed"]) == hashes_of(HUB_FILES)
        assert list(models_in(paths[f"ollama://model-{word}"])) == [f"registry.ollama.ai/library/model-{word}:latest"]
        unpinned = run_cli("unpin", f"market:{MARKET}", "--json", env=settings)
        assert unpinned.last["resources"] == 2
        for name in (app, here, closed, pinned):
            engine.remove(name)


@pytest.mark.needs("docker-registry")
def test_a_wrong_login_fails_its_own_image_only(
    engine: Engine, docker_registry: DockerRegistry, market: Market, hub: Hub, word: str, run_cli: CommandLine
) -> None:
    with run_docker_registry(auth="token") as locked:
        for name in ("one", "two"):
            push(image(word, name), locked.endpoint, f"acme/{name}", "1", credentials=locked.credentials)
        assert locked.credentials is not None
        user, password = locked.credentials
        right, wrong = f"{locked.host}/acme/one:1", f"{locked.host}/acme/two:1"
        wanted = [
            {"name": right, "username": user, "password": password},
            {"name": wrong, "username": user, "password": "mistyped-word"},
        ]
        market.set(MARKET, {"required_images": wanted})
        result = run_cli("prefetch", MARKET, "--json", env=environment(engine, market, hub))
        assert result.exit_code == 11, result.stdout + result.stderr
        items = items_of(result)
        assert items[f"docker://{right}"]["status"] == "done"
        assert items[f"docker://{wrong}"]["status"] == "failed"
        assert right in engine.names()
        assert wrong not in engine.names()
        assert "login" in result.events("error")[0]["hint"]
        assert "mistyped-word" not in result.stdout + result.stderr
        engine.remove(right)


Run = Callable[..., AbstractContextManager[Engine]]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_dockerd, id="dockerd", marks=pytest.mark.needs("dockerd")),
        pytest.param(run_podman, id="podman", marks=pytest.mark.needs("podman")),
    ],
)
def test_an_engine_that_dies_takes_its_images_along_and_nothing_else(
    run: Run, market: Market, hub: Hub, word: str, run_cli: CommandLine
) -> None:
    hub.add_repo("acme/mixed", files={"weights": Synthetic(8 * MIB, 4)})
    with registry_in_thread() as registry, run() as own:
        registry.add_image("acme/slow", "1", layers=[{"data": Synthetic(6 * MIB, 9)}])
        registry.faults.add(Trickle(bytes_per_s=100_000).on("blob"))
        name = f"{registry.host}/acme/slow:1"
        market.set(
            MARKET, {"required_images": [name], "required_remote_resources": [{"type": "HF", "url": "acme/mixed"}]}
        )
        settings = environment(own, market, hub)
        with run_cli.start("prefetch", MARKET, "--json", "--limit-rate", "2M", env=settings) as process:
            assert process.stdout is not None
            support.wait_until(lambda: registry.body_bytes_sent() > 150_000, "the pull to be under way")
            own.server.kill()
            lines = [json.loads(line) for line in process.stdout]
            assert process.wait(50) == 11, lines[-1]
        items = {item["resource"]: item for item in lines[-1]["items"]}
        assert items["hf://acme/mixed@main"]["status"] == "done"
        failed = items[f"docker://{name}"]
        assert (failed["status"], failed["kind"]) == ("failed", "image")
        assert "closed before the answer was complete" in failed["reason"]
        (error,) = [line for line in lines if line["event"] == "error"]
        assert error["kind"] == "image"
        # With no engine at all, images are skipped, and the socket that was named is told; the rest is here.
        again = run_cli("prefetch", MARKET, "--json", env=settings)
        assert again.exit_code == 0, again.stderr
        items = items_of(again)
        assert items["hf://acme/mixed@main"]["status"] == "hit"
        assert items[f"docker://{name}"]["status"] == "skipped"
        assert str(own.socket) in items[f"docker://{name}"]["reason"]
