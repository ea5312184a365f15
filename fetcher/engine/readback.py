"""Written bytes, read back from the page cache into digests: which calls run, and which two as one.

One SHA-256 alone waits for its own last round half of the time, so two files on one core take much less than twice as
long as one. Half of the cores follow; where more files have bytes than that, two of them share one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fetcher import hashing
from fetcher.engine.workers import Workers, finish
from fetcher.errors import CacheError

if TYPE_CHECKING:
    from fetcher.cache.partials import Partial

PARTNER_WAIT_S = 0.001
"""How long one waits for another that was just served, and is most likely back at once."""


@dataclass(slots=True, eq=False)
class Step:
    """The next bytes of one run."""

    run: hashing.Run
    source: Partial
    length: int
    done: asyncio.Future[int]
    """How many were taken."""


class ReadBack:
    """Feeds runs for all files of an engine."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._waiting: deque[Step] = deque()
        self._calls = 0
        self._calls_max = max(1, workers.followers_max // 2)
        """The other half of the cores receives, hashes blocks and writes."""

    def __repr__(self) -> str:
        return f"<ReadBack {self._calls} calls, {len(self._waiting)} waiting>"

    async def feed(self, run: hashing.Run, source: Partial, length: int) -> int:
        """Take ``length`` bytes of ``source``, which are there; returns how many were taken: more than none, perhaps
        not all. To its end, also when cancelled. Raises CacheError."""
        if run.sha256 is None or not hashing.SHA256_PAIRS:
            return await finish(self._workers.follow(_feed, run, source, length))
        step = Step(run, source, length, asyncio.get_running_loop().create_future())
        self._waiting.append(step)
        # Not at once: two that were served together are back together.
        asyncio.get_running_loop().call_soon(self._dispatch)
        return await finish(step.done, partial(self._withdraw, step))

    def _withdraw(self, step: Step) -> None:
        if step in self._waiting:
            self._waiting.remove(step)
            step.done.cancel()

    def _dispatch(self) -> None:
        while self._waiting and (free := self._calls_max - self._calls) > 0:
            together = 2 if len(self._waiting) > free else 1
            self._start(tuple(self._waiting.popleft() for _ in range(min(together, len(self._waiting)))))

    def _start(self, steps: tuple[Step, ...]) -> None:
        try:
            call = self._workers.follow(_feed_all, *steps)
        except Exception as error:  # no thread to be had: whoever waits is told
            for step in steps:
                step.done.set_exception(error)
            return
        self._calls += 1
        call.add_done_callback(partial(self._ended, steps))

    def _ended(self, steps: tuple[Step, ...], call: asyncio.Future[list[int | Exception]]) -> None:
        self._calls -= 1
        failed = call.exception()
        for step, result in zip(steps, [failed] * len(steps) if failed else call.result(), strict=True):
            if isinstance(result, BaseException):
                step.done.set_exception(result)
            else:
                step.done.set_result(result)
        if not self._waiting:
            return
        if len(self._waiting) < self._calls_max - self._calls:
            self._dispatch()
        else:
            asyncio.get_running_loop().call_later(PARTNER_WAIT_S, self._dispatch)


def _feed_all(*steps: Step) -> list[int | Exception]:
    """In a worker: one or two; what befalls one is no matter of the other's."""
    before = [step.run.position for step in steps]
    if len(steps) == 2:
        try:
            _feed_two(*steps)
        except Exception:
            pass  # whose fault it is shows when each goes on alone
    results: list[int | Exception] = []
    for step, position in zip(steps, before, strict=True):
        try:
            if step.run.position == position:
                _feed(step.run, step.source, step.length)
            results.append(step.run.position - position)
        except Exception as error:
            results.append(error)
    return results


def _feed_two(a: Step, b: Step) -> None:
    """As far as both have bytes."""
    one, other = a.run.sha256, b.run.sha256
    assert one is not None and other is not None
    with a.source.reading() as fd_a, b.source.reading() as fd_b, a.run.followed(), b.run.followed():
        hashing.sha256_pair_files(one, fd_a, a.run.position, other, fd_b, b.run.position, min(a.length, b.length))


def _feed(run: hashing.Run, source: Partial, length: int) -> int:
    """In a worker: one alone."""
    with source.reading() as fd:
        taken = run.feed(fd, length)
    if taken < length:
        raise CacheError(f"{source.path} was cut by somebody else", hint="run the command again")
    return taken
