"""The power is cut at any instant: nothing wrong is ever visible after it, and nothing that was promised is lost.

docs/TORTURE.md says how, and why the images are what a power cut may leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.torture.crash_images import PROMISES_MIN, Order, run_in_namespaces
from tests.torture.devices import FILE_SYSTEMS
from tests.torture.modes import count

TOOLS = ("loop", "fuse", "native", "debian:mount", "debian:unshare")
MAKERS = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs", "btrfs": "mkfs.btrfs"}
SHORT_IMAGES = {"ext4": 2, "ext4-writeback": 1, "xfs": 2, "btrfs": 1}

RUNS = count(1, 3)
SECONDS = count(3, 6)
LOST = "was promised, and is not there"
FALSE = "false publish"
FAULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no-data-fsync": (count(("ext4",), tuple(FILE_SYSTEMS)), (FALSE, LOST)),
    "no-index-fsync": (count(("ext4",), tuple(FILE_SYSTEMS)), (LOST,)),
    "no-barrier": (count((), tuple(FILE_SYSTEMS)), (FALSE, LOST)),
    # Chance has a part in it: any file that is made durable may take the names of others along.
    "no-directory-fsync": (count((), ("btrfs",)), (LOST,)),
}
"""What is planted: where, and what the judge may say of it. A file without its bytes is seen; a whole directory that
is not there is only missed."""


def on(name: str, *before: str) -> Any:
    """Parameters, the last of which is this file system, where the machine can make and mount it."""
    kind = FILE_SYSTEMS[name].kind
    return pytest.param(*before, name, marks=pytest.mark.needs(*TOOLS, f"debian:{MAKERS[kind]}", f"fs:{kind}"))


@pytest.mark.timeout(count(60, 300))
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("file_system", [on(name) for name in FILE_SYSTEMS])
def test_nothing_wrong_is_visible_and_nothing_promised_is_lost(
    file_system: str, run: int, tmp_path: Path, seed: int
) -> None:
    order = Order(
        directory=str(tmp_path),
        file_system=file_system,
        seed=seed * 1000 + run,
        images=count(SHORT_IMAGES[file_system], 3),
        seconds=SECONDS,
        processes=count(1, 1 + run % 2),
        generations=count(1, 2),
        # From a disk with a battery to one that turns.
        flush_s=(0.004, 0.0, 0.025)[run % 3],
    )
    told = run_in_namespaces(order, timeout_s=count(55, 280))
    report(order, told)
    images = [fact for fact in told if fact["event"] == "image"]
    assert len(images) == order.images * order.generations
    assert [fault for image in images for fault in image["faults"]] == []
    assert sum(fact["promised"] for fact in told if fact["event"] == "load") >= PROMISES_MIN


@pytest.mark.timeout(count(60, 300))
@pytest.mark.parametrize(
    ("fault", "file_system"), [on(name, fault) for fault, (names, _) in FAULTS.items() for name in names]
)
def test_the_judge_catches_what_was_not_made_durable(fault: str, file_system: str, tmp_path: Path, seed: int) -> None:
    order = Order(
        directory=str(tmp_path),
        file_system=file_system,
        seed=seed * 1000,
        images=count(3, 9),
        seconds=SECONDS,
        fault=fault,
    )
    told = run_in_namespaces(order, timeout_s=count(55, 280))
    report(order, told)
    faults = [said for fact in told if fact["event"] == "image" for said in fact["faults"]]
    assert any(word in said for word in FAULTS[fault][1] for said in faults), "a missing fsync was not noticed"


def report(order: Order, told: Sequence[dict[str, Any]]) -> None:
    """What was done, for whoever asks pytest for it (-rP, or a failure)."""
    planted = f", planted: {order.fault}" if order.fault else ""
    print(f"{order.file_system}, seed {order.seed}, {order.processes} clients, flush {order.flush_s} s{planted}")
    for fact in told:
        if fact["event"] == "image":
            print(
                f"  generation {fact['generation']}, {fact['at_s']:.3f} s, {fact['cut']}: {fact['requests']} requests "
                f"({fact['unflushed']} not flushed), {fact['promises']} promises, {fact['snapshots']} snapshots, "
                f"{fact['blobs']} blobs, {fact['pins']} pins, {fact['bytes_compared'] >> 20} MiB compared, "
                f"{fact['lost_bytes']} of {fact['proven_bytes']} proven bytes lost, {fact['asked_bytes']} asked for, "
                f"{fact['leftovers']} left over"
            )
            for fault in fact["faults"]:
                print(f"    {fault}")
        else:
            print(f"  load: {fact['requests']} requests, {fact['promised']} promises, failures: {fact['failures']}")
