"""``python -m fetcher.testing.s3``: serve an embedded S3 until stopped, for demonstrations and experiments.

Prints one JSON line when it listens and one when it stops; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fetcher.testing import serving
from fetcher.testing.contents import Synthetic
from fetcher.testing.demo import model_files
from fetcher.testing.s3.access import Key
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.server import S3

_PART_BYTES = 8 << 20
"""What the usual upload tools take for parts, and the size from which they upload in parts."""

DEMO_KEY_ID = "AKIAEMBEDDEDDEMO"
DEMO_SECRET = "demo-secret-only-good-for-the-embedded-s3"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return serving.run(_parser(), arguments, _s3, _facts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fetcher.testing.s3",
        description="Serve an embedded, read-only S3 on this machine. Point a client at the printed endpoint.",
        epilog="Sizes are bytes, or end in K, M or G (powers of 1024). Without any content a small model is served "
        f"as bucket. Without --key the key {DEMO_KEY_ID} with the secret {DEMO_SECRET} opens everything.",
    )
    content = parser.add_argument_group("content")
    content.add_argument(
        "--directory", type=serving.directory, help="serve this directory: each sub-directory is a bucket"
    )
    content.add_argument(
        "--bucket", default="models", help="name of the bucket for what follows (default: %(default)s)"
    )
    content.add_argument(
        "--object",
        type=serving.named_size("KEY=SIZE"),
        action="append",
        default=[],
        metavar="KEY=SIZE",
        help="a generated object",
    )
    content.add_argument("--small-objects", type=serving.many, metavar="COUNTxSIZE", help="many generated objects")
    content.add_argument(
        "--part-bytes", type=serving.size, default=_PART_BYTES, metavar="SIZE", help="of uploads in parts"
    )
    access = parser.add_argument_group("access")
    access.add_argument(
        "--key", type=_key, action="append", default=[], metavar="ID:SECRET[:TOKEN]", help="a valid key"
    )
    access.add_argument("--private", action="store_true", help="nothing without a key (default: anybody may read)")
    access.add_argument("--no-list", action="store_true", help="nobody may list without a key")
    manners = serving.add_address(parser, "(default: a free one)")
    manners.add_argument("--domain", default="s3.test", help="below it a host is a bucket (default: %(default)s)")
    manners.add_argument("--region", default="us-east-1")
    manners.add_argument("--any-region", action="store_true", help="take signatures for whatever region")
    manners.add_argument("--page-keys", type=int, default=1000, metavar="N", help="keys on a page of a listing")
    serving.add_pace_and_end(parser, manners)
    return parser


def _s3(options: argparse.Namespace) -> S3:
    s3 = S3(
        keys=dict(options.key) or {DEMO_KEY_ID: Key(DEMO_SECRET, "demo")},
        region=options.region,
        any_region=options.any_region,
        domains=(options.domain,),
        page_keys=options.page_keys,
        faults=serving.pace(options),
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
    generated |= serving.small_contents(options.small_objects)
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


def _facts(s3: S3) -> dict[str, object]:
    buckets = [
        {
            "name": bucket.name,
            "objects": len(bucket.objects),
            "bytes": sum(stored.content.size for stored in bucket.objects.values()),
            "public": bucket.public,
        }
        for bucket in s3.buckets
    ]
    return {"endpoint": s3.endpoint, "region": s3.region, "buckets": buckets}


def _key(text: str) -> tuple[str, Key]:
    words = text.split(":", 2)
    if len(words) < 2 or not all(words):
        # Not repeated: it may hold a secret.
        raise argparse.ArgumentTypeError("not ID:SECRET or ID:SECRET:TOKEN")
    return words[0], Key(words[1], words[0], words[2] if len(words) == 3 else None)


if __name__ == "__main__":
    sys.exit(main())
