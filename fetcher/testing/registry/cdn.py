"""The other origin: blobs behind signed URLs, as the object store behind Ollama's registry gives them.

A URL is good for the method, the host and exactly the bytes that were signed, until its time. Whoever normalises its
quoting, adds a credential, asks with another method or comes late is refused as such a store refuses. It knows blobs by
digest, and which repository a URL was signed for.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

from fetcher.testing import bodies
from fetcher.testing.contents import BytesContent, Content
from fetcher.testing.messages import Reply, Request

_SIGNATURE = re.compile(r"&X-Amz-Signature=([0-9a-f]{64})$")
_EXPIRES = re.compile(r"&X-Amz-Date=(\d{8}T\d{6}Z)&X-Amz-Expires=(\d{1,7})&")
_DATE_FORM = "%Y%m%dT%H%M%SZ"
_ACCESS_KEY = "66embedded0000000000000000000000"


class SignedStore:
    """Blobs by digest, and the key that signs the URLs to them."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._key = hashlib.sha256(b"registry cdn key %d" % seed).digest()
        self._clock = clock
        self._blobs: dict[str, Content] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._signed = 0

    def sign(self, origin: str, method: str, repository: str, digest: str, content: Content, lifetime_s: float) -> str:
        """Return a URL at ``origin`` for one ``method``, good for ``lifetime_s`` seconds; no two URLs are equal."""
        self._signed += 1
        self._blobs[digest] = content
        algorithm, _, digits = digest.partition(":")
        # The time is signed in whole seconds; what is past already is signed as having been good for one second.
        begins = math.floor(self._clock()) if lifetime_s > 0 else math.floor(self._clock() + lifetime_s) - 1
        stamp = datetime.fromtimestamp(begins, UTC).strftime(_DATE_FORM)
        target = (
            f"/embedded/docker/registry/v2/blobs/{algorithm}/{digits[:2]}/{digits}/data"
            f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={_ACCESS_KEY}%2F{stamp[:8]}%2Fauto%2Fs3%2Faws4_request"
            f"&X-Amz-Date={stamp}&X-Amz-Expires={max(1, math.floor(lifetime_s))}&X-Amz-SignedHeaders=host"
            f"&x-id=%28GetObject%29~%7E{self._signed}"
        )
        signature = self._signature(method, origin.removeprefix("http://"), target)
        self._owners[signature] = repository, digest
        return f"{origin}{target}&X-Amz-Signature={signature}"

    def owner_of(self, target: str) -> tuple[str, str] | tuple[None, None]:
        """Return repository and digest that a URL was signed for, if its signature is one of ours."""
        signature = _SIGNATURE.search(target)
        return self._owners.get(signature[1], (None, None)) if signature else (None, None)

    def answer(self, request: Request) -> Reply:
        """Answer a request to the CDN origin."""
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        signature, time = _SIGNATURE.search(request.target), _EXPIRES.search(request.target)
        if "authorization" in request.headers:
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed.")
        if signature is None or time is None:
            return _error(403, "AccessDenied", "Access Denied")
        covered = request.target[: signature.start()]
        if not hmac.compare_digest(self._signature(request.method, request.headers["host"], covered), signature[1]):
            text = "The request signature we calculated does not match the signature you provided."
            return _error(403, "SignatureDoesNotMatch", text)
        began = datetime.strptime(time[1], _DATE_FORM).replace(tzinfo=UTC).timestamp()
        if self._clock() >= began + int(time[2]):
            return _error(403, "AccessDenied", "Request has expired")
        content = self._blobs[self._owners[signature[1]][1]]
        # Not the digest: such a store's ETag is an MD5, or the MD5 of MD5s.
        etag = hashlib.md5(content.sha256.encode(), usedforsecurity=False).hexdigest()
        return bodies.answer(request, content, etag, {"Content-Type": "application/octet-stream"})

    def _signature(self, method: str, host: str, target: str) -> str:
        return hmac.new(self._key, f"{method}\n{host}\n{target}".encode("latin-1"), "sha256").hexdigest()


def _error(status: int, code: str, message: str) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, {"Content-Type": "application/xml"}, BytesContent(text.encode()))
