"""A client that is frozen (SIGSTOP) and thawed: another takes over and finishes; the thawed one changes nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import Trickle
from tests.e2e.support import (
    MIB,
    REPO,
    Child,
    blobs_of,
    held_by,
    options,
    proven_blocks,
    sha256_of,
    tree_of,
    wait_until,
)

WEIGHTS = "weights.safetensors"
SIZE = 12 * MIB + 99


def facts_of(path: Path) -> tuple[int, int, int, str]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_mode, sha256_of(path)


@pytest.mark.parametrize("moment", [0.1, 0.6, 0.95])
def test_frozen_adopted_thawed(hub: Hub, cache_dir: Path, moment: float) -> None:
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(SIZE, 1), "small.txt": "small", "tiny.bin": Synthetic(100, 2)})
    hub.faults.add(Trickle(3 * MIB).on("cdn", path=WEIGHTS))
    # No part is moved: on a busy machine one may crawl beside the others, and what it has of a block is sent again.
    times: dict[str, Any] = {"heartbeat_s": 0.2, "owner_lost_after_s": 1.0}
    settings = options(hub, cache_dir, connections_max=4, part_moves_max=0, **times)
    with Child(settings) as frozen:
        assert frozen.line()["event"] == "ready"
        wait_until(lambda: hub.body_bytes_sent(WEIGHTS) >= moment * SIZE)
        frozen.send(signal.SIGSTOP)
        proven, sent = proven_blocks(cache_dir), hub.body_bytes_sent(WEIGHTS)
        with Child(settings) as adopter:
            done = adopter.done(30)
        assert tree_of(Path(done["paths"][0])) == held_by(hub)
        again = hub.body_bytes_sent(WEIGHTS) - sent
        # Four connections: to the frozen one each goes on until its part is in the socket buffers.
        assert again <= SIZE - proven * MIB + 4 * MIB
        before = {blob: facts_of(blob) for blob in blobs_of(cache_dir)}
        assert len(before) == 3
        frozen.send(signal.SIGCONT)
        thawed = frozen.done(30)
    assert thawed["paths"] == done["paths"]
    assert {blob: facts_of(blob) for blob in blobs_of(cache_dir)} == before, "a published Blob never changes"
    assert tree_of(Path(done["paths"][0])) == held_by(hub)


def test_thawed_while_the_adopter_works(hub: Hub, cache_dir: Path) -> None:
    """Both work on the same content at once; neither writes into the other's bytes."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(SIZE, 1)})
    hub.faults.add(Trickle(1.5 * MIB).on("cdn", path=WEIGHTS))
    settings = options(hub, cache_dir, connections_max=4, heartbeat_s=0.2, owner_lost_after_s=0.8)
    with Child(settings) as frozen:
        assert frozen.line()["event"] == "ready"
        wait_until(lambda: hub.body_bytes_sent() >= SIZE // 3)
        frozen.send(signal.SIGSTOP)
        connections = {record.connection for record in hub.requests}
        with Child(settings) as adopter:
            assert adopter.line()["event"] == "ready"
            wait_until(lambda: any(record.connection not in connections for record in hub.requests.select("cdn")))
            frozen.send(signal.SIGCONT)
            first, second = adopter.done(30), frozen.done(30)
    assert first["paths"] == second["paths"]
    assert tree_of(Path(first["paths"][0])) == held_by(hub)
    assert len(blobs_of(cache_dir)) == 1
