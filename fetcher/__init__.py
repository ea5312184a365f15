"""fetcher: resources on the disk of a GPU host, verified, cached and leased.

The names below are the library; everything else is how it works. Importing this package loads no event loop: the
heavier names are looked up when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fetcher.errors import (
    CacheError,
    DeniedError,
    FetcherError,
    ForbiddenError,
    ImageError,
    IntegrityError,
    InternalError,
    InterruptedByUser,
    LeaseError,
    NoSpaceError,
    NotFoundError,
    OfflineError,
    PartialError,
    RateLimitedError,
    ResourceError,
    TransportError,
    UsageError,
)
from fetcher.model.version import VERSION

if TYPE_CHECKING:
    from fetcher.cache.damage import Damage, VerifyReport
    from fetcher.cache.records import Snapshot
    from fetcher.client import Fetcher, get
    from fetcher.client.mounts import Lease, Mount, MountSet
    from fetcher.config import Settings
    from fetcher.engine.prefetch import PrefetchItem, PrefetchReport
    from fetcher.model.asker import Asker
    from fetcher.model.events import Event, Notice, Progress
    from fetcher.model.job import parse_job
    from fetcher.model.market import parse_market
    from fetcher.model.resource import HF, S3, Ollama
    from fetcher.model.uri import parse_uri

__version__ = VERSION

__all__ = [
    "HF",
    "S3",
    "Asker",
    "CacheError",
    "Damage",
    "DeniedError",
    "Event",
    "Fetcher",
    "FetcherError",
    "ForbiddenError",
    "ImageError",
    "IntegrityError",
    "InternalError",
    "InterruptedByUser",
    "Lease",
    "LeaseError",
    "Mount",
    "MountSet",
    "NoSpaceError",
    "NotFoundError",
    "Notice",
    "OfflineError",
    "Ollama",
    "PartialError",
    "PrefetchItem",
    "PrefetchReport",
    "Progress",
    "RateLimitedError",
    "ResourceError",
    "Settings",
    "Snapshot",
    "TransportError",
    "UsageError",
    "VerifyReport",
    "__version__",
    "get",
    "parse_job",
    "parse_market",
    "parse_uri",
]

_HOMES = {
    "Asker": "fetcher.model.asker",
    "Damage": "fetcher.cache.damage",
    "Event": "fetcher.model.events",
    "Fetcher": "fetcher.client",
    "HF": "fetcher.model.resource",
    "Lease": "fetcher.client.mounts",
    "Mount": "fetcher.client.mounts",
    "MountSet": "fetcher.client.mounts",
    "Notice": "fetcher.model.events",
    "Ollama": "fetcher.model.resource",
    "PrefetchItem": "fetcher.engine.prefetch",
    "PrefetchReport": "fetcher.engine.prefetch",
    "Progress": "fetcher.model.events",
    "S3": "fetcher.model.resource",
    "Settings": "fetcher.config",
    "Snapshot": "fetcher.cache.records",
    "VerifyReport": "fetcher.cache.damage",
    "get": "fetcher.client",
    "parse_job": "fetcher.model.job",
    "parse_market": "fetcher.model.market",
    "parse_uri": "fetcher.model.uri",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fetcher' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
