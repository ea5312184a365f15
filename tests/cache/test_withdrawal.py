"""What an origin has closed while somebody was still fetching it as everybody's: whatever he makes after that is given
to nobody, at no moment; and no index made anew opens what was closed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import steps
from fetcher.cache.records import Asked, SmallFile
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from fetcher.model.manifest import FileEntry
from tests.cache.actor import STEP_CONTENTS
from tests.cache.asking import blob_of, blob_of_content, blob_with
from tests.cache.world import (
    ENDPOINT,
    MIB,
    Clock,
    child,
    entry,
    head_of,
    key_of,
    new_snapshot,
    paint,
    publish,
    put,
    put_large,
    put_small,
    settings,
    sha256,
    tree_on_disk,
)

ALICE, BOB = "a" * 32, "b" * 32
LEFT = STEP_CONTENTS["big"]
BIG, SMALL = paint(2 * MIB + 17), b"small"
CONTENTS = {"big": BIG, "deep/small": SMALL}
Open = Callable[..., Cache]


def asked_of(cache: Cache, name: str, **more: Any) -> Asked:
    """The origin was asked for this Resource just now, and gave it to everybody."""
    return Asked(cache.proofs.now_s(), key_of(name), **more)


def rows_of(cache: Cache, asked: Asked | None) -> list[tuple[FileEntry, str | None, str]]:
    """The files of CONTENTS, as they came in answer to this."""
    found: list[tuple[FileEntry, str | None, str]] = []
    for path, data in CONTENTS.items():
        blob = put(cache, data, asked=asked)
        found.append((entry(path, data), blob.root if blob else None, "sha256"))
    return found


def is_given(cache: Cache, data: bytes, *, principal: str | None) -> bool:
    """Whether an asker is given these bytes, because he can name them by their digest or as a public content."""
    content = head_of(data).content_id
    return blob_of_content(cache, content, sha256(data), len(data), principal=principal) is not None


def lose_index(cache: Cache) -> None:
    cache.close()
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()


@pytest.fixture
def listening() -> Iterator[Callable[[Callable[[steps.Step], None]], None]]:
    yield steps.listen
    steps.listen(None)


# --- what comes in after its origin has closed it --------------------------------------------------------------------


@pytest.mark.parametrize("data", [BIG, SMALL], ids=["large", "small"])
def test_bytes_that_come_in_after_that_are_linked_for_nobody(cache: Cache, clock: Clock, data: bytes) -> None:
    before = asked_of(cache, "m")
    mine = put(cache, data, private=True, principal=ALICE)
    cache.withdraw(key_of("m"), ALICE)
    theirs = put(cache, data, asked=before)
    assert theirs == mine, "the same bytes, once on the disk"
    assert not is_given(cache, data, principal=None) and not is_given(cache, data, principal=BOB)
    assert blob_with(cache, sha256(data), len(data), principal=ALICE) == mine, "hers are hers"
    clock.turn(1.0)
    put(cache, data, asked=asked_of(cache, "m"))
    assert is_given(cache, data, principal=BOB), "what the origin gave to everybody later is everybody's"


@pytest.mark.parametrize("data", [BIG, SMALL], ids=["large", "small"])
def test_what_is_closed_is_of_one_place_alone(cache: Cache, data: bytes) -> None:
    before = asked_of(cache, "m")
    cache.withdraw(key_of("other"))
    put(cache, data, asked=before)
    assert is_given(cache, data, principal=None)


def test_a_repository_is_closed_with_all_its_revisions(cache: Cache) -> None:
    place = {"endpoint": ENDPOINT, "stem": "hf://acme/m@"}
    before = asked_of(cache, "one", **place)
    cache.withdraw(key_of("two"), **place)
    put(cache, BIG, asked=before)
    assert not is_given(cache, BIG, principal=None)


def test_of_one_batch_what_is_closed_and_what_is_not(cache: Cache) -> None:
    closed, still = asked_of(cache, "closed"), asked_of(cache, "open")
    cache.withdraw(key_of("closed"))
    answers = {b"one": closed, b"two": still, b"three": None, b"four": closed}
    items = [
        SmallFile(head_of(data).content_id, data, (sha256(data),), "sha256", asked=asked)
        for data, asked in answers.items()
    ]
    blobs = cache.commit_small(items, private=False, principal=None)
    assert [blob.path.read_bytes() for blob in blobs] == list(answers)
    assert {data for data in answers if is_given(cache, data, principal=BOB)} == {b"two", b"three"}


def test_bytes_that_something_public_has_stay_everybodys(cache: Cache) -> None:
    before = asked_of(cache, "m")
    publish(cache, "twin", CONTENTS)
    cache.withdraw(key_of("m"))
    rows_of(cache, before)
    assert is_given(cache, BIG, principal=BOB) and is_given(cache, SMALL, principal=BOB)


# --- what becomes visible after its origin has closed it -------------------------------------------------------------


@pytest.mark.parametrize("closed", ["before", "between", "while it is written"])
def test_a_snapshot_is_withdrawn_as_it_appears(
    cache: Cache, open_cache: Open, listening: Callable[[Callable[[steps.Step], None]], None], closed: str
) -> None:
    """``before`` its first byte came, ``between`` its bytes and its name: at no moment others get it."""
    before, public = asked_of(cache, "m"), list[Any]()
    if closed == "before":
        cache.withdraw(key_of("m"), ALICE)
    files = rows_of(cache, before)
    if closed == "between":
        cache.withdraw(key_of("m"), ALICE)

    def look(step: steps.Step) -> None:
        if step == "snapshot:sidecar-durable" and closed == "while it is written" and not public:
            public.append(cache.withdraw(key_of("m"), ALICE))
        elif step == "snapshot:rows":
            public.append(cache.lookup(key_of("m"), BOB))

    listening(look)
    snapshot = cache.publish(new_snapshot("m", CONTENTS, cache._clock()), files, asked=before)
    assert snapshot.withdrawn and tree_on_disk(snapshot.path) == CONTENTS, "his who was let in before"
    assert not any(public) and cache.lookup(key_of("m"), None) is None
    assert cache.lease_timed([snapshot.id], 60.0).snapshot_ids == (snapshot.id,)
    assert not any(is_given(cache, data, principal=asker) for data in CONTENTS.values() for asker in (None, BOB))
    assert json.loads(cache.layout.sidecar(snapshot.id).read_text())["withdrawn"] is True
    lose_index(cache)
    again = open_cache()
    found = again.get_snapshot(snapshot.id)
    assert again.recovery.adopted == (snapshot.id,) and found is not None and found.withdrawn
    assert again.lookup(key_of("m"), None) is None and not is_given(again, BIG, principal=None)


def test_an_answer_that_is_older_confirms_nothing(cache: Cache, clock: Clock) -> None:
    """It was opened again, and somebody has it since: he who asked before it was closed uses that one as it is."""
    before = asked_of(cache, "m")
    files = rows_of(cache, before)
    clock.turn(1.0)
    cache.withdraw(key_of("m"))
    clock.turn(1.0)
    rows_of(cache, asked_of(cache, "m"))
    second = cache.publish(new_snapshot("m", CONTENTS, cache._clock()), files, asked=asked_of(cache, "m"))
    clock.turn(60.0)
    found = cache.publish(new_snapshot("m", CONTENTS, cache._clock()), files, asked=before)
    assert found == second and not second.withdrawn
    assert cache.lookup(key_of("m"), None) == second


# --- an index made anew ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["of a snapshot", "of a download", "by who ended after it"])
def test_an_index_made_anew_opens_nothing_that_was_closed(cache: Cache, open_cache: Open, left: str) -> None:
    """Its Snapshot is gone, or there never was one: what says whose the bytes are is their tree."""
    before = asked_of(cache, "m")
    if left == "of a snapshot":
        public = publish(cache, "m", {"big": BIG})
        cache.withdraw(key_of("m"), ALICE)
        cache.layout.sidecar(public.id).unlink()
    elif left == "of a download":
        put_large(cache, BIG)
        cache.withdraw(key_of("m"), ALICE)
        cache.close_digests([sha256(BIG).hex], ALICE)
    else:
        cache.withdraw(key_of("m"), ALICE)
        put_large(cache, BIG, asked=before)
    (tree,) = cache.layout.blobs.glob("??/*.tree")
    said = TreeFile.decode(tree.read_bytes())
    assert (said.scope, said.content_id) == (None, None)
    assert said.digests == (sha256(BIG),) and tree.stat().st_mode & 0o777 == 0o444
    lose_index(cache)
    again = open_cache()
    assert again.recovery.blobs == 0
    assert not is_given(again, BIG, principal=None) and blob_of(again, said.root) is None


@pytest.mark.needs("native")
@pytest.mark.parametrize("how", ["withdraw", "close_digests"])
def test_a_tree_says_everybody_as_long_as_something_public_shows_it(cache: Cache, open_cache: Open, how: str) -> None:
    twin = publish(cache, "twin", {"big": BIG})
    if how == "withdraw":
        public = publish(cache, "m", {"big": BIG})
        cache.withdraw(key_of("m"), ALICE)
        cache.layout.sidecar(public.id).unlink()
    else:
        cache.close_digests([sha256(BIG).hex], ALICE)
    cache.layout.sidecar(twin.id).unlink()
    lose_index(cache)
    assert is_given(open_cache(), BIG, principal=None)


@pytest.mark.needs("native")
@pytest.mark.parametrize("closed", [False, True])
def test_a_body_without_a_row_is_not_opened_where_something_was_closed(
    cache: Cache, clock: Clock, closed: bool
) -> None:
    """Its process was killed before there were rows: nothing tells whether it was of what is closed."""
    blob = put_large(cache, BIG)
    hers = put_large(cache, paint(MIB + 1), private=True, principal=ALICE)
    if closed:
        cache.withdraw(key_of("m"), ALICE)
    with cache.index.write(durable=True) as rows:
        rows.execute("DELETE FROM blobs")
    cache.gc()
    assert is_given(cache, BIG, principal=None) == (not closed)
    assert blob_with(cache, sha256(paint(MIB + 1)), MIB + 1, principal=ALICE) == hers
    clock.turn(cache.settings.gc_grace_s + 60)
    cache.gc()
    assert not closed or not blob.path.exists(), "swept, like all that nothing speaks of"


@pytest.mark.needs("native")
@pytest.mark.parametrize("closed", [False, True])
def test_an_index_made_anew_from_an_old_one_knows_what_was_closed(cache: Cache, open_cache: Open, closed: bool) -> None:
    """Before it adopts a body without a row; and after, for whoever was let in before that."""
    before = asked_of(cache, "m")
    put_large(cache, BIG)
    hers = put_large(cache, paint(MIB + 1), private=True, principal=ALICE)
    if closed:
        cache.withdraw(key_of("m"), ALICE)
    with cache.index.write(durable=True) as rows:
        rows.execute("DELETE FROM blobs")
    cache.close()
    old = sqlite3.connect(cache.layout.index)
    old.execute("PRAGMA user_version = 1")
    old.close()
    again = open_cache()
    assert again.recovery.outdated and again.recovery.blobs == 1 + (not closed)
    assert is_given(again, BIG, principal=BOB) == (not closed)
    assert blob_with(again, sha256(paint(MIB + 1)), MIB + 1, principal=ALICE) == hers
    again.gc()
    assert is_given(again, BIG, principal=BOB) == (not closed)
    put_small(again, SMALL, asked=before)
    assert is_given(again, SMALL, principal=BOB) == (not closed)


# --- a tree that was there before ------------------------------------------------------------------------------------


@pytest.mark.needs("native")
@pytest.mark.parametrize("public_ends", ["blob:tree-named", "blob:named"])
@pytest.mark.parametrize("hers_ends", ["blob:names-durable", None])
def test_what_a_public_download_left_says_nothing_of_a_private_one(
    place: Path,
    listening: Callable[[Callable[[steps.Step], None]], None],
    public_ends: str,
    hers_ends: str | None,
) -> None:
    """It was killed before it had rows; she whom the origin lets have it now brings the same bytes."""
    with child("crash-at", place, public_ends) as process:
        assert process.wait() == 9

    def look(step: steps.Step) -> None:
        if step == hers_ends:
            raise ZeroDivisionError

    with Cache.open(settings(place)) as cache:
        (tree,) = cache.layout.blobs.glob("??/*.tree")
        assert TreeFile.decode(tree.read_bytes()).scope == ""
        listening(look)
        with pytest.raises(ZeroDivisionError) if hers_ends else nullcontext():
            put_large(cache, LEFT, private=True, principal=ALICE)
        said = TreeFile.decode(tree.read_bytes())
        assert (said.scope, said.content_id) == (ALICE, head_of(LEFT, private=True, principal=ALICE).content_id)
        assert said.digests == (sha256(LEFT),) and tree.stat().st_mode & 0o777 == 0o444
        lose_index(cache)
    with Cache.open(settings(place)) as again:
        assert again.recovery.blobs == 1
        assert not is_given(again, LEFT, principal=None) and not is_given(again, LEFT, principal=BOB)
        assert blob_with(again, sha256(LEFT), len(LEFT), principal=ALICE) is not None


@pytest.mark.needs("native")
def test_a_tree_goes_on_saying_everybody_of_what_is_everybodys(cache: Cache, open_cache: Open) -> None:
    put_large(cache, BIG)
    put_large(cache, BIG, private=True, principal=ALICE)
    lose_index(cache)
    assert is_given(open_cache(), BIG, principal=BOB)
