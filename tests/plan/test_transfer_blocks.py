"""Blocks have one owner; parts are whole blocks, lowest first, and what they did not bring goes back."""

from __future__ import annotations

import pytest

from fetcher.errors import InternalError
from fetcher.model.ranges import ByteRange
from fetcher.plan.transfer import Event, Outcome, Part, State, Transfer

MIB = 1 << 20


def fetching(
    blocks: int, *, part: int = 4, window: int | None = None, tail: int = MIB, adopted: tuple[int, ...] = ()
) -> Transfer:
    """A transfer of ``blocks`` blocks, the last of ``tail`` bytes; part and window in blocks."""
    transfer = Transfer(
        (blocks - 1) * MIB + tail,
        part_bytes=part * MIB,
        window_bytes=None if window is None else window * MIB,
    )
    transfer.adopt(adopted)
    transfer.on(Event.BEGIN)
    return transfer


def started(transfer: Transfer) -> Part:
    part = transfer.next_part()
    assert part is not None
    return part


def write(transfer: Transfer, *blocks: int) -> None:
    for block in blocks:
        assert transfer.claim(block)
        transfer.wrote(block, proven=True)


# --- one owner -------------------------------------------------------------------------------------------------------


def test_a_block_is_claimed_once() -> None:
    transfer = fetching(3)
    assert transfer.claim(1)
    assert not transfer.claim(1), "the loser drops its bytes"
    transfer.wrote(1, proven=True)
    assert not transfer.claim(1), "written is written"
    assert transfer.claim(0)


def test_an_adopted_block_can_not_be_claimed() -> None:
    transfer = fetching(3, adopted=(1,))
    assert not transfer.claim(1)


def test_unclaim_frees_the_block_for_another() -> None:
    transfer = fetching(1)
    assert transfer.claim(0)
    transfer.unclaim(0)
    assert started(transfer).span == ByteRange(0, MIB)
    assert transfer.claim(0)


def test_an_unclaimed_block_stays_with_its_open_part() -> None:
    """A failed write must not let a second part start over the first one."""
    transfer = fetching(8)
    first = started(transfer)
    assert transfer.claim(2)
    transfer.unclaim(2)
    assert started(transfer).blocks == range(4, 8)
    assert transfer.next_part() is None
    transfer.end(first, Outcome.CUT)
    assert started(transfer).blocks == range(4)


@pytest.mark.parametrize("step", ["unclaim", "wrote"])
@pytest.mark.parametrize("before", ["empty", "assigned", "written", "adopted"])
def test_only_a_claimed_block_can_be_written_or_unclaimed(step: str, before: str) -> None:
    transfer = fetching(2, adopted=(1,) if before == "adopted" else ())
    if before == "assigned":
        started(transfer)
    elif before == "written":
        write(transfer, 1)
    with pytest.raises(InternalError, match="block 1 was"):
        if step == "unclaim":
            transfer.unclaim(1)
        else:
            transfer.wrote(1, proven=True)


def test_adopting_twice_counts_once_and_leaves_claims_alone() -> None:
    transfer = fetching(3, adopted=(0, 0))
    assert transfer.bytes_written == MIB
    assert transfer.claim(2)
    transfer.adopt([0, 1, 2])
    assert transfer.bytes_written == 2 * MIB
    transfer.wrote(2, proven=True)
    assert transfer.whole


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("tail", [1, MIB - 1, MIB])
def test_counts_follow_the_blocks(proven: bool, tail: int) -> None:
    transfer = fetching(3, tail=tail)
    expected = [(2, tail, 0), (0, tail + MIB, MIB), (1, tail + 2 * MIB, tail + 2 * MIB)]
    for block, bytes_written, readable in expected:
        assert not transfer.whole
        transfer.claim(block)
        transfer.wrote(block, proven=proven)
        assert (transfer.bytes_written, transfer.readable_bytes) == (bytes_written, readable)
    assert transfer.whole
    assert transfer.bytes_written == transfer.size


@pytest.mark.parametrize("tail", [1, MIB - 1, MIB])
def test_what_can_be_read_from_anywhere(tail: int) -> None:
    """For digests of an upload's parts, which begin and end in the middle of blocks."""
    transfer = fetching(5, tail=tail, adopted=(1, 4))
    write(transfer, 2)
    assert transfer.claim(0), "claimed is not written"
    size = transfer.size
    held = [transfer.holds(offset) for offset in (0, MIB - 1, MIB, 3 * MIB - 1, 3 * MIB, 4 * MIB, size - 1)]
    assert held == [False, False, True, True, False, True, True]
    for offset, limit, stop in [
        (0, size, 0),
        (5, size, 5),
        (MIB, size, 3 * MIB),
        (MIB + 7, size, 3 * MIB),
        (MIB + 7, 2 * MIB + 9, 2 * MIB + 9),
        (MIB + 7, MIB + 8, MIB + 8),
        (3 * MIB - 1, size, 3 * MIB),
        (3 * MIB, size, 3 * MIB),
        (4 * MIB, size, size),
        (4 * MIB, 9 * MIB, size),
    ]:
        assert transfer.readable_to(offset, limit) == stop


# --- parts -----------------------------------------------------------------------------------------------------------


def test_parts_are_whole_blocks_lowest_first_and_end_with_the_file() -> None:
    transfer = fetching(10, part=4, tail=17)
    spans = [started(transfer).span for _ in range(3)]
    assert spans == [ByteRange(0, 4 * MIB), ByteRange(4 * MIB, 8 * MIB), ByteRange(8 * MIB, 9 * MIB + 17)]
    assert transfer.next_part() is None
    assert transfer.parts_open == 3


def test_blocks_of_a_part() -> None:
    assert Part(ByteRange(4 * MIB, 9 * MIB + 17)).blocks == range(4, 10)
    assert Part(ByteRange(0, 1)).blocks == range(1)


def test_what_a_part_did_not_bring_is_put_back_and_comes_first() -> None:
    transfer = fetching(12, part=4)
    first, _ = started(transfer), started(transfer)
    write(transfer, 0, 2)
    transfer.end(first, Outcome.CUT)
    assert started(transfer).blocks == range(1, 2)
    assert started(transfer).blocks == range(3, 4)
    assert started(transfer).blocks == range(8, 12)


def test_a_block_claimed_by_another_connection_is_not_put_back() -> None:
    transfer = fetching(4, part=4)
    part = started(transfer)
    assert transfer.claim(1)
    transfer.end(part, Outcome.CUT)
    assert started(transfer).blocks == range(1)
    assert started(transfer).blocks == range(2, 4)


def test_a_finished_part_leaves_nothing() -> None:
    transfer = fetching(4, part=4)
    part = started(transfer)
    write(transfer, *range(4))
    transfer.end(part, Outcome.COMPLETE)
    assert transfer.parts_open == 0
    assert transfer.whole
    assert transfer.next_part() is None


def test_adopted_blocks_are_skipped() -> None:
    transfer = fetching(10, part=4, adopted=(0, 1, 4, 9))
    assert [started(transfer).blocks for _ in range(2)] == [range(2, 4), range(5, 9)]
    assert transfer.next_part() is None


def test_all_adopted_means_no_part_at_all() -> None:
    transfer = fetching(3, adopted=(0, 1, 2))
    assert transfer.whole
    assert transfer.next_part() is None


# --- the window ------------------------------------------------------------------------------------------------------


def test_a_part_starts_only_if_it_ends_within_the_window() -> None:
    transfer = fetching(20, part=4, window=10)
    assert [started(transfer).blocks for _ in range(2)] == [range(4), range(4, 8)]
    assert transfer.next_part() is None, "8..12 would end beyond 10"
    transfer.frontier_bytes = 2 * MIB - 1
    assert transfer.next_part() is None
    transfer.frontier_bytes = 2 * MIB
    assert started(transfer).blocks == range(8, 12)


def test_written_but_not_yet_digested_blocks_still_fill_the_window() -> None:
    """How far parts may run ahead is bound by the digest, not by what has arrived."""
    transfer = fetching(20, part=4, window=4)
    part = started(transfer)
    write(transfer, *range(4))
    transfer.end(part, Outcome.COMPLETE)
    assert transfer.next_part() is None
    transfer.frontier_bytes = 4 * MIB
    assert started(transfer).blocks == range(4, 8)


@pytest.mark.parametrize(("window_bytes", "parts"), [(2 * MIB + 4, 2), (2 * MIB + 5, 3)])
def test_the_window_counts_bytes_and_so_holds_a_short_last_block(window_bytes: int, parts: int) -> None:
    transfer = Transfer(2 * MIB + 5, part_bytes=MIB, window_bytes=window_bytes)
    transfer.on(Event.BEGIN)
    assert sum(transfer.next_part() is not None for _ in range(3)) == parts


def test_what_an_earlier_run_left_at_the_start_fills_no_window() -> None:
    """The digest reads it back from the disk, however long that takes; the network need not wait."""
    transfer = fetching(20, part=4, window=8, adopted=(*range(10), 15))
    assert [started(transfer).blocks for _ in range(2)] == [range(10, 14), range(14, 15)]
    assert transfer.next_part() is None, "16..20 would end beyond 10 + 8"
    transfer.frontier_bytes = 9 * MIB
    assert transfer.next_part() is None, "the digest is still within what was left"
    transfer.frontier_bytes = 12 * MIB
    assert started(transfer).blocks == range(16, 20)


def test_what_an_earlier_run_left_behind_a_hole_moves_no_window() -> None:
    transfer = fetching(20, part=4, window=8, adopted=tuple(range(4, 20)))
    assert started(transfer).blocks == range(4)
    transfer = fetching(20, part=4, window=8, adopted=(8, 9, 10))
    assert [started(transfer).blocks for _ in range(2)] == [range(4), range(4, 8)]
    assert transfer.next_part() is None


def test_dropped_blocks_no_longer_move_the_window() -> None:
    transfer = fetching(20, part=4, window=4, adopted=tuple(range(10)))
    transfer.empty_all()
    assert started(transfer).blocks == range(4)
    assert transfer.next_part() is None


@pytest.mark.parametrize("window", [4, 5, 7])
def test_the_lowest_missing_part_fits_once_the_digest_has_caught_up(window: int) -> None:
    for first_missing in range(12):
        transfer = fetching(12, part=4, window=window, adopted=tuple(range(first_missing)))
        transfer.frontier_bytes = transfer.readable_bytes
        assert started(transfer).blocks.start == first_missing


def test_without_a_digest_in_order_there_is_no_window() -> None:
    transfer = fetching(100, part=1)
    assert len([started(transfer) for _ in range(100)]) == 100


# --- origins that ignore Range ---------------------------------------------------------------------------------------


def test_one_unranged_answer_is_forgiven() -> None:
    transfer = fetching(8)
    transfer.end(started(transfer), Outcome.UNRANGED)
    part = started(transfer)
    assert (part.stream, part.blocks) == (False, range(4))


def unranged(blocks: int = 8, *, adopted: tuple[int, ...] = ()) -> Transfer:
    transfer = fetching(blocks, adopted=adopted, window=4)
    for _ in range(2):
        transfer.end(started(transfer), Outcome.UNRANGED)
    return transfer


def test_from_the_second_on_the_file_comes_in_one_stream() -> None:
    transfer = unranged(8, adopted=(5,))
    part = started(transfer)
    assert (part.stream, part.span) == (True, ByteRange(0, 8 * MIB))
    assert transfer.next_part() is None, "one body, and it brings everything"
    assert not transfer.claim(5), "what was here before stays"
    write(transfer, 0, 1, 2)
    transfer.end(part, Outcome.CUT)
    assert started(transfer).span == ByteRange(0, 8 * MIB)
    write(transfer, 3, 4, 6, 7)
    assert transfer.whole


def test_a_stream_waits_for_the_ranged_parts_that_are_open() -> None:
    transfer = fetching(12)
    first, second, third = started(transfer), started(transfer), started(transfer)
    transfer.end(first, Outcome.UNRANGED)
    transfer.end(second, Outcome.UNRANGED)
    assert transfer.next_part() is None
    transfer.end(third, Outcome.CUT)
    assert started(transfer).stream


def test_a_whole_file_starts_no_stream() -> None:
    transfer = unranged(2)
    write(transfer, 0, 1)
    assert transfer.next_part() is None


def test_an_origin_known_to_ignore_ranges_is_asked_for_the_whole_at_once() -> None:
    transfer = Transfer(5 * MIB + 1, part_bytes=MIB, window_bytes=MIB, ranges=False)
    transfer.on(Event.BEGIN)
    part = started(transfer)
    assert (part.stream, part.span) == (True, ByteRange(0, 5 * MIB + 1))


# --- moves -----------------------------------------------------------------------------------------------------------


def test_moves_are_counted_for_the_bytes_that_were_slow() -> None:
    transfer = fetching(8)
    for moves in range(3):
        part = started(transfer)
        assert (part.blocks, part.moves) == (range(4), moves)
        transfer.end(part, Outcome.SLOW)
    first = started(transfer)
    write(transfer, 0, 1)
    assert started(transfer).moves == 0, "the neighbours were not slow"
    transfer.end(first, Outcome.CUT)
    rest = started(transfer)
    assert (rest.blocks, rest.moves) == (range(2, 4), 3), "a cut forgets nothing"


MOVES = (Outcome.SLOW, Outcome.CRAWLED)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome not in MOVES])
def test_other_endings_are_no_moves(outcome: Outcome) -> None:
    transfer = fetching(4)
    transfer.end(started(transfer), outcome)
    assert started(transfer).moves == 0


@pytest.mark.parametrize("outcome", MOVES)
def test_only_what_was_slow_without_sound_peers_distrusts_connections_that_are_kept(outcome: Outcome) -> None:
    transfer = fetching(8)
    transfer.end(started(transfer), outcome)
    again, neighbour = started(transfer), started(transfer)
    assert (again.moves, again.distrusts) == (1, outcome is Outcome.SLOW)
    assert not neighbour.distrusts
    transfer.end(again, Outcome.CUT)
    assert started(transfer).distrusts == again.distrusts, "a cut forgets nothing"
    transfer.end(neighbour, Outcome.CUT)


@pytest.mark.parametrize("outcome", MOVES)
def test_who_was_slow_beside_his_hedge_is_remembered_to_have_been(outcome: Outcome) -> None:
    transfer = fetching(4)
    slow = started(transfer)
    hedge = transfer.hedge(slow)
    assert hedge is not None
    transfer.end(slow, outcome)
    transfer.end(hedge, Outcome.SHED)
    again = started(transfer)
    assert (again.blocks, again.moves, again.distrusts) == (slow.blocks, 1, outcome is Outcome.SLOW)


def test_a_stream_is_moved_no_more_often_than_a_part() -> None:
    transfer = unranged(2)
    transfer.end(started(transfer), Outcome.SLOW)
    assert started(transfer).moves == 1


# --- starting over ---------------------------------------------------------------------------------------------------


def test_dropping_all_blocks_starts_from_nothing() -> None:
    transfer = fetching(8, window=8, adopted=(3,))
    part = started(transfer)
    write(transfer, 0)
    transfer.frontier_bytes = MIB
    transfer.end(part, Outcome.SLOW)
    transfer.empty_all()
    assert (transfer.bytes_written, transfer.readable_bytes, transfer.frontier_bytes) == (0, 0, 0)
    again = started(transfer)
    assert (again.blocks, again.moves, again.distrusts) == (range(4), 0, False)


def test_blocks_are_not_dropped_under_an_open_part() -> None:
    transfer = fetching(8)
    started(transfer)
    with pytest.raises(InternalError, match="under an open part"):
        transfer.empty_all()


def test_blocks_are_not_dropped_under_a_write() -> None:
    transfer = fetching(8)
    part = started(transfer)
    transfer.claim(0)
    transfer.end(part, Outcome.CUT)
    with pytest.raises(InternalError, match="under an open part"):
        transfer.empty_all()


def test_a_wrong_digest_leads_back_to_fetching_everything() -> None:
    transfer = fetching(2)
    part = started(transfer)
    write(transfer, 0, 1)
    transfer.end(part, Outcome.COMPLETE)
    transfer.on(Event.LAST_BLOCK)
    assert transfer.next_part() is None
    transfer.on(Event.DIGEST_WRONG)
    transfer.empty_all()
    assert transfer.state is State.FETCHING
    assert started(transfer).blocks == range(2)


# --- a part that is asked for twice ----------------------------------------------------------------------------------


def test_a_hedge_asks_for_what_nobody_has_claimed_and_the_first_claim_wins() -> None:
    transfer = fetching(8, part=4)
    slow = started(transfer)
    write(transfer, 0)
    transfer.claim(1)
    hedge = transfer.hedge(slow)
    assert hedge is not None and hedge.hedges is slow
    assert hedge.blocks == range(2, 4)
    assert transfer.claim(2)
    assert not transfer.claim(2), "whoever comes second drops its bytes"
    assert transfer.unclaimed_blocks(slow) == transfer.unclaimed_blocks(hedge) == 1


def test_no_part_is_asked_for_a_third_time() -> None:
    transfer = fetching(8, part=4)
    slow = started(transfer)
    hedge = transfer.hedge(slow)
    assert hedge is not None
    assert transfer.hedge(slow) is None
    assert transfer.hedge(hedge) is None


@pytest.mark.parametrize("first", ["slow", "hedge"])
def test_while_one_of_the_two_is_open_its_blocks_are_nobody_elses(first: str) -> None:
    transfer = fetching(4, part=4)
    slow = started(transfer)
    write(transfer, 0)
    hedge = transfer.hedge(slow)
    assert hedge is not None
    pair = [slow, hedge] if first == "slow" else [hedge, slow]
    transfer.end(pair[0], Outcome.CUT)
    assert transfer.next_part() is None
    transfer.end(pair[1], Outcome.CUT)
    assert started(transfer).blocks == range(1, 4)


def test_a_stream_and_what_is_all_claimed_are_not_asked_for_twice() -> None:
    transfer = fetching(2, part=2)
    part = started(transfer)
    transfer.claim(0)
    transfer.claim(1)
    assert transfer.hedge(part) is None
    stream = Transfer(4 * MIB, part_bytes=MIB, window_bytes=None, ranges=False)
    stream.on(Event.BEGIN)
    assert stream.hedge(started(stream)) is None
    assert stream.hedge(part) is None, "of another file"


# --- lengths and holes -----------------------------------------------------------------------------------------------


def test_a_part_may_be_longer_than_usual_as_far_as_the_window_goes() -> None:
    transfer = fetching(20, part=2, window=8)
    part = transfer.next_part(5 * MIB)
    assert part is not None and part.blocks == range(5)
    part = transfer.next_part(5 * MIB)
    assert part is not None and part.blocks == range(5, 7), "the usual length, as five do not fit"
    assert transfer.next_part(5 * MIB) is None
    assert not transfer.has_part, "nothing starts in crumbs"
    transfer = fetching(20, part=4)
    part = transfer.next_part(MIB)
    assert part is not None and part.blocks == range(1)
    assert transfer.bytes_to_start == 19 * MIB


def test_a_file_is_held_up_when_nobody_brings_its_first_missing_block() -> None:
    transfer = fetching(8, part=2, window=4)
    assert not transfer.is_held_up, "nothing is under way"
    first, second = started(transfer), started(transfer)
    assert not transfer.is_held_up
    transfer.end(first, Outcome.CUT)
    assert transfer.is_held_up and transfer.is_stopped
    write(transfer, 2, 3)
    transfer.end(second, Outcome.COMPLETE)
    assert transfer.is_held_up and transfer.is_stopped
    started(transfer)
    assert not transfer.is_held_up
    roomy = fetching(8, part=2, window=8)
    first, _ = started(roomy), started(roomy)
    roomy.end(first, Outcome.CUT)
    assert roomy.is_held_up and not roomy.is_stopped, "it can go on behind the hole"
