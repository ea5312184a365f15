"""Ended in the middle: kill -9, a cancelled task, Ctrl-C. What was whole is not asked for again."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fetcher import hashing
from fetcher.cache.partials import Partial
from fetcher.engine.disk import Disk
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest, StallAfter, Trickle
from tests.e2e.support import (
    MIB,
    REPO,
    RESUMES,
    Child,
    Gate,
    assert_whole,
    fetch,
    fetcher_of,
    held_by,
    nothing_visible,
    options,
    partial_files,
    proven_blocks,
    tree_of,
    until,
    wait_until,
)
from tests.support.cli import CommandLine

WEIGHTS = "weights.safetensors"
CONNECTIONS = 4
KILLS = 3
SIZE = (1024 if os.environ.get("FETCHER_TEST_ALL") == "1" else 192) * MIB + 4321
SMALLER = 160 * MIB + 4321
"""Enough to show that the judge bites; a client that starts from zero fetches it some times over."""
LINE = 24 * MIB
"""Bytes a second of one body: the line is the limit, not the client. Where disk or CPU is, a connection may hold a
second whole block that waits for its worker call."""
READ_AHEAD = MIB // 2
"""Per connection: what the transport may have read before it is asked for."""


def in_socket_buffers(port: int) -> int:
    """Bytes that ``port`` has sent and nobody has read yet, on either side of its loopback connections."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        sent, received = (int(number, 16) for number in queues.split(":"))
        if int(local.rpartition(":")[2], 16) == port:
            total += sent
        elif int(remote.rpartition(":")[2], 16) == port:
            total += received
    return total


def state_of(pid: int) -> str:
    """One letter, as ps shows it: T is stopped, Z has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def killed_three_times(hub: Hub, cache_dir: Path, dice: random.Random, size: int, *, forget: bool) -> tuple[int, int]:
    """Bytes asked again over three kills at random points and a success; and how many the contract allows."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 3)})
    hub.faults.add(Trickle(LINE).on("cdn"))
    settings = options(hub, cache_dir, connections_max=CONNECTIONS, part_bytes=4 * MIB, part_idle_timeout_s=10.0)
    port = int(hub.cdn_endpoint.rpartition(":")[2])
    allowed = 0
    for mark in sorted(dice.uniform(0.2, 0.92) for _ in range(KILLS)):
        with Child(settings) as child:
            assert child.line()["event"] == "ready"
            while hub.body_bytes_sent() < mark * size and child.process.poll() is None:
                time.sleep(0.003)
            child.send(signal.SIGSTOP)
            while state_of(child.process.pid) not in "TZ":
                time.sleep(0.001)
            # The hub goes on until its parts are sent or the buffers full; only then the two numbers belong together.
            sent = -1
            while sent != hub.body_bytes_sent():
                sent = hub.body_bytes_sent()
                time.sleep(0.15)
            allowed += in_socket_buffers(port) + CONNECTIONS * (MIB + READ_AHEAD)
            child.send(signal.SIGKILL)
            assert child.process.wait() == -signal.SIGKILL, "it had finished before it was killed"
        # On a busy machine the hub may only have paused. What it said from then on has reached nobody.
        wait_until(lambda: all(record.ended for record in hub.requests.select("cdn")))
        allowed += hub.body_bytes_sent() - sent
        nothing_visible(cache_dir)
        if forget:
            shutil.rmtree(cache_dir / "partials-v1")
            (cache_dir / "partials-v1").mkdir(mode=0o700)
    with Child(settings) as child:
        done = child.done()
    assert tree_of(Path(done["paths"][0])) == held_by(hub)
    return hub.body_bytes_sent() - size, allowed


@pytest.mark.needs("native")
def test_kill_nine_three_times_asks_only_for_what_was_not_whole(
    hub: Hub, cache_dir: Path, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    again, allowed = killed_three_times(hub, cache_dir, rng, SIZE, forget=False)
    with capsys.disabled():
        said = f"{SIZE >> 20} MiB, {KILLS} kills: {again / MIB:.1f} MiB asked again, {allowed / MIB:.1f} allowed"
        print(f"\n  {said} ", end="")
    assert again <= allowed


def test_the_same_judge_catches_a_client_that_starts_from_zero(hub: Hub, cache_dir: Path, rng: random.Random) -> None:
    again, allowed = killed_three_times(hub, cache_dir, rng, SMALLER, forget=True)
    assert again > allowed


def test_killed_while_small_files_are_published(hub: Hub, cache_dir: Path, rng: random.Random) -> None:
    count = 400
    hub.add_repo(REPO, files={f"{n:03}.txt": f"text {n}" for n in range(count)} | {"w.bin": Synthetic(3 * MIB, 1)})
    for _ in range(3):
        before = len(hub.requests)
        mark = before + rng.randrange(20, 120)
        with Child(options(hub, cache_dir)) as child:
            assert child.line()["event"] == "ready"
            while len(hub.requests) < mark and child.process.poll() is None:
                time.sleep(0.001)
            child.send(signal.SIGKILL)
        assert list((cache_dir / "snapshots-v1").glob("*.json")) == [] or mark > count
    assert_whole(fetch(hub, cache_dir).snapshot, hub)


@pytest.mark.needs("native")
def test_a_block_that_can_not_be_read_is_asked_for_again(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector in what an earlier run left costs its block, and not the resource."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(16 * MIB, 1)})
    gate = Gate()
    hub.faults.add(OnRequest(gate).on("cdn", skip=12))
    with Child(options(hub, cache_dir, connections_max=1)) as first:
        wait_until(lambda: proven_blocks(cache_dir) >= 6)
        first.process.kill()
    kept = proven_blocks(cache_dir)
    hub.faults.clear()
    gate.open()
    scan = hashing.scan_file

    def scan_file(fd: int, offset: int, length: int, *arguments: Any, **more: Any) -> list[int]:
        if offset <= 2 * MIB < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scan(fd, offset, length, *arguments, **more)

    monkeypatch.setattr(hashing, "scan_file", scan_file)
    outcome = fetch(hub, cache_dir)
    assert_whole(outcome.snapshot, hub)
    assert outcome.downloaded == (16 - kept + 1) * MIB


# --- stopped politely ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.7])
def test_a_cancelled_fetch_ends_at_once_and_resumes(hub: Hub, cache_dir: Path, moment: float) -> None:
    size = 8 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    # Left alone it would never end, nor would anything in it for a minute.
    hub.faults.add(StallAfter(MIB // 2).on("cdn", skip=int(moment * 8)))

    async def main() -> None:
        patience = {"part_idle_timeout_s": 60.0, "part_slow_window_s": 60.0, "no_progress_timeout_s": 60.0}
        async with fetcher_of(hub, cache_dir, connections_max=2, **patience) as fetcher:
            task = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
            await until(lambda: hub.body_bytes_sent() > moment * size)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 20.0
            # The same object goes on: nothing of the cancelled run stands in its way.
            hub.faults.clear()
            sent = hub.body_bytes_sent()
            outcome = await fetcher.fetch(f"hf://{REPO}")
            assert_whole(outcome.snapshot, hub)
            kept = int(moment * size) - 2 * 2 * MIB
            assert hub.body_bytes_sent() - sent <= (size - kept if RESUMES else size)

    asyncio.run(main())


def test_cancelled_twice(hub: Hub, cache_dir: Path) -> None:
    """An impatient caller cancels the clean-up as well. The next fetch must not wait for what that cut short."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(6 * MIB, 1), "other.bin": Synthetic(3 * MIB, 2), "a.txt": "a"})

    async def main() -> None:
        async with fetcher_of(hub, cache_dir, connections_max=3, no_progress_timeout_s=20.0) as fetcher:
            for turns in range(6):
                hub.faults.add(Trickle(MIB).on("cdn"))
                hub.requests.clear()
                task = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
                await until(lambda: hub.body_bytes_sent() > 0)
                task.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                hub.faults.clear()
            assert_whole((await fetcher.fetch(f"hf://{REPO}")).snapshot, hub)

    asyncio.run(main())


def test_cancelled_during_a_slow_write(hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk has can't be taken back: cancelling waits for it, and nothing is written after that."""
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(6 * MIB, 1)})
    begin, end, collect = Partial.begin_block, Partial.end_block, Disk._collect
    under_way, ended, late = set[int](), list[float](), list[asyncio.TimerHandle]()

    def begun(self: Partial, block: int, *, direct: bool = False) -> tuple[int, int, int, int]:
        under_way.add(block)
        return begin(self, block, direct=direct)

    def over(self: Partial, block: int, value: bytes) -> None:
        end(self, block, value)
        under_way.discard(block)
        ended.append(time.monotonic())

    def slow(self: Disk) -> None:
        if not late:  # whoever does not wait for it is through long before
            late.append(asyncio.get_running_loop().call_later(0.3, lambda: (late.clear(), collect(self))))

    async def main() -> None:
        async with fetcher_of(hub, cache_dir, connections_max=3) as fetcher:
            monkeypatch.setattr(Partial, "begin_block", begun)
            monkeypatch.setattr(Partial, "end_block", over)
            monkeypatch.setattr(Disk, "_collect", slow)
            task = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
            await until(lambda: bool(under_way))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not under_way, "every block was waited for"
            through = time.monotonic()
            assert max(ended) <= through
            assert_whole((await fetcher.fetch(f"hf://{REPO}")).snapshot, hub)

    asyncio.run(main())


def test_cancelled_before_anything_was_asked(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(3 * MIB, 1)})

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            task = asyncio.create_task(fetcher.fetch(f"hf://{REPO}"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_ctrl_c_at_the_command_line(hub: Hub, run_cli: CommandLine, number: signal.Signals) -> None:
    size = 24 * MIB
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(size, 1)})
    hub.faults.add(Trickle(MIB).on("cdn"))
    environ = {"FETCHER_PART_BYTES": "1MiB", "FETCHER_CONNECTIONS_MAX": "4", "FETCHER_SPACE_FLOOR_BYTES": "0"}
    with run_cli.start("get", f"hf://{REPO}", "--json", env=environ) as process:
        try:
            wait_until(lambda: hub.body_bytes_sent() > size // 2 or process.poll() is not None)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, stderr.decode()
    assert b"Traceback" not in stderr
    assert b"kept" in stderr + stdout
    hub.faults.clear()
    sent = hub.body_bytes_sent()
    completed = run_cli("get", f"hf://{REPO}", env=environ)
    assert completed.exit_code == 0, completed.stderr
    assert tree_of(Path(completed.stdout.strip())) == held_by(hub)
    # Four connections, each with a block that was not whole and what sat in its buffers.
    assert hub.body_bytes_sent() - sent <= (size - size // 2 + 6 * MIB if RESUMES else size)


def test_a_partial_of_a_cancelled_run_is_kept(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={WEIGHTS: Synthetic(6 * MIB, 1)})
    hub.faults.add(StallAfter(MIB // 2).on("cdn", skip=4))
    with Child(options(hub, cache_dir, connections_max=3)) as child:
        assert child.line()["event"] == "ready"
        wait_until(lambda: hub.body_bytes_sent() > 4 * MIB)
        child.send(signal.SIGINT)
        assert child.result()["kind"] == "interrupted"
    assert {path.name for path in partial_files(cache_dir)} >= {"data", "journal"}
    nothing_visible(cache_dir)
