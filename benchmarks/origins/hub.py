"""The embedded hub in a process of its own, behind an nginx: it knows repositories, and sends who wants bytes there.

Takes directories as repositories, prints where it is and what nginx has to know of the files as one line of JSON, and
ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fetcher.testing.contents import FileContent
from fetcher.testing.hub import Hub, Quotas, hub_in_thread
from fetcher.testing.hub.cdn import storage_path

_UNLIMITED = Quotas(api=10**9, resolvers=10**9, pages=10**9)
_ONE_PAGE = 1_000_000
"""A listing is one page: the next one's address would be the hub's own, not that of the server in front."""


def _add(hub: Hub, name: str, directory: Path) -> dict[str, Any]:
    """A repository with all files below ``directory``; those from 10 MiB on are large ones, as at the hub."""
    files = {path.relative_to(directory).as_posix(): FileContent(path) for path in sorted(directory.rglob("*.*"))}
    repo = hub.add_repo(name, files=files, lfs=())
    entries = repo.commits[repo.head].entries
    return {
        "commit": repo.head,
        "oids": {path: entry.oid for path, entry in entries.items() if not entry.lfs},
        "stored": {path: storage_path(name, entry.content.sha256) for path, entry in entries.items() if entry.lfs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cdn-origin", required=True, help="where large files are")
    parser.add_argument("repos", nargs="*", metavar="NAME=DIRECTORY")
    options = parser.parse_args()
    hub = Hub(quotas=_UNLIMITED, page_entries=_ONE_PAGE, cdn_origin=options.cdn_origin)
    repos = {}
    for text in options.repos:
        name, _, directory = text.partition("=")
        repos[name] = _add(hub, name, Path(directory))
    with hub_in_thread(hub):
        print(json.dumps({"endpoint": hub.endpoint, "repos": repos}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
