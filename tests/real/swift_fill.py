"""Puts thousands of objects into Swift by its own library: ``python -m tests.real.swift_fill DIRECTORY CONTAINER``.

JSON (key → hex of the body) comes on stdin. Through the front door each would take 12 ms of a whole processor.

Each object is written, and listed in its container's database, by the code with which Swift's servers do it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from swift.common import utils
from swift.common.storage_policy import POLICIES, reload_storage_policies
from swift.common.utils import Timestamp, hash_path
from swift.container.backend import ContainerBroker
from swift.obj.diskfile import DiskFileManager

ACCOUNT = "AUTH_test"
TYPE = "application/octet-stream"


def main(directory: Path, container: str, objects: dict[str, bytes]) -> None:
    """Fill ``container``, which is there already and empty."""
    os.fsync = lambda fd: None  # a test that is cut off by the power starts anew
    utils.set_swift_dir(str(directory))
    reload_storage_policies()
    devices = directory / "devices"
    manager = DiskFileManager({"devices": str(devices), "mount_check": "false"}, logging.getLogger("swift_fill"))
    rows: list[dict[str, Any]] = []
    for key, body in objects.items():
        at = Timestamp.now()
        etag = hashlib.md5(body).hexdigest()
        partition = int(hash_path(ACCOUNT, container, key)[:8], 16) >> 28  # rings of 16 partitions
        file = manager.get_diskfile("d1", partition, ACCOUNT, container, key, POLICIES.legacy)
        with file.create(size=len(body)) as writer:
            writer.write(body)
            writer.put(
                {"X-Timestamp": at.internal, "Content-Type": TYPE, "Content-Length": str(len(body)), "ETag": etag}
            )
        rows.append(
            {
                **{"name": key, "created_at": at.internal, "size": len(body), "content_type": TYPE, "etag": etag},
                **{"deleted": 0, "storage_policy_index": 0},
            }
        )
    name = hash_path(ACCOUNT, container)
    (database,) = (devices / "d1" / "containers").rglob(f"{name}.db")
    ContainerBroker(str(database), account=ACCOUNT, container=container).merge_items(rows)


if __name__ == "__main__":
    os.umask(0o022)
    given = json.load(sys.stdin)
    main(Path(sys.argv[1]), sys.argv[2], {key: bytes.fromhex(body) for key, body in given.items()})
