"""What is asked for. A Resource is frozen, valid by construction, and holds no target.

Its ``key`` is a digest of a length-prefixed canonical form *including scheme, host and port of the endpoint used*,
without secrets: the same repo name at two endpoints is two things.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fetcher.model.hf import HF
from fetcher.model.ollama import Ollama
from fetcher.model.s3 import S3

__all__ = ["HF", "RESOURCE_TYPES", "S3", "Ollama", "Resource", "describe", "stem_of"]

Resource = HF | S3 | Ollama
"""Everything that can be asked for and is mounted."""

RESOURCE_TYPES = (HF, S3, Ollama)


def stem_of(resource: Resource) -> str:
    """What the URIs of all that is open or closed together begin with, as a repository's revisions are; else empty."""
    return resource.stem if isinstance(resource, HF) else ""


def describe(resource: Resource) -> Mapping[str, Any]:
    """A Resource as JSON values, without secrets: what a Snapshot's sidecar says of it."""
    if isinstance(resource, HF):
        return {
            "type": "HF",
            "kind": resource.kind,
            "repo": resource.repo,
            "revision": resource.revision,
            "files": list(resource.files),
        }
    if isinstance(resource, S3):
        places = [{"url": location.uri(), "files": list(location.files)} for location in resource.locations]
        return {"type": "S3", "buckets": places, "bucket": resource.bucket}
    return {"type": "Ollama", "models": [str(model) for model in resource.models]}
