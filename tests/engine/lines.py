"""Lines and hosts on virtual time, for the admission of connections: no socket, no sleep, one seed.

A line has a capacity, a delay, perhaps a cap per stream or a number of streams beyond which a core is the limit. A
stream needs two round trips to be made and finds its speed by doubling, as TCP does. What a machine that is shared with
others adds is noise on the capacity.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fetcher.config import Settings
from fetcher.engine.admission import Admission, Place
from fetcher.plan.window import Known

MIB = 1 << 20
TICK_S = 0.01
LOOK_TICKS = 10
SEGMENTS_FIRST_BYTES = 14_600
"""What a new connection may send before the first acknowledgement (RFC 6928)."""


def fails_some(test: Callable[[int], None], seeds: Iterable[int]) -> bool:
    """Whether a planted fault is found out on any of the seeds."""
    for seed in seeds:
        try:
            test(seed)
        except AssertionError:
            return True
    return False


@dataclass(eq=False)
class Line:
    """The way to one host, and how the host takes requests."""

    bytes_per_s: float = float("inf")
    stream_bytes_per_s: float = float("inf")
    round_trip_s: float = 0.0005
    noise: float = 0.0
    """Share by which the capacity strays, up or down, each tenth of a second."""
    part_bytes: int = 16 * MIB
    requests_per_s: float = float("inf")
    loss_per_stream: float = 0.0
    """Share of the capacity that each stream beyond four costs (a core that switches between them)."""
    busy: Callable[[float, int], bool] = lambda now, streams: False
    """Whether a request is refused at that time, with so many streams open."""
    capacity_share: Callable[[float], float] = lambda now: 1.0
    name: str = "https://cdn.example:443"
    streams: list[Stream] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    """Congestion windows' ages of connections that wait for the next request."""
    received: list[tuple[float, float]] = field(default_factory=list)
    """(when, bytes) by tick."""
    open_at: list[tuple[float, int]] = field(default_factory=list)
    done: int = 0
    refusals: int = 0
    _noise: float = 1.0
    _allowance: float = 0.0


@dataclass(eq=False)
class Stream:
    """One request under way."""

    place: Place
    starts_at: float
    left_bytes: float
    age_s: float = 0.0
    refused: bool = False
    answered: bool = False
    trips: int = 1
    """That it waits before the first byte comes."""
    luck: float = 1.0
    """Its speed beside that of the others."""


class World:
    """Lines under one Admission; each line has always something to fetch."""

    def __init__(
        self,
        lines: list[Line],
        *,
        seed: int,
        everywhere: int = 16,
        per_host: int = 16,
        known: dict[str, Known] | None = None,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.lines = lines
        settings = Settings(
            cache_dir=Path("/nowhere"),
            state_dir=Path("/nowhere"),
            connections_max=everywhere,
            connections_per_host_max=per_host,
        )
        self.admission = Admission(settings, lambda: self.now, self.rng, known or {})
        self._ticks = 0

    def run(self, until_s: float) -> World:
        while self.now < until_s:
            self._ticks += 1
            self.now = self._ticks * TICK_S
            for line in self.lines:
                self._end(line)
            for line in self.lines:
                self._start(line)
            for line in self.lines:
                self._flow(line)
            if self._ticks % LOOK_TICKS == 0:
                self.admission.look()
        return self

    def _start(self, line: Line) -> None:
        while self.admission.may_start(line.name):
            place = self.admission.take(line.name)
            age = line.idle.pop() if line.idle else 0.0
            trips = 1 if age else 2
            line.streams.append(
                Stream(
                    place,
                    self.now + trips * line.round_trip_s,
                    float(line.part_bytes) * (1.0 if line.done else self.rng.uniform(0.3, 1.0)),
                    age,
                    trips=trips,
                    luck=self.rng.uniform(0.9, 1.1),
                    refused=line.busy(self.now, len(line.streams)),
                )
            )

    def _end(self, line: Line) -> None:
        line._allowance = min(line.requests_per_s, line._allowance + line.requests_per_s * TICK_S)
        for stream in list(line.streams):
            if stream.refused and self.now >= stream.starts_at:
                self.admission.busy(line.name, None)
                line.refusals += 1
            elif stream.left_bytes > 0 or (line._allowance < 1 and line.requests_per_s != float("inf")):
                continue
            else:
                line._allowance -= 1
                line.done += 1
                line.idle.append(stream.age_s)
                self.admission.served(line.name)
            line.streams.remove(stream)
            stream.place.leave()

    def _flow(self, line: Line) -> None:
        if self._ticks % LOOK_TICKS == 1:
            line._noise = 1 + self.rng.uniform(-line.noise, line.noise)
        flowing = [stream for stream in line.streams if not stream.refused and self.now >= stream.starts_at]
        capacity = line.bytes_per_s * line._noise * line.capacity_share(self.now)
        capacity *= max(0.1, 1 - line.loss_per_stream * max(0, len(flowing) - 4))
        wishes = {}
        for stream in flowing:
            doublings = min(40.0, stream.age_s / line.round_trip_s)
            window = SEGMENTS_FIRST_BYTES * 2.0**doublings / line.round_trip_s
            wishes[stream] = min(line.stream_bytes_per_s * stream.luck, window)
        got = 0.0
        # Water filling: who wants least is served first, the others share what is left.
        for left, stream in zip(range(len(flowing), 0, -1), sorted(flowing, key=wishes.__getitem__), strict=True):
            rate = min(wishes[stream], (capacity - got) / left)
            got += rate
            count = min(stream.left_bytes, rate * TICK_S)
            if not stream.answered:
                stream.answered = True
                self.admission.answered(line.name, stream.trips * line.round_trip_s)
            stream.age_s += TICK_S
            stream.left_bytes -= count
            self.admission.received(line.name, int(count))
            line.received.append((self.now, count))
        line.open_at.append((self.now, len(line.streams)))


def rate(line: Line, from_s: float, to_s: float) -> float:
    """Bytes per second that came in that time."""
    return sum(count for at, count in line.received if from_s < at <= to_s) / (to_s - from_s)


def connections(line: Line, from_s: float, to_s: float) -> float:
    """Mean of how many were open in that time."""
    found = [count for at, count in line.open_at if from_s < at <= to_s]
    return sum(found) / len(found)
