"""Several questions at once, as one await: in bounded number, and with no task left behind when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

AT_ONCE = 32
"""Tasks that ask; the ApiClient lets fewer of them speak at a time."""

Item = TypeVar("Item")
Shape = TypeVar("Shape")


async def both(
    one: Callable[[], Awaitable[Item]],
    other: Callable[[], Awaitable[Shape]],
    suffices: Callable[[Item], bool] = lambda answer: False,
    patience_s: float = 0.0,
) -> tuple[Item, Shape | None]:
    """Two questions at once; the first error ends the other.

    Where the first answer ``suffices``, the second one is waited for no longer than ``patience_s`` more; None: it did
    not come in that time.
    """
    try:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(_awaited(one)), group.create_task(_awaited(other))
            if suffices(await first):
                await asyncio.wait([second], timeout=patience_s)
                second.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return first.result(), None if second.cancelled() else second.result()


async def each(items: Sequence[Item], ask: Callable[[Item], Awaitable[Shape]], at_once: int = AT_ONCE) -> list[Shape]:
    """What ``ask`` makes of each item, in their order, ``at_once`` at a time; the first error ends all."""
    done: dict[int, Shape] = {}
    left = iter(enumerate(items))

    async def work() -> None:
        for index, item in left:
            done[index] = await ask(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [done[index] for index in range(len(items))]


async def _awaited(ask: Callable[[], Awaitable[Shape]]) -> Shape:
    return await ask()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group and of the groups in it."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
