"""AWS Signature Version 4 for S3, as requests without a body need it. Values in, values out: the moment is an argument.

botocore computes the same, byte for byte (it is the judge in tests/net/test_sigv4.py), but a run that only signs should
not wait for it to load (docs/decisions/0024-signing.md).

Source: "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API reference. For S3 the path is signed as
it is sent: encoded once, with its double slashes and dots.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

from fetcher.model.secret import AWSKeys, Secret

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "s3"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""What stands for the hash of a body: ours have none. It is taken by all, over plain http too."""
UNSIGNED_HEADERS = frozenset({"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
"""What proxies on the way may change; no signature is over these."""


def signed_headers(
    method: str,
    url: str,
    host: str,
    headers: Iterable[tuple[str, str]],
    keys: AWSKeys,
    region: str,
    unix_s: float,
) -> dict[str, str]:
    """The headers that make a request one of ``keys`` at ``unix_s``; they come beside all that it has.

    ``url``: exact, as it will be sent. ``host``: as the ``Host`` header will have it. ``headers``: those that the
    signature is to cover.
    """
    moment = _written(int(unix_s))
    added = {"X-Amz-Date": moment}
    covered = {"host": host, "x-amz-content-sha256": UNSIGNED_PAYLOAD, "x-amz-date": moment}
    if keys.session_token is not None:
        token = keys.session_token.reveal()
        added["X-Amz-Security-Token"] = token
        covered["x-amz-security-token"] = " ".join(token.split())
    added["X-Amz-Content-SHA256"] = UNSIGNED_PAYLOAD
    repeated: dict[str, list[str]] = {}
    for name, value in headers:
        if (low := name.lower()) not in UNSIGNED_HEADERS:
            repeated.setdefault(low, []).append(" ".join(value.split()))
    for low, values in repeated.items():
        covered.setdefault(low, ",".join(values))
    names = sorted(covered)
    named = ";".join(names)
    path, query = _path_and_query(url)
    lines = "".join([f"{name}:{covered[name]}\n" for name in names])
    canonical = f"{method.upper()}\n{path}\n{_sorted(query)}\n{lines}\n{named}\n{UNSIGNED_PAYLOAD}"
    scope = f"{moment[:8]}/{region}/{SERVICE}/aws4_request"
    text = f"{ALGORITHM}\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(keys.secret_access_key, moment[:8], region), text.encode(), "sha256").hex()
    added["Authorization"] = (
        f"{ALGORITHM} Credential={keys.access_key_id}/{scope}, SignedHeaders={named}, Signature={signature}"
    )
    return added


@lru_cache(maxsize=2)
def _written(unix_s: int) -> str:
    """``YYYYMMDDTHHMMSSZ``. Thousands of requests are made in one second."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_s))


@lru_cache(maxsize=16)
def _signing_key(secret: Secret, day: str, region: str) -> bytes:
    """Good for a day, a region and a service; what all signatures of a run have in common. Few are kept: what opens
    something should not outlive its use by much."""
    key = f"AWS4{secret.reveal()}".encode()
    for word in (day, region, SERVICE, "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def _path_and_query(url: str) -> tuple[str, str]:
    """Byte for byte what follows the host, without a fragment. An empty path is sent, and signed, as ``/``."""
    rest = url.partition("#")[0].partition("://")[2]
    before, _, query = rest.partition("?")
    _, slash, path = before.partition("/")
    return (f"/{path}" if slash else "/"), query


def _sorted(query: str) -> str:
    """The query as it is signed: its pairs in order, each with an equals sign."""
    if not query:
        return ""
    return "&".join([f"{name}={value}" for name, value in sorted(_pair(item) for item in query.split("&"))])


def _pair(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name, value
