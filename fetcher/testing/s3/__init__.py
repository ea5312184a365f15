"""An embedded S3 for tests, demonstrations and benchmarks: ``S3`` and ``s3_in_thread``.

Read only, and as strict as Amazon's: signatures, regions, conditions, checksums, refusals. The manners of other stores
and of front ends are ``Quirks`` and ``Site``; what no honest server does is a fault.
"""

from fetcher.testing.s3.access import Key
from fetcher.testing.s3.buckets import Bucket, S3Object
from fetcher.testing.s3.hostility import (
    HOSTILE_KEYS,
    EndlessPages,
    ExtraRows,
    ListGarbage,
    MissingToken,
    RedirectElsewhere,
    RepeatedToken,
    S3Error,
    SlowDownAbove,
    WrongPrefixEchoed,
    add_hostile_objects,
)
from fetcher.testing.s3.listing import Row
from fetcher.testing.s3.quirks import AWS, CEPH, RCLONE, Quirks
from fetcher.testing.s3.server import S3, s3_in_thread
from fetcher.testing.s3.sites import Site

__all__ = [
    "AWS",
    "CEPH",
    "HOSTILE_KEYS",
    "RCLONE",
    "S3",
    "Bucket",
    "EndlessPages",
    "ExtraRows",
    "Key",
    "ListGarbage",
    "MissingToken",
    "Quirks",
    "RedirectElsewhere",
    "RepeatedToken",
    "Row",
    "S3Error",
    "S3Object",
    "Site",
    "SlowDownAbove",
    "WrongPrefixEchoed",
    "add_hostile_objects",
    "s3_in_thread",
]
