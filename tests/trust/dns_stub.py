"""A name server that changes its mind: one answer of TTL 0 per question, the next one the next time, and round again.

``python -m tests.trust.dns_stub ADDRESS '{"name": ["127.0.0.2", "127.0.0.1"]}'``. IPv6 answers go to questions for
AAAA. It says "ready" and serves until it is killed.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import socket
import struct
import sys
from collections.abc import Iterator

A, AAAA = 1, 28


def answer(question: bytes, names: dict[str, Iterator[str]], families: dict[str, int]) -> bytes:
    """The reply to one datagram."""
    labels = []
    position = 12
    while length := question[position]:
        labels.append(question[position + 1 : position + 1 + length].decode("latin-1").lower())
        position += 1 + length
    kind = struct.unpack_from("!H", question, position + 1)[0]
    name = ".".join(labels)
    records = b""
    if families.get(name) == kind:
        packed = ipaddress.ip_address(next(names[name])).packed
        records = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(packed)) + packed
    flags = 0x8180 if name in names else 0x8183
    head = question[:2] + struct.pack("!HHHHH", flags, 1, int(bool(records)), 0, 0)
    return head + question[12 : position + 5] + records


def main() -> None:
    table: dict[str, list[str]] = json.loads(sys.argv[2])
    names = {name: itertools.cycle(answers) for name, answers in table.items()}
    families = {name: AAAA if ":" in answers[0] else A for name, answers in table.items()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((sys.argv[1], 53))
        print("ready", flush=True)
        while True:
            question, asker = server.recvfrom(1500)
            server.sendto(answer(question, names, families), asker)


if __name__ == "__main__":
    main()
