"""A byte that turns over on its way: what the origin states is right, and what it sends is not.

Of a hub, which states the SHA-256 of a large file, and of an S3, which states of an object what its owner chose when
it was uploaded. Who fails with the right bytes too has noticed nothing, so everybody has them first.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import nginx, nginx_here
from benchmarks.origins.stating import BUCKET, stating_s3
from benchmarks.running.machine import Conditions, Failed, run
from benchmarks.running.options import BIG, MIB, Options
from benchmarks.running.race import (
    Row,
    command_of,
    in_turns,
    judge,
    outputs_of,
    refuse_what_is_there,
    room_in,
    those_able,
)
from benchmarks.running.work import Way, Work

REPO = "bench/flipped"
SIZE_BYTES = 64 * MIB
RIVALS_OF_HUBS = (
    *("fetcher", "huggingface_hub", "huggingface_hub with hf_xet", "huggingface_hub, then its verify"),
    *("hf_transfer", "curl --parallel"),
)
RIVALS_OF_S3 = ("fetcher", "s5cmd", "rclone", "aws s3 cp")


@dataclass(frozen=True, slots=True)
class Stated:
    """What an S3 states of an object beside its size."""

    words: str
    size_bytes: int
    in_parts: bool
    checksum: str = ""

    @property
    def key(self) -> str:
        return f"{self.size_bytes // MIB}-{'parts' if self.in_parts else 'whole'}-{self.checksum or 'no'}.bin"


OBJECTS = (
    # Clients fetch what is larger than some MiB in ranges, of which no checksum is stated.
    Stated("4 MiB: MD5, CRC-32", 4 * MIB, False, "crc32"),
    Stated("4 MiB: MD5, CRC-64/NVME", 4 * MIB, False, "crc64nvme"),
    Stated("16 MiB: MD5", 16 * MIB, False),
    Stated("16 MiB: MD5, CRC-64/NVME", 16 * MIB, False, "crc64nvme"),
    Stated("16 MiB, in parts: CRC-64/NVME", 16 * MIB, True, "crc64nvme"),
    Stated("16 MiB, in parts", 16 * MIB, True),
)


def flipped(options: Options) -> Iterator[Row]:
    """One bit is wrong where the bytes come from: who notices, and what is under the final name."""
    nginx_here()
    with room_in(options.memory, 3 * SIZE_BYTES, chosen_by="") as room:  # a second try may lie beside the first
        root = room / "root"
        contents.large(root / "repo" / BIG, SIZE_BYTES)
        with nginx(room / "nginx", root, {REPO: "repo"}) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/repo", (BIG,), sink, hub=server.hub, repo=REPO)
            yield from noticed("flipped", options, "repo", RIVALS_OF_HUBS, work, root / "repo", {})
    needed = sum(each.size_bytes for each in OBJECTS) + 2 * max(each.size_bytes for each in OBJECTS)
    with room_in(options.memory, needed, chosen_by="") as room, room_in(room) as sink:
        for each in OBJECTS:
            contents.large(room / "originals" / each.key, each.size_bytes)
        stated = {each.key: (room / "originals" / each.key, each.in_parts, each.checksum) for each in OBJECTS}
        with stating_s3(stated) as endpoint:
            for each in OBJECTS:
                work = Work("", (each.key,), sink, s3=endpoint, bucket=BUCKET)
                label: Row = {"stated": each.words}
                yield from noticed("flipped-s3", options, "s3", RIVALS_OF_S3, work, room / "originals", label)


def noticed(
    scenario: str, options: Options, way: Way, rivals: Sequence[str], work: Work, originals: Path, label: Row
) -> Iterator[Row]:
    """Everybody once with the right bytes; then rounds with a wrong bit each, which is another one each time."""
    original = originals / work.names[0]
    able: list[str] = []

    def right(name: str, round_number: int) -> Row:
        with room_in(work.directory) as directory:
            own = replace(work, directory=directory)
            command = command_of(name, way, own)
            run(command, Conditions(options.core))
            judge(own, command, originals, compare=True)
        able.append(name)
        return {}

    def wrong(name: str, round_number: int) -> Row:
        offset = random.Random(options.seed * 1000 + round_number).randrange(original.stat().st_size)
        with room_in(work.directory) as directory, a_bit_flipped(original, offset):
            own = replace(work, directory=directory)
            command = command_of(name, way, own)
            refuse_what_is_there(own, command)
            try:
                run(command, Conditions(options.core))
            except Failed as failed:
                found = outputs_of(directory, command, work.names[0])
                return {"noticed": True, "said": _last_line(str(failed)), "wrong_is_visible": bool(found)}
            judge(own, command, originals, compare=True)  # that it has the wrong bytes, and no others
            return {"noticed": False, "wrong_is_visible": True}

    common = {"scenario": scenario, **label}
    for row in in_turns(common, 1, options.of(rivals, those_able(way)), right):
        if "missing" in row or "failed" in row:
            yield row
    yield from in_turns(common, options.rounds, list(able), wrong)


@contextmanager
def a_bit_flipped(path: Path, offset: int) -> Iterator[None]:
    """Until the block is left; by its times the file is the same, so that no origin thinks it another."""
    _flip_a_bit(path, offset)
    try:
        yield
    finally:
        _flip_a_bit(path, offset)


def _flip_a_bit(path: Path, offset: int) -> None:
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        (old,) = file.read(1)
        file.seek(offset)
        file.write(bytes([old ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:200]
