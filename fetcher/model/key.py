"""Identity of what is asked for, as a digest: no part can imitate its neighbour, and no secret is in it."""

from __future__ import annotations

import hashlib

FILES_MAX = 10_000
"""Names or globs in one resource; a Job Definition with more is a mistake or an attack."""


def canonical_key(*parts: str | tuple[str, ...]) -> str:
    """SHA-256 hex of the parts, each prefixed by its length, so that no part can imitate its neighbour."""
    hasher = hashlib.sha256(b"fetcher-key-v1")
    for part in parts:
        items = (part,) if isinstance(part, str) else part
        hasher.update(b"(%d" % len(items))
        for item in items:
            raw = item.encode()
            hasher.update(b"%d:%s" % (len(raw), raw))
        hasher.update(b")")
    return hasher.hexdigest()
