"""For callers without an event loop: one resource as a call, and a loop of one's own for the rest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from fetcher.errors import UsageError
from fetcher.model.asker import Role

R = TypeVar("R")


def get(uri: str, *, asker: Role = "job", **options: object) -> Path:
    """The directory of a resource, fetched if need be. For scripts: starts and ends an event loop of its own."""
    from fetcher.client import Fetcher

    fetcher = Fetcher(**options)  # type: ignore[arg-type]  # options are checked by config.load
    try:
        known = None if fetcher.may_wait(uri, asker) else fetcher.hit(uri, asker)
        if known is not None:
            return known.path
    finally:
        fetcher.close()

    async def main() -> Path:
        async with Fetcher(**options) as inner:  # type: ignore[arg-type]
            return (await inner.fetch(uri, asker)).snapshot.path

    return run(main)


def run(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run a coroutine function on uvloop where it is installed; SIGINT and SIGTERM end it cleanly."""
    from fetcher.engine.loop import run as run_on_loop
    from fetcher.engine.loop import running

    if running():
        raise UsageError(
            "an event loop is running in this thread", hint="await it instead: async with fetcher.Fetcher() as f: …"
        )
    return run_on_loop(main)
