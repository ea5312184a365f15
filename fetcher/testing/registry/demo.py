"""Models and images with realistic names and sizes, for the demonstration and for people's own experiments.

Everything is generated: the same names, bytes and digests on every machine.
"""

from __future__ import annotations

from fetcher.testing.registry.images import Layer, model_layers
from fetcher.testing.registry.server import Registry

MIB = 1 << 20

DEMO_MODEL = "library/tiny-llama"
DEMO_IMAGE = "acme/tiny-server"
DEMO_PRIVATE_MODEL = "acme/house-model"
DEMO_USER = "demo"
DEMO_PASSWORD = "only-good-for-the-embedded-registry"
"""Open the private model of a registry made with ``users={DEMO_USER: DEMO_PASSWORD}``; without users there is none."""


def add_demo_repositories(registry: Registry, *, model_bytes: int = 120 * MIB) -> None:
    """Add a model with two tags, an image for two platforms, and a private model where the registry has users.

    ``model_bytes`` is the size of the model's weights; everything else together is below 10 MiB.
    """
    registry.add_model(DEMO_MODEL, "1b", layers=model_layers(model_bytes))
    registry.repository(DEMO_MODEL).tag("latest", "1b")
    page = Layer.of_files({"srv/index.html": "<!doctype html><title>embedded</title>\n"})
    registry.add_image(
        DEMO_IMAGE, "1.0", layers=[page], platforms=("linux/amd64", "linux/arm64"), style="oci", attestation=True
    )
    if registry.auth != "open":
        registry.add_model(DEMO_PRIVATE_MODEL, layers=model_layers(3 * MIB, seed=1), private=True)
