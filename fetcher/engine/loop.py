"""The event loop of a command: uvloop where it is installed, Ctrl-C once means stop cleanly, twice means leave."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from fetcher import hashing
from fetcher.errors import InterruptedByUser

R = TypeVar("R")

COLLECTED_EVERY = 50_000
"""New values between two looks for cycles, instead of 700: some megabytes."""


def run(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run ``main()`` to its end on a fresh loop. Raises InterruptedByUser when SIGINT or SIGTERM stopped it."""
    try:
        import uvloop
    except ImportError:  # the library works on any loop; so does the command line
        factory = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with _few_collections(), asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_guarded(main))


@contextmanager
def _few_collections() -> Iterator[None]:
    """A plan of thousands of files is thousands of values that all stay to the end, and going through them for garbage
    again and again took a sixth of a command's CPU time."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECTED_EVERY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def running() -> bool:
    """Whether this thread is inside an event loop already (a notebook, a server)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _guarded(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    if threading.current_thread() is not threading.main_thread():
        return await main()  # signals are the main thread's business
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    came: list[int] = []
    stopped_by: list[int] = []

    def count(number: int, _: FrameType | None) -> None:
        # Python calls this in the main thread, also within a write for which the loop waits: the second one gets
        # through to a run that is held up by whoever does not read what it has to tell.
        if came:
            os._exit(128 + number)
        came.append(number)

    def stop(number: int) -> None:
        stopped_by.append(number)
        task.cancel()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stop, number)  # also sees to it that a signal wakes the loop
        signal.signal(number, count)
    try:
        return await main()
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        kept = "whole blocks are kept" if hashing.HAS_TREE else "whole files are kept"
        raise InterruptedByUser("stopped", hint=f"{kept}; run the same command again to go on from there") from None
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # None: not made in Python, and not to be had back
                signal.signal(number, handler)
