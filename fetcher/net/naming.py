"""Where the operating system's and TLS's errors get our names: of a connection that was to be made, or that ended.

The rule: what may be otherwise next time is a TransportError; what can't (an untrusted certificate) is a
ForbiddenError. Messages name the host and what happened; they never repeat the foreign text, which may hold a URL.
``foreign`` adds the errors of aiohttp.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable

from fetcher.errors import FetcherError, ForbiddenError, TransportError
from fetcher.net.guard import Barred

Renamer = Callable[[BaseException, str], FetcherError]


def system_error(error: OSError | RuntimeError, where: str, *, idle_timeout_s: float) -> FetcherError | None:
    """Our error for one of the system's; None for what is a bug. ``where``: display form of the URL."""
    if isinstance(error, RuntimeError):
        return cut(error, where) if is_closed_handle(error) else None
    if isinstance(error, TimeoutError):  # the kernel's (ETIMEDOUT): nobody spoke
        return TransportError(f"{where}: no answer within {idle_timeout_s:g} s")
    return next(renamer for theirs, renamer in MAPPING if isinstance(error, theirs))(error, where)


def is_closed_handle(error: RuntimeError) -> bool:
    """uvloop's way of saying that the connection went away between two calls; any other RuntimeError is a bug."""
    return "handler is closed" in str(error)


def cut(error: BaseException, where: str) -> FetcherError:
    return TransportError(f"{where}: the connection was closed before the answer was complete")


def certificate(error: BaseException, where: str) -> FetcherError:
    cause: object = getattr(error, "certificate_error", error)
    reason = getattr(cause, "verify_message", None) or "it can't be verified"
    return ForbiddenError(
        f"{where}: the server's certificate is not trusted: {reason}",
        hint="for a private CA set SSL_CERT_FILE to its certificates; check the clock of this machine",
    )


def tls(error: BaseException, where: str) -> FetcherError:
    cause: object = getattr(error, "os_error", error)
    reason = getattr(cause, "reason", None) or "the handshake failed"
    return TransportError(f"{where}: no TLS connection: {str(reason).replace('_', ' ').lower()}")


def names(error: BaseException, where: str) -> FetcherError:
    cause: object = getattr(error, "os_error", error)
    hint = None
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN:
        hint = "the name server does not answer; check the network and /etc/resolv.conf"
    return TransportError(f"{where}: the host name can't be resolved", hint=hint)


def system(error: BaseException, where: str) -> FetcherError:
    cause: object = getattr(error, "os_error", error)
    if isinstance(cause, Barred):
        return cause.refusal
    number = getattr(cause, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit (ulimit -n), or lower --max-connections"
        return TransportError(f"{where}: this process may not open more files", hint=hint)
    reason = os.strerror(number) if isinstance(number, int) and number > 0 else "connection lost"
    return TransportError(f"{where}: {reason[0].lower()}{reason[1:]}")


MAPPING: tuple[tuple[type[OSError], Renamer], ...] = (
    # Narrow before wide: certificate errors are SSL errors are OS errors.
    (ssl.SSLCertVerificationError, certificate),
    (ssl.SSLError, tls),
    (socket.gaierror, names),
    (OSError, system),
)
