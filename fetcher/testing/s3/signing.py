"""AWS Signature Version 4 as the server computes it: from the request as it came.

Source: "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API reference. S3 decodes path and query,
a ``+`` to a space, and quotes them again, once; so a client may quote on the wire as it likes, but a bare plus never
matches. No keys are looked up and nothing is decided here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"

Pairs = list[tuple[str, str]]


def query_pairs(query: str) -> Pairs:
    """Return names and values of a query, decoded, in their order. Raises UnicodeDecodeError for what is not UTF-8."""
    items = (item.partition("=") for item in query.split("&") if item)
    return [(decoded(name), decoded(value)) for name, _, value in items]


def decoded(text: str) -> str:
    """Return a part of a URL as S3 reads it: percent signs decoded, a plus to a space."""
    return unquote_to_bytes(text.replace("+", " ")).decode()


def canonical_request(
    method: str,
    path: str,
    pairs: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    signed: Iterable[str],
    payload: str,
) -> str:
    """Return the text whose hash is signed. ``path`` is still quoted, ``pairs`` are not; ``signed`` names headers."""
    query = "&".join(
        f"{name}={value}" for name, value in sorted((_quoted(name), _quoted(value)) for name, value in pairs)
    )
    names = list(signed)
    lines = [f"{name}:{re.sub(' +', ' ', headers.get(name, '').strip())}\n" for name in names]
    return "\n".join((method, quote(decoded(path), safe="/-_.~"), query, "".join(lines), ";".join(names), payload))


def signature(secret: str, amz_date: str, region: str, canonical: str) -> str:
    """Return the signature, 64 hex digits. ``amz_date`` is ``YYYYMMDDTHHMMSSZ``; its day is the day of the key."""
    day = amz_date[:8]
    # Header values came as bytes and are held as Latin-1; everything else in the text is ASCII.
    hashed = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    text = "\n".join((ALGORITHM, amz_date, scope(day, region), hashed))
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def scope(day: str, region: str) -> str:
    """Return the credential scope."""
    return f"{day}/{region}/s3/aws4_request"


def presigned_query(
    *,
    method: str,
    host: str,
    path: str,
    key_id: str,
    secret: str,
    session_token: str | None,
    region: str,
    amz_date: str,
    expires_s: int,
) -> str:
    """Return the query that makes a URL good for ``expires_s`` seconds from ``amz_date``, for that method only."""
    pairs = [
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{key_id}/{scope(amz_date[:8], region)}"),
        ("X-Amz-Date", amz_date),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", "host"),
    ]
    if session_token is not None:
        pairs.append(("X-Amz-Security-Token", session_token))
    canonical = canonical_request(method, path, pairs, {"host": host}, ["host"], UNSIGNED)
    pairs.append(("X-Amz-Signature", signature(secret, amz_date, region, canonical)))
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
