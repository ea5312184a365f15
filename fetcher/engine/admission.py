"""Who may open a connection: one global cap, and a window per host, shared by all runs of an engine.

Everything here is synchronous: look, decide and take in one step, with no await in between. Whoever gets no place holds
nothing; it is woken when something changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from fetcher.config import Settings
from fetcher.plan.window import HostWindow, Known

LOOK_EVERY_S = 0.08
"""Several runs look after one engine's windows; a little less than a watchdog's tick is often enough."""
WANTED_FOR_S = 0.5
"""A host that was refused a place for the cap over all asks again within a tick or two, if it still wants one."""


class Place:
    """One admitted connection; ``leave`` exactly once."""

    __slots__ = ("_admission", "host", "silent")

    def __init__(self, admission: Admission, host: str) -> None:
        self._admission = admission
        self.silent = False
        """It has brought nothing for a while."""
        self.host = host

    def move(self, target: str) -> bool:
        """The connection goes on at another host (a redirect), if that one has a place."""
        if target == self.host:
            return True
        if not self._admission.host(target).may_start(self._admission.now()):
            return False
        # The redirect was all that was wanted of this host: where many small files are, it is its goodput.
        self._admission.served(self.host)
        self.hear(silent=False)
        self._admission.host(self.host).active -= 1
        self._admission.host(target).active += 1
        self.host = target
        self._admission.changed()
        return True

    def hear(self, *, silent: bool) -> None:
        """Whether the connection brings something."""
        if silent is not self.silent:
            self.silent = silent
            self._admission.host(self.host).silent += 1 if silent else -1
            if silent:
                self._admission.changed()

    def leave(self) -> None:
        self.hear(silent=False)
        self._admission.active -= 1
        self._admission.host(self.host).active -= 1
        self._admission.changed()


class Admission:
    """Places for connections."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        dice: random.Random,
        known: Mapping[str, Known] | None = None,
    ) -> None:
        """``known``: what earlier runs found out, per host."""
        self._settings = settings
        self._clock = clock
        self._dice = dice
        self._known = dict(known or {})
        self._hosts: dict[str, HostWindow] = {}
        self._wanted_at: dict[str, float] = {}
        """Hosts that were refused a place only because others have them all."""
        self._watchers: dict[Callable[[], None], Callable[[str], float]] = {}
        """Who waits for places, and what each still has to ask of a host for; in the order in which they hear of a free
        one: first who has taken none for longest."""
        self._looked_at = float("-inf")
        self.active = 0

    def host(self, origin: str) -> HostWindow:
        """The window of ``scheme://host:port``."""
        window = self._hosts.get(origin)
        if window is None:
            window = self._hosts[origin] = HostWindow(
                min(self._settings.connections_per_host_max, self._settings.connections_max),
                backoff_min_s=self._settings.backoff_min_s,
                backoff_max_s=self._settings.backoff_max_s,
                known=self._known.get(origin),
            )
        return window

    @property
    def hosts(self) -> Mapping[str, HostWindow]:
        """All that were asked so far."""
        return self._hosts

    def recall(self, known: Mapping[str, Known]) -> None:
        """What earlier runs found out; of no effect on hosts that were asked already."""
        self._known.update(known)

    def may_start(self, origin: str) -> bool:
        """Whether there is a place at ``origin``, for somebody who would take it now."""
        window, now = self.host(origin), self._clock()
        if not window.may_start(now):
            return False
        if self.active >= self._settings.connections_max or self._is_others_turn(origin, window, now):
            self._wanted_at[origin] = now
            return False
        return True

    def _is_others_turn(self, origin: str, window: HostWindow, now: float) -> bool:
        """The last places go to those hosts that have fewest: a fast one with many files starves no other."""
        if not self._wanted_at:
            return False
        waiting = 0
        for other, at in tuple(self._wanted_at.items()):
            if now - at > WANTED_FOR_S:
                del self._wanted_at[other]
            elif other != origin and self._hosts[other].active < window.active and self._hosts[other].may_start(now):
                waiting += 1
        return waiting >= self._settings.connections_max - self.active

    def take(self, origin: str, watcher: Callable[[], None] | None = None) -> Place:
        """A place at ``origin``; only after ``may_start``, in the same step. ``watcher``: who takes it, if he watches;
        of the next place that may be free all others hear before him."""
        self.active += 1
        self.host(origin).active += 1
        self._wanted_at.pop(origin, None)
        if watcher is not None and watcher in self._watchers:
            self._watchers[watcher] = self._watchers.pop(watcher)
        return Place(self, origin)

    def now(self) -> float:
        return self._clock()

    # -- what the hosts say and send ---------------------------------------------------------------------------------

    def busy(self, origin: str, retry_after_s: float | None) -> None:
        """The host answered 429 or 503."""
        self.host(origin).busy(self._clock(), retry_after_s=retry_after_s, dice=self._dice.random())

    def answered(self, origin: str, waited_s: float) -> None:
        """The host began to send what was asked for so long before. Raises the number allowed after refusals."""
        window = self.host(origin)
        before = int(window.cap)
        window.answered(self._clock(), waited_s)
        if int(window.cap) > before:
            self.changed()

    def served(self, origin: str) -> None:
        """A body came through."""
        self.host(origin).served()

    def stalled(self, origin: str) -> None:
        """A connection to the host brought nothing for too long."""
        self.host(origin).stalled(self._clock())

    def received(self, origin: str, count: int) -> None:
        """So many more bytes of bodies came from the host."""
        self.host(origin).received(count)

    def look(self) -> None:
        """The windows look at what has come; for the watchdogs of all runs, as often as they like."""
        now = self._clock()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        changed = False
        for origin, window in self._hosts.items():
            if window.active:
                changed = window.sample(now, self._left_bytes(origin)) or changed
        if changed:
            self.changed()

    # -- who waits for a place ---------------------------------------------------------------------------------------

    def watch(
        self, wake: Callable[[], None], left_bytes: Callable[[str], float] = lambda _: float("inf")
    ) -> Callable[[], None]:
        """Call ``wake`` whenever a place may have become free; returns the call that ends the watch. ``left_bytes``:
        what he who waits has still to ask of a host for, as far as he knows."""
        self._watchers[wake] = left_bytes

        def end() -> None:
            self._watchers.pop(wake, None)

        return end

    @property
    def shared(self) -> bool:
        """Whether several wait for places: none of them takes a free one before the others were woken."""
        return len(self._watchers) > 1

    def _left_bytes(self, origin: str) -> float:
        return sum(left(origin) for left in self._watchers.values()) if self._watchers else float("inf")

    def changed(self) -> None:
        for wake in tuple(self._watchers):
            wake()
