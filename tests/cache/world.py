"""What tests of the cache share: a clock to turn, contents to store, and the way from bytes to a published Snapshot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import blake3

from fetcher import hashing
from fetcher._native import many_files, pure_files
from fetcher.cache.clock import machine_boot_id
from fetcher.cache.layout import content_id
from fetcher.cache.records import Asked, Blob, GcReport, NewSnapshot, PartialHead, SmallFile, Snapshot
from fetcher.cache.store import Cache
from fetcher.config import Settings
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry

MIB = 1 << 20
ENDPOINT = "https://hub.example:443"
ROOT_OF_CHECKOUT = Path(__file__).resolve().parents[2]


class Clock:
    """Stands still until turned. Starts at the real time, because files carry real times, too."""

    def __init__(self) -> None:
        self.now = time.time()
        self.since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.boot_id = machine_boot_id()

    def __call__(self) -> float:
        return self.now

    def boot_s(self) -> float:
        return self.since_boot

    def turn(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.since_boot += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the calendar."""
        self.now += seconds

    def reboot(self, seconds: float = 30.0) -> None:
        """The machine was off, and is up again."""
        self.now += seconds
        self.since_boot = 1.0
        self.boot_id = str(uuid.uuid4())


def settings(cache_dir: Path, **options: Any) -> Settings:
    return Settings(**{"cache_dir": cache_dir, "state_dir": cache_dir, "space_floor_bytes": 0, **options})


def paint(size: int, shade: int = 0) -> bytes:
    """Bytes whose place can be told from their value: the period is prime to every power of two."""
    period = bytes((position + shade) % 251 for position in range(251))
    return (period * (size // 251 + 1))[:size]


def sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def head_of(data: bytes, *, private: bool = False, principal: str | None = None) -> PartialHead:
    digest = sha256(data)
    content = content_id(
        digest=digest, url="u", validator=str(digest), size=len(data), private=private, principal=principal
    )
    return PartialHead(content, "https://hub.example/f", len(data), str(digest), "0" * 64, private, principal)


def block_of(data: bytes, block: int) -> memoryview:
    return memoryview(data)[block * MIB : (block + 1) * MIB]


def believed(blocks: list[int]) -> list[int]:
    """Of these written blocks, those that are proven and found again: in plain mode none."""
    return blocks if hashing.HAS_TREE else []


def put_large(
    cache: Cache, data: bytes, *, private: bool = False, principal: str | None = None, asked: Asked | None = None
) -> Blob:
    """All the way of one content of more than a block."""
    partial = cache.partial_open(head_of(data, private=private, principal=principal))
    for block in range(partial.block_count):
        if block not in partial.proven:
            partial.write_block(block, block_of(data, block))
    return cache.commit(
        partial,
        digests=[sha256(data)],
        verified_by="sha256",
        private=private,
        principal=principal,
        root=blake3.blake3(data).hexdigest(),  # only plain mode looks at it
        asked=asked,
    )


def put_small(
    cache: Cache, data: bytes, *, private: bool = False, principal: str | None = None, asked: Asked | None = None
) -> Blob:
    content = head_of(data, private=private, principal=principal).content_id
    item = SmallFile(content, data, (sha256(data),), "sha256", asked=asked)
    return cache.commit_small([item], private=private, principal=principal)[0]


def put(
    cache: Cache, data: bytes, *, private: bool = False, principal: str | None = None, asked: Asked | None = None
) -> Blob | None:
    if not data:
        return None
    way = put_large if len(data) > MIB else put_small
    return way(cache, data, private=private, principal=principal, asked=asked)


def new_snapshot(
    name: str,
    contents: Mapping[str, bytes],
    now: float,
    *,
    private: bool = False,
    principal: str | None = None,
    **more: Any,
) -> NewSnapshot:
    text = json.dumps([(path, hashlib.sha256(data).hexdigest()) for path, data in sorted(contents.items())])
    fields: dict[str, Any] = {
        "key": key_of(name),
        "uri": f"hf://acme/{name}@main",
        "resource": {"type": "HF", "repo": f"acme/{name}"},
        "endpoint": ENDPOINT,
        "manifest_digest": hashlib.sha256(text.encode()).hexdigest(),
        "revision": "c" * 40,
        "private": private,
        "principal": principal,
        "immutable": False,
        "downloaded_at": now,
        "fresh_for_s": 86_400.0,
        "keep_for_s": 86_400.0,
    }
    return NewSnapshot(**{**fields, **more})


def many_files_by_os(patch: Callable[[object, str, object], object] = setattr) -> None:
    """From now on calls on many files go through ``os``, call by call, where a test can stand in for the kernel."""
    for name in ("write_files", "link_files", "look_for_files", "make_directories", "unlink_files"):
        patch(many_files, name, getattr(pure_files, name))


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path, len(data), sha256(data))


def publish(
    cache: Cache,
    name: str,
    contents: Mapping[str, bytes],
    *,
    private: bool = False,
    principal: str | None = None,
    **more: Any,
) -> Snapshot:
    """A resource called ``name`` of these files, from bytes to a visible directory."""
    files = []
    for path, data in contents.items():
        blob = put(cache, data, private=private, principal=principal)
        files.append((entry(path, data), blob.root if blob else None, "sha256"))
    now = cache._clock()
    return cache.publish(new_snapshot(name, contents, now, private=private, principal=principal, **more), files)


def collect_twice(cache: Cache, clock: Clock) -> GcReport:
    """Both phases of gc, with the grace between them."""
    condemned = cache.gc()
    clock.turn(cache.settings.gc_grace_s + 1)
    return condemned + cache.gc()


def tree_on_disk(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def assert_sound(cache: Cache) -> None:
    """Nothing wrong is visible: every Snapshot is whole, every Blob is what its name says and can't be written."""
    for snapshot in cache.snapshots():
        if cache.get_snapshot(snapshot.id) is None:
            continue
        for file in cache.files(snapshot.id):
            data = (snapshot.path / file.path).read_bytes()
            assert len(data) == file.size
            assert file.root is None or blake3.blake3(data).hexdigest() == file.root
            assert file.digest == sha256(data)
    for path in cache.layout.blobs.glob("??/*"):
        if not path.name.endswith(".tree"):
            assert blake3.blake3(path.read_bytes()).hexdigest() == path.name
            assert path.stat().st_mode & 0o777 == 0o444


def files_below(cache: Cache) -> list[str]:
    """Everything in the ``-v1`` directories, relative to the cache; folders of Blobs left out."""
    found = []
    layout = cache.layout
    for directory in (layout.owners, layout.partials, layout.blobs, layout.snapshots, layout.writable):
        for path in directory.rglob("*"):
            if not (path.parent == cache.layout.blobs and path.is_dir()):
                found.append(str(path.relative_to(cache.layout.cache_dir)))
    return sorted(found)


@contextlib.contextmanager
def child(
    command: str, cache_dir: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process of ``actor.py``; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.cache.actor", command, str(cache_dir), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT_OF_CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that an actor says."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the actor ended with {process.wait()}"
    answer = json.loads(line)
    assert isinstance(answer, dict)
    return answer


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
