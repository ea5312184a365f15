"""Tenants against a model of who may have what: see ``tenancy_model.py``. A short walk in every run, a long one with
``make torture``; and faults of ours, each of which a bounded walk finds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import layout, withdrawal
from fetcher.cache.blobs import Blobs
from fetcher.cache.flights import Flights
from fetcher.cache.proofs import Proofs
from fetcher.cache.snapshots import Snapshots
from fetcher.engine import entitled
from tests.conftest import SEED
from tests.torture.modes import count
from tests.trust.tenancy_model import Walk
from tests.trust.tenants import any_blob

WALKS, STEPS = count((3, 150), (50, 210))


def walk(place: Path, walks: int = WALKS, steps: int = STEPS, seed: int = SEED) -> None:
    for number in range(walks):
        Walk(place / f"walk-{number}", random.Random(f"{seed}-{number}")).run(steps)


@pytest.mark.timeout(count(120, 7200))
def test_nobody_gets_what_is_not_his(tmp_path: Path) -> None:
    Walk.steps_done = 0
    walk(tmp_path)
    print(f"{Walk.steps_done} steps, 0 leaks")
    assert Walk.steps_done >= count(400, 10_000)


# --- the walk bites --------------------------------------------------------------------------------------------------


def lookup_knows_no_principal(patch: pytest.MonkeyPatch) -> None:
    def lookup(self: Snapshots, key: str, *principals: str) -> Any:
        found = [snapshot for snapshot in self.all() if snapshot.key == key and not snapshot.withdrawn]
        return found[0] if found else None

    patch.setattr(Snapshots, "lookup", lookup)


def a_proof_never_ends(patch: pytest.MonkeyPatch) -> None:
    def holds(self: Proofs, snapshot_id: str, principal: str, *, for_s: float) -> bool:
        with self._index.read() as rows:
            mark = self._mark(snapshot_id, principal)
            return rows.execute("SELECT 1 FROM proofs WHERE mark = ?", (mark,)).fetchone() is not None

    patch.setattr(Proofs, "holds", holds)


def a_refusal_takes_no_proof_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Proofs, "take_back", lambda self, key, principal: None)


def any_blob_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Blobs, "_linkable", lambda self, wanted, principal: any_blob(self, wanted))


def contents_have_no_principal(patch: pytest.MonkeyPatch) -> None:
    right = layout.content_id
    patch.setattr(layout, "content_id", lambda **fields: right(**{**fields, "private": False, "principal": None}))


def offline_asks_for_no_proof(patch: pytest.MonkeyPatch) -> None:
    right = entitled._proven
    patch.setattr(
        entitled, "_proven", lambda cache, settings, snapshot: settings.offline or right(cache, settings, snapshot)
    )


def one_flight_for_all(patch: pytest.MonkeyPatch) -> None:
    """Contents of one size are one flight, whoever's they are."""
    right, right_release = Flights.claim, Flights.release
    names: dict[str, str] = {}

    def claim(self: Flights, contents: Any) -> Any:
        names.update((content, f"{size:064d}") for content, size in contents)
        return right(self, [(names[content], size) for content, size in contents])

    patch.setattr(Flights, "claim", claim)
    patch.setattr(Flights, "release", lambda self, contents: right_release(self, [names[each] for each in contents]))


def nothing_is_withdrawn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(withdrawal, "withdraw", lambda *_: ())


def what_is_withdrawn_stays_linkable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(withdrawal, "close_shown", lambda *_: None)
    patch.setattr(withdrawal, "close_digests", lambda *_: None)


PLANTS = (
    (lookup_knows_no_principal, "LEAK|a hit that asks|no hit"),
    (a_proof_never_ends, "LEAK"),
    (a_refusal_takes_no_proof_back, "LEAK"),
    (any_blob_will_do, "LEAK: bytes"),
    (contents_have_no_principal, "LEAK: bytes|kept waiting"),
    (offline_asks_for_no_proof, "LEAK, offline"),
    (one_flight_for_all, "kept waiting"),
    (nothing_is_withdrawn, "LEAK|hit"),
    (what_is_withdrawn_stays_linkable, "LEAK: bytes"),
)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("plant", "told"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
def test_a_walk_finds(
    plant: Callable[[pytest.MonkeyPatch], None], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=rf"^[^\n]*({told})"):
        walk(tmp_path, 12, 150)
