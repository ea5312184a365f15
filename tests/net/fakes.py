"""A transport without sockets: answers from a script, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from multidict import CIMultiDict

from fetcher.errors import FetcherError, ForbiddenError
from fetcher.net.request import Request


@dataclass
class FakeResponse:
    """A whole answer, given in one piece."""

    status: int = 200
    body: bytes = b"{}"
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    url: str = ""
    fails: FetcherError | None = None
    """Raised instead of the body."""
    ended: str = ""

    @property
    def content_length(self) -> int | None:
        return len(self.body)

    @property
    def content_encoding(self) -> str | None:
        return None

    async def read_some(self, limit: int) -> bytes:
        if self.fails:
            raise self.fails
        piece, self.body = self.body[:limit], self.body[limit:]
        return piece

    async def read_all(self, bytes_max: int) -> bytes:
        if self.fails:
            raise self.fails
        if len(self.body) > bytes_max:
            raise ForbiddenError("too long")
        return self.body

    async def release(self) -> None:
        self.ended = self.ended or "released"

    def abort(self) -> None:
        self.ended = "aborted"


def answer(
    status: int = 200, body: bytes = b"{}", *, fails: FetcherError | None = None, **headers: str
) -> FakeResponse:
    return FakeResponse(status, body, CIMultiDict({k.replace("_", "-"): v for k, v in headers.items()}), fails=fails)


Script = Callable[[Request], "FakeResponse | FetcherError"]


class FakeTransport:
    """Answers the n-th request with the n-th item, later ones with the last; an error is raised."""

    def __init__(self, *script: FakeResponse | FetcherError | Script) -> None:
        self._script = script
        self.asked: list[Request] = []
        self.answers: list[FakeResponse] = []

    async def send(self, request: Request, *, idle_timeout_s: float, fresh_connection: bool = False) -> FakeResponse:
        item = self._script[min(len(self.asked), len(self._script) - 1)]
        self.asked.append(request)
        made = item(request) if callable(item) else item
        if isinstance(made, FetcherError):
            raise made
        response = FakeResponse(made.status, made.body, made.headers, request.url, made.fails)
        self.answers.append(response)
        return response

    async def close(self) -> None:
        pass


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
