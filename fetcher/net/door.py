"""What every request passes on its way out, whichever transport carries it: the guard's verdict on what can be seen
before a name is resolved, the proxy, who it is from, and whether its connection may be kept.

Opens and resolves nothing. Shared by the transports of an engine, so that what one learned holds for the other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from fetcher.config import Settings
from fetcher.errors import ForbiddenError
from fetcher.model.proxy import Proxy
from fetcher.model.version import VERSION
from fetcher.net.authorize import authorization
from fetcher.net.guard import Guard, canonical_literal
from fetcher.net.proxies import proxies_of
from fetcher.net.request import Address, Request, address_of, display_url, origin_at

KEPT_ALIVE_S = 30.0
ORIGINS_KEPT_MAX = 64
"""Connections to so many are kept open between requests; to more, each is closed after its answer. Documents of
strangers may name a thousand hosts, and redirects more of them, and what is kept costs descriptors that others need."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Requests that may share connections.

    Guarded and unguarded requests never do, else a connection made for an operator would carry a job's request past the
    guard. Plain and TLS are kept apart because the guard's verdict depends on it, as do credentials in clear text. What
    a proxy carries has a lane per proxy: its connections lead to an address that nobody has judged.
    """

    guarded: bool
    scheme: Literal["http", "https"]
    bare_credential: bool
    """Unguarded, but with a credential over plain http."""
    proxy: Proxy | None


class Passage(NamedTuple):
    """A request that may go out."""

    address: Address
    headers: dict[str, str]
    """All that the request says beside what is said of every one."""
    lane: Lane
    kept: bool
    """The connection may stay open after the answer."""


@lru_cache(maxsize=64)
def _lane(guarded: bool, scheme: Literal["http", "https"], bare_credential: bool, proxy: Proxy | None) -> Lane:
    """There are few, and each request needs one."""
    return Lane(guarded, scheme, bare_credential, proxy)


class Door:
    """Lets requests out, or raises ForbiddenError. Raises UsageError for a proxy that nobody can use."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] | None = None) -> None:
        """``environ``: where the variables of proxies are read, unless the settings name one."""
        self.guard = Guard(settings.allow_net)
        self._proxies = proxies_of(settings.proxy, environ or {})
        self._proxy_filters = settings.proxy_filters
        self._kept: dict[str, float] = {}
        """Origins that connections are kept to, and when each was last asked; the one asked longest ago first."""
        self._verdicts: dict[str, bool] = {}
        """Origins that were asked unguarded, and whether that was where no job may ask."""

    def __repr__(self) -> str:
        return f"<Door {self.guard!r}>"

    def proxy_for(self, request: Request) -> Proxy | None:
        """The proxy that the request is handed to."""
        return self._proxies.for_address(address_of(request.url))

    def admit(self, request: Request) -> Passage:
        """The request may go out, as far as can be told before its host has an address."""
        address = address_of(request.url)
        guarded = address.origin not in request.trusted_origins
        literal = canonical_literal(address.host)
        proxy = self._proxies.for_address(address)
        if guarded and proxy is not None:
            self._judge_proxied(address, literal, proxy)
        elif guarded and literal is not None:
            self.guard.check(address.host, [literal], address.port, address.scheme)
        elif not guarded and proxy is not None:
            self._see_proxied(address, literal)
        elif literal is not None:
            self.see(address.host, [literal], address.port, address.scheme)
        carries = request.credential is not None and request.credential_origin == address.origin
        headers = dict(request.headers)
        secret = request.secret_query or carries
        # Never readable on the way to a stranger. A guarded request over plain http reaches nothing but addresses that
        # FETCHER_ALLOW_NET holds, so only the others are judged once more.
        bare_credential = secret and not guarded and address.scheme == "http"
        if carries:
            headers |= authorization(request)
        for value in headers.values():
            if not (value.isascii() and value.isprintable()):
                # Such as an ETag with raw bytes in it, on its way back as If-Range; or a token that ends with its line.
                raise ForbiddenError(f"{display_url(request.url)}: a header of the request can't be sent as it is")
        if bare_credential and proxy is not None:
            self.guard.check_proxied_token(address.host, literal, str(proxy))
        elif bare_credential and literal is not None:
            self.guard.check_token(address.host, [literal], address.port)
        lane = _lane(guarded, address.scheme, bare_credential, proxy)
        return Passage(address, headers, lane, self.may_keep(address.origin))

    # -- what is found out on the way --------------------------------------------------------------------------------

    def judge(self, lane: Lane, host: str, addresses: Sequence[str], port: int) -> None:
        """Return if a connection of the lane may be made to all ``addresses`` of ``host``. For names, and once more for
        the very address that is about to be connected to."""
        if lane.guarded:
            self.guard.check(host, addresses, port, lane.scheme)
        elif lane.bare_credential:
            self.guard.check_token(host, addresses, port)

    def see(self, host: str, addresses: Sequence[str], port: int, scheme: Literal["http", "https"]) -> None:
        """Take note of where an unguarded request leads. Raises ForbiddenError for a name that led to a public address
        before and leads inside now: what is under way was held to be everybody's."""
        barred = next((ip for ip in addresses if self.guard.judge_endpoint(ip, port, scheme) is not None), None)
        origin = origin_at(scheme, host.lower(), port)
        if barred is not None and not self._verdicts.setdefault(origin, True):
            raise ForbiddenError(
                f"{host} led to a public address before, and leads to {barred} now", hint="start the program again"
            )
        self._verdicts.setdefault(origin, False)

    def inner(self, origins: Iterable[str]) -> bool:
        """See ``transport.Transport``."""
        return any(self._verdicts.get(origin, False) for origin in origins)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _see_proxied(self, address: Address, literal: str | None) -> None:
        """The same of a request through a proxy: of a name only the proxy knows where it leads, and whether a job could
        have asked there is told by one that filters alone."""
        if literal is not None:
            self.see(address.host, [literal], address.port, address.scheme)
            return
        barred = not self._proxy_filters
        if not barred:
            try:
                self.guard.check_unresolved(address.host, address.port, address.scheme)
            except ForbiddenError:
                barred = True
        self._verdicts.setdefault(address.origin, barred)

    def _judge_proxied(self, address: Address, literal: str | None, proxy: Proxy) -> None:
        """Whether a guarded request may be handed to ``proxy``; raises ForbiddenError else.

        Where a proxy connects to can't be seen from here, so the operator has to say that it looks itself. Even then
        what can be seen is judged.
        """
        if literal is not None:
            self.guard.check(address.host, [literal], address.port, address.scheme)
        elif self._proxy_filters:
            self.guard.check_unresolved(address.host, address.port, address.scheme)
        if not self._proxy_filters:
            raise ForbiddenError(
                f"a request to {address.origin} is refused: it would go through the proxy {proxy} ({proxy.place}), and "
                "where that connects to can't be judged from here",
                hint="FETCHER_PROXY=none goes directly, NO_PROXY exempts hosts; if the proxy itself keeps jobs away "
                "from the host's own network, an operator can say so with FETCHER_PROXY_FILTERS=true",
            )

    def may_keep(self, origin: str) -> bool:
        """Whether a connection to ``origin`` may stay open after the answer."""
        now = time.monotonic()
        if self._kept.pop(origin, None) is None:
            while self._kept and (oldest := next(iter(self._kept))) and self._kept[oldest] < now - KEPT_ALIVE_S:
                del self._kept[oldest]
            if len(self._kept) >= ORIGINS_KEPT_MAX:
                return False
        self._kept[origin] = now
        return True


def user_agent() -> str:
    """``fetcher/<version>; python/<version>``: who asks, and nothing about the machine."""
    return _USER_AGENT


# Said once: looking it up among the installed packages reads a dozen files.
_USER_AGENT = f"fetcher/{VERSION}; python/{'.'.join(str(part) for part in sys.version_info[:3])}"
