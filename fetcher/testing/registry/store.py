"""Repositories of the embedded registry: blobs, manifests and tags, by digest.

A value store: it knows what a reference points to. It knows nothing of HTTP or of who may see it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fetcher.testing.contents import Content
from fetcher.testing.registry import media

_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*)*")
"""Upper case too: image registries have none, but models of the Hugging Face Hub do, which are pulled the same way."""


def digest_of(data: bytes) -> str:
    """Return the sha256 of ``data`` as ``sha256:hex``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest(reference: str) -> bool:
    """Whether a reference has the form of a digest of an algorithm that registries know."""
    algorithm, _, digits = reference.partition(":")
    return re.fullmatch(r"[0-9a-f]+", digits) is not None and len(digits) == _DIGITS.get(algorithm, -1)


@dataclass(frozen=True)
class Manifest:
    """A manifest or an index as it is stored: its exact bytes are its identity."""

    body: bytes
    media_type: str

    @cached_property
    def digest(self) -> str:
        """``sha256:hex`` of the body."""
        return digest_of(self.body)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The body as JSON. Raises ``ValueError`` where it is none."""
        document: dict[str, Any] = json.loads(self.body)
        return document

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """Return what an index says of this manifest."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body), **more}

    @classmethod
    def make(cls, document: Mapping[str, Any], media_type: str) -> Manifest:
        """Return the manifest with this document, written as compactly as registries' clients write it."""
        return cls(json.dumps(document, separators=(",", ":")).encode(), media_type)


@dataclass
class Repository:
    """One repository. Made by ``Registry``; may be changed while the registry runs."""

    name: str
    private: bool = False
    blobs: dict[str, Content] = field(default_factory=dict)
    """Digest → content. A blob of another repository is unknown here."""
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    """Tag → digest of a manifest."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"no registry has such a name: {self.name!r}")

    def put_blob(self, content: Content) -> str:
        """Keep a blob; return its digest."""
        digest = f"sha256:{content.sha256}"
        self.blobs[digest] = content
        return digest

    def put_manifest(self, manifest: Manifest, tag: str | None = None) -> Manifest:
        """Keep a manifest, whatever is in it, and let ``tag`` point to it."""
        self.manifests[manifest.digest] = manifest
        if tag is not None:
            self.tag(tag, manifest.digest)
        return manifest

    def tag(self, tag: str, reference: str) -> None:
        """Let ``tag`` point to the manifest of a digest or another tag. Raises ``KeyError`` when there is none."""
        if not _TAG.fullmatch(tag):
            raise ValueError(f"no registry has such a tag: {tag!r}")
        self.tags[tag] = self[reference].digest

    def delete(self, reference: str) -> None:
        """Forget a tag; or a manifest or blob by digest, with the tags that point to it."""
        if not is_digest(reference):
            del self.tags[reference]
        elif reference in self.manifests:
            del self.manifests[reference]
            self.tags = {tag: digest for tag, digest in self.tags.items() if digest != reference}
        else:
            del self.blobs[reference]

    def find(self, reference: str) -> Manifest | None:
        """Return the manifest that a tag or digest stands for."""
        return self.manifests.get(self.tags.get(reference, reference))

    def __getitem__(self, reference: str) -> Manifest:
        manifest = self.find(reference)
        if manifest is None:
            raise KeyError(f"{self.name} has no manifest {reference!r}")
        return manifest

    def child(self, index: Manifest, architecture: str = "amd64") -> Manifest | None:
        """Return the manifest of an index that is for Linux on ``architecture``."""
        if index.media_type not in media.INDEXES:
            return None
        for row in index.document["manifests"]:
            platform = row.get("platform", {})
            if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
                return self.manifests.get(row["digest"])
        return None
