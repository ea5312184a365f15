"""Reading a request's path: which part of the Hub is meant, which repository, revision and file.

Names only; whether any of them exists is for others to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from fetcher.testing.hub.repos import Kind

_KINDS: tuple[Kind, ...] = ("models", "datasets", "spaces")
_VERBS = {"revision": "info", "tree": "tree", "paths-info": "paths-info", "refs": "refs"}
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Route:
    """What a path of the hub means."""

    name: str
    """One of ``records.ROUTES``."""
    kind: Kind = "models"
    repo_id: str = ""
    revision: str = "main"
    path: str = ""
    """File or directory within the repository."""

    @property
    def bucket(self) -> str:
        """The rate limit bucket that pays for it."""
        if self.name in ("resolve", "resolve-cache", "raw"):
            return "resolvers"
        return "pages" if self.name == "other" else "api"


OTHER = Route("other")


def parse(path: str, is_repo: Callable[[Kind, str], bool]) -> Route:
    """Return the route of a still quoted ``path``.

    ``is_repo`` settles what the grammar cannot: whether ``name/tree`` is a legacy name and a verb, or an id.
    Slashes within a revision must come as ``%2F``, as the official client sends them.
    """
    segments = path.split("/")[1:]
    if segments[0] != "api":
        prefix = _kind(segments[0])
        if prefix is None or prefix == "models":
            return _file_route("models", segments)
        return _file_route(prefix, segments[1:])
    if segments[1:] == ["whoami-v2"]:
        return Route("whoami")
    if len(segments) > 3 and segments[1] == "resolve-cache":
        return _resolve_cache_route(segments[2], segments[3:])
    kind = _kind(segments[1]) if len(segments) > 2 else None
    return _api_route(kind, segments[2:], is_repo) if kind else OTHER


def _file_route(kind: Kind, segments: list[str]) -> Route:
    for words in (2, 1):
        if len(segments) > words + 2 and segments[words] in ("resolve", "raw"):
            path = unquote("/".join(segments[words + 2 :]))
            return Route(segments[words], kind, _join(segments[:words]), unquote(segments[words + 1]), path)
    return OTHER


def _resolve_cache_route(kind_segment: str, segments: list[str]) -> Route:
    kind = _kind(kind_segment)
    for words in (2, 1):
        if kind and len(segments) > words + 1 and _COMMIT_ID.fullmatch(segments[words]):
            path = unquote("/".join(segments[words + 1 :]))
            return Route("resolve-cache", kind, _join(segments[:words]), segments[words], path)
    return OTHER


def _api_route(kind: Kind, segments: list[str], is_repo: Callable[[Kind, str], bool]) -> Route:
    words = 2
    if len(segments) == 1 or (segments[1] in _VERBS and not is_repo(kind, _join(segments[:2]))):
        words = 1
    repo_id, rest = _join(segments[:words]), segments[words:]
    if not rest:
        return Route("info", kind, repo_id)
    name = _VERBS.get(rest[0])
    if name is None or (name == "refs") != (len(rest) == 1) or (len(rest) > 2 and name != "tree"):
        return OTHER
    return Route(name, kind, repo_id, unquote(rest[1]) if len(rest) > 1 else "main", unquote("/".join(rest[2:])))


def _kind(word: str) -> Kind | None:
    return next((kind for kind in _KINDS if kind == word), None)


def _join(segments: list[str]) -> str:
    return unquote("/".join(segments))
