"""Who asks. Every call below the faces carries an Asker; there is no default there.

``operator``: what a person typed or configured. ``job``: anything read out of a Job Definition, whoever runs the
command.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fetcher.model.secret import Credential, Secret

Role = Literal["operator", "job"]


@lru_cache(maxsize=64)  # of a cache there is one for all who bring no credential, and a hit would make it each time
def _inner(key: bytes, with_credential: str) -> str:
    return hmac.digest(key, f"inner\0{with_credential}".encode(), "sha256").hex()[:32]


@dataclass(frozen=True, slots=True)
class Asker:
    """A role and the credential that the role may use for one resource, already decided by ``credentials.py``."""

    role: Role
    credential: Credential | None = None
    """For the resource's own origin, and for no other; None asks anonymously."""
    trusted_origins: frozenset[str] = frozenset()
    """Origins (``scheme://host:port``) that the operator named; only an operator's requests to them skip the guard."""

    def principal(self, key: bytes) -> str | None:
        """Keyed hash of the credential; None is the anonymous principal. ``key`` is the cache's own random key."""
        return None if self.credential is None else self.credential.fingerprint(key)

    def inner(self, key: bytes, *, own: bool = False) -> str:
        """The principal of what an operator got from where a job may not ask, as from this host's own network: being
        here is what opened it. ``own``: together with the credential."""
        return _inner(key, (self.principal(key) or "") if own else "")

    def principals(self, key: bytes) -> tuple[str, ...]:
        """All that this asker counts as in the cache, beside everybody."""
        own = self.principal(key)
        found = () if own is None else (own,)
        if self.role != "operator":
            return found
        return (*found, self.inner(key)) if own is None else (*found, self.inner(key), self.inner(key, own=True))

    @property
    def token(self) -> Secret | None:
        """The credential, where it is a bearer token."""
        return self.credential if isinstance(self.credential, Secret) else None
