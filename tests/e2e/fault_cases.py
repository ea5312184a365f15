"""The list of faults, once for all origins: what a client of this quality survives, and what it must say when it can't.

Each case is made for a world: its places, and its names of files. A case that a world can't show is left out there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fetcher import (
    DeniedError,
    FetcherError,
    ForbiddenError,
    IntegrityError,
    NotFoundError,
    RateLimitedError,
    TransportError,
)
from fetcher.testing import Exchange, Rule
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
from tests.e2e.support import MIB, REPO
from tests.e2e.worlds import LARGE, MIDDLE, MODEL, SMALL, TEXT, Place, World, WorldKind

CONNECTIONS = 16

Rules = Callable[[World], tuple[Rule, ...]]

ALL: tuple[WorldKind, ...] = ("hub", "s3", "registry")
SIGNED: tuple[WorldKind, ...] = ("hub", "registry")
"""Whose bodies are behind signed URLs."""


@dataclass(frozen=True)
class Healed:
    """A fault that costs time and perhaps some bytes."""

    name: str
    rules: Rules
    again_bytes: int = CONNECTIONS * MIB
    """How many bytes may be sent a second time."""
    single: bool = False
    """Not for pairs: it counts requests, or it is slow."""
    silent: bool = False
    """Only a client that waits for nothing long gets over it soon."""
    worlds: tuple[WorldKind, ...] = ALL
    never_fires: frozenset[WorldKind] = frozenset()
    """Where we never send what it is for, which is the point."""


def cuts() -> list[Healed]:
    """Connections that end at any byte, by RST and by FIN."""
    dice = random.Random(SEED)
    offsets = [0, 1, MIB - 1, MIB, MIB + 1, *(dice.randrange(5 * MIB) for _ in range(3))]

    def cut(offset: int, how: str) -> Rules:
        return lambda world: (CutAt(offset, how).on(path=world.name(LARGE), times=2),)  # type: ignore[arg-type]

    return [Healed(f"cut-at-{offset}-{how}", cut(offset, how)) for how in ("rst", "fin") for offset in offsets]


def something_moves(exchange: Exchange) -> None:
    """A new state beside what was pinned: a branch or a tag moves on, an object is added."""
    origin = exchange.origin
    if type(origin).__name__ == "Hub":
        origin.commit(REPO, {TEXT: "{}", "late.txt": "not of this commit"})
    elif type(origin).__name__ == "Registry":
        old = origin.repository(MODEL)["latest"]
        document = {**old.document, "layers": old.document["layers"][:1]}
        origin.repository(MODEL).put_manifest(type(old).make(document, old.media_type), "latest")


HEALED = [
    *cuts(),
    Healed("cut-after-head", lambda w: (CutAfter(0, "fin").on(times=4),)),
    Healed("cut-in-the-head", lambda w: (CutHead(20, "rst").on(times=4),)),
    Healed("cut-before-the-head", lambda w: (CutHead(0, "rst").on(times=4), CutHead(0, "fin").on(times=2))),
    Healed(
        "cut-api",
        lambda w: (
            w.places.first.hit(CutHead(0, "rst"), times=1),
            w.places.second.hit(CutHead(30, "fin"), times=1),
        ),
    ),
    Healed("hang-up", lambda w: (HangUp().on("*"),)),
    Healed("stall-before-body", lambda w: (w.places.body.hit(StallAfter(0), times=2),), silent=True),
    Healed("stall-in-body", lambda w: (StallAfter(100_000).on(times=2),), silent=True),
    Healed("short-stall", lambda w: (StallAfter(1000, 0.2).on(every=3),)),
    Healed("stall-api", lambda w: (w.places.first.hit(Delay(30), times=1),), single=True, silent=True),
    Healed("trickle", lambda w: (w.places.body.hit(Trickle(20_000), path=w.name(LARGE), times=1),), silent=True),
    Healed("429-api", lambda w: (w.places.api.hit(Status(429, 1), times=1),)),
    Healed("429-resolve", lambda w: (Status(429, 1).on("resolve", "resolve-cache", times=2),), worlds=("hub",)),
    Healed("429-body-retry-after", lambda w: (w.places.own.hit(Status(429, 1), times=2),)),
    Healed("429-body", lambda w: (w.places.body.hit(Status(429), times=3),)),
    Healed("503-api", lambda w: (w.places.api.hit(Status(503), times=3),)),
    Healed("503-questions", lambda w: (w.places.second.hit(Status(503), times=3),)),
    Healed("503-door", lambda w: (_door(w).hit(Status(503), times=3),), worlds=SIGNED),
    Healed("503-body", lambda w: (w.places.body.hit(Status(503), times=4),)),
    Healed("503-inline", lambda w: (w.places.own.hit(Status(503), times=4),)),
    Healed("500-body", lambda w: (w.places.body.hit(Status(500), times=2),)),
    Healed(
        "502-504",
        lambda w: (w.places.body.hit(Status(502), times=1), (w.places.door or w.places.own).hit(Status(504), times=1)),
    ),
    Healed("one-body-at-once", lambda w: (w.places.body.hit(MaxConcurrentBodies(1)),), single=True),
    Healed("two-bodies-at-once", lambda w: (w.places.body.hit(MaxConcurrentBodies(2)),), single=True),
    Healed("wrong-byte-once", lambda w: (FlipByte(2 * MIB + 5).on(path=w.name(LARGE), times=1),), again_bytes=6 * MIB),
    Healed("wrong-byte-once-inline", lambda w: (FlipByte(MIB).on(path=w.name(MIDDLE), times=1),), again_bytes=3 * MIB),
    Healed("wrong-byte-once-small", lambda w: (FlipByte(7).on(path=w.name(TEXT), times=1),), again_bytes=MIB),
    Healed("range-ignored-once", lambda w: (w.places.body.hit(IgnoreRange(), path=w.name(LARGE), times=1),)),
    Healed("range-ignored", lambda w: (w.places.body.hit(IgnoreRange(), path=w.name(LARGE)),), single=True),
    Healed("range-shifted", lambda w: (ShiftRange(MIB).on(times=2),)),
    Healed("range-shifted-back", lambda w: (ShiftRange(-5).on(times=2),)),
    Healed("range-shifted-lying", lambda w: (ShiftRange(MIB, lying=True).on(path=w.name(LARGE), times=1),)),
    Healed("short-body", lambda w: (ShortBody(1).on(times=2),)),
    Healed("short-body-small", lambda w: (ShortBody(1).on(path=w.name(SMALL), times=1),)),
    Healed("url-for-three-uses", lambda w: (UrlUses(3).on(),), single=True, worlds=SIGNED),
    Healed("url-for-one-use", lambda w: (UrlUses(1).on(),), single=True, worlds=SIGNED),
    Healed("expired-redirect", lambda w: (_door(w).hit(RedirectAlreadyExpired(), times=2),), worlds=SIGNED),
    Healed("refused-url", lambda w: (w.places.body.hit(Status(403), times=2),), worlds=SIGNED),
    Healed("gzip-although-refused", lambda w: (GzipBody().on(times=2),)),
    Healed("changed-content", lambda w: (ChangeContent().on(path=w.name(LARGE), nth=3),), again_bytes=8 * MIB),
    Healed(
        "changed-etag", lambda w: (ChangeContent(same_bytes=True).on(path=w.name(LARGE), nth=3),), again_bytes=8 * MIB
    ),
    Healed(
        "changed-content-same-etag",
        lambda w: (ChangeContent(same_etag=True).on(path=w.name(LARGE), nth=3),),
        again_bytes=8 * MIB,
    ),
    Healed("head-refused", lambda w: (RefuseHead().on(method="HEAD"),), never_fires=frozenset({"hub", "registry"})),
    Healed("delay", lambda w: (Delay(0.1).on("bodies"),)),
    Healed("state-moves-on", lambda w: (OnRequest(something_moves).on("bodies", nth=1),), worlds=SIGNED),
    Healed("quota-nearly-gone", lambda w: (AnnounceQuota(1, 1).on("api", times=1),), worlds=("hub",)),
    Healed("quota-gone", lambda w: (AnnounceQuota(0, 1).on("resolve", times=1),), single=True, worlds=("hub",)),
]


@dataclass(frozen=True)
class Fatal:
    """A fault without end, and the error that it must become."""

    name: str
    error: type[FetcherError]
    rules: Rules
    says: str = ""
    """Regular expression for message or hint."""
    worlds: tuple[WorldKind, ...] = ALL
    elsewhere: Mapping[WorldKind, type[FetcherError]] = field(default_factory=dict)
    """The error in worlds where it is another one."""

    def error_in(self, kind: WorldKind) -> type[FetcherError]:
        return self.elsewhere.get(kind, self.error)


FATAL = [
    Fatal("cut-always", TransportError, lambda w: (CutAfter(0, "rst").on(),), says="proven|closed|reset"),
    Fatal("cut-at-always", TransportError, lambda w: (CutAt(3 * MIB + 9, "fin").on(path=w.name(LARGE)),)),
    Fatal("no-head-ever", TransportError, lambda w: (CutHead(0).on("*"),)),
    Fatal("stall-always", TransportError, lambda w: (StallAfter(0).on(),), says="no (new )?byte"),
    Fatal("stall-api-always", TransportError, lambda w: (w.places.first.hit(Delay(30)),)),
    Fatal("503-api-always", TransportError, lambda w: (w.places.api.hit(Status(503)),), says="503"),
    Fatal("503-body-always", TransportError, lambda w: (w.places.body.hit(Status(503)),), says="503"),
    Fatal("429-api-always", RateLimitedError, lambda w: (w.places.api.hit(Status(429)),)),
    Fatal("429-for-an-hour", RateLimitedError, lambda w: (w.places.api.hit(Status(429, 3600)),), says="3600"),
    Fatal("429-body-for-an-hour", RateLimitedError, lambda w: (w.places.body.hit(Status(429, 3600)),), says="3600"),
    Fatal("403-body-always", DeniedError, lambda w: (w.places.body.hit(Status(403)),), says="signed", worlds=("hub",)),
    Fatal(
        "403-body-always-unexplained",
        DeniedError,
        lambda w: (w.places.body.hit(Status(403)),),
        worlds=("s3", "registry"),
    ),
    Fatal("expired-always", DeniedError, lambda w: (_door(w).hit(RedirectAlreadyExpired()),), worlds=SIGNED),
    Fatal("404-door", NotFoundError, lambda w: ((w.places.door or w.places.body).hit(Status(404)),)),
    Fatal("404-api", NotFoundError, lambda w: (w.places.first.hit(Status(404)),), worlds=SIGNED),
    Fatal(
        "wrong-byte-always",
        IntegrityError,
        lambda w: (FlipByte(3).on(path=w.name(LARGE)),),
        says="model.safetensors|blobs/sha256-",
    ),
    Fatal("wrong-byte-always-inline", IntegrityError, lambda w: (FlipByte(3).on(path=w.name(MIDDLE)),)),
    Fatal("wrong-byte-always-small", IntegrityError, lambda w: (FlipByte(3).on(path=w.name(TEXT)),)),
    Fatal("wrong-byte-always-small-cdn", IntegrityError, lambda w: (FlipByte(3).on(path=w.name(SMALL)),)),
    Fatal("shifted-lying-always", IntegrityError, lambda w: (ShiftRange(MIB, lying=True).on(path=w.name(LARGE)),)),
    Fatal("shifted-always", TransportError, lambda w: (ShiftRange(MIB).on(path=w.name(LARGE)),)),
    Fatal("short-always", TransportError, lambda w: (ShortBody(1).on(),)),
    Fatal("gzip-always", TransportError, lambda w: (GzipBody().on(),)),
    Fatal(
        "changed-for-good",
        IntegrityError,
        lambda w: (ChangeContent().on(path=w.name(LARGE), skip=2),),
        elsewhere={"s3": TransportError},
    ),
    Fatal(
        "changed-again-and-again",
        TransportError,
        lambda w: (ChangeContent(same_bytes=True).on(path=w.name(LARGE), every=2),),
        says="changed",
    ),
    Fatal(
        "redirect-circle",
        TransportError,
        lambda w: ((w.places.door or w.places.body).hit(RedirectTo("{self}")),),
        says="redirect",
    ),
    Fatal("redirect-circle-api", TransportError, lambda w: (w.places.first.hit(RedirectTo("{self}")),)),
    Fatal(
        "redirect-to-metadata",
        ForbiddenError,
        lambda w: ((w.places.door or w.places.body).hit(RedirectTo("http://169.254.169.254/latest/")),),
    ),
    Fatal(
        "redirect-to-file",
        FetcherError,
        lambda w: ((w.places.door or w.places.body).hit(RedirectTo("file:///etc/passwd")),),
    ),
    Fatal("headers-without-end", TransportError, lambda w: (HeadersWithoutEnd().on(),)),
    Fatal("headers-without-end-api", TransportError, lambda w: (w.places.first.hit(HeadersWithoutEnd()),)),
    Fatal("endless-same-pages", TransportError, lambda w: (EndlessLinks("same").on(),), worlds=("hub",)),
    Fatal("endless-fresh-pages", ForbiddenError, lambda w: (EndlessLinks("fresh").on(),), worlds=("hub",)),
]


def _garbage(kind: str, place: str) -> Rules:
    return lambda w: (JsonGarbage(kind).on(place),)  # type: ignore[arg-type]


FATAL += [
    Fatal(f"garbage-{kind}-{place}", TransportError, _garbage(kind, place), worlds=("hub",))
    for kind in ("html", "truncated", "wrong-shape", "deep")
    for place in ("info", "tree")
]


def _door(world: World) -> Place:
    assert world.places.door is not None
    return world.places.door


def healed_in(*kinds: WorldKind) -> list[tuple[WorldKind, Healed]]:
    return [(kind, case) for kind in kinds for case in HEALED if kind in case.worlds]


def fatal_in(*kinds: WorldKind) -> list[tuple[WorldKind, Fatal]]:
    return [(kind, case) for kind in kinds for case in FATAL if kind in case.worlds]


def pairs_in(kind: WorldKind, count: int) -> list[tuple[WorldKind, Healed, Healed]]:
    """Two faults at once, drawn with the run's seed."""
    dice = random.Random(f"{SEED} {kind}")
    cheap = [case for _, case in healed_in(kind) if not case.single]
    return [(kind, *dice.sample(cheap, 2)) for _ in range(count)]  # type: ignore[misc]
