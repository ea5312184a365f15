"""One run of the power cut test: a load on a recorded disk, cut off, and a verdict of each image that is left.

Started as a program of its own, in mount and pid namespaces of its own (``run_in_namespaces``): whatever ends it, its
mounts, its loop devices and its processes end with it. Argument: an ``Order`` as JSON. Tells on stdout, as JSON, one
line for each image and one for the whole run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fetcher.testing import Hub, hub_in_thread
from fetcher.testing.faults import Trickle
from tests.support.cli import CHECKOUT
from tests.torture import world
from tests.torture.crash_log import LOSSES, CrashLog, Cut
from tests.torture.devices import FILE_SYSTEMS, MIB, FileSystem, check, make, mounted, run
from tests.torture.judge import Judge, Testimony, Verdict
from tests.torture.judging import UNLIMITED

HERE = Path(__file__).parent
CONNECTIONS = 4
SYNC_BYTES = 4 * MIB
PROMISES_MIN = 3
"""The load runs on until so many were made, …"""
PATIENCE_S = 15.0
"""… but not longer than this."""
LINE = 6 * MIB
"""Bytes a second of one body: large files are under way for a while."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is to do."""

    directory: str
    """An empty one, on a disk with some hundred MiB free."""
    file_system: str
    seed: int
    images: int
    seconds: float
    """That the load runs until the power is cut."""
    processes: int = 1
    generations: int = 1
    """After the first power cut the next load starts on what that has left, and is cut off as well; and so on."""
    flush_s: float = 0.004
    """How long the disk takes for a flush."""
    fault: str | None = None
    """One that is planted into the workload (see there); then the power is cut right after promises."""


def run_in_namespaces(order: Order, *, timeout_s: float) -> list[dict[str, Any]]:
    """The lines that a run has told. Raises AssertionError with what it said if it failed by itself."""
    completed = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
            *(sys.executable, __file__, json.dumps(asdict(order))),
        ],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr.decode()
    return [json.loads(line) for line in completed.stdout.splitlines()]


def _environment() -> dict[str, str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    return environ | {name: value for name, value in os.environ.items() if name in ("FETCHER_NATIVE", "TMPDIR")}


# --- the run ---------------------------------------------------------------------------------------------------------


def carry_out(order: Order) -> None:
    work = Path(order.directory)
    file_system = FILE_SYSTEMS[order.file_system]
    dice = random.Random(f"{order.seed}:{order.file_system}")
    carried: list[dict[str, Any]] = []
    base = work / "base-0"
    make(file_system, base)
    # By an announced quota each client would pace itself, for minutes once the loads before have used it up.
    with hub_in_thread(Hub(seed=order.seed, quotas=UNLIMITED)) as hub:
        world.fill(hub)
        options = _options(hub)
        judge = Judge(hub, options, connections=CONNECTIONS, processes=order.processes)
        for generation in range(order.generations):
            disk = _Disk(base, work / "disk", work / "log", order.flush_s)
            hub.faults.add(Trickle(LINE).on("cdn"))
            facts, began, ended = _load_and_cut(order, generation, file_system, disk, options)
            hub.faults.clear()
            testimony = Testimony([carried, *facts])
            log = CrashLog(disk.base, disk.log)
            for cut in _choose(order, log, testimony, began, ended, dice):
                image = work / "image"
                log.image(cut, image)
                verdict = _judge(judge, file_system, image, testimony, cut)
                _say(
                    event="image",
                    file_system=order.file_system,
                    generation=generation,
                    cut=str(cut),
                    at_s=round(cut.time - began, 3),
                    requests=log.before(cut.time),
                    unflushed=log.unflushed(cut.time),
                    **asdict(verdict),
                )
            _say(
                event="load",
                file_system=order.file_system,
                generation=generation,
                seed=order.seed,
                requests=len(log),
                promised=len(testimony.promise_times()),
                failures=testimony.failures,
            )
            last = Cut(dice.uniform((began + ended) / 2, ended), dice.choice(LOSSES), dice.randrange(1 << 30))
            base = work / f"base-{generation + 1}"
            log.image(last, base)
            carried = testimony.carried(last.time)


@dataclass(frozen=True, slots=True)
class _Disk:
    """Where a recorded disk is."""

    base: Path
    place: Path
    log: Path
    flush_s: float


def _options(hub: Hub) -> dict[str, Any]:
    return {
        "allow_net": "127.0.0.0/8",
        "hf_endpoint": hub.endpoint,
        "part_bytes": MIB,
        "connections_max": CONNECTIONS,
        "sync_bytes": SYNC_BYTES,
        "connect_timeout_s": 20.0,
        "part_idle_timeout_s": 20.0,
        "part_slow_window_s": 20.0,
        "no_progress_timeout_s": 30.0,
        "api_timeout_s": 20.0,
        "backoff_min_s": 0.01,
        "backoff_max_s": 0.1,
        "space_floor_bytes": 0,
        "gc_grace_s": 1.0,
        "keep_for_s": 1e9,
        "fresh_for_s": 1e9,
    }


def _load_and_cut(
    order: Order, generation: int, file_system: FileSystem, disk: _Disk, options: dict[str, Any]
) -> tuple[list[list[dict[str, Any]]], float, float]:
    """What the load said, and when it began and ended."""
    with _recording(disk), mounted(file_system, disk.place, disk.place.with_name("running"), direct=True) as place:
        orders = [
            {
                "options": {**options, "cache_dir": str(place / "cache")},
                "seed": (order.seed * 100 + generation) * 100 + number,
                "uris": world.uris(),
                "fault": order.fault,
            }
            for number in range(order.processes)
        ]
        return _run_workloads(orders, order.seconds)


@contextmanager
def _recording(disk: _Disk) -> Iterator[None]:
    disk.place.touch()
    order = {"place": str(disk.place), "base": str(disk.base), "log": str(disk.log), "flush_s": disk.flush_s}
    with subprocess.Popen(
        [sys.executable, HERE / "recording_disk.py", json.dumps(order)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n", "the disk did not appear"
            yield
        finally:
            run("umount", disk.place)
            process.wait(timeout=20)


def _run_workloads(orders: list[dict[str, Any]], seconds: float) -> tuple[list[list[dict[str, Any]]], float, float]:
    told: list[list[bytes]] = [[] for _ in orders]
    processes = [
        subprocess.Popen([sys.executable, HERE / "workload.py", json.dumps(order)], stdout=subprocess.PIPE)
        for order in orders
    ]
    readers = [
        threading.Thread(target=lambda lines, stream: lines.extend(stream), args=(lines, process.stdout))
        for lines, process in zip(told, processes, strict=True)
    ]
    for reader in readers:
        reader.start()
    try:
        deadline = time.monotonic() + 20
        while not all(told):
            assert time.monotonic() < deadline, "the workload did not begin"
            time.sleep(0.01)
        began = time.monotonic()
        time.sleep(seconds)
        # A busy machine is given time, or there would be nothing to lose.
        while time.monotonic() < began + seconds + PATIENCE_S and _promises(told) < PROMISES_MIN:
            time.sleep(0.1)
        ended = time.monotonic()
        assert all(process.poll() is None for process in processes), "the workload has ended by itself"
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process, reader in zip(processes, readers, strict=True):
            process.wait()
            reader.join()
    # The last line may be cut in the middle.
    facts = [[json.loads(line) for line in lines if line.endswith(b"\n")] for lines in told]
    return facts, began, ended


def _promises(told: list[list[bytes]]) -> int:
    return sum(b'"promised"' in line for lines in told for line in lines)


def _choose(
    order: Order, log: CrashLog, testimony: Testimony, began: float, ended: float, dice: random.Random
) -> list[Cut]:
    """When the power is cut: at any time; just before a flush, when most is at stake; right after a promise."""
    promises = [when for when in testimony.promise_times() if began < when < ended]
    if order.fault:
        fresh = [when for when in testimony.publish_times() if when < ended]
        return [Cut(when, "everything", 0) for when in sorted(dice.sample(fresh, min(order.images, len(fresh))))]
    flushes = log.times_of_flushes(began, ended)
    cuts = []
    first = dice.randrange(3)
    for number in range(order.images):
        at_any_time = dice.uniform(began, ended)
        when = (at_any_time, dice.choice(flushes), dice.choice(promises or [at_any_time]))[(first + number) % 3]
        cuts.append(Cut(when, dice.choice(LOSSES), dice.randrange(1 << 30)))
    return sorted(cuts, key=lambda cut: cut.time)


def _judge(judge: Judge, file_system: FileSystem, image: Path, testimony: Testimony, cut: Cut) -> Verdict:
    with mounted(file_system, image, image.with_name("recovered")) as place:
        verdict = judge.judge(place / "cache", testimony, cut.time)
    check(file_system, image)
    return verdict


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    carry_out(Order(**json.loads(sys.argv[1])))
