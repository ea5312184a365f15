"""The C reference client (../reference.c): the limit, with as much hashing as the one who is measured against it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.native.compiled import REFERENCE
from benchmarks.running.work import Command, Rival, Work

CONNECTIONS = 4


def _client(*options: str) -> Callable[[Work], Command]:
    def command(work: Work) -> Command:
        pairs = [text for name, path in work.paths().items() for text in (f"{work.base}/{name}", str(path))]
        trust = () if work.certificate is None else ("--cacert", str(work.certificate))
        return Command((str(REFERENCE.build()), "--connections", str(CONNECTIONS), *options, *trust, *pairs))

    return command


def _rival(name: str, *options: str, verifies: str = "nothing but the length") -> Rival:
    client = _client(*options)
    return Rival(name, {"file": client, "repo": client}, REFERENCE.version, verifies=verifies, needs=("gcc",))


RIVALS = (
    _rival("C"),
    _rival("C, O_DIRECT", "--allocate", "--direct"),
    _rival(
        "C, BLAKE3, O_DIRECT", "--allocate", "--direct", "--blake3", verifies="nothing but the length; computes BLAKE3"
    ),
    _rival("C, BLAKE3", "--blake3", verifies="nothing but the length; computes BLAKE3"),
    _rival("C, BLAKE3, SHA-256", "--blake3", "--sha256", verifies="nothing but the length; computes both"),
)
