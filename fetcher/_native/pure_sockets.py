"""Readable twin of sockets.pyx, and what runs where there is no compiled core. See sockets.pyi for the promise."""

from __future__ import annotations

import select
from operator import index


def has_news(descriptor: int) -> bool:
    if index(descriptor) < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
