"""Digests as ``algorithm:hex``: ``blake3:`` is our own identity of bytes, the others are claims of an origin."""

from __future__ import annotations

from dataclasses import dataclass

HEX_DIGITS = {"blake3": 64, "sha256": 64, "git-sha1": 40, "md5": 32}
"""Algorithm → number of hex digits. ``git-sha1`` is sha1 over ``b"blob <size>\\0"`` + content, git's blob id."""

STRENGTH = ("size", "md5", "git-sha1", "sha256", "blake3")
"""What a file may be verified by, weakest first; the weakest file speaks for its Snapshot."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """One digest of a file's whole content."""

    algorithm: str
    hex: str
    """Lower-case hex digits."""

    @classmethod
    def parse(cls, text: str) -> Digest:
        """``algorithm:hex`` → Digest. Raises ``ValueError`` for an unknown algorithm or a wrong length."""
        algorithm, separator, digits = text.partition(":")
        digits = digits.lower()
        if not separator or algorithm not in HEX_DIGITS:
            raise ValueError(f"not a digest of a known algorithm: {text[:80]!r}")
        if len(digits) != HEX_DIGITS[algorithm] or not set(digits) <= set("0123456789abcdef"):
            raise ValueError(f"{algorithm} takes {HEX_DIGITS[algorithm]} hex digits: {text[:80]!r}")
        return cls(algorithm, digits)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def weakest(verified_by: set[str] | frozenset[str]) -> str:
    """The weakest of some ``verified_by`` words; of none, ``"size"`` (an empty set of files proves nothing)."""
    return min(verified_by, key=STRENGTH.index, default="size")
