"""The JSON answers of the hub's read API: repository info, tree pages, path lookups, refs.

Values in, a reply out; whether the asker may have it was decided before.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from fetcher.testing.hub import gitids
from fetcher.testing.hub.access import refusal
from fetcher.testing.hub.repos import Commit, Repo
from fetcher.testing.hub.routes import Route
from fetcher.testing.messages import Reply, Request

_EXPANDED_PAGE_ENTRIES = 50
"""Pages are shorter when each row comes with its last commit."""


def info(repo: Repo, commit: Commit, query: dict[str, list[str]]) -> Reply:
    siblings: list[dict[str, Any]] = []
    for path in sorted(commit.entries):
        sibling: dict[str, Any] = {"rfilename": path}
        if query.get("blobs") == ["true"]:
            entry = commit.entries[path]
            sibling |= {"size": entry.content.size, "blobId": entry.oid}
            if entry.lfs:
                sha256, size = entry.content.sha256, entry.content.size
                sibling["lfs"] = {"sha256": sha256, "size": size, "pointerSize": entry.pointer_bytes}
        siblings.append(sibling)
    created = min(commit.time_s for commit in repo.commits.values())
    rows: dict[str, Any] = {
        "_id": gitids.object_id("blob", repo.id.encode())[:24],
        "id": repo.id,
        "author": repo.id.rpartition("/")[0] or None,
        "sha": commit.id,
        "lastModified": _iso(commit.time_s),
        "createdAt": _iso(created),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }
    if repo.kind == "models":
        rows["modelId"] = repo.id
    return Reply(200, rows=rows)


def tree(commit: Commit, route: Route, request: Request, *, page_entries: int, endpoint: str) -> Reply:
    query = parse_qs(request.query)
    directory = route.path.strip("/")
    if directory not in commit.directories:
        return refusal(404, f"{directory} does not exist on {route.revision!r}", "EntryNotFound")
    expand = query.get("expand") == ["true"]
    limit = min(page_entries, _EXPANDED_PAGE_ENTRIES) if expand else page_entries
    asked = query.get("limit", [""])[0]
    if asked.isdecimal() and int(asked) > 0:
        limit = min(limit, int(asked))
    recursive = query.get("recursive", [""])[0] in ("true", "True", "1")
    after = _read_cursor(query.get("cursor", [""])[0])
    paths, more = commit.listing(directory, recursive=recursive, after=after, limit=limit)
    rows = [commit.row(path) for path in paths]
    if expand:
        last = {"id": commit.id, "title": commit.title, "date": _iso(commit.time_s)}
        rows = [row | {"lastCommit": last} for row in rows]
    headers = {}
    if more:
        kept = "&".join(item for item in request.query.split("&") if item and not item.startswith("cursor="))
        following = f"{endpoint}{request.path}?{kept}{'&' if kept else ''}cursor={_cursor(paths[-1])}"
        headers["Link"] = f'<{following}>; rel="next"'
    return Reply(200, headers, rows=rows)


def paths_info(commit: Commit, request: Request) -> Reply:
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            paths = json.loads(request.body)["paths"]
        except (ValueError, KeyError, TypeError):
            return refusal(400, "the body is not the JSON object expected")
    else:
        paths = parse_qs(request.body.decode("utf-8", "replace")).get("paths", [])
    names = [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else []
    known = [name.strip("/") for name in names if isinstance(name, str)]
    found = [path for path in known if path and (path in commit.entries or path in commit.directories)]
    return Reply(200, rows=[commit.row(path) for path in found])


def refs(repo: Repo, query: dict[str, list[str]]) -> Reply:
    def listed(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": id_} for name, id_ in names.items()]

    rows: dict[str, Any] = {
        "branches": listed(repo.branches, "refs/heads/"),
        "converts": [],
        "tags": listed(repo.tags, "refs/tags/"),
    }
    if query.get("include_prs") == ["1"]:
        rows["pullRequests"] = listed(repo.pull_requests, "")
    return Reply(200, rows=rows)


def _cursor(path: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"file_name": path}).encode()).decode().replace("=", "%3D")


def _read_cursor(text: str) -> str | None:
    """Return the path after which a page begins; None, so the first page, when the cursor is not one of ours."""
    try:
        return str(json.loads(base64.urlsafe_b64decode(text))["file_name"]) if text else None
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
