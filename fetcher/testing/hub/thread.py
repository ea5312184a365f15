"""Running the hub on an event loop of its own in a thread, for synchronous programs and tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fetcher.testing.hub.server import Hub
from fetcher.testing.origin import in_thread


@contextmanager
def hub_in_thread(hub: Hub | None = None, **settings: Any) -> Iterator[Hub]:
    """Run a hub in a thread until the block is left.

    Takes a ``Hub`` that has not been started, or the keyword arguments to make one. When the block is left, sockets
    and thread are gone, and an exception of the hub itself is raised.
    """
    with in_thread(hub if hub is not None else Hub(**settings)) as running:
        yield running
