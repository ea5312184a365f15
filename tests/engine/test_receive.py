"""From a body's pieces to blocks on the disk: in any pieces, to any end, and never with a call left under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator

import pytest

from fetcher.engine.buffers import Slab, SlabPool
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.receive import receive_part, receive_small
from fetcher.engine.workers import Workers
from fetcher.errors import InternalError, NoSpaceError, TransportError
from fetcher.plan.transfer import Outcome, Part
from fetcher.plan.tree import BLOCK_BYTES
from tests.engine.fakes import FakeMeter, FakePartial, FakeResponse, a_job, a_part, an_active, blocks_of, cut, paint

MIB = BLOCK_BYTES
SIZE = 3 * MIB + 1000
WAIT_S = 20.0


class Desk:
    """Slabs and threads, as one connection has them."""

    def __init__(self) -> None:
        self.workers = Workers()
        self.pool = SlabPool()
        self.meter = FakeMeter()

    def close(self) -> None:
        self.workers.close()
        self.pool.close()

    async def receive(
        self,
        job: FileJob,
        part: Part,
        pieces: Iterable[bytes | memoryview | Exception],
        *,
        active: Active | None = None,
        outcome: Outcome = Outcome.COMPLETE,
    ) -> None:
        """One part's body, with the books closed behind it as a lane does."""
        slabs = self.pool.take_pair()
        try:
            await receive_part(
                job, part, FakeResponse(pieces), slabs, self.workers, self.meter, active or an_active(part)
            )
        except PartEnded as ended:
            outcome = ended.outcome
            raise
        finally:
            job.transfer.end(part, outcome)
            self.pool.give_back(slabs)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


def until(happened: threading.Event) -> asyncio.Future[bool]:
    return asyncio.ensure_future(asyncio.to_thread(happened.wait, WAIT_S))


def around_boundaries(total: int) -> list[int]:
    """Lengths that come byte by byte through each block boundary, and in large pieces between."""
    lengths: list[int] = []
    position = 0
    while position < total:
        near = -(position + 8) % MIB
        lengths += [near] * bool(near) + [1] * 16
        position += near + 16
    return lengths


PIECES = {
    "whole": [10 * MIB],
    "blocks": [MIB] * 4,
    "byte by byte through the boundaries": around_boundaries(SIZE),
    "prime": [65_521] * 200,
    "larger prime than a block": [1_048_583] * 10,
    "one, then all": [1, 10 * MIB],
    "a block and a byte": [MIB + 1] * 4,
    "a block less a byte": [MIB - 1] * 5,
}


@pytest.mark.parametrize("lengths", PIECES.values(), ids=PIECES)
def test_a_whole_file_in_any_pieces(desk: Desk, lengths: list[int]) -> None:
    content = paint(SIZE)
    partial = FakePartial(SIZE, slow_s=0.002)
    job = a_job(SIZE, partial=partial)

    asyncio.run(desk.receive(job, a_part(job), cut(content, lengths)))

    assert bytes(partial.data) == content
    assert sorted(partial.writes) == list(blocks_of(SIZE))
    assert job.transfer.whole
    assert desk.meter.received_bytes == desk.meter.paid_bytes == SIZE
    assert sorted(desk.meter.blocks) == [(1000, SIZE), (MIB, MIB), (MIB, 2 * MIB), (MIB, 3 * MIB)]
    assert job.progressed.is_set()


@pytest.mark.parametrize("lengths", [[1] * 1000, [7] * 200, [1000]], ids=["bytes", "sevens", "whole"])
def test_the_short_last_block_alone(desk: Desk, lengths: list[int]) -> None:
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    job.transfer.adopt(range(3))
    part = a_part(job)
    assert part.span.length == 1000

    asyncio.run(desk.receive(job, part, cut(paint(SIZE)[3 * MIB :], lengths)))

    assert bytes(partial.data[3 * MIB :]) == paint(SIZE)[3 * MIB :]
    assert partial.writes == [3]
    assert job.transfer.whole


def test_pieces_may_be_views_of_the_transport(desk: Desk) -> None:
    content = paint(SIZE)
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    asyncio.run(desk.receive(job, a_part(job), (memoryview(piece) for piece in cut(content, [300_007] * 20))))
    assert bytes(partial.data) == content


def test_one_slab_fills_while_the_other_is_written(desk: Desk) -> None:
    """Two slabs, so two calls at most; and with a slow disk there are two."""
    size = 8 * MIB
    partial = FakePartial(size, slow_s=0.03)
    job = a_job(size, partial=partial, part_bytes=size)
    asyncio.run(desk.receive(job, a_part(job), cut(paint(size), [256 << 10] * 32)))
    assert bytes(partial.data) == paint(size)
    assert partial.in_flight_most == 2


def test_while_it_waits_for_the_disk_it_says_so(desk: Desk) -> None:
    size = 4 * MIB
    gate = threading.Event()
    partial = FakePartial(size, gate=gate)
    job = a_job(size, partial=partial)
    part = a_part(job)
    active = an_active(part)

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, part, cut(paint(size), [MIB] * 4), active=active))
        await until(partial.entered)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert active.pulse.holding
        assert desk.meter.received_bytes == 2 * MIB, "no more is read than the two slabs hold"
        gate.set()
        await task
        assert not active.pulse.holding

    asyncio.run(main())


# --- early ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("brought", "blocks"),
    [(0, []), (1, []), (MIB - 1, []), (MIB, [0]), (2 * MIB + 5, [0, 1]), (SIZE - 1, [0, 1, 2])],
)
@pytest.mark.parametrize("how", ["ends", "breaks"])
def test_a_body_that_ends_early_leaves_whole_blocks(desk: Desk, brought: int, blocks: list[int], how: str) -> None:
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    part = a_part(job)
    pieces: list[bytes | memoryview | Exception] = list(cut(paint(SIZE)[:brought], [100_003] * 40))
    if how == "breaks":
        pieces.append(TransportError("connection reset"))

    with pytest.raises(PartEnded) as raised:
        asyncio.run(desk.receive(job, part, pieces))

    assert raised.value.outcome is Outcome.CUT
    expected = "connection reset" if how == "breaks" else f"the body ended {SIZE - brought} bytes early"
    assert raised.value.reason == expected
    assert sorted(partial.writes) == blocks
    assert job.transfer.bytes_written == len(blocks) * MIB
    rest = a_part(job)
    assert rest.blocks == range(len(blocks), 4), "the half block is fetched again"


@pytest.mark.parametrize("surplus", [1, 500_000])
def test_a_body_longer_than_its_range_is_misframed(desk: Desk, surplus: int) -> None:
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    pieces = [paint(2 * MIB), paint(SIZE)[2 * MIB :] + b"x" * surplus]
    with pytest.raises(PartEnded) as raised:
        asyncio.run(desk.receive(job, a_part(job), pieces))
    assert raised.value.outcome is Outcome.MISFRAMED
    assert sorted(partial.writes) == [0, 1], "what came before the fault is kept"


# --- worker errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", range(4))
def test_a_failed_write_ends_the_part_with_all_calls_over(desk: Desk, broken: int) -> None:
    partial = FakePartial(SIZE, slow_s=0.005)
    partial.errors[broken] = NoSpaceError("the disk is full")
    job = a_job(SIZE, partial=partial)

    with pytest.raises(NoSpaceError):
        asyncio.run(desk.receive(job, a_part(job), cut(paint(SIZE), [65_521] * 60), outcome=Outcome.CUT))

    assert partial.in_flight == 0
    assert broken not in partial.writes
    assert job.transfer.bytes_written == sum(1000 if block == 3 else MIB for block in partial.writes)
    assert a_part(job).blocks.start == min(set(blocks_of(SIZE)) - set(partial.writes)), "free for another try"


def test_two_failed_writes_at_once_are_one_error_and_two_free_blocks(desk: Desk) -> None:
    partial = FakePartial(SIZE, slow_s=0.005)
    partial.errors = {0: NoSpaceError("the disk is full"), 1: NoSpaceError("the disk is full")}
    job = a_job(SIZE, partial=partial)
    with pytest.raises(NoSpaceError):
        asyncio.run(desk.receive(job, a_part(job), [paint(SIZE)], outcome=Outcome.CUT))
    assert partial.in_flight == 0
    assert partial.writes == []
    assert job.transfer.claim(0) and job.transfer.claim(1)


def test_a_failed_write_wins_over_a_cut_connection(desk: Desk) -> None:
    """The connection may be opened again; the disk stays full."""
    partial = FakePartial(SIZE, slow_s=0.01)
    partial.errors[0] = NoSpaceError("the disk is full")
    job = a_job(SIZE, partial=partial)
    pieces: list[bytes | memoryview | Exception] = [paint(MIB), TransportError("connection reset")]
    with pytest.raises(NoSpaceError):
        asyncio.run(desk.receive(job, a_part(job), pieces, outcome=Outcome.CUT))


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_cancelled_in_a_slow_write_it_ends_with_no_call_under_way(desk: Desk) -> None:
    gate = threading.Event()
    partial = FakePartial(SIZE, gate=gate)
    job = a_job(SIZE, partial=partial)
    content = paint(SIZE)

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, a_part(job), [content], outcome=Outcome.CUT))
        await until(partial.entered)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.005)
            assert not task.done(), "the worker still reads the slab"
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert partial.in_flight == 0

    asyncio.run(main())
    assert sorted(partial.writes) == [0, 1]
    assert bytes(partial.data[: 2 * MIB]) == content[: 2 * MIB]
    assert job.transfer.bytes_written == 2 * MIB, "what was written under the cancellation counts"


def test_timed_out_in_a_slow_write_it_waits_as_well(desk: Desk) -> None:
    """The watchdog ends requests by a deadline."""
    gate = threading.Event()
    partial = FakePartial(SIZE, gate=gate)
    job = a_job(SIZE, partial=partial)

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.1, gate.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await desk.receive(job, a_part(job), [paint(SIZE)], outcome=Outcome.STALLED)
        assert partial.in_flight == 0

    asyncio.run(main())
    assert sorted(partial.writes) == [0, 1]


# --- one owner -------------------------------------------------------------------------------------------------------


def test_a_block_answered_twice_is_written_once_and_the_first_bytes_stay(desk: Desk) -> None:
    """Two connections bring the same blocks, with different bytes. Whoever claims a block first is the one who writes
    it, even if his write is the slow one."""
    size = 4 * MIB
    gate = threading.Event()
    slow, fast = paint(size), paint(size, shade=100)
    partial = FakePartial(size, gate=gate)
    job = a_job(size, partial=partial)
    part = a_part(job)
    twin = Part(part.span)

    async def main() -> None:
        # The first connection has claimed blocks 0 and 1 and is stuck in their writes…
        first = asyncio.create_task(desk.receive(job, part, cut(slow, [MIB] * 4)))
        await until(partial.entered)
        # …when the second brings all four.
        second = asyncio.create_task(desk.receive(job, twin, cut(fast, [MIB] * 4)))
        await asyncio.sleep(0.02)
        assert not first.done() and not second.done()
        gate.set()
        await asyncio.gather(first, second)

    asyncio.run(main())
    assert sorted(partial.writes) == [0, 1, 2, 3], "each once"
    assert bytes(partial.data) == slow[: 2 * MIB] + fast[2 * MIB :]
    assert job.transfer.whole


def test_blocks_of_another_are_dropped_without_a_trace(desk: Desk) -> None:
    size = 4 * MIB
    partial = FakePartial(size)
    job = a_job(size, partial=partial)
    part = a_part(job)
    assert job.transfer.claim(0) and job.transfer.claim(2)
    asyncio.run(desk.receive(job, part, cut(paint(size), [100_003] * 50)))
    assert sorted(partial.writes) == [1, 3]
    assert bytes(partial.data[:MIB]) == bytes(MIB)
    assert bytes(partial.data[3 * MIB :]) == paint(size)[3 * MIB :]
    assert not job.transfer.whole


# --- small files -----------------------------------------------------------------------------------------------------


def small(size: int, pieces: Iterable[bytes | memoryview | Exception]) -> tuple[bytes, FakeMeter]:
    slab, meter = Slab(), FakeMeter()

    async def main() -> bytes:
        return bytes(await receive_small(a_job(size), FakeResponse(pieces), slab, meter, an_active(None)))

    try:
        return asyncio.run(main()), meter
    finally:
        slab.close()


@pytest.mark.parametrize("size", [1, 4096, 5003, MIB - 1, MIB])
@pytest.mark.parametrize("length", [1, 251, 65_521, MIB])
def test_a_small_file_in_any_pieces(size: int, length: int) -> None:
    lengths = [length] * min(-(-size // length), 5003)
    data, meter = small(size, cut(paint(size), lengths))
    assert data == paint(size)
    assert meter.received_bytes == meter.paid_bytes == size


def test_a_body_of_unstated_length_is_seen_to_its_end(desk: Desk) -> None:
    """Its first bytes may be those of a longer file."""
    job = a_job(SIZE, partial=FakePartial(SIZE))
    with pytest.raises(PartEnded) as raised:
        asyncio.run(desk.receive(job, a_part(job), [paint(SIZE), b"x"]))
    assert raised.value.outcome is Outcome.MISFRAMED
    assert job.transfer.parts_open == 0


@pytest.mark.parametrize("broken", [False, True])
def test_a_small_file_that_ends_early(broken: bool) -> None:
    pieces: list[bytes | memoryview | Exception] = [b"abc"]
    if broken:
        pieces.append(TransportError("connection reset"))
    with pytest.raises(PartEnded) as raised:
        small(10, pieces)
    assert raised.value.outcome is Outcome.CUT
    assert raised.value.reason == ("connection reset" if broken else "the body ended 7 bytes early")


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 10, b"y"], [b"x" * 9, b"xy"]])
def test_a_small_file_longer_than_listed_is_misframed(pieces: list[bytes]) -> None:
    with pytest.raises(PartEnded) as raised:
        small(10, pieces)
    assert raised.value.outcome is Outcome.MISFRAMED


def test_a_large_file_is_no_small_one() -> None:
    with pytest.raises(InternalError, match="no small file"):
        small(MIB + 1, [])
