"""An S3: ``rclone serve s3`` over folders of a tmpfs."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.origins.processes import READY_S, cpu_s, free_ports, running, written_bytes
from benchmarks.running.work import Unusable, program, program_version


@dataclass(frozen=True, slots=True)
class Rclone:
    """A running ``rclone serve s3``."""

    process: subprocess.Popen[bytes]
    endpoint: str

    def version(self) -> str:
        return program_version("rclone", "version")()

    def cpu_s(self) -> float:
        return cpu_s(self.process.pid)

    def sent_bytes(self) -> int:
        return written_bytes(self.process.pid)

    def hash_all(self, keys: Iterable[str]) -> None:
        """Have it compute the MD5 of each object, as it does when it first is asked for it; a real S3 has them.

        Raises Unusable.
        """
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"))
        try:
            for key in keys:
                connection.request("HEAD", f"/{key}")
                connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise Unusable(f"rclone serve s3 did not answer: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()


def rclone_here() -> str:
    """What of it this machine has. Raises Unusable."""
    program("rclone")
    return program_version("rclone", "version")()


@contextmanager
def rclone_s3(data: Path, directory: Path) -> Iterator[Rclone]:
    """``rclone serve s3``, anonymous, over ``data``, where each folder is a bucket."""
    (port,) = free_ports(1)
    command = [program("rclone"), "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}"]
    # How long rclone remembers folders: what is in them does not change here.
    options = ["--dir-cache-time", "1h", "--cache-dir", str(directory / "rclone-cache")]
    with running([*command, *options, str(data)]) as process:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unusable("rclone serve s3 did not start (it came with rclone 1.65)") from None
                time.sleep(0.05)
        yield Rclone(process, f"http://127.0.0.1:{port}")
