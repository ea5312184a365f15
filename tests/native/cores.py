"""What the tests of this room share: the cores under test, painted content, lengths at boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fetcher import _native
from fetcher._native import pure

NATIVE_MODULES = sorted(path.stem for path in Path(_native.__file__).parent.glob("*.pyx"))
"""What is compiled: each .pyx is one extension."""

KEY = b"whats the Elvish word for friend"
"""The key of the published test vectors."""

_PERIOD = bytes(range(251))


def paint(length: int) -> bytes:
    """Byte i is i mod 251: a prime period, so no two chunks, messages or blocks are equal."""
    return (_PERIOD * (length // 251 + 1))[:length]


@dataclass(frozen=True, slots=True)
class Core:
    """One core with one of its kernels."""

    module: ModuleType
    kernel: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def lengths(self, *lengths: int) -> list[int]:
        """Those that this core can do in a fraction of a second."""
        return [length for length in lengths if length <= self.bytes_max]

    @property
    def bytes_max(self) -> int:
        return 6 * 1024 if self.module is pure else 1 << 30


def all_cores() -> list[Any]:
    """The readable twin, then each kernel of the compiled one; one that is missing, by the name of what is missing."""
    cores = [pytest.param(Core(pure, "pure"), id="pure")]
    if _native.ACTIVE != "native":
        return [*cores, pytest.param(None, id="compiled", marks=pytest.mark.needs("native"))]
    from fetcher._native import blake3

    return [*cores, *(pytest.param(Core(blake3, kernel), id=kernel) for kernel in blake3.simd_names())]


# Messages of 64, chunks of 1024, loads of 4 to 32 lanes, groups of 256 leaves: each less one, exact, and one more.
BOUNDARIES = sorted(
    {0, 1, 2, 3, 127, 128, 129, 5000}
    | {64 * k + d for k in (1, 2, 3) for d in (-1, 0, 1)}
    | {1024 * k + d for k in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 35) for d in (-1, 0, 1)}
    | {1024 * k + d for k in (47, 63, 64, 65, 128, 193, 255, 256, 257, 511, 512, 513, 769) for d in (-1, 0, 1)}
)
