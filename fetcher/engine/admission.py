"""Who may open a connection: one global cap, and a window per host, shared by all runs of an engine.

Everything here is synchronous: look, decide and take in one step, with no await in between. Whoever gets no place holds
nothing; it is woken when something changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from fetcher.config import Settings
from fetcher.plan.window import HostWindow


class Place:
    """One admitted connection; ``leave`` exactly once."""

    __slots__ = ("_admission", "host")

    def __init__(self, admission: Admission, host: str) -> None:
        self._admission = admission
        self.host = host

    def move(self, target: str) -> bool:
        """The connection goes on at another host (a redirect), if that one has a place."""
        if target == self.host:
            return True
        if not self._admission.host(target).may_start(self._admission.now()):
            return False
        self._admission.host(self.host).active -= 1
        self._admission.host(target).active += 1
        self.host = target
        self._admission.changed()
        return True

    def leave(self) -> None:
        self._admission.active -= 1
        self._admission.host(self.host).active -= 1
        self._admission.changed()


class Admission:
    """Places for connections."""

    def __init__(self, settings: Settings, clock: Callable[[], float], dice: random.Random) -> None:
        self._settings = settings
        self._clock = clock
        self._dice = dice
        self._hosts: dict[str, HostWindow] = {}
        self._watchers: set[Callable[[], None]] = set()
        self.active = 0

    def host(self, origin: str) -> HostWindow:
        """The window of ``scheme://host:port``."""
        window = self._hosts.get(origin)
        if window is None:
            window = self._hosts[origin] = HostWindow(
                self._settings.connections_per_host_max,
                backoff_min_s=self._settings.backoff_min_s,
                backoff_max_s=self._settings.backoff_max_s,
            )
        return window

    def may_start(self, origin: str) -> bool:
        return self.active < self._settings.connections_max and self.host(origin).may_start(self._clock())

    def take(self, origin: str) -> Place:
        """A place at ``origin``; only after ``may_start``, in the same step."""
        self.active += 1
        self.host(origin).active += 1
        return Place(self, origin)

    def now(self) -> float:
        return self._clock()

    def busy(self, origin: str, retry_after_s: float | None) -> None:
        """The host answered 429 or 503."""
        self.host(origin).busy(self._clock(), retry_after_s=retry_after_s, dice=self._dice.random())

    def served(self, origin: str) -> None:
        self.host(origin).served()

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` whenever a place may have become free; returns the call that ends the watch."""
        self._watchers.add(wake)
        return lambda: self._watchers.discard(wake)

    def changed(self) -> None:
        for wake in tuple(self._watchers):
            wake()
