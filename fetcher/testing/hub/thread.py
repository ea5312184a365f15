"""Running the hub on an event loop of its own in a thread, for synchronous programs and tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fetcher.testing.hub.server import Hub


@contextmanager
def hub_in_thread(hub: Hub | None = None, **settings: Any) -> Iterator[Hub]:
    """Run a hub in a thread until the block is left.

    Takes a ``Hub`` that has not been started, or the keyword arguments to make one. When the block is left, sockets
    and thread are gone, and an exception of the hub itself is raised.
    """
    hub = hub if hub is not None else Hub(**settings)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(hub.__aenter__())
        thread = threading.Thread(target=loop.run_forever, name="embedded-hub", daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(hub.close())
    finally:
        loop.close()
    if hub.failures:
        raise hub.failures[0]
