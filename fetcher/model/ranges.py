"""Half-open byte ranges: ``start`` is inside, ``stop`` is not (exclusive end), everywhere in this package.

HTTP alone counts inclusively; the two methods here are the only places that know.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes ``start`` to ``stop`` (exclusive end) of one file."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a range: {self.start}..{self.stop}")

    @property
    def length(self) -> int:
        return self.stop - self.start

    def header(self) -> str:
        """Value of a ``Range`` header (RFC 9110, 14.1.2); an empty range has none."""
        if not self.length:
            raise ValueError("an empty range can't be asked for")
        return f"bytes={self.start}-{self.stop - 1}"

    @classmethod
    def of_content_range(cls, value: str) -> tuple[ByteRange, int | None]:
        """``Content-Range`` value (RFC 9110, 14.4) → range and complete length (None if ``*``).

        Raises ``ValueError`` if the value is odd in any way.
        """
        unit, _, rest = value.strip().partition(" ")
        span, slash, total = rest.strip().partition("/")
        first, dash, last = span.partition("-")
        if unit.lower() != "bytes" or not slash or not dash or not (first.isascii() and first.isdigit()):
            raise ValueError(f"odd Content-Range: {value[:80]!r}")
        if not (last.isascii() and last.isdigit()) or not (total == "*" or (total.isascii() and total.isdigit())):
            raise ValueError(f"odd Content-Range: {value[:80]!r}")
        if max(len(first), len(last), len(total)) > 19 or int(last) < int(first):
            raise ValueError(f"odd Content-Range: {value[:80]!r}")
        return cls(int(first), int(last) + 1), None if total == "*" else int(total)

    def __str__(self) -> str:
        return f"{self.start}..{self.stop}"
