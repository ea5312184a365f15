"""kill -9 in the middle of one large file, with the same script for everybody: three times, then to the end.

The line is throttled, so that it is the limit and not the machine, and the moments are of the line: when the origin
has sent so many bytes in all, drawn from a seed, the same for all rivals of a round. After each kill it is looked at
what is there under the file's final name; at the end, whether the file is right, how many bytes the origin sent more
than the file has, and what is left on the disk beside it. In a second variant one bit of what is kept on the disk is
flipped between the kill and the restart.

Each rival is started again with the command that its documentation gives for going on. The caveats are in
benchmarks/README.md.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.origins.counted import Counted, counted
from benchmarks.origins.embedded import BIG, BIG_SEED
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Failed, environment_of, kill_all, pinned, put_first
from benchmarks.running.options import MIB, Options
from benchmarks.running.race import Row, command_of, outputs_of, room_in
from benchmarks.running.work import Command, Work
from fetcher.testing.contents import Synthetic

KILLS = 3
STRETCH = 64 << 10
FLIPPED_WITHIN = 4 * MIB
"""From the start of what is kept: those bytes came long before the kill, so every control file speaks of them."""
PATIENCE_S = 300.0
LINE_BYTES_PER_S = 16 * MIB
"""Of each connection. Who saves his state each second loses what four of them bring in that time, 64 MiB: a fifth of
the file of the long form. A slower line would make that less, and all of it longer: a whole file takes one connection
20 s."""
NAME = "model.safetensors"


def kill(options: Options) -> Iterator[Row]:
    """kill -9 in the middle of a file: who goes on, from where; who notices a bit flipped on the disk meanwhile."""
    entrants = []
    for name in options.of(name for name, rival in RIVALS.items() if "resume" in rival.ways):
        if missing := RIVALS[name].missing:
            yield {"rival": name, "missing": missing}
        else:
            entrants.append(name)
    content = Synthetic(options.kill_bytes, BIG_SEED)
    with (
        # What was kept may lie beside what is fetched anew.
        room_in(options.disk, 2 * content.size, chosen_by="--kill-size") as room,
        counted(size_bytes=content.size, bytes_per_s=LINE_BYTES_PER_S) as hub,
    ):
        for number in range(options.rounds):
            dice = random.Random(options.seed * 1000 + number)
            marks = sorted(dice.uniform(0.2, 0.92) for _ in range(KILLS))
            late = dice.uniform(0.5, 0.8)
            for name in entrants:
                for variant in (marks, [late]):
                    flip = variant is not marks
                    labels = {"version": RIVALS[name].version(), "verifies": RIVALS[name].verifies}
                    row: Row = {"rival": name, "variant": "flip" if flip else "kill", "round": number, **labels}
                    try:
                        dice = random.Random(number)
                        yield row | _one(hub, name, content, variant, room, dice, core=options.core, flip=flip)
                    except Failed as failed:
                        yield row | {"failed": str(failed)}


@contextmanager
def started(command: Command) -> Iterator[subprocess.Popen[bytes]]:
    """A rival at work, with all its children in a group of their own; none is left when the block is."""
    nothing, environment = subprocess.DEVNULL, environment_of(command)
    try:
        process = subprocess.Popen(
            command.arguments, env=environment, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError as error:
        raise Failed(f"{command.arguments[0]} can't be run: {error.strerror}") from None
    try:
        put_first(process.pid)
        yield process
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    kill_all(process.pid)
    process.wait()


def _run_until(hub: Counted, command: Command, body_bytes: float) -> bool:
    """Kill it when the origin has sent so many bytes; False: it ended before."""
    with started(command) as process:
        deadline = time.monotonic() + PATIENCE_S
        while hub.look()["body_bytes"] < body_bytes:
            if process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise Failed(f"got nowhere in {PATIENCE_S:.0f} s")
            time.sleep(0.005)
        _kill(process)
    while hub.look()["open"]:  # what the origin says from now on reaches nobody
        time.sleep(0.01)
    return True


def _run_to_the_end(command: Command) -> tuple[int, float]:
    """Exit code and seconds."""
    start = time.perf_counter()
    with started(command) as process:
        try:
            return process.wait(PATIENCE_S), time.perf_counter() - start
        except subprocess.TimeoutExpired:
            return -1, PATIENCE_S


def _is(path: Path, content: Synthetic) -> bool:
    """Whether a file has this content."""
    if path.stat().st_size != content.size:
        return False
    with path.open("rb") as file:
        return all(file.read(len(view)) == view for view in content.views())


def _allocated(directory: Path) -> int:
    """Bytes of the files below, each counted once."""
    bodies = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        bodies[status.st_ino] = status.st_blocks * 512 if path.is_file() else 0
    return sum(bodies.values())


def _flip_a_byte(directory: Path, content: Synthetic, dice: random.Random) -> Path | None:
    """Flip a bit of what had come and is on the disk; None if nothing is. Whether it is used is the rival's affair."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(files, key=lambda each: each.stat().st_size, reverse=True):
        with path.open("r+b") as file:
            start = file.read(FLIPPED_WITHIN)
            kept = [
                offset
                for offset in range(0, len(start), STRETCH)
                if start[offset : offset + STRETCH] == content.read(offset, min(offset + STRETCH, content.size))
            ]
            if not kept:
                continue
            at = dice.choice(kept) + dice.randrange(STRETCH)
            file.seek(at)
            file.write(bytes([start[at] ^ 1]))
            return path
    return None


def _one(
    hub: Counted,
    name: str,
    content: Synthetic,
    marks: list[float],
    parent: Path,
    dice: random.Random,
    *,
    core: int | None,
    flip: bool,
) -> Row:
    """Kill at each of the marks (shares of the file that the origin has sent), then let it end."""
    hub.count()
    kills = half = 0
    flipped = False
    with room_in(parent) as directory:
        base = f"{hub.endpoint}/{BIG}/resolve/main"
        work = Work(base, (NAME,), directory, hub=hub.endpoint, repo=BIG, sha256=content.sha256)
        command = command_of(name, "resume", work)
        command = replace(command, arguments=(*pinned(core), *command.arguments))
        for mark in marks:
            if not _run_until(hub, command, mark * content.size):
                break
            kills += 1
            half += any(not _is(path, content) for path in outputs_of(directory, command, NAME))
            flipped = flip and _flip_a_byte(directory, content, dice) is not None
        exit_code, wall_s = _run_to_the_end(command)
        found = outputs_of(directory, command, NAME)
        right = len(found) == 1 and _is(found[0], content)
        left = _allocated(directory) - content.size
    return {
        "size_bytes": content.size,
        "again_bytes": hub.look()["body_bytes"] - content.size,
        "kills": kills,
        "half_visible": half,
        "flipped": flipped,
        "exit": exit_code,
        "right": right,
        "left_bytes": left,
        "sent_before_bytes": int(max(marks) * content.size),
        "wall_s": round(wall_s, 3),
    }
