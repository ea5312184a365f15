"""A run's numbers, told at most ten times a second. A callback that raises is detached; the run goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fetcher.model.events import Event, Notice, Progress

Phase = Literal["resolve", "plan", "fetch", "verify", "publish", "done"]

INTERVAL_S = 0.2
"""Five a second, and a few forced ones between: never more than the ten that are promised."""
RATE_WINDOW_S = 5.0


@dataclass(slots=True)
class Tally:
    """Numbers of what goes on beside a run (images that an engine pulls), shown with those of the run."""

    bytes_done: int = 0
    bytes_total: int = 0
    """As far as it is known."""
    bytes_downloaded: int = 0
    """As it came; what is given up later stays counted."""
    files_done: int = 0
    files_total: int = 0


class Observer:
    """Counters and their emission."""

    def __init__(self, emit: Callable[[Event], None] | None, resource: str, clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._emitted_at = float("-inf")
        self._samples: deque[tuple[float, int]] = deque()
        self.resource = resource
        self.phase: Phase = "resolve"
        self.bytes_done = 0
        self.bytes_total: int | None = None
        self.files_done = 0
        self.files_total: int | None = None
        self.bytes_downloaded = 0
        self.connections = 0
        self.parts_moved = 0
        self.beside = Tally()

    def notice(self, message: str) -> None:
        """One sentence for a person."""
        self._send(Notice(self.resource, message))

    def without(self, size: int, bytes_done: int) -> None:
        """A file of ``size`` is given up; so much of it was counted as done."""
        self.bytes_done -= bytes_done
        if self.bytes_total is not None:
            self.bytes_total -= size
        if self.files_total is not None:
            self.files_total -= 1

    def enter(self, phase: Phase) -> None:
        """A new phase is always told."""
        self.phase = phase
        self.tick(force=True)

    def rate(self, now: float) -> float:
        """Body bytes per second over the last few seconds."""
        moved = self._bytes_moved()
        self._samples.append((now, moved))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW_S:
            self._samples.popleft()
        began, count = self._samples[0]
        return (moved - count) / (now - began) if now > began else 0.0

    def _bytes_moved(self) -> int:
        return self.bytes_downloaded + self.beside.bytes_downloaded

    def tick(self, *, force: bool = False) -> None:
        """Tell the numbers, unless that was done a moment ago."""
        now = self._clock()
        if self._emit is None or (not force and now - self._emitted_at < INTERVAL_S):
            return
        self._emitted_at = now
        rate = self.rate(now)
        beside = self.beside
        bytes_done = self.bytes_done + beside.bytes_done
        bytes_total = None if self.bytes_total is None else self.bytes_total + beside.bytes_total
        missing = None if bytes_total is None else max(0, bytes_total - bytes_done)
        self._send(
            Progress(
                resource=self.resource,
                phase=self.phase,
                bytes_done=bytes_done,
                bytes_total=bytes_total,
                files_done=self.files_done + beside.files_done,
                files_total=None if self.files_total is None else self.files_total + beside.files_total,
                bytes_downloaded=self.bytes_downloaded + beside.bytes_downloaded,
                rate_bytes_per_s=rate,
                eta_s=missing / rate if missing is not None and rate > 0 else None,
                connections=self.connections,
                parts_moved=self.parts_moved,
            )
        )

    def _send(self, event: Event) -> None:
        if self._emit is None:
            return
        try:
            self._emit(event)
        except Exception:
            # The caller's display is broken; the caller's download is not.
            self._emit = None


class ReadingObserver(Observer):
    """Of a run that reads the disk: what it has read is its rate."""

    def _bytes_moved(self) -> int:
        return self.bytes_done
