"""Another process at the same cache: does one thing, says so in a line of JSON, and waits for words on stdin."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fetcher.cache import steps
from fetcher.cache.records import GoneError
from fetcher.cache.store import Cache
from fetcher.errors import FetcherError
from tests.cache.asking import claimed
from tests.cache.world import block_of, head_of, key_of, many_files_by_os, paint, publish, settings
from tests.support import locks

CRASH_CALLS = (
    "open",
    "mkdir",
    "link",
    "rename",
    "unlink",
    "rmdir",
    "fsync",
    "fdatasync",
    "fchmod",
    "write",
    "ftruncate",
)


MIB_AND_A_BIT = (1 << 20) + 17
STEP_CONTENTS = {"big": paint((2 << 20) + 17), "deep/small": b"small"}
CRASH_CONTENTS = {"large": paint(MIB_AND_A_BIT), "deep/small": b"small", "empty": b""}


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def wait() -> str:
    return sys.stdin.readline().strip()


def write_blocks(cache: Cache, size: str, shade: str, count: str) -> None:
    """Prove some blocks of a painted content, then wait; on ``again`` write rubbish into the first one."""
    data = paint(int(size), int(shade))
    partial = cache.partial_open(head_of(data))
    adopted = len(partial.proven)
    claimed(cache, partial.head.content_id, len(data))
    for block in range(int(count)):
        partial.write_block(block, block_of(data, block))
    say(owner=cache.owner.id, adopted=adopted, path=str(partial.path))
    while word := wait():
        if word == "again":
            os.pwrite(partial.fd, b"rubbish" * 1000, 0)
            say(wrote=True)


def claim(cache: Cache, content: str) -> None:
    found = claimed(cache, content, 1)
    say(owner=cache.owner.id, mine=found.mine, holder=found.owner_id)
    wait()


def race(cache: Cache, content: str) -> None:
    """Claim at a signal, so that two do it at the same time."""
    say(owner=cache.owner.id)
    wait()
    found = claimed(cache, content, 1)
    say(mine=found.mine, holder=found.owner_id)
    wait()


def lease(cache: Cache, name: str) -> None:
    snapshot = cache.lookup(key_of(name), None)
    assert snapshot is not None
    taken = cache.lease_process([snapshot.id])
    say(owner=cache.owner.id, lease=taken.id)
    wait()


def lease_timed(cache: Cache, name: str, seconds: str) -> None:
    """Take one and end: nothing of it depends on us."""
    snapshot = cache.lookup(key_of(name), None)
    assert snapshot is not None
    taken = cache.lease_timed([snapshot.id], float(seconds))
    (known,) = (lease for lease in cache.leases() if lease.id == taken.id)
    assert known.expires_at is not None
    say(lease=taken.id, left_s=known.expires_at - time.time())


def copy(cache: Cache, name: str) -> None:
    """Make a private copy, and be killed before it is anybody's."""
    snapshot = cache.lookup(key_of(name), None)
    assert snapshot is not None
    say(path=str(cache.copy_stage(snapshot.id)))
    wait()


def stage(cache: Cache, name: str) -> None:
    """Leave something under way that bears our name."""
    staged = cache.layout.staging(cache.layout.snapshots, name, cache.owner.id)
    staged.mkdir()
    say(owner=cache.owner.id, path=str(staged))
    wait()


def lease_copy(cache: Cache, name: str) -> None:
    """A private copy as long as this process lives."""
    snapshot = cache.lookup(key_of(name), None)
    assert snapshot is not None
    taken = cache.lease_process([snapshot.id])
    say(path=str(cache.copy_adopt(cache.copy_stage(snapshot.id), taken.id, 0)), lease=taken.id)
    if wait() == "release":
        cache.lease_release(taken.id)
        say(left=sorted(os.listdir(cache.layout.writable)))
        wait()


def reserve(cache: Cache, size: str) -> None:
    cache.reserve(int(size))
    say(owner=cache.owner.id)
    wait()


def leave_after(count: int) -> None:
    """Be gone, as by kill -9, when the disk is about to be changed for the ``count``-th time from now."""
    left = count

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return call(*arguments, **options)

        return wrapped

    many_files_by_os()
    for name in CRASH_CALLS:
        setattr(os, name, counted(getattr(os, name)))


def crash(cache: Cache, count: str) -> None:
    """Publish, and be gone at some point; the exit status says whether it got through."""
    leave_after(int(count))
    publish(cache, "m", CRASH_CONTENTS)
    os._exit(0)


def leave_at(step: str) -> None:
    def came_by(taken: str) -> None:
        if taken == step:
            os._exit(9)

    steps.listen(came_by)


def crash_at(cache: Cache, step: str) -> None:
    """Publish, and be gone after a step of it."""
    leave_at(step)
    publish(cache, "m", STEP_CONTENTS)


def crash_removing_at(cache: Cache, step: str) -> None:
    leave_at(step)
    cache.remove([snapshot.id for snapshot in cache.snapshots()])


def crash_removing(cache: Cache, count: str) -> None:
    """The same while everything is removed."""
    ids = [snapshot.id for snapshot in cache.snapshots()]
    leave_after(int(count))
    cache.remove(ids)
    os._exit(0)


def publish_same(cache: Cache, rounds: str) -> None:
    """Publish the same resource again and again, racing others."""
    say(ready=True)
    wait()
    for shade in range(int(rounds)):
        publish(cache, f"m{shade}", {"large": paint(MIB_AND_A_BIT, shade), "small": paint(100, shade)})
    say(done=True)


def publish_again(cache: Cache, rounds: str) -> None:
    """Publish one resource again and again while others remove it."""
    say(ready=True)
    wait()
    gone = 0
    for _ in range(int(rounds)):
        try:
            publish(cache, "m", CRASH_CONTENTS)
        except GoneError:
            gone += 1
    say(gone=gone)


def limited(cache: Cache, size: str) -> None:
    """A limit of file size, as a disk that is full."""
    import resource

    data = paint(int(size))
    partial = cache.partial_open(head_of(data))
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 19, 3 << 19))
    try:
        for block in range(partial.block_count):
            partial.write_block(block, block_of(data, block))
    except Exception as error:
        say(error=type(error).__name__, proven=sorted(partial.proven))
    partial.close()


def full(cache: Cache, action: str) -> None:
    """Do one thing on a disk on which nothing else has left a byte."""
    snapshot = publish(cache, "m", {"f": paint(8 << 20)})
    cache.close()
    place = cache.layout.cache_dir

    def free_bytes() -> int:
        room = os.statvfs(place)
        return room.f_bavail * room.f_frsize

    if action == "spent":
        cache.layout.spare.unlink()
    with open(place.parent / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free_bytes())
    free_before = free_bytes()
    try:
        with Cache.open(cache.settings, read_only=action in ("ls", "df")) as again:
            if action == "hit":
                found = again.lookup(key_of("m"), None)
                assert found is not None
                again.touch(found.id)
                done = again.lease_process([found.id]).snapshot_ids == (snapshot.id,)
            elif action == "ls":
                done = [found.id for found in again.snapshots()] == [snapshot.id] and again.leases() == []
            elif action == "df":
                done = again.usage().snapshots == 1
            elif action == "prune":
                done = again.prune_plan(max_bytes=0).execute().snapshots == (snapshot.id,)
            else:
                done = again.remove([snapshot.id]).snapshots == (snapshot.id,)
        say(free_before=free_before, done=done, free_after=free_bytes())
    except FetcherError as error:
        say(free_before=free_before, done=False, error=type(error).__name__, message=str(error), hint=error.hint)


def main() -> None:
    command, cache_dir, *arguments = sys.argv[1:]
    actions: dict[str, Callable[..., None]] = {
        "write": write_blocks,
        "claim": claim,
        "race": race,
        "lease": lease,
        "lease-timed": lease_timed,
        "copy": copy,
        "stage": stage,
        "lease-copy": lease_copy,
        "reserve": reserve,
        "crash": crash,
        "crash-removing": crash_removing,
        "crash-at": crash_at,
        "crash-removing-at": crash_removing_at,
        "publish-same": publish_same,
        "publish-again": publish_again,
        "limited": limited,
        "full": full,
    }
    locks.obey()
    options = {"state_dir": Path(state)} if (state := os.environ.get("FETCHER_TEST_STATE_DIR")) else {}
    if command == "crash-opening":
        leave_after(int(arguments[0]))
        Cache.open(settings(Path(cache_dir)))
        os._exit(0)
    with Cache.open(settings(Path(cache_dir), heartbeat_s=0.1, **options)) as cache:
        actions[command](cache, *arguments)


if __name__ == "__main__":
    main()
