"""Where one file's bytes come from: the pinned address at the origin, and the signed URL it led to.

One signed URL serves all parts of a file. It is found by the first part that needs it (the others wait without holding
anything), dropped when a host refuses it, and found again once for all parts.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic
from typing import Any, NoReturn

from fetcher.engine.admission import Place
from fetcher.engine.jobs import PartEnded
from fetcher.errors import DeniedError, FetcherError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.ranges import ByteRange
from fetcher.net.pacing import PaceKey, Pacer, key_of
from fetcher.net.request import Request, display_url, origin_of
from fetcher.net.transport import Response, Transport
from fetcher.origins.base import Origin
from fetcher.plan.transfer import Outcome

REDIRECTS_MAX = 5
REFRESHES_MAX = 5
"""Fresh URLs refused in a row without one byte between them: the origin means it."""

TELLING_STATUSES = frozenset({400, 403})
"""Those of which only the text says whether it is the keys, the request, or a moment's trouble."""
REFUSAL_TEXT_BYTES_MAX = 64 << 10

LOCATED_S = 1.0
"""For so long an address that was found to see whose turn it is may be asked: what the origin has learned meanwhile is
news to requests that are under way, too."""


class Source:
    """Address of one content for one asker."""

    def __init__(self, origin: Origin[Any], pacer: Pacer, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
        self._origin = origin
        self._pacer = pacer
        self._manifest = manifest
        self._entry = entry
        self._asker = asker
        self._located: Request | None = None
        """The pinned address, from when somebody wants to know where it is until it is asked."""
        self._located_at = 0.0
        self._home = ""
        self._pace_key: PaceKey | None = None
        self._signed: Request | None = None
        self._etag: str | None = None
        self._refused = 0
        self._renew = False
        self._renewing = asyncio.Lock()
        self._answered = False
        self.stated = entry
        """The entry, with what the latest answer added to what is known of it."""
        self.scouting = False
        """One part has gone ahead; the others wait for what it finds, holding nothing."""

    def __repr__(self) -> str:
        where = "signed" if self._signed else "not located"
        return f"<Source {self._entry.path!r} at {self.host}, {where}>"

    def _pinned(self) -> Request:
        """The request for the pinned address, as the origin would have it now."""
        return self._origin.locate(self._manifest, self._entry, self._asker)

    def _locate(self) -> PaceKey:
        """Find out where it is: once for whoever looks, and for the request that follows. There may be very many files
        of which nobody has looked at any yet."""
        self._located = first = self._pinned()
        self._located_at = monotonic()
        self._home = origin_of(first.url)
        self._pace_key = key_of(first)
        return self._pace_key

    @property
    def host(self) -> str:
        """``scheme://host:port`` that the next request goes to."""
        if self._signed is not None:
            return origin_of(self._signed.url)
        if self._pace_key is None:
            self._locate()
        return self._home

    @property
    def known(self) -> bool:
        """Where the bytes are and that ranges of them can be had: any number of parts may ask."""
        return self._answered

    def pause_s(self) -> float:
        """How long the origin's announced rate asks us to wait before the next request; 0.0 on a signed URL."""
        if self._signed is not None:
            return 0.0
        return self._pacer.delay_of(self._pace_key or self._locate())

    def forget(self) -> None:
        """Start again from the pinned address, with nothing believed."""
        self._signed = self._located = None
        self._etag = None
        self._answered = False

    @property
    def is_outdated(self) -> bool:
        """Whether ``renew`` comes before the next ``open``: what the origin gave us has expired."""
        return self._renew or self.renewing

    @property
    def renewing(self) -> bool:
        """Whether somebody is about that. The others wait for what it gives, holding nothing."""
        return self._renewing.locked()

    async def renew(self) -> None:
        """Ask the origin for something fresh, once for all who need it. Its API has times and tries of its own, and may
        ask to wait: who asks holds nothing that others need."""
        async with self._renewing:
            if self._renew:
                await self._origin.renew(self._manifest, self._entry, self._asker)
                self._renew = False

    async def open(
        self, transport: Transport, place: Place, span: ByteRange, *, fresh: bool, idle_timeout_s: float
    ) -> Response:
        """Ask for ``span``; returns an answer whose head was judged. ``place`` follows a redirect to another host.

        Raises PartEnded for what another try may mend, a typed error for what is final.
        """
        whole = span.length == self._entry.size
        located: Request | None = None
        if self._signed is not None:
            request, key = self._signed, key_of(self._signed)
        else:
            if self._located is None or self._pace_key is None or monotonic() - self._located_at > LOCATED_S:
                self._locate()
            assert self._located is not None and self._pace_key is not None
            located = request = self._located
            key, self._located = self._pace_key, None
        began = request
        for _ in range(REDIRECTS_MAX + 1):
            asked = request if whole else replace(request, headers=(*request.headers, ("Range", span.header())))
            self._pacer.sent_of(key)
            try:
                response = await transport.send(asked, idle_timeout_s=idle_timeout_s, fresh_connection=fresh)
            except BaseException as error:
                self._pacer.unanswered_of(key)
                if isinstance(error, TransportError):
                    raise PartEnded(Outcome.CUT, error.message) from error
                raise
            try:
                self._pacer.observe_of(key, response)
                following = self._origin.follow(request, response)
                if following is None:
                    telling = response.status in TELLING_STATUSES
                    text = await _text_of(response, idle_timeout_s) if telling else b""
                    self._judge(response, request, began, span, text, whole=whole, located=request is located)
                    return response
                await response.release()
            except BaseException:
                response.abort()
                raise
            target = origin_of(following.url)
            if target != origin_of(request.url):
                self._signed = began = following
                if not place.move(target):
                    raise PartEnded(Outcome.COMPLETE, f"{target} has no place free")
            request, key = following, key_of(following)
        raise TransportError(f"{display_url(request.url)}: more than {REDIRECTS_MAX} redirects in a row")

    def _judge(
        self,
        response: Response,
        request: Request,
        began: Request,
        span: ByteRange,
        text: bytes,
        *,
        whole: bool,
        located: bool,
    ) -> None:
        """Return if the body is the span that was asked for; raise what the answer means otherwise. ``began``: with
        what we came to this host, which may have led us on to ``request``. ``text``: what came with a refusal.
        ``located``: ``request`` is for the pinned address itself, and not for where it led."""
        if response.status not in (200, 206):
            self._judge_refusal(response, request, began, display_url(response.url), text, located=located)
        if self._is_encoded(response):
            raise PartEnded(
                Outcome.MISFRAMED,
                f"{display_url(response.url)} sent a {response.content_encoding} body though asked for identity",
            )
        # Some stores answer a range with 200 and say by Content-Range that it is one (rclone).
        ranged = response.status == 206 or (not whole and "Content-Range" in response.headers)
        # Whose bytes they are comes before how many: another state mostly has another length.
        stated = self._origin.stated(response, self._entry, whole=whole and not ranged)
        if stated is None:
            raise PartEnded(
                Outcome.CHANGED, f"{display_url(response.url)} has another state than the one that was listed"
            )
        length = response.content_length
        if ranged:
            try:
                got, total = ByteRange.of_content_range(response.headers.get("Content-Range", ""))
            except ValueError as error:
                raise PartEnded(Outcome.MISFRAMED, f"{display_url(response.url)}: {error}") from None
            if total is not None and total != self._entry.size:
                raise PartEnded(
                    Outcome.CHANGED, f"{display_url(response.url)} says {total} bytes, the listing {self._entry.size}"
                )
            if got != span or (length is not None and length != span.length):
                raise PartEnded(
                    Outcome.MISFRAMED,
                    f"{display_url(response.url)} answered {got} ({length} bytes) to a request for {span}",
                )
            if not self._is_told_apart(response):
                raise PartEnded(
                    Outcome.UNRANGED, f"{display_url(response.url)} gives ranges without a word of whose state they are"
                )
        else:
            if length is not None and length != self._entry.size:
                weak = self._entry.validator is not None and self._entry.validator.kind != "strong"
                outcome = Outcome.CHANGED if weak else Outcome.MISFRAMED  # its length is all that tells
                raise PartEnded(
                    outcome, f"{display_url(response.url)} says {length} bytes, the listing {self._entry.size}"
                )
            if not whole:
                raise PartEnded(Outcome.UNRANGED, f"{display_url(response.url)} ignores Range")
        self.stated = stated
        etag = response.headers.get("ETag")
        if etag and not etag.startswith("W/"):
            if self._etag is not None and self._etag != etag:
                raise PartEnded(Outcome.CHANGED, f"{display_url(response.url)} has another ETag than before")
            self._etag = etag
        self._answered = True
        self._refused = 0  # this URL is good; that it may be used up soon is another matter

    def _is_told_apart(self, response: Response) -> bool:
        """Whether a range says of which state it is, or a digest of the whole will; else ranges of two states might be
        put together, and the file has to come in one answer."""
        validator = self._entry.validator
        if validator is None or validator.kind == "none" or self._entry.digest is not None:
            return True
        named = "ETag" if validator.etag else "Last-Modified"
        return bool(response.headers.get(named)) or (validator.version is not None and validator.etag is None)

    def _is_encoded(self, response: Response) -> bool:
        """Whether the body was encoded for this answer. A store also repeats what was said when an object came in: that
        is part of the object, whose strong ETag and length then are those of the bytes as they are."""
        if not response.content_encoding:
            return False
        codings = {coding.strip() for coding in response.content_encoding.split(",")}
        if not codings - {"", "identity", "aws-chunked"}:  # the latter was taken off when the object came in
            return False
        validator, etag = self._entry.validator, response.headers.get("ETag", "W/")
        strong = validator is not None and validator.kind == "strong" and validator.etag is not None
        return not strong or etag.startswith("W/") or response.content_length is None

    def _judge_refusal(
        self, response: Response, request: Request, began: Request, where: str, text: bytes, *, located: bool
    ) -> NoReturn:
        # Asked before the origin hears of this refusal: what others' taught it since says nothing final of the file.
        outdated = located and request != self._pinned()
        signed = origin_of(request.url) != self._home
        verdict = self._origin.refusal(response, self._entry, signed=signed, text=text)
        if verdict.kind == "busy":
            raise PartEnded(Outcome.BUSY, f"{where} answered {response.status}", retry_after_s=verdict.retry_after_s)
        if verdict.kind == "expired":
            if self._signed is None and began == self._pinned():  # else it was sent with what is renewed by now
                self._refused += not self._renew
                self._renew = True
            elif self._signed is began:  # of all parts that used this URL, the first one drops it
                self._signed = None
                self._answered = False
                self._refused += 1
            if self._refused > REFRESHES_MAX:
                what = "fresh requests" if origin_of(request.url) == self._home else "fresh signed URLs"
                raise DeniedError(
                    f"{where} answered {response.status} to {self._refused} {what} in a row",
                    hint="the origin's storage refuses what the origin allows; try again later",
                )
            raise PartEnded(Outcome.EXPIRED, f"{where} answered {response.status}")
        if verdict.kind == "changed":
            raise PartEnded(Outcome.CHANGED, f"{where} answered {response.status}")
        if outdated and self._refused < REFRESHES_MAX:
            self._refused += 1
            raise PartEnded(Outcome.EXPIRED, f"{where} answered {response.status}")
        assert verdict.error is not None
        raise verdict.error


async def _text_of(response: Response, time_max_s: float) -> bytes:
    """What is said with a refusal, as far as it comes: the status alone means something, too."""
    text = bytearray()
    try:
        async with asyncio.timeout(time_max_s):
            while len(text) < REFUSAL_TEXT_BYTES_MAX and (piece := await response.read_some(REFUSAL_TEXT_BYTES_MAX)):
                text += piece
    except (FetcherError, TimeoutError):
        pass
    return bytes(text[:REFUSAL_TEXT_BYTES_MAX])
