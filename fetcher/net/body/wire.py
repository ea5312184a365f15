"""The socket's side of a connection: where it stands, whether it is read from, how long it may be silent, how it ends.

Knows no HTTP: what the bytes mean, and what is waited for, ``connection.Connection`` says.

===========  =======================================================================================================
``IDLE``     nothing was asked; whatever comes now was not asked for, and ends the connection
``HEAD``     a request is out
``BODY``     the head of its answer is here
``CLOSED``   nothing comes any more
===========  =======================================================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import cast

from fetcher._native.one_socket import has_news
from fetcher.net.body.silence import Awaited, Silence


class Stage(Enum):
    """Where a connection stands; see above."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    CLOSED = "closed"


class CutError(Exception):
    """The connection ended before the answer did; ``args[0]`` is the OSError that ended it, or None. Never leaves this
    room."""


class SilentError(Exception):
    """No byte came for too long. Never leaves this room."""


class Wire(asyncio.BufferedProtocol):
    """See above."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self.stage = Stage.IDLE
        self.silent = False
        """It ended because nothing came."""
        self.on_closed: Callable[[], None] | None = None
        """Called once, when the socket is gone."""
        self._paused = False
        self._descriptor = -1
        self._silence = Silence(loop, self._waits_for, self._fall_silent)

    # -- for the subclass to say -------------------------------------------------------------------------------------

    def _waits_for(self) -> Awaited | None:
        """See ``Silence``."""
        raise NotImplementedError

    def _lost(self, error: BaseException) -> None:
        """Nothing comes any more; called once."""
        raise NotImplementedError

    # -- what may be known -------------------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent now.

        What waits to be read on an idle connection is its end, or something that nobody asked for and that must not be
        taken for the next answer; the event loop may not have come to it yet.
        """
        return self.stage is Stage.IDLE and self._is_open and not has_news(self._descriptor)

    @property
    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # -- what the event loop tells -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._descriptor = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(CutError(exc))
        self._transport = None
        told, self.on_closed = self.on_closed, None
        if told is not None:
            told()

    # -- reading, and the end of it ----------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._silence.heard_at = self._loop.time()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def _fall_silent(self) -> None:
        self.silent = True
        self._fail(SilentError())

    def _fail(self, error: BaseException) -> None:
        """End the connection at once."""
        transport = self._transport
        self._over(error)
        if transport is not None:
            transport.abort()

    def _over(self, error: BaseException) -> None:
        """Nothing comes any more. May be called again."""
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        self._silence.end()
        self._lost(error)
