"""The question about a socket: each test runs on the readable twin and on the compiled one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fetcher._native import one_socket, pure_sockets

Pair = tuple[socket.socket, socket.socket]


def twins() -> list[Any]:
    found = [pytest.param(pure_sockets, id="pure")]
    if one_socket.ACTIVE != "native":
        return [*found, pytest.param(None, id="compiled", marks=pytest.mark.needs("native"))]
    from fetcher._native import sockets

    return [*found, pytest.param(sockets, id="compiled")]


@pytest.fixture(params=twins())
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.needs("native")
def test_the_compiled_one_was_really_loaded() -> None:
    assert one_socket.has_news.__module__ == "fetcher._native.sockets"


def test_silence_is_no_news_and_nothing_is_taken(twin: Any, pair: Pair) -> None:
    ours, theirs = pair
    assert twin.has_news(ours.fileno()) is False
    theirs.send(b"x")
    assert twin.has_news(ours.fileno()) is True
    assert twin.has_news(ours.fileno()) is True
    assert ours.recv(2) == b"x"
    assert twin.has_news(ours.fileno()) is False


def test_an_end_is_news(twin: Any, pair: Pair) -> None:
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    assert twin.has_news(ours.fileno()) is True


def test_what_is_no_open_descriptor_has_news(twin: Any) -> None:
    """Nobody goes on using it then."""
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)
    assert twin.has_news(descriptor) is True
    assert twin.has_news(-1) is True, "what a socket that is closed says of itself"


def test_a_descriptor_is_a_number(twin: Any) -> None:
    with pytest.raises(TypeError):
        twin.has_news("1")
