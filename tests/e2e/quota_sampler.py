"""Looks at a cache as ``du`` does, every 10 ms, in a process of its own; when its stdin closes it says what it saw.

What was there at one instant can't be seen by a walk that takes longer than that. So each sample is the sum of two
numbers that both hold *at the moment of one SELECT*: the bytes that living owners have reserved and not drawn, and, of
the files below the cache, those that a walk just before and a walk just after found under the same name with the same
inode, each body once, with the fewer blocks of the two. So a sample never says more than there was; what is written or
removed at that very moment is missed, and found by the next.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

EVERY_S = 0.010

Walk = dict[str, tuple[tuple[int, int], int]]
"""Path → inode, blocks of 512 bytes."""


def walk(top: str) -> Walk:
    found: Walk = {}
    folders = [top]
    status = os.lstat(top)
    found[top] = (status.st_dev, status.st_ino), status.st_blocks
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                    except FileNotFoundError:
                        continue
                    found[entry.path] = (status.st_dev, status.st_ino), status.st_blocks
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found


def between(before: Walk, after: Walk) -> dict[str, int]:
    """Bytes that were there from the one walk to the other, by the directory below the cache."""
    seen: set[tuple[int, int]] = set()
    bytes_in: dict[str, int] = {}
    top = min(after, key=len)
    for path, (inode, blocks) in after.items():
        former = before.get(path)
        if former is not None and former[0] == inode and inode not in seen:
            seen.add(inode)
            room = path[len(top) + 1 :].partition("/")[0].partition(".")[0]
            bytes_in[room] = bytes_in.get(room, 0) + min(blocks, former[1]) * 512
    return bytes_in


def undrawn_bytes(index: sqlite3.Connection, owners: Path) -> int:
    """What living owners have reserved and not drawn yet. The rows are read at one instant."""
    found = index.execute("SELECT owner_id, SUM(bytes) FROM reservations GROUP BY owner_id").fetchall()
    return sum(count for owner, count in found if lives(owners / owner))


def lives(owner: Path) -> bool:
    try:
        descriptor = os.open(owner, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def main() -> None:
    cache_dir = Path(sys.argv[1])
    worst: dict[str, Any] = {"most_bytes": 0, "undrawn_bytes": 0, "in": {}}
    samples, longest_s, most_undrawn = 0, 0.0, 0
    with closing(sqlite3.connect(f"file:{cache_dir}/index-v1.sqlite?mode=ro", uri=True, timeout=10)) as index:
        before = walk(str(cache_dir))
        print(json.dumps({"event": "ready"}), flush=True)
        began = last = time.monotonic()
        while not select.select([sys.stdin], [], [], max(0.0, EVERY_S - (time.monotonic() - last)))[0]:
            now = time.monotonic()
            longest_s, last = max(longest_s, now - last), now
            undrawn = undrawn_bytes(index, cache_dir / "owners-v1")
            after = walk(str(cache_dir))
            bytes_in = between(before, after)
            before = after
            samples += 1
            most_undrawn = max(most_undrawn, undrawn)
            if (most := sum(bytes_in.values()) + undrawn) > worst["most_bytes"]:
                worst = {"most_bytes": most, "undrawn_bytes": undrawn, "in": bytes_in, "at_s": now - began}
    seconds = time.monotonic() - began
    print(
        json.dumps(
            {**worst, "samples": samples, "seconds": seconds, "longest_s": longest_s, "most_undrawn": most_undrawn}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
