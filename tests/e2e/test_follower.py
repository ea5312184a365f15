"""Digests that trail the download: gone on with after a kill, two files at a time, parts of an upload by themselves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetcher import Fetcher, hashing
from fetcher.cache import journal
from fetcher.engine import follow, readback
from fetcher.errors import IntegrityError
from fetcher.testing import S3, Hub, Synthetic, s3_in_thread
from fetcher.testing.faults import FlipByte, StallAfter, Trickle
from tests.e2e.support import (
    HURRIED,
    MIB,
    REPO,
    Child,
    assert_whole,
    fetch,
    options,
    partial_files,
    run_fetch,
    sha256_of,
    wait_until,
)

WEIGHTS = "weights.safetensors"
SAVES = pytest.mark.skipif(not hashing.Sha256.can_export, reason="this build's SHA-256 can't save its state")


def midstates(cache_dir: Path) -> list[int]:
    """Lengths of those that the one Partial's journal holds."""
    (place,) = [path for path in partial_files(cache_dir) if path.name == "journal"]
    found = journal.read(place)
    assert found is not None
    return [length for length, _ in found.midstates]


# --- resume ----------------------------------------------------------------------------------------------------------


@SAVES
@pytest.mark.needs("native")
def test_after_kill_nine_the_digest_goes_on_where_it_was(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 MiB came before the kill; at least the first 128 of them are never hashed again with SHA-256."""
    size = 200 * MIB + 77
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 3)})
    hub.faults.add(Trickle(64 * MIB).on("cdn"))
    settings = options(hub, cache_dir, part_bytes=4 * MIB, part_idle_timeout_s=10.0)
    with Child(settings) as child:
        assert child.line()["event"] == "ready"
        wait_until(lambda: hub.body_bytes_sent() > 160 * MIB or child.process.poll() is not None)
        wait_until(lambda: max(midstates(cache_dir), default=0) >= 128 * MIB or child.process.poll() is not None)
        child.send(signal.SIGKILL)
        assert child.process.wait() == -signal.SIGKILL, "it had finished before it was killed"
    saved = max(midstates(cache_dir))
    resumed, began = hashing.Trail.resume, []

    def noted(self: hashing.Trail, midstate: bytes) -> None:
        resumed(self, midstate)
        began.append(self.frontier)

    monkeypatch.setattr(hashing.Trail, "resume", noted)
    hub.faults.clear()
    assert_whole(fetch(hub, cache_dir, part_idle_timeout_s=10.0).snapshot, hub)
    assert began == [saved]
    assert saved >= 128 * MIB and saved % MIB == 0
    assert hub.body_bytes_sent() < size + 60 * MIB


@SAVES
@pytest.mark.needs("native")
def test_a_block_that_was_torn_goes_through_the_digest_again(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fetched in place of a bad block is compared with the origin's claim like everything else: were the saved
    state believed, a wrong byte in it would be published."""
    monkeypatch.setattr(follow, "MIDSTATE_BYTES", MIB)
    size = 12 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(StallAfter(0).on(path=WEIGHTS, skip=9))
    with pytest.raises(Exception, match="no new byte"):
        fetch(hub, cache_dir, no_progress_timeout_s=1.5, connections_max=1)
    assert max(midstates(cache_dir)) >= 6 * MIB
    (data,) = [path for path in partial_files(cache_dir) if path.name == "data"]
    with data.open("r+b") as file:
        file.seek(2 * MIB + 5)
        byte = file.read(1)
        file.seek(2 * MIB + 5)
        file.write(bytes([byte[0] ^ 1]))
    hub.faults.clear()
    hub.faults.add(FlipByte(2 * MIB + 9).on(path=WEIGHTS))
    with pytest.raises(IntegrityError):
        fetch(hub, cache_dir)
    hub.faults.clear()
    assert_whole(fetch(hub, cache_dir).snapshot, hub)


# --- two at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
def test_files_of_one_resource_are_digested_two_by_two(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "SHA256_PAIRS", True)
    together: list[int] = []
    feed_all = readback._feed_all

    def noted(*steps: readback.Step) -> list[int | Exception]:
        together.append(len({id(step.source) for step in steps}))
        return feed_all(*steps)

    monkeypatch.setattr(readback, "_feed_all", noted)
    files = {f"model-{number:05}.safetensors": Synthetic(24 * MIB + number, number) for number in range(4)}
    hub.add_repo(REPO, files=files)
    assert_whole(fetch(hub, cache_dir, connections_max=8).snapshot, hub)
    assert 2 in together


# --- the parts of an upload ------------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread() as running:
        running.add_bucket("models", public=True)
        yield running


def test_parts_are_digested_while_an_earlier_one_is_missing(
    s3: S3, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest of parts is no reason to wait for the first missing block."""
    content = Synthetic(24 * MIB + 5, 3)
    s3.bucket("models").put("file.bin", content, part_bytes=8 * MIB, checksum=None)
    s3.faults.add(StallAfter(0, 1.5).on("object", method="GET", nth=1))
    frontiers: list[int] = []
    fed = hashing.Trail.fed

    def noted(self: hashing.Trail, run: hashing.Run) -> None:
        fed(self, run)
        if run.ended:
            frontiers.append(self.frontier)

    monkeypatch.setattr(hashing.Trail, "fed", noted)
    settings = {**HURRIED, "cache_dir": str(cache_dir), "part_idle_timeout_s": 5.0, "part_slow_window_s": 5.0}
    outcome = run_fetch(lambda: Fetcher(environ={}, **settings), f"{s3.endpoint}/models/file.bin")
    assert sha256_of(outcome.snapshot.path / "file.bin") == content.sha256
    assert outcome.snapshot.verified_by == "md5"
    assert len(frontiers) >= 4
    assert frontiers[:2] == [0, 0], "later parts were first"
    assert frontiers[-1] == content.size
