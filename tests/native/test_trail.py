"""Digests that trail blocks which come in any order: of the whole, of parts, saved and gone on with."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator

import pytest

from fetcher import hashing
from fetcher.errors import InternalError
from fetcher.hashing.trail import PARTS_AHEAD, Run, Trail
from fetcher.model.digest import Digest
from tests.native.cores import paint
from tests.native.test_digests import composite_of

GRID = 1000
SIZE = 10 * GRID + 7
DATA = paint(SIZE)


@pytest.fixture
def fd() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.flush()
        yield file.fileno()


class Blocks:
    """Which pieces of GRID bytes are there."""

    def __init__(self) -> None:
        self.there: set[int] = set()

    def __call__(self, offset: int) -> bool:
        return offset < SIZE and offset // GRID in self.there

    def stop(self, run: Run) -> int:
        offset = run.position
        while self(offset) and offset < run.stop:
            offset = min((offset // GRID + 1) * GRID, SIZE, run.stop)
        return offset


def follow(trail: Trail, blocks: Blocks, fd: int, dice: random.Random) -> None:
    """Feed what can be fed, in pieces of any size."""
    while (run := trail.next_run(blocks)) is not None:
        assert blocks(run.position) and not run.busy
        length = dice.randint(1, blocks.stop(run) - run.position)
        assert run.feed(fd, length) == length
        trail.fed(run)


CLAIMS = [
    Digest("sha256", hashlib.sha256(DATA).hexdigest()),
    Digest("md5", hashlib.md5(DATA).hexdigest()),
    Digest("git-sha1", hashlib.sha1(b"blob %d\0" % SIZE + DATA).hexdigest()),
    *(
        Digest(algorithm, composite_of(algorithm, DATA, part_bytes), part_bytes)
        for algorithm in ("md5", "sha256", "sha1", "crc32", "crc32c")
        for part_bytes in (GRID, 2 * GRID, 700, 2500, SIZE, SIZE + 1, SIZE - 1)
    ),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_blocks_in_any_order(claim: Digest, order: str, fd: int) -> None:
    dice = random.Random(f"{claim.name} {order}")
    places = list(range(SIZE // GRID + 1))
    if order == "backward":
        places.reverse()
    elif order == "random":
        dice.shuffle(places)
    trail, blocks = Trail.like(claim, SIZE), Blocks()
    assert trail.name == claim.name
    for place in places:
        blocks.there.add(place)
        follow(trail, blocks, fd, dice)
        hole = next((place for place in range(11) if place not in blocks.there), None)
        at_least = SIZE if hole is None else hole * GRID
        assert trail.frontier == at_least, "all that is there without a hole is digested"
        assert trail.done == (hole is None)
    assert trail.hexdigest() == claim.hex


def test_parts_go_on_by_themselves(fd: int) -> None:
    """What is there of a later part is digested while an earlier one is missing; of the whole it can't be."""
    parts, whole, blocks = Trail("md5", SIZE, part_bytes=2 * GRID), Trail("md5", SIZE), Blocks()
    blocks.there = {2, 3, 6}
    follow(parts, blocks, fd, random.Random(1))
    assert parts.frontier == 0
    assert "1 of 6 runs" in repr(parts), "the second part is done"
    assert whole.next_run(blocks) is None
    blocks.there = {0, 1, 2, 3, 6}
    follow(parts, blocks, fd, random.Random(2))
    assert parts.frontier == 4 * GRID


def test_a_run_that_is_fed_is_given_to_nobody_else(fd: int) -> None:
    trail, blocks = Trail("md5", SIZE, part_bytes=2 * GRID), Blocks()
    blocks.there = {0, 1, 2, 3}
    first = trail.next_run(blocks)
    assert first is not None
    first.busy = True
    second = trail.next_run(blocks)
    assert second is not None and second is not first and second.position == 2 * GRID
    second.busy = True
    assert trail.next_run(blocks) is None
    first.busy = False
    assert trail.next_run(blocks) is first


def test_only_some_parts_ahead_are_looked_at() -> None:
    asked: list[int] = []

    def is_there(offset: int) -> bool:
        asked.append(offset)
        return False

    assert Trail("md5", 10_000_000, part_bytes=1000).next_run(is_there) is None
    assert asked == [1000 * part for part in range(PARTS_AHEAD)]


def test_unfinished_is_no_digest(fd: int) -> None:
    trail = Trail("md5", SIZE)
    with pytest.raises(InternalError, match="not at its end"):
        trail.hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_that_ends_early_or_can_not_be_read(fd: int, algorithm: str) -> None:
    trail = Trail(algorithm, 2 * SIZE)
    run = trail.next_run(lambda _: True)
    assert run is not None
    assert run.feed(fd, SIZE + 5) == SIZE
    assert run.position == SIZE
    closed = os.dup(fd)
    os.close(closed)
    with pytest.raises(OSError):
        run.feed(closed, 10)
    assert run.position == SIZE


def test_a_read_that_fails_on_the_way_loses_no_count(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken before the error was taken: fed again, it would be in the digest twice."""
    run = Trail("sha256", SIZE).next_run(lambda _: True)
    assert run is not None and run.sha256 is not None
    taken = run.sha256

    class Failing:
        def tell(self) -> int:
            return taken.tell()

        def update_file(self, fd: int, offset: int, length: int) -> int:
            taken.update_file(fd, offset, 100)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Run, "sha256", property(lambda self: Failing()))
    with pytest.raises(OSError):
        run.feed(fd, 1000)
    assert run.position == 100
    monkeypatch.undo()
    run.feed(fd, SIZE - 100)
    assert run.hasher.hexdigest() == hashlib.sha256(DATA).hexdigest()


def test_nothing_can_not_be_followed() -> None:
    with pytest.raises(InternalError, match="no bytes"):
        Trail("sha256", 0)


# --- midstates -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hashing.Sha256.can_export, reason="this build's SHA-256 can't save its state")
class TestMidstates:
    def test_gone_on_with_elsewhere(self, fd: int) -> None:
        trail = Trail("sha256", SIZE)
        assert trail.saves and trail.midstate() is None
        for position in (64, 100, 5000):
            run = trail.next_run(lambda _: True)
            assert run is not None
            run.feed(fd, position - run.position)
            trail.fed(run)
            midstate = trail.midstate()
            assert midstate is not None
            other = Trail("sha256", SIZE)
            other.resume(midstate)
            assert other.frontier == position
            rest = other.next_run(lambda _: True)
            assert rest is not None and rest.position == position
            rest.feed(fd, SIZE - position)
            other.fed(rest)
            assert other.hexdigest() == hashlib.sha256(DATA).hexdigest()
            assert other.midstate() is None, "after the end there is a digest"

    @pytest.mark.parametrize(("algorithm", "part_bytes"), [("md5", 0), ("git-sha1", 0), ("sha256", GRID)])
    def test_others_have_none(self, fd: int, algorithm: str, part_bytes: int) -> None:
        trail = Trail(algorithm, SIZE, part_bytes=part_bytes)
        run = trail.next_run(lambda _: True)
        assert run is not None
        run.feed(fd, 64)
        assert not trail.saves and trail.midstate() is None
        with pytest.raises(InternalError, match="can't go on"):
            Trail(algorithm, SIZE, part_bytes=part_bytes).resume(hashing.Sha256().export())

    def test_nothing_to_go_on_from(self, fd: int) -> None:
        begun, whole = Trail("sha256", SIZE), hashing.Sha256()
        run = begun.next_run(lambda _: True)
        assert run is not None
        run.feed(fd, 64)
        with pytest.raises(InternalError, match="can't go on"):
            begun.resume(hashing.Sha256().export())
        whole.update(bytes(SIZE))
        with pytest.raises(InternalError, match="can't go on"):
            Trail("sha256", SIZE).resume(whole.export())
