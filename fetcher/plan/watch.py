"""Which running parts to move to a new connection. Pure: one call judges all parts of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from fetcher.plan.transfer import Outcome


@dataclass(slots=True, eq=False)
class Pulse:
    """Signs of life of one request."""

    started_at: float
    moves: int = 0
    """How often this part was moved because it was slow."""
    last_byte_at: float = 0.0
    bytes_received: int = 0
    holding: bool = False
    """We do not read at the moment (disk, rate limit): silence is ours."""
    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.last_byte_at = self.started_at

    def received(self, count: int, now: float) -> None:
        self.bytes_received += count
        self.last_byte_at = now

    def rate(self, now: float, window_s: float) -> float | None:
        """Bytes per second over the last ``window_s``; None while the part is younger than that."""
        self.samples.append((now, self.bytes_received))
        while len(self.samples) > 1 and self.samples[1][0] <= now - window_s:
            self.samples.popleft()
        began, count = self.samples[0]
        return (self.bytes_received - count) / (now - began) if now - began >= window_s else None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of CONTRACT "Time and tries"."""

    idle_timeout_s: float
    slow_bytes_per_s: float
    slow_window_s: float
    slow_moves_max: int


def judge(
    pulses: Iterable[Pulse], now: float, limits: Limits, finished_rates: Iterable[float] = ()
) -> list[tuple[Pulse, Outcome]]:
    """The parts to move, and why. ``finished_rates``: bytes/s of parts of this run that are through."""
    verdicts: list[tuple[Pulse, Outcome]] = []
    rates: list[tuple[Pulse, float]] = []
    for pulse in pulses:
        if pulse.holding:
            pulse.last_byte_at = now
            pulse.samples.clear()
        elif now - pulse.last_byte_at >= limits.idle_timeout_s:
            verdicts.append((pulse, Outcome.STALLED))
        else:
            rate = pulse.rate(now, limits.slow_window_s)
            if rate is not None:
                rates.append((pulse, rate))
    known = [rate for _, rate in rates] + list(finished_rates)
    if len(known) > 1:
        bar = min(limits.slow_bytes_per_s, median(known) / 4)
        verdicts += [
            (pulse, Outcome.SLOW) for pulse, rate in rates if rate < bar and pulse.moves < limits.slow_moves_max
        ]
    return verdicts


SHED_STEPS = 8
"""Of the time without a block that ends a run: after each the number of connections is halved."""


def connections_to_keep(connections_max: int, silent_s: float, silent_max_s: float) -> int:
    """How many parts may go on when no block has been completed for ``silent_s``.

    Sixteen connections that share 50 KB/s need more than five minutes for their first blocks, one needs twenty seconds:
    on a thin line few connections make progress where many make none before the time is up.
    """
    return max(1, connections_max >> min(30, int(silent_s * SHED_STEPS / silent_max_s)))
