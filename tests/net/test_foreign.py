"""No error of aiohttp or of the operating system leaves under its own name."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
from typing import Any
from unittest.mock import MagicMock

import aiohttp
import aiohttp.client_exceptions
import aiohttp.http_exceptions
import pytest

from fetcher.errors import ForbiddenError, TransportError
from fetcher.net.foreign import RENAMED, map_exceptions

SERVER_SIDE_OR_WEBSOCKET = {"WSMessageTypeError"}
"""A TypeError about sending on a WebSocket, which is never done here."""


def exceptions_of(module: Any) -> list[type[BaseException]]:
    return [
        value
        for name, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, BaseException) and value.__module__ == module.__name__
        if name not in SERVER_SIDE_OR_WEBSOCKET
    ]


THEIRS = [
    *exceptions_of(aiohttp.client_exceptions),
    *exceptions_of(aiohttp.http_exceptions),
    *(ssl.SSLError, ssl.SSLCertVerificationError, ssl.SSLEOFError, socket.gaierror, OSError, ConnectionResetError),
    *(BrokenPipeError, TimeoutError, asyncio.TimeoutError, asyncio.IncompleteReadError),
]


def made(kind: type[BaseException]) -> BaseException:
    """An instance, without caring for what its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("secret text",)
    if isinstance(error, aiohttp.ClientConnectorError):
        error._os_error = OSError(errno.ECONNREFUSED, "secret text")
        error._conn_key = MagicMock()
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error._certificate_error = ssl.SSLCertVerificationError("secret text")
    return error


def test_there_is_something_to_map() -> None:
    names = {kind.__name__ for kind in THEIRS}
    assert {"ClientPayloadError", "ServerDisconnectedError", "SocketTimeoutError", "LineTooLong"} <= names
    assert len(names) > 30


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: kind.__name__)
def test_every_foreign_error_is_renamed(kind: type[BaseException]) -> None:
    with pytest.raises((TransportError, ForbiddenError)) as caught:
        with map_exceptions("https://a.example/x", connect_timeout_s=1, idle_timeout_s=2):
            raise made(kind)
    assert caught.value.message and "a.example" in caught.value.message
    assert "secret text" not in caught.value.message


def test_an_unmapped_error_would_be_noticed() -> None:
    class NewError(Exception):
        pass

    with pytest.raises(NewError):
        with map_exceptions("x"):
            raise NewError


def test_a_connection_that_uvloop_lost_is_no_bug_of_ours() -> None:
    with pytest.raises(TransportError):
        with map_exceptions("x"):
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    with pytest.raises(RuntimeError):
        with map_exceptions("x"):
            raise RuntimeError("something else")


def test_ours_and_cancellation_pass_unchanged() -> None:
    error = TransportError("ours")
    with pytest.raises(TransportError) as caught:
        with map_exceptions("x"):
            raise error
    assert caught.value is error
    with pytest.raises(asyncio.CancelledError):
        with map_exceptions("x"):
            raise asyncio.CancelledError
    assert not any(issubclass(asyncio.CancelledError, kind) for kind in RENAMED)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ECONNREFUSED, "connection refused"), (errno.ENETUNREACH, "unreachable"), (errno.EMFILE, "more files")],
)
def test_the_system_says_what_happened(number: int, words: str) -> None:
    with pytest.raises(TransportError, match=words):
        with map_exceptions("x"):
            raise OSError(number, "text")
