"""Scrubbing with threads: bodies are read and hashed beside each other, what is found is acted on as it is found.

Every thread takes the next body when it is done with one; the caller's thread acts, tells progress and looks whether to
stop. A thread that is told to stop does so after the step under way: a moment on any disk.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from fetcher.cache.damage import Damage, Finding, VerifyReport
from fetcher.cache.scrub import BLOCK, Step, check
from fetcher.engine.observe import ReadingObserver
from fetcher.errors import InterruptedByUser

if TYPE_CHECKING:
    from fetcher.cache.records import Snapshot
    from fetcher.cache.store import Cache
    from fetcher.cache.survey import Body
    from fetcher.model.events import Event

THREADS_MAX = 4
"""A core hashes some GiB a second, more than most disks give; a few requests under way keep a disk busy."""
STEP_BLOCKS = 64
"""64 MiB: 8 ms of hashing, half a second of the slowest disk. Between two steps we can stop, tell, and pause."""
LOOK_S = 0.05


class _Stopped(Exception):
    """Told to stop; ends a thread and nothing else."""


class _Work:
    """What the threads share."""

    def __init__(self, cache: Cache, bodies: Sequence[Body], rate_bytes_per_s: int | None) -> None:
        self._layout = cache.layout
        self._bodies: Iterator[Body] = iter(bodies)
        self._rate = rate_bytes_per_s
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self.stop = threading.Event()
        self.found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
        self.bytes_done = 0
        """Read and hashed."""
        self.bytes_skipped = 0
        """Gone, replaced, or of another size: not worth reading."""
        self.bodies_done = 0
        blocks = STEP_BLOCKS if rate_bytes_per_s is None else min(STEP_BLOCKS, max(1, rate_bytes_per_s // BLOCK))
        self._step = Step(blocks, self._begin, self._done, self._skipped)

    def run(self) -> None:
        """One thread's."""
        try:
            while (body := self._next()) is not None:
                for finding in check(body, self._layout, self._step):
                    self.found.put(finding)
                with self._lock:
                    self.bodies_done += 1
        except _Stopped:
            pass

    def _next(self) -> Body | None:
        with self._lock:
            return None if self.stop.is_set() else next(self._bodies, None)

    def _skipped(self, byte_count: int) -> None:
        with self._lock:
            self.bytes_skipped += byte_count

    def _begin(self) -> None:
        """Before each step: wait until the rate allows for what was read so far. What was found is told before that."""
        with self._lock:
            pause_s = self._due - time.monotonic()
        if self.stop.wait(pause_s) if pause_s > 0 else self.stop.is_set():
            raise _Stopped

    def _done(self, byte_count: int) -> None:
        with self._lock:
            self.bytes_done += byte_count
            if self._rate is not None:
                self._due = max(self._due, time.monotonic()) + byte_count / self._rate


def verify(
    cache: Cache,
    snapshots: Sequence[Snapshot] | None,
    *,
    subject: str,
    dry_run: bool,
    rate_bytes_per_s: int | None,
    emit: Callable[[Event], None] | None,
    on_damage: Callable[[Damage], None] | None,
    stopped: Callable[[], bool],
) -> VerifyReport:
    """Scrub these Snapshots (None: all, and every Blob), and take what is damaged out of service.

    ``on_damage`` is called when it has been acted on; an error in it ends the scrub. Raises InterruptedByUser once
    ``stopped()`` is true: what was found until then has been acted on and told.
    """
    began = time.monotonic()
    damage: list[Damage] = []

    def look() -> None:
        if stopped():
            raise InterruptedByUser("stopped", hint="what was found until then is taken care of; run it again")

    survey = cache.survey(snapshots, look)
    condemning = cache.condemning(survey.snapshots, dry_run=dry_run)

    def act(finding: Finding) -> None:
        found = condemning.take_out(finding)
        if found is not None:
            damage.append(found)
            if on_damage is not None:
                on_damage(found)

    for finding in survey.findings:
        look()
        act(finding)
    bodies = survey.bodies
    observer = ReadingObserver(emit, subject, time.monotonic)
    observer.phase = "verify"
    observer.bytes_total = sum(body.size for body in bodies)
    observer.files_total = len(bodies)
    work = _Work(cache, bodies, rate_bytes_per_s)
    threads = max(1, min(THREADS_MAX, os.cpu_count() or 1, len(bodies)))
    with ThreadPoolExecutor(threads, thread_name_prefix="fetcher-scrub") as pool:
        try:
            running: list[Future[None]] = [pool.submit(work.run) for _ in range(threads)]
            while True:
                over = all(future.done() for future in running)  # asked before the last findings are taken
                _take(work.found, act)
                observer.bytes_done = work.bytes_done + work.bytes_skipped
                observer.files_done = work.bodies_done
                if over:
                    break
                observer.tick()
                look()
                _wait(running, LOOK_S)
            for future in running:
                future.result()
        finally:
            work.stop.set()
    observer.enter("done")
    return VerifyReport(
        snapshots=len(survey.snapshots),
        files=survey.files,
        blobs=survey.blobs,
        bytes=work.bytes_done,
        damage=tuple(damage),
        dry_run=dry_run,
        elapsed_s=time.monotonic() - began,
    )


def _take(found: queue.SimpleQueue[Finding], act: Callable[[Finding], None]) -> None:
    while True:
        try:
            finding = found.get_nowait()
        except queue.Empty:
            return
        act(finding)


def _wait(running: Sequence[Future[None]], timeout_s: float) -> None:
    """Until one thread is through, or a moment has passed."""
    for future in running:
        if not future.done():
            try:
                future.exception(timeout_s)
            except TimeoutError:
                pass
            return
