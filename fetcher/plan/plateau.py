"""How many connections to one host are worth having: found by trying. Pure: the clock is an argument.

Goodput grows with the number of connections until something else is the limit (the line, a core, the disk, the host);
from there on more of them cost memory, CPU and goodwill and bring nothing. A Plateau is told a few times a second what
has come so far and over how many connections, and finds the knee: from a few connections it doubles while that pays,
goes back to the least number that brings nearly all, and from then on tries one step down or up now and then. It never
knows a line's delay, rate or number of streams; it compares what it measured with what it measured just before.

A machine that others use too is noisy, so every step has hysteresis: more connections must bring clearly more, fewer
may bring hardly less, and tries that led nowhere become rare.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from fetcher.plan.rungs import Reached, Sample, rungs

START = 4
"""Connections to a host that nothing is known of. Fewer save nothing and hang on one stalled connection; this is also
as far down as economy goes (refusals go to one)."""
START_FAR = 6
"""To one whose first answer took ``FAR_S``: there each connection needs many round trips to find its speed, and mostly
finds a window or a cap per stream then. Six is what browsers open, so every host is used to it; eight fill such a line
little sooner, and are doubled to sixteen where eight would have been enough."""
FAR_S = 0.01
"""Far more than a host next door takes; less than one on another continent, or a store that has to look."""

REQUEST_BYTES = 64 << 10
"""What a finished request counts besides its bytes. Small files are bound by round trips: their goodput is files per
second, which bytes alone would not show beside a large file. Beside parts of 8 MiB and more it is nothing."""

GROWTH_SHARE = 0.08
"""Twice the connections must bring so much more, or the doubling is over."""
CLEAR_GROWTH = 1.6
"""So many times as much at the first sight of twice the connections: double again at once."""
STEP_SHARE = 0.07
"""One step up must bring so much more. A step is a third to a half more connections."""
LOSS_SHARE = 0.03
"""One step down may cost so much: less than what a step up must bring, or the two would chase each other."""
CLEAR_LOSS_SHARE = 0.15
"""A step down that costs so much at first sight is taken back at once."""

SETTLE_S = 0.2
"""After a change nothing is measured: connections are made and find their speed."""
SPAN_S = 0.3
"""One measurement."""
GROWTH_SPANS, STEP_SPANS = 2, 8
"""Measurements that make a result. Doubling is in a hurry, and gains much or nothing; a step is judged by a few percent
on a noisy machine."""
SPANS_MAX = 12
"""As long as the second is higher than the first by ``GROWTH_SHARE``, TCP is still finding its speed: go on looking."""
PATIENCE_S = 8.0
"""For as many connections to be open (or ended) as a try needs. Parts end when they are through, not at once."""
IN_USE_SHARE = 0.75
"""Fewer than that share of the connections open: there was not enough to do, and it says nothing of the host."""

PROBE_MIN_S, PROBE_MAX_S = 4.0, 32.0
"""Between tries; doubled by each that led nowhere."""
REST_MIN_S = 10.0
"""Fewer are not tried with less than that still to come: it saves connections for no longer than the try takes, and
costs a third of the goodput for most of a second where they were needed."""
SHIFT_SHARE = 0.30
"""So much more or less than when the last try was judged: the world has changed, and the next try comes soon."""
BASE_SPANS = 8
"""How many measurements make the rate that a try is compared with."""
STALLS_EVERY_S = 5.0
"""Connections that fell silent together are one message."""


class Phase(Enum):
    """What a Plateau is doing."""

    GROWING = "growing"
    HOLDING = "holding"
    PROBING = "probing"


def units(bytes_received: int, requests_done: int) -> float:
    """Goodput's measure: bytes, and something for each request, so that many small files count as well."""
    return bytes_received + requests_done * REQUEST_BYTES


class Plateau:
    """The knee of one host's goodput over connections; ``level`` is how many to have at the moment."""

    def __init__(self, level_max: int, start: int | None = None, *, grows: bool = True) -> None:
        """``start``: what an earlier run found, to begin from; None: nothing is known. ``grows``: more may be better,
        and it is tried at once."""
        self.level_max = level_max
        self._rungs = rungs(level_max)
        self._floor = min(START, level_max)
        self.level = min(level_max, max(self._floor, START if start is None else start))
        self.phase = Phase.GROWING if grows and self.level < level_max else Phase.HOLDING
        self.found = start is not None
        """The doubling is over: ``level`` is worth remembering."""
        self._trail: list[Reached] = []
        self._before = self.level
        """Level to go back to when a try leads nowhere."""
        self._base_rate = 0.0
        self._base: deque[float] = deque(maxlen=BASE_SPANS)
        self._judged_rate: float | None = None
        self._samples: list[Sample] = []
        self._spans: list[float] = []
        self._changed_at = 0.0
        self._measures_from: float | None = None
        """After ``SETTLE_S`` of as many connections as are to be measured."""
        self._probe_every_s = PROBE_MIN_S
        self._probe_at: float | None = None
        self._upwards = False
        self._stalled_at = float("-inf")
        self._untouched = start is None
        """Nothing was measured, and nothing refused."""
        self._left_units = float("inf")
        """Still to come."""
        self._interrupted = False
        """A refusal has ended the doubling …"""
        self._resumed = False
        """… and did so before."""

    def __repr__(self) -> str:
        return f"<Plateau {self.phase.value} {self.level} of {self.level_max}, {self.rate / (1 << 20):.1f} MiB/s>"

    @property
    def rate(self) -> float:
        """Units per second at the plateau, as measured lately; 0.0 while nothing was."""
        return sum(self._base) / len(self._base) if self._base else 0.0

    @property
    def resting_level(self) -> int:
        """The level without the try under way: what to come back to after refusals."""
        return self._before if self.phase is Phase.PROBING else self.level

    # -- what happens ------------------------------------------------------------------------------------------------

    def sample(self, now: float, units_received: float, connections: int, left_units: float = float("inf")) -> bool:
        """One look: what has come so far, over how many connections it comes, and how much is still to be asked for, as
        far as that is known. True: the level has changed."""
        before = self.level
        self._left_units = left_units
        if self._probe_at is None:
            self._changed_at, self._probe_at = now, now + self._probe_every_s
        sample = Sample(now, units_received, connections)
        if self._measures_from is None and self._is_in_place(connections):
            self._measures_from = now + SETTLE_S
        if self._measures_from is None or now < self._measures_from:
            self._samples = [sample]
            if self.phase is Phase.PROBING and now - self._changed_at >= PATIENCE_S:
                self._back(now)
            return self.level != before
        self._samples.append(sample)
        if now - self._samples[0].at >= SPAN_S:
            self._take(now)
        return self.level != before

    def answered(self, now: float, waited_s: float) -> None:
        """The host began to answer a request ``waited_s`` after it was made."""
        start = min(START_FAR, self.level_max)
        if self._untouched and waited_s >= FAR_S and self.level < start:  # once: it begins to measure anew
            self._before = start
            self._set(start, now)

    def refused(self, now: float) -> None:
        """The host does not want so many: no try goes on, and what was measured meanwhile means nothing. A doubling of
        which nothing was measured yet is no try: it begins when the host is well."""
        self._untouched = False
        if self.phase is Phase.GROWING and self._trail:
            found = self.found
            self._settle_on(self._best(), now)
            self.found = found  # nobody knows what more would have brought
            self._interrupted = True
        elif self.phase is Phase.PROBING:
            self._back(now)
        self._set(self.level, now)
        self._base.clear()
        self._put_off(now)

    def well_again(self, now: float, *, refused_all: bool) -> None:
        """The host takes as many requests as before it refused some. A doubling that it had ended goes on: always if it
        had refused whatever came, as that was not about how many there were; else once."""
        if self._interrupted and (refused_all or not self._resumed) and self.phase is Phase.HOLDING:
            self._resumed = True
            self.phase = Phase.GROWING
            self._set(self.level, now)
        self._interrupted = False

    def stalled(self, now: float) -> None:
        """A connection fell silent for too long: one step down, as for a line that has become thin."""
        if now - self._stalled_at < STALLS_EVERY_S:
            return
        self._stalled_at = now
        if self.phase is Phase.PROBING:
            self._back(now)
        self.phase = Phase.HOLDING
        self._base.clear()
        self._set(max(self._floor, self._next(-1)), now)
        self._probe_every_s = PROBE_MIN_S
        self._put_off(now, upwards=True)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def _is_in_place(self, connections: int) -> bool:
        """Whether there are now as many connections as are to be measured."""
        if self.phase is Phase.HOLDING:
            return True
        return connections <= self.level if self._tries_fewer else connections >= self.level

    @property
    def _tries_fewer(self) -> bool:
        return self.phase is Phase.PROBING and self.level < self._before

    def _take(self, now: float) -> None:
        """A measurement is complete."""
        self._untouched = False
        first = self._samples[0]
        rate = (self._samples[-1].units - first.units) / (now - first.at)
        in_use = sum(sample.connections for sample in self._samples) / len(self._samples)
        self._samples = [self._samples[-1]]
        if in_use < IN_USE_SHARE * self.level or rate <= 0:
            self._spans.clear()
            return
        self._spans.append(rate)
        if self.phase is Phase.HOLDING:
            self._spans.clear()
            self._hold(now, rate)
        elif self._lost_clearly():
            self._back(now)
        elif (result := self._result()) is not None:
            if self.phase is Phase.GROWING:
                self._grow(now, result)
            else:
                self._judge(now, result)

    def _lost_clearly(self) -> bool:
        return self._tries_fewer and self._spans[-1] < self._base_rate * (1 - CLEAR_LOSS_SHARE)

    def _result(self) -> float | None:
        """The rate once it has stopped rising."""
        spans = self._spans
        if self.phase is Phase.GROWING and self._trail and spans[-1] >= CLEAR_GROWTH * self._trail[-1].rate:
            return spans[-1]
        enough = GROWTH_SPANS if self.phase is Phase.GROWING else STEP_SPANS
        if len(spans) < enough:
            return None
        half = enough // 2
        earlier, later = sum(spans[-enough:-half]) / half, sum(spans[-half:]) / half
        if later > earlier * (1 + GROWTH_SHARE) and len(spans) < SPANS_MAX:
            return None
        # While connections find their speed, only what they have found counts.
        return max(later, (earlier + later) / 2) if self.phase is Phase.GROWING else (earlier + later) / 2

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _grow(self, now: float, rate: float) -> None:
        best = max((reached.rate for reached in self._trail), default=0.0)
        self._trail.append(Reached(self.level, rate))
        if rate >= best * (1 + GROWTH_SHARE) and self.level < self.level_max:
            self._set(min(self.level_max, 2 * self.level), now)
        else:
            self._settle_on(self._best(), now)

    def _best(self) -> int:
        """The least of the levels tried that brings nearly all."""
        enough = max(reached.rate for reached in self._trail) * (1 - LOSS_SHARE)
        return min(reached.level for reached in self._trail if reached.rate >= enough)

    def _settle_on(self, level: int, now: float) -> None:
        self.phase = Phase.HOLDING
        self.found = True
        self._trail.clear()
        self._set(level, now)
        self._put_off(now, upwards=False)

    def _hold(self, now: float, rate: float) -> None:
        """Nothing is tried: keep the rate up to date, and look whether a try is due."""
        self._base.append(rate)
        if len(self._base) < BASE_SPANS // 2:
            return
        assert self._probe_at is not None
        settled = self.rate
        if self._judged_rate is None:
            self._judged_rate = settled
        if len(self._base) == BASE_SPANS and abs(settled / self._judged_rate - 1) > SHIFT_SHARE:
            more = settled > self._judged_rate
            self._judged_rate = settled
            self._probe_every_s = PROBE_MIN_S
            # A line on which each stream has become slower asks for more of them, and so does one with more room.
            self._probe_at, self._upwards = now, True
            if more and self.level < self.level_max:
                self._double_again(now, settled)
                return
        if now >= self._probe_at:
            self._probe(now, settled)

    def _double_again(self, now: float, rate: float) -> None:
        self.phase = Phase.GROWING
        self._trail = [Reached(self.level, rate)]
        self._before = self.level
        self._set(min(self.level_max, 2 * self.level), now)

    def _probe(self, now: float, rate: float) -> None:
        following = self._next(1 if self._upwards else -1)
        if following < self._floor or following == self.level:
            self._upwards = not self._upwards
            following = self._next(1 if self._upwards else -1)
        if following < self._floor or following == self.level:
            self._put_off(now)
            return
        if following < self.level and self._left_units < REST_MIN_S * rate:
            return
        self.phase = Phase.PROBING
        self._before, self._base_rate = self.level, rate
        self._set(following, now)

    def _judge(self, now: float, rate: float) -> None:
        upwards = self.level > self._before
        enough = 1 + STEP_SHARE if upwards else 1 - LOSS_SHARE
        if rate < self._base_rate * enough:
            self._back(now)
            return
        self.phase = Phase.HOLDING
        self.found = True
        self._base.clear()
        self._judged_rate = None
        self._probe_every_s = PROBE_MIN_S
        self._put_off(now, upwards=upwards)

    def _back(self, now: float) -> None:
        """The try led nowhere: as before, and the next one later, the other way."""
        upwards = self.level > self._before
        self.phase = Phase.HOLDING
        self._set(self._before, now)
        self._judged_rate = self._base_rate
        self._probe_every_s = min(PROBE_MAX_S, 2 * self._probe_every_s)
        self._put_off(now, upwards=not upwards)

    def _put_off(self, now: float, *, upwards: bool | None = None) -> None:
        self._probe_at = now + self._probe_every_s
        if upwards is not None:
            self._upwards = upwards

    def _next(self, direction: int) -> int:
        """The rung above or below; where there is none, the level itself."""
        if direction > 0:
            return min((rung for rung in self._rungs if rung > self.level), default=self.level)
        return max((rung for rung in self._rungs if rung < self.level), default=self.level)

    def _set(self, level: int, now: float) -> None:
        self.level = level
        self._changed_at, self._measures_from = now, None
        self._spans.clear()
        self._samples.clear()
