"""The same files at three kinds of origin, so that one list of faults can be run against all of them.

A World says where its questions and its bodies are, what a file is called in its log, and what has to come of a fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fetcher import Fetcher, Snapshot
from fetcher.engine.asks import Outcome
from fetcher.testing import S3, Fault, Hub, Rule, hub_in_thread, s3_in_thread
from fetcher.testing.contents import as_content
from fetcher.testing.origin import Origin
from fetcher.testing.registry import Registry, registry_in_thread
from tests.e2e.support import HURRIED, REPO, held_by, mixed_files, run_fetch, tree_of

WorldKind = Literal["hub", "s3", "registry"]
BUCKET = "models"
MODEL = "library/mixed"

LARGE = "model.safetensors"
"""Six blocks, the last of 123 bytes; of the Hub: from the CDN."""
MIDDLE = "nested/deeper/notes.txt"
"""Three blocks; of the Hub: from the Hub itself."""
SMALL = "small.bin"
TEXT = "config.json"


@dataclass(frozen=True)
class Place:
    """A kind of request: its routes in an embedded origin's log, and its method."""

    routes: tuple[str, ...]
    method: str | None = None

    def hit(self, fault: Fault, **more: Any) -> Rule:
        """The rule that applies ``fault`` here; the rest as ``Fault.on``."""
        return fault.on(*self.routes, method=self.method, **more)


@dataclass(frozen=True)
class Places:
    """Where a world's requests go."""

    api: Place
    """All questions about what there is."""
    first: Place
    """The first question."""
    second: Place
    """One that follows."""
    door: Place | None
    """Where a body begins and is sent on to a signed URL; None: bodies come at once."""
    body: Place
    """Where the large file's bytes are."""
    own: Place
    """Where the middle file's bytes are."""


@dataclass
class World:
    """One origin, running, with ``mixed_files``."""

    origin: Any
    kind: ClassVar[WorldKind]
    places: ClassVar[Places]
    uri: str = ""
    names: dict[str, str] = field(default_factory=dict)
    """File → its name in the origin's log."""

    def name(self, path: str) -> str:
        return self.names.get(path, path)

    def options(self, cache_dir: Path, **more: Any) -> dict[str, Any]:
        """Settings of a hurried client of this origin."""
        return {**HURRIED, "cache_dir": str(cache_dir), **more}

    def held(self) -> dict[str, tuple[int, str]]:
        """What ``tree_of`` has to give."""
        raise NotImplementedError

    def contents(self) -> list[str]:
        """SHA-256 of all that the origin really has."""
        return [sha256 for _, sha256 in self.held().values()]

    @property
    def bytes_total(self) -> int:
        return sum(size for size, _ in self.held().values())

    def fetch(
        self,
        cache_dir: Path,
        item: Any = None,
        *,
        asker: Any = "job",
        environ: Mapping[str, str] | None = None,
        on_event: Callable[[Any], None] | None = None,
        **more: Any,
    ) -> Outcome:
        """One fetch from an empty loop to the end."""
        return run_fetch(
            lambda: Fetcher(environ=environ or {}, on_event=on_event, **self.options(cache_dir, **more)),
            self.uri if item is None else item,
            asker,
        )

    def assert_whole(self, snapshot: Snapshot) -> None:
        """The Snapshot is the origin's tree, and says so itself."""
        expected = self.held()
        assert tree_of(snapshot.path) == expected
        assert snapshot.files == len(expected)
        assert snapshot.bytes == sum(size for size, _ in expected.values())


class HubWorld(World):
    kind = "hub"
    places = Places(
        api=Place(("api",)),
        first=Place(("info",)),
        second=Place(("tree",)),
        door=Place(("resolve",)),
        body=Place(("cdn",)),
        own=Place(("resolve-cache",)),
    )
    origin: Hub

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, f"hf://{REPO}@main")
        self.commit = hub.add_repo(REPO, files=mixed_files()).head

    def options(self, cache_dir: Path, **more: Any) -> dict[str, Any]:
        return super().options(cache_dir, hf_endpoint=self.origin.endpoint, **more)

    def held(self) -> dict[str, tuple[int, str]]:
        assert self.commit is not None
        return held_by(self.origin, revision=self.commit)


class S3World(World):
    kind = "s3"
    places = Places(
        api=Place(("list",)),
        first=Place(("list",)),
        second=Place(("object",), "HEAD"),
        door=None,
        body=Place(("object",), "GET"),
        own=Place(("object",), "GET"),
    )
    origin: S3

    def __init__(self, s3: S3) -> None:
        super().__init__(s3, f"{s3.endpoint}/{BUCKET}/")
        self.bucket = s3.add_bucket(BUCKET, mixed_files(), public=True)

    def held(self) -> dict[str, tuple[int, str]]:
        return {key: (stored.content.size, stored.content.sha256) for key, stored in self.bucket.objects.items()}


class RegistryWorld(World):
    kind = "registry"
    places = Places(
        api=Place(("manifest",)),
        first=Place(("manifest",)),
        second=Place(("manifest",)),
        door=Place(("blob",), "GET"),
        body=Place(("cdn",)),
        own=Place(("cdn",)),
    )
    origin: Registry

    def __init__(self, registry: Registry) -> None:
        files = {path: as_content(content) for path, content in mixed_files().items() if path != "empty"}
        kinds = {LARGE: "model", MIDDLE: "adapter", SMALL: "projector", TEXT: "params"}
        registry.add_model(MODEL, layers=[(kind, files[path]) for path, kind in kinds.items()])
        super().__init__(registry, "ollama://mixed:latest")
        self.names = {path: f"sha256:{content.sha256}" for path, content in files.items()}

    def options(self, cache_dir: Path, **more: Any) -> dict[str, Any]:
        return super().options(cache_dir, ollama_url=self.origin.endpoint, **more)

    def held(self) -> dict[str, tuple[int, str]]:
        repository = self.origin.repository(MODEL)
        manifest = repository["latest"]
        found = {
            f"manifests/registry.ollama.ai/{MODEL}/latest": (
                len(manifest.body),
                manifest.digest.removeprefix("sha256:"),
            )
        }
        for row in (manifest.document["config"], *manifest.document["layers"]):
            found[f"blobs/{row['digest'].replace(':', '-')}"] = (row["size"], row["digest"].removeprefix("sha256:"))
        return found


WORLDS: Mapping[WorldKind, Callable[[Any], World]] = {"hub": HubWorld, "s3": S3World, "registry": RegistryWorld}


@contextmanager
def world_of(kind: WorldKind, **settings: Any) -> Iterator[World]:
    """A running world; ``settings`` are the embedded origin's."""
    runs: Any = {"hub": hub_in_thread, "s3": s3_in_thread, "registry": registry_in_thread}[kind]
    if kind == "registry":
        settings.setdefault("dialect", "ollama")
    origin: Origin
    with runs(**settings) as origin:
        yield WORLDS[kind](origin)
