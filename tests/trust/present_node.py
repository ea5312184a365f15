"""The present node's rules for resources, as a model: small, and no more than what is documented of it.

The rules were read in the public source of the node (2026-06, and what changed of it until 2026-08), not seen at work.
What fills a volume is a container of its own, whose source is not public: ``Helper`` stands for it, and everything that
it may do within its contract is tried. A run whose end depends on it says so; nothing is guessed.

The rules, in our own words; their numbers stand where each is used:

- N1  Three types: HF, S3, Ollama.
- N2  The key of a resource: HF repo, revision and files joined by dashes; S3 the URL, or its URLs joined by dashes,
      without files, bucket or keys; Ollama the model. All in one table, in which that text is the name.
- N3  No credential is part of the key.
- N4  A hit is not just used: the helper runs again, with the arguments of the job that asks now, in the volume that is
      there and that other jobs may have mounted. If it ends with another code than 0, the volume is deleted.
- N5  A helper that fails without a line that begins as expected is written down as good, its volume gone. The job then
      fails for the missing volume. (Mended in 2026.)
- N6  A volume has its time (24 hours) from its last use, and only between jobs does anybody look.
- N7  Its record was then removed under the volume's name instead of the key, and went at the next look. (Mended too.)
- N8  Pruning removes every volume of the engine that is not required, whoever made it.
- N9  Volumes are mounted read-only, but for S3 with ``allowWrite``: then the cached volume itself is written to.
- N10 What a market requires and is recorded is not looked at again.
- N11 (How progress is read; nothing of it is here.)
- N12 Images that were pulled with a login are protected by being deleted at the next look between jobs.
- V   Beside those: the schema looks at types and required fields only. Which address a URL leads to, what a file name
      or a target climbs out of: nobody judges it before the helper and the container engine get it as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TTL_S = 24 * 3600.0

Answer = Mapping[str, bytes] | None
"""What the origin gives to this job's own credential: path → bytes; None: it refuses."""


@dataclass(frozen=True)
class Helper:
    """What the contract of the helper image leaves open. Each combination is a helper that could be."""

    content_with_what_is_there: bool
    """In a volume that has files, it ends well without having asked the origin for access."""
    removes_what_is_not_listed: bool
    """What is in the volume and not among what it was asked for, it deletes."""

    def run(self, volume: Volume, answer: Answer) -> int:
        """Fill ``volume``; the exit code. What it is asked for and is there already, it leaves as it is or fetches:
        for the jobs here that is the same."""
        if answer is None:
            return 0 if self.content_with_what_is_there and volume.files else 1
        if self.removes_what_is_not_listed:
            for path in volume.files.keys() - answer.keys():
                del volume.files[path]
        for path, content in answer.items():
            volume.files.setdefault(path, content)
        return 0


def every_helper() -> Iterator[Helper]:
    """All that could be."""
    for flags in itertools.product((True, False), repeat=2):
        yield Helper(*flags)


@dataclass(eq=False)
class Volume:
    """A volume of the container engine; jobs that have it mounted see what it becomes."""

    files: dict[str, bytes] = field(default_factory=dict)
    deleted: bool = False


@dataclass
class Record:
    """What is written down of a resource."""

    volume: Volume
    last_used: float
    required: bool = False


@dataclass(frozen=True)
class Mounted:
    """What a job gets."""

    volume: Volume
    read_only: bool

    def write(self, path: str, content: bytes) -> None:
        if self.read_only:
            raise PermissionError("mounted read-only")
        self.volume.files[path] = content


class MissingResource(Exception):
    """The job ends: the volume is not there."""


class PresentNode:
    """One node's volumes, records and images."""

    def __init__(self, helper: Helper, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.helper = helper
        self.clock = clock
        self.records: dict[str, Record] = {}
        self.volumes: list[Volume] = []
        self.private_images: set[str] = set()

    # -- a job ---------------------------------------------------------------------------------------------------------

    def mount(self, resource: Mapping[str, Any], answer: Answer) -> Mounted:
        """One resource of a job. Raises MissingResource."""
        key = name_of(resource)  # N2, N3
        known = self.records.get(key)
        volume = self._new_volume() if known is None else known.volume
        if self.helper.run(volume, answer) != 0:  # N4: run in any case, as the job that asks now
            self._delete(volume)  # N4
        self.records[key] = Record(volume, self.clock(), known.required if known else False)  # N5: whatever came of it
        if volume.deleted:
            del self.records[key]  # N5: forgotten at the next look at the latest
            raise MissingResource(key)
        return Mounted(volume, read_only=not (resource["type"] == "S3" and resource.get("allowWrite", False)))  # N9

    def to_helper(self, resource: Mapping[str, Any]) -> tuple[str, ...]:
        """What the helper is asked for, as the job wrote it: URLs and files (V)."""
        if resource["type"] == "S3":
            places = resource.get("buckets") or [resource]
            return tuple(text for place in places for text in (place["url"], *place.get("files", ())))
        return (resource.get("repo") or resource.get("model", ""), *resource.get("files", ()))

    def to_engine(self, resource: Mapping[str, Any]) -> str:
        """Where the container engine is asked to mount it, as the job wrote it (V)."""
        return str(resource.get("target", "/root/.ollama/models"))

    # -- between jobs --------------------------------------------------------------------------------------------------

    def look_between_jobs(self, required: set[str]) -> None:
        """What the node does before it queues again."""
        for key, record in list(self.records.items()):
            if record.volume.deleted:
                del self.records[key]
            elif key in required:
                record.required = True
            elif self.clock() - record.last_used > TTL_S:  # N6
                self._delete(record.volume)
                del self.records[key]  # N7, as it is since 2026
        self.private_images.clear()  # N12

    def missing_of_market(self, required: set[str]) -> set[str]:
        """Which items of a market's list are fetched before the node queues."""
        return required - self.records.keys()  # N10: recorded is enough

    def prune(self) -> None:
        kept = [record.volume for record in self.records.values() if record.required]
        for volume in self.volumes:
            if volume not in kept:  # N8
                self._delete(volume)

    def _new_volume(self) -> Volume:
        self.volumes.append(Volume())
        return self.volumes[-1]

    def _delete(self, volume: Volume) -> None:
        volume.files.clear()
        volume.deleted = True


def name_of(resource: Mapping[str, Any]) -> str:
    """The key of a resource (N2). No credential is in it (N3)."""
    if resource["type"] == "HF":
        parts = (resource["repo"], resource.get("revision"), *resource.get("files", ()))
        return "-".join(part for part in parts if part)
    if resource["type"] == "S3":
        if "url" in resource:
            return str(resource["url"])
        return "-".join(place["url"] for place in resource["buckets"])
    return str(resource["model"])
