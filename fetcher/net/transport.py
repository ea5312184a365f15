"""The contract between whoever needs an answer and whoever has the sockets. No implementation here.

A transport sends exactly what a Request says and judges nothing but addresses: it follows no redirect, retries no
answer, keeps no cookie, reads no ~/.netrc, decodes no body. It adds the token if, and only if, the request goes to the
token's own origin.

Whoever gets a Response ends it, exactly once, with ``release()`` or ``abort()``; ``abort()`` may be called again,
from any task, also while another task waits in ``read_some()``, which then raises TransportError.

Errors: TransportError for everything that may be otherwise next time (refused, reset, closed early, silent, misframed);
ForbiddenError for what must not be tried again (the guard's refusal, an untrusted certificate, an answer beyond
bounds, a proxy that says no); UsageError for a proxy that the environment names and nobody can use. Any other exception
except CancelledError is a bug of the transport.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from fetcher.net.request import Request


class Receiver(Protocol):
    """Whose memory a body goes to. Called on the event loop, between two awaits; after asyncio.BufferedProtocol."""

    def get_buffer(self) -> memoryview | None:
        """Where the next bytes go, at least one byte of room; None: nowhere now, ``Response.resume`` says when."""
        ...

    def buffer_updated(self, count: int) -> None:
        """So many bytes are at the start of the buffer that was given last. An error raised here, or by
        ``get_buffer``, ends the answer and is raised by ``receive``."""
        ...


class Response(Protocol):
    """The head of an answer, and its body as it comes."""

    @property
    def status(self) -> int: ...

    @property
    def url(self) -> str:
        """The URL that was asked, exact. Secret if signed: show ``display_url(url)``."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive; fields that came more than once are joined by ``", "`` (RFC 9110, 5.3)."""
        ...

    @property
    def content_length(self) -> int | None: ...

    @property
    def content_encoding(self) -> str | None:
        """Lower case; None if the header is absent. The body is never decoded."""
        ...

    async def read_some(self, limit: int) -> bytes | memoryview:
        """The next piece of the body as it comes, 1 to ``limit`` bytes; empty at the end.

        Raises TransportError if the connection ends before the body does, or falls silent.
        """
        ...

    async def receive(self, receiver: Receiver) -> None:
        """The rest of the body into the memory of ``receiver``, straight from the socket where the transport can.

        Returns when the body has ended; raises as ``read_some`` does. While it waits ``resume`` may be called.
        """
        ...

    def resume(self) -> None:
        """The receiver has room again. From the event loop's thread; no harm where nobody waits for it."""
        ...

    async def read_all(self, bytes_max: int) -> bytes:
        """The whole body. Raises ForbiddenError once it is longer than ``bytes_max``."""
        ...

    async def release(self) -> None:
        """Give the connection back if the body was read (or little of it is left), else close it."""
        ...

    def abort(self) -> None:
        """Close the connection at once, without ceremony."""
        ...


class Transport(Protocol):
    """Sends requests over connections of its own. Bound to the event loop that first uses it."""

    async def send(self, request: Request, *, idle_timeout_s: float, fresh_connection: bool = False) -> Response:
        """Send one request and return when the head of its answer is here.

        ``idle_timeout_s``: no byte for this long, before or in the body, is a TransportError. ``fresh_connection``:
        on a new connection (which may reach another machine behind the same name), not on one kept from before.
        """
        ...

    def inner(self, origins: Iterable[str]) -> bool:
        """Whether one of these origins, which an operator named, was asked where the guard lets no job ask: at an
        address of this host's network, for one. What comes from there is not everybody's."""
        ...

    async def close(self) -> None:
        """Close all connections. Answers still open end with TransportError."""
        ...
