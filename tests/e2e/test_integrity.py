"""Wrong bytes: healed when it happens once, refused when it happens always, visible never."""

from __future__ import annotations

from pathlib import Path

import pytest

from fetcher import IntegrityError, Notice, TransportError
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import ChangeContent, FlipByte, IgnoreRange, ShiftRange, StallAfter
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    assert_blobs_sound,
    assert_whole,
    blobs_of,
    fetch,
    held_by,
    mixed_files,
    nothing_visible,
    partial_files,
)

WEIGHTS = "weights.bin"


@pytest.mark.parametrize("at", [0, MIB - 1, MIB, 2 * MIB + 77, 4 * MIB])
def test_one_wrong_byte_costs_one_refetch_of_that_file(hub: Hub, cache_dir: Path, at: int) -> None:
    size = 4 * MIB + 1
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1), "other.bin": Synthetic(2 * MIB, 2)})
    hub.faults.add(FlipByte(at).on(path=WEIGHTS, times=1))
    notices: list[Notice] = []
    outcome = fetch(hub, cache_dir, on_event=lambda event: notices.append(event) if isinstance(event, Notice) else None)
    assert_whole(outcome.snapshot, hub)
    assert hub.body_bytes_sent(WEIGHTS) == 2 * size, "the file once more, whole"
    assert hub.body_bytes_sent("other.bin") == 2 * MIB, "and no other"
    assert [notice for notice in notices if WEIGHTS in notice.message]


@pytest.mark.parametrize("flip", ["same-place", "other-place"])
def test_always_wrong_is_never_visible(hub: Hub, cache_dir: Path, flip: str) -> None:
    size = 3 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1), "good.bin": Synthetic(MIB + 1, 2)})
    if flip == "same-place":
        hub.faults.add(FlipByte(5).on(path=WEIGHTS))
    else:
        hub.faults.add(FlipByte(5).on(path=WEIGHTS, times=1), FlipByte(2 * MIB + 5).on(path=WEIGHTS, skip=1, times=1))
    with pytest.raises(IntegrityError) as caught:
        fetch(hub, cache_dir)
    assert caught.value.exit_code == 40
    assert WEIGHTS in caught.value.message
    assert hub.body_bytes_sent(WEIGHTS) == 2 * size, "one refetch, no more"
    if flip == "other-place" and RESUMES:
        assert "MiB 0, 2" in caught.value.message, "the two copies show where the line is damaged"
    nothing_visible(cache_dir)
    known = [sha256 for _, sha256 in held_by(hub).values()]
    assert_blobs_sound(cache_dir, known)
    # What was rejected is kept apart for the report, and is not where a resume would look for bytes.
    kept = [path for path in partial_files(cache_dir) if path.stat().st_size == size]
    assert kept
    hub.faults.clear()
    hub.requests.clear()
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    assert hub.body_bytes_sent(WEIGHTS) == size, "nothing of the rejected copies was believed"


def test_blobs_are_sound_after_every_kind_of_lie(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    hub.faults.add(
        FlipByte(100).on(path="small.bin", times=1),
        FlipByte(MIB).on(path="*.txt", times=1),
        ShiftRange(MIB, lying=True).on(path="model.safetensors", times=1),
    )
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    assert len(blobs_of(cache_dir)) == 4
    assert_blobs_sound(cache_dir, [sha256 for _, sha256 in held_by(hub).values()])


def test_a_block_answered_twice_with_different_bytes(hub: Hub, cache_dir: Path) -> None:
    """The first block came right; then the origin ignores Range and answers it again, wrong. One block, one owner: the
    second answer's bytes are dropped, so nothing has to be refetched."""
    size = 4 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(IgnoreRange().on(path=WEIGHTS, skip=1), FlipByte(10).on(path=WEIGHTS, skip=1))
    assert_whole(fetch(hub, cache_dir, connections_max=1).snapshot, hub)
    # The first part; twice the whole file instead of a part; then the whole file in one stream. No refetch.
    assert hub.count("cdn") == 4
    assert hub.faults.fired["FlipByte-10-1"] == 3


def test_content_that_changes_in_mid_file_is_never_mixed(hub: Hub, cache_dir: Path) -> None:
    size = 6 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(ChangeContent().on(path=WEIGHTS, skip=3, times=1))
    assert_whole(fetch(hub, cache_dir, connections_max=2).snapshot, hub)
    assert hub.count("resolve", path=WEIGHTS) == 2, "looked up once more"


def test_content_that_changes_for_good(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(6 * MIB, 1)})
    hub.faults.add(ChangeContent().on(path=WEIGHTS, skip=3))
    with pytest.raises((IntegrityError, TransportError)):
        fetch(hub, cache_dir)
    nothing_visible(cache_dir)
    assert_blobs_sound(cache_dir, [])


@pytest.mark.needs("native")
def test_a_flipped_byte_in_a_partial_is_not_believed(hub: Hub, cache_dir: Path) -> None:
    size = 6 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(StallAfter(0).on(path=WEIGHTS, skip=4))
    with pytest.raises(TransportError):
        fetch(hub, cache_dir, no_progress_timeout_s=1.0)
    (data,) = [path for path in partial_files(cache_dir) if path.name == "data"]
    proven = data.stat().st_blocks * 512
    assert proven >= 3 * MIB
    with data.open("r+b") as file:
        for offset in range(0, size, MIB):
            file.seek(offset + 17)
            byte = file.read(1)
            file.seek(offset + 17)
            file.write(bytes([byte[0] ^ 1]))
            break
    hub.faults.clear()
    hub.requests.clear()
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    assert hub.body_bytes_sent() <= size - 2 * MIB, "the other blocks were used"
