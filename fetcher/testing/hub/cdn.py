"""The other origin: large files behind signed URLs, as strict as the real one.

A URL is good for exactly the bytes that were signed, until its time. Whoever normalises its quoting, adds a
credential, or comes late is refused as CloudFront and S3 refuse. It knows contents by storage hash, not by repository.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable
from urllib.parse import quote

from fetcher.testing import bodies
from fetcher.testing.contents import BytesContent, Content
from fetcher.testing.messages import Reply, Request

_SIGNATURE = re.compile(r"&Signature=([^&]*)")
_EXPIRES = re.compile(r"&Expires=(\d{1,12})(?:&|$)")


def storage_path(repo_id: str, sha256: str) -> str:
    """Where the file whose SHA-256 has these hex digits lies on the CDN; for a server that takes its place."""
    return _location(repo_id, _storage_hash(sha256))


def _location(repo_id: str, name: str) -> str:
    return f"/xet-bridge-us/{hashlib.sha256(repo_id.encode()).hexdigest()[:24]}/{name}"


def _storage_hash(sha256: str) -> str:
    return hashlib.sha256(b"storage hash of " + sha256.encode()).hexdigest()


class Storage:
    """Contents by storage hash, and the key that signs the URLs to them."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._key = hashlib.sha256(b"cdn key %d" % seed).digest()
        self._clock = clock
        self._contents: dict[str, Content] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._signed = 0

    def put(self, content: Content) -> str:
        """Keep ``content``; return its storage hash: 64 hex digits that are *not* its SHA-256.

        The real storage names objects by their Xet hash, and sends it as ETag. It looks like a SHA-256, and a client
        that takes it for one finds every file damaged.
        """
        name = _storage_hash(content.sha256)
        self._contents[name] = content
        return name

    def sign(self, origin: str, repo_id: str, path: str, name: str, lifetime_s: float, user: str) -> str:
        """Return a URL to the content ``name``, good for ``lifetime_s`` seconds; no two URLs are equal.

        ``repo_id`` and ``path`` say which file it is for, ``user`` who asked.
        """
        self._signed += 1
        location = _location(repo_id, name)
        filename = path.rpartition("/")[2]
        expires = math.floor(self._clock() + lifetime_s)
        # Letters quoted that need no quoting, and the other way round: a URL library that "normalises" them
        # makes another string, which the signature does not cover.
        plain = "".join(
            character if character.isascii() and (character.isalnum() or character in ".-_") else "_"
            for character in filename
        )
        disposition = f"inline%3B+filename*%3DUTF-8%27%27{quote(filename, safe='')}%3B+filename%3D%22{plain}%22%3B"
        statement = {"Resource": f"{origin}{location}", "Condition": {"DateLessThan": {"AWS:EpochTime": expires}}}
        policy = json.dumps({"Statement": [statement], "Id": self._signed}, separators=(",", ":")).encode()
        query = (
            f"X-Xet-Cas-Uid={quote(user)}&response-content-disposition={disposition}"
            f"&response-content-type=application%2Foctet-stream&x-id=%28GetObject%29~%7E"
            f"&Expires={expires}&Policy={_url_safe(policy)}"
        )
        tail = "&Key-Pair-Id=K2EMBEDDED"
        signature = self._signature(f"{location}?{query}{tail}")
        self._owners[signature] = repo_id, path
        return f"{origin}{location}?{query}&Signature={signature}{tail}"

    def owner_of(self, target: str) -> tuple[str, str] | tuple[None, None]:
        """Return repository id and path of the file that a URL was signed for, if its signature is one of ours."""
        signature = _SIGNATURE.search(target)
        return self._owners.get(signature[1], (None, None)) if signature else (None, None)

    def answer(self, request: Request) -> Reply:
        """Answer a request to the CDN origin."""
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if "authorization" in request.headers:
            return _error(400, "InvalidArgument", "Only one auth mechanism allowed.")
        signature, expires = _SIGNATURE.search(request.target), _EXPIRES.search(request.target)
        if not signature or not expires:
            return _error(403, "MissingKey", "Missing Key-Pair-Id query parameter or cookie value")
        covered = request.target[: signature.start()] + request.target[signature.end() :]
        if not hmac.compare_digest(self._signature(covered).encode(), signature[1].encode()):
            return _error(403, "AccessDenied", "Access Denied: the signature does not match")
        if self._clock() >= int(expires[1]):
            return _error(403, "AccessDenied", "Access Denied: the request has expired")
        name = request.path.rpartition("/")[2]
        content = self._contents.get(name)
        if content is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        return bodies.answer(request, content, name, {"Content-Type": "application/octet-stream"})

    def _signature(self, covered: str) -> str:
        return _url_safe(hmac.digest(self._key, covered.encode("latin-1"), "sha256"))


def _url_safe(data: bytes) -> str:
    """CloudFront's alphabet: base64 with the letters that a query cannot hold replaced, one of them by a tilde."""
    return base64.b64encode(data).decode().translate(str.maketrans("+=/", "-_~"))


def _error(status: int, code: str, message: str) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, {"Content-Type": "application/xml"}, BytesContent(text.encode()))
