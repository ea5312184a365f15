"""``python -m fetcher.testing.hub``: serve an embedded hub until stopped, for demonstrations and experiments.

Prints one JSON line when it listens and one when it stops; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fetcher.testing import serving
from fetcher.testing.contents import ContentLike, Synthetic
from fetcher.testing.demo import DEMO_TOKEN, add_demo_repos
from fetcher.testing.hub.access import Quotas
from fetcher.testing.hub.repos import Kind
from fetcher.testing.hub.server import Hub

_KINDS: tuple[Kind, ...] = ("models", "datasets", "spaces")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return serving.run(_parser(), arguments, _hub, _facts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fetcher.testing.hub",
        description="Serve an embedded Hugging Face Hub on this machine. Point HF_ENDPOINT at the printed endpoint.",
        epilog="Sizes are bytes, or end in K, M or G (powers of 1024). Without any content the demo repositories are "
        f"served; the token {DEMO_TOKEN} opens their private and gated ones.",
    )
    content = parser.add_argument_group("content of one repository")
    content.add_argument("--id", default="acme/demo", help="its name (default: %(default)s)")
    content.add_argument("--kind", choices=_KINDS, default="models")
    content.add_argument("--directory", type=serving.directory, help="serve the files of this directory")
    content.add_argument(
        "--file",
        type=serving.named_size("NAME=SIZE"),
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="a generated file",
    )
    content.add_argument("--small-files", type=serving.many, metavar="COUNTxSIZE", help="many generated files")
    content.add_argument("--private", action="store_true")
    content.add_argument("--gated", action="store_true")
    parser.add_argument("--demo", action="store_true", help="serve the demo repositories besides")
    parser.add_argument(
        "--demo-size", type=serving.size, default=240 << 20, metavar="SIZE", help="weights of the demo model"
    )
    parser.add_argument("--token", type=_token, action="append", default=[], metavar="TOKEN=USER", help="a valid token")
    manners = serving.add_address(parser, "of the hub (default: a free one)")
    manners.add_argument("--page-entries", type=int, default=1000, metavar="N", help="rows on a tree page")
    manners.add_argument("--url-lifetime", type=float, default=3600.0, metavar="SECONDS", help="of signed URLs")
    manners.add_argument("--quota", type=int, metavar="N", help="requests per 5 minutes, instead of the real Hub's")
    serving.add_pace_and_end(parser, manners)
    return parser


def _hub(options: argparse.Namespace) -> Hub:
    hub = Hub(
        page_entries=options.page_entries,
        url_lifetime_s=options.url_lifetime,
        tokens={DEMO_TOKEN: "demo", **dict(options.token)},
        quotas=Quotas(options.quota, options.quota, options.quota) if options.quota is not None else None,
        faults=serving.pace(options),
        host=options.host,
        port=options.port,
    )
    files = _files(options)
    if files:
        hub.add_repo(options.id, kind=options.kind, files=files, private=options.private, gated=options.gated)
    if options.demo or not files:
        add_demo_repos(hub, model_bytes=options.demo_size)
    return hub


def _facts(hub: Hub) -> dict[str, object]:
    repos = [
        {
            "id": repo.id,
            "kind": repo.kind,
            "revision": repo.head,
            "files": len(repo.commits[repo.head].entries),
            "bytes": sum(entry.content.size for entry in repo.commits[repo.head].entries.values()),
            "private": repo.private,
            "gated": repo.gated,
        }
        for repo in hub.repos
    ]
    return {"endpoint": hub.endpoint, "cdn_endpoint": hub.cdn_endpoint, "repos": repos}


def _files(options: argparse.Namespace) -> dict[str, ContentLike]:
    files: dict[str, ContentLike] = {}
    if options.directory is not None:
        for root, directories, names in os.walk(options.directory):
            directories[:] = [name for name in directories if name != ".git"]
            paths = (Path(root, name) for name in names)
            files |= {path.relative_to(options.directory).as_posix(): path for path in paths if path.is_file()}
    for seed, (name, size) in enumerate(options.file):
        files[name] = Synthetic(size, seed)
    return files | serving.small_contents(options.small_files)


def _token(text: str) -> tuple[str, str]:
    token, _, user = text.partition("=")
    if not token or not user:
        raise argparse.ArgumentTypeError(f"not TOKEN=USER: {text!r}")
    return token, user


if __name__ == "__main__":
    sys.exit(main())
