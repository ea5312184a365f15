"""Which connections crawl beside their peers, and may be closed for it. Pure: values in, values out.

Behind one name there are many machines, and some of them ail: a connection to one brings a tenth of what the others do,
for as long as it is kept. It takes a place, holds up what waits for its part, and whoever gets it next. So it is closed
as soon as its peers show that it need not be so slow, and what it has not brought is asked for elsewhere.

What is slow everywhere is no crawling: a connection is only ever compared with others to the same host at the same
time, and closings have a budget, so that a host where many crawl is not asked for connection after connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from fetcher.plan.tree import BLOCK_BYTES

SHARE = 1 / 3
"""Of its peers' median speed: slower than that crawls. Streams that share a line fairly stray by a factor of two."""
PEERS_MIN = 3
"""As many others must have shown what is usual."""
USUAL_MIN_BYTES_PER_S = float(BLOCK_BYTES)
"""What they bring, at least: a block each second. Where it is less, the line is mostly the user's own, and full: which
of its streams gets how much is chance, another one wins nothing, and the part of a block that a closing loses is much
of what comes. What brings nearly nothing there, the watchdog moves, and takes its time (``plan.watch``)."""
AGE_MIN_S = 1.0
"""A body that has just begun to come may still find its speed …"""
AGE_TRIPS = 12
"""… and on a long way that takes longer: so many times the least that an answer took, which is about a round trip."""
GAIN_MIN_S = 0.5
"""So much sooner must the rest be here."""
START_S = 0.3
"""What asking elsewhere costs, as for a second request (``plan.hedge``)."""

CLOSINGS_AT_ONCE = 8
CLOSING_EVERY_S = 5.0
"""One more may be closed, so often. New connections to where every fifth crawls bring what they cost; where most of
them do, they don't."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A body that comes, or came until just now."""

    flowing_s: float
    """Since its first byte."""
    trip_s: float
    """The least time from a request to its answer that was seen of the host. Of a single one it says little: where a
    packet is lost while a connection is made, that costs a second."""
    bytes_per_s: float
    """As of late."""
    newest_bytes_per_s: float
    """In the last moments: what recovers from a loss, or still finds its speed, shows it here first."""
    left_bytes: int
    """Of blocks that nobody has claimed; 0 of one that may not be given up, and is only a peer."""

    @property
    def settled(self) -> bool:
        """It has had the time to find its speed."""
        return self.flowing_s >= max(AGE_MIN_S, AGE_TRIPS * self.trip_s)


def usual_bytes_per_s(peers: Iterable[float]) -> float:
    """What a connection to the host brings; 0.0 where too few have shown it, or it is too little to tell."""
    known = list(peers)
    usual = median(known) if len(known) >= PEERS_MIN else 0.0
    return usual if usual >= USUAL_MIN_BYTES_PER_S else 0.0


def crawls(flow: Flow, usual: float) -> bool:
    """Whether the connection is that much slower than its peers."""
    return flow.settled and max(flow.bytes_per_s, flow.newest_bytes_per_s) < SHARE * usual


def crawler(flows: Sequence[Flow], finished: Sequence[float]) -> int | None:
    """Of the bodies that come from one host, the index of the one to give up; None if none is. ``finished``: speeds of
    those that are through since just now."""
    best, most = None, GAIN_MIN_S
    known = sorted([*finished, *(flow.bytes_per_s for flow in flows if flow.settled)])
    # A crawler is of the slower half: whichever of that is left out, the median of the others is the same.
    usual = usual_bytes_per_s(known[1:])
    for index, flow in enumerate(flows):
        if not flow.left_bytes or not crawls(flow, usual):
            continue
        here_s = flow.left_bytes / flow.bytes_per_s if flow.bytes_per_s > 0 else float("inf")
        won_s = here_s - START_S - flow.left_bytes / usual
        if won_s >= most:
            best, most = index, won_s
    return best


class Closings:
    """How many connections to one host may be closed for crawling."""

    def __init__(self) -> None:
        self._left = float(CLOSINGS_AT_ONCE)
        self._looked_at: float | None = None

    def may_close(self, now: float) -> bool:
        if self._looked_at is not None:
            self._left = min(float(CLOSINGS_AT_ONCE), self._left + (now - self._looked_at) / CLOSING_EVERY_S)
        self._looked_at = now
        return self._left >= 1

    def close(self) -> None:
        self._left -= 1
