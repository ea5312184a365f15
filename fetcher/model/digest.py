"""Digests as ``algorithm:hex``: ``blake3:`` is our own identity of bytes, the others are claims of an origin.

A *composite* digest is the digest of the digests of consecutive parts (how S3 names objects that were uploaded in
parts): ``algorithm/part size:hex``. It is compared like any other; it is no name of the whole content.
"""

from __future__ import annotations

from dataclasses import dataclass

HEX_DIGITS = {
    "blake3": 64,
    "sha512": 128,
    "sha256": 64,
    "git-sha1": 40,
    "sha1": 40,
    "md5": 32,
    "crc64nvme": 16,
    "crc32c": 8,
    "crc32": 8,
}
"""Algorithm → number of hex digits. ``git-sha1`` is sha1 over ``b"blob <size>\\0"`` + content, git's blob id."""

STRENGTH = ("size", "crc32", "crc32c", "crc64nvme", "md5", "sha1", "git-sha1", "sha256", "sha512", "blake3")
"""What a file may be verified by, weakest first; the weakest file speaks for its Snapshot."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """One digest of a file's content."""

    algorithm: str
    hex: str
    """Lower-case hex digits."""
    part_bytes: int = 0
    """0: of the whole content. Else composite: of the concatenated binary digests of its parts of so many bytes (the
    last may be shorter)."""

    @classmethod
    def parse(cls, text: str) -> Digest:
        """``algorithm[/part size]:hex`` → Digest. Raises ``ValueError`` for an unknown algorithm or a wrong length."""
        name, separator, digits = text.partition(":")
        algorithm, slash, parts = name.partition("/")
        digits = digits.lower()
        if not separator or algorithm not in HEX_DIGITS:
            raise ValueError(f"not a digest of a known algorithm: {text[:80]!r}")
        if len(digits) != HEX_DIGITS[algorithm] or not set(digits) <= set("0123456789abcdef"):
            raise ValueError(f"{algorithm} takes {HEX_DIGITS[algorithm]} hex digits: {text[:80]!r}")
        if slash and not (parts.isascii() and parts.isdigit() and 0 < len(parts) < 20 and int(parts)):
            raise ValueError(f"not a part size: {text[:80]!r}")
        return cls(algorithm, digits, int(parts) if slash else 0)

    @property
    def whole(self) -> bool:
        """Whether it is a digest of the content itself."""
        return self.part_bytes == 0

    @property
    def name(self) -> str:
        """The algorithm, with the part size of a composite: ``sha256``, ``md5/8388608``."""
        return self.algorithm if self.whole else f"{self.algorithm}/{self.part_bytes}"

    def __str__(self) -> str:
        return f"{self.name}:{self.hex}"


def weakest(verified_by: set[str] | frozenset[str]) -> str:
    """The weakest of some ``verified_by`` words; of none, ``"size"`` (an empty set of files proves nothing)."""
    return min(verified_by, key=STRENGTH.index, default="size")
