"""The directory that Ollama itself reads, as the files of a Manifest. Values in, values out; asks nobody.

::

    manifests/<host>/<namespace>/<name>/<tag>     the bytes of the model's manifest, exactly
    blobs/sha256-<64 hex digits>                  config and layers, each content once for all models

The host is the one of the model's *name*: a store filled from a mirror of the Ollama registry still says
``registry.ollama.ai``, or Ollama would not find the model. A port stays in it (``127.0.0.1:5000``).

Sources: ollama 0.21, manifest/paths.go and manifest/manifest.go (every file four folders down is a model),
types/model/name.go (names), server/images.go (what a pull writes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fetcher.config import Settings
from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry
from fetcher.model.ollama import REGISTRY_DEFAULT, OllamaModel
from fetcher.model.paths import check_tree, safe_path
from fetcher.model.text import shown
from fetcher.net.registry import RegistryManifest, blob_url, manifest_url
from fetcher.net.registry_documents import Descriptor, LayeredManifest

LAYER_PREFIX = "application/vnd.ollama.image."
"""model, template, system, params, license, projector, adapter, messages, tensor, json …: new kinds come, and a store
is right with all of them."""
_CONFIG = re.compile(r"application/vnd\.(?:docker\.container\.image\.v1|oci\.image\.config\.v1)\+json|")
"""Ollama's configs call themselves those of a container image; newer ones have been seen without a type."""
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model and the manifest that its name stands for at the moment."""

    model: OllamaModel
    registry: str
    """``scheme://host[:port]`` it was asked for at."""
    manifest: RegistryManifest

    @property
    def digest(self) -> str:
        """``sha256:…`` of the manifest."""
        return self.manifest.digest


def what(model: OllamaModel) -> str:
    """A model as a person writes it."""
    return f"ollama://{model}"


def manifest_path(model: OllamaModel) -> str:
    """Where a store keeps the manifest of ``model``."""
    host = model.host or REGISTRY_DEFAULT
    return safe_path(f"manifests/{host}/{model.namespace}/{model.name}/{model.tag}")


def blob_path(digest: Digest) -> str:
    """Where a store keeps content."""
    return f"blobs/{digest.algorithm}-{digest.hex}"


def revision_of(pins: Sequence[tuple[OllamaModel, str]]) -> str:
    """What a store is pinned to: of one model its manifest's digest, of several a digest over all of them."""
    if len(pins) == 1:
        return pins[0][1]
    rows = "".join(f"{model} {digest}\n" for model, digest in pins)
    return f"sha256:{hashlib.sha256(rows.encode()).hexdigest()}"


def store_files(pulled: Sequence[PulledModel], settings: Settings) -> tuple[FileEntry, ...]:
    """The files of one store with all ``pulled`` models, ordered by path.

    Raises ForbiddenError for what is no model, for names that collide and for sizes and counts beyond bounds;
    TransportError where two manifests contradict each other.
    """
    files: dict[str, FileEntry] = {}
    for one in pulled:
        path = manifest_path(one.model)
        digest = Digest.parse(one.digest)
        url = manifest_url(one.registry, one.model.repository, one.digest)
        files[path] = FileEntry(path, len(one.manifest.content), digest, inline=True, url=url)
        for part in _parts(one):
            entry = _blob(one, part, settings.file_bytes_max)
            known = files.setdefault(entry.path, entry)
            if known.size != entry.size:
                raise TransportError(
                    f"{what(one.model)} states a size of {entry.size} for {part.digest}, "
                    f"which was said to have {known.size} bytes"
                )
        if len(files) > settings.manifest_files_max:
            raise ForbiddenError(
                f"{what(one.model)} has more than {settings.manifest_files_max} files",
                hint="manifest_files_max sets the bound",
            )
    check_tree(files)
    return tuple(files[path] for path in sorted(files))


def _parts(one: PulledModel) -> tuple[Descriptor, ...]:
    """Config and layers of a model. Raises ForbiddenError for what is none."""
    document, name = one.manifest.document, what(one.model)
    if not isinstance(document, LayeredManifest):
        raise ForbiddenError(
            f"{name} is a container image for several platforms, not an Ollama model",
            hint="images go to the container engine; list it with the images of the market or the job",
        )
    for layer in document.layers:
        if not layer.media_type.startswith(LAYER_PREFIX):
            image = ".image.rootfs." in layer.media_type or ".oci.image.layer." in layer.media_type
            thing = "a container image" if image else f"something with a layer of type {shown(layer.media_type)!r}"
            raise ForbiddenError(
                f"{name} is {thing}, not an Ollama model",
                hint="images go to the container engine; list it with the images of the market or the job"
                if image
                else None,
            )
    if document.config is None:
        if not document.layers:
            raise ForbiddenError(f"{name} is empty: its manifest names neither layers nor a config")
        return document.layers
    kind = document.config.media_type
    if not kind.startswith(LAYER_PREFIX) and not _CONFIG.fullmatch(kind):
        raise ForbiddenError(f"{name} is something with a config of type {shown(kind)!r}, not an Ollama model")
    return (document.config, *document.layers)


def _blob(one: PulledModel, part: Descriptor, bytes_max: int) -> FileEntry:
    digest, size = part.digest, part.size
    if digest.algorithm != "sha256":
        raise ForbiddenError(f"{what(one.model)} names content by {digest}; Ollama's store has room for sha256 only")
    if size > bytes_max:
        raise ForbiddenError(
            f"{what(one.model)} has a layer of {size} bytes, beyond the bound of {bytes_max}",
            hint="file_bytes_max sets the bound",
        )
    if (size == 0) != (digest.hex == _EMPTY):
        raise TransportError(f"{what(one.model)} states a size of {size} for {digest}, which can't be")
    return FileEntry(blob_path(digest), size, digest, url=blob_url(one.registry, one.model.repository, str(digest)))
