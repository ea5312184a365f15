"""A request as a value, and the few things that may be done to its URL.

URLs are *exact*: a signed one is a signature over its bytes, so nothing here or below ever re-quotes one
(``%27`` stays ``%27``). This module knows no sockets and reads no environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Protocol
from urllib.parse import quote, urljoin, urlsplit

from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.secret import Credential
from fetcher.model.text import shown

Purpose = Literal["api", "body"]

URL_CHARACTERS_MAX = 16_384
"""Signed URLs of today have 1 to 2 thousand; servers refuse more than 8 to 16 thousand."""

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_EXACT = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
"""Printable ASCII without the backslash, which some parsers take for a slash (``https://a\\@b/`` has two readings)."""
_BEFORE_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One request, complete; ``replace()`` it to add a header. Its repr holds no secret."""

    method: str
    url: str
    """Exact and already encoded; never re-quoted."""
    headers: tuple[tuple[str, str], ...] = ()
    """Beside those that the transport sets (User-Agent, Accept-Encoding: identity)."""
    credential: Credential | None = None
    """Sent, or signed with, only at ``credential_origin``; see ``net.authorize``."""
    credential_origin: str | None = None
    """``scheme://host:port`` that may see ``credential``."""
    clock_skew_s: float = 0.0
    """How far the origin's clock is ahead of ours, as far as a signature has to know."""
    trusted_origins: frozenset[str] = field(default_factory=frozenset)
    """From the Asker: origins that an operator named. Only requests to them skip the guard."""
    purpose: Purpose = "body"
    secret_query: bool = False
    """What follows the ``?`` opens what the URL names: over plain http it goes no farther than a credential may."""

    def __repr__(self) -> str:
        who = "anonymous" if self.credential is None else "with credential"
        return f"<Request {self.method} {display_url(self.url)}, {who}>"

    @property
    def origin(self) -> str:
        """``scheme://host:port`` that this goes to."""
        return origin_of(self.url)

    @property
    def guarded(self) -> bool:
        """Whether the addresses of this request are judged before a connection is made."""
        return self.origin not in self.trusted_origins

    @property
    def carried_credential(self) -> Credential | None:
        """The credential, if it may go where this request goes."""
        return self.credential if self.credential is not None and self.origin == self.credential_origin else None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL leads."""

    scheme: Literal["http", "https"]
    host: str
    """Lower case; an IPv6 literal without its brackets."""
    port: int
    origin: str = field(init=False, compare=False)
    """``scheme://host:port``: made once, as each request needs it several times."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", origin_at(self.scheme, self.host, self.port))


def origin_at(scheme: str, host: str, port: int) -> str:
    """``scheme://host:port``; brackets are put around an IPv6 literal."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Answer(Protocol):
    """What redirects and verdicts need to see of a response."""

    @property
    def status(self) -> int: ...
    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


@lru_cache(maxsize=1024)
def address_of(url: str) -> Address:
    """Scheme, host and port of ``url``. Raises ForbiddenError for what is not plainly one http(s) address."""
    if len(url) > URL_CHARACTERS_MAX or not _EXACT.fullmatch(url):
        raise ForbiddenError(f"not a usable URL: {shown(display_url(url))}")
    match = _BEFORE_PATH.match(url)
    found = _address(url if match is None else match[0])
    if isinstance(found, str):
        raise ForbiddenError(f"{found}: {shown(display_url(url))}")
    return found


@lru_cache(maxsize=1024)
def _address(url: str) -> Address | str:
    """The address of a URL that ends with its authority, or why it has none. What thousands of objects on one host have
    in common."""
    unusable = "not a usable URL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return unusable
    if parts.username is not None or parts.password is not None:
        return "a URL with a user name or password is never used"
    if not host or port == 0 or "%" in host or ("[" in parts.netloc) != (":" in host):
        return unusable
    if parts.scheme == "https":
        return Address("https", host, port or 443)
    if parts.scheme == "http":
        return Address("http", host, port or 80)
    return "neither http nor https"


def origin_of(url: str) -> str:
    """``scheme://host:port``, lower case, default port explicit: what credentials and connections are bound to."""
    return address_of(url).origin


def display_url(url: str) -> str:
    """``url`` fit for messages and events: without query, fragment and user info, where signatures and secrets live."""
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, separator, rest = head.partition("://")
    if not separator:
        return head
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def resolve_location(url: str, location: str) -> str:
    """The URL that a ``Location`` or ``Link`` target means when it comes from ``url``.

    Byte for byte what the origin sent: only characters that may not stand in a URL at all (blanks, controls, raw
    non-ASCII bytes) are percent-encoded. A fragment is dropped; it is no part of a request.
    """
    exact = quote(location.strip(), safe=_PRINTABLE, errors="surrogateescape").partition("#")[0]
    if re.match(r"https?://", exact, re.IGNORECASE):
        return exact
    if exact.startswith("//"):
        return f"{address_of(url).scheme}:{exact}"
    try:
        return urljoin(url, exact)
    except ValueError:
        raise ForbiddenError(f"{display_url(url)} leads to an unusable URL") from None


def redirected(request: Request, answer: Answer) -> Request | None:
    """The request that follows a redirect, or None if ``answer`` is none.

    The credential does not leave its origin; neither do extra headers that could hold one. Nor does trust: that an
    operator named another origin is no reason to go there because a stranger says so. Raises TransportError for a
    redirect that does not say where to.
    """
    if answer.status not in REDIRECT_STATUSES:
        return None
    location = answer.headers.get("Location")
    if not location:
        raise TransportError(f"{display_url(request.url)} answered {answer.status} without saying where to")
    target = resolve_location(request.url, location)
    if origin_of(target) == request.origin:
        return replace(request, url=target)
    safe = tuple((name, value) for name, value in request.headers if name.lower() not in ("authorization", "cookie"))
    return replace(
        request,
        url=target,
        headers=safe,
        credential=None,
        credential_origin=None,
        trusted_origins=frozenset(),
        secret_query=False,
    )
