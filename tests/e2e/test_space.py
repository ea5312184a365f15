"""Full disks: refused before the first byte where the plan can know it, kept and resumed where it can't."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher import NoSpaceError
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest
from fetcher.testing.hub.hostility import HostileTree
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    Child,
    Gate,
    fetch,
    held_by,
    kept_blocks,
    mixed_files,
    nothing_visible,
    options,
    partial_files,
    tree_of,
    wait_until,
)

WEIGHTS = "weights.bin"


# --- what the plan can know ------------------------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_asks_for_no_byte(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    huge = {"oid": "0" * 64, "size": 7 << 40, "pointerSize": 140}
    row: Any = {"type": "file", "oid": "0" * 40, "size": 7 << 40, "path": "huge.bin", "lfs": huge}
    hub.faults.add(HostileTree((row,)).on())
    with pytest.raises(NoSpaceError) as caught:
        fetch(hub, cache_dir)
    assert caught.value.exit_code == 50
    assert caught.value.message.startswith("7.7 TB are to be fetched")
    assert caught.value.hint
    assert hub.count("bodies") == hub.count("resolve") == 0
    nothing_visible(cache_dir)
    assert partial_files(cache_dir) == []


def test_the_floor_is_left_free(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())
    with pytest.raises(NoSpaceError):
        fetch(hub, cache_dir, space_floor_bytes=shutil.disk_usage(cache_dir.parent.parent).total)
    assert hub.count("bodies") == 0


# --- a file system of our own ----------------------------------------------------------------------------------------


class SmallDisk:
    """A tmpfs in a mount namespace of its own. Clients run in it by ``prefix``; the test looks in by ``path``."""

    def __init__(self, mount_point: Path, holder: subprocess.Popen[bytes]) -> None:
        self.mount_point = mount_point
        self.path = Path(f"/proc/{holder.pid}/root{mount_point}")
        self.prefix = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt")

    def resize(self, size_bytes: int) -> None:
        option = f"remount,size={size_bytes}"
        subprocess.run([*self.prefix, "mount", "-o", option, str(self.mount_point)], check=True, timeout=10)


@contextmanager
def small_disk(mount_point: Path, size_bytes: int) -> Iterator[SmallDisk]:
    mount_point.mkdir(parents=True)
    script = (
        'mount --make-rprivate / && mount -t tmpfs -o "size=$2,mode=0755" small-disk "$1" && echo mounted && read _'
    )
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", mount_point, str(size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"mounted\n"
            yield SmallDisk(mount_point, holder)
        finally:
            holder.kill()


needs_disk = pytest.mark.needs("root", "mountns")


@needs_disk
def test_a_disk_that_fills_up_meanwhile(hub: Hub, tmp_path: Path) -> None:
    size = 12 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1), "small.txt": "small"})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=5))
    with small_disk(tmp_path / "disk", 24 * MIB) as disk:
        settings = options(hub, disk.mount_point / "cache", connections_max=2)
        with Child(settings, prefix=disk.prefix) as child:
            assert child.line()["event"] == "ready"
            wait_until(lambda: hub.body_bytes_sent(WEIGHTS) >= 5 * MIB and kept_blocks(disk.path / "cache", 5))
            # Somebody else takes all that is left.
            with (disk.path / "filler").open("wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(64 << 10))
                except OSError:
                    pass
            gate.open()
            fact = child.result()
            assert (child.process.returncode, fact["kind"]) == (50, "no_space"), fact
        cache = disk.path / "cache"
        nothing_visible(cache)
        assert [path for path in partial_files(cache) if path.name == "data"], "kept"
        (disk.path / "filler").unlink()
        hub.faults.clear()
        sent = hub.body_bytes_sent(WEIGHTS)
        with Child(settings, prefix=disk.prefix) as child:
            assert child.done()["snapshots"]
        (snapshot,) = [path for path in (cache / "snapshots-v1").iterdir() if path.is_dir()]
        assert tree_of(snapshot) == held_by(hub)
        assert hub.body_bytes_sent(WEIGHTS) - sent <= size - (2 * MIB if RESUMES else 0), "resumed"


@pytest.mark.needs("native")
@needs_disk
def test_a_partial_is_not_planned_twice(hub: Hub, tmp_path: Path) -> None:
    """What a Partial already holds needs no room again: a file that barely fits can be resumed."""
    size = 16 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=13))
    with small_disk(tmp_path / "disk", 22 * MIB) as disk:
        settings = options(hub, disk.mount_point / "cache", connections_max=2)
        with Child(settings, prefix=disk.prefix) as child:
            assert child.line()["event"] == "ready"
            wait_until(lambda: kept_blocks(disk.path / "cache", 13))
            child.process.kill()
            child.process.wait()
        hub.faults.clear()
        gate.open()
        with Child(settings, prefix=disk.prefix) as child:
            child.done()
    assert hub.body_bytes_sent(WEIGHTS) <= size + 6 * MIB


@needs_disk
def test_an_old_snapshot_makes_room_and_a_leased_one_never_does(hub: Hub, tmp_path: Path) -> None:
    for index, name in enumerate(("oldest", "older", "new")):
        hub.add_repo(f"acme/{name}", files={WEIGHTS: Synthetic(8 * MIB, index), "name.txt": name})
    with small_disk(tmp_path / "disk", 24 * MIB) as disk:
        settings = options(hub, disk.mount_point / "cache")

        def get(name: str) -> dict[str, Any]:
            with Child(settings, [f"hf://acme/{name}"], prefix=disk.prefix) as child:
                return child.result()

        def here() -> set[str]:
            return {path.read_text() for path in (disk.path / "cache" / "snapshots-v1").glob("*/name.txt")}

        assert get("oldest")["event"] == get("older")["event"] == "done"
        with Child(settings, ["hf://acme/oldest"], hold=True, prefix=disk.prefix) as holder:
            assert [holder.line()["event"], holder.line()["event"]] == ["ready", "leased"]
            assert get("new")["event"] == "done"
            assert here() == {"oldest", "new"}, "the one without a lease went, though it was used later"
            with Child(settings, ["hf://acme/new"], hold=True, prefix=disk.prefix) as second:
                assert [second.line()["event"], second.line()["event"]] == ["ready", "leased"]
                sent = hub.body_bytes_sent()
                assert get("older")["kind"] == "no_space"
                assert hub.body_bytes_sent() == sent
                assert here() == {"oldest", "new"}, "a refusal evicts nothing"
        assert get("older")["event"] == "done"
        assert here() == {"new", "older"}, "least recently used first"


# --- walls that an ordinary user meets -------------------------------------------------------------------------------


def test_a_limit_on_the_size_of_files(hub: Hub, cache_dir: Path) -> None:
    size = 8 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    settings = options(hub, cache_dir, connections_max=1)
    with Child(settings, prefix=("prlimit", f"--fsize={4 * MIB}")) as child:
        fact = child.result()
        assert (child.process.returncode, fact["kind"]) == (50, "no_space"), fact
    nothing_visible(cache_dir)
    with Child(settings) as child:
        assert tree_of(Path(child.done()["paths"][0])) == held_by(hub)
    assert hub.body_bytes_sent() <= size + MIB, "noticed when the Partial was made, or resumed; never twice"


def test_a_cache_that_is_removed_under_a_fetch_ends_typed(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files=mixed_files())

    def remove(exchange: object) -> None:
        # First away under its name, at once: a Partial that is being made meanwhile would make rmtree alone fail.
        removed = (cache_dir / "partials-v1").rename(cache_dir / "removed")
        shutil.rmtree(removed, ignore_errors=True)

    hub.faults.add(OnRequest(remove).on("cdn", nth=1))
    settings = options(hub, cache_dir)
    with Child(settings) as child:
        fact = child.result()
    # Open files go on working; whatever happens then, it is an answer and no traceback.
    assert fact["event"] == "done" or fact["kind"] == "cache", fact
