"""Reading a request's path: which part of the registry is meant, which repository and which reference.

Names only; whether any of them exists is for others to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_NAMED = re.compile(r"/v2/(?P<name>.+)/(?:(?P<tags>tags/list)|(?P<kind>manifests|blobs)/(?P<reference>[^/]+))")


@dataclass(frozen=True, slots=True)
class Route:
    """What a path of the registry means."""

    name: str
    """One of ``records.ROUTES``."""
    repository: str | None = None
    reference: str | None = None
    """Tag or digest."""


OTHER = Route("other")
TOKEN = Route("token")


def parse(path: str) -> Route:
    """Return the route of a still quoted ``path``."""
    if path == "/v2/":
        return Route("ping")
    if path in ("/token", "/v2/token"):
        return TOKEN
    match = _NAMED.fullmatch(unquote(path))
    if match is None:
        return OTHER
    if match["tags"]:
        return Route("tags", match["name"])
    return Route("manifest" if match["kind"] == "manifests" else "blob", match["name"], match["reference"])
