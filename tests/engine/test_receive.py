"""From a body's pieces to blocks on the disk: in any pieces, to any end, and never with a call left under way."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import blake3
import pytest

from fetcher import hashing
from fetcher.engine import receive
from fetcher.engine.buffers import Slab, SlabPool
from fetcher.engine.disk import Disk
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.receive import receive_part
from fetcher.engine.receive_small import receive_small
from fetcher.engine.workers import Workers
from fetcher.errors import CacheError, InternalError, NoSpaceError, TransportError
from fetcher.plan.transfer import Outcome, Part
from fetcher.plan.tree import BLOCK_BYTES
from fetcher.plan.watch import Pulse
from tests.engine.fakes import (
    RESPONSES,
    Drawn,
    FakeMeter,
    FakePartial,
    FakeResponse,
    ScriptedSink,
    a_job,
    a_part,
    an_active,
    blocks_of,
    cut,
    paint,
)

MIB = BLOCK_BYTES
SIZE = 3 * MIB + 1000
WAIT_S = 20.0

Pieces = Iterable[bytes | memoryview | Exception]


class Desk:
    """Slabs, threads and the disk, as one connection has them; bodies come in one of two styles."""

    def __init__(self, style: str) -> None:
        self.workers = Workers()
        self.pool = SlabPool()
        self.disk = Disk(2)
        self.meter = FakeMeter()
        self.response = RESPONSES[style]

    def close(self) -> None:
        self.disk.close()
        self.workers.close()
        self.pool.close()

    def use(self, sink: ScriptedSink) -> ScriptedSink:
        """Write through ``sink`` from now on."""
        self.disk._sink.close()
        self.disk._sink = sink  # type: ignore[assignment]
        return sink

    def run(self, main: Any) -> Any:
        """A loop's life: the disk looks for its sink on the loop that it is first used in."""

        async def whole() -> Any:
            try:
                return await main
            finally:
                assert self.disk._sink.pending == 0, "something is left under way"
                if self.disk._loop is not None:
                    self.disk._loop.remove_reader(self.disk._sink.fileno())
                    self.disk._loop = None

        return asyncio.run(whole())

    async def receive(
        self,
        job: FileJob,
        part: Part,
        pieces: Pieces,
        *,
        active: Active | None = None,
        outcome: Outcome = Outcome.COMPLETE,
    ) -> FakeResponse:
        """One part's body, with the books closed behind it as a lane does."""
        slabs = self.pool.take_pair()
        response = self.response(pieces)
        try:
            await receive_part(job, part, response, slabs, self, self.meter, active or an_active(part))
        except PartEnded as ended:
            outcome = ended.outcome
            raise
        finally:
            job.transfer.end(part, outcome)
            self.pool.give_back(slabs)
        return response


@pytest.fixture(params=list(RESPONSES))
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    made = Desk(request.param)
    yield made
    made.close()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


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
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)

    desk.run(desk.receive(job, a_part(job), cut(content, lengths)))

    assert partial.data == content
    assert sorted(partial.writes) == list(blocks_of(SIZE))
    assert job.transfer.whole
    assert desk.meter.received_bytes == SIZE
    assert sorted(count for count, _ in desk.meter.blocks) == [1000, MIB, MIB, MIB]
    assert max(written for _, written in desk.meter.blocks) == SIZE
    assert job.progressed.is_set()


@pytest.mark.parametrize("lengths", [[1] * 1000, [7] * 200, [1000]], ids=["bytes", "sevens", "whole"])
def test_the_short_last_block_alone(desk: Desk, lengths: list[int]) -> None:
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    job.transfer.adopt(range(3))
    part = a_part(job)
    assert part.span.length == 1000

    desk.run(desk.receive(job, part, cut(paint(SIZE)[3 * MIB :], lengths)))

    assert bytes(partial.data[3 * MIB :]) == paint(SIZE)[3 * MIB :]
    assert partial.writes == [3]
    assert job.transfer.whole


def test_pieces_may_be_views_of_the_transport(desk: Desk) -> None:
    content = paint(SIZE)
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    desk.run(desk.receive(job, a_part(job), (memoryview(piece) for piece in cut(content, [300_007] * 20))))
    assert partial.data == content


def test_one_slab_fills_while_the_other_is_written(desk: Desk) -> None:
    """Two slabs, so two calls at most; and with a slow disk there are two."""
    size = 8 * MIB
    partial = FakePartial(size)
    desk.use(ScriptedSink(slow_s=0.03))
    job = a_job(size, partial=partial, part_bytes=size)
    desk.run(desk.receive(job, a_part(job), cut(paint(size), [256 << 10] * 32)))
    assert partial.data == paint(size)
    assert partial.in_flight_most == 2


def test_while_it_waits_for_the_disk_it_says_so(desk: Desk) -> None:
    size = 4 * MIB
    gate = threading.Event()
    partial = FakePartial(size)
    sink = desk.use(ScriptedSink(gate=gate))
    job = a_job(size, partial=partial)
    part = a_part(job)
    active = an_active(part)

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, part, cut(paint(size), [MIB] * 4), active=active))
        await until(sink.entered)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert active.pulse.holding
        assert desk.meter.received_bytes == 2 * MIB, "no more is read than the two slabs hold"
        gate.set()
        await task
        assert not active.pulse.holding

    desk.run(main())


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
        desk.run(desk.receive(job, part, pieces))

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
        desk.run(desk.receive(job, a_part(job), pieces))
    assert raised.value.outcome is Outcome.MISFRAMED
    assert sorted(partial.writes) == [0, 1, 2], "what came before is kept, but nothing that would make the file whole"


# --- worker errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", range(4))
def test_a_failed_write_ends_the_part_with_all_calls_over(desk: Desk, broken: int) -> None:
    partial = FakePartial(SIZE)
    desk.use(ScriptedSink(slow_s=0.005)).errors[broken] = errno.ENOSPC
    job = a_job(SIZE, partial=partial)

    with pytest.raises(NoSpaceError):
        desk.run(desk.receive(job, a_part(job), cut(paint(SIZE), [65_521] * 60), outcome=Outcome.CUT))

    assert partial.in_flight == 0
    assert broken not in partial.writes
    assert job.transfer.bytes_written == sum(1000 if block == 3 else MIB for block in partial.writes)
    assert a_part(job).blocks.start == min(set(blocks_of(SIZE)) - set(partial.writes)), "free for another try"


def test_two_failed_writes_at_once_are_one_error_and_two_free_blocks(desk: Desk) -> None:
    partial = FakePartial(SIZE)
    desk.use(ScriptedSink(slow_s=0.005)).errors = {0: errno.ENOSPC, 1: errno.EIO}
    job = a_job(SIZE, partial=partial)
    with pytest.raises((NoSpaceError, CacheError)):
        desk.run(desk.receive(job, a_part(job), [paint(SIZE)], outcome=Outcome.CUT))
    assert partial.in_flight == 0
    assert partial.writes == []
    assert job.transfer.claim(0) and job.transfer.claim(1)


def test_a_failed_write_wins_over_a_cut_connection(desk: Desk) -> None:
    """The connection may be opened again; the disk stays full."""
    partial = FakePartial(SIZE)
    desk.use(ScriptedSink(slow_s=0.01)).errors[0] = errno.ENOSPC
    job = a_job(SIZE, partial=partial)
    pieces: list[bytes | memoryview | Exception] = [paint(MIB), TransportError("connection reset")]
    with pytest.raises(NoSpaceError):
        desk.run(desk.receive(job, a_part(job), pieces, outcome=Outcome.CUT))


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_cancelled_in_a_slow_write_it_ends_with_no_call_under_way(desk: Desk) -> None:
    gate = threading.Event()
    partial = FakePartial(SIZE)
    sink = desk.use(ScriptedSink(gate=gate))
    job = a_job(SIZE, partial=partial)
    content = paint(SIZE)

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, a_part(job), [content], outcome=Outcome.CUT))
        await until(sink.entered)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.005)
            assert not task.done(), "the worker still reads the slab"
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert partial.in_flight == 0

    desk.run(main())
    assert sorted(partial.writes) == [0, 1]
    assert bytes(partial.data[: 2 * MIB]) == content[: 2 * MIB]
    assert job.transfer.bytes_written == 2 * MIB, "what was written under the cancellation counts"


def test_timed_out_in_a_slow_write_it_waits_as_well(desk: Desk) -> None:
    """The watchdog ends requests by a deadline."""
    gate = threading.Event()
    partial = FakePartial(SIZE)
    desk.use(ScriptedSink(gate=gate))
    job = a_job(SIZE, partial=partial)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def watchdog(deadline: asyncio.Timeout) -> None:
            while partial.in_flight < 2:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
            deadline.reschedule(loop.time())
            loop.call_later(0.05, gate.set)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as deadline:
                watching = asyncio.create_task(watchdog(deadline))
                await desk.receive(job, a_part(job), [paint(SIZE)], outcome=Outcome.STALLED)
        await watching
        assert partial.in_flight == 0

    desk.run(main())
    assert sorted(partial.writes) == [0, 1]


@pytest.mark.parametrize("slow_s", [0.0, 0.001], ids=["fast", "slow"])
def test_cancelled_at_any_moment_nothing_is_left_and_the_rest_can_be_had(desk: Desk, slow_s: float) -> None:
    """At each turn of the loop once: no block under way, no byte drawn too many, and another try completes the file."""
    content = paint(SIZE)
    desk.use(ScriptedSink(slow_s=slow_s))

    async def main() -> int:
        interrupted = 0
        for moment in range(1, 61):
            partial = FakePartial(SIZE)
            job = a_job(SIZE, partial=partial)
            drawn = Drawn(job)
            task = asyncio.create_task(
                desk.receive(job, a_part(job), cut(content, [MIB // 2 + 1] * 9), outcome=Outcome.CUT)
            )
            await turns(moment)
            interrupted += task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None
            assert partial.in_flight == 0
            assert drawn.in_flight == 0
            assert drawn.written == job.transfer.bytes_written
            if not job.transfer.whole:
                rest = a_part(job)
                await desk.receive(job, rest, [content[rest.span.start :]])
            assert job.transfer.whole and partial.data == content
            assert sorted(partial.writes) == list(blocks_of(SIZE)), "each once"
        return interrupted

    assert desk.run(main()) > 5, "most moments were before the end"


# --- bytes drawn ahead -----------------------------------------------------------------------------------------------


def test_what_is_written_was_drawn_a_step_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "DRAWN_BYTES", 4 * MIB)
    size = 9 * MIB + 5
    job = a_job(size, partial=FakePartial(size), part_bytes=16 * MIB)
    drawn = Drawn(job)
    desk.run(desk.receive(job, a_part(job), cut(paint(size), [300_007] * 99)))
    assert drawn.draws == [4 * MIB, 4 * MIB, MIB + 5]
    assert (drawn.written, drawn.in_flight) == (size, 0)
    assert job.transfer.whole


def test_the_last_block_waits_for_its_bytes_to_be_drawn(desk: Desk, rng: random.Random) -> None:
    """The body is here long before: it ends with the block written, whichever of the two is first by how little."""

    async def main() -> None:
        for _ in range(150):
            job = a_job(MIB, partial=FakePartial(MIB), part_bytes=MIB)
            drawn = Drawn(job, slow_s=lambda: rng.choice((0.0, 0.0, 0.0002, 0.001)))
            await desk.receive(job, a_part(job), [bytes(MIB)])
            assert job.transfer.whole
            assert (drawn.written, drawn.in_flight) == (MIB, 0)

    desk.run(main())


def test_without_space_for_the_first_step_nothing_is_written(desk: Desk) -> None:
    partial = FakePartial(SIZE)
    job = a_job(SIZE, partial=partial)
    drawn = Drawn(job, slow_s=lambda: 0.02, bytes_max=0)

    async def main() -> None:
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(NoSpaceError, match="reserved"):
                await desk.receive(job, a_part(job), cut(paint(SIZE), [MIB] * 4), outcome=Outcome.CUT)

    desk.run(main())
    assert partial.writes == [] and drawn.in_flight == 0
    assert a_part(job).blocks == blocks_of(SIZE), "all of it may be tried again"


def test_without_space_for_the_next_step_what_is_drawn_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "DRAWN_BYTES", 2 * MIB)
    size = 8 * MIB
    partial = FakePartial(size)
    job = a_job(size, partial=partial, part_bytes=size)
    drawn = Drawn(job, bytes_max=5 * MIB)

    async def main() -> None:
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(NoSpaceError):
                await desk.receive(job, a_part(job), cut(paint(size), [MIB] * 8), outcome=Outcome.CUT)

    desk.run(main())
    assert drawn.in_flight == 0
    assert sorted(partial.writes) == list(range(len(partial.writes)))
    assert len(partial.writes) <= 4
    assert drawn.written == job.transfer.bytes_written == len(partial.writes) * MIB


@pytest.mark.parametrize("broken", range(4))
def test_what_could_not_be_written_is_booked_once(desk: Desk, broken: int) -> None:
    partial = FakePartial(SIZE)
    desk.use(ScriptedSink(slow_s=0.002)).errors[broken] = errno.EIO
    job = a_job(SIZE, partial=partial)
    drawn = Drawn(job)
    with pytest.raises(CacheError):
        desk.run(desk.receive(job, a_part(job), cut(paint(SIZE), [65_521] * 60), outcome=Outcome.CUT))
    assert drawn.in_flight == 0


def test_what_goes_wrong_in_the_books_ends_the_part_and_holds_up_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop would swallow it, and with it what else came back from the disk in the same turn."""

    def broken(job: FileJob, byte_count: int) -> None:
        raise RuntimeError("the books are wrong")

    monkeypatch.setattr(desk.meter, "block_written", broken)
    job = a_job(SIZE, partial=FakePartial(SIZE))
    with pytest.raises(InternalError, match="the books are wrong"):
        desk.run(asyncio.wait_for(desk.receive(job, a_part(job), [paint(SIZE)]), WAIT_S))


def test_a_block_that_can_not_be_booked_keeps_no_other_from_it() -> None:
    disk = Disk(1)
    told: list[Any] = []
    job = a_job(SIZE, partial=FakePartial(SIZE))

    def written(block: int, *_: Any) -> None:
        told.append(block)
        if not block:
            raise RuntimeError("the books are wrong")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(type(context["exception"])))
        slabs = [Slab() for _ in range(3)]
        for block, slab in enumerate(slabs):
            disk.write(job, block, slab, MIB, written)
        for _ in range(1000):
            await asyncio.sleep(0.01 * (len(told) < 4))
        assert [each for each in told if isinstance(each, int)] == [0, 1, 2]
        assert RuntimeError in told
        disk.close()
        for slab in slabs:
            slab.close()

    asyncio.run(main())


def test_a_partial_that_takes_no_more_blocks_ends_the_part(desk: Desk) -> None:
    partial = FakePartial(SIZE)
    partial.refused = CacheError("a sync of it failed")
    job = a_job(SIZE, partial=partial)
    drawn = Drawn(job)
    with pytest.raises(CacheError, match="a sync of it failed"):
        desk.run(desk.receive(job, a_part(job), cut(paint(SIZE), [MIB] * 4), outcome=Outcome.CUT))
    assert drawn.in_flight == 0 and partial.in_flight == 0
    assert job.transfer.claim(0), "free for another"


# --- when it does not read -------------------------------------------------------------------------------------------


def test_under_a_rate_limit_it_reads_little_at_a_time_and_waits(desk: Desk) -> None:
    desk.meter.owing = lambda count: 0.0002
    job = a_job(SIZE, partial=FakePartial(SIZE))
    part = a_part(job)
    active = an_active(part)
    held: list[bool] = []

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, part, [paint(SIZE)], active=active))
        while not task.done():
            held.append(active.pulse.holding)
            await asyncio.sleep(0)
        assert max((await task).rooms) <= receive.PAID_BYTES

    desk.run(main())
    assert job.transfer.whole and any(held)
    assert desk.meter.paid_bytes == SIZE


def test_cancelled_while_it_owes_it_is_over_at_once(desk: Desk) -> None:
    desk.meter.owing = lambda count: 3600.0
    job = a_job(SIZE, partial=FakePartial(SIZE))
    drawn = Drawn(job)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await desk.receive(job, a_part(job), [paint(SIZE)], outcome=Outcome.CUT)

    desk.run(main())
    assert drawn.in_flight == 0 and desk.meter.received_bytes <= receive.PAID_BYTES


def test_it_does_not_read_while_too_much_is_not_on_the_disk(desk: Desk) -> None:
    desk.meter.full = True
    job = a_job(SIZE, partial=FakePartial(SIZE))
    part = a_part(job)
    active = an_active(part)

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, part, [paint(SIZE)], active=active))
        while not desk.meter.looks:  # noqa: ASYNC110 - the meter tells nobody
            await asyncio.sleep(0.001)
        for _ in range(3):
            desk.meter.ease()  # for nothing: it is as full as before
            await turns(20)
            assert desk.meter.received_bytes == 0 and active.pulse.holding, "also where a part is one block"
            assert len(desk.meter.looks) == 1, "it asks to be told again, once"
        desk.meter.full = False
        desk.meter.ease()
        await task
        assert not active.pulse.holding

    desk.run(main())
    assert job.transfer.whole


@pytest.mark.parametrize("left_alone", [False, True])
def test_what_is_given_up_for_being_slow_ends_with_a_block_unless_it_is_left_alone_by_then(
    desk: Desk, left_alone: bool
) -> None:
    job = a_job(SIZE, partial=FakePartial(SIZE))
    part, verdicts = a_part(job), []

    class Told(Active):
        def end_with(self, verdict: Outcome) -> None:
            verdicts.append((verdict, desk.meter.received_bytes))

    desk.meter.left_alone = left_alone
    active = Told(part, Pulse(0.0))
    active.leaves_after_block = True
    desk.run(desk.receive(job, part, cut(paint(SIZE), [MIB // 2] * 10), active=active))
    assert verdicts == (
        [] if left_alone else [(Outcome.CRAWLED, MIB), (Outcome.CRAWLED, 2 * MIB), (Outcome.CRAWLED, 3 * MIB)]
    )


@pytest.mark.parametrize("late", [False, True], ids=["drawn", "drawn late"])
def test_cancelled_while_it_is_held_it_wants_to_hear_no_more(desk: Desk, late: bool) -> None:
    desk.meter.full = True
    job = a_job(SIZE, partial=FakePartial(SIZE))
    Drawn(job, slow_s=lambda: 0.1 if late else 0.0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await desk.receive(job, a_part(job), [paint(SIZE)], outcome=Outcome.CUT)
        desk.meter.ease()
        assert not desk.meter.looks

    desk.run(main())


def test_with_both_slabs_at_the_disk_it_has_no_room_and_says_when(desk: Desk) -> None:
    size = 6 * MIB
    gate = threading.Event()
    partial = FakePartial(size)
    desk.use(ScriptedSink(gate=gate))
    job = a_job(size, partial=partial, part_bytes=size)

    async def main() -> None:
        task = asyncio.create_task(desk.receive(job, a_part(job), [paint(size)]))
        while partial.in_flight < 2:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
        await turns(50)
        assert desk.meter.received_bytes == 2 * MIB
        gate.set()
        await task

    desk.run(main())
    assert partial.data == paint(size)


def test_the_error_of_a_part_does_not_hold_its_slabs(desk: Desk) -> None:
    job = a_job(SIZE, partial=FakePartial(SIZE))

    async def main() -> PartEnded:
        slabs = desk.pool.take_pair()
        part = a_part(job)
        with pytest.raises(PartEnded) as raised:
            await receive_part(job, part, desk.response([b"x"]), slabs, desk, desk.meter, an_active(part))
        desk.pool.give_back(slabs)
        return raised.value

    error = desk.run(main())
    frame = error.__traceback__
    while frame is not None:
        assert frame.tb_frame.f_code.co_name != "receive_part" or "receiver" not in frame.tb_frame.f_locals
        frame = frame.tb_next


# --- one owner -------------------------------------------------------------------------------------------------------


def test_a_block_answered_twice_is_written_once_and_the_first_bytes_stay(desk: Desk) -> None:
    """Two connections bring the same blocks, with different bytes. Whoever claims a block first is the one who writes
    it, even if his write is the slow one."""
    size = 4 * MIB
    gate = threading.Event()
    slow, fast = paint(size), paint(size, shade=100)
    partial = FakePartial(size)
    sink = desk.use(ScriptedSink(gate=gate))
    job = a_job(size, partial=partial)
    part = a_part(job)
    twin = Part(part.span)

    async def main() -> None:
        # The first connection has claimed blocks 0 and 1 and is stuck in their writes…
        first = asyncio.create_task(desk.receive(job, part, cut(slow, [MIB] * 4)))
        await until(sink.entered)
        # …when the second brings all four.
        second = asyncio.create_task(desk.receive(job, twin, cut(fast, [MIB] * 4)))
        await asyncio.sleep(0.02)
        assert not first.done() and not second.done()
        gate.set()
        await asyncio.gather(first, second)

    desk.run(main())
    assert sorted(partial.writes) == [0, 1, 2, 3], "each once"
    assert partial.data == slow[: 2 * MIB] + fast[2 * MIB :]
    assert job.transfer.whole


def test_blocks_of_another_are_dropped_without_a_trace(desk: Desk) -> None:
    size = 4 * MIB
    partial = FakePartial(size)
    job = a_job(size, partial=partial)
    part = a_part(job)
    assert job.transfer.claim(0) and job.transfer.claim(2)
    desk.run(desk.receive(job, part, cut(paint(size), [100_003] * 50)))
    assert sorted(partial.writes) == [1, 3]
    assert bytes(partial.data[:MIB]) == bytes(MIB)
    assert bytes(partial.data[3 * MIB :]) == paint(size)[3 * MIB :]
    assert not job.transfer.whole


def test_twins_that_race_for_every_block_write_each_once(desk: Desk, rng: random.Random) -> None:
    """A hedge brings what another connection brings already."""

    async def main() -> None:
        for _ in range(10):
            partial = FakePartial(SIZE)
            job = a_job(SIZE, partial=partial)
            drawn = Drawn(job)
            part = a_part(job)
            twin = Part(part.span)
            lengths = [[rng.randrange(1, 2 * MIB) for _ in range(20)] for _ in range(2)]
            await asyncio.gather(
                desk.receive(job, part, cut(paint(SIZE), lengths[0])),
                desk.receive(job, twin, cut(paint(SIZE), lengths[1])),
            )
            assert sorted(partial.writes) == list(blocks_of(SIZE))
            assert partial.data == paint(SIZE)
            assert (drawn.written, drawn.in_flight) == (SIZE, 0), "what the loser drew is given back"

    desk.run(main())


# --- the real sink ---------------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
def test_blocks_are_journalled_with_their_chaining_values(desk: Desk) -> None:
    partial = FakePartial(SIZE)
    values: dict[int, bytes] = {}
    partial.end_block = lambda block, value: values.__setitem__(block, value)  # type: ignore[method-assign]
    job = a_job(SIZE, partial=partial)
    desk.run(desk.receive(job, a_part(job), cut(paint(SIZE), [1_000_003] * 4)))
    assert sorted(values) == list(blocks_of(SIZE))
    root = hashing.tree_root(SIZE, b"".join(values[block] for block in blocks_of(SIZE)))
    assert root == blake3.blake3(paint(SIZE)).digest()


# --- small files -----------------------------------------------------------------------------------------------------


def small(size: int, pieces: Pieces, *, in_slab: bool) -> tuple[bytes, FakeMeter]:
    meter, slab = FakeMeter(), Slab() if in_slab else None

    async def main() -> bytes:
        return bytes(await receive_small(a_job(size), FakeResponse(pieces), slab, meter, an_active(None)))

    try:
        return asyncio.run(main()), meter
    finally:
        if slab is not None:
            slab.close()


both_ways = pytest.mark.parametrize("in_slab", [False, True], ids=["as it comes", "in a slab"])


@both_ways
@pytest.mark.parametrize("size", [1, 4096, 5003, MIB - 1, MIB])
@pytest.mark.parametrize("length", [1, 251, 65_521, MIB])
def test_a_small_file_in_any_pieces(size: int, length: int, in_slab: bool) -> None:
    lengths = [length] * min(-(-size // length), 5003)
    data, meter = small(size, cut(paint(size), lengths), in_slab=in_slab)
    assert data == paint(size)
    assert meter.received_bytes == meter.paid_bytes == size


def test_a_body_of_unstated_length_is_seen_to_its_end(desk: Desk) -> None:
    """Its first bytes may be those of a longer file."""
    job = a_job(SIZE, partial=FakePartial(SIZE))
    with pytest.raises(PartEnded) as raised:
        desk.run(desk.receive(job, a_part(job), [paint(SIZE), b"x"]))
    assert raised.value.outcome is Outcome.MISFRAMED
    assert job.transfer.parts_open == 0


@both_ways
@pytest.mark.parametrize("broken", [False, True])
def test_a_small_file_that_ends_early(broken: bool, in_slab: bool) -> None:
    pieces: list[bytes | memoryview | Exception] = [b"abc"]
    if broken:
        pieces.append(TransportError("connection reset"))
    with pytest.raises(PartEnded) as raised:
        small(10, pieces, in_slab=in_slab)
    assert raised.value.outcome is Outcome.CUT
    assert raised.value.reason == ("connection reset" if broken else "the body ended 7 bytes early")


@both_ways
@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 10, b"y"], [b"x" * 9, b"xy"]])
def test_a_small_file_longer_than_listed_is_misframed(pieces: list[bytes], in_slab: bool) -> None:
    with pytest.raises(PartEnded) as raised:
        small(10, pieces, in_slab=in_slab)
    assert raised.value.outcome is Outcome.MISFRAMED


@both_ways
def test_a_large_file_is_no_small_one(in_slab: bool) -> None:
    with pytest.raises(InternalError, match="no small file"):
        small(MIB + 1, [], in_slab=in_slab)
