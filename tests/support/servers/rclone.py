"""``rclone serve s3`` over a directory: the odd one of the S3 servers (200 with Content-Range for a range, If-Match
ignored, the whole object's checksum on a range), and the one for throughput, anonymous access and TLS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import ORDINARY_UID, User
from tests.support.servers.certificates import self_signed
from tests.support.servers.places import program
from tests.support.servers.process import accepts, free_port, running, server_directory
from tests.support.servers.s3client import S3Server

ACCESS_KEY = "AKIDRCLONE"
SECRET_KEY = "rclone-secret+/="
DIRECTORIES_KEPT_S = 0.01
"""How long rclone remembers a directory: hardly, so that a file put there by other ways is seen. With 0, rclone 1.75
keeps a whole core busy from the first upload on."""


@dataclass(frozen=True, slots=True)
class RcloneServer(S3Server):
    """A running ``rclone serve s3``."""

    data: Path = Path()
    """Each directory in it is a bucket, each file in that an object."""

    def fill(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Put objects there as files: for thousands of them, which take 30 ms each as requests."""
        for key, body in objects.items():
            path = self.data / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        time.sleep(2 * DIRECTORIES_KEPT_S)


@contextmanager
def run_rclone(
    *,
    anonymous: bool = False,
    tls: bool = False,
    arguments: tuple[str, ...] = (),
    user: User = "current",
) -> Iterator[RcloneServer]:
    """A running rclone, empty. ``arguments`` such as ``--bwlimit``. Takes 0.2 s; needs ``program:rclone``."""
    with server_directory("rclone", user=user) as directory:
        data = directory / "data"
        data.mkdir()
        port = free_port()
        command: list[str | Path] = [
            program("rclone"),
            "serve",
            "s3",
            "--config",
            "",
            "--addr",
            f"127.0.0.1:{port}",
            *arguments,
        ]
        if not anonymous:
            command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        authority_file = None
        if tls:
            identity = self_signed(directory, "tls")
            command += ["--cert", identity.certificate, "--key", identity.key]
            authority_file = str(identity.certificate)
        if user == "ordinary":
            for path in directory.iterdir():
                os.chown(path, ORDINARY_UID, ORDINARY_UID)
        kept = f"{DIRECTORIES_KEPT_S * 1000:.0f}ms"
        command += ["--dir-cache-time", kept, "--cache-dir", directory / "cache", data]
        with running("rclone", command, directory=directory, ready=lambda: accepts(port), user=user) as server:
            yield RcloneServer(
                endpoint=f"{'https' if tls else 'http'}://127.0.0.1:{port}",
                access_key=None if anonymous else ACCESS_KEY,
                secret_key="" if anonymous else SECRET_KEY,
                region="us-east-1",
                server=server,
                authority_file=authority_file,
                data=data,
            )
