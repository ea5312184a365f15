"""Questions to an origin's API: asked politely, repeated where that may help, answered with typed values.

Knows retries, redirects, pacing and JSON; not what a refusal of a certain origin means (its dialect supplies that).
Every redirect is a request through the transport like any other, so the guard judges it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fetcher.config import Settings
from fetcher.errors import FetcherError, RateLimitedError, TransportError
from fetcher.net.pacing import Pacer, wait_asked_s
from fetcher.net.request import Answer, Request, display_url, redirected
from fetcher.net.transport import Response, Transport
from fetcher.plan.retry import Dice, RetryPolicy, Wait, retried_status

Shape = TypeVar("Shape")

REDIRECTS_MAX = 5
QUESTIONS_MAX = 16
"""Of one call, under way at once; it may name tens of thousands of resources, each connection costs a descriptor."""
REFUSAL_BYTES_MAX = 64 << 10
"""Of the text that comes with an error."""
ANSWER_BYTES_MAX = 256 << 20
"""The largest known answer is a repo's info with a line for each of a million files."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A final answer that is no success, for the origin to put into words."""

    status: int
    url: str = field(repr=False)
    """Exact; it may be a signed one, as may be those in ``headers``."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    """Up to 64 KiB of it."""


@dataclass(frozen=True, slots=True)
class Found(Generic[Shape]):
    """A successful answer."""

    value: Shape
    headers: Mapping[str, str] = field(repr=False)
    url: str = field(repr=False)
    """Where it came from, after redirects."""


Refusal = Callable[[Refused], FetcherError]
"""What an origin's dialect calls a refusal."""

Follow = Callable[[Request, Answer], Request | None]
"""Where a redirect leads in an origin's dialect, as ``net.request.redirected``."""

Undecided = Callable[[str], bool]
"""Whether a URL at another origin is, in an origin's dialect, the same question there and not yet the answer."""


def _never(asked: Request, following: Request) -> bool:
    return False


class ApiClient:
    """Asks through ``transport``; one for all origins of a run. ``pacer`` is shared with whoever fetches bodies."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        dice: Dice | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        *,
        pacer: Pacer | None = None,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._policy = RetryPolicy.of(settings)
        self._idle_timeout_s = settings.api_timeout_s
        self._clock = clock
        self._dice: Dice = dice if dice is not None else random.Random()
        self._sleep = sleep
        self._unix_clock = unix_clock
        self._shared = asyncio.Semaphore(QUESTIONS_MAX)
        self.pacer = pacer if pacer is not None else Pacer(clock)

    @contextmanager
    def own_places(self) -> Iterator[None]:
        """Inside, questions (those of tasks begun there, too) wait for one another and for nobody else's: a host that
        answers slowly, page after page, takes as long as it likes, and others must not wait for that."""
        token = _CALL.set(_Call(self))
        try:
            yield
        finally:
            _CALL.reset(token)

    def _call(self) -> _Call | None:
        call = _CALL.get()
        return call if call is not None and call.api is self else None

    def _places(self) -> asyncio.Semaphore:
        call = self._call()
        return self._shared if call is None else call.places

    def late(self, host: str) -> set[str]:
        """Of ``host``: what this call need not wait for again, in words of whoever asks. To be changed in place;
        outside of ``own_places`` nobody keeps it."""
        call = self._call()
        return set() if call is None else call.late.setdefault(host, set())

    async def get_json(
        self, request: Request, shape: type[Shape], *, refusal: Refusal, bytes_max: int = ANSWER_BYTES_MAX
    ) -> Found[Shape]:
        """The answer to ``request`` as a ``shape`` (anything msgspec decodes into).

        An answer that is not the JSON expected (a captive portal's page, half a document) counts as a failure of the
        network. Raises what ``refusal`` makes of a final answer that is no success; TransportError or RateLimitedError
        when the tries are used up.
        """
        import msgspec  # only where JSON is spoken, which no S3 does

        decoder = msgspec.json.Decoder(shape)

        async def read(response: Response) -> Found[Shape]:
            body = await response.read_all(bytes_max)
            try:
                value = decoder.decode(body)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                where = display_url(response.url)
                raise TransportError(f"{where}: the answer is not the JSON that was expected") from None
            return Found(value, response.headers, response.url)

        return await self._persist(request, read, refusal)

    async def get_bytes(
        self,
        request: Request,
        *,
        refusal: Refusal,
        bytes_max: int = ANSWER_BYTES_MAX,
        follow: Follow = redirected,
        check: Callable[[Found[bytes]], None] | None = None,
    ) -> Found[bytes]:
        """The answer to ``request`` (a GET, or a HEAD, which has no body) as it is.

        ``follow`` says where a redirect leads (None: the answer is final, and a refusal). ``check`` may raise
        TransportError for a body that is not what was expected: then the question is asked again. Errors as for
        ``get_json``.
        """

        async def read(response: Response) -> Found[bytes]:
            found = Found(await response.read_all(bytes_max), response.headers, response.url)
            if check is not None:
                check(found)
            return found

        return await self._persist(request, read, refusal, follow=follow)

    async def ask(
        self,
        request: Request,
        read: Callable[[Response], Awaitable[Shape]],
        *,
        refusal: Refusal,
        follow: Follow = redirected,
    ) -> Shape:
        """What ``read`` makes of the answer to ``request``; it may leave the body unread, or part of it.

        A TransportError of ``read`` means that the question is asked again. ``follow`` and errors as for ``get_bytes``.
        """
        return await self._persist(request, read, refusal, follow=follow)

    async def may(self, request: Request, *, refusal: Refusal, undecided: Undecided) -> None:
        """Return if ``request`` would be served: the answer, maybe after redirects, is a success or leads away.

        A redirect within an origin decides nothing: renamed repos and normalised addresses are redirected before
        anybody looks at the token, so it is followed. One to another origin is a yes (a signed URL is only given to
        who may have it) and is not followed, except where ``undecided`` says that its URL asks the question anew.
        No body is read. Errors as for ``get_json``.
        """

        async def accept(response: Response) -> None:
            return None

        def is_yes(asked: Request, following: Request) -> bool:
            return following.origin != asked.origin and not undecided(following.url)

        await self._persist(request, accept, refusal, enough=is_yes)

    async def _persist(
        self,
        request: Request,
        read: Callable[[Response], Awaitable[Shape]],
        refusal: Refusal,
        *,
        enough: Callable[[Request, Request], bool] = _never,
        follow: Follow = redirected,
    ) -> Shape:
        """Try until there is an answer that counts, or the policy gives up. ``enough``: as for ``_once``."""
        places = self._places()
        began = self._clock()
        ordered_s = 0.0
        attempt = 0
        while True:
            attempt += 1
            paced_s, queued_s = await self._enter(places, request, ordered_s)
            ordered_s += paced_s
            began += queued_s
            asked_s: float | None = None
            outcome: int | FetcherError
            left_s = self._policy.time_max_s - (self._clock() - began - ordered_s)
            try:
                async with asyncio.timeout(max(left_s, self._policy.backoff_min_s)):
                    try:
                        answer = await self._once(request, read, enough, follow)
                    finally:
                        places.release()
            except TimeoutError:
                outcome = TransportError(f"{display_url(request.url)}: no complete answer in time")
            except TransportError as error:
                outcome = error
            else:
                if not isinstance(answer, Refused):
                    return answer
                if not retried_status(answer.status):
                    raise refusal(answer)
                outcome = answer.status
                asked_s = wait_asked_s(answer, self._unix_clock())
            elapsed_s = self._clock() - began - ordered_s
            decision = self._policy.decide(attempt, elapsed_s, outcome, asked_s, self._dice, ordered_s=ordered_s)
            if not isinstance(decision, Wait):
                raise _gave_up(request, outcome, decision.reason, rate_limited=decision.rate_limited)
            ordered_s += decision.ordered_s
            await self._sleep(decision.seconds)

    async def _enter(self, places: asyncio.Semaphore, request: Request, ordered_s: float) -> tuple[float, float]:
        """Take one of ``places``, to be given back by the caller, at a time when the request may be sent without a 429.

        Returns the seconds waited for the origin, and those waited for other questions, which are nobody's fault.
        """
        paced_s = queued_s = 0.0
        while True:
            paced_s += await self._pace(request, ordered_s + paced_s)
            queued_at = self._clock()
            await places.acquire()
            queued_s += self._clock() - queued_at
            if self.pacer.delay_s(request) <= 0.0:
                self.pacer.sent(request)
                return paced_s, queued_s
            places.release()  # the answers awaited meanwhile used up the quota

    async def _pace(self, request: Request, ordered_s: float) -> float:
        """Wait until the origin allows a request; returns the seconds waited."""
        waited_s = 0.0
        while (delay_s := self.pacer.delay_s(request)) > 0.0:
            if ordered_s + waited_s + delay_s > self._policy.retry_after_max_s:
                raise RateLimitedError(
                    f"{request.origin} allows no further request for {delay_s:.0f} s",
                    hint="with a token the Hub allows more" if request.carried_credential is None else None,
                )
            await self._sleep(delay_s)
            waited_s += delay_s
        return waited_s

    async def _once(
        self,
        request: Request,
        read: Callable[[Response], Awaitable[Shape]],
        enough: Callable[[Request, Request], bool],
        follow: Follow,
    ) -> Shape | Refused:
        """One try: ask, follow redirects, read. ``follow``: where one leads. ``enough``: of a request and the one that
        its redirect leads to, whether the redirect itself is the answer."""
        asked = request
        for hop in range(REDIRECTS_MAX + 1):
            if hop:
                self.pacer.sent(asked)
            try:
                response = await self._transport.send(asked, idle_timeout_s=self._idle_timeout_s)
            except BaseException:
                self.pacer.unanswered(asked)
                raise
            try:
                self.pacer.observe(asked, response)
                following = follow(asked, response)
                if following is None or enough(asked, following):
                    if following is not None or 200 <= response.status <= 299:
                        result = await read(response)
                    else:
                        return await _read_refusal(response)
                    await response.release()
                    return result
                await response.release()
            except BaseException:
                response.abort()
                raise
            asked = following
        raise TransportError(f"{display_url(request.url)}: more than {REDIRECTS_MAX} redirects in a row")


@dataclass(eq=False, slots=True)
class _Call:
    """What the questions of one call share."""

    api: ApiClient
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUESTIONS_MAX))
    late: dict[str, set[str]] = field(default_factory=dict)


_CALL: ContextVar[_Call | None] = ContextVar("this call", default=None)


async def _read_refusal(response: Response) -> Refused:
    body = b""
    try:
        while len(body) < REFUSAL_BYTES_MAX:
            piece = await response.read_some(REFUSAL_BYTES_MAX)
            if not piece:
                break
            body += piece
        await response.release()
    except FetcherError:  # the status says enough; its text is a courtesy
        response.abort()
    return Refused(response.status, response.url, response.headers, body[:REFUSAL_BYTES_MAX])


def _gave_up(request: Request, outcome: int | FetcherError, reason: str, *, rate_limited: bool) -> FetcherError:
    if isinstance(outcome, FetcherError):
        return TransportError(f"{outcome.message}, {reason}", hint=outcome.hint)
    message = f"{display_url(request.url)} answered {outcome} {reason}"
    if outcome == 429 or rate_limited:
        hint = "with a token the origin may allow more" if request.credential is None else "try again later"
        return RateLimitedError(message, hint=hint)
    return TransportError(message)
