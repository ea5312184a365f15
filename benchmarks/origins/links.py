"""A long link on this machine: two network namespaces, and between them the delay emulator (../emulator.c).

Needs root.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.native.compiled import EMULATOR
from benchmarks.origins.processes import talking
from benchmarks.running.work import Unusable, program

SERVER = "10.77.0.1"
CLIENT = "10.77.0.2"
NETWORK = "10.77.0.0/30"
MTU_BYTES = 9000
"""Few large packets: the emulator pays two system calls for each, and 155 MiB/s is its limit on two cores."""
BITS_PER_S = 1e9
LOST_PER_MILLION = 0
QUEUE_MS = 60
TRANSMIT_QUEUE_PACKETS = 20_000
TUN = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True)
class Link:
    """Two namespaces that see each other, and nobody else."""

    server: str
    client: str

    def at_server(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.server)

    def at_client(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.client)


def links_here() -> str:
    """What of them this machine has. Raises Unusable."""
    if os.geteuid() != 0:
        raise Unusable("network namespaces need root")
    program("ip")
    program("gcc")
    if not TUN.exists():
        raise Unusable(f"there is no {TUN}")
    return f"root, ip, gcc, {TUN}"


@contextmanager
def link(*, round_trip_ms: float = 40.0) -> Iterator[Link]:
    """A link of 1 Gbit/s with a fixed delay and a queue of 60 ms each way, until the block is left."""
    links_here()
    pair = Link(f"fetcher-bench-{os.getpid()}-server", f"fetcher-bench-{os.getpid()}-client")
    emulator = EMULATOR.build()
    made = []
    try:
        for name in (pair.server, pair.client):
            _ip("netns", "add", name)
            made.append(name)
        arguments = (BITS_PER_S, round_trip_ms / 2 * 1000, QUEUE_MS * 1000, LOST_PER_MILLION)
        spaces = [f"/run/netns/{name}" for name in (pair.server, pair.client)]
        command = [str(emulator), *spaces, *(f"{value:.0f}" for value in arguments)]
        with talking(command) as partner:
            if partner.line() != "ready\n":
                raise Unusable(f"the link's emulator did not start: is there a {TUN}?")
            for name, own, other in ((pair.server, SERVER, CLIENT), (pair.client, CLIENT, SERVER)):
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "address", "add", own, "peer", other, "dev", "link0")
                queue = ("txqueuelen", str(TRANSMIT_QUEUE_PACKETS))
                _ip("-n", name, "link", "set", "link0", "mtu", str(MTU_BYTES), *queue, "up")
            yield pair
    finally:
        for name in made:
            _ip("netns", "delete", name)


def received_bytes(pid: int) -> int:
    """What has come over the link into the namespace of a process; 0 while it is not in it."""
    try:
        text = Path(f"/proc/{pid}/net/dev").read_text()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.strip().startswith("link0:")), None)
    return int(line.partition(":")[2].split()[0]) if line else 0


def _ip(*arguments: str) -> None:
    for again in (True, False):  # a namespace is busy for a moment when the last process in it has just ended
        done = subprocess.run([program("ip"), *arguments], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if not again or arguments[:2] != ("netns", "delete"):
            raise Unusable(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
        time.sleep(0.5)
