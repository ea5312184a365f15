"""Manifests and indexes of registries: bytes in, judged values out. Asks nobody.

What a document *is* follows from its own ``mediaType``; the header counts where the document says nothing, and where
the two name different kinds the document is refused (CVE-2021-41190: one file that two readers take for two things).
Ollama's registry declares every manifest as plain text, so a header that names no manifest counts for nothing.

Sources: OCI image-spec 1.1 (manifest, image-index, descriptor), Docker image manifest v2 schema 2.
"""

from __future__ import annotations

import platform as _platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fetcher.errors import ForbiddenError, NotFoundError, TransportError
from fetcher.model.digest import Digest
from fetcher.model.text import shown

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFESTS = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEXES = frozenset({DOCKER_LIST, OCI_INDEX})
ACCEPT = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)
"""Everything that is understood. Who asks for less is told "unknown" of what is there, or given another document."""

DOCUMENT_BYTES_MAX = 4 << 20
"""As much as the distribution project's registry takes; real ones have 1 to 10 KB."""
LAYERS_MAX = 20_000
"""A model with a layer per tensor has some thousands; more than this does not fit into 4 MiB anyway."""
CHILDREN_MAX = 1_000
PLATFORMS_SHOWN_MAX = 12
SIZE_MAX = 1 << 60
"""Keeps sums within 64 bits; what a file may really have is for its origin to say."""

_SCHEMA_1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(?:json|prettyjws)")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")
_IMAGE_LAYER = re.compile(
    r"application/vnd\.(?:docker\.image\.rootfs(?:\.foreign)?\.diff\.tar(?:\.gzip|\.zstd)?"
    r"|oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?)"
)
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"}
)
_ATTESTATION = "vnd.docker.reference.type"
"""Annotation of what build tools put beside the images of an index."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What a container image is made for, in the words of registries."""

    os: str
    architecture: str
    variant: str = ""
    """Empty where there is only one, or the usual one is meant."""

    @classmethod
    def here(cls) -> Platform:
        """Of this machine, for containers: always Linux."""
        machine = _platform.machine().lower()
        names = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "armv6l": "arm/v6", "i686": "386"}
        architecture, _, variant = names.get(machine, machine).partition("/")
        return cls("linux", architecture, variant)

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What one document says of another, or of a blob."""

    media_type: str
    digest: Digest
    """sha256 or sha512."""
    size: int
    platform: Platform | None = None
    """Of a child of an index, where it says so."""
    attestation: bool = False
    """A child that is no image but a statement about one."""


@dataclass(frozen=True, slots=True)
class LayeredManifest:
    """A manifest: a config and layers. Whether that is a container image or a model, the types of the layers say."""

    media_type: str
    config: Descriptor | None
    """None: Ollama's manifests may have none."""
    layers: tuple[Descriptor, ...]
    """In order; a digest may come twice."""


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests for several platforms under one name."""

    media_type: str
    children: tuple[Descriptor, ...]


Document = LayeredManifest | Index


class _PlatformRow(msgspec.Struct, frozen=True, gc=False):
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None


class _Row(msgspec.Struct, frozen=True, gc=False):
    mediaType: str | None = None
    digest: str | None = None
    size: int | None = None
    platform: _PlatformRow | None = None
    annotations: dict[str, str] | None = None


class _Written(msgspec.Struct, frozen=True, gc=False):
    schemaVersion: int | None = None
    mediaType: str | None = None
    config: _Row | None = None
    layers: list[_Row] | None = None
    manifests: list[_Row] | None = None


_DECODER = msgspec.json.Decoder(_Written)


def is_digest(reference: str) -> bool:
    """Whether a reference is a digest of an algorithm that counts; everything else is a tag."""
    return _DIGEST.fullmatch(reference) is not None


def check_is_document(content: bytes, where: str) -> None:
    """Raise TransportError for what is no JSON at all: a captive portal's page, half a document."""
    try:
        _DECODER.decode(content)
    except msgspec.ValidationError:
        return  # JSON of another shape: the same next time, and for parse_document to refuse
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise TransportError(f"{where}: the answer is not the JSON that was expected") from None


def parse_document(content: bytes, content_type: str, what: str) -> Document:
    """What ``content`` says. ``content_type``: of the header; ``what``: for messages, as a person writes it.

    Raises ForbiddenError for what is no manifest of a kind we understand, or is beyond bounds.
    """
    try:
        written = _DECODER.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ForbiddenError(f"the manifest of {what} does not have the shape of a manifest") from None
    media_type = _media_type(written, content_type.partition(";")[0].strip().lower(), what)
    if media_type in INDEXES:
        if written.layers or written.manifests is None:
            raise ForbiddenError(f"the manifest of {what} calls itself an index and is none")
        return Index(media_type, _rows(written.manifests, CHILDREN_MAX, "manifests", what))
    if written.manifests is not None:
        raise ForbiddenError(f"the manifest of {what} has layers and manifests; only one of them can be meant")
    config = written.config
    return LayeredManifest(
        media_type,
        None if config is None or not config.digest else _descriptor(config, what),
        _rows(written.layers or (), LAYERS_MAX, "layers", what),
    )


def _media_type(written: _Written, header: str, what: str) -> str:
    stated = written.mediaType or ""
    if written.schemaVersion == 1 or _SCHEMA_1.fullmatch(stated or header):
        raise ForbiddenError(
            f"{what} has a manifest of schema 1, which no engine takes any more",
            hint="it has to be pushed again with a current tool; pulling and pushing it once with an old one will do",
        )
    if written.schemaVersion != 2:
        raise ForbiddenError(f"{what} has a manifest of schema {written.schemaVersion}; 2 is the one in use")
    known = MANIFESTS | INDEXES
    media_type = stated or header
    if media_type not in known:
        named = f"of the unknown type {shown(media_type)}" if media_type else "that does not say its type"
        raise ForbiddenError(f"{what} has a manifest {named}", hint="it is neither a container image nor a model")
    if header in known and (header in INDEXES) != (media_type in INDEXES):
        raise ForbiddenError(f"the manifest of {what} is declared as {header} and calls itself {media_type}")
    return media_type


def _rows(rows: Sequence[_Row], count_max: int, word: str, what: str) -> tuple[Descriptor, ...]:
    if len(rows) > count_max:
        raise ForbiddenError(f"the manifest of {what} lists {len(rows)} {word}, beyond the bound of {count_max}")
    return tuple(_descriptor(row, what) for row in rows)


def _descriptor(row: _Row, what: str) -> Descriptor:
    digest, size = row.digest or "", row.size
    if not is_digest(digest):
        raise ForbiddenError(f"the manifest of {what} names content by {shown(digest)!r}, which is no sha256 or sha512")
    if size is None or not 0 <= size <= SIZE_MAX:
        raise ForbiddenError(f"the manifest of {what} states an impossible size for {digest}: {size}")
    named = row.platform
    platform = Platform(named.os or "", named.architecture or "", named.variant or "") if named else None
    annotations: Mapping[str, str] = row.annotations or {}
    return Descriptor(row.mediaType or "", Digest.parse(digest), size, platform, _ATTESTATION in annotations)


# --- platforms


def choose_platform(index: Index, wanted: Platform, what: str) -> Descriptor:
    """The child of ``index`` that runs on ``wanted``: the best variant it has, of equals the first.

    Raises NotFoundError that lists what there is.
    """
    best: tuple[int, Descriptor] | None = None
    for child in index.children:
        if child.platform is None or child.attestation or child.media_type not in MANIFESTS | INDEXES:
            continue
        rank = _rank(child.platform, wanted)
        if rank is not None and (best is None or rank > best[0]):
            best = rank, child
    if best is not None:
        return best[1]
    usual = [child for child in index.children if not child.attestation and child.platform is not None]
    there = list(dict.fromkeys(shown(str(child.platform)) for child in usual if child.platform.os != "unknown"))  # type: ignore[union-attr]
    more = f" and {len(there) - PLATFORMS_SHOWN_MAX} more" if len(there) > PLATFORMS_SHOWN_MAX else ""
    raise NotFoundError(
        f"{what} has no image for {wanted}",
        hint=f"it has {', '.join(there[:PLATFORMS_SHOWN_MAX])}{more}" if there else "it has none for any platform",
    )


_USUAL_VARIANT = {"arm64": 8, "amd64": 1, "arm": 7}
"""What an architecture without a variant means (containerd's normal form)."""


def _rank(platform: Platform, wanted: Platform) -> int | None:
    """How well an image for ``platform`` runs on ``wanted``; None: not at all."""
    if (platform.os, platform.architecture) != (wanted.os, wanted.architecture):
        return None
    if platform.architecture not in _USUAL_VARIANT:
        return 0 if platform.variant in ("", wanted.variant) else None
    level, highest = _level(platform), _level(wanted)
    # Variants only add instructions: an older one always runs, a newer one may not.
    return level if level is not None and highest is not None and level <= highest else None


def _level(platform: Platform) -> int | None:
    if not platform.variant:
        return _USUAL_VARIANT[platform.architecture]
    match = re.fullmatch(r"v([0-9])(?:\.[0-9])?", platform.variant)
    return int(match[1]) if match else None


def image_bytes(manifest: LayeredManifest, what: str) -> int:
    """What has to be fetched for a container image: its config and its layers, each content once.

    Raises ForbiddenError for what is none.
    """
    config = manifest.config
    if config is None or config.media_type not in _IMAGE_CONFIGS:
        raise ForbiddenError(f"{what} is no container image but something else kept in a registry")
    for layer in manifest.layers:
        if not _IMAGE_LAYER.fullmatch(layer.media_type):
            model = layer.media_type.startswith("application/vnd.ollama.")
            raise ForbiddenError(
                f"{what} is no container image: it has a layer of type {shown(layer.media_type or 'unknown')}",
                hint="it is an Ollama model; name it as ollama://…" if model else None,
            )
    sizes = {part.digest: part.size for part in (config, *manifest.layers)}
    return sum(sizes.values())
