"""Faults of any HTTP origin: refusals, broken connections, wrong bytes and wrong ranges.

Each is a frozen value for a ``FaultPlan``; which requests it hits is said with ``on``, see ``faultplan``. Faults of the
Hub's API (listings, quotas) are in ``hub.hostility``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from fetcher.testing import bodies
from fetcher.testing.contents import BytesContent, Synthetic
from fetcher.testing.faultplan import Exchange, Fault
from fetcher.testing.messages import CutHow, Reply

# Instead of an answer


@dataclass(frozen=True)
class Status(Fault):
    """Answer with a bare status, as an overloaded or refusing front end does."""

    places: ClassVar[tuple[str, ...]] = ("*",)
    status: int = 503
    retry_after: int | None = None
    """Seconds for the Retry-After header."""

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        headers = {"Content-Type": "text/plain"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return Reply(self.status, headers, BytesContent(b"planned fault\n"))


@dataclass(frozen=True)
class RefuseHead(Fault):
    """Answer 405 to HEAD."""

    places: ClassVar[tuple[str, ...]] = ("*",)

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        return Reply(405, {"Allow": "GET"}) if exchange.request.method == "HEAD" else None


@dataclass(frozen=True)
class RedirectTo(Fault):
    """Redirect somewhere else: to an internal address, to another scheme, or in a circle.

    ``{self}`` in the URL stands for the request's own target.
    """

    places: ClassVar[tuple[str, ...]] = ("resolve",)
    url: str = "{self}"
    status: int = 302

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        return Reply(self.status, {"Location": self.url.replace("{self}", exchange.request.target)})


@dataclass(frozen=True)
class MaxConcurrentBodies(Fault):
    """Answer 503 to a body request while ``limit`` others are under way."""

    limit: int = 1

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        if exchange.origin.open_bodies(exchange.record.route) < self.limit:
            return None
        return Reply(503, {"Content-Type": "text/plain"}, BytesContent(b"Please reduce your request rate.\n"))


@dataclass(frozen=True)
class UrlUses(Fault):
    """A signed URL is good for ``limit`` requests, then 403 as if it had expired."""

    places: ClassVar[tuple[str, ...]] = ("cdn",)
    limit: int = 3

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        used = memory.get(exchange.request.target, 0)
        memory[exchange.request.target] = used + 1
        return Reply(403, {"Content-Type": "application/xml"}) if used >= self.limit else None


@dataclass(frozen=True)
class RedirectAlreadyExpired(Fault):
    """The signed URL handed out is past its time."""

    places: ClassVar[tuple[str, ...]] = ("resolve", "resolve-cache")

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        exchange.url_lifetime_s = -10.0
        return None


# Time, and the world changing meanwhile


@dataclass(frozen=True)
class Delay(Fault):
    """Answer late."""

    places: ClassVar[tuple[str, ...]] = ("*",)
    seconds: float = 1.0

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        await asyncio.sleep(self.seconds)
        return None


@dataclass(frozen=True)
class OnRequest(Fault):
    """Call ``callback(exchange)`` before the request is answered; it may be a coroutine function.

    ``exchange.origin`` is the hub: to move a branch in mid-run, commit to it here.
    A ``Reply`` returned by the callback is the answer.
    """

    places: ClassVar[tuple[str, ...]] = ("*",)
    callback: Callable[[Exchange], Any] = lambda exchange: None

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        result = self.callback(exchange)
        if inspect.isawaitable(result):
            result = await result
        return result if isinstance(result, Reply) else None


# The connection


@dataclass(frozen=True)
class CutAfter(Fault):
    """End the connection after so many bytes of the body (0: right after the head)."""

    late: ClassVar[bool] = True
    bytes: int = 0
    how: CutHow = "rst"

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.cut_after, reply.pace.cut_how = self.bytes, self.how


@dataclass(frozen=True)
class CutAt(Fault):
    """End the connection where the body reaches an offset of the file; other bodies pass."""

    late: ClassVar[bool] = True
    offset: int = 0
    how: CutHow = "rst"

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return super().fits(exchange, reply) and reply.span[0] <= self.offset < reply.span[1]

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.cut_after, reply.pace.cut_how = self.offset - reply.span[0], self.how


@dataclass(frozen=True)
class CutHead(Fault):
    """End the connection after so many bytes of the head (0: without a word)."""

    places: ClassVar[tuple[str, ...]] = ("*",)
    late: ClassVar[bool] = True
    bytes: int = 0
    how: CutHow = "rst"

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return True

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.head_cut_after, reply.pace.cut_how = self.bytes, self.how


@dataclass(frozen=True)
class HangUp(Fault):
    """After a complete reply close the kept-alive connection without having said so."""

    places: ClassVar[tuple[str, ...]] = ("*",)
    late: ClassVar[bool] = True

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return True

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.hang_up = True


@dataclass(frozen=True)
class StallAfter(Fault):
    """Fall silent after so many bytes of the body, for ever unless ``seconds`` says otherwise."""

    late: ClassVar[bool] = True
    bytes: int = 0
    seconds: float = float("inf")

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.stall_after, reply.pace.stall_s = self.bytes, self.seconds


@dataclass(frozen=True)
class Trickle(Fault):
    """Send the body at a limited speed."""

    late: ClassVar[bool] = True
    bytes_per_s: float = 1000.0

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.bytes_per_s = self.bytes_per_s


@dataclass(frozen=True)
class HeadersWithoutEnd(Fault):
    """Send header lines for as long as the client takes them."""

    places: ClassVar[tuple[str, ...]] = ("*",)
    late: ClassVar[bool] = True

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return True

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.pace.endless_head = True


# Wrong bytes, wrong ranges


@dataclass(frozen=True)
class FlipByte(Fault):
    """Flip bits of the byte at an offset of the file. ``on(times=1)`` for once, otherwise always."""

    late: ClassVar[bool] = True
    at: int = 0
    mask: int = 0x01

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return super().fits(exchange, reply) and reply.span[0] <= self.at < reply.span[1]

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.patches[self.at] = self.mask


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """Answer a ranged request with 200 and the whole file."""

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        exchange.without("range")
        return None


@dataclass(frozen=True)
class ShiftRange(Fault):
    """Answer a range with the bytes of another, ``by`` bytes further.

    With ``lying`` the Content-Range still names what was asked, so only a digest can notice.
    """

    late: ClassVar[bool] = True
    by: int = 1 << 20
    lying: bool = False

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        if reply.status != 206 or reply.content is None:
            return False
        start, stop = reply.span
        return start + self.by >= 0 and stop + self.by <= reply.content.size

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert reply.content is not None
        start, stop = reply.span
        reply.start, reply.stop = start + self.by, stop + self.by
        if not self.lying:
            reply.headers["Content-Range"] = bodies.content_range(reply.span, reply.content.size)


@dataclass(frozen=True)
class ShortBody(Fault):
    """Leave out the last bytes of the body and say so in Content-Length only: a clean end, too early."""

    late: ClassVar[bool] = True
    missing: int = 1

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return super().fits(exchange, reply) and reply.span[1] - reply.span[0] > self.missing

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.stop = reply.span[1] - self.missing


@dataclass(frozen=True)
class GzipBody(Fault):
    """Compress although ``identity`` was asked for. The whole body is compressed in memory: for small files."""

    late: ClassVar[bool] = True

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        bodies.compress(reply)


@dataclass(frozen=True)
class ChangeContent(Fault):
    """From now on the URL serves other bytes of the same size, under another ETag unless ``same_etag``.

    With ``on(skip=n)`` the change comes in the middle of a file. If-Range and If-Match see the new ETag.
    """

    late: ClassVar[bool] = True
    seed: int = 666
    same_etag: bool = False
    same_bytes: bool = False
    """Change the ETag alone: the file was touched, or another front end answers."""

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert reply.content is not None
        if not self.same_bytes:
            reply.content = Synthetic(reply.content.size, self.seed)
        if self.same_etag:
            return
        reply.headers["ETag"] = f'"{self.seed:040x}"'
        if "if-match" in exchange.request.headers:
            reply.status, reply.content, reply.stop = 412, None, None
            reply.start = 0
        elif "if-range" in exchange.request.headers and reply.status == 206:
            reply.status, reply.start, reply.stop = 200, 0, None
            del reply.headers["Content-Range"]
