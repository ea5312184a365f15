"""A refresh that fails harms nothing: whatever the origin does when it is asked again, the good Snapshot stays whole,
is served offline, can be leased, and the error says what happened.

For each kind of origin, when nothing has changed there and when it has moved on.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fetcher import (
    DeniedError,
    Fetcher,
    FetcherError,
    IntegrityError,
    NotFoundError,
    OfflineError,
    RateLimitedError,
    Snapshot,
    TransportError,
)
from fetcher.cache.store import Cache
from fetcher.config import load
from fetcher.testing import Hub, Rule, Synthetic, hub_in_thread, s3_in_thread
from fetcher.testing.contents import BytesContent
from fetcher.testing.faults import CutHead, FlipByte, OnRequest, Status
from fetcher.testing.hub.hostility import EndlessLinks, JsonGarbage
from fetcher.testing.messages import Reply
from fetcher.testing.s3.hostility import ListGarbage, RepeatedToken, S3Error
from tests.e2e.support import MIB, REPO, fetcher_of, tree_of
from tests.e2e.worlds import LARGE, MODEL, World, WorldKind, world_of

PAGED: Mapping[WorldKind, Mapping[str, Any]] = {"hub": {"page_entries": 2}, "s3": {"page_keys": 2}, "registry": {}}
"""So that listings have several pages."""
HASTY: Mapping[str, Any] = {
    "api_time_max_s": 1.2,
    "api_timeout_s": 2.0,
    "api_tries_max": 3,
    "fresh_for_s": 0.0,
    "no_progress_timeout_s": 2.0,
}
"""Given up soon."""


def move_on(world: World) -> None:
    """A new state, with a new large file."""
    if world.kind == "hub":
        world.origin.commit(REPO, {LARGE: Synthetic(4 * MIB + 9, 99), "late.txt": "late"})
    elif world.kind == "s3":
        world.bucket.put(LARGE, Synthetic(4 * MIB + 9, 99))  # type: ignore[attr-defined]
        world.bucket.put("late.txt", b"late")  # type: ignore[attr-defined]
    else:
        world.origin.add_model(MODEL, layers=[("model", Synthetic(4 * MIB + 9, 99))])


def no_json(exchange: object) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, BytesContent(b"<html>please sign in</html>"))


def gone(world: World) -> None:
    if world.kind == "hub":
        world.origin.repo(REPO).private = True  # to a stranger it looks the same
    elif world.kind == "s3":
        for key in list(world.bucket.objects):  # type: ignore[attr-defined]
            world.bucket.delete(key)  # type: ignore[attr-defined]
    else:
        world.origin.remove(MODEL)


@dataclass(frozen=True)
class Failure:
    """What goes wrong when the origin is asked again."""

    error: type[FetcherError]
    rules: Callable[[World], tuple[Rule, ...]] = lambda world: ()
    change: Callable[[World], None] = lambda world: None
    """Instead, or besides: what became of the origin."""
    worlds: tuple[WorldKind, ...] = ("hub", "s3", "registry")
    moved_only: bool = False
    """An origin that has not moved is not asked for that."""


def second_page(world: World, fault: Any) -> tuple[Rule, ...]:
    """The first page of the listing comes, the others meet ``fault``."""
    return (fault.on("tree" if world.kind == "hub" else "list", skip=1),)


FAILURES: Mapping[str, Failure] = {
    "down": Failure(TransportError, lambda w: (CutHead(0, "rst").on("*"),)),
    "overloaded": Failure(TransportError, lambda w: (w.places.api.hit(Status(503)),)),
    "limited": Failure(RateLimitedError, lambda w: (w.places.api.hit(Status(429, 3600)),)),
    "refused": Failure(DeniedError, lambda w: (w.places.api.hit(Status(403)),)),
    "gone": Failure(NotFoundError, change=gone),
    "no-json": Failure(TransportError, lambda w: (OnRequest(no_json).on("api"),), worlds=("hub", "registry")),
    "cut-json": Failure(TransportError, lambda w: (JsonGarbage("truncated").on("api"),), worlds=("hub",)),
    "wrong-json": Failure(TransportError, lambda w: (JsonGarbage("wrong-shape").on("info"),), worlds=("hub",)),
    "cut-xml": Failure(TransportError, lambda w: (ListGarbage("truncated").on(),), worlds=("s3",)),
    "error-for-a-list": Failure(TransportError, lambda w: (ListGarbage("error").on(),), worlds=("s3",)),
    "answer-cut": Failure(TransportError, lambda w: (w.places.api.hit(CutHead(20, "fin")),)),
    "second-page-down": Failure(
        TransportError, lambda w: second_page(w, Status(503)), worlds=("hub", "s3"), moved_only=True
    ),
    "second-page-cut": Failure(
        TransportError, lambda w: second_page(w, CutHead(40, "rst")), worlds=("hub", "s3"), moved_only=True
    ),
    "second-page-missing": Failure(
        NotFoundError,
        lambda w: second_page(w, Status(404) if w.kind == "hub" else S3Error("NoSuchBucket")),
        worlds=("hub", "s3"),
        moved_only=True,
    ),
    "second-page-no-json": Failure(
        TransportError, lambda w: second_page(w, JsonGarbage("html")), worlds=("hub",), moved_only=True
    ),
    "second-page-cut-xml": Failure(
        TransportError, lambda w: second_page(w, ListGarbage("truncated")), worlds=("s3",), moved_only=True
    ),
    "pages-in-a-circle": Failure(
        TransportError,
        lambda w: (EndlessLinks("same").on() if w.kind == "hub" else RepeatedToken().on(),),
        worlds=("hub", "s3"),
        moved_only=True,
    ),
    "bodies-down": Failure(TransportError, lambda w: (w.places.body.hit(Status(503)),), moved_only=True),
    "wrong-bytes": Failure(IntegrityError, lambda w: (FlipByte(MIB).on("bodies"),), moved_only=True),
}
CASES = [
    pytest.param(kind, failure, moved, id=f"{kind}-{name}-{'moved' if moved else 'same'}")
    for name, failure in FAILURES.items()
    for kind in failure.worlds
    for moved in ((True,) if failure.moved_only else (False, True))
]


@dataclass
class Good:
    """A good Snapshot, and how its owner comes by it."""

    snapshot: Snapshot
    open: Callable[..., Fetcher]
    item: Any
    asker: Any = "job"
    tree: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tree = tree_of(self.snapshot.path)

    def refresh(self, **more: Any) -> Snapshot:
        async def main() -> Snapshot:
            async with self.open(**HASTY, **more) as client:
                return (await client.fetch(self.item, self.asker)).snapshot

        return asyncio.run(main())

    def assert_unharmed(self) -> None:
        """There, whole, served offline, and good for a lease that holds it."""

        async def main() -> None:
            async with self.open(offline=True) as client:
                outcome = await client.fetch(self.item, self.asker)
                assert outcome.hit
                assert outcome.snapshot.id == self.snapshot.id
                async with client.lease(self.item, self.asker) as lease:
                    assert lease.path == self.snapshot.path
                    client.prune(max_bytes=0)
                    assert tree_of(lease.path) == self.tree

        asyncio.run(main())


@pytest.mark.parametrize(("kind", "failure", "moved"), CASES)
def test_the_good_snapshot_stays(kind: WorldKind, failure: Failure, moved: bool, cache_dir: Path) -> None:
    with world_of(kind, **PAGED[kind]) as world:

        def make(**more: Any) -> Fetcher:
            return Fetcher(environ={}, **world.options(cache_dir, **more))

        good = Good(world.fetch(cache_dir, fresh_for_s=0.0).snapshot, make, world.uri)
        if moved:
            move_on(world)
        rules = failure.rules(world)
        world.origin.faults.add(*rules)
        failure.change(world)
        for more in ({}, {"refresh": True}):
            with pytest.raises(failure.error) as caught:
                good.refresh(**more)
            assert caught.value.resource == world.uri
            assert caught.value.message
            good.assert_unharmed()
        assert all(world.origin.faults.fired[rule.name] for rule in rules), "what was to go wrong did"
        with Cache.open(load(arguments={"cache_dir": str(cache_dir)}, environ={})) as cache:
            assert [found.id for found in cache.snapshots()] == [good.snapshot.id], "nothing half is beside it"
        if failure.change.__name__ != "gone":
            world.origin.faults.clear()
            again = good.refresh()
            assert (again.id != good.snapshot.id) is moved
            if not moved:
                good.assert_unharmed()


def assert_denied_and_unharmed(good: Good, errors: tuple[type[FetcherError], ...]) -> None:
    for more in ({}, {"refresh": True}):
        with pytest.raises(errors):
            good.refresh(**more)
        good.assert_unharmed()


def assert_denied_and_kept(good: Good, errors: tuple[type[FetcherError], ...]) -> None:
    good.assert_unharmed()
    for more in ({}, {"refresh": True}):
        with pytest.raises(errors):
            good.refresh(**more)
        with pytest.raises(OfflineError):
            good.refresh(offline=True)
        assert tree_of(good.snapshot.path) == good.tree


def test_a_token_that_is_no_longer_good(cache_dir: Path) -> None:
    """Of a private repository: who had access and has it no more gets the origin's answer, offline nothing, and what he
    had is kept for the day that the token works again."""
    with hub_in_thread(tokens={"hf_good": "alice"}) as hub:
        hub.add_repo(REPO, files={"f.bin": Synthetic(2 * MIB, 1)}, private=True)
        item = {"type": "HF", "repo": REPO, "accessToken": "hf_good"}
        good = good_of(hub, cache_dir, item)
        token = hub.tokens.pop("hf_good")
        assert_denied_and_kept(good, (DeniedError, NotFoundError))
        hub.tokens["hf_good"] = token
        sent = hub.body_bytes_sent()
        assert good.refresh().id == good.snapshot.id
        assert hub.body_bytes_sent() == sent


def test_a_wrong_token_of_the_operators(hub: Hub, cache_dir: Path) -> None:
    """Of a public repository: the hub refuses a token that it does not know, for whatever it is shown."""
    hub.add_repo(REPO, files={"f.bin": Synthetic(2 * MIB, 1)})
    good = good_of(hub, cache_dir, f"hf://{REPO}", asker="operator", environ={"HF_TOKEN": "hf_unknown"})
    assert_denied_and_unharmed(good, (DeniedError,))


def test_a_key_that_is_no_longer_good(cache_dir: Path) -> None:
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_in_thread(keys={"AKIAGOOD": "secret"}))
        s3.add_bucket("models", {"f.bin": Synthetic(2 * MIB, 1)}, readers=["AKIAGOOD"])
        iam = {"REGION": "us-east-1", "ACCESS_KEY_ID": "AKIAGOOD", "SECRET_ACCESS_KEY": "secret"}
        item = {"type": "S3", "url": f"{s3.endpoint}/models/", "IAM": iam}
        good = good_of(s3, cache_dir, item)
        key = s3.keys.pop("AKIAGOOD")
        assert_denied_and_kept(good, (DeniedError,))
        s3.keys["AKIAGOOD"] = key
        assert good.refresh().id == good.snapshot.id


def good_of(
    origin: Any, cache_dir: Path, item: Any, *, asker: Any = "job", environ: Mapping[str, str] | None = None
) -> Good:
    def make(**more: Any) -> Fetcher:
        return fetcher_of(origin, cache_dir, environ=environ, **more)

    async def first() -> Snapshot:
        async with fetcher_of(origin, cache_dir, fresh_for_s=0.0) as client:
            return (await client.fetch(item, "job")).snapshot

    return Good(asyncio.run(first()), make, item, asker)


@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_the_judge_sees_a_snapshot_that_was_harmed(hub: Hub, cache_dir: Path, harm: str) -> None:
    hub.add_repo(REPO, files={"f.bin": Synthetic(2 * MIB, 1)})
    good = good_of(hub, cache_dir, f"hf://{REPO}")
    good.assert_unharmed()
    body = good.snapshot.path / "f.bin"
    if harm == "removed":
        shutil.rmtree(good.snapshot.path)
    else:
        body.chmod(0o644)
        body.write_bytes(bytes(2 * MIB))
    with pytest.raises((AssertionError, OfflineError)):
        good.assert_unharmed()
