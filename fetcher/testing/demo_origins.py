"""The demonstration's little world: a hub, a bucket behind a CDN and a private one, a model registry, and a market.

All of it on loopback ports of this process. Says what the market requires, what the job needs, and what has to be at
the job's mounts then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fetcher.testing.contents import Content, ContentLike, Synthetic, as_content
from fetcher.testing.demo import DEMO_MODEL, DEMO_PRIVATE_MODEL, DEMO_TOKEN, MIB, add_demo_repos
from fetcher.testing.hub import Hub, hub_in_thread
from fetcher.testing.market import Market, market_in_thread
from fetcher.testing.registry import Registry, model_layers, registry_in_thread
from fetcher.testing.s3 import S3, s3_in_thread

MARKET = "97G9NnvBDQ2WpKu6fasoMsAKmfj63C9rhysJnkeWodAf"
"""The market that the network's documentation takes for its example."""
KEY_ID = "AKIADEMO"
SECRET_KEY = "demo-secret-only-good-for-the-embedded-s3"
IMAGE = "docker.io/acme/tiny-server:1.0"

HUB_TARGET, ADAPTER_TARGET = "/models/tiny-llama", "/models/house-adapter"
DIFFUSION_TARGET, NOTES_TARGET = "/models/stable-diffusion", "/workspace/notes"
OLLAMA_TARGET = "/root/.ollama/models"


class DemoOrigins:
    """All origins of the demonstration; ``running`` starts and ends them."""

    def __init__(self, model_bytes: int) -> None:
        self.hub = Hub(tokens={DEMO_TOKEN: "demo"})
        self.s3 = S3(keys={KEY_ID: SECRET_KEY})
        self.registry = Registry(dialect="ollama", redirect_blobs=True)
        self.market = Market()
        add_demo_repos(self.hub, model_bytes=model_bytes)
        third = max(MIB, model_bytes // 3)
        self._diffusion: dict[str, ContentLike] = {
            "dreamshaper/8/dreamshaper_8.safetensors": Synthetic(third, 300),
            "dreamshaper/8/config with spaces+plus.yaml": "model: nothing at all\n",
            "dreamshaper/8/": b"",
        }
        self._notes: dict[str, ContentLike] = {"today.md": "# Notes\n", "drafts/one.md": "A first thought.\n"}
        models = self.s3.add_bucket("models", public=True)
        for name, content in self._diffusion.items():
            part_bytes = 8 * MIB if name.endswith(".safetensors") else None
            models.put(f"stable-diffusion/{name}", content, part_bytes=part_bytes)
        notes = self.s3.add_bucket("house-notes", readers=[KEY_ID])
        for name, content in self._notes.items():
            notes.put(f"notes/{name}", content)
        self.site = self.s3.add_site("models")
        self.registry.add_model("library/tiny", "1b", layers=model_layers(third, seed=7))
        self.registry.add_model("library/tiny", "embed", layers=model_layers(2 * MIB, seed=8))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve until the block is left."""
        with hub_in_thread(self.hub), s3_in_thread(self.s3), registry_in_thread(self.registry):
            with market_in_thread(self.market):
                self.market.set(MARKET, self.market_list())
                yield

    @property
    def settings(self) -> dict[str, str]:
        """The environment that leads the program here."""
        return {
            "FETCHER_MARKET_URL": self.market.template,
            "HF_ENDPOINT": self.hub.endpoint,
            "FETCHER_OLLAMA_URL": self.registry.endpoint,
            "FETCHER_ALLOW_NET": "127.0.0.0/8",
        }

    @property
    def _diffusion_url(self) -> str:
        return f"{self.site.endpoint}/stable-diffusion"

    def market_list(self) -> dict[str, Any]:
        """What every node of the market must have: in the shapes that such lists come in."""
        return {
            "required_images": [IMAGE],
            "required_remote_resources": [
                {"type": "HF", "url": DEMO_MODEL},
                {"type": "S3", "url": f"{self._diffusion_url}/dreamshaper/8"},
                {"type": "Ollama", "model": "tiny:1b"},
            ],
        }

    def job(self) -> dict[str, Any]:
        """A Job Definition: what the market requires anyway, and what only this job's owner may have."""
        resources = [
            {"type": "HF", "repo": DEMO_MODEL, "target": HUB_TARGET},
            {"type": "HF", "repo": DEMO_PRIVATE_MODEL, "target": ADAPTER_TARGET, "accessToken": DEMO_TOKEN},
            {"type": "S3", "url": f"{self._diffusion_url}/dreamshaper/8", "target": DIFFUSION_TARGET},
            {
                "type": "S3",
                "url": f"{self.s3.endpoint}/house-notes/notes/",
                "bucket": "house-notes",
                "IAM": {"ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET_KEY, "REGION": "us-east-1"},
                "allowWrite": True,
                "target": NOTES_TARGET,
            },
            {"type": "Ollama", "model": "%%global.variables.MODEL%%"},
            {"type": "Ollama", "model": "tiny:embed"},
        ]
        op = {"type": "container/run", "id": "serve", "args": {"image": IMAGE, "resources": resources}}
        variables = {"MODEL": "tiny:1b"}
        return {"version": "0.1", "type": "container", "global": {"variables": variables}, "ops": [op]}

    def requests(self) -> int:
        """How many requests came to any origin so far."""
        return sum(len(origin.requests) for origin in (self.hub, self.s3, self.registry, self.market))

    def bytes_sent(self) -> int:
        """Bytes of file contents sent so far."""
        return sum(origin.body_bytes_sent() for origin in (self.hub, self.s3, self.registry))

    def expected(self) -> dict[str, Mapping[str, Content]]:
        """Target → path below it → what has to be there. Of the model store: see ``store_faults``."""
        expected: dict[str, Mapping[str, Content]] = {}
        for repo in self.hub.repos:
            target = {DEMO_MODEL: HUB_TARGET, DEMO_PRIVATE_MODEL: ADAPTER_TARGET}.get(repo.id)
            if target is not None:
                entries = repo.commits[repo.head].entries
                expected[target] = {path: entry.content for path, entry in entries.items()}
        prefix = "dreamshaper/8/"
        files = {name.removeprefix(prefix): content for name, content in self._diffusion.items() if name != prefix}
        expected[DIFFUSION_TARGET] = {name: as_content(content) for name, content in files.items()}
        expected[NOTES_TARGET] = {name: as_content(content) for name, content in self._notes.items()}
        expected[OLLAMA_TARGET] = self._store()
        return expected

    def _store(self) -> dict[str, Content]:
        """The model store as Ollama itself reads it: a manifest for each tag, and the blobs that these name."""
        store: dict[str, Content] = {}
        repository = self.registry.repository("library/tiny")
        for tag in ("1b", "embed"):
            manifest = repository.manifests[repository.tags[tag]]
            store[f"manifests/registry.ollama.ai/library/tiny/{tag}"] = as_content(manifest.body)
            document = json.loads(manifest.body)
            for layer in (document["config"], *document["layers"]):
                store[f"blobs/{layer['digest'].replace(':', '-')}"] = repository.blobs[layer["digest"]]
        return store


def differences(directory: Path, expected: Mapping[str, Content]) -> str | None:
    """What is wrong with a directory that should hold exactly ``expected``, byte for byte; None: nothing."""
    here = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    if here != set(expected):
        return f"{directory} holds {sorted(here ^ set(expected))[:3]} … where the origin differs"
    for name, content in expected.items():
        with (directory / name).open("rb") as file:
            equal = all(file.read(len(view)) == view for view in content.views()) and not file.read(1)
        if not equal:
            return f"{directory / name} is not what the origin holds"
    return None
