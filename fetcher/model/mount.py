"""A Resource with the place where a container will see it."""

from __future__ import annotations

from dataclasses import dataclass

from fetcher.model.resource import Resource


@dataclass(frozen=True, slots=True)
class MountRequest:
    """One resource of a Job Definition, not yet fetched."""

    op: str
    """Id of the op that needs it."""
    at: str
    """JSON path in the document."""
    resource: Resource
    target: str
    """Normalised absolute path inside the container."""
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Deferred:
    """A resource that can't be known before an earlier op has run."""

    op: str
    at: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobResources:
    """What a Job Definition asks for."""

    mounts: tuple[MountRequest, ...]
    """Outermost target first within an op."""
    deferred: tuple[Deferred, ...] = ()
