"""What the headers of an object vouch for: its state (Validator) and its bytes (Digest claims, guesses).

An ETag of an S3 is the MD5 of a single upload, or of the MD5s of an upload in parts, unless the object is encrypted
with a key of its own; then it says nothing. Anywhere else it is opaque, even if it has 32 hex digits. A checksum header
is about the whole object only on a whole answer: some stores send it along with a range (rclone), some with a part.

Sources: Amazon S3 User Guide ("Checking object integrity"), Cloud Storage's ``x-goog-hash``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fetcher.model.digest import HEX_DIGITS, STRENGTH, Digest
from fetcher.model.manifest import FileEntry, Validator
from fetcher.origins.s3_listing import Row
from fetcher.plan.tree import BLOCK_BYTES

MIB = 1 << 20
PARTS_MAX = 10_000
USUAL_PART_SIZES = tuple(mib * MIB for mib in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 250, 512, 1024))
"""What upload tools take, by default or by habit."""
PREFERRED = ("crc64nvme", "crc32c", "crc32", "sha256", "sha512", "sha1", "md5")
"""Of a large object: first what can be computed out of order, and in parallel."""

_ETAG = re.compile(r'(W/)?"?([\x21\x23-\x7e]{1,1024})"?')
_MD5 = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_MD5_OF_PARTS = re.compile(r"([0-9a-f]{32})-([0-9]{1,5})", re.IGNORECASE)
_COMPOSITE = re.compile(r"([A-Za-z0-9+/]+={0,2})-([0-9]{1,5})")
_S3_HEADERS = ("x-amz-request-id", "x-amz-id-2", "x-amz-version-id", "x-goog-hash")
_OPAQUE_SSE = ("aws:kms", "aws:kms:dsse")
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an object, from its headers or its row in a listing."""

    size: int
    validator: Validator
    full: tuple[Digest, ...] = ()
    """Stated digests of the whole content."""
    composite: tuple[tuple[str, str, int], ...] = ()
    """Stated digests of digests of parts: algorithm, hex digits, number of parts."""
    etag_is_md5: bool = False
    """Whether an ETag that looks like an MD5 is one: an S3 made it."""
    etag_is_opaque: bool = False
    """Encrypted with a key of its own: the ETag is no digest, whatever it looks like."""
    part_count: int = 0
    """Of an answer for one part: how many there are; 0: not said."""
    content_type: str = ""
    archived: bool = False
    """Not to be read before it is restored."""


def facts_of_row(row: Row) -> Facts:
    """What a listing says. Encryption is not in it."""
    etag = normal_etag(row.etag)
    modified = None if etag else _http_date(row.last_modified)
    return Facts(
        row.size, validator_of(etag, modified, None), etag_is_md5=True, archived=row.storage_class in _ARCHIVES
    )


def facts_of_headers(
    headers: Mapping[str, str], size: int, *, whole: bool, of_an_s3: bool = False, version: str | None = None
) -> Facts:
    """What an answer says. ``whole``: it is about all of the content (a HEAD, or a 200 without Content-Range).
    ``of_an_s3``: the host is known to be one. ``version``: what was asked for by its version id."""
    etag = normal_etag(headers.get("ETag"))
    full, composite = _goog_hash(headers), []
    if whole:
        for algorithm in PREFERRED:
            value = headers.get(f"x-amz-checksum-{algorithm}", "").strip()
            if not value:
                continue
            if digits := _hex_of(algorithm, value):
                if headers.get("x-amz-checksum-type", "").upper() != "COMPOSITE":
                    full.append(Digest(algorithm, digits))
            elif (match := _COMPOSITE.fullmatch(value)) and (digits := _hex_of(algorithm, match[1])):
                composite.append((algorithm, digits, int(match[2])))
    return Facts(
        size,
        validator_of(etag, _plain(headers.get("Last-Modified")), version),
        tuple(full),
        tuple(composite),
        etag_is_md5=of_an_s3 or is_s3_answer(headers),
        etag_is_opaque=is_opaque(headers),
        part_count=_count(headers.get("x-amz-mp-parts-count", "")),
        content_type=headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        archived=headers.get("x-amz-storage-class", "") in _ARCHIVES
        and 'ongoing-request="false"' not in headers.get("x-amz-restore", ""),
    )


def normal_etag(text: str | None) -> str | None:
    """An ETag as it goes into If-Match: quoted, with ``W/`` if it is weak. None for what can't be sent back."""
    match = _ETAG.fullmatch((text or "").strip())
    return f'{match[1] or ""}"{match[2]}"' if match else None


def validator_of(etag: str | None, last_modified: str | None, version: str | None) -> Validator:
    """The Validator of an object with these. An ETag makes its date superfluous, which listings write otherwise."""
    if version is not None:
        return Validator("strong", etag, version=version)
    if etag is not None:
        return Validator("weak" if etag.startswith("W/") else "strong", etag)
    if last_modified is not None:
        return Validator("weak", last_modified=last_modified)
    return Validator("none")


def is_s3_answer(headers: Mapping[str, str]) -> bool:
    """Whether an S3 made these headers; then its ETags are made as S3's are."""
    return any(name in headers for name in _S3_HEADERS) or headers.get("Server", "") == "AmazonS3"


def is_opaque(headers: Mapping[str, str]) -> bool:
    """Whether the object is encrypted in a way that makes its ETag no digest."""
    return (
        headers.get("x-amz-server-side-encryption", "") in _OPAQUE_SSE
        or "x-amz-server-side-encryption-customer-algorithm" in headers
        or "x-goog-encryption-kms-key-name" in headers
    )


def entry_of(path: str, url: str, facts: Facts, *, part_bytes: int = 0) -> FileEntry:
    """The FileEntry of an object. ``part_bytes``: how long its parts were, if that is known."""
    digest, guesses = _claims(facts, part_bytes)
    return FileEntry(path, facts.size, digest, url=url, validator=facts.validator, guesses=guesses)


def wants_grid(facts: Facts) -> bool:
    """Whether knowing where its parts ended would give a digest that there is not yet."""
    return not facts.full and facts.size > 0 and bool(facts.composite or (facts.etag_is_md5 and _md5_of_parts(facts)))


def grid_of(facts: Facts, first_part_bytes: int, part_count: int) -> int:
    """Part size of an upload whose first part and number of parts are told; 0 if parts can't all have been of that
    size."""
    if not 0 < first_part_bytes <= facts.size or not 0 < part_count <= PARTS_MAX:
        return 0
    return first_part_bytes if -(-facts.size // first_part_bytes) == part_count else 0


def same_state(entry: FileEntry, headers: Mapping[str, str]) -> bool:
    """Whether an answer may be about the bytes that ``entry`` names: nothing that both state differs."""
    validator = entry.validator
    if validator is None:
        return True
    version = headers.get("x-amz-version-id")
    if validator.version is not None and version is not None and version != validator.version:
        return False
    etag = normal_etag(headers.get("ETag"))
    if validator.etag is not None:
        return etag is None or etag == validator.etag
    modified = _plain(headers.get("Last-Modified"))
    return validator.last_modified is None or modified is None or modified == validator.last_modified


def with_answer(entry: FileEntry, headers: Mapping[str, str], *, whole: bool) -> FileEntry:
    """``entry`` with what an answer to a request for its body adds, or takes away: an MD5 that was none."""
    facts = facts_of_headers(headers, entry.size, whole=whole)
    if facts.etag_is_opaque and _from_etag(entry):
        digest = entry.digest if entry.digest is not None and entry.digest.algorithm != "md5" else None
        entry = replace(entry, digest=digest, guesses=())
    stronger = max(facts.full, key=_strength, default=None)
    if stronger is not None and (entry.digest is None or _strength(stronger) > _strength(entry.digest)):
        entry = replace(entry, digest=stronger, guesses=())
    return entry


def _from_etag(entry: FileEntry) -> bool:
    claims = (*((entry.digest,) if entry.digest else ()), *entry.guesses)
    etag = (entry.validator.etag or "" if entry.validator else "").lower()
    return any(claim.algorithm == "md5" and claim.hex in etag for claim in claims)


def _claims(facts: Facts, part_bytes: int) -> tuple[Digest | None, tuple[Digest, ...]]:
    """What the content is to be compared with: one digest that is certain to be meant, or guesses."""
    md5 = None if facts.etag_is_opaque else _md5_of(facts)
    if facts.size <= BLOCK_BYTES:
        # Hashed in one go in any case: the strongest.
        certain = [*facts.full, *([md5] if md5 is not None and facts.etag_is_md5 else [])]
        if certain:
            return max(certain, key=_strength), ()
    for algorithm in PREFERRED:
        for digest in facts.full:
            if digest.algorithm == algorithm:
                return digest, ()
    parted = [*facts.composite, *_md5_of_parts(facts)]
    for algorithm, digits, count in parted:
        if part_bytes and -(-facts.size // part_bytes) == count:
            return Digest(algorithm, digits, part_bytes), ()
    if md5 is not None and facts.etag_is_md5:
        return md5, ()
    guesses = [Digest(name, digits, size) for name, digits, count in parted[:1] for size in _grids(facts.size, count)]
    # A web server's ETag of 32 digits may be an MD5, or anything: right, it verifies; wrong, it proves nothing.
    return None, (*guesses, *([md5] if md5 is not None else []))


def _md5_of(facts: Facts) -> Digest | None:
    etag = facts.validator.etag or ""
    match = _MD5.fullmatch(etag.strip('"'))
    return Digest("md5", match[0].lower()) if match else None


def _md5_of_parts(facts: Facts) -> list[tuple[str, str, int]]:
    match = _MD5_OF_PARTS.fullmatch((facts.validator.etag or "").strip('"'))
    if match is None or facts.etag_is_opaque or not 0 < int(match[2]) <= PARTS_MAX:
        return []
    return [("md5", match[1].lower(), int(match[2]))]


def _grids(size: int, count: int) -> list[int]:
    """Part sizes that make ``count`` parts of ``size`` bytes, likely ones."""
    if size == 0 or count == 0:
        return []
    if count == 1:
        return [size]
    even = -(-size // count)
    sizes = {*USUAL_PART_SIZES, -(-even // MIB) * MIB}
    return sorted(each for each in sizes if -(-size // each) == count)


def _goog_hash(headers: Mapping[str, str]) -> list[Digest]:
    """``crc32c=…,md5=…``: always of the whole object, on ranges too."""
    found = []
    for item in headers.get("x-goog-hash", "").split(","):
        algorithm, _, value = item.strip().partition("=")
        if algorithm in ("crc32c", "md5") and (digits := _hex_of(algorithm, value)):
            found.append(Digest(algorithm, digits))
    return found


def _hex_of(algorithm: str, value: str) -> str | None:
    """Hex digits of a base64 value of the right length (CRCs are big-endian)."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) * 2 == HEX_DIGITS[algorithm] else None


def _strength(digest: Digest) -> int:
    return STRENGTH.index(digest.algorithm)


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _plain(text: str | None) -> str | None:
    """A header that may be compared and stored; None if it is empty or no text."""
    return text if text and len(text) <= 64 and text.isascii() and text.isprintable() else None


def _http_date(iso: str | None) -> str | None:
    """A listing's time as ``Last-Modified`` has it; whole seconds."""
    import datetime
    from email.utils import format_datetime  # slow to import, and stores without ETags are rare

    try:
        moment = datetime.datetime.fromisoformat(iso or "")
        return format_datetime(moment.astimezone(datetime.UTC).replace(microsecond=0), usegmt=True)
    except (ValueError, OverflowError):
        return None
