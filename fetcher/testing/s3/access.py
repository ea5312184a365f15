"""Who asks the embedded S3: keys, and whether a request is signed as it must be.

Checks in the order in which Amazon does: form, time, key, token, signature. Decides from values; no sockets.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate

from fetcher.testing.messages import Request
from fetcher.testing.s3 import signing
from fetcher.testing.s3.errors import Refused

SKEW_S_MAX = 15 * 60
EXPIRES_S_MAX = 7 * 24 * 3600
SECRET_HEADERS = frozenset({"authorization", "x-amz-security-token"})
"""Kept out of every record."""

_DATE = "%Y%m%dT%H%M%SZ"
_HEADER = re.compile(rf"{signing.ALGORITHM} +Credential=([^, ]+), *SignedHeaders=([^, ]+), *Signature=([^, ]+)")


@dataclass(frozen=True, slots=True)
class Key:
    """A valid access key. Its id is how ``S3`` finds it."""

    secret: str = field(repr=False)
    user: str = "tester"
    """Whose it is; several keys may belong to one user."""
    session_token: str | None = field(default=None, repr=False)
    """What must come with a temporary key, and with no other."""
    expires_at: float | None = None
    """Unix seconds after which a temporary key is no longer good."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signed request says of itself."""

    key_id: str
    day: str
    region: str
    amz_date: str
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    token: str | None = field(repr=False)
    expires_s: int | None
    """Of a presigned URL; None when the signature stands in a header."""


def carries_credentials(request: Request) -> bool:
    """Whether anything in a request is a credential, valid or not."""
    query = request.query.lower()
    names = ("x-amz-signature=", "x-amz-security-token=", "awsaccesskeyid=")
    return not SECRET_HEADERS.isdisjoint(request.headers) or any(name in query for name in names)


def read_claim(request: Request, pairs: signing.Pairs) -> Claim | None:
    """Return how a request is signed, None if it is not; refuse what can't be a signature, or is two."""
    query = dict(pairs)
    header = request.headers.get("authorization")
    if "AWSAccessKeyId" in query or (header is not None and header.startswith("AWS ")):
        mechanism = f"The authorization mechanism you have provided is not supported. Please use {signing.ALGORITHM}."
        raise Refused("InvalidRequest", mechanism)
    if "X-Amz-Algorithm" in query or "X-Amz-Signature" in query:
        if header is not None:
            raise Refused("InvalidArgument", "Only one auth mechanism allowed")
        return _claim_of_query(query)
    return None if header is None else _claim_of_header(request, header)


def verify(claim: Claim, request: Request, pairs: signing.Pairs, keys: Mapping[str, Key], now: float) -> Key:
    """Return the key that signed ``request``; refuse a signature that is late, unknown or wrong. ``now``: unix seconds.

    A signature covers Host and every x-amz-* header there is.
    """
    _check_time(claim, now)
    key = keys.get(claim.key_id)
    if key is None:
        raise Refused("InvalidAccessKeyId", elements={"AWSAccessKeyId": claim.key_id})
    if claim.token != key.session_token:
        raise Refused("InvalidToken")
    if key.expires_at is not None and now >= key.expires_at:
        raise Refused("ExpiredToken")
    unsigned = [name for name in request.headers if name.startswith("x-amz-") and name not in claim.signed_headers]
    if unsigned:
        message = "There were headers present in the request which were not signed"
        raise Refused("AccessDenied", message, elements={"HeadersNotSigned": ", ".join(unsigned)})
    covered = [(name, value) for name, value in pairs if name != "X-Amz-Signature"]
    payload = signing.UNSIGNED if claim.expires_s is not None else request.headers["x-amz-content-sha256"]
    canonical = signing.canonical_request(
        request.method, request.path, covered, request.headers, claim.signed_headers, payload
    )
    right = signing.signature(key.secret, claim.amz_date, claim.region, canonical)
    if not hmac.compare_digest(right.encode(), claim.signature.encode("utf-8", "replace")):
        raise Refused("SignatureDoesNotMatch", elements={"AWSAccessKeyId": claim.key_id, "CanonicalRequest": canonical})
    if payload != signing.UNSIGNED and payload != hashlib.sha256(request.body).hexdigest():
        raise Refused("XAmzContentSHA256Mismatch")
    return key


def amz_date(at: float) -> str:
    """Return unix seconds as signatures have them."""
    return datetime.fromtimestamp(at, UTC).strftime(_DATE)


def _claim_of_header(request: Request, header: str) -> Claim:
    if not header.startswith(signing.ALGORITHM):
        raise Refused("InvalidArgument", "Unsupported Authorization Type")
    match = _HEADER.fullmatch(header.strip())
    if not match:
        raise Refused("AuthorizationHeaderMalformed")
    if "x-amz-content-sha256" not in request.headers:
        raise Refused("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    date = request.headers.get("x-amz-date", "")
    if _seconds(date) is None:
        raise Refused("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    token = request.headers.get("x-amz-security-token")
    return _claim("AuthorizationHeaderMalformed", match[1], date, match[2], match[3], token, None)


def _claim_of_query(query: Mapping[str, str]) -> Claim:
    code = "AuthorizationQueryParametersError"
    names = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Expires")
    if any(name not in query for name in names) or query.get("X-Amz-Algorithm") != signing.ALGORITHM:
        raise Refused(code, f"Query-string authentication version 4 requires X-Amz-Algorithm, {', '.join(names)}.")
    credential, date, signed, signature, expires = (query[name] for name in names)
    if _seconds(date) is None:
        raise Refused(code, "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    if not re.fullmatch(r"[0-9]{1,9}", expires) or int(expires) > EXPIRES_S_MAX:
        raise Refused(code, f"X-Amz-Expires must be less than a week (in seconds); must be at most {EXPIRES_S_MAX}")
    return _claim(code, credential, date, signed, signature, query.get("X-Amz-Security-Token"), int(expires))


def _claim(
    code: str, credential: str, date: str, signed: str, signature: str, token: str | None, expires_s: int | None
) -> Claim:
    words = credential.rsplit("/", 4)
    if len(words) != 5 or words[3:] != ["s3", "aws4_request"]:
        raise Refused(code, "the Credential is malformed; expecting <key>/YYYYMMDD/REGION/s3/aws4_request")
    if words[1] != date[:8]:
        raise Refused(code, f"Invalid credential date {words[1]}. This date is not the same as X-Amz-Date.")
    names = tuple(signed.split(";"))
    if "host" not in names:
        raise Refused(code, "Host must be among the signed headers")
    return Claim(words[0], words[1], words[2], date, names, signature, token, expires_s)


def _check_time(claim: Claim, now: float) -> None:
    at = _seconds(claim.amz_date)
    assert at is not None
    if claim.expires_s is None:
        if abs(now - at) > SKEW_S_MAX:
            elements = {
                "RequestTime": claim.amz_date,
                "ServerTime": _iso(now),
                "MaxAllowedSkewMilliseconds": str(SKEW_S_MAX * 1000),
            }
            raise Refused("RequestTimeTooSkewed", elements=elements)
    elif at - now > SKEW_S_MAX:
        raise Refused("AccessDenied", "Request is not yet valid")
    elif now >= at + claim.expires_s:
        elements = {
            "X-Amz-Expires": str(claim.expires_s),
            "Expires": _iso(at + claim.expires_s),
            "ServerTime": _iso(now),
        }
        raise Refused("AccessDenied", "Request has expired", elements=elements)


def _seconds(text: str) -> float | None:
    try:
        return datetime.strptime(text, _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def http_date(at: float) -> str:
    """Return unix seconds as HTTP headers have them."""
    return formatdate(int(at), usegmt=True)
