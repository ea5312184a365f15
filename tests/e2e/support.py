"""What the end-to-end rooms share: a hurried client, a client in a process of its own, and judges of trees.

Uses the library's public face only. Trees are compared with what the embedded hub holds, byte for byte by SHA-256.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fetcher import Fetcher, Snapshot, hashing
from fetcher.cache import journal
from fetcher.engine.asks import Outcome
from fetcher.testing import Hub, Synthetic
from tests.support import locks
from tests.support.cli import CHECKOUT

MIB = 1 << 20
LOOPBACK = "127.0.0.0/8"

HURRIED: Mapping[str, Any] = {
    "allow_net": LOOPBACK,
    "part_bytes": MIB,
    "connect_timeout_s": 20.0,
    "part_idle_timeout_s": 20.0,
    "part_slow_window_s": 20.0,
    "hedges_max": 0,
    "no_progress_timeout_s": 30.0,
    "api_timeout_s": 20.0,
    "api_time_max_s": 30.0,
    "backoff_min_s": 0.01,
    "backoff_max_s": 0.1,
    "space_floor_bytes": 0,
}
"""Small parts, so that small files have many, and short rests between tries; everything else as users have it. A busy
machine may stand still for seconds: that must not look like an origin that does, or nothing can be counted."""

IMPATIENT: Mapping[str, Any] = {
    "part_idle_timeout_s": 0.6,
    "part_slow_window_s": 0.6,
    "no_progress_timeout_s": 10.0,
    "api_timeout_s": 2.0,
    "api_time_max_s": 8.0,
}
"""Added where an origin falls silent, crawls, or fails for good."""

REPO = "acme/mixed"

RESUMES = hashing.HAS_TREE
"""Without the native core blocks have no journal: what is cut off starts again from zero, and says so in ``doctor``."""


def mixed_files(seed: int = 0) -> dict[str, Any]:
    """Every road a file can take: large and small, from the CDN and from the hub itself, and no byte at all."""
    return {
        "config.json": json.dumps({"hidden_size": 512, "seed": seed}),
        "empty": b"",
        "model.safetensors": Synthetic(5 * MIB + 123, seed),
        "nested/deeper/notes.txt": Synthetic(2 * MIB + 5, seed + 1),
        "small.bin": Synthetic(300_000, seed + 2),
    }


# --- the client, here ------------------------------------------------------------------------------------------------


def options(hub: Hub, cache_dir: Path, **more: Any) -> dict[str, Any]:
    """Settings of a hurried client of ``hub``."""
    return {**HURRIED, "cache_dir": str(cache_dir), "hf_endpoint": hub.endpoint, **more}


def patient(hub: Hub, cache_dir: Path, **more: Any) -> dict[str, Any]:
    """Settings of a client that gives up no connection because others were held up, or the machine is busy."""
    return options(hub, cache_dir, no_progress_timeout_s=600.0, **more)


def fetcher_of(
    hub: Hub,
    cache_dir: Path,
    *,
    environ: Mapping[str, str] | None = None,
    on_event: Callable[[Any], None] | None = None,
    **more: Any,
) -> Fetcher:
    return Fetcher(environ=environ or {}, on_event=on_event, **options(hub, cache_dir, **more))


def fetch(
    hub: Hub,
    cache_dir: Path,
    item: Any = f"hf://{REPO}",
    *,
    asker: Any = "job",
    environ: Mapping[str, str] | None = None,
    on_event: Callable[[Any], None] | None = None,
    **more: Any,
) -> Outcome:
    """One fetch from an empty loop to the end."""
    return run_fetch(lambda: fetcher_of(hub, cache_dir, environ=environ, on_event=on_event, **more), item, asker)


def run_fetch(make: Callable[[], Fetcher], item: Any, asker: Any = "job") -> Outcome:
    """As ``fetch``, with any client."""

    async def main() -> Outcome:
        async with make() as fetcher:
            return await fetcher.fetch(item, asker)

    return asyncio.run(main())


async def until(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    """Wait for something that another task, thread or process brings about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.003)


class Gate:
    """Holds what an origin is asked until it is opened: ``OnRequest(gate).on("cdn", skip=4)``. So nothing ends too
    early, however late the machine comes to what has to happen meanwhile."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    async def __call__(self, exchange: object) -> None:
        await until(self._opened.is_set, timeout_s=50.0)

    def open(self) -> None:
        self._opened.set()


# --- the client, in a process of its own -----------------------------------------------------------------------------


class Child:
    """A client process. Leave the ``with`` block and it is gone, whatever it was doing."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        items: Sequence[Any] = (f"hf://{REPO}",),
        *,
        asker: str = "job",
        hold: bool = False,
        plan_only: bool = False,
        each: bool = False,
        job: str | None = None,
        disk_bytes: int | None = None,
        tell: bool = False,
        plant: str = "",
        prefix: Sequence[str] = (),
    ) -> None:
        """``hold``: keep a process lease until stdin closes. ``each``: items for themselves, failures are told with the
        others. ``job``: a Job Definition to mount, instead of items. ``disk_bytes``: the size that the cache's disk
        seems to have (tests/support/disk.py). ``tell``: tell its progress, too. ``plant``: a fault of ours, see
        client_process.py. ``prefix``: a command that runs the client (setpriv …)."""
        order = {
            "options": dict(settings),
            "items": list(items),
            "asker": asker,
            "hold": hold,
            "plan_only": plan_only,
            "each": each,
            "job": job,
            "disk_bytes": disk_bytes,
            "tell": tell,
            "plant": plant,
        }
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent", "LANG": "C.UTF-8"}
        kept = ("FETCHER_NATIVE", locks.VARIABLE)
        environ |= {name: value for name, value in os.environ.items() if name in kept}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(Path(__file__).with_name("client_process.py")), json.dumps(order)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def line(self) -> dict[str, Any]:
        """The next fact it tells."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            assert self.process.stderr is not None
            raise AssertionError(f"the client said nothing: {self.process.stderr.read().decode()}")
        fact: dict[str, Any] = json.loads(text)
        return fact

    def result(self, timeout_s: float = 50.0) -> dict[str, Any]:
        """Its last fact, once it has ended; what it wrote to stderr must not be a traceback."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        assert b"Traceback" not in stderr, stderr.decode()
        assert stdout, f"exit code {self.process.returncode}: {stderr.decode()}"
        fact: dict[str, Any] = json.loads(stdout.splitlines()[-1])
        return fact

    def done(self, timeout_s: float = 50.0) -> dict[str, Any]:
        """As ``result``, of a client that must have succeeded."""
        fact = self.result(timeout_s)
        assert fact["event"] == "done", fact
        return fact

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Told:
    """A client's facts, read as they come, so that none of them waits for us."""

    def __init__(self, client: Child) -> None:
        self.client = client
        self.facts: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.client.process.stdout is not None
        for line in self.client.process.stdout:
            self.facts.append(json.loads(line))

    def join(self) -> None:
        """Once the client is gone."""
        self._thread.join()

    def has(self, event: str) -> bool:
        return any(fact["event"] == event for fact in self.facts)

    @property
    def progress(self) -> list[tuple[int, int]]:
        """Bytes done and bytes downloaded, each time they were told."""
        return [(fact["bytes_done"], fact["bytes_downloaded"]) for fact in self.facts if fact["event"] == "progress"]

    @property
    def bytes_done(self) -> int:
        return self.progress[-1][0] if self.progress else 0

    def end(self, timeout_s: float = 50.0) -> dict[str, Any]:
        """The last fact, when the client has ended."""
        self.client.process.wait(timeout_s)
        self._thread.join()
        assert self.client.process.stderr is not None
        said = self.client.process.stderr.read().decode()
        assert "Traceback" not in said, said
        return self.facts[-1]

    def done(self, timeout_s: float = 50.0) -> dict[str, Any]:
        fact = self.end(timeout_s)
        assert fact["event"] == "done", fact
        return fact


# --- judges ----------------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_of(directory: Path) -> dict[str, tuple[int, str]]:
    """Relative path → size and SHA-256 of every file; anything that is neither file nor folder fails."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            assert stat.S_ISREG(status.st_mode), f"{path} is no regular file"
            found[path.relative_to(directory).as_posix()] = (status.st_size, sha256_of(path))
    return found


def held_by(
    hub: Hub, repo_id: str = REPO, revision: str = "main", *, kind: Any = "models"
) -> dict[str, tuple[int, str]]:
    """What ``tree_of`` has to give for a revision of the hub's."""
    commit = hub.repo(repo_id, kind).resolve(revision)
    assert commit is not None
    return {path: (entry.content.size, entry.content.sha256) for path, entry in commit.entries.items()}


def assert_whole(snapshot: Snapshot, hub: Hub, repo_id: str = REPO, revision: str = "main", **more: Any) -> None:
    """The Snapshot is the hub's tree, and says so itself."""
    expected = held_by(hub, repo_id, revision, **more)
    assert tree_of(snapshot.path) == expected
    assert snapshot.files == len(expected)
    assert snapshot.bytes == sum(size for size, _ in expected.values())


def repo_bytes(hub: Hub, repo_id: str = REPO) -> int:
    return sum(size for size, _ in held_by(hub, repo_id).values())


def nothing_visible(cache_dir: Path) -> None:
    """No Snapshot, and no file left that somebody could take for one."""
    snapshots = cache_dir / "snapshots-v1"
    assert list(snapshots.iterdir()) == []


def blobs_of(cache_dir: Path) -> list[Path]:
    """Bodies of published Blobs."""
    return sorted(path for path in (cache_dir / "blobs-v1").glob("??/*") if len(path.name) == 64)


def assert_blobs_sound(cache_dir: Path, contents: Iterable[str]) -> None:
    """Every published Blob is one of the contents (SHA-256) that the origin really has."""
    known = set(contents)
    for blob in blobs_of(cache_dir):
        assert sha256_of(blob) in known, f"{blob} is nothing that the origin vouched for"
        assert stat.S_IMODE(blob.stat().st_mode) == 0o444


def partial_files(cache_dir: Path) -> list[Path]:
    found = [
        os.path.join(folder, name)  # as os.walk has it: what goes meanwhile is left out
        for folder, _, names in os.walk(cache_dir / "partials-v1")
        for name in names
    ]
    return sorted(Path(path) for path in found)


def proven_blocks(cache_dir: Path) -> int:
    """How many blocks the journals of all Partials vouch for. What an origin has sent says little of that: much of it
    may still be in the buffers between."""
    found = [journal.read(path) for path in partial_files(cache_dir) if path.name == "journal"]
    return sum(len(journaled.blocks) for journaled in found if journaled is not None)


def kept_blocks(cache_dir: Path, blocks: int) -> bool:
    """Whether so many are proven; always without the native core, which proves none."""
    return not RESUMES or proven_blocks(cache_dir) >= blocks


def bytes_below(directory: Path) -> bytes:
    """Every byte of every file, and every name, below ``directory``: to look for what must not be there."""
    pieces = []
    for path in sorted(directory.rglob("*")):
        pieces.append(os.fsencode(path))
        if path.is_file() and not path.is_symlink():
            pieces.append(path.read_bytes())
    return b"\0".join(pieces)


def official_tree(hub: Hub, work: Path, repo_id: str, *, token: str | None = None, **arguments: Any) -> Path:
    """The same repo as the official client gives it (a process of its own, plain HTTP, no cache of ours)."""
    target = work / "official"
    shutil.rmtree(target, ignore_errors=True)
    script = (
        "import json, sys\n"
        "from huggingface_hub import snapshot_download\n"
        "order = json.loads(sys.argv[1])\n"
        "print(snapshot_download(**order))\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'fetcher']\n"
    )
    order = {"repo_id": repo_id, "token": token if token else False, **arguments}
    completed = subprocess.run(
        [sys.executable, "-I", "-c", script, json.dumps(order)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "HF_HOME": str(target),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr.decode()
    return Path(completed.stdout.decode().strip())


def followed_tree(directory: Path) -> dict[str, tuple[int, str]]:
    """As ``tree_of``, through the symlinks that the official client's cache is made of."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_size, sha256_of(path))
        for path in directory.rglob("*")
        if path.is_file()
    }
