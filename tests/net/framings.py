"""Answers whose framing two readers might understand in two ways, or not at all, and what our transports make of them.

``WELL``: bodies that both give. ``WRONG``: what neither takes. ``STRICTER``: what only the transport of bodies refuses:
it is for the few servers that parts come from, and one reading of an answer is all it wants to know.
``BEHIND``: answers with something behind them that nobody asked for. What the general one makes of them depends on
what arrives together.
"""

from __future__ import annotations

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSES = b"Connection: close\r\n"

WELL: dict[str, tuple[bytes, bytes]] = {
    "a length": (OK + b"Content-Length: 4\r\n\r\nbody", b"body"),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "a length with zeros before it": (OK + b"Content-Length: 0004\r\n\r\nbody", b"body"),
    "spaces around a length": (OK + b"Content-Length:   4  \r\n\r\nbody", b"body"),
    "tabs around a length": (OK + b"Content-Length:\t4\t\r\n\r\nbody", b"body"),
    "odd letters": (OK + b"cOnTeNt-LeNgTh: 4\r\n\r\nbody", b"body"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "a reason that is no ASCII": (b"HTTP/1.1 200 \xc3\xa4\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "a value that is no UTF-8": (OK + b"X: \xff\xfe\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "an empty value": (OK + b"X:\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "up to the end": (OK + CLOSES + b"\r\nbody", b"body"),
    "up to the end, nothing": (OK + CLOSES + b"\r\n", b""),
    "up to the end, unannounced": (OK + b"\r\nbody", b"body"),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "HTTP/1.0 up to the end": (b"HTTP/1.0 200 OK\r\n\r\nbody", b"body"),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304 with the length of what is unchanged": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", b""),
    "announced": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
        b"x",
    ),
    "chunks": (CHUNKED + b"4\r\nbody\r\n3\r\nend\r\n0\r\n\r\n", b"bodyend"),
    "no chunk": (CHUNKED + b"0\r\n\r\n", b""),
    "chunks in large letters": (OK + b"Transfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "chunks with zeros": (CHUNKED + b"0004\r\nbody\r\n000\r\n\r\n", b"body"),
    "chunks with extensions": (CHUNKED + b"4;name=value\r\nbody\r\n0;last\r\n\r\n", b"body"),
    "chunks of HTTP/1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", b"body"),
    "a status beyond all": (b"HTTP/1.1 999 Odd\r\nContent-Length: 4\r\n\r\nbody", b"body"),
    "chunk sized with many zeros": (CHUNKED + b"0" * 40 + b"4\r\nbody\r\n0\r\n\r\n", b"body"),
    "chunk with a long extension": (CHUNKED + b"4;" + b"x" * 20_000 + b"\r\nbody\r\n0\r\n\r\n", b"body"),
    "chunks with a trailer": (CHUNKED + b"4\r\nbody\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", b"body"),
}

WRONG: dict[str, bytes] = {
    "a length and chunks": OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
    "a list of lengths": OK + b"Content-Length: 4, 5\r\n\r\nbody!",
    "no number": OK + b"Content-Length: four\r\n\r\nbody",
    "a sign": OK + b"Content-Length: +4\r\n\r\nbody",
    "less than nothing": OK + b"Content-Length: -4\r\n\r\nbody",
    "a number of another kind": OK + b"Content-Length: 0x4\r\n\r\nbody",
    "a broken number": OK + b"Content-Length: 4 4\r\n\r\nbody",
    "a length beyond bounds": OK + b"Content-Length: 99999999999999999999999\r\n\r\nbody",
    "a zero byte in a value": OK + b"X: a\0b\r\nContent-Length: 4\r\n\r\nbody",
    "a zero byte in a name": OK + b"X\0: a\r\nContent-Length: 4\r\n\r\nbody",
    "a space in a name": OK + b"Content Length: 4\r\n\r\nbody",
    "no name": OK + b": 4\r\nContent-Length: 4\r\n\r\nbody",
    "no colon": OK + b"Content-Length 4\r\n\r\nbody",
    "another protocol": b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nbody",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nbody",
    "chunk of no size": CHUNKED + b"\r\nbody\r\n0\r\n\r\n",
    "chunk with a sign": CHUNKED + b"+4\r\nbody\r\n0\r\n\r\n",
    "chunk less than nothing": CHUNKED + b"-4\r\nbody\r\n0\r\n\r\n",
    "chunk written 0x4": CHUNKED + b"0x4\r\nbody\r\n0\r\n\r\n",
    "chunk with an odd digit": CHUNKED + b"4g\r\nbody\r\n0\r\n\r\n",
    "chunk beyond bounds": CHUNKED + b"fffffffffffffffff\r\nbody\r\n0\r\n\r\n",
    "chunk longer than it says": CHUNKED + b"4\r\nbody!\r\n0\r\n\r\n",
    "chunk that begins behind a space": CHUNKED + b" 4\r\nbody\r\n0\r\n\r\n",
    "chunks that end with a bare LF": CHUNKED + b"4\nbody\n0\n\n",
    "the same length twice": OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
    "a bare CR in a value": OK + b"X: a\rb\r\nContent-Length: 4\r\n\r\nbody",
    "no coding": OK + b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nbody",
    "another version of one": b"HTTP/1.9 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "a trailer without end": CHUNKED + b"4\r\nbody\r\n0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    "content-length empty": OK + b"Content-Length: \r\n\r\nbody",
    "a trailer with a length": CHUNKED + b"4\r\nbody\r\n0\r\nContent-Length: 9\r\n\r\n",
}

STRICTER: dict[str, bytes] = {
    "lines that end with a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "one line that ends with a bare LF": OK + b"X: y\nContent-Length: 4\r\n\r\nbody",
    "a folded value": OK + b"X: a\r\n b\r\nContent-Length: 4\r\n\r\nbody",
    "an empty line before": b"\r\n" + OK + b"Content-Length: 4\r\n\r\nbody",
    "a transfer coding": OK + b"Transfer-Encoding: gzip\r\n\r\nbody",
    "a transfer coding in chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "chunks twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "chunks, then a coding": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "version nine": b"HTTP/0.9 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "another protocol, gladly": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nbody",
    "chunk size behind a space": CHUNKED + b"4 \r\nbody\r\n0\r\n\r\n",
    "chunk size behind a tab": CHUNKED + b"4\t\r\nbody\r\n0\r\n\r\n",
    "transfer-encoding empty": OK + b"Transfer-Encoding: \r\nContent-Length: 4\r\n\r\nbody",
    "a space behind a name": OK + b"Content-Length : 4\r\n\r\nbody",
    "another version": b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "chunk shorter than it says": CHUNKED + b"5\r\nbody\r\n0\r\n\r\n",
}

BEHIND: dict[str, tuple[bytes, bytes]] = {
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody", b""),
    "304 with a body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", b""),
    "behind a length something": (OK + b"Content-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\n\r\n", b"body"),
    "behind chunks something": (CHUNKED + b"4\r\nbody\r\n0\r\n\r\nxyz", b"body"),
}
