"""What an embedded origin remembers of each request, for tests to assert on.

Plain data and questions about it: no sockets, no routing. A record never holds a credential, only whose it was.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, field

_HUB_API = frozenset({"info", "tree", "paths-info", "refs", "whoami"})
_HUB_FILES = frozenset({"resolve", "resolve-cache", "raw"})
_S3_API = frozenset({"list", "bucket"})
_REGISTRY_API = frozenset({"ping", "token", "tags", "manifest"})

PLACES: dict[str, frozenset[str]] = {
    "*": _HUB_API | _HUB_FILES | _S3_API | _REGISTRY_API | {"cdn", "object", "blob", "market", "other"},
    "hub": _HUB_API | _HUB_FILES | {"other"},
    "s3": _S3_API | {"object", "other"},
    "registry": _REGISTRY_API | {"blob", "other"},
    "api": _HUB_API | _S3_API | _REGISTRY_API | {"market"},
    "bodies": frozenset({"resolve-cache", "cdn", "object", "blob"}),
}
"""Names for groups of routes; every single route is a place of its own as well."""

ROUTES = PLACES["*"]


def routes_at(place: str) -> frozenset[str]:
    """Return the routes that ``place`` (a group or a single route) stands for."""
    if place in PLACES:
        return PLACES[place]
    if place in ROUTES:
        return frozenset({place})
    raise ValueError(f"unknown place {place!r}: one of {', '.join(sorted({*PLACES, *ROUTES}))}")


@dataclass(slots=True)
class RequestRecord:
    """One request and what became of it; ``body_bytes`` grows while the answer is under way."""

    number: int
    """Position in the origin's log, from 0."""
    at: float
    """Unix seconds when the head of the request was complete."""
    connection: int
    """Which connection carried it: numbers are never reused within one origin."""
    method: str
    target: str
    """Path and query exactly as they came, not decoded."""
    headers: dict[str, str]
    """Names in lower case; ``authorization`` is left out."""
    authorization: bool
    """Whether an Authorization header was sent at all."""
    principal: str | None = None
    """The user that the token belongs to; None when there was none or it is unknown."""
    route: str = "other"
    """One of ``ROUTES``."""
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    """File within the repository."""
    status: int | None = None
    """Status answered; None while undecided, or when the connection was dropped before any head."""
    span: tuple[int, int] | None = None
    """The half-open byte range of the file that the body was to carry."""
    body_bytes_due: int = 0
    """Length of the body to be sent."""
    body_bytes: int = 0
    """Body bytes handed to the kernel so far, framing not counted; until ``ended`` possibly one buffer ahead."""
    ended: bool = False
    """Whether the answer is over, completely or not."""
    faults: list[str] = field(default_factory=list)
    """Names of the faults that acted on it."""

    @property
    def complete(self) -> bool:
        """Whether the whole answer was handed to the kernel."""
        return self.status is not None and self.body_bytes == self.body_bytes_due

    @property
    def range(self) -> str | None:
        """The Range header, as sent."""
        return self.headers.get("range")


class RequestLog:
    """The requests of one origin in order of arrival."""

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(tuple(self._records))

    def __getitem__(self, index: int) -> RequestRecord:
        return self._records[index]

    def __repr__(self) -> str:
        return f"<RequestLog {len(self._records)} requests>"

    def append(self, record: RequestRecord) -> None:
        self._records.append(record)

    def clear(self) -> None:
        """Forget everything so far; requests under way keep writing into records that nobody sees any more."""
        self._records.clear()

    def select(
        self, place: str = "*", *, path: str = "*", method: str | None = None, status: int | None = None
    ) -> list[RequestRecord]:
        """Return the records at ``place`` whose file path matches the glob ``path``."""
        routes = routes_at(place)
        return [
            record
            for record in self
            if record.route in routes
            and (path == "*" or (record.path is not None and fnmatch.fnmatchcase(record.path, path)))
            and method in (None, record.method)
            and status in (None, record.status)
        ]

    def body_bytes(self, path: str = "*") -> int:
        """Return how many bytes of files' contents were sent for paths matching ``path``, repeats included."""
        return sum(record.body_bytes for record in self.select("bodies", path=path) if record.status in (200, 206))

    def asked_bytes(self, path: str = "*") -> int:
        """Return how many bytes of files' contents were asked for, whether or not they were sent or taken."""
        spans = (record.span for record in self.select("bodies", path=path, method="GET"))
        return sum(span[1] - span[0] for span in spans if span is not None)
