"""Building what a registry holds: Ollama models and container images, with manifests as their own tools write them.

Puts blobs and manifests into a ``Repository``; layers of images are real archives that an engine can unpack and run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fetcher.testing.contents import BytesContent, Content, ContentLike, Synthetic, as_content
from fetcher.testing.registry import media
from fetcher.testing.registry.store import Manifest, Repository

Style = Literal["docker", "oci"]

MODEL_BYTES = (5 << 20) + 17
"""Weights of a model that says nothing of its size: more than one block, and not a whole number of them."""

_BUILT = "2024-01-02T03:04:05Z"
_BUILT_UNIX_S = 1704164645


@dataclass(frozen=True)
class Layer:
    """One layer of an image, as it is stored."""

    content: Content
    """The blob: an archive, compressed or not, as ``media_type`` says."""
    diff_id: str
    """Digest of the archive before it was compressed."""
    media_type: str | None = None
    """None: gzip, in the style of the manifest it gets into."""

    @classmethod
    def of_files(cls, files: Mapping[str, ContentLike], *, mode: int = 0o644) -> Layer:
        """Return a layer that holds ``files``, all with the same ``mode``, owned by root. The same bytes every time."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            directories: set[str] = set()
            for path, value in files.items():
                parts = path.split("/")[:-1]
                for depth in range(1, len(parts) + 1):
                    directory = "/".join(parts[:depth])
                    if directory not in directories:
                        directories.add(directory)
                        entry = tarfile.TarInfo(directory)
                        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, _BUILT_UNIX_S
                        tar.addfile(entry)
                data = as_content(value).read()
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.mtime = len(data), mode, _BUILT_UNIX_S
                tar.addfile(entry, io.BytesIO(data))
        plain = archive.getvalue()
        packed = BytesContent(gzip.compress(plain, compresslevel=1, mtime=0))
        return cls(packed, f"sha256:{hashlib.sha256(plain).hexdigest()}")


LayerLike = Layer | Mapping[str, ContentLike]
"""A layer, or the files for ``Layer.of_files``."""


def put_model(
    repository: Repository,
    tag: str,
    layers: Mapping[str, ContentLike] | Sequence[tuple[str, ContentLike]] | None,
    config: Mapping[str, Any],
) -> Manifest:
    """Put an Ollama model into ``repository``; see ``Registry.add_model``."""
    if layers is None:
        layers = model_layers()
    pairs = list(layers.items() if isinstance(layers, Mapping) else layers)
    rows = [_blob(repository, media.ollama_layer(kind), as_content(value)) for kind, value in pairs]
    words: dict[str, Any] = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "1B",
        "file_type": "Q4_0",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [row["digest"] for row in rows]},
    }
    head = _blob(repository, media.DOCKER_CONFIG, BytesContent(_json(words | dict(config))))
    document = {"schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST, "config": head, "layers": rows}
    return repository.put_manifest(Manifest.make(document, media.DOCKER_MANIFEST), tag)


def model_layers(model_bytes: int = MODEL_BYTES, seed: int = 0) -> dict[str, ContentLike]:
    """Return the layers of a small language model: weights of noise, and the texts that come with them."""
    return {
        "model": Synthetic(model_bytes, seed),
        "license": "Public domain. These weights are noise.\n",
        "template": "{{ if .System }}<|system|>{{ .System }}{{ end }}<|user|>{{ .Prompt }}<|assistant|>",
        "params": '{"num_ctx":4096,"stop":["<|user|>","<|assistant|>"]}',
    }


def put_image(
    repository: Repository,
    tag: str,
    layers: Sequence[LayerLike],
    platforms: Sequence[str],
    style: Style,
    *,
    index: bool,
    attestation: bool,
    config: Mapping[str, Any],
) -> Manifest:
    """Put an image into ``repository``; see ``Registry.add_image``."""
    common = [layer if isinstance(layer, Layer) else Layer.of_files(layer) for layer in layers]
    rows = []
    for platform in platforms:
        # A layer of its own for each platform: who unpacks the wrong one is seen to have done so.
        own = Layer.of_files({"etc/platform": f"{platform}\n"})
        manifest = _put_single(repository, [*common, own], platform, style, config)
        if not index:
            repository.tag(tag, manifest.digest)
            return manifest
        rows.append(manifest.descriptor(platform=_platform(platform)))
    if attestation:
        rows.append(_put_attestation(repository, rows[0]["digest"]))
    kind = media.DOCKER_LIST if style == "docker" else media.OCI_INDEX
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": rows}
    return repository.put_manifest(Manifest.make(document, kind), tag)


def _put_single(
    repository: Repository, layers: Sequence[Layer], platform: str, style: Style, config: Mapping[str, Any]
) -> Manifest:
    docker = style == "docker"
    layer_type = media.DOCKER_LAYER if docker else media.OCI_LAYER
    rows = [_blob(repository, layer.media_type or layer_type, layer.content) for layer in layers]
    words: dict[str, Any] = {
        **_platform(platform),
        "created": _BUILT,
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], **config},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": _BUILT, "created_by": "ADD files / #"} for _ in layers],
    }
    head = _blob(repository, media.DOCKER_CONFIG if docker else media.OCI_CONFIG, BytesContent(_json(words)))
    kind = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
    document = {"schemaVersion": 2, "mediaType": kind, "config": head, "layers": rows}
    return repository.put_manifest(Manifest.make(document, kind))


def _put_attestation(repository: Repository, subject: str) -> dict[str, Any]:
    """Put what build tools add to an index: a manifest for no platform at all, that must not be taken for an image."""
    statement = BytesContent(_json({"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": subject}]}))
    row = _blob(repository, "application/vnd.in-toto+json", statement)
    words = {"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
    head = _blob(repository, media.OCI_CONFIG, BytesContent(_json(words)))
    document = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": head, "layers": [row]}
    manifest = repository.put_manifest(Manifest.make(document, media.OCI_MANIFEST))
    annotations = {"vnd.docker.reference.digest": subject, "vnd.docker.reference.type": "attestation-manifest"}
    return manifest.descriptor(annotations=annotations, platform={"architecture": "unknown", "os": "unknown"})


def schema_1(document: Mapping[str, Any], name: str, tag: str) -> dict[str, Any]:
    """Return what a manifest is in Docker's first schema, which nobody takes any more: layers without sizes."""
    rows = document.get("layers", document.get("manifests", []))
    return {
        "schemaVersion": 1,
        "name": name,
        "tag": tag,
        "architecture": "amd64",
        "fsLayers": [{"blobSum": row["digest"]} for row in reversed(rows)],
        "history": [{"v1Compatibility": '{"id":"0"}'} for _ in rows],
        "signatures": [],
    }


def _platform(text: str) -> dict[str, str]:
    """``linux/arm64/v8`` → what config and index say of it."""
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    if not system or not architecture:
        raise ValueError(f"a platform is os/architecture or os/architecture/variant, not {text!r}")
    return {"architecture": architecture, "os": system} | ({"variant": variant} if variant else {})


def _blob(repository: Repository, media_type: str, content: Content) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": repository.put_blob(content), "size": content.size}


def _json(words: Mapping[str, Any]) -> bytes:
    return json.dumps(words, separators=(",", ":")).encode()
