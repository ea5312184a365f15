"""Most heads are read the short way, and each means the same as if it had been read with care."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator

import pytest

from fetcher.net.body import head as head_module
from fetcher.net.body.head import FIELDS_MAX, PLAIN_BYTES_MAX, Head, MisframedError
from tests.net.framings import BEHIND, STRICTER, WELL, WRONG

HEADS_EACH = 40

LINES = (
    *(b'ETag: "x"', b"etag: y", b"ETag:z", b"X:", b"X: \xff\xfe", b"X: a\t ", b"Link: <a>", b"link: <b>"),
    *(b"Content-Length: 0", b"Content-Length: 4", b"content-length: 4", b"Content-Length: 5", b"Content-Length: x"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding: gzip", b"Transfer-Encoding:", b"Content-Encoding: gzip"),
    *(
        b"Connection: close",
        b"Connection: Keep-Alive",
        b"connection: x, close",
        b"Upgrade: h2c",
        b"Keep-Alive: timeout=5",
    ),
    *(b" folded", b"\tfolded", b"no colon", b": no name", b"a b: c", b"X\0: y", b"X: a\rb", b"X: a\nY: b", b"Y: \x80"),
)
FIRST = (
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial Content", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content"),
    *(
        b"HTTP/1.1 304",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 101 X",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 099 X",
    ),
)


def heads(seed: int) -> Iterator[bytes]:
    """Of lines that are mostly proper, in any order, some of them twice."""
    dice = random.Random(seed)
    for _ in range(HEADS_EACH):
        lines = [dice.choice(FIRST[:1] * 20 + FIRST), *dice.choices(LINES, k=dice.randrange(5))]
        yield b"\r\n".join(lines) + b"\r\n\r\n"
    for said in [*(said for said, _ in (*WELL.values(), *BEHIND.values())), *WRONG.values(), *STRICTER.values()]:
        end = said.find(b"\r\n\r\n")
        if said.startswith(b"HTTP/") and 0 <= end < PLAIN_BYTES_MAX - 4:
            yield said[: end + 4]


def read(data: bytes, method: str, most: int, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...] | None:
    """All that a head says; None where it is refused."""
    monkeypatch.setattr(head_module, "PLAIN_BYTES_MAX", most)
    head = Head()
    try:
        head.parse(data, method=method)
    except MisframedError:
        return None
    return (
        *(sorted(head.fields.items()), head.repeats, head.status, head.keep_alive),
        *(head.length, head.stated_length, head.chunked),
    )


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_read_either_way_a_head_says_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"taken": 0, "refused": 0, "repeats": 0}
    for seed in range(50):
        for data in heads(seed):
            plainly = read(data, method, PLAIN_BYTES_MAX, monkeypatch)
            assert plainly == read(data, method, 0, monkeypatch), data
            seen["taken" if plainly is not None else "refused"] += 1
            seen["repeats"] += plainly is not None and bool(plainly[1])
    assert min(seen.values()) > 50, f"the heads of this test are of one kind: {seen}"


@pytest.mark.parametrize("most", [PLAIN_BYTES_MAX, 0], ids=["plain", "with care"])
@pytest.mark.parametrize("same", [False, True], ids=["names of their own", "one name"])
def test_so_many_fields_and_not_one_more(same: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(count: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % (0 if same else at) for at in range(count)) + b"\r\n"

    assert len(said(FIELDS_MAX + 1)) <= PLAIN_BYTES_MAX
    assert read(said(FIELDS_MAX), "GET", most, monkeypatch) is not None
    assert read(said(FIELDS_MAX + 1), "GET", most, monkeypatch) is None


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"HTTP/1.1 204 X\r\nA: 1\r\na: 2\r\n\r\n"]
)
def test_what_was_read_needs_no_garbage_collector(data: bytes) -> None:
    """There is one for each request; those that know each other in a circle fill memory until it runs."""
    gc.collect()
    gc.disable()
    try:
        Head().parse(data, method="GET")
        assert not [found for found in gc.get_objects() if isinstance(found, Head)]
    finally:
        gc.enable()
