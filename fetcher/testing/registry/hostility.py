"""Faults of registries: manifests that lie, blobs of another length, challenges that lead astray, and rate limits.

General faults (cuts, stalls, wrong ranges, statuses) are in ``testing.faults``; they act on ``blob``, ``cdn``,
``manifest`` and the other routes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fetcher.testing import bodies
from fetcher.testing.contents import BytesContent, Content
from fetcher.testing.faultplan import Exchange, Fault
from fetcher.testing.messages import Reply
from fetcher.testing.registry import access, images, media
from fetcher.testing.registry.store import digest_of

MANIFEST_BYTES_LARGE = 8 << 20
"""Of the manifest ``large``: twice what registries take, and honest in everything else."""


@dataclass(frozen=True)
class WrongDigestHeader(Fault):
    """Name another digest in the headers than that of the bytes sent; or none at all with ``missing``."""

    places: ClassVar[tuple[str, ...]] = ("manifest",)
    late: ClassVar[bool] = True
    missing: bool = False

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status == 200 and "Docker-Content-Digest" in reply.headers

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        if self.missing:
            del reply.headers["Docker-Content-Digest"]
        else:
            reply.headers["Docker-Content-Digest"] = digest_of(b"another manifest")


@dataclass(frozen=True)
class OtherManifestBytes(Fault):
    """Send bytes that are still the same JSON but not those whose digest was asked for and is named in the headers."""

    places: ClassVar[tuple[str, ...]] = ("manifest",)
    late: ClassVar[bool] = True

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status == 200 and reply.content is not None

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert reply.content is not None
        reply.content = BytesContent(reply.content.read() + b"\n")


@dataclass(frozen=True)
class HostileManifest(Fault):
    """Send one of ``HOSTILE_MANIFESTS`` instead, under its own digest: asked by tag, only a reader notices."""

    places: ClassVar[tuple[str, ...]] = ("manifest",)
    late: ClassVar[bool] = True
    kind: str = "html"

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status == 200 and reply.content is not None

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        assert reply.content is not None
        made = HOSTILE_MANIFESTS[self.kind](json.loads(reply.content.read()))
        body = made if isinstance(made, bytes) else json.dumps(made, separators=(",", ":")).encode()
        reply.content = BytesContent(body)
        if "Docker-Content-Digest" in reply.headers:
            reply.headers["Docker-Content-Digest"] = digest_of(body)
            reply.headers["ETag"] = f'"{digest_of(body)}"'
        if self.kind == "schema-1" and reply.headers["Content-Type"].startswith("application/vnd."):
            reply.headers["Content-Type"] = media.DOCKER_SCHEMA_1


@dataclass(frozen=True)
class ManifestType(Fault):
    """Give the manifest another Content-Type."""

    places: ClassVar[tuple[str, ...]] = ("manifest",)
    late: ClassVar[bool] = True
    media_type: str = "application/json"

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status == 200

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.headers["Content-Type"] = self.media_type


@dataclass(frozen=True)
class ResizedBlob(Fault):
    """Serve a blob that is ``by`` bytes longer (or, below zero, shorter) than its descriptor says, consistently so."""

    late: ClassVar[bool] = True
    by: int = 1

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        content = reply.content
        return reply.status in (200, 206, 416) and (content is None or content.size + self.by >= 0)

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        if reply.content is None:  # 416: the range begins at the end that the descriptor names
            return
        etag = reply.headers["ETag"].strip('"')
        kept = {name: value for name, value in reply.headers.items() if name not in ("Content-Range", "ETag")}
        fresh = bodies.answer(exchange.request, _Resized(reply.content, self.by), etag, kept)
        reply.status, reply.headers, reply.content = fresh.status, fresh.headers, fresh.content
        reply.start, reply.stop = fresh.start, fresh.stop


@dataclass(frozen=True)
class Challenge(Fault):
    """Answer 401 with this ``WWW-Authenticate``: another realm or scheme, or nonsense. ``{self}`` is the registry."""

    places: ClassVar[tuple[str, ...]] = ("registry",)
    header: str = 'Bearer realm="http://169.254.169.254/token",service="metadata",scope="repository:x:pull"'

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        return access.unauthorized(self.header.replace("{self}", exchange.origin.endpoint), exchange.record.repo)


@dataclass(frozen=True)
class TooManyRequests(Fault):
    """Answer 429 as a registry whose limit is reached; a front end's bare 429 is ``Status(429)``."""

    places: ClassVar[tuple[str, ...]] = ("registry",)
    retry_after: int | None = None
    """Seconds for the Retry-After header."""
    limit: int = 100
    """What ``ratelimit-limit`` announces; ``ratelimit-remaining`` is 0."""

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        reply = access.too_many(self.retry_after)
        reply.headers |= {"RateLimit-Limit": f"{self.limit};w=21600", "RateLimit-Remaining": "0;w=21600"}
        return reply


class _Resized(Content):
    """The start of another content, or all of it and zeros."""

    def __init__(self, content: Content, by: int) -> None:
        self._content = content
        self.size = content.size + by

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        stop = self.size if stop is None else stop
        inner_stop = min(stop, self._content.size)
        if start < inner_stop:
            yield from self._content.views(start, inner_stop)
        if stop > max(start, self._content.size):
            yield bytes(stop - max(start, self._content.size))


_Document = dict[str, Any]


def _rows(document: _Document) -> tuple[str, list[Any]]:
    """The descriptors of a manifest's layers, or of an index's manifests, and under which name they stand."""
    key = "layers" if "layers" in document else "manifests"
    return key, document[key]


def _with_layer(**changes: Any) -> Callable[[_Document], _Document]:
    """Change fields of the first descriptor; ``...`` takes a field away."""

    def change(document: _Document) -> _Document:
        key, (first, *others) = _rows(document)
        return {**document, key: [_with(**changes)(first), *others]}

    return change


def _with(**changes: Any) -> Callable[[_Document], _Document]:
    """Change fields; ``...`` takes one away."""

    def change(document: _Document) -> _Document:
        merged = {**document, **changes}
        return {name: merged[name] for name in merged if merged[name] is not ...}

    return change


def _with_size(by: int) -> Callable[[_Document], _Document]:
    return lambda document: _with_layer(size=_rows(document)[1][0]["size"] + by)(document)


def _large(document: _Document) -> _Document:
    return {**document, "annotations": {"padding": "p" * MANIFEST_BYTES_LARGE}}


def _many_layers(document: _Document) -> _Document:
    key, rows = _rows(document)
    return {**document, key: rows[:1] * 20_000}


HOSTILE_MANIFESTS: Mapping[str, Callable[[_Document], _Document | list[Any] | bytes]] = {
    "html": lambda document: b"<!doctype html><title>Please sign in to this network</title>",
    "empty": lambda document: b"",
    "truncated": lambda document: json.dumps(document).encode()[:-20],
    "array": lambda document: [document],
    "deep": lambda document: b"[" * 100_000,
    "not-utf-8": lambda document: b'{"schemaVersion":2,"layers":"\xff\xfe"}',
    "schema-1": lambda document: images.schema_1(document, "library/old", "latest"),
    "schema-3": _with(schemaVersion=3),
    "no-layers": _with(layers=...),
    "layers-null": _with(layers=None),
    "layers-empty": _with(layers=[]),
    "layers-object": _with(layers={"0": {}}),
    "layer-null": _with(layers=[None]),
    "layer-text": _with(layers=["sha256:" + "0" * 64]),
    "no-config": _with(config=...),
    "config-null": _with(config=None),
    "many-layers": _many_layers,
    "large": _large,
    "size-understated": _with_size(-1),
    "size-overstated": _with_size(1),
    "size-negative": _with_layer(size=-1),
    "size-petabyte": _with_layer(size=10**15),
    "size-beyond-64-bit": _with_layer(size=10**30),
    "size-text": _with_layer(size="12"),
    "size-float": _with_layer(size=1e308),
    "size-missing": _with_layer(size=...),
    "digest-missing": _with_layer(digest=...),
    "digest-null": _with_layer(digest=None),
    "digest-empty": _with_layer(digest=""),
    "digest-bare": _with_layer(digest="0" * 64),
    "digest-short": _with_layer(digest="sha256:abc"),
    "digest-upper-case": _with_layer(digest="sha256:" + "AB" * 32),
    "digest-of-nothing": _with_layer(digest="sha256:" + "0" * 64),
    "digest-md5": _with_layer(digest="md5:" + "0" * 32),
    "digest-sha512": _with_layer(digest="sha512:" + "0" * 128),
    "digest-path": _with_layer(digest="sha256:../../../../etc/passwd"),
    "digest-newline": _with_layer(digest="sha256:" + "0" * 63 + "\n"),
    "type-unknown": _with_layer(mediaType="application/vnd.example.something.v9+cbor"),
    "type-missing": _with_layer(mediaType=...),
    "type-number": _with_layer(mediaType=7),
}
"""What may stand in the place of a manifest, by a short name: from its document to another, or to bytes."""
