"""A client whose event loop is held up by its own program: others take it for lost, and it ends well when let go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest
from tests.e2e.support import MIB, REPO, Child, Gate, Told, blobs_of, held_by, patient, tree_of, wait_until
from tests.e2e.test_stopped import facts_of

WEIGHTS = "weights.bin"
SIZE = 12 * MIB


@pytest.mark.timeout(120)
def test_a_held_up_owner_is_lost_and_a_waiter_goes_on_from_a_copy(hub: Hub, cache_dir: Path) -> None:
    """Its threads may still write to its Partial, so that is left where it is. When its loop turns again it goes on."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(SIZE, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=6))
    settings = patient(hub, cache_dir, connections_max=2, heartbeat_s=0.2, owner_lost_after_s=4.0)
    with Child(settings, tell=True, plant="holds-up-its-loop") as held_up:
        owner = Told(held_up)
        wait_until(lambda: owner.has("holding"))
        [partial] = (cache_dir / "partials-v1").iterdir()
        data = os.stat(partial / "data").st_ino
        with Child(settings, tell=True) as waiting:
            waiter = Told(waiting)
            gate.open()
            done = waiter.done()
        assert held_up.process.poll() is None
        assert tree_of(Path(done["paths"][0])) == held_by(hub)
        assert os.stat(partial / "data").st_ino == data, "neither renamed nor removed"
        before = {blob: facts_of(blob) for blob in blobs_of(cache_dir)}
        assert held_up.process.stdin is not None
        held_up.process.stdin.write(b"\n")
        held_up.process.stdin.flush()
        assert owner.done()["paths"] == done["paths"]
        owner.join()
    assert {blob: facts_of(blob) for blob in blobs_of(cache_dir)} == before, "a published Blob never changes"
    assert not partial.exists(), "it has put away what was its own"
    assert list((cache_dir / "owners-v1").iterdir()) == []
