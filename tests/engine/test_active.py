"""A request that somebody else ends: its verdict, and cancellations that are not its own."""

from __future__ import annotations

import asyncio

import pytest

from fetcher.engine.jobs import Active
from fetcher.plan.transfer import Outcome
from fetcher.plan.watch import Pulse


def an_active() -> Active:
    return Active(None, Pulse(0.0))


async def ask(active: Active, started: asyncio.Event, for_s: float = 30.0) -> str:
    """What a lane does around a request."""
    active.begin()
    started.set()
    try:
        await asyncio.sleep(for_s)
    except BaseException as error:
        if active.leave(error):
            return f"ended: {active.verdict}"
        raise
    return "answered" if not active.leave(None) else "ended though answered"


async def asked(active: Active, for_s: float = 30.0) -> asyncio.Task[str]:
    started = asyncio.Event()
    task = asyncio.create_task(ask(active, started, for_s))
    await started.wait()
    return task


def test_the_first_verdict_ends_it_and_the_task_goes_on() -> None:
    async def main() -> None:
        active = an_active()
        task = await asked(active)
        active.end_with(Outcome.STALLED)
        active.end_with(Outcome.SLOW)
        assert await task == f"ended: {Outcome.STALLED}"
        assert task.cancelling() == 0

    asyncio.run(main())


def test_whoever_cancels_the_task_at_the_same_time_wins() -> None:
    async def main() -> None:
        for verdict_first in (True, False):
            active = an_active()
            task = await asked(active)
            if verdict_first:
                active.end_with(Outcome.SHED)
                await asyncio.sleep(0)
            task.cancel()
            if not verdict_first:
                active.end_with(Outcome.SHED)
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_verdict_that_comes_too_late_cancels_nobody() -> None:
    async def main() -> None:
        wrong: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        active = an_active()
        assert await (await asked(active, 0.0)) == "answered"
        active.end_with(Outcome.STALLED)
        await asyncio.sleep(0)

        async def one_after_the_other() -> str:
            active = an_active()
            active.begin()
            active.end_with(Outcome.STALLED)  # by itself, so that it has left before the loop's next turn
            assert not active.leave(None)
            await asyncio.sleep(0.01)
            return "went on"

        assert await asyncio.create_task(one_after_the_other()) == "went on"
        assert wrong == []

    asyncio.run(main())
