"""``python -m fetcher.testing.hub``: serve an embedded hub until stopped, for demonstrations and experiments.

Prints one JSON line when it listens and one when it stops; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

from fetcher.testing.contents import ContentLike, Synthetic
from fetcher.testing.demo import DEMO_TOKEN, add_demo_repos
from fetcher.testing.faultplan import FaultPlan
from fetcher.testing.faults import Delay, Trickle
from fetcher.testing.hub.access import Quotas
from fetcher.testing.hub.repos import Kind
from fetcher.testing.hub.server import Hub

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_KINDS: tuple[Kind, ...] = ("models", "datasets", "spaces")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(_hub(options), until_stdin_closes=options.until_stdin_closes))
    except (OSError, ValueError) as error:  # an address that is taken, a name that git has not
        parser.error(str(error))
    return 0


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
    content.add_argument("--directory", type=_directory, help="serve the files of this directory")
    content.add_argument(
        "--file", type=_file, action="append", default=[], metavar="NAME=SIZE", help="a generated file"
    )
    content.add_argument("--small-files", type=_many, metavar="COUNTxSIZE", help="many generated files")
    content.add_argument("--private", action="store_true")
    content.add_argument("--gated", action="store_true")
    parser.add_argument("--demo", action="store_true", help="serve the demo repositories besides")
    parser.add_argument("--demo-size", type=_size, default=240 << 20, metavar="SIZE", help="weights of the demo model")
    parser.add_argument("--token", type=_token, action="append", default=[], metavar="TOKEN=USER", help="a valid token")
    manners = parser.add_argument_group("manners")
    manners.add_argument("--host", default="127.0.0.1")
    manners.add_argument("--port", type=_port, default=0, help="of the hub (default: a free one)")
    manners.add_argument("--page-entries", type=int, default=1000, metavar="N", help="rows on a tree page")
    manners.add_argument("--url-lifetime", type=float, default=3600.0, metavar="SECONDS", help="of signed URLs")
    manners.add_argument("--quota", type=int, metavar="N", help="requests per 5 minutes, instead of the real Hub's")
    manners.add_argument("--connection-rate", type=_size, metavar="SIZE", help="bytes a second of each body")
    manners.add_argument("--delay", type=float, metavar="SECONDS", help="before every answer")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")
    return parser


def _hub(options: argparse.Namespace) -> Hub:
    faults = FaultPlan()
    if options.delay is not None:
        faults.add(Delay(options.delay))
    if options.connection_rate is not None:
        faults.add(Trickle(options.connection_rate))
    hub = Hub(
        page_entries=options.page_entries,
        url_lifetime_s=options.url_lifetime,
        tokens={DEMO_TOKEN: "demo", **dict(options.token)},
        quotas=Quotas(options.quota, options.quota, options.quota) if options.quota is not None else None,
        faults=faults,
        host=options.host,
        port=options.port,
    )
    files = _files(options)
    if files:
        hub.add_repo(options.id, kind=options.kind, files=files, private=options.private, gated=options.gated)
    if options.demo or not files:
        add_demo_repos(hub, model_bytes=options.demo_size)
    return hub


async def _serve(hub: Hub, *, until_stdin_closes: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    async with hub:
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
        _say({"event": "listening", "endpoint": hub.endpoint, "cdn_endpoint": hub.cdn_endpoint, "repos": repos})
        await stop.wait()
    _say({"event": "stopped", "requests": len(hub.requests), "body_bytes": hub.body_bytes_sent()})


def _files(options: argparse.Namespace) -> dict[str, ContentLike]:
    files: dict[str, ContentLike] = {}
    if options.directory is not None:
        for root, directories, names in os.walk(options.directory):
            directories[:] = [name for name in directories if name != ".git"]
            paths = (Path(root, name) for name in names)
            files |= {path.relative_to(options.directory).as_posix(): path for path in paths if path.is_file()}
    for seed, (name, size) in enumerate(options.file):
        files[name] = Synthetic(size, seed)
    if options.small_files is not None:
        number_of, size = options.small_files
        files |= {f"small/{n // 1000:03}/{n:06}.txt": Synthetic(size, 1_000_000 + n) for n in range(number_of)}
    return files


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    loop.call_soon_threadsafe(stop.set)


def _say(fact: dict[str, object]) -> None:
    print(json.dumps(fact), flush=True)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (bytes, or with K, M or G)")
    return int(match[1]) * _UNITS[match[2]]


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}")
    return int(text)


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"not a directory: {text!r}")
    return path


def _file(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"not NAME=SIZE: {text!r}")
    return name, _size(size)


def _many(text: str) -> tuple[int, int]:
    number_of, _, size = text.partition("x")
    if not number_of.isdecimal():
        raise argparse.ArgumentTypeError(f"not COUNTxSIZE: {text!r}")
    return int(number_of), _size(size)


def _token(text: str) -> tuple[str, str]:
    token, _, user = text.partition("=")
    if not token or not user:
        raise argparse.ArgumentTypeError(f"not TOKEN=USER: {text!r}")
    return token, user


if __name__ == "__main__":
    sys.exit(main())
