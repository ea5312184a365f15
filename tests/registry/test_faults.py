"""Each fault of registries does what its docstring says, and the general ones act on manifests and blobs too."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fetcher.testing import Fault, FaultPlan, Rule, Synthetic
from fetcher.testing.faults import (
    ChangeContent,
    CutAfter,
    CutAt,
    CutHead,
    Delay,
    FlipByte,
    GzipBody,
    HangUp,
    HeadersWithoutEnd,
    IgnoreRange,
    MaxConcurrentBodies,
    OnRequest,
    RedirectTo,
    RefuseHead,
    ShiftRange,
    ShortBody,
    StallAfter,
    Status,
    Trickle,
)
from fetcher.testing.hub import JsonGarbage
from fetcher.testing.registry import (
    HOSTILE_MANIFESTS,
    Challenge,
    HostileManifest,
    ManifestType,
    OtherManifestBytes,
    Registry,
    ResizedBlob,
    TooManyRequests,
    WrongDigestHeader,
    registry_in_thread,
)
from fetcher.testing.registry import media as types
from fetcher.testing.registry.hostility import MANIFEST_BYTES_LARGE
from tests.hub.raw import Answer, fetch
from tests.registry.tools import code, manifest, sha256, token

MIB = 1 << 20
WEIGHTS = Synthetic(2 * MIB + 9, 7)
DIGEST = f"sha256:{WEIGHTS.sha256}"


@contextmanager
def faulty(*rules: Fault | Rule, **settings: Any) -> Iterator[Registry]:
    with registry_in_thread(faults=FaultPlan(*rules), **settings) as registry:
        registry.add_model("library/tiny", layers={"model": WEIGHTS, "template": "t"})
        yield registry
        assert all(registry.faults.fired[rule.name] > 0 for rule in rules), registry.faults


def blob(registry: Registry, *, timeout_s: float = 10.0, bytes_max: int = 1 << 30, **headers: str) -> Answer:
    """A blob's body, from wherever the registry sends it."""
    url = f"{registry.endpoint}/v2/library/tiny/blobs/{DIGEST}"
    answer = fetch(url, headers=headers, timeout_s=timeout_s, bytes_max=bytes_max)
    if answer.status != 307:
        return answer
    return fetch(answer.headers["location"], headers=headers, timeout_s=timeout_s, bytes_max=bytes_max)


def part(registry: Registry, start: int, stop: int) -> Answer:
    return blob(registry, Range=f"bytes={start}-{stop - 1}")


# Lies about manifests


def test_wrong_and_missing_digest_headers() -> None:
    with faulty(WrongDigestHeader().on(nth=1), WrongDigestHeader(missing=True).on(skip=1)) as registry:
        wrong, missing = manifest(registry, "library/tiny"), manifest(registry, "library/tiny")
        assert wrong.headers["docker-content-digest"] != sha256(wrong.body)
        assert wrong.body == missing.body and "docker-content-digest" not in missing.headers


def test_bytes_that_are_not_those_of_the_digest() -> None:
    with faulty(OtherManifestBytes()) as registry:
        digest = registry.repository("library/tiny").tags["latest"]
        answer = manifest(registry, "library/tiny", digest)
        assert answer.headers["docker-content-digest"] == digest != sha256(answer.body)
        assert answer.json == registry.repository("library/tiny")["latest"].document


@pytest.mark.parametrize("kind", HOSTILE_MANIFESTS)
def test_hostile_manifests_are_sent_under_their_own_digest(kind: str) -> None:
    with faulty(HostileManifest(kind)) as registry:
        honest = registry.repository("library/tiny")["latest"].document
        answer = manifest(registry, "library/tiny")
        assert answer.status == 200 and sha256(answer.body) == answer.headers["docker-content-digest"]
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        assert document != honest
        if kind == "schema-1":
            assert answer.headers["content-type"] == types.DOCKER_SCHEMA_1 and document["schemaVersion"] == 1
        elif kind == "large":
            assert len(answer.body) > MANIFEST_BYTES_LARGE and document["layers"] == honest["layers"]
        elif kind in ("size-understated", "size-overstated"):
            by = 1 if kind == "size-overstated" else -1
            assert document["layers"][0] == {**honest["layers"][0], "size": WEIGHTS.size + by}
        elif kind.startswith("digest-") and kind != "digest-missing":
            assert document["layers"][0] == {**honest["layers"][0], "digest": document["layers"][0]["digest"]}


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE_MANIFESTS if kind not in ("no-layers", "no-config")])
def test_an_index_can_be_hostile_too(kind: str) -> None:
    with faulty(HostileManifest(kind).on(path="latest")) as registry:
        index = registry.add_image("acme/app", platforms=("linux/amd64", "linux/arm64"))
        answer = manifest(registry, "acme/app")
        assert answer.status == 200 and answer.body != index.body


def test_another_content_type() -> None:
    with faulty(ManifestType("text/html")) as registry:
        assert manifest(registry, "library/tiny").headers["content-type"] == "text/html"


@pytest.mark.parametrize("redirect", [False, True])
@pytest.mark.parametrize("by", [1, -1, 5000, -5000, -WEIGHTS.size])
def test_a_blob_of_another_length(by: int, redirect: bool) -> None:
    with faulty(ResizedBlob(by).on("cdn" if redirect else "blob"), redirect_blobs=redirect) as registry:
        size = WEIGHTS.size + by
        bytes_expected = (WEIGHTS.read() + bytes(max(0, by)))[:size]
        whole = blob(registry)
        assert (whole.status, whole.body, whole.headers["content-length"]) == (200, bytes_expected, str(size))
        tail = blob(registry, Range=f"bytes={WEIGHTS.size - 6000}-")
        if by == -WEIGHTS.size:
            assert tail.status == 416
        else:
            assert (tail.status, tail.body) == (206, bytes_expected[WEIGHTS.size - 6000 :])
            assert tail.headers["content-range"] == f"bytes {WEIGHTS.size - 6000}-{size - 1}/{size}"


# Refusals


def test_challenges_that_lead_astray() -> None:
    header = 'Bearer realm="{self}/elsewhere",service="s"'
    # An early answer is the last word: the second rule sees its first request when the first rule is spent.
    with faulty(Challenge().on(nth=1), Challenge(header).on(nth=1), Challenge("Negotiate").on("blob")) as registry:
        first, second = manifest(registry, "library/tiny"), manifest(registry, "library/tiny")
        assert "169.254.169.254" in first.headers["www-authenticate"] and code(first) == "UNAUTHORIZED"
        assert second.headers["www-authenticate"] == header.replace("{self}", registry.endpoint)
        assert blob(registry).headers["www-authenticate"] == "Negotiate"
        assert manifest(registry, "library/tiny").status == 200


@pytest.mark.parametrize("retry_after", [None, 3])
def test_too_many_requests(retry_after: int | None) -> None:
    with faulty(TooManyRequests(retry_after).on("manifest", times=1)) as registry:
        answer = manifest(registry, "library/tiny")
        assert (answer.status, code(answer)) == (429, "TOOMANYREQUESTS")
        assert answer.headers.get("retry-after") == (str(retry_after) if retry_after else None)
        assert answer.headers["ratelimit-remaining"] == "0;w=21600"
        assert manifest(registry, "library/tiny").status == 200


@pytest.mark.parametrize("kind", ["html", "truncated", "wrong-shape", "deep"])
def test_garbage_for_a_token(kind: Any) -> None:
    with faulty(JsonGarbage(kind).on("token", times=1), users={"alice": "a"}) as registry:
        answer = fetch(registry.token_url)
        assert answer.status == 200 and b'"token"' not in answer.body
        assert token(registry, "repository:library/tiny:pull")


# The general faults, where a registry has places for them


def test_statuses_delays_and_callbacks() -> None:
    moved: list[str] = []

    def move(exchange: Any) -> None:
        moved.append(exchange.origin.add_model("library/tiny", layers={"model": b"new"}).digest)

    rules = (
        Status(503, retry_after=1).on("manifest", nth=1),
        OnRequest(move).on("manifest", path="latest", nth=1),
        Delay(0.2).on("manifest", nth=2),
        RefuseHead().on("blob"),
        Status(500).on("ping"),
        RedirectTo("/v2/").on("tags"),
    )
    with faulty(*rules) as registry:
        refused = manifest(registry, "library/tiny")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert [manifest(registry, "library/tiny").headers["docker-content-digest"]] == moved
        assert manifest(registry, "library/tiny").seconds >= 0.2
        assert fetch(f"{registry.endpoint}/v2/library/tiny/blobs/{DIGEST}", method="HEAD").status == 405
        assert fetch(f"{registry.endpoint}/v2/").status == 500
        assert fetch(f"{registry.endpoint}/v2/library/tiny/tags/list").headers["location"] == "/v2/"


@pytest.mark.parametrize("place", ["blob", "cdn"])
def test_broken_connections(place: str) -> None:
    rules = (
        CutAfter(1000).on(place, nth=1),
        CutAt(MIB, "fin").on(place, nth=2),
        CutHead(7).on(place, nth=3),
        StallAfter(500).on(place, nth=4),
        Trickle(1e6).on(place, nth=5),
        HeadersWithoutEnd().on(place, nth=6),
        HangUp().on(place, nth=7),
    )
    with faulty(*rules, redirect_blobs=place == "cdn") as registry:
        reset, ended, headless = blob(registry), blob(registry), blob(registry)
        assert (reset.ended, reset.body) == ("rst", WEIGHTS.read(0, 1000))
        assert (ended.ended, ended.body) == ("fin", WEIGHTS.read(0, MIB))
        assert (headless.status, headless.received_bytes) == (None, 7)
        silent = blob(registry, timeout_s=0.3)
        assert (silent.ended, silent.body) == ("silence", WEIGHTS.read(0, 500))
        assert blob(registry).seconds > 1.5
        endless = blob(registry, bytes_max=200_000)
        assert (endless.status, endless.ended) == (None, "too much")
        assert blob(registry).body == WEIGHTS.read()
        assert [record.complete for record in registry.requests.select(place, method="GET")][-1]


@pytest.mark.parametrize("place", ["blob", "cdn"])
def test_wrong_bytes_and_ranges(place: str) -> None:
    with faulty(redirect_blobs=place == "cdn") as registry:
        for fault, status, expected in [
            (FlipByte(5), 206, WEIGHTS.read(0, 5) + bytes([WEIGHTS.read(5, 6)[0] ^ 1]) + WEIGHTS.read(6, 10)),
            (IgnoreRange(), 200, WEIGHTS.read()),
            (ShiftRange(10, lying=True), 206, WEIGHTS.read(10, 20)),
            (ShortBody(3), 206, WEIGHTS.read(0, 7)),
            (ChangeContent(), 206, Synthetic(WEIGHTS.size, 666).read(0, 10)),
        ]:
            registry.faults.clear()
            registry.faults.add(fault.on(place))
            answer = part(registry, 0, 10)
            assert (answer.status, answer.body) == (status, expected), fault.name
        registry.faults.clear()
        registry.faults.add(GzipBody().on(place))
        packed = part(registry, 0, 10)
        assert (packed.status, gzip.decompress(packed.body)) == (200, WEIGHTS.read())


def test_bodies_are_counted_while_they_are_open() -> None:
    with faulty(MaxConcurrentBodies(0).on("blob")) as registry:
        answer = blob(registry)
        assert answer.status == 503
        assert registry.open_bodies("blob") == 0
