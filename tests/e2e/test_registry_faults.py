"""Faults that only registries have: tokens that run out, manifests that lie, tags that move, blobs of another length.

What every origin may do wrong is in ``fault_cases``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import (
    DeniedError,
    Fetcher,
    FetcherError,
    ForbiddenError,
    IntegrityError,
    NotFoundError,
    RateLimitedError,
    TransportError,
)
from fetcher.engine.asks import Outcome
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import CutAfter, OnRequest, Status, Trickle
from fetcher.testing.messages import Reply
from fetcher.testing.registry import (
    HOSTILE_MANIFESTS,
    HostileManifest,
    ManifestType,
    OtherManifestBytes,
    Registry,
    ResizedBlob,
    TooManyRequests,
    WrongDigestHeader,
    model_layers,
    registry_in_thread,
)
from tests.e2e.support import (
    HURRIED,
    MIB,
    REPO,
    Gate,
    assert_blobs_sound,
    assert_whole,
    nothing_visible,
    run_fetch,
    tree_of,
    until,
)
from tests.e2e.support import options as options_of

MODEL_BYTES = 12 * MIB + 9
BRIEF: dict[str, Any] = {"no_progress_timeout_s": 2.0, "api_time_max_s": 2.0, "api_timeout_s": 0.7}


@pytest.fixture(params=["ollama", "distribution"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    with registry_in_thread(dialect=request.param) as running:
        running.add_model("library/tiny", layers=model_layers(MODEL_BYTES))
        yield running


def fetch(registry: Registry, cache_dir: Path, item: str = "ollama://tiny", **more: Any) -> Outcome:
    options = {**HURRIED, "cache_dir": str(cache_dir), "ollama_url": registry.endpoint, **more}
    return run_fetch(lambda: Fetcher(environ={}, **options), item)


def attempt(registry: Registry, cache_dir: Path, **more: Any) -> Outcome | FetcherError:
    """As ``fetch``; an error is what comes of it."""
    try:
        return fetch(registry, cache_dir, **more)
    except FetcherError as error:
        return error


def held(registry: Registry, name: str = "library/tiny") -> dict[str, tuple[int, str]]:
    repository = registry.repository(name)
    manifest = repository["latest"]
    found = {
        f"manifests/registry.ollama.ai/{name}/latest": (len(manifest.body), manifest.digest.removeprefix("sha256:"))
    }
    for row in (manifest.document["config"], *manifest.document["layers"]):
        found[f"blobs/{row['digest'].replace(':', '-')}"] = (row["size"], row["digest"].removeprefix("sha256:"))
    return found


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redirects", [True, False], ids=["signed-urls", "direct"])
def test_tokens_that_run_out_in_mid_file(cache_dir: Path, redirects: bool) -> None:
    with registry_in_thread(
        dialect="ollama", auth="bearer", token_lifetime_s=1.0, redirect_blobs=redirects, url_lifetime_s=1.0
    ) as registry:
        registry.add_model("library/tiny", layers=model_layers(MODEL_BYTES))
        registry.faults.add(Trickle(2 * MIB).on("cdn", "blob"))
        outcome = fetch(registry, cache_dir, connections_max=2)
        assert tree_of(outcome.snapshot.path) == held(registry)
        assert registry.count("token", status=200) >= 2, "it did run out"
        assert registry.body_bytes_sent() <= MODEL_BYTES + 100_000


def test_a_token_that_is_revoked_in_mid_file(cache_dir: Path) -> None:
    with registry_in_thread(dialect="distribution", auth="bearer") as registry:
        registry.add_model("library/tiny", layers=model_layers(MODEL_BYTES))

        def revoke(exchange: Any) -> None:
            registry.revoke_tokens()

        registry.faults.add(OnRequest(revoke).on("blob", nth=5))
        assert tree_of(fetch(registry, cache_dir, connections_max=2).snapshot.path) == held(registry)
        assert registry.count("blob", status=401) >= 1
        assert registry.count("token", status=200) == 2, "one new one for all parts"


@pytest.mark.parametrize("connections", [1, 4])
def test_who_waits_for_a_new_token_takes_nobodys_connection_and_is_not_given_up(
    hub: Hub, cache_dir: Path, connections: int
) -> None:
    """The token service is slower than a run may go without a block. Another run of the process needs those
    connections meanwhile, and ends long before."""
    gate, silent_max_s = Gate(), 5.0
    hub.add_repo(REPO, files={"model.safetensors": Synthetic(4 * MIB, 1)})
    with registry_in_thread(dialect="distribution", auth="bearer") as registry:
        registry.add_model("library/tiny", layers=model_layers(MODEL_BYTES))

        def revoke(exchange: Any) -> None:
            registry.revoke_tokens()

        registry.faults.add(OnRequest(revoke).on("blob", nth=5), OnRequest(gate).on("token", skip=1))
        options = options_of(hub, cache_dir, ollama_url=registry.endpoint, connections_max=connections)

        async def main() -> tuple[Outcome, Outcome]:
            async with Fetcher(environ={}, **{**options, "no_progress_timeout_s": silent_max_s}) as client:
                first = asyncio.create_task(client.fetch("ollama://tiny"))
                try:
                    await until(lambda: registry.count("blob", status=401) > 0)
                    await asyncio.sleep(1.0)  # all who may ask for something have done so
                    second = await client.fetch(f"hf://{REPO}")
                    await asyncio.sleep(silent_max_s + 1.0)
                    assert not first.done()
                finally:
                    gate.open()
                    await asyncio.wait([first])
                return first.result(), second

        first, second = asyncio.run(main())
        assert tree_of(first.snapshot.path) == held(registry)
        assert_whole(second.snapshot, hub)
        assert registry.count("token", status=200) == 2, "one new one for all parts"


@pytest.mark.parametrize("size", [4096, 3 * MIB])
def test_who_asks_for_a_token_ends_where_nobody_needs_it_any_more(hub: Hub, cache_dir: Path, size: int) -> None:
    """While the token service says nothing, another file of the model turns out to be gone."""
    asking, gate = asyncio.Event(), Gate()
    expired, gone = Synthetic(size, 1), Synthetic(2 * MIB, 2)
    hub.add_repo(REPO, files={"model.safetensors": Synthetic(2 * MIB, 3)})
    with registry_in_thread(dialect="distribution", auth="bearer") as registry:
        registry.add_model("library/tiny", layers={"model": gone, "adapter": expired})

        def revoke(exchange: Any) -> None:
            registry.revoke_tokens()

        async def hold(exchange: Any) -> None:
            asking.set()
            await gate(exchange)

        async def answer(exchange: Any) -> Reply:
            await asking.wait()
            return Reply(404)

        registry.faults.add(
            OnRequest(revoke).on("blob", path=f"*{expired.sha256}", method="GET", nth=1),
            OnRequest(answer).on("blob", path=f"*{gone.sha256}", method="GET"),
            OnRequest(hold).on("token", skip=1),
        )
        options = options_of(hub, cache_dir, ollama_url=registry.endpoint, api_timeout_s=100.0, connections_max=4)

        async def main() -> list[Any]:
            async with Fetcher(environ={}, **options) as client, asyncio.timeout(25.0):
                return await client.fetch_each([("ollama://tiny", "job"), (f"hf://{REPO}", "job")])

        try:
            lost, whole = asyncio.run(main())
        finally:
            gate.open()
        assert isinstance(lost, NotFoundError)
        assert_whole(whole.snapshot, hub)


def test_a_registry_that_takes_no_token_any_more(cache_dir: Path) -> None:
    with registry_in_thread(dialect="distribution", auth="bearer") as registry:
        registry.add_model("library/tiny", layers=model_layers(MODEL_BYTES))
        registry.faults.add(Status(401).on("blob", skip=3))
        with pytest.raises(FetcherError) as caught:
            fetch(registry, cache_dir, **BRIEF)
        assert caught.value.exit_code in (21, 22), repr(caught.value)
        nothing_visible(cache_dir)


@pytest.mark.parametrize("status", [500, 503])
def test_a_token_service_that_is_down(cache_dir: Path, status: int) -> None:
    with registry_in_thread(dialect="ollama", auth="bearer") as registry:
        registry.add_model("library/tiny", layers=model_layers(MODEL_BYTES))
        registry.faults.add(Status(status).on("token", times=2))
        assert tree_of(fetch(registry, cache_dir).snapshot.path) == held(registry)
        registry.faults.add(Status(status).on("token"))
        with pytest.raises(TransportError):
            fetch(registry, cache_dir.with_name("other"), **BRIEF)


# --- manifests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HOSTILE_MANIFESTS)
def test_a_manifest_that_no_honest_registry_gives(registry: Registry, cache_dir: Path, kind: str) -> None:
    registry.faults.add(HostileManifest(kind).on())
    before = everything_beside(cache_dir)
    result = attempt(registry, cache_dir, **BRIEF)
    assert registry.faults.fired
    assert everything_beside(cache_dir) - before <= {cache_dir.parent}
    repository = registry.repository("library/tiny")
    made = HOSTILE_MANIFESTS[kind](repository["latest"].document)
    body = made if isinstance(made, bytes) else json.dumps(made, separators=(",", ":")).encode()
    served = hashlib.sha256(body).hexdigest()
    assert_blobs_sound(cache_dir, [served, *(blob.sha256 for blob in repository.blobs.values())])
    if isinstance(result, Outcome):
        assert kind in HARMLESS
        tree = tree_of(result.snapshot.path)
        assert tree.pop("manifests/registry.ollama.ai/library/tiny/latest") == (len(body), served)
        assert all(name == f"blobs/sha256-{sha256}" for name, (_, sha256) in tree.items())
        return
    assert kind not in HARMLESS, repr(result)
    assert result.exit_code in (21, 25, 30, 40), repr(result)
    assert result.message.isprintable()
    nothing_visible(cache_dir)


HARMLESS = {"no-layers", "layers-null", "layers-empty", "no-config", "config-null", "many-layers"}
"""A poor model, or one layer many times: a store of it is right all the same."""


def everything_beside(cache_dir: Path) -> set[Path]:
    root = cache_dir.parent.parent
    return {path for path in root.rglob("*") if cache_dir not in path.parents and path != cache_dir}


def test_a_manifest_that_is_not_what_its_digest_says(cache_dir: Path) -> None:
    with registry_in_thread(dialect="distribution") as registry:
        registry.add_model("library/tiny", layers=model_layers(MODEL_BYTES))
        for rule in (WrongDigestHeader().on(), OtherManifestBytes().on()):
            registry.faults.clear()
            registry.faults.add(rule)
            with pytest.raises((IntegrityError, TransportError)):
                fetch(registry, cache_dir, **BRIEF)
            nothing_visible(cache_dir)
        registry.faults.clear()
        registry.faults.add(ManifestType("application/json").on())
        assert tree_of(fetch(registry, cache_dir).snapshot.path) == held(registry)


@pytest.mark.parametrize("by", [1, -1, 4096])
def test_a_blob_of_another_length_than_its_manifest_says(registry: Registry, cache_dir: Path, by: int) -> None:
    registry.faults.add(ResizedBlob(by).on("blob", "cdn"))
    with pytest.raises((TransportError, IntegrityError)):
        fetch(registry, cache_dir, **BRIEF)
    nothing_visible(cache_dir)
    manifest = registry.repository("library/tiny")["latest"]
    assert_blobs_sound(cache_dir, [manifest.digest.removeprefix("sha256:")])


def test_a_tag_that_moves_in_mid_file(registry: Registry, cache_dir: Path) -> None:
    """What was resolved is what comes: the tag is not asked again."""
    before = held(registry)
    moved: list[None] = []

    def move(exchange: Any) -> None:
        registry.add_model("library/tiny", layers={"model": Synthetic(2 * MIB, 9)})
        moved.append(None)

    registry.faults.add(OnRequest(move).on("blob", nth=1))
    assert tree_of(fetch(registry, cache_dir).snapshot.path) == before
    assert moved


def test_a_blob_that_is_deleted_in_mid_file(registry: Registry, cache_dir: Path) -> None:
    digest = next(row["digest"] for row in registry.repository("library/tiny")["latest"].document["layers"])
    registry.faults.add(CutAfter(MIB).on("cdn", "blob", times=1))

    def delete(exchange: Any) -> None:
        registry.repository("library/tiny").blobs.pop(digest, None)

    registry.faults.add(OnRequest(delete).on("blob", path=digest, skip=1))
    result = attempt(registry, cache_dir, connections_max=1, **BRIEF)
    if isinstance(result, FetcherError):
        assert isinstance(result, NotFoundError), repr(result)
        nothing_visible(cache_dir)
    else:
        assert registry.count("blob", path=digest) == 1, "the signed URL served all of it"


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_limit_that_passes(registry: Registry, cache_dir: Path) -> None:
    registry.faults.add(TooManyRequests(1).on("manifest", times=1), TooManyRequests(1).on("blob", times=2))
    assert tree_of(fetch(registry, cache_dir).snapshot.path) == held(registry)


@pytest.mark.parametrize("place", ["manifest", "blob"])
def test_a_limit_for_six_hours(registry: Registry, cache_dir: Path, place: str) -> None:
    registry.faults.add(TooManyRequests(21_600).on(place))
    with pytest.raises(RateLimitedError, match="21600"):
        fetch(registry, cache_dir)
    nothing_visible(cache_dir)


def test_forbidden_is_final(registry: Registry, cache_dir: Path) -> None:
    registry.faults.add(Status(403).on("blob"))
    with pytest.raises((DeniedError, ForbiddenError)):
        fetch(registry, cache_dir)
    nothing_visible(cache_dir)
