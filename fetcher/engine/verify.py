"""Scrubbing with threads: bodies are read and hashed beside each other, what is found is acted on as it is found.

Every thread takes the next body when it is done with one; the caller's thread acts, tells progress and looks whether to
stop. A thread that is told to stop does so after the step under way: a moment on any disk.

What the disk refuses to give is acted on only when it still gives what it gave before: a disk that is gone (a cable, a
network, a controller) gives nothing of all that it has, and none of that is lost.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.cache.condemn import ChangedError, Condemning
from fetcher.cache.damage import Body, Damage, Finding, VerifyReport
from fetcher.cache.scrub import BLOCK, Step, check
from fetcher.cache.survey import UNREADABLE_MAX, disk_is_gone
from fetcher.engine.observe import ReadingObserver
from fetcher.errors import FetcherError, InterruptedByUser

if TYPE_CHECKING:
    from fetcher.cache.layout import Layout
    from fetcher.cache.records import Snapshot
    from fetcher.cache.store import Cache
    from fetcher.model.events import Event

THREADS_MAX = 4
"""A core hashes some GiB a second, more than most disks give; a few requests under way keep a disk busy."""
STEP_BLOCKS = 64
"""64 MiB: 8 ms of hashing, half a second of the slowest disk. Between two steps we can stop, tell, and pause."""
LOOK_S = 0.05
CHANGED_MAX = 3
"""So often a body is read again because it was written to since. Then it is damaged: nobody should be writing."""


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
        self._refused: list[Finding] = []
        """What the disk did not give, since it was last asked whether it is there."""
        self._sound: Body | None = None
        """The smallest body that was right: what to ask a disk for that may be gone."""
        blocks = STEP_BLOCKS if rate_bytes_per_s is None else min(STEP_BLOCKS, max(1, rate_bytes_per_s // BLOCK))
        self._step = Step(blocks, self._begin, self._done, self._skipped)
        self._step_aside = Step(blocks, self._begin, lambda _: None, lambda _: None)

    def run(self) -> None:
        """One thread's."""
        try:
            while (body := self._next()) is not None:
                verdict = check(body, self._layout, self._step)
                with self._lock:
                    self.bodies_done += 1
                    many = self._book(body, verdict)
                if many:
                    self.believe_refusals(UNREADABLE_MAX)
        except _Stopped:
            pass

    def _book(self, body: Body, verdict: Finding | str) -> bool:
        """Whether so much was refused in a row that it has to be asked whether the disk is there at all."""
        if isinstance(verdict, Finding) and verdict.reason == "unreadable":
            self._refused.append(verdict)
            return len(self._refused) >= UNREADABLE_MAX
        if isinstance(verdict, Finding):
            self.found.put(verdict)
        elif verdict == "sound" and (self._sound is None or _cost(body) < _cost(self._sound)):
            self._sound = body
        return False

    def believe_refusals(self, count_min: int = 1) -> None:
        """Hand on what was refused, if the disk still gives what it gave before. Raises CacheError if it does not, or
        never gave anything though it was asked for much."""
        with self._lock:
            refused, sound = self._refused, self._sound
            if len(refused) < count_min:
                return
            self._refused = []
        if len(refused) >= UNREADABLE_MAX if sound is None else self._is_refused(sound):
            raise disk_is_gone(refused[-1].body.path)
        for finding in refused:
            self.found.put(finding)

    def _is_refused(self, sound: Body) -> bool:
        asked = replace(sound, in_use=False)  # ask the disk, not the memory
        verdict = check(asked, self._layout, self._step_aside)
        return isinstance(verdict, Finding) and verdict.reason == "unreadable"

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
    condemning = cache.condemning(dry_run=dry_run)

    def tell(found: Iterable[Damage]) -> None:
        for one in found:
            damage.append(one)
            if on_damage is not None:
                on_damage(one)

    def act(finding: Finding) -> None:
        tell(_confirmed(finding, condemning, cache.layout, look))

    for snapshot in survey.hidden:
        tell(condemning.known(snapshot))
    tell(condemning.seen(survey.suspects, look))
    look()
    bodies = survey.bodies
    observer = ReadingObserver(emit, subject, time.monotonic)
    observer.phase = "verify"
    observer.bytes_total = sum(body.size for body in bodies)
    observer.files_total = len(bodies)
    work = _Work(cache, bodies, rate_bytes_per_s)
    threads = max(1, min(THREADS_MAX, os.cpu_count() or 1, len(bodies)))
    with ThreadPoolExecutor(threads, thread_name_prefix="fetcher-scrub") as pool:
        running: list[Future[None]] = [pool.submit(work.run) for _ in range(threads)]
        try:
            while True:
                over = all(future.done() for future in running)  # asked before the last findings are taken
                _take(work.found, act)
                for future in running:
                    if future.done():
                        future.result()  # an error ends it for all, when what was found until then is taken care of
                observer.bytes_done = work.bytes_done + work.bytes_skipped
                observer.files_done = work.bodies_done
                if over:
                    work.believe_refusals()
                    _take(work.found, act)
                    break
                observer.tick()
                look()
                _wait(running, LOOK_S)
        except FetcherError:
            work.stop.set()
            wait(running)
            _take(work.found, act)  # what the others have found until then
            raise
        finally:
            work.stop.set()
    observer.enter("done")
    return VerifyReport(
        snapshots=survey.snapshots,
        files=survey.files,
        blobs=survey.blobs,
        bytes=work.bytes_done,
        damage=tuple(damage),
        dry_run=dry_run,
        elapsed_s=time.monotonic() - began,
        hidden=len(survey.hidden),
    )


def _confirmed(finding: Finding, condemning: Condemning, layout: Layout, look: Callable[[], None]) -> Iterator[Damage]:
    """What becomes of a finding. One that was written to since is read again, and again."""
    step = Step(STEP_BLOCKS, look, lambda _: None, lambda _: None)
    for _ in range(CHANGED_MAX):
        try:
            found = condemning.read(finding)
        except ChangedError:
            verdict = check(finding.body, layout, step)
            if not isinstance(verdict, Finding):
                return
            finding = verdict
        else:
            break
    else:
        found = condemning.read(finding, changing=True)
    if found is not None:
        yield found


def _cost(body: Body) -> tuple[bool, int]:
    return body.in_use, body.size


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
