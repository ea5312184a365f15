"""The table of a transfer: every pair in it, every pair that is not, and a drawing that shows what can be reached."""

from __future__ import annotations

from itertools import product

import pytest

from fetcher.errors import InternalError
from fetcher.plan.transfer import TRANSITIONS, Event, State, Transfer

MIB = 1 << 20

PAIRS = list(product(State, Event))

GOLDEN = """\
waiting: begin → fetching, found → done
fetching: last block → draining, origin changed → fetching
draining: digest right → committing, digest wrong → fetching
committing: committed → done
done: the end"""


def transfer_in(state: State) -> Transfer:
    transfer = Transfer(3 * MIB, part_bytes=MIB, window_bytes=None)
    transfer.state = state
    return transfer


def drawing() -> str:
    """The table as text, one state a line."""
    lines = []
    for state, row in TRANSITIONS.items():
        arrows = sorted(f"{event.value} → {following.value}" for event, following in row.items())
        lines.append(f"{state.value}: {', '.join(arrows) or 'the end'}")
    return "\n".join(lines)


def reached_from(start: State) -> set[State]:
    reached, pending = {start}, [start]
    while pending:
        for following in TRANSITIONS[pending.pop()].values():
            if following not in reached:
                reached.add(following)
                pending.append(following)
    return reached


def test_the_table_is_the_drawing() -> None:
    assert drawing() == GOLDEN


def test_the_table_speaks_of_every_state_and_every_event() -> None:
    assert list(TRANSITIONS) == list(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda item: item.name.lower())
def test_every_pair(state: State, event: Event) -> None:
    transfer = transfer_in(state)
    following = TRANSITIONS[state].get(event)
    if following is not None:
        assert transfer.on(event) is following
        assert transfer.state is following
        return
    with pytest.raises(InternalError) as raised:
        transfer.on(event)
    assert state.value in raised.value.message
    assert repr(event.value) in raised.value.message
    assert transfer.state is state, "a refused event must change nothing"


def test_every_state_can_be_reached_and_every_way_can_end() -> None:
    assert reached_from(State.WAITING) == set(State)
    assert {state for state in State if reached_from(state) == {state}} == {State.DONE}
    for state in State:
        assert State.DONE in reached_from(state), f"{state.value} can't end"


def test_nothing_leaves_done() -> None:
    assert TRANSITIONS[State.DONE] == {}


@pytest.mark.parametrize("state", [state for state in State if state is not State.FETCHING])
def test_parts_start_only_while_fetching(state: State) -> None:
    assert transfer_in(state).next_part() is None
    assert transfer_in(State.FETCHING).next_part() is not None


@pytest.mark.parametrize(
    ("size", "part_bytes", "window_bytes", "says"),
    [
        (0, MIB, None, "size 0"),
        (-1, MIB, None, "size -1"),
        (1, 0, None, "part 0"),
        (1, MIB - 1, None, "part 1048575"),
        (1, MIB + 1, None, "part 1048577"),
        (1, 2 * MIB, MIB, "window (1048576)"),
    ],
)
def test_impossible_transfers_are_refused(size: int, part_bytes: int, window_bytes: int | None, says: str) -> None:
    with pytest.raises(InternalError) as raised:
        Transfer(size, part_bytes=part_bytes, window_bytes=window_bytes)
    assert says in raised.value.message


def test_repr_is_the_state_in_one_line() -> None:
    transfer = transfer_in(State.FETCHING)
    transfer.next_part()
    transfer.claim(0)
    transfer.wrote(0, proven=True)
    transfer.frontier_bytes = MIB
    assert repr(transfer) == "<Transfer fetching 1/3 blocks, 1 parts open, frontier 1048576>"
