"""From the log of a ``recording_disk`` to disks as a power cut may leave them.

What a disk owes after a power cut: everything that it was told to flush, once it has said that it has. Of what came
after the last flush it may have kept any part, in any order, sector by sector. So a state is legal if it is: what the
disk held at first, all writes before the last flush before the cut, and any choice from the writes between that flush
and the cut. Nothing is copied from a running disk, so no image is torn in a way that no disk could tear it.
"""

from __future__ import annotations

import bisect
import mmap
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tests.torture.recording_disk import FLUSH, RECORD, WRITE

SECTOR_BYTES = 512

Loss = Literal["nothing", "everything", "writes", "sectors"]
"""What is lost of the writes that were not flushed: nothing (a disk without a cache), all of them, each or not, or of
each any sectors."""
LOSSES: tuple[Loss, ...] = get_args(Loss)


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut."""

    time: float
    """CLOCK_MONOTONIC. What a program was told before has to be there."""
    loss: Loss
    seed: int
    """Of the dice that choose what is lost."""

    def __str__(self) -> str:
        return f"loss of {self.loss}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class _Record:
    kind: int
    time: float
    offset: int
    length: int
    place: int
    """Of its bytes, in the log."""


class CrashLog:
    """The log of a disk that is at work no more."""

    def __init__(self, base: Path, log: Path) -> None:
        self._base = base
        self._log = log
        self._records = list(_records(log))
        self._times = [record.time for record in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def before(self, time: float) -> int:
        """How many requests had arrived by then."""
        return bisect.bisect_right(self._times, time)

    def unflushed(self, time: float) -> int:
        """How many of those were not flushed."""
        stop = self.before(time)
        return stop - self._last_flush(stop)

    def times_of_flushes(self, start: float, stop: float) -> list[float]:
        """Just before each flush: when most is at stake."""
        found = range(max(1, self.before(start)), self.before(stop))
        return [self._times[index - 1] for index in found if self._records[index].kind == FLUSH]

    def image(self, cut: Cut, target: Path) -> None:
        """Make the disk that this cut leaves."""
        stop = self.before(cut.time)
        safe = self._last_flush(stop)
        dice = random.Random(cut.seed)
        _copy_sparse(self._base, target)
        with self._log.open("rb") as log, mmap.mmap(log.fileno(), 0, prot=mmap.PROT_READ) as view:
            descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for index, record in enumerate(self._records[:stop]):
                    if record.kind == FLUSH:
                        continue
                    stays = None if index < safe else _what_stays(record.length, cut.loss, dice)
                    for start, length in [(0, record.length)] if stays is None else stays:
                        data = (
                            view[record.place + start : record.place + start + length]
                            if record.kind == WRITE
                            else bytes(length)
                        )
                        os.pwrite(descriptor, data, record.offset + start)
            finally:
                os.close(descriptor)

    def _last_flush(self, stop: int) -> int:
        while stop and self._records[stop - 1].kind != FLUSH:
            stop -= 1
        return stop


def _records(log: Path) -> list[_Record]:
    found = []
    size = log.stat().st_size
    with log.open("rb") as file:
        place = 0
        while place + RECORD.size <= size:
            file.seek(place)
            kind, time, offset, length = RECORD.unpack(file.read(RECORD.size))
            place += RECORD.size
            found.append(_Record(kind, time, offset, length, place))
            if kind == WRITE:
                place += length
    return found


def _what_stays(length: int, loss: Loss, dice: random.Random) -> list[tuple[int, int]] | None:
    """Offsets and lengths of what the disk has kept of a write; None: all of it."""
    if loss == "nothing" or (loss == "writes" and dice.random() < 0.5):
        return None
    if loss in ("everything", "writes"):
        return []
    fate = dice.random()
    if fate < 0.3:
        return None
    if fate < 0.6:
        return []
    sectors = max(1, length // SECTOR_BYTES)
    if fate < 0.8:  # it stopped somewhere in the middle
        return [(0, dice.randrange(sectors) * SECTOR_BYTES)]
    return [(n * SECTOR_BYTES, SECTOR_BYTES) for n in range(sectors) if dice.random() < 0.5]


def _copy_sparse(source: Path, target: Path) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(reading).st_size
        os.ftruncate(writing, size)
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(reading, offset, os.SEEK_DATA)
            except OSError:  # nothing but a hole from here on
                break
            stop = os.lseek(reading, offset, os.SEEK_HOLE)
            while offset < stop:
                offset += os.pwrite(writing, os.pread(reading, min(1 << 20, stop - offset), offset), offset)
    finally:
        os.close(reading)
        os.close(writing)
