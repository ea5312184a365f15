"""Media types of registries, and what a client's Accept header takes of them. Names only."""

from __future__ import annotations

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

INDEXES = frozenset({DOCKER_LIST, OCI_INDEX})
"""Documents that name manifests instead of layers."""


def ollama_layer(kind: str) -> str:
    """Return the media type of an Ollama layer (``model``, ``template``, …); a full media type stays as it is."""
    return kind if "/" in kind else f"application/vnd.ollama.image.{kind}"


def accepted(header: str | None) -> frozenset[str]:
    """Return the media types that an Accept header names.

    Weights are dropped and wildcards name nothing: so Debian's registry reads it, and a client that asks for ``*/*``
    is refused there.
    """
    return frozenset(item.partition(";")[0].strip().lower() for item in (header or "").split(",")) - {""}
