"""An embedded registry for Ollama models and container images: ``Registry`` and ``registry_in_thread``.

The read side, as strict as real ones: exact bytes under their digests, Accept honoured, tokens that expire, signed URLs
that refuse credentials, rate limits.
"""

from fetcher.testing.registry.access import PullLimit, User
from fetcher.testing.registry.hostility import (
    HOSTILE_MANIFESTS,
    Challenge,
    HostileManifest,
    ManifestType,
    OtherManifestBytes,
    ResizedBlob,
    TooManyRequests,
    WrongDigestHeader,
)
from fetcher.testing.registry.images import Layer, model_layers
from fetcher.testing.registry.server import Registry, registry_in_thread
from fetcher.testing.registry.store import Manifest, Repository

__all__ = [
    "HOSTILE_MANIFESTS",
    "Challenge",
    "HostileManifest",
    "Layer",
    "Manifest",
    "ManifestType",
    "OtherManifestBytes",
    "PullLimit",
    "Registry",
    "Repository",
    "ResizedBlob",
    "TooManyRequests",
    "User",
    "WrongDigestHeader",
    "model_layers",
    "registry_in_thread",
]
