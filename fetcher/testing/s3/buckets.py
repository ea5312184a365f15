"""Buckets of the embedded S3: objects with their ETags and checksums, in the order of a listing.

A value store. It knows which key holds what and who was granted access; it knows nothing of HTTP or of signatures.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, TypeAlias

from fetcher.testing.contents import Content, ContentLike, Synthetic, as_content
from fetcher.testing.s3 import checksums
from fetcher.testing.s3.checksums import Algorithm
from fetcher.testing.s3.quirks import Quirks

ChecksumType: TypeAlias = Literal["FULL_OBJECT", "COMPOSITE"]
Encryption: TypeAlias = Literal["AES256", "aws:kms", "aws:kms:dsse"]
WrongRegion: TypeAlias = Literal["permanent", "temporary", "malformed"]

KEY_BYTES_MAX = 1024
ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects are listed but can't be read."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.IGNORECASE)


@dataclass(frozen=True)
class S3Object:
    """One object. Made by ``Bucket.put``."""

    key: str
    content: Content
    part_sizes: tuple[int, ...] | None
    """Lengths of the parts of a multipart upload; None for a single PUT."""
    etag: str
    """Without quotes."""
    last_modified_s: int
    """Unix seconds."""
    content_type: str
    content_encoding: str | None
    checksum: Algorithm | None
    checksum_type: ChecksumType
    checksum_stated: str | None
    """Instead of the right value."""
    sse: Encryption | None
    storage_class: str

    @property
    def is_archived(self) -> bool:
        """Whether it would have to be restored before it can be read."""
        return self.storage_class in ARCHIVED

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The half-open ranges of its parts; one range for a single PUT."""
        stops = list(accumulate(self.part_sizes or (self.content.size,)))
        return list(zip([0, *stops[:-1]], stops, strict=True))

    @cached_property
    def checksum_value(self) -> str:
        """The value of its checksum as the header has it. Computed when first asked for; needs ``checksum``."""
        assert self.checksum is not None
        if self.checksum_stated is not None:
            return self.checksum_stated
        return _stated(self.content, self.checksum, tuple(self.spans), self.checksum_type == "COMPOSITE")

    def part_checksum(self, index: int) -> str:
        """The checksum of one part by itself; ``index`` from 0."""
        assert self.checksum is not None
        return _stated(self.content, self.checksum, (self.spans[index],), False)

    def part_etag(self, index: int) -> str:
        """The MD5 of one part; ``index`` from 0."""
        return checksums.digest("md5", self.content.views(*self.spans[index])).hex()

    @cached_property
    def listed_at(self) -> str:
        """Time of the last change as listings have it."""
        return datetime.fromtimestamp(self.last_modified_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class Bucket:
    """One bucket. Make it with ``S3.add_bucket``; change its flags and objects freely while it is served.

    bucket.put("model/weights.bin", Synthetic(50 << 20), part_bytes=8 << 20, checksum="sha256")
    """

    name: str
    clock: Callable[[], float]
    public: bool = False
    """Whether anybody may read its objects without a key."""
    readers: frozenset[str] | None = None
    """Users (``Key.user``) who may read; None: every valid key."""
    list_allowed: bool | Literal["signed"] = True
    """Whether those who may read may list too; ``signed``: only those with a key. Without it a missing key is a 403."""
    region: str = "us-east-1"
    wrong_region: WrongRegion = "permanent"
    """Answer to who comes to, or signs for, another region. ``permanent``: 301 without Location; ``temporary``: 307
    with one, as in a bucket's first days; ``malformed``: 400, as where the request has reached the right place all the
    same."""
    quirks: Quirks | None = None
    """Instead of those of the ``S3``."""
    _objects: dict[str, S3Object] = field(default_factory=dict)
    _sorted: tuple[list[bytes], list[S3Object]] | None = None

    @property
    def objects(self) -> Mapping[str, S3Object]:
        """Key → object."""
        return MappingProxyType(self._objects)

    def put(
        self,
        key: str,
        content: ContentLike,
        *,
        part_bytes: int | Sequence[int] | None = None,
        checksum: Algorithm | None = "crc64nvme",
        checksum_type: ChecksumType | None = None,
        sse: Encryption | None = None,
        last_modified: float | None = None,
        content_type: str = "binary/octet-stream",
        content_encoding: str | None = None,
        storage_class: str = "STANDARD",
        etag: str | None = None,
        checksum_value: str | None = None,
    ) -> S3Object:
        """Store an object under any key S3 takes, replacing what was there.

        ``part_bytes``: as a multipart upload with parts of that size, or of the sizes given. The ETag is the MD5 of the
        bytes, for parts ``hex-N``, under KMS something opaque that looks the same. ``checksum``: the additional one,
        by default the one Amazon adds by itself; ``checksum_type`` as Amazon allows: CRC-64/NVME only full, SHA of
        parts only composite. ``etag`` and ``checksum_value`` state something else than the truth. The MD5 is computed
        here, the checksum when somebody asks for it.
        """
        size = len(key.encode())
        if not 0 < size <= KEY_BYTES_MAX:
            raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {size}")
        body = as_content(content)
        parts = None if part_bytes is None else _part_sizes(body.size, part_bytes)
        stored = S3Object(
            key,
            body,
            parts,
            etag if etag is not None else _etag(body, parts, opaque=sse is not None and sse.startswith("aws:kms")),
            int(self.clock() if last_modified is None else last_modified),
            content_type,
            content_encoding,
            checksum,
            _checksum_type(checksum, checksum_type, in_parts=parts is not None),
            checksum_value,
            sse,
            storage_class,
        )
        self._objects[key] = stored
        self._sorted = None
        return stored

    def delete(self, key: str) -> None:
        """Remove an object."""
        del self._objects[key]
        self._sorted = None

    def may_read(self, user: str | None) -> bool:
        """Whether ``user`` (None: nobody in particular) was granted the objects."""
        return self.public or (user is not None and (self.readers is None or user in self.readers))

    def may_list(self, user: str | None) -> bool:
        """Whether ``user`` was granted the listing."""
        return self.may_read(user) and (user is not None if self.list_allowed == "signed" else self.list_allowed)

    def listing(self, prefix: str, after: str, delimiter: str, limit: int) -> tuple[list[S3Object | str], bool]:
        """Return up to ``limit`` objects, and common prefixes as ``str``, that follow ``after``; and whether more do.

        The order is that of the keys' UTF-8 bytes. ``after`` is a key, or a common prefix, all of which is then passed.
        """
        keys, objects = self._in_order()
        start, stop = prefix.encode(), delimiter.encode()
        index = bisect_left(keys, start)
        if after:
            whole = bool(delimiter) and after.endswith(delimiter) and after.startswith(prefix) and after != prefix
            index = max(index, _index_behind(keys, after.encode()) if whole else bisect_right(keys, after.encode()))
        found: list[S3Object | str] = []
        while index < len(keys) and keys[index].startswith(start):
            if len(found) == limit:
                return found, True
            cut = keys[index].find(stop, len(start)) if stop else -1
            if cut < 0:
                found.append(objects[index])
                index += 1
            else:
                common = keys[index][: cut + len(stop)]
                found.append(common.decode())
                index = _index_behind(keys, common)
        return found, False

    def _in_order(self) -> tuple[list[bytes], list[S3Object]]:
        ordered = self._sorted
        if ordered is None:
            pairs = sorted((key.encode(), stored) for key, stored in list(self._objects.items()))
            ordered = self._sorted = [key for key, _ in pairs], [stored for _, stored in pairs]
        return ordered


def make_bucket(
    name: str, clock: Callable[[], float], readers: Iterable[str] | None, objects: Mapping[str, ContentLike]
) -> Bucket:
    """Return a bucket of a valid name with ``objects``, put as by default."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"no bucket can be called {name!r}: 3 to 63 letters, digits, dots, hyphens and underscores")
    bucket = Bucket(name, clock, readers=None if readers is None else frozenset(readers))
    for key, content in objects.items():
        bucket.put(key, content)
    return bucket


def _index_behind(keys: list[bytes], prefix: bytes) -> int:
    """Index of the first key behind all that start with ``prefix``. No key holds a byte 0xff: it is not UTF-8."""
    return bisect_left(keys, prefix + b"\xff")


def _part_sizes(size: int, part_bytes: int | Sequence[int]) -> tuple[int, ...]:
    if not isinstance(part_bytes, int):
        if sum(part_bytes) != size or not part_bytes or min(part_bytes) < 0:
            raise ValueError(f"parts of {sum(part_bytes)} bytes do not make an object of {size}")
        return tuple(part_bytes)
    if part_bytes < 1:
        raise ValueError(f"part_bytes must be positive, not {part_bytes}")
    whole, rest = divmod(size, part_bytes)
    return (part_bytes,) * whole + ((rest,) if rest or not whole else ())


def _checksum_type(algorithm: Algorithm | None, asked: ChecksumType | None, *, in_parts: bool) -> ChecksumType:
    if not in_parts or algorithm is None:
        if asked == "COMPOSITE":
            raise ValueError("only an object in parts has a composite checksum")
        return "FULL_OBJECT"
    if algorithm == "crc64nvme":
        if asked == "COMPOSITE":
            raise ValueError("CRC-64/NVME is always of the full object")
        return "FULL_OBJECT"
    if asked == "FULL_OBJECT" and algorithm.startswith("sha"):
        raise ValueError(f"{algorithm} of an object in parts is always composite")
    return asked or "COMPOSITE"


def _etag(content: Content, part_sizes: tuple[int, ...] | None, *, opaque: bool) -> str:
    tag = _md5(content, part_sizes) if isinstance(content, Synthetic) else _md5.__wrapped__(content, part_sizes)
    if not opaque:
        return tag
    hidden = hashlib.md5(f"under a key {tag}".encode(), usedforsecurity=False).hexdigest()
    return hidden + tag[32:]


# Once per process for equal generated contents: demonstrations and benchmarks make the same gigabytes many times.
@lru_cache(maxsize=1024)
def _md5(content: Content, part_sizes: tuple[int, ...] | None) -> str:
    if part_sizes is None:
        return checksums.digest("md5", content.views()).hex()
    start, digests = 0, []
    for size in part_sizes:
        digests.append(checksums.digest("md5", content.views(start, start + size)))
        start += size
    return f"{checksums.digest('md5', [b''.join(digests)]).hex()}-{len(digests)}"


def _stated(content: Content, algorithm: Algorithm, spans: tuple[tuple[int, int], ...], composite: bool) -> str:
    return checksums.stated(algorithm, (content.views(*span) for span in spans), composite=composite)
