"""Whole transfers on virtual time: several connections, a digest that trails, failures of every kind, a tight window.

The simulation is the engine's half of the bargain in its plainest form. Whatever happens in it, a transfer must end,
write each block once, and never have two parts over one block.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fetcher.plan.transfer import Event, Outcome, Part, State, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_count, block_length

EARLY_ENDS = [outcome for outcome in Outcome if outcome is not Outcome.COMPLETE]
STEPS_MAX = 200_000
FOLLOW_BLOCKS_MAX = 8


@dataclass
class Simulation:
    """Lanes, a follower and an intruder over one Transfer; ``run`` to its end."""

    transfer: Transfer
    rng: random.Random
    lanes: int
    failure_share: float
    """How many parts end early while failures are left."""
    failures_left: int
    intrusions_left: int
    window_bytes: int | None
    has_digest: bool
    adopted_bytes: int
    """Adopted from the start without a hole."""
    now: float = 0.0
    idle_lanes: int = 0
    open_parts: list[Part] = field(default_factory=list)
    writes: Counter[int] = field(default_factory=Counter)
    claimed: set[int] = field(default_factory=set)
    moves: Counter[int] = field(default_factory=Counter)
    shed: set[Part] = field(default_factory=set)
    """Their twins were through first."""
    hedges_left: int = 0
    hedges: int = 0
    sizes: tuple[int | None, ...] = (None,)
    """Lengths that are asked for, in blocks."""
    streams: int = 0
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def run(self) -> None:
        self.idle_lanes = self.lanes
        self._later(self._follow)
        self._later(self._intrude)
        self._wake_lanes()
        for _ in range(STEPS_MAX):
            if not self._agenda:
                break
            self.now, _, step = heapq.heappop(self._agenda)
            step()
        else:
            raise AssertionError(f"no end in sight: {self.transfer!r}")

    def _later(self, step: Callable[[], None]) -> None:
        # Now and then something takes a hundred times as long as all the rest.
        delay = self.rng.expovariate(1.0) * (100.0 if self.rng.random() < 0.02 else 1.0)
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), step))

    def _fails(self) -> bool:
        if self.failures_left == 0 or self.rng.random() >= self.failure_share:
            return False
        self.failures_left -= 1
        return True

    # -- connections -------------------------------------------------------------------------------------------------

    def _wake_lanes(self) -> None:
        while self.idle_lanes:
            blocks = self.rng.choice(self.sizes)
            part = self.transfer.next_part(None if blocks is None else blocks * BLOCK_BYTES) or self._hedge()
            if part is None:
                return
            self.idle_lanes -= 1
            self._check_start(part)
            self.open_parts.append(part)
            ending = self.rng.choice(EARLY_ENDS) if self._fails() else Outcome.COMPLETE
            brings = self.rng.randrange(len(part.blocks)) if ending is not Outcome.COMPLETE else len(part.blocks)
            if ending is Outcome.UNRANGED:
                brings = 0
            self._later(partial(self._arrive, part, ending, iter(part.blocks[:brings]), []))

    def _hedge(self) -> Part | None:
        """Ask once more for the rest of a part that is under way."""
        if self.hedges_left == 0 or not self.open_parts or self.rng.random() < 0.5:
            return None
        slow = self.rng.choice(self.open_parts)
        hedge = self.transfer.hedge(slow)
        if hedge is None:
            return None
        self.hedges_left -= 1
        self.hedges += 1
        assert hedge.hedges is slow and not slow.stream
        return hedge

    def _twin(self, part: Part) -> Part | None:
        return next((other for other in self.open_parts if other.hedges is part or part.hedges is other), None)

    def _check_hedge(self, hedge: Part, slow: Part) -> None:
        assert slow.span.start <= hedge.span.start < hedge.span.stop == slow.span.stop
        others = [part for part in self.open_parts if part is not slow]
        for other in others:
            assert hedge.span.stop <= other.span.start or other.span.stop <= hedge.span.start
        assert hedge.blocks.start not in self.claimed and not self.writes[hedge.blocks.start]

    def _check_start(self, part: Part) -> None:
        transfer, span = self.transfer, part.span
        if part.hedges is not None:
            self._check_hedge(part, part.hedges)
            return
        assert span.start % BLOCK_BYTES == 0
        assert span.stop % BLOCK_BYTES == 0 or span.stop == transfer.size
        for other in self.open_parts:
            assert span.stop <= other.span.start or other.span.stop <= span.start, f"{span} over {other.span}"
        if part.stream:
            self.streams += 1
            return
        if self.window_bytes is not None:
            assert span.stop <= max(transfer.frontier_bytes, self.adopted_bytes) + self.window_bytes
        covered = {block for other in self.open_parts for block in other.blocks}
        taken = covered | self.claimed | set(+self.writes)
        lowest = next(block for block in range(block_count(transfer.size)) if block not in taken)
        assert part.blocks.start == lowest, "the lowest missing block comes first"
        assert not taken.intersection(part.blocks)
        assert part.moves == max(self.moves[block] for block in part.blocks)

    def _arrive(self, part: Part, ending: Outcome, blocks: Iterator[int], under_way: list[int]) -> None:
        """The next whole block of a body is here, or the body is over."""
        block = next(blocks, None)
        if part in self.shed:
            self._part_over(part, Outcome.SHED, under_way)
            return
        if block is None:
            self._part_over(part, ending, under_way)
            return
        if self._claim(block):
            under_way.append(block)
            self._later(lambda: self._write_ends(block, under_way))
        self._later(lambda: self._arrive(part, ending, blocks, under_way))

    def _part_over(self, part: Part, ending: Outcome, under_way: list[int]) -> None:
        if under_way:  # to end means to wait for the calls in flight
            self._later(lambda: self._part_over(part, ending, under_way))
            return
        twin = self._twin(part)
        if ending in (Outcome.SLOW, Outcome.CRAWLED):
            for block in part.blocks:
                if not self.writes[block] and block not in self.claimed:
                    self.moves[block] = part.moves + 1
        if ending is Outcome.COMPLETE and twin is not None:
            self.shed.add(twin)
        self.open_parts.remove(part)
        self.transfer.end(part, ending)
        self.idle_lanes += 1
        self._changed()

    def _claim(self, block: int) -> bool:
        if not self.transfer.claim(block):
            return False
        assert block not in self.claimed and not self.writes[block], "claimed twice"
        self.claimed.add(block)
        return True

    def _write_ends(self, block: int, under_way: list[int]) -> None:
        under_way.remove(block)
        self.claimed.remove(block)
        if self._fails():
            self.transfer.unclaim(block)
        else:
            self.writes[block] += 1
            self.transfer.wrote(block, proven=True)
        self._changed()

    def _intrude(self) -> None:
        """Somebody else brings a block, be it missing or just coming in a part of ours."""
        if self.transfer.whole or self.intrusions_left == 0:  # few: it must not do the work of the parts
            return
        self.intrusions_left -= 1
        block = self.rng.randrange(block_count(self.transfer.size))
        if self._claim(block):
            self._later(lambda: self._write_ends(block, [block]))
        self._later(self._intrude)

    # -- the digest that trails --------------------------------------------------------------------------------------

    def _changed(self) -> None:
        if self.transfer.whole and not self.has_digest and self.transfer.state is State.FETCHING:
            self.transfer.on(Event.LAST_BLOCK)
        self._wake_lanes()

    def _follow(self) -> None:
        transfer = self.transfer
        if not self.has_digest:
            return
        step = self.rng.randint(1, FOLLOW_BLOCKS_MAX) * BLOCK_BYTES
        readable = transfer.readable_bytes
        assert all(self.writes[block] for block in range(readable // BLOCK_BYTES))
        transfer.frontier_bytes = min(readable, transfer.frontier_bytes + step)
        if transfer.frontier_bytes == transfer.size:
            transfer.on(Event.LAST_BLOCK)
            return
        self._wake_lanes()
        if transfer.frontier_bytes < transfer.readable_bytes or self._agenda_holds_more():
            self._later(self._follow)

    def _agenda_holds_more(self) -> bool:
        """Whether anything else can still happen; if not, a digest that polls would hide a deadlock."""
        return bool(self._agenda)


@settings(max_examples=400)
@given(
    blocks=st.integers(1, 60),
    tail=st.sampled_from([1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES]),
    part_blocks=st.integers(1, 9),
    window_extra_bytes=st.one_of(st.none(), st.just(0), st.integers(0, 20 * BLOCK_BYTES)),
    lanes=st.integers(1, 6),
    failure_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    adopted_share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    hedges=st.sampled_from([0, 0, 3, 20]),
    lengths=st.sampled_from([(None,), (None, 1, 2, 5), (12, 40)]),
    seed=st.integers(0, 1 << 32),
)
def test_any_transfer_ends_with_each_block_written_once(
    blocks: int,
    tail: int,
    part_blocks: int,
    window_extra_bytes: int | None,
    lanes: int,
    failure_share: float,
    adopted_share: float,
    hedges: int,
    lengths: tuple[int | None, ...],
    seed: int,
) -> None:
    rng = random.Random(seed)
    size = (blocks - 1) * BLOCK_BYTES + tail
    part_bytes = part_blocks * BLOCK_BYTES
    window_bytes = None if window_extra_bytes is None else part_bytes + window_extra_bytes
    transfer = Transfer(size, part_bytes=part_bytes, window_bytes=window_bytes)
    adopted = [block for block in range(blocks) if rng.random() < adopted_share]
    transfer.adopt(adopted)
    transfer.on(Event.BEGIN)
    simulation = Simulation(
        transfer=transfer,
        rng=rng,
        lanes=lanes,
        failure_share=failure_share,
        failures_left=rng.randrange(40),
        intrusions_left=rng.randrange(10),
        window_bytes=window_bytes,
        # Without an order to keep there is nobody who moves the frontier on.
        has_digest=window_bytes is not None,
        adopted_bytes=transfer.readable_bytes,
        hedges_left=hedges,
        sizes=lengths,
    )
    simulation.writes.update(adopted)
    if transfer.whole and not simulation.has_digest:
        transfer.on(Event.LAST_BLOCK)
    simulation.run()

    event(f"hedges: {min(simulation.hedges, 2)}")
    event(f"streams: {min(simulation.streams, 2)}, window: {'none' if window_bytes is None else 'set'}")
    assert transfer.state is State.DRAINING, f"deadlock: {transfer!r}"
    assert transfer.whole
    assert transfer.parts_open == 0
    assert simulation.writes == Counter(range(blocks)), "each block exactly once"
    assert transfer.bytes_written == size == sum(block_length(size, block) for block in range(blocks))
    assert transfer.next_part() is None
