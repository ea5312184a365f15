"""An S3 that states of its objects what Amazon's may: the embedded one, in a process of its own, over files on disk.

Takes objects as KEY=PATH and what is stated of each, prints its endpoint as one line of JSON when everything has been
computed, and ends with its standard input. What the files have by then is what is stated of them from then on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.origins.processes import own_module, talking
from benchmarks.running.options import MIB
from fetcher.testing import S3, s3_in_thread
from fetcher.testing.s3.checksums import Algorithm

BUCKET = "bucket"
PART_BYTES = 8 * MIB
"""Of what is uploaded in parts: what the usual tools take."""
_CHECKSUMS: tuple[Algorithm, ...] = ("crc32", "crc64nvme")


def _add(s3: S3, text: str, *, in_parts: bool, checksum: str) -> None:
    key, _, path = text.partition("=")
    algorithm = next((known for known in _CHECKSUMS if known == checksum), None)
    bucket = next((bucket for bucket in s3.buckets if bucket.name == BUCKET), None) or s3.add_bucket(BUCKET)
    bucket.public = True
    stored = bucket.put(key, Path(path), part_bytes=PART_BYTES if in_parts else None, checksum=algorithm)
    if algorithm is not None:
        _ = stored.checksum_value  # computed when it is first asked for, else: of other bytes


@contextmanager
def stating_s3(objects: Mapping[str, tuple[Path, bool, str]]) -> Iterator[str]:
    """Its endpoint. ``objects``: key → file, whether it was uploaded in parts, and which checksum is stated or ""."""
    told = [
        f"{checksum}:{'parts' if parts else 'whole'}:{key}={path}" for key, (path, parts, checksum) in objects.items()
    ]
    with talking(own_module("stating", *told)) as partner:
        endpoint: str = partner.told()["endpoint"]
        yield endpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", nargs="+", metavar="CHECKSUM:whole|parts:KEY=PATH")
    s3 = S3()
    for text in parser.parse_args().objects:
        checksum, upload, named = text.split(":", 2)
        _add(s3, named, in_parts=upload == "parts", checksum=checksum)
    with s3_in_thread(s3):
        print(json.dumps({"endpoint": s3.endpoint}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
