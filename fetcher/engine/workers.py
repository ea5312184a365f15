"""Threads: a few for what may be slow (commits, rescans), some for small files, and some for digests that trail the
blocks, so that no sync ever holds those up. Blocks have threads of their own (``disk``).

A worker call can't be cancelled. To be cancelled therefore means to wait for the call under way, and only then to let
go of its buffer and its file; ``finish`` is the one place that does so.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from fetcher.errors import FetcherError

P = ParamSpec("P")
R = TypeVar("R")


async def finish(call: asyncio.Future[R], on_cancel: Callable[[], None] | None = None) -> R:
    """Wait for a worker call, through cancellation: the call is over when this returns or raises.

    ``on_cancel`` may ask the call to end early; whatever it then returns or raises, the cancellation is what is raised.
    """
    cancelled: asyncio.CancelledError | None = None
    while not call.done():
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel is not None:
                on_cancel()
    if cancelled is not None:
        if not call.cancelled():
            call.exception()  # seen: what ends us is the cancellation
        raise cancelled
    return call.result()


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that a caller should see: a typed one if there is any, else the first."""
    flat: list[BaseException] = []
    pending: list[BaseException] = list(errors.exceptions)
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, FetcherError)), flat[0])


class Workers:
    """The engine's threads; close after the last call has come back."""

    def __init__(self) -> None:
        cores = os.cpu_count() or 2
        self.followers_max = min(8, cores)
        """Calls that read back at the same time."""
        self._followers = ThreadPoolExecutor(self.followers_max, thread_name_prefix="fetcher-follow")
        self._small = ThreadPoolExecutor(min(8, cores), thread_name_prefix="fetcher-small")
        self._slow = ThreadPoolExecutor(min(8, cores + 2), thread_name_prefix="fetcher-slow")
        self._index = ThreadPoolExecutor(1, thread_name_prefix="fetcher-index")

    def small(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> asyncio.Future[R]:
        """Start a short call on the bytes of a small file."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._small, lambda: call(*arguments, **options))

    def follow(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> asyncio.Future[R]:
        """Start a call that reads some MiB of a Partial back into digests."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._followers, lambda: call(*arguments, **options))

    async def slow(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Run a call that may take long: reads back, syncs, talks to the index."""
        loop = asyncio.get_running_loop()
        return await finish(loop.run_in_executor(self._slow, lambda: call(*arguments, **options)))

    async def slow_until(self, stop: threading.Event, call: Callable[P, R], *arguments: P.args, **_: P.kwargs) -> R:
        """As ``slow``; when we are cancelled, ``stop`` is set, which the call looks at now and then."""
        loop = asyncio.get_running_loop()
        return await finish(loop.run_in_executor(self._slow, lambda: call(*arguments, **_)), stop.set)

    async def index(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Run a short call on the index, never behind a long one that reads files."""
        loop = asyncio.get_running_loop()
        return await finish(loop.run_in_executor(self._index, lambda: call(*arguments, **options)))

    def close(self) -> None:
        self._index.shutdown()
        self._small.shutdown()
        self._followers.shutdown()
        self._slow.shutdown()
