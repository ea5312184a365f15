"""``python -m fetcher.testing.s3``: serve an embedded S3 until stopped, for demonstrations and experiments.

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

from fetcher.testing.contents import Synthetic
from fetcher.testing.demo import model_files
from fetcher.testing.faultplan import FaultPlan
from fetcher.testing.faults import Delay, Trickle
from fetcher.testing.s3.access import Key
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.server import S3

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_PART_BYTES = 8 << 20
"""What the usual upload tools take for parts, and the size from which they upload in parts."""

DEMO_KEY_ID = "AKIAEMBEDDEDDEMO"
DEMO_SECRET = "demo-secret-only-good-for-the-embedded-s3"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(_s3(options), options))
    except (OSError, ValueError) as error:  # an address that is taken, a name that no bucket can have
        parser.error(str(error))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fetcher.testing.s3",
        description="Serve an embedded, read-only S3 on this machine. Point a client at the printed endpoint.",
        epilog="Sizes are bytes, or end in K, M or G (powers of 1024). Without any content a small model is served "
        f"as bucket. Without --key the key {DEMO_KEY_ID} with the secret {DEMO_SECRET} opens everything.",
    )
    content = parser.add_argument_group("content")
    content.add_argument("--directory", type=_directory, help="serve this directory: each sub-directory is a bucket")
    content.add_argument(
        "--bucket", default="models", help="name of the bucket for what follows (default: %(default)s)"
    )
    content.add_argument(
        "--object", type=_object, action="append", default=[], metavar="KEY=SIZE", help="a generated object"
    )
    content.add_argument("--small-objects", type=_many, metavar="COUNTxSIZE", help="many generated objects")
    content.add_argument("--part-bytes", type=_size, default=_PART_BYTES, metavar="SIZE", help="of uploads in parts")
    access = parser.add_argument_group("access")
    access.add_argument(
        "--key", type=_key, action="append", default=[], metavar="ID:SECRET[:TOKEN]", help="a valid key"
    )
    access.add_argument("--private", action="store_true", help="nothing without a key (default: anybody may read)")
    access.add_argument("--no-list", action="store_true", help="nobody may list without a key")
    manners = parser.add_argument_group("manners")
    manners.add_argument("--host", default="127.0.0.1")
    manners.add_argument("--port", type=_port, default=0, help="(default: a free one)")
    manners.add_argument("--domain", default="s3.test", help="below it a host is a bucket (default: %(default)s)")
    manners.add_argument("--region", default="us-east-1")
    manners.add_argument("--any-region", action="store_true", help="take signatures for whatever region")
    manners.add_argument("--page-keys", type=int, default=1000, metavar="N", help="keys on a page of a listing")
    manners.add_argument("--connection-rate", type=_size, metavar="SIZE", help="bytes a second of each body")
    manners.add_argument("--delay", type=float, metavar="SECONDS", help="before every answer")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")
    return parser


def _s3(options: argparse.Namespace) -> S3:
    faults = FaultPlan()
    if options.delay is not None:
        faults.add(Delay(options.delay))
    if options.connection_rate is not None:
        faults.add(Trickle(options.connection_rate))
    s3 = S3(
        keys=dict(options.key) or {DEMO_KEY_ID: Key(DEMO_SECRET, "demo")},
        region=options.region,
        any_region=options.any_region,
        domains=(options.domain,),
        page_keys=options.page_keys,
        faults=faults,
        host=options.host,
        port=options.port,
    )
    _fill(s3, options)
    for bucket in s3.buckets:
        bucket.public = not options.private
        bucket.list_allowed = "signed" if options.no_list else True
    return s3


def _fill(s3: S3, options: argparse.Namespace) -> None:
    if options.directory is not None:
        for directory in sorted(path for path in options.directory.iterdir() if path.is_dir()):
            bucket = s3.add_bucket(directory.name)
            for root, _, names in os.walk(directory):
                for path in (Path(root, name) for name in names):
                    if path.is_file():
                        _put_file(bucket, path.relative_to(directory).as_posix(), path, options.part_bytes)
    generated = {key: Synthetic(size, seed) for seed, (key, size) in enumerate(options.object)}
    if options.small_objects is not None:
        number_of, size = options.small_objects
        generated |= {f"small/{n // 1000:03}/{n:06}.txt": Synthetic(size, 1_000_000 + n) for n in range(number_of)}
    if generated:
        bucket = s3.add_bucket(options.bucket)
        for key, content in generated.items():
            bucket.put(key, content, part_bytes=options.part_bytes if content.size > options.part_bytes else None)
    elif options.directory is None:
        bucket = s3.add_bucket(options.bucket)
        for name, file in model_files(8 << 20, shards=2).items():
            bucket.put(f"tiny-llama/{name}", file)


def _put_file(bucket: Bucket, key: str, path: Path, part_bytes: int) -> None:
    found = path.stat()
    parts = part_bytes if found.st_size > part_bytes else None
    bucket.put(key, path, part_bytes=parts, last_modified=found.st_mtime)


async def _serve(s3: S3, options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if options.until_stdin_closes:
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    async with s3:
        buckets = [
            {
                "name": bucket.name,
                "objects": len(bucket.objects),
                "bytes": sum(stored.content.size for stored in bucket.objects.values()),
                "public": bucket.public,
            }
            for bucket in s3.buckets
        ]
        _say({"event": "listening", "endpoint": s3.endpoint, "region": s3.region, "buckets": buckets})
        await stop.wait()
    _say({"event": "stopped", "requests": len(s3.requests), "body_bytes": s3.body_bytes_sent()})


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


def _object(text: str) -> tuple[str, int]:
    key, _, size = text.rpartition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"not KEY=SIZE: {text!r}")
    return key, _size(size)


def _many(text: str) -> tuple[int, int]:
    number_of, _, size = text.partition("x")
    if not number_of.isdecimal():
        raise argparse.ArgumentTypeError(f"not COUNTxSIZE: {text!r}")
    return int(number_of), _size(size)


def _key(text: str) -> tuple[str, Key]:
    words = text.split(":", 2)
    if len(words) < 2 or not all(words):
        # Not repeated: it may hold a secret.
        raise argparse.ArgumentTypeError("not ID:SECRET or ID:SECRET:TOKEN")
    return words[0], Key(words[1], words[0], words[2] if len(words) == 3 else None)


if __name__ == "__main__":
    sys.exit(main())
