"""A secret is a type whose repr is harmless."""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn


class Secret:
    """A credential. Printing, formatting or logging it gives ``[hidden]``; only ``reveal()`` gives the text.

    Not picklable and not JSON-serialisable on purpose: secrets are in no file that we write.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("a secret must not be empty")
        self._text = text

    def reveal(self) -> str:
        """The text, for the one place that puts it on the wire."""
        return self._text

    def fingerprint(self, key: bytes) -> str:
        """Keyed hash (HMAC-SHA256, 32 hex digits): tells principals apart without telling what they know."""
        return hmac.new(key, self._text.encode(), hashlib.sha256).hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "[hidden]"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return format("[hidden]", specification)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled")
