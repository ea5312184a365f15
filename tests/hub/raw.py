"""A client with no manners of its own: it sends what it is told, byte for byte, and says how the connection ended."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What came back. ``status`` is None when the head was not complete."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    """As framed: chunks are joined, nothing is decompressed."""
    ended: str = "complete"
    """``complete``, ``fin`` or ``rst`` (before the end), ``silence`` (nothing for the time-out)."""
    received_bytes: int = 0
    seconds: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body.decode("utf-8", "surrogatepass"))


def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    timeout_s: float = 10.0,
    bytes_max: int = 1 << 30,
) -> Answer:
    """Send one request on a connection of its own. ``timeout_s`` is for silence, not in total."""
    netloc, slash, rest = url.removeprefix("http://").partition("/")
    host, _, port = netloc.partition(":")
    fields = {"Host": netloc, "Connection": "close", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    head = f"{method} {slash}{rest} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        answer = _receive(connection, method, bytes_max)
    answer.seconds = time.monotonic() - began
    return answer


def _receive(connection: socket.socket, method: str, bytes_max: int) -> Answer:
    answer, received = Answer(ended=""), bytearray()
    while True:
        if answer.status is None and (end := received.find(b"\r\n\r\n")) >= 0:
            lines = bytes(received[:end]).decode("latin-1").split("\r\n")
            answer.status = int(lines[0].split(" ")[1])
            answer.headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines[1:])}
            del received[: end + 4]
        if answer.status is not None and _is_whole(answer, method, received):
            answer.ended = "complete"
            break
        if answer.received_bytes >= bytes_max:
            answer.ended = "too much"
            break
        try:
            data = connection.recv(1 << 18)
        except TimeoutError:
            answer.ended = "silence"
            break
        except ConnectionResetError:
            answer.ended = "rst"
            break
        if not data:
            answer.ended = "fin"
            break
        answer.received_bytes += len(data)
        received += data
    if answer.status is not None:
        answer.body = _dechunked(bytes(received)) if "transfer-encoding" in answer.headers else bytes(received)
    return answer


def _is_whole(answer: Answer, method: str, received: bytearray) -> bool:
    if method == "HEAD" or answer.status in (204, 304):
        return True
    if "transfer-encoding" in answer.headers:
        return received.endswith(b"0\r\n\r\n")
    return len(received) >= int(answer.headers["content-length"])


def _dechunked(data: bytes) -> bytes:
    joined, position = b"", 0
    while position < len(data):
        end = data.index(b"\r\n", position)
        length = int(data[position:end], 16)
        joined += data[end + 2 : end + 2 + length]
        position = end + 2 + length + 2
    return joined
