"""The cache against a dict: see ``retention_model.py``. A short walk in every run, a long one with ``make torture``;
and faults of ours, each of which the short walk finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fetcher.cache import durable, leases, publish, recovery, removal, snapshots, timekeeping, writable
from fetcher.cache import space as space_room
from fetcher.cache.leases import Leases
from fetcher.cache.owners import Owners
from fetcher.cache.removal import Removal
from tests.torture.modes import count
from tests.torture.retention_model import RetentionMachine

SHORT = (10, 50)
WALKS, STEPS = count(SHORT, (300, 60))


def walk(walks: int = WALKS, steps: int = STEPS) -> None:
    run_state_machine_as_test(
        RetentionMachine,
        settings=settings(
            max_examples=walks,
            stateful_step_count=steps,
            phases=[Phase.generate],  # what was found is told as it was found: making it shorter would take minutes
            suppress_health_check=list(HealthCheck),
            deadline=None,
            derandomize="FETCHER_TEST_SEED" not in os.environ,  # with one: another walk each time
            database=None,
        ),
    )


@pytest.mark.timeout(count(90, 3600))
def test_the_cache_is_what_a_dict_would_be() -> None:
    RetentionMachine.steps_done = 0
    walk()
    assert RetentionMachine.steps_done >= count(250, 10_000)


# --- the walk bites --------------------------------------------------------------------------------------------------


def gc_ignores_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Removal, "protected", lambda self, rows: {*leases.pinned(rows)})


def gc_ignores_pins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(removal, "pinned", lambda rows: {})


def times_are_the_calendars(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timekeeping, "settle", lambda index, clock: 0.0)


def evicts_what_was_used_last(patch: pytest.MonkeyPatch) -> None:
    right = space_room.choose
    patch.setattr(space_room, "choose", lambda candidates, *arguments: right(candidates[::-1], *arguments))


def private_copies_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writable, "remove", lambda layout, path: None)


def a_reboot_keeps_leases(patch: pytest.MonkeyPatch) -> None:
    right = Leases._alive

    def alive(self: Leases, row: Any, states: dict[str, bool]) -> bool:
        return right(self, row._replace(boot_id=self._clock.boot_id), states)

    patch.setattr(Leases, "_alive", alive)


def a_rebuilt_index_loses_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    right = recovery._adopt_one
    patch.setattr(
        recovery, "_adopt_one", lambda rows, layout, name, now: name[0] > "7" and right(rows, layout, name, now)
    )


def shared_blobs_go_with_the_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(removal, "_UNREFERENCED", "1")


def fresh_for_twice_as_long(patch: pytest.MonkeyPatch) -> None:
    right = snapshots.refresh
    for room in (snapshots, publish):
        patch.setattr(
            room, "refresh", lambda rows, wanted, now, fresh_s, keep_s: right(rows, wanted, now, 2 * fresh_s, keep_s)
        )


def the_dead_keep_their_reservations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Owners, "state", lambda self, owner_id: "alive")


def a_blob_may_be_changed(patch: pytest.MonkeyPatch) -> None:
    """A body written into another's place."""
    right = durable.write_files

    def write(folder: int, names: Sequence[bytes], contents: Sequence[Any], mode: int) -> None:
        others = [b"wrong" + bytes(content)[5:] if len(content) == 40_000 else content for content in contents]
        right(folder, names, others, mode)

    patch.setattr(durable, "write_files", write)


def room_for_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(space_room.Room, "_refuse_excess", lambda *_, **__: None)


PLANTS = (
    (gc_ignores_leases, "gc removed other|evicted|pruned|lost|leased or pinned|order of eviction"),
    (gc_ignores_pins, "gc removed other|evicted|pruned|lost|leased or pinned|order of eviction"),
    (times_are_the_calendars, "gc removed other|lost|fresh|not due|pruned|stale|goes with|the order of eviction"),
    (evicts_what_was_used_last, "the order of eviction|a later one went before it"),
    (private_copies_stay, "private cop|leases"),
    (
        a_reboot_keeps_leases,
        "leases|a lease that has ended|gc removed|private cop|could not be|should be gone|left that|evict|pruned",
    ),
    (a_rebuilt_index_loses_a_snapshot, "rebuilt index has lost"),
    (shared_blobs_go_with_the_first, "blob|wrong bytes"),
    (fresh_for_twice_as_long, "fresh for longer"),
    (the_dead_keep_their_reservations, "reservations|leases|life signs|could not be|gc removed"),
    (a_blob_may_be_changed, "wrong bytes"),
    (room_for_everything, "what does not fit was promised|over the quota"),
)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("plant", "told"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
def test_a_short_walk_finds(
    plant: Callable[[pytest.MonkeyPatch], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=rf"^[^\n]*({told})"):
        # Which walks there are changes with every rule, and a little with the machine; most need a twentieth of it.
        walk(12 * SHORT[0], SHORT[1])
