"""Every fault of the embedded hub, alone and in pairs: an identical tree within the limits, or the right typed error.

The two tables are the statement: what a client of this quality survives, and what it must say when it can't. Each test
proves that its fault really happened.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fetcher import (
    DeniedError,
    FetcherError,
    ForbiddenError,
    IntegrityError,
    NotFoundError,
    RateLimitedError,
    TransportError,
)
from fetcher.testing import Exchange, Hub, Rule, Synthetic, hub_in_thread
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
    RedirectAlreadyExpired,
    RedirectTo,
    RefuseHead,
    ShiftRange,
    ShortBody,
    StallAfter,
    Status,
    Trickle,
    UrlUses,
)
from fetcher.testing.hub.hostility import AnnounceQuota, EndlessLinks, JsonGarbage
from tests.conftest import SEED
from tests.e2e.support import (
    MIB,
    REPO,
    assert_blobs_sound,
    assert_whole,
    fetch,
    held_by,
    mixed_files,
    nothing_visible,
    repo_bytes,
)

WEIGHTS = "model.safetensors"
NOTES = "nested/deeper/notes.txt"
CONNECTIONS = 16


def move_the_branch(exchange: Exchange) -> None:
    exchange.origin.commit(REPO, {"config.json": "{}", "late.txt": "not of this commit"})


@dataclass(frozen=True)
class Healed:
    """A fault that costs time and perhaps some bytes."""

    name: str
    rules: tuple[Rule, ...]
    again_bytes: int = CONNECTIONS * MIB
    """How many bytes may be sent a second time."""
    single: bool = False
    """Not for pairs: it counts requests, or it is slow."""


def healed(name: str, *rules: Rule, **more: Any) -> Healed:
    return Healed(name, rules, **more)


def cuts() -> list[Healed]:
    """Connections that end at any byte, by RST and by FIN."""
    dice = random.Random(SEED)
    offsets = [0, 1, MIB - 1, MIB, MIB + 1, *(dice.randrange(5 * MIB) for _ in range(3))]
    return [
        healed(f"cut-at-{offset}-{how}", CutAt(offset, how).on(path=WEIGHTS, times=2))
        for how in ("rst", "fin")
        for offset in offsets
    ]


HEALED = [
    *cuts(),
    healed("cut-after-head", CutAfter(0, "fin").on(times=4)),
    healed("cut-in-the-head", CutHead(20, "rst").on(times=4)),
    healed("cut-before-the-head", CutHead(0, "rst").on(times=4), CutHead(0, "fin").on(times=2)),
    healed("cut-api", CutHead(0, "rst").on("info", times=1), CutHead(30, "fin").on("tree", times=1)),
    healed("hang-up", HangUp().on("*")),
    healed("stall-before-body", StallAfter(0).on("cdn", times=2)),
    healed("stall-in-body", StallAfter(100_000).on(times=2)),
    healed("short-stall", StallAfter(1000, 0.2).on(every=3)),
    healed("stall-api", Delay(30).on("info", times=1), single=True),
    healed("trickle", Trickle(20_000).on("cdn", path=WEIGHTS, times=1)),
    healed("429-api", Status(429, 1).on("api", times=1)),
    healed("429-resolve", Status(429, 1).on("resolve", "resolve-cache", times=2)),
    healed("429-cdn", Status(429).on("cdn", times=3)),
    healed("503-api", Status(503).on("api", times=3)),
    healed("503-resolve", Status(503).on("resolve", times=3)),
    healed("503-cdn", Status(503).on("cdn", times=4)),
    healed("503-inline", Status(503).on("resolve-cache", times=4)),
    healed("500-cdn", Status(500).on("cdn", times=2)),
    healed("502-504", Status(502).on("cdn", times=1), Status(504).on("resolve", times=1)),
    healed("one-body-at-once", MaxConcurrentBodies(1).on(), single=True),
    healed("two-bodies-at-once", MaxConcurrentBodies(2).on(), single=True),
    healed("wrong-byte-once", FlipByte(2 * MIB + 5).on(path=WEIGHTS, times=1), again_bytes=6 * MIB),
    healed("wrong-byte-once-inline", FlipByte(MIB).on(path=NOTES, times=1), again_bytes=3 * MIB),
    healed("wrong-byte-once-small", FlipByte(7).on(path="*.json", times=1), again_bytes=MIB),
    healed("range-ignored-once", IgnoreRange().on(path=WEIGHTS, times=1)),
    healed("range-ignored", IgnoreRange().on(path=WEIGHTS), single=True),
    healed("range-shifted", ShiftRange(MIB).on(times=2)),
    healed("range-shifted-back", ShiftRange(-5).on(times=2)),
    healed("range-shifted-lying", ShiftRange(MIB, lying=True).on(path=WEIGHTS, times=1)),
    healed("short-body", ShortBody(1).on(times=2)),
    healed("short-body-small", ShortBody(1).on(path="small.bin", times=1)),
    healed("url-for-three-uses", UrlUses(3).on(), single=True),
    healed("url-for-one-use", UrlUses(1).on(), single=True),
    healed("expired-redirect", RedirectAlreadyExpired().on("resolve", times=2)),
    healed("refused-url", Status(403).on("cdn", times=2)),
    healed("gzip-although-refused", GzipBody().on(times=2)),
    healed("changed-content", ChangeContent().on(path=WEIGHTS, nth=3), again_bytes=8 * MIB),
    healed("changed-etag", ChangeContent(same_bytes=True).on(path=WEIGHTS, nth=3), again_bytes=8 * MIB),
    healed("changed-content-same-etag", ChangeContent(same_etag=True).on(path=WEIGHTS, nth=3), again_bytes=8 * MIB),
    healed("head-refused", RefuseHead().on(method="HEAD")),
    healed("delay", Delay(0.1).on("bodies")),
    healed("branch-moves", OnRequest(move_the_branch).on("bodies", nth=1)),
    healed("quota-nearly-gone", AnnounceQuota(1, 1).on("api", times=1)),
    healed("quota-gone", AnnounceQuota(0, 1).on("resolve", times=1), single=True),
]
NEVER_FIRES = {"head-refused"}
"""We never ask HEAD, which is the point."""


@pytest.mark.parametrize("case", HEALED, ids=lambda case: case.name)
def test_healed(hub: Hub, cache_dir: Path, case: Healed) -> None:
    survive(hub, cache_dir, case.rules, case.again_bytes)
    assert bool(hub.faults.fired) != (case.name in NEVER_FIRES), hub.faults


def pairs(count: int) -> list[tuple[Healed, Healed]]:
    dice = random.Random(SEED + 1)
    cheap = [case for case in HEALED if not case.single]
    return [tuple(dice.sample(cheap, 2)) for _ in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("case", pairs(12), ids=lambda case: f"{case[0].name}+{case[1].name}")
def test_healed_in_pairs(hub: Hub, cache_dir: Path, case: tuple[Healed, Healed]) -> None:
    first, second = case
    survive(hub, cache_dir, first.rules + second.rules, first.again_bytes + second.again_bytes)


def survive(hub: Hub, cache_dir: Path, rules: tuple[Rule, ...], again_bytes: int) -> None:
    repo = hub.add_repo(REPO, files=mixed_files())
    commit = repo.head
    size = repo_bytes(hub)
    hub.faults.add(*rules)
    outcome = fetch(hub, cache_dir)
    assert outcome.snapshot.revision == commit, "pinned before the first byte"
    assert_whole(outcome.snapshot, hub, revision=commit)
    assert hub.body_bytes_sent() <= size + again_bytes
    assert not list((cache_dir / "partials-v1").iterdir()), "nothing half is kept after success"


# --- many parts, one signed URL ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("uses", [1, 3, 17])
def test_a_url_good_for_few_uses_serves_many_parts(hub: Hub, cache_dir: Path, uses: int) -> None:
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(40 * MIB, 1)})
    hub.faults.add(UrlUses(uses).on())
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    assert hub.body_bytes_sent() == 40 * MIB
    assert hub.count("resolve") <= 40 / uses + 2 * CONNECTIONS


def test_urls_that_expire_in_mid_file(cache_dir: Path) -> None:
    with hub_in_thread(url_lifetime_s=1.0) as hub:
        hub.add_repo(REPO, files={WEIGHTS: Synthetic(24 * MIB, 1)})
        hub.faults.add(Trickle(2 * MIB).on("cdn"))
        assert_whole(fetch(hub, cache_dir, connections_max=4).snapshot, hub)
        assert hub.count("cdn", status=403) > 0, "it did expire"
        assert hub.body_bytes_sent() == 24 * MIB
        assert hub.count("resolve") <= 8, "refreshed once for all its parts"


def test_a_part_that_trickles_is_moved_and_its_blocks_kept(hub: Hub, cache_dir: Path) -> None:
    size = 32 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(Trickle(30_000).on("cdn", times=2))
    assert_whole(fetch(hub, cache_dir, part_bytes=4 * MIB, connections_max=4).snapshot, hub)
    assert hub.body_bytes_sent() <= size + 4 * MIB


# --- what can't be healed --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fatal:
    """A fault without end, and the error that it must become."""

    name: str
    error: type[FetcherError]
    rules: tuple[Rule, ...]
    says: str = ""
    """Regular expression for message or hint."""
    files: Callable[[], dict[str, Any]] = mixed_files


def fatal(name: str, error: type[FetcherError], *rules: Rule, **more: Any) -> Fatal:
    return Fatal(name, error, rules, **more)


FATAL = [
    fatal("cut-always", TransportError, CutAfter(0, "rst").on(), says="proven|closed|reset"),
    fatal("cut-at-always", TransportError, CutAt(3 * MIB + 9, "fin").on(path=WEIGHTS)),
    fatal("no-head-ever", TransportError, CutHead(0).on("*")),
    fatal("stall-always", TransportError, StallAfter(0).on(), says="no (new )?byte"),
    fatal("stall-api-always", TransportError, Delay(30).on("info")),
    fatal("503-api-always", TransportError, Status(503).on("api"), says="503"),
    fatal("503-cdn-always", TransportError, Status(503).on("cdn"), says="503"),
    fatal("429-api-always", RateLimitedError, Status(429).on("api")),
    fatal("429-for-an-hour", RateLimitedError, Status(429, 3600).on("api"), says="3600"),
    fatal("429-body-for-an-hour", RateLimitedError, Status(429, 3600).on("cdn"), says="3600"),
    fatal("403-cdn-always", DeniedError, Status(403).on("cdn"), says="signed"),
    fatal("expired-always", DeniedError, RedirectAlreadyExpired().on()),
    fatal("404-resolve", NotFoundError, Status(404).on("resolve")),
    fatal("404-info", NotFoundError, Status(404).on("info")),
    fatal("wrong-byte-always", IntegrityError, FlipByte(3).on(path=WEIGHTS), says="model.safetensors"),
    fatal("wrong-byte-always-inline", IntegrityError, FlipByte(3).on(path=NOTES), says="notes.txt"),
    fatal("wrong-byte-always-small", IntegrityError, FlipByte(3).on(path="config.json"), says="config.json"),
    fatal("wrong-byte-always-small-cdn", IntegrityError, FlipByte(3).on(path="small.bin"), says="small.bin"),
    fatal("shifted-lying-always", IntegrityError, ShiftRange(MIB, lying=True).on(path=WEIGHTS)),
    fatal("shifted-always", TransportError, ShiftRange(MIB).on(path=WEIGHTS)),
    fatal("short-always", TransportError, ShortBody(1).on()),
    fatal("gzip-always", TransportError, GzipBody().on()),
    fatal("changed-for-good", IntegrityError, ChangeContent().on(path=WEIGHTS, skip=2)),
    fatal(
        "changed-again-and-again",
        TransportError,
        ChangeContent(same_bytes=True).on(path=WEIGHTS, every=2),
        says="changed",
    ),
    fatal("redirect-circle", TransportError, RedirectTo("{self}").on(), says="redirect"),
    fatal("redirect-circle-api", TransportError, RedirectTo("{self}").on("info")),
    fatal("redirect-to-metadata", ForbiddenError, RedirectTo("http://169.254.169.254/latest/").on()),
    fatal("redirect-to-file", FetcherError, RedirectTo("file:///etc/passwd").on()),
    fatal("headers-without-end", TransportError, HeadersWithoutEnd().on()),
    fatal("headers-without-end-api", TransportError, HeadersWithoutEnd().on("info")),
    fatal("endless-same-pages", TransportError, EndlessLinks("same").on()),
    fatal("endless-fresh-pages", ForbiddenError, EndlessLinks("fresh").on()),
    *(
        fatal(f"garbage-{kind}-{place}", TransportError, JsonGarbage(kind).on(place))
        for kind in ("html", "truncated", "wrong-shape", "deep")
        for place in ("info", "tree")
    ),
]


@pytest.mark.parametrize("case", FATAL, ids=lambda case: case.name)
def test_fatal(hub: Hub, cache_dir: Path, case: Fatal) -> None:
    hub.add_repo(REPO, files=case.files())
    hub.faults.add(*case.rules)
    with pytest.raises(case.error) as caught:
        fetch(hub, cache_dir, no_progress_timeout_s=2.0, api_time_max_s=2.0, api_timeout_s=0.7, manifest_files_max=300)
    error = caught.value
    assert hub.faults.fired
    assert type(error) is case.error or case.error is FetcherError, f"{type(error).__name__}: {error}"
    assert type(error) is not FetcherError
    assert error.exit_code not in (0, 1)
    assert error.resource == f"hf://{REPO}@main"
    text = f"{error.message} {error.hint}"
    assert re.search(case.says, text), text
    assert "Signature=" not in text, "a signed URL is a secret"
    nothing_visible(cache_dir)
    assert_blobs_sound(cache_dir, [sha256 for _, sha256 in held_by(hub).values()])
    # And once the origin is well again, the same call succeeds.
    hub.faults.clear()
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
