"""Where aiohttp's errors get our names, with those of the system (``naming``). A test fails when one is unmapped.

The rule: what may be otherwise next time is a TransportError; what can't (an untrusted certificate, a URL no client
takes) is a ForbiddenError. Messages name the host and what happened; they never repeat the foreign text, which may
hold a URL. Where a proxy is on the way, what went wrong with it is told of it, not of the origin.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import http_exceptions

from fetcher.errors import FetcherError, ForbiddenError, TransportError
from fetcher.model.proxy import Proxy
from fetcher.net.naming import Renamer, certificate, cut, is_closed_handle, names, system, tls

PROXY_WANTS_LOGIN = 407
_PROXY_SAYS_NO = frozenset({401, 403, 405, 451})
"""To CONNECT: its rules are against it, and will be the next time."""


@contextmanager
def map_exceptions(
    where: str, *, connect_timeout_s: float = 0.0, idle_timeout_s: float = 0.0, proxy: Proxy | None = None
) -> Iterator[None]:
    """Re-raise foreign exceptions of the block as ours. ``where``: display form of the URL. Ours pass unchanged.
    ``proxy``: what the request was handed to.

    Raised ``from None``: the foreign text of most has the whole URL in it, and a traceback in a log would show it.
    """
    try:
        yield
    except FetcherError:
        raise
    except aiohttp.ConnectionTimeoutError:
        through = "" if proxy is None else f" through the proxy {proxy} ({proxy.place})"
        raise TransportError(f"{where}: no connection{through} within {connect_timeout_s:g} s") from None
    except TimeoutError:
        # aiohttp.SocketTimeoutError, and asyncio's own: both mean that nobody spoke. ETIMEDOUT of the kernel too.
        raise TransportError(f"{where}: no answer within {idle_timeout_s:g} s") from None
    except RuntimeError as error:
        if not is_closed_handle(error):
            raise
        raise cut(error, where) from None
    except RENAMED as error:
        raise (proxy and _of_the_proxy(error, where, proxy)) or rename(error, where) from None


def rename(error: BaseException, where: str) -> FetcherError:
    """Our error for a foreign one of ``RENAMED``."""
    for theirs, renamer in MAPPING:
        if isinstance(error, theirs):
            return renamer(error, where)
    raise AssertionError(f"{type(error).__name__} is not mapped")


def _of_the_proxy(error: BaseException, where: str, proxy: Proxy) -> FetcherError | None:
    """Our error for one that is the proxy's own fault, or None."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refusal(where, proxy, error.status)
    key = getattr(error, "_conn_key", None)
    concerns_it = key is not None and (key.host, key.port) == (proxy.host, proxy.port)
    if not isinstance(error, aiohttp.ClientProxyConnectionError) and not concerns_it:
        return None
    ours = rename(error, f"{where}: the proxy {proxy} ({proxy.place})")
    ours.hint = ours.hint or _proxy_cure(proxy)
    return ours


def proxy_refusal(where: str, proxy: Proxy, status: int) -> FetcherError:
    """What it means that ``proxy`` itself answered with ``status``."""
    named = f"{where}: the proxy {proxy} ({proxy.place})"
    if status == PROXY_WANTS_LOGIN:
        wrong = "a user name and password" if proxy.login is None else "another user name and password"
        return ForbiddenError(f"{named} wants {wrong}", hint=f"{proxy.place}=http://user:password@host:port")
    if status in _PROXY_SAYS_NO:
        hint = "its rules don't allow this address; its administrator can, NO_PROXY goes around it"
        return ForbiddenError(f"{named} refuses to connect there ({status})", hint=hint)
    return TransportError(f"{named} answered {status}: it has no connection to the origin", hint=_proxy_cure(proxy))


def _proxy_cure(proxy: Proxy) -> str:
    return f"check {proxy.place}; FETCHER_PROXY=none goes without a proxy, NO_PROXY exempts hosts"


def _misframed(error: BaseException, where: str) -> FetcherError:
    return TransportError(f"{where}: the answer is not proper HTTP")


def _url(error: BaseException, where: str) -> FetcherError:
    return ForbiddenError(f"not a usable URL: {where}")


def _unusual(error: BaseException, where: str) -> FetcherError:
    return TransportError(f"{where}: the request failed ({type(error).__name__})")


MAPPING: tuple[tuple[type[BaseException], Renamer], ...] = (
    # Narrow before wide: certificate errors are SSL errors are OS errors.
    (aiohttp.ClientConnectorCertificateError, certificate),
    (ssl.SSLCertVerificationError, certificate),
    (aiohttp.ServerFingerprintMismatch, certificate),
    (aiohttp.ClientSSLError, tls),
    (ssl.SSLError, tls),
    (aiohttp.ClientConnectorDNSError, names),
    (socket.gaierror, names),
    (aiohttp.ServerDisconnectedError, cut),
    (aiohttp.ClientConnectorError, system),
    (aiohttp.ClientOSError, system),
    (aiohttp.ClientPayloadError, cut),
    (aiohttp.ServerTimeoutError, cut),
    (aiohttp.ServerConnectionError, cut),
    (aiohttp.ClientConnectionError, cut),
    (aiohttp.InvalidURL, _url),
    (aiohttp.NonHttpUrlClientError, _url),
    (aiohttp.ClientResponseError, _misframed),
    (aiohttp.ClientError, _unusual),
    (http_exceptions.HttpProcessingError, _misframed),
    (asyncio.IncompleteReadError, cut),
    (ConnectionError, system),
    (OSError, system),
)
RENAMED: tuple[type[BaseException], ...] = tuple(theirs for theirs, _ in MAPPING)
