"""A secret is a type whose repr is harmless; so is every kind of credential made of one."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
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
        return hmac.digest(key, self._text.encode(), "sha256").hex()[:32]

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


@dataclass(frozen=True, slots=True)
class Login:
    """User name and password, as registries take them (HTTP Basic)."""

    username: str
    password: Secret

    def fingerprint(self, key: bytes) -> str:
        """As ``Secret.fingerprint``."""
        return Secret(f"login\0{self.username}\0{self.password.reveal()}").fingerprint(key)


@dataclass(frozen=True, slots=True)
class AWSKeys:
    """What requests to S3 are signed with (AWS Signature Version 4)."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None
    """Of temporary keys; sent along, signed."""
    region: str | None = None
    """Where the bucket is said to be; None: found out. No part of who is asking."""

    def fingerprint(self, key: bytes) -> str:
        """As ``Secret.fingerprint``."""
        token = "" if self.session_token is None else self.session_token.reveal()
        return Secret(f"aws\0{self.access_key_id}\0{self.secret_access_key.reveal()}\0{token}").fingerprint(key)

    def __repr__(self) -> str:
        return f"<AWSKeys {self.access_key_id[:4]}…>"


Credential = Secret | Login | AWSKeys
"""Whatever opens something: a bearer token, a login, or a pair of keys that sign."""
