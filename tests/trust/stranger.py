"""Another user of the host, who knows every name: ``python stranger.py JOB`` with a JSON job on stdin; JSON on stdout.

Standard library only, no import of the product: it runs as somebody who may not be able to read the checkout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def probe(paths: list[str], elsewhere: str) -> list[list[str]]:
    """Try everything with every path; what worked, as ``[verb, path]``. Undone again where it can be."""
    worked = []
    for path in paths:
        for verb, attempt in _attempts(path, elsewhere):
            try:
                attempt()
            except (OSError, BlockingIOError):
                continue
            worked.append([verb, path])
    return worked


def _attempts(path: str, elsewhere: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    mine = f"{elsewhere}/mine-{os.getpid()}"
    inside, moved = f"{path}/planted-{os.getpid()}", f"{path}.moved-{os.getpid()}"
    beside = str(Path(path).parent / f"planted-{os.getpid()}")

    def open_for(flags: int) -> Callable[[], None]:
        return lambda: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW))

    def read() -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.read(descriptor, 1)
        finally:
            os.close(descriptor)

    def made(place: str, make: Callable[[], Any], unmake: Callable[[str], None] = os.unlink) -> Callable[[], None]:
        def attempt() -> None:
            make()
            unmake(place)

        return attempt

    def replace() -> None:
        Path(mine).write_bytes(b"planted")
        os.rename(mine, path)

    def move() -> None:
        os.rename(path, moved)
        os.rename(moved, path)

    yield "read", read
    yield "list", lambda: os.listdir(path)
    yield "write", open_for(os.O_WRONLY)
    yield "truncate", lambda: os.truncate(path, os.stat(path).st_size)
    yield "chmod", lambda: os.chmod(path, 0o777)
    yield "utime", lambda: os.utime(path)
    yield "rename", move
    yield "create inside", made(inside, lambda: os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    yield "mkdir inside", made(inside, lambda: os.mkdir(inside), os.rmdir)
    yield "symlink inside", made(inside, lambda: os.symlink("/etc", inside))
    yield "create beside", made(beside, lambda: os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    yield "link out", made(mine, lambda: os.link(path, mine, follow_symlinks=False))
    yield "replace", replace
    yield "unlink", lambda: os.unlink(path)
    yield "rmdir", lambda: os.rmdir(path)


def plant(places: list[str], target: str, seconds: float) -> int:
    """As fast as it goes, put symlinks to ``target`` where others are about to make something; how many it put."""
    count, end = 0, time.monotonic() + seconds
    print("ready", flush=True)
    while time.monotonic() < end:
        for place in places:
            try:
                os.symlink(target, place)
                count += 1
                if count % 3 == 0:
                    os.unlink(place)
            except OSError:
                pass
    return count


def swap(folder: str, target: str, seconds: float) -> int:
    """In a directory of ours that somebody copies into: again and again ``folder`` is a symlink to ``target``."""
    count, end = 0, time.monotonic() + seconds
    print("ready", flush=True)
    while time.monotonic() < end:
        count += 1
        aside = f"{folder}.{count}"  # a fresh name: meanwhile the other side may have made the folder anew
        try:
            os.rename(folder, aside)
            os.symlink(target, folder)
        except OSError:
            pass
        try:
            os.lstat(folder)
            os.unlink(folder)  # only a symlink goes that way
            os.rename(aside, folder)
        except OSError:
            pass
    return count


def do(steps: list[list[Any]]) -> list[str]:
    """One step after the other: ``[verb, path, argument]``."""
    verbs: dict[str, Callable[..., Any]] = {
        "mkdir": lambda path, mode: (os.mkdir(path), os.chmod(path, mode)),
        "symlink": lambda path, target: os.symlink(target, path),
        "fifo": lambda path, mode: os.mkfifo(path, mode),
        "file": lambda path, text: Path(path).write_text(text),
        "chmod": lambda path, mode: os.chmod(path, mode),
    }
    for verb, path, argument in steps:
        verbs[verb](path, argument)
    return [path for _, path, _ in steps]


if __name__ == "__main__":
    os.umask(0)
    jobs: dict[str, Callable[..., Any]] = {"probe": probe, "plant": plant, "swap": swap, "do": do}
    print(json.dumps(jobs[sys.argv[1]](*json.load(sys.stdin))))
