"""A server of a stranger, on a real socket: answers every request with as many bytes as anybody takes.

Each attack is a function from the request's target to the pieces of an answer; an empty piece is a pause.
"""

from __future__ import annotations

import functools
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

MIB = 1 << 20
BOMB_BYTES = 300 * MIB
PAUSE_S = 0.05

Attack = Callable[[str], Iterator[bytes]]


def _head(status: str = "200 OK", *lines: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


def _endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def _json_head(length: int | None) -> bytes:
    framing = "Connection: close" if length is None else f"Content-Length: {length}"
    return _head("200 OK", "Content-Type: application/json", framing)


# --- heads


def whole_answers_without_end(target: str) -> Iterator[bytes]:
    """To a question that was not asked."""
    yield from _endless(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" * 200)


def one_header_without_end(target: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX-Long: "
    yield from _endless(b"a" * 65_536)


def headers_without_end(target: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(1 << 60):
        yield b"".join(b"X-%d-%d: v\r\n" % (number, inner) for inner in range(500))


def early_answers_without_end(target: str) -> Iterator[bytes]:
    yield from _endless(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * 200)


def early_answers_slowly(target: str) -> Iterator[bytes]:
    while True:
        yield b"HTTP/1.1 102 Processing\r\n\r\n"
        yield b""


def a_head_that_drips(target: str) -> Iterator[bytes]:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"s" * 10_000:
        yield bytes([byte])
        yield b""


def a_status_line_without_end(target: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 "
    yield from _endless(b"O" * 65_536)


# --- bodies


def deep_json(target: str) -> Iterator[bytes]:
    yield _json_head(BOMB_BYTES // 4)
    yield from (b"[" * MIB for _ in range(BOMB_BYTES // 4 // MIB))


def large_json(target: str) -> Iterator[bytes]:
    """300 MB that are JSON; their length is not stated."""
    yield _json_head(None) + b'{"sha":"' + b"0" * 40 + b'","siblings":['
    row = json.dumps({"rfilename": "a" * 100}).encode() + b","
    for _ in range(BOMB_BYTES // (len(row) * 10_000)):
        yield row * 10_000
    yield b"0]}"


def large_json_with_its_length(target: str) -> Iterator[bytes]:
    yield _json_head(BOMB_BYTES)
    yield from (b" " * MIB for _ in range(BOMB_BYTES // MIB))


def a_huge_number(target: str) -> Iterator[bytes]:
    yield _json_head(32 * MIB + 8) + b'{"sha": '
    yield from (b"9" * MIB for _ in range(32))


def doubled_names(target: str) -> Iterator[bytes]:
    body = b"{" + b'"sha":"' + b"0" * 40 + b'",' + b'"sha":1,"layers":[],' * 200_000 + b'"sha":2}'
    yield _json_head(len(body)) + body


def many_rows(target: str) -> Iterator[bytes]:
    """A million files in one answer."""
    yield _json_head(None) + b"["
    for number in range(0, 1_000_000, 1000):
        names = range(number, number + 1000)
        yield b"".join(b'{"type":"file","path":"%d","size":0,"oid":"%040d"},' % (name, name) for name in names)
    yield b'{"type":"file","path":"last","size":0,"oid":"' + b"0" * 40 + b'"}]'


@functools.cache  # seconds of work, and every connection wants one
def _packed(length: int) -> bytes:
    """gzip of as many zeros, a thousandth of that."""
    return gzip.compress(bytes(length), compresslevel=9, mtime=0)


def packed_bomb(target: str) -> Iterator[bytes]:
    body = _packed(BOMB_BYTES)
    head = _head("200 OK", "Content-Encoding: gzip", "Content-Type: application/json", f"Content-Length: {len(body)}")
    yield head + body


def twice_packed_bomb(target: str) -> Iterator[bytes]:
    body = gzip.compress(_packed(BOMB_BYTES), mtime=0)
    yield _head("200 OK", "Content-Encoding: gzip, gzip", f"Content-Length: {len(body)}") + body


def brotli(target: str) -> Iterator[bytes]:
    yield _head("200 OK", "Content-Encoding: br", "Content-Length: 4") + b"\x0b\x01\x80a"


def chunks_without_end(target: str) -> Iterator[bytes]:
    yield _head("200 OK", "Transfer-Encoding: chunked")
    yield from _endless(b"10000\r\n" + b" " * 65_536 + b"\r\n")


def crumbs_without_end(target: str) -> Iterator[bytes]:
    """Chunks of one byte, and of no progress that counts."""
    yield _head("200 OK", "Transfer-Encoding: chunked")
    while True:
        yield b"1\r\n \r\n"
        yield b""


def a_chunk_line_without_end(target: str) -> Iterator[bytes]:
    yield _head("200 OK", "Transfer-Encoding: chunked") + b"1;"
    yield from _endless(b"x" * 65_536)


def trailers_without_end(target: str) -> Iterator[bytes]:
    yield _head("200 OK", "Transfer-Encoding: chunked") + b"1\r\n \r\n0\r\n"
    yield from _endless(b"X: y\r\n" * 5000)


def a_body_without_end(target: str) -> Iterator[bytes]:
    yield _head("200 OK", "Connection: close")
    yield from _endless(b" " * 65_536)


def a_petabyte(target: str) -> Iterator[bytes]:
    yield _head("200 OK", f"Content-Length: {10**15}")
    yield from _endless(b" " * 65_536)


def more_than_64_bits(target: str) -> Iterator[bytes]:
    yield _head("200 OK", f"Content-Length: {10**25}")
    yield from _endless(b" " * 65_536)


# --- redirects


def a_redirect_to_itself(target: str) -> Iterator[bytes]:
    yield _head("307 Temporary Redirect", f"Location: {target}", "Content-Length: 0")


def redirects_to_ever_new_places(target: str) -> Iterator[bytes]:
    number = int(target.rpartition("/")[2] or 0) if target.rpartition("/")[2].isdigit() else 0
    yield _head("307 Temporary Redirect", f"Location: /next/{number + 1}", "Content-Length: 0")


def a_redirect_with_a_body_without_end(target: str) -> Iterator[bytes]:
    yield _head("307 Temporary Redirect", "Location: /again", "Transfer-Encoding: chunked")
    yield from _endless(b"10000\r\n" + b" " * 65_536 + b"\r\n")


# --- XML

_LIST = b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Prefix></Prefix><KeyCount>1</KeyCount>'


def _xml(*pieces: bytes | Iterator[bytes]) -> Iterator[bytes]:
    yield _head("200 OK", "Content-Type: application/xml", "Connection: close")
    for piece in pieces:
        yield from (piece,) if isinstance(piece, bytes) else piece


def a_billion_laughs(target: str) -> Iterator[bytes]:
    entities = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10))
    yield from _xml(
        b'<!DOCTYPE l [<!ENTITY l0 "lol">' + entities + b"]>" + _LIST + b"<Name>&l9;</Name></ListBucketResult>"
    )


def laughs_behind_the_root(target: str) -> Iterator[bytes]:
    """The declaration comes where a glance at the head does not see it."""
    prolog = b'<?xml version="1.0"?><!-- <ListBucketResult > -->'
    yield from _xml(prolog, b'<!DOCTYPE l [<!ENTITY a "%s">]>' % (b"a" * MIB), b"<l>" + b"&a;" * 10_000 + b"</l>")


def an_external_entity(target: str) -> Iterator[bytes]:
    yield from _xml(
        b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        b"<ListBucketResult><Prefix></Prefix><Contents><Key>&e;</Key><Size>1</Size></Contents></ListBucketResult>",
    )


def a_huge_attribute(target: str) -> Iterator[bytes]:
    yield from _xml(_LIST + b'<Contents a="', (b"a" * MIB for _ in range(100)), b'"/></ListBucketResult>')


def many_attributes(target: str) -> Iterator[bytes]:
    yield from _xml(
        _LIST + b"<Contents ", (b"".join(b"a%d='' " % n for n in range(k, k + 1000)) for k in range(0, 10**6, 1000))
    )


def a_huge_key(target: str) -> Iterator[bytes]:
    key = (b"k" * MIB for _ in range(15))
    yield from _xml(_LIST + b"<Contents><Key>", key, b"</Key><Size>1</Size></Contents></ListBucketResult>")


def deep_xml(target: str) -> Iterator[bytes]:
    yield from _xml(_LIST, (b"<a>" * 100_000 for _ in range(40)))


def many_small_elements(target: str) -> Iterator[bytes]:
    yield from _xml(_LIST, (b"<b/>" * 100_000 for _ in range(39)), b"</ListBucketResult>")


def comments_in_the_head(target: str) -> Iterator[bytes]:
    """A head that a careless pattern takes for ever to look at."""
    yield from _xml(b"<!---->" * 146 + b"x")


def an_encoding_of_python(target: str) -> Iterator[bytes]:
    yield from _xml(_LIST.replace(b"UTF-8", b"unicode_escape") + b"</ListBucketResult>")


HEADS: tuple[Attack, ...] = (
    *(one_header_without_end, headers_without_end, early_answers_without_end, early_answers_slowly),
    *(a_head_that_drips, a_status_line_without_end, whole_answers_without_end),
)
REDIRECTS: tuple[Attack, ...] = (a_redirect_to_itself, redirects_to_ever_new_places, a_redirect_with_a_body_without_end)
FRAMES: tuple[Attack, ...] = (
    *(packed_bomb, twice_packed_bomb, brotli, chunks_without_end, crumbs_without_end, a_chunk_line_without_end),
    *(trailers_without_end, a_body_without_end, a_petabyte, more_than_64_bits),
)
JSON: tuple[Attack, ...] = (
    *(deep_json, large_json, large_json_with_its_length, a_huge_number, doubled_names, many_rows),
)
XML: tuple[Attack, ...] = (
    *(a_billion_laughs, laughs_behind_the_root, an_external_entity, a_huge_attribute, many_attributes, a_huge_key),
    *(deep_xml, many_small_elements, comments_in_the_head, an_encoding_of_python),
)


class Stranger:
    """The running server. Leave the ``with`` block and it is gone, with all its threads and sockets."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.targets: list[str] = []
        self.bytes_sent = 0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/attack"

    def __enter__(self) -> Stranger:
        next(self._attack("/"))  # what takes long to make is made now
        self._listener.settimeout(PAUSE_S)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:  # grows no more once the first, who accepts, has ended
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._start(self._attend, connection)

    def _attend(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(PAUSE_S)
            try:
                head = b""
                while not self._over.is_set() and b"\r\n\r\n" not in head:
                    try:
                        piece = connection.recv(65_536)
                    except TimeoutError:
                        continue
                    if not piece:
                        return
                    head += piece
                if self._over.is_set():
                    return
                target = head.split(b" ", 2)[1].decode("latin-1")
                self.targets.append(target)
                for answer in self._attack(target):
                    if self._over.is_set() or (not answer and self._over.wait(PAUSE_S)):
                        return
                    self._send(connection, answer)
            except OSError:  # the client has had enough
                return

    def _send(self, connection: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._over.is_set():
            try:
                count = connection.send(view)
            except TimeoutError:
                continue
            self.bytes_sent += count
            view = view[count:]
