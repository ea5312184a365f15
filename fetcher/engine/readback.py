"""Written bytes, read back from the page cache into digests: which calls run, and which two as one.

One SHA-256 alone waits for its own last round most of the time, so two files on one core cost hardly more than one.
Whoever has bytes for one joins another who has; only if there is nobody, or the others are in pairs already, it goes
alone.
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
        self._lone = False
        """One of the calls is of one file alone."""

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
        while self._waiting and self._calls < self._workers.followers_max:
            if len(self._waiting) > 1:
                self._start(self._waiting.popleft(), self._waiting.popleft())
            elif self._lone:
                return  # it is over soon, and then there are two
            else:
                self._start(self._waiting.popleft())

    def _start(self, *steps: Step) -> None:
        self._calls += 1
        self._lone = self._lone or len(steps) == 1
        call = self._workers.follow(_feed_all, *steps)
        call.add_done_callback(partial(self._ended, steps))

    def _ended(self, steps: tuple[Step, ...], call: asyncio.Future[list[int | Exception]]) -> None:
        self._calls -= 1
        if len(steps) == 1:
            self._lone = False
        for step, result in zip(steps, call.result(), strict=True):
            if isinstance(result, Exception):
                step.done.set_exception(result)
            else:
                step.done.set_result(result)
        if len(self._waiting) > 1:
            self._dispatch()
        elif self._waiting:
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
