"""Where the CPU time of a large file goes: `python -m benchmarks.profile --size 4GiB`.

Runs `fetcher get` and the C client under Linux `perf` (Debian: linux-perf), which interrupts them a thousand times per
CPU second and looks what they are doing, and sums up by what that is for. Prints a Markdown table, CPU seconds per GiB.
Sampling costs some percent, and belongs to nobody: compare columns with each other, not with the other tables.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import nginx
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Conditions, run
from benchmarks.running.options import BIG, GIB, size
from benchmarks.running.race import room_in, touching
from benchmarks.running.work import Way, Work
from benchmarks.scenarios.files import BIG_REPO

SAMPLES_PER_S = 997
"""Prime, so that nothing regular is met or missed each time."""

GROUPS: tuple[tuple[str, str, str], ...] = (
    # What it is for, the library, the function; the first that fits.
    ("TLS", r"libcrypto|libssl", ""),
    ("BLAKE3, SHA-256", r"(sink|blake3|sha256)\.", ""),
    ("BLAKE3, SHA-256", r"reference", r"blake3|sha256|hash|compress|lanes|round"),
    ("Python: interpreter and start-up", r"python|cpython-|ld-linux|libpython", ""),
    ("libc, memory moved by it", r"libc\.|libpthread", ""),
    ("copy from the socket", r"kernel", r"copy_to_iter|copy_to_user|skb_datagram_iter|skb_copy|check_object_size"),
    ("copy into the file", r"kernel", r"copy_folio_from_iter|copy_page_from_iter|fault_in_readable"),
    (
        "pages of the file",
        r"kernel",
        r"shmem|folio|alloc_pages|clear_page|page|memcg|mem_cgroup|charge|rmqueue|xas_|xarray|lru|vm_enough|dquot|list_del",
    ),
    (
        "TCP and waking up",
        r"kernel",
        r"tcp|ip_|skb|sock|softirq|net_|dev_|xmit|inet|napi|epoll|eventfd|futex|wake|sched|switch|spin_unlock_irqrestore",
    ),
    ("writers of one file waiting for each other", r"kernel", r"rwsem|mutex|osq"),
    ("the rest of the kernel", r"kernel", ""),
)
OTHER = "other"
ORDER = [*dict.fromkeys(name for name, _, _ in GROUPS), OTHER]


def group_of(library: str, function: str) -> str:
    """What a sample was taken in."""
    for name, libraries, functions in GROUPS:
        if re.search(libraries, library) and re.search(functions, function):
            return name
    return OTHER


def profiled(work: Work, rival: str, way: Way, conditions: Conditions) -> Counter[str]:
    """Samples by group."""
    command = RIVALS[rival].ways[way](work)
    with tempfile.TemporaryDirectory() as directory:
        data = f"{directory}/perf.data"
        record = ("perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-o", data, "--")
        run(replace(command, arguments=(*record, *command.arguments)), conditions)
        report = ("perf", "report", "-q", "-i", data, "-F", "sample,dso,sym", "--stdio", "-t", "|", "-w", "9,200,200")
        told = subprocess.run(report, capture_output=True, text=True, check=True).stdout
    found: Counter[str] = Counter()
    for line in told.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[0].isdigit():
            found[group_of(fields[1], fields[2])] += int(fields[0])
    return found


def _columns(size_bytes: int, memory: Path) -> Iterator[tuple[str, Counter[str]]]:
    with room_in(memory, 2 * size_bytes) as room:
        root = room / "root"
        contents.large(root / "big" / BIG, size_bytes)
        with nginx(room / "nginx", root, {BIG_REPO: "big"}) as server:
            columns: tuple[tuple[str, str, Way, str], ...] = (
                ("HTTP", server.plain, "file", "fetcher"),
                ("HTTP, C with BLAKE3", server.plain, "file", "C, BLAKE3"),
                ("HTTP and SHA-256", server.plain, "repo", "fetcher"),
                ("HTTPS", server.tls, "file", "fetcher"),
                ("HTTPS, C with BLAKE3", server.tls, "file", "C, BLAKE3"),
            )
            for title, base, way, rival in columns:
                certificate = server.certificate if base == server.tls else None
                with room_in(room) as sink:
                    where = Work(f"{base}/big", (BIG,), sink, hub=server.hub, repo=BIG_REPO, certificate=certificate)
                    conditions = Conditions(touch_bytes=touching(size_bytes))
                    yield title, profiled(where, rival, way, conditions)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.profile", description=__doc__)
    parser.add_argument("--size", type=size, default=4 * GIB, help="of the file (4GiB)")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs, for origin and outputs")
    given = parser.parse_args()
    columns = list(_columns(given.size, given.memory))
    per_gib = SAMPLES_PER_S * given.size / GIB
    """Samples of a CPU second per GiB."""
    print("| CPU s/GiB | " + " | ".join(title for title, _ in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in ORDER:
        if any(found[name] >= 0.005 * per_gib for _, found in columns):
            print(f"| {name} | " + " | ".join(f"{found[name] / per_gib:.2f}" for _, found in columns) + " |")
    print("| **all** | " + " | ".join(f"**{found.total() / per_gib:.2f}**" for _, found in columns) + " |")


if __name__ == "__main__":
    main()
