"""S3 buckets and plain HTTPS trees as resources: where, which files, with which keys. Pure values and rules about URLs.

A location is the URL that somebody wrote. What it means (which host is a bucket, whether it names an object or a
prefix) is the origin's to find out; here it is only made sure that it is a URL that means one thing, and what of it is
secret. Three kinds of things stand in a query:

- the signature of a presigned URL. It opens the object and says nothing of which: no part of the key, but a credential.
  Were it not one, whoever writes a signature of his own invention would be given what another fetched;
- ``versionId``, which names a state of the object: part of the key, and of what is printed;
- anything else, which may choose the object and may be a password. Part of the key as a digest, and never printed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from fetcher.model.key import FILES_MAX, canonical_key
from fetcher.model.paths import path_fault
from fetcher.model.secret import AWSKeys, Secret
from fetcher.model.text import shown, unencodable

LEGACY_PREFIX: Final = "s3://nos-ai-models-qllsn32u"
LEGACY_REPLACEMENT: Final = "https://models.nosana.io"
"""The network's nodes have rewritten the one into the other since 2024-09 (nosana-cli v0.1.128)."""

URL_CHARACTERS_MAX: Final = 4096
LOCATIONS_MAX: Final = 100
KEY_BYTES_MAX: Final = 1024
"""Of an S3 key (Amazon S3 User Guide, object keys)."""
KEYS_AND_QUERY: Final = "keys beside a URL with a query, which is asked as it stands: which would count?"
ONE_OBJECT: Final = "the query of this URL is for one object, and files are below a prefix"
FRAGMENT_OF_BUCKET: Final = "#bucket="
"""How ``S3.uri()`` names a bucket that the URL does not: a fragment is never sent."""

_SCHEMES: Final = ("s3", "https", "http")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?|\[[0-9a-f:.]+\]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_LITERAL_SAFE: Final = "/~!$&'()*+,;=:@%"
_VERSION_PIECE = re.compile(r"versionId=[A-Za-z0-9._~-]{1,1024}")
_SIGNATURES: Final = frozenset({"x-amz-signature", "x-goog-signature", "signature", "sig"})
"""Any of these in a query makes the URL a presigned one (AWS v4, Google v4, AWS v2 and CloudFront, Azure SAS)."""
_OF_ONE_OBJECT: Final = frozenset({"x-amz-signature", "x-goog-signature", "awsaccesskeyid", "googleaccessid"})
"""Signatures over one path. The others may open whole folders."""
_SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|signature|sig|awsaccesskeyid|googleaccessid|expires|key-pair-id|policy"
    r"|s[etpvr]|spr|sip|ss|srt|skoid|sktid|skt|ske|sks|skv"
)
"""What belongs to a signature and changes with each."""


def bucket_fault(bucket: str) -> str | None:
    """What is wrong with a bucket's name, or None. Wider than today's rules: old buckets have upper case and ``_``."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        return f"not a bucket name: {shown(bucket)}"
    return None


def key_file_fault(name: str) -> str | None:
    """What is wrong with one entry of ``files`` below a location, or None. Names are exact: a host that can't list
    could match no pattern."""
    if len(name.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX:
        return f"file name is longer than {KEY_BYTES_MAX} bytes"
    fault = path_fault(name)
    return f"not a file name below the URL ({fault}): {shown(name)}" if fault else None


def location_fault(url: str) -> str | None:
    """What is wrong with the URL of a location, or None."""
    if not url:
        return "url is empty"
    if len(url) > URL_CHARACTERS_MAX:
        return f"url is longer than {URL_CHARACTERS_MAX} characters"
    if unencodable(url) or re.search(r"[\x00-\x1f\x7f\\]", url):
        return f"url has control characters or a backslash in it: {shown(url)}"
    if len(_encoded(url).replace(",", "%2C")) > URL_CHARACTERS_MAX:  # as ``S3.uri()`` will write it
        return f"url is longer than {URL_CHARACTERS_MAX} characters when it is percent-encoded"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        return f"not a URL of S3 or HTTPS: {shown(url)}"
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        return "a URL must not hold a user name or a password"
    if rest.lower().startswith("arn:") and scheme.lower() == "s3":
        return (
            f"not a bucket but an ARN: {shown(url)} (an access point has a host of its own: "
            "https://<name>-<account>.s3-accesspoint.<region>.amazonaws.com/, or an alias that is used as a bucket)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"not a URL: {shown(url)}"
    if "#" in url:
        return f"a URL with a '#' in it: {shown(url)}"
    if scheme.lower() == "s3":
        if port is not None or (parts.query and not _VERSION_PIECE.fullmatch(parts.query)):
            return f"s3:// takes a bucket and a prefix, no port and no query but versionId: {shown(url)}"
        return bucket_fault(parts.netloc)
    host = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    if not _HOST.fullmatch(host.lower()):
        return f"not a host name: {shown(host)}"
    return None if port != 0 else f"not a port: {shown(url)}"


@dataclass(frozen=True, slots=True)
class S3Location:
    """One URL and, perhaps, the files below it."""

    url: str
    """``s3://bucket/prefix`` or ``https://host/path``, percent-encoded where a URL must be and otherwise as it was
    written; lower-case host, no default port, no query, no fragment."""
    files: tuple[str, ...] = ()
    """Exact names below ``url``; empty means all that is there. Sorted, no doubles."""
    query: Secret | None = None
    """All that followed the ``?``, to be sent as it is: a presigned URL's signature lives there."""
    version_id: str | None = None
    """State of the object, in a bucket that keeps several; also in ``query``, where the URL had one."""
    selection: str = ""
    """SHA-256 (hex) of what else of ``query`` may choose the object; empty where there is nothing of that kind."""

    @classmethod
    def parse(cls, url: str, files: tuple[str, ...] = ()) -> S3Location:
        """From what somebody wrote. Raises ``ValueError`` for what ``location_fault`` finds."""
        fault = location_fault(url)
        if fault:
            raise ValueError(fault)
        if re.match(rf"{re.escape(LEGACY_PREFIX)}(?=[/?]|$)", url):
            url = LEGACY_REPLACEMENT + url[len(LEGACY_PREFIX) :]
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        netloc = parts.netloc
        if scheme != "s3":
            host, port = parts.hostname or "", parts.port
            netloc = f"[{host}]" if ":" in host else host
            netloc += f":{port}" if port is not None and port != _DEFAULT_PORTS[scheme] else ""
        query = Secret(quote(parts.query, safe=_LITERAL_SAFE + "/?")) if parts.query else None
        version, selection = _chosen(parts.query)
        return cls(f"{scheme}://{netloc}{_encoded(parts.path)}", files, query, version, selection)

    def __post_init__(self) -> None:
        for name in self.files:
            fault = key_file_fault(name)
            if fault:
                raise ValueError(fault)
        if len(self.files) > FILES_MAX:
            raise ValueError(f"more than {FILES_MAX} file names")
        if self.files and self.is_one_object:
            raise ValueError(ONE_OBJECT)
        object.__setattr__(self, "files", tuple(sorted(set(self.files))))

    @property
    def holds_secret(self) -> bool:
        """Whether the query says more than a version: it may open what is closed to others, signed or not."""
        return self.query is not None and self.query.reveal() != f"versionId={self.version_id}"

    @property
    def is_one_object(self) -> bool:
        """Whether the query is for the one object that the URL names: its version, or a signature over its path."""
        pieces = [] if self.query is None else self.query.reveal().split("&")
        return self.version_id is not None or any(_name(piece) in _OF_ONE_OBJECT for piece in pieces)

    @property
    def identity(self) -> tuple[str, ...]:
        """Two locations with one identity ask for the same: encodings that mean one name are one."""
        parts = urlsplit(self.url)
        path = unquote_to_bytes(parts.path)
        # With files it is a folder, however it ends.
        path = path.rstrip(b"/") if self.files else path or b"/"
        version = () if self.version_id is None else ("version", self.version_id)
        selection = ("selection", self.selection) if self.selection else ()
        return (parts.scheme, parts.netloc, path.hex(), *version, *selection, "files", *self.files)

    def uri(self) -> str:
        """The URL without what is secret in it."""
        return self.url if self.version_id is None else f"{self.url}?versionId={self.version_id}"


def _encoded(path: str) -> str:
    """``path`` with what may not stand in a URL percent-encoded; a ``%`` that begins no escape becomes ``%25``."""
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path), safe=_LITERAL_SAFE)


def _name(piece: str) -> str:
    """Name of one ``name=value`` of a query, decoded, in lower case."""
    return unquote(piece.partition("=")[0]).lower()


def _is_signed(query: str) -> bool:
    return any(_name(piece) in _SIGNATURES for piece in query.split("&"))


def _chosen(query: str) -> tuple[str | None, str]:
    """Version and ``selection`` of a query: what in it says which object. Nothing is decoded or put in order: what two
    spellings have in common is for the host to know."""
    pieces = query.split("&") if query else []
    if _is_signed(query):
        pieces = [piece for piece in pieces if not _SIGNING.fullmatch(_name(piece))]
    versions = [piece for piece in pieces if _VERSION_PIECE.fullmatch(piece)]
    version = versions[0].partition("=")[2] if len(versions) == 1 else None
    rest = "&".join(piece for piece in pieces if version is None or piece not in versions)
    return version, hashlib.sha256(rest.encode()).hexdigest() if rest else ""


@dataclass(frozen=True, slots=True)
class S3:
    """Objects or prefixes of S3 buckets, or files of plain HTTPS hosts, as one directory.

    Raises ``ValueError`` when built with parts that can't be right; documents and URIs report every fault with its
    place.
    """

    locations: tuple[S3Location, ...]
    """In the order of the document; what they hold lies side by side in one directory."""
    bucket: str | None = None
    """The bucket of the one location, where the document names it beside the URL."""
    keys: AWSKeys | None = None
    """The resource's own keys (``IAM`` of a Job Definition). Never part of the key."""

    def __post_init__(self) -> None:
        if not 0 < len(self.locations) <= LOCATIONS_MAX:
            raise ValueError(f"an S3 resource has 1 to {LOCATIONS_MAX} locations, not {len(self.locations)}")
        fault = None if self.bucket is None else bucket_fault(self.bucket)
        if not fault and self.bucket is not None and len(self.locations) > 1:
            fault = "a bucket stands beside one URL, not beside several"
        if not fault and self.keys is not None and any(location.holds_secret for location in self.locations):
            fault = KEYS_AND_QUERY
        if fault:
            raise ValueError(fault)

    @classmethod
    def at(cls, url: str, *files: str, bucket: str | None = None, keys: AWSKeys | None = None) -> S3:
        """One location. Raises ``ValueError``."""
        return cls((S3Location.parse(url, files),), bucket, keys)

    @property
    def immutable(self) -> bool:
        """Always False: an object can be replaced under its name."""
        return False

    def key(self, endpoint: str) -> str:
        """Identity of this request, 64 hex digits. ``endpoint`` is where ``s3://`` URLs lead; others name their own."""
        places = [
            canonical_key("location", endpoint if location.url.startswith("s3:") else "", location.identity)
            for location in self.locations
        ]
        return canonical_key("s3", self.bucket or "", tuple(sorted(set(places))))

    def uri(self) -> str:
        """The URL a person would type; several are joined by commas. Files, signatures and other secrets of a query are
        not part of it."""
        fragment = "" if self.bucket is None else f"{FRAGMENT_OF_BUCKET}{self.bucket}"
        places = dict.fromkeys(location.uri().replace(",", "%2C") for location in self.locations)
        return ",".join(places) + fragment
