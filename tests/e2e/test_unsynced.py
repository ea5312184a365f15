"""A disk that takes its time to make things durable: what a power cut may cost stays within ``sync_bytes``."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fetcher.cache.partials import Partial
from fetcher.engine.unsynced import Unsynced
from fetcher.plan.tree import block_length
from fetcher.testing import Hub, Synthetic
from tests.e2e.support import MIB, REPO, assert_whole, fetch

SYNC_BYTES = 8 * MIB
CONNECTIONS = 4


class SlowDisk:
    """Counts what was written since the last sync began that is through by now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self._unsafe: dict[Path, int] = {}
        self.most = 0
        self.syncs = 0
        end_block, give_up_writing = Partial.end_block, Partial.give_up_writing

        def written(partial: Partial, block: int, value: bytes) -> None:
            end_block(partial, block, value)
            with self._lock:
                length = block_length(partial.size, block)
                self._unsafe[partial.path] = self._unsafe.get(partial.path, 0) + length
                self.most = max(self.most, sum(self._unsafe.values()))

        def sync(partial: Partial) -> None:
            with partial.reading():
                covered = self._unsafe.get(partial.path, 0)
                time.sleep(0.3)
                with self._lock:
                    self._unsafe[partial.path] -= covered
                    self.syncs += 1

        def give_up(partial: Partial) -> int:
            with self._lock:
                self._unsafe.pop(partial.path, None)  # the commit makes it durable
            return give_up_writing(partial)

        monkeypatch.setattr(Partial, "end_block", written)
        monkeypatch.setattr(Partial, "sync", sync)
        monkeypatch.setattr(Partial, "give_up_writing", give_up)


@pytest.mark.parametrize("files", [1, 6])
def test_no_more_than_sync_bytes_waits_for_a_slow_disk(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    hub.add_repo(REPO, files={f"{n}.bin": Synthetic(36 * MIB // files + n, n) for n in range(files)})
    disk = SlowDisk(monkeypatch)
    outcome = fetch(hub, cache_dir, sync_bytes=SYNC_BYTES, connections_max=CONNECTIONS)
    assert_whole(outcome.snapshot, hub)
    assert disk.syncs > 2
    # A block that is at its worker when all is full is written nevertheless: two per connection.
    assert disk.most <= SYNC_BYTES + 2 * CONNECTIONS * MIB


def test_the_same_judge_catches_who_does_not_hold(hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def has_room(unsynced: Unsynced, job: object) -> bool:
        return True

    hub.add_repo(REPO, files={"a.bin": Synthetic(36 * MIB, 1)})
    disk = SlowDisk(monkeypatch)
    monkeypatch.setattr(Unsynced, "has_room", has_room)
    fetch(hub, cache_dir, sync_bytes=SYNC_BYTES, connections_max=CONNECTIONS)
    assert disk.most > SYNC_BYTES + 2 * CONNECTIONS * MIB


def test_the_least_that_may_be_set_is_enough(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={"a.bin": Synthetic(8 * MIB, 1)})
    outcome = fetch(hub, cache_dir, sync_bytes=MIB, connections_max=CONNECTIONS)
    assert_whole(outcome.snapshot, hub)
