"""Worker calls and cancellation: to be cancelled means to wait for the call under way."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from fetcher.engine.workers import Workers, finish

WAIT_S = 20.0
"""Far beyond what anything here takes; it only keeps a broken test from hanging."""


class Call:
    """A worker call that a test holds in its hand."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.ended = threading.Event()
        self._error = error

    def __call__(self) -> str:
        self.started.set()
        assert self.may_end.wait(WAIT_S)
        self.ended.set()
        if self._error is not None:
            raise self._error
        return "done"


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


async def until(happened: threading.Event) -> None:
    assert await asyncio.to_thread(happened.wait, WAIT_S)


async def loop_turns() -> None:
    """Long enough for a task that could end to do so."""
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_results_arguments_and_errors_come_through(workers: Workers) -> None:
    def divide(left: int, *, by: int) -> float:
        return left / by

    async def main() -> None:
        assert await workers.slow(divide, 6, by=3) == 2
        assert await finish(workers.follow(divide, 6, by=2)) == 3
        with pytest.raises(ZeroDivisionError):
            await workers.slow(divide, 6, by=0)
        with pytest.raises(ZeroDivisionError):
            await finish(workers.follow(divide, 6, by=0))

    asyncio.run(main())


def test_calls_run_beside_the_loop(workers: Workers) -> None:
    async def main() -> None:
        assert await workers.slow(threading.get_ident) != threading.get_ident()
        assert await finish(workers.follow(threading.get_ident)) != threading.get_ident()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["slow", "follow", "index"])
def test_a_cancelled_call_is_over_before_the_cancellation_is(workers: Workers, kind: str) -> None:
    async def main() -> None:
        call = Call()

        async def wait_for_it() -> None:
            if kind == "slow":
                await workers.slow(call)
            elif kind == "index":
                await workers.index(call)
            else:
                await finish(workers.follow(call))

        task = asyncio.create_task(wait_for_it())
        await until(call.started)
        task.cancel()
        await loop_turns()
        assert not task.done(), "the call still reads its buffer"
        call.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.ended.is_set()

    asyncio.run(main())


def test_impatience_does_not_help(workers: Workers) -> None:
    async def main() -> None:
        call = Call()
        task = asyncio.create_task(workers.slow(call))
        await until(call.started)
        for _ in range(5):
            task.cancel()
            await loop_turns()
            assert not task.done()
        call.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_call_that_fails_under_cancellation_is_not_complained_about(workers: Workers) -> None:
    """What ends the task is the cancellation; asyncio must not print "exception was never retrieved" later."""
    complaints: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        call = Call(OSError("disk"))
        task = asyncio.create_task(workers.slow(call))
        await until(call.started)
        task.cancel()
        await loop_turns()
        call.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await loop_turns()  # the thread's last word still holds the future
        gc.collect()

    asyncio.run(main())
    assert complaints == []


def test_a_time_out_waits_for_the_call_too(workers: Workers) -> None:
    async def main() -> None:
        call = Call()
        asyncio.get_running_loop().call_later(0.05, call.may_end.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await workers.slow(call)
        assert call.ended.is_set()

    asyncio.run(main())


def test_a_call_that_is_over_is_not_waited_for(workers: Workers) -> None:
    async def main() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(7)
        assert await finish(future) == 7

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["follow", "index"])
def test_slow_calls_keep_nobody_else_waiting(workers: Workers, kind: str) -> None:
    """Commits may take seconds; digests that trail the blocks, and short questions to the index, have threads of their
    own."""

    async def main() -> None:
        calls = [Call() for _ in range(32)]
        tasks = [asyncio.create_task(workers.slow(call)) for call in calls]
        await until(calls[0].started)
        async with asyncio.timeout(WAIT_S):
            if kind == "index":
                assert await workers.index(lambda: "through") == "through"
            else:
                assert await finish(workers.follow(lambda: "through")) == "through"
        assert not any(call.ended.is_set() for call in calls)
        for call in calls:
            call.may_end.set()
        assert await asyncio.gather(*tasks) == ["done"] * 32

    asyncio.run(main())


def test_closing_ends_the_threads() -> None:
    made = Workers()

    async def main() -> None:
        await made.slow(int)
        await finish(made.follow(int))

    asyncio.run(main())
    assert any(thread.name.startswith("fetcher-") for thread in threading.enumerate())
    made.close()
    assert not any(thread.name.startswith("fetcher-") for thread in threading.enumerate())
