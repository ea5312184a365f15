"""What lies on the disk and what container engines say: nobody's bytes but ours and theirs, and damaged all the same.

A damaged file of the cache is none, or an error of the cache; it never ends a command with a traceback.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fetcher.cache import identity, journal, snapshots, tree_file
from fetcher.cache.fetch_records import PartialHead
from fetcher.cache.journal import Found
from fetcher.cache.layout import Layout
from fetcher.cache.markets import KeptList, Markets
from fetcher.config import Settings
from fetcher.errors import CacheError, ImageError
from fetcher.images import client, progress, reading, refusals
from fetcher.images.client import JSONLines, Refused
from fetcher.images.progress import PullTracker
from fetcher.images.refusals import pull_refused
from fetcher.model.digest import Digest
from fetcher.model.image import Image
from fetcher.model.secret import Login, Secret
from fetcher.plan.tree import BLOCK_BYTES
from tests.fuzz.harness import Family, Plant
from tests.fuzz.judging import assert_fit_to_be_told, told

SNAPSHOT = "a" * 64
_directory: tempfile.TemporaryDirectory[str] | None = None


def place() -> Path:
    """A directory that all cases share; ``close`` removes it."""
    global _directory
    if _directory is None:
        _directory = tempfile.TemporaryDirectory(prefix="fetcher-fuzz-")
    return Path(_directory.name)


def close() -> None:
    global _directory
    if _directory is not None:
        _directory.cleanup()
        _directory = None


def _layout() -> Layout:
    return Layout(Settings(cache_dir=place(), state_dir=place()))


# --- journals

_HEAD = PartialHead("c" * 64, "https://h/a", 3 * BLOCK_BYTES + 5, 'strong::"abc":', "m" * 64, True, "p" * 64, "origin")


def _midstate(taken: int) -> bytes:
    return bytes(32) + taken.to_bytes(8, "little")


JOURNALS = (
    journal.head_bytes(_HEAD)
    + journal.block_record(0, bytes(range(32)))
    + journal.sha256_record(_midstate(BLOCK_BYTES))
    + journal.block_record(2, b"\xff" * 32),
    journal.head_bytes(_HEAD),
    b"",
)


def _journal(case: bytes) -> Found | None:
    """The head is fuzzed under a right checksum, too: whoever can write a file can compute one."""
    path = place() / "journal"
    path.write_bytes(case if len(case) % 2 else _resealed(case))
    journal.belongs_to_one_run(path)
    return journal.read(path)


def _resealed(case: bytes) -> bytes:
    """With the length and checksum of a head that ends at the last brace before the first record."""
    end = case.rfind(b"}", 0, 4096) + 1
    text = case[16:end] if end > 16 else case[16:]
    return struct.pack("<8sII", journal.MAGIC, len(text), zlib.crc32(text)) + text + case[end:]


def _judge_journal(case: bytes, found: Found | None) -> None:
    if found is None:
        return
    head = found.head
    assert type(head.size) is int and head.size >= 0, f"size {head.size!r}"
    for text in (head.content_id, head.url, head.validator, head.manifest_digest, head.proof):
        assert isinstance(text, str), text
    assert isinstance(head.private, bool) and (head.principal is None or isinstance(head.principal, str))
    assert all(isinstance(value, bytes) and len(value) == 32 for value in found.blocks.values())
    taken = [bytes_taken for bytes_taken, _ in found.midstates]
    assert taken == sorted(taken) and all(count % 64 == 0 for count in taken)
    found.midstate(found.blocks)
    assert head.takes(head)


JOURNAL = Family(
    "journal",
    "bytes",
    JOURNALS,
    _journal,
    judge=_judge_journal,
    plants=(Plant("checksums are for others", lambda patch: patch.setattr(journal, "_head", _loose_head)),),
    words=(b'"size": -1', b'"size": 1e999', b"null", b'"private": 0', b"[" * 5000, b'"x": 1,', journal.MAGIC),
)


def _loose_head(raw: bytes) -> tuple[PartialHead, int]:
    length = int.from_bytes(raw[8:12], "little")
    return PartialHead(**json.loads(raw[16 : 16 + length])), 16 + length


# --- lists of block hashes

TREES = (
    tree_file.tree_of(
        "a" * 64, 2 * BLOCK_BYTES + 1, BLOCK_BYTES, [bytes(32)] * 3, [Digest("sha256", "0" * 64)], "sha256"
    ),
    tree_file.tree_of("b" * 64, 7, 0, [], [], "size", content_id="c" * 64, scope=""),
)


def _tree(case: bytes) -> tree_file.TreeFile:
    if len(case) % 2:
        return tree_file.TreeFile.decode(case)
    end = case.rfind(b"}", 0, 4096) + 1
    header, values = (case[12:end], case[end:-4]) if end > 12 else (case[12:-4], b"")
    body = tree_file.MAGIC + len(header).to_bytes(4, "little") + header + values
    return tree_file.TreeFile.decode(body + zlib.crc32(body).to_bytes(4, "little"))


def _judge_tree(case: bytes, tree: tree_file.TreeFile) -> None:
    assert tree.size >= 0 and tree.block_bytes >= 0, tree
    assert tree_file.TreeFile.decode(tree.encode()) == tree


TREE = Family(
    "tree-file",
    "bytes",
    TREES,
    _tree,
    (ValueError,),
    _judge_tree,
    plants=(
        Plant("a header that is believed", lambda patch: patch.setattr(tree_file.TreeFile, "decode", _hasty_tree)),
    ),
    words=(
        b'"size": -5',
        b'"block_bytes": -1',
        b'"block_bytes": 1e999',
        b"null",
        b"[" * 5000,
        b'["sha256:x"]',
        b"9" * 5000,
    ),
)


@classmethod  # type: ignore[misc]
def _hasty_tree(cls: Any, raw: bytes) -> Any:
    header = json.loads(raw[12 : 12 + int.from_bytes(raw[8:12], "little")])
    return cls(header["root"], header["size"], header["block_bytes"], raw[12:-4], (), header["verified_by"])


# --- sidecars, ties, kept lists

_SIDECAR = {
    "format": snapshots.FORMAT,
    "id": SNAPSHOT,
    "files": [
        {"path": "a/b.txt", "size": 3, "root": "d" * 64, "digest": "sha256:" + "0" * 64, "verified_by": "sha256"},
        {"path": "empty", "size": 0, "root": None, "digest": None, "verified_by": "size"},
    ],
}


def _sidecar(case: bytes) -> Any:
    layout = _layout()
    path = layout.sidecar(SNAPSHOT)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(case)
    return snapshots.read_sidecar(layout, SNAPSHOT)


def _judge_sidecar(case: bytes, found: Any) -> None:
    for file in snapshots.files_of(found):
        assert file.root is None or re.fullmatch(r"[0-9a-f]{64}", file.root)
        assert type(file.size) is int


SIDECAR = Family(
    "sidecar",
    "json",
    (json.dumps(_SIDECAR).encode(),),
    _sidecar,
    (CacheError,),
    _judge_sidecar,
    plants=(
        Plant("fewer errors are caught", lambda patch: patch.setattr(snapshots, "ODD_JSON", (ValueError, TypeError))),
    ),
    weight=0.7,
)


def _tie(case: bytes) -> Any:
    layout = _layout()
    layout.cache_id.write_bytes(case)
    return identity._read(layout)


TIE = Family(
    "cache-id",
    "json",
    (json.dumps({"index_id": "0" * 32, "state_dir": "."}).encode(),),
    _tie,
    (CacheError,),
    plants=(Plant("a text is one", lambda patch: patch.setattr(identity, "_read", _hasty_tie)),),
    weight=0.7,
)


def _hasty_tie(layout: Layout) -> str:
    return str(json.loads(layout.cache_id.read_bytes())["index_id"].strip())


def _kept(case: bytes) -> KeptList | None:
    layout = _layout()
    layout.markets.mkdir(mode=0o700, exist_ok=True)
    path = layout.market(hashlib.sha256(b"nvidia").hexdigest())
    path.write_bytes(case)
    path.chmod(0o600)
    return Markets(layout).load("nvidia")


def _judge_kept(case: bytes, found: KeptList | None) -> None:
    if found is not None:
        assert isinstance(found.document, dict) and found.name == "nvidia" and found.saved_at == found.saved_at
        assert all(isinstance(text, str) for pair in found.principals.items() for text in pair)


KEPT = Family(
    "kept-market",
    "json",
    (
        json.dumps(
            {
                "format": "fetcher-market-1",
                "name": "nvidia",
                "saved_at": 1.8e9,
                "url": "https://m/",
                "document": {"required_images": []},
                "principals": {"k": "p"},
            }
        ).encode(),
    ),
    _kept,
    judge=_judge_kept,
    plants=(Plant("times of any kind", lambda patch: patch.setattr("fetcher.cache.markets.math", _NoMath)),),
    weight=0.7,
)


class _NoMath:
    @staticmethod
    def isfinite(value: float) -> bool:
        return True


# --- container engines

PULLS = (
    b'{"status":"Pulling from library/nginx","id":"latest"}\r\n'
    b'{"status":"Pulling fs layer","progressDetail":{},"id":"a"}\r\n'
    b'{"status":"Downloading","progressDetail":{"current":10,"total":100},"progress":"[>]","id":"a"}\r\n'
    b'{"status":"Extracting","progressDetail":{"current":1,"units":"s"},"id":"a"}\r\n'
    b'{"status":"Pull complete","id":"a"}\r\n',
    b'{"stream":"Copying blob sha256:abc done"}\n{"images":["x"],"id":"'
    + b"0" * 64
    + b'"}\n{"stream":"Trying to pull x..."}\n',
    b'{"status":"Already exists","id":"b"}\n{"errorDetail":{"message":"no space left on device"},"error":"no space"}\n',
)


class _Engine:
    """As much of an EngineClient as a stream needs."""

    title = "Docker at /x"
    naming_place = client.EngineClient.naming_place
    api_version = "1.41"
    libpod_version = None


class _Pieces:
    def __init__(self, case: bytes) -> None:
        middle = len(case) // 2
        self._pieces = [piece for piece in (case[:middle], case[middle:]) if piece]

    async def readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def _pull(case: bytes) -> PullTracker:
    tracker = PullTracker("nginx", "docker" if len(case) % 2 else "podman")

    async def main() -> None:
        async for line in JSONLines(_Pieces(case), _Engine()):  # type: ignore[arg-type]
            tracker.feed(line)

    _driven(main())
    return tracker


def _driven(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


def _judge_pull(case: bytes, tracker: PullTracker) -> None:
    now = tracker.now()
    assert 0 <= now.layers_done <= now.layers_total <= progress.LAYERS_MAX
    assert now.bytes_done >= 0 and (now.bytes_total is None or now.bytes_done <= now.bytes_total)
    assert isinstance(tracker.silence_is_work, bool)
    assert not (tracker.is_queued and tracker.silence_is_work)


PULL = Family(
    "engine-pull",
    "lines",
    PULLS,
    _pull,
    (ImageError, Refused),
    _judge_pull,
    plants=(
        Plant("counts are believed", lambda patch: patch.setattr(progress, "_count", _believed)),
        Plant("ids are texts", lambda patch: patch.setattr(PullTracker, "feed", _hasty)),
    ),
    words=(
        b'"current":-5',
        b'"total":0',
        b'"total":5',
        b'"current":50',
        b"null",
        b"[]",
        b"\n",
        b'"id":7',
        b'"progressDetail":3',
    ),
)


def _believed(detail: Any, name: str) -> Any:
    return (detail or {}).get(name)


def _hasty(self: PullTracker, line: Any) -> bool:
    return bool(line["status"].startswith(line.get("id", "")))


def _archives() -> tuple[bytes, ...]:
    found = []
    for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as archive:
            member = tarfile.TarInfo("cache-id")
            member.type, member.linkname = kind, "elsewhere"
            member.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"bytes"))
            archive.addfile(tarfile.TarInfo("second"))
        found.append(raw.getvalue()[:2048])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("cache-id")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"bytes"))
    return (*found, packed.getvalue())


def _archive(case: bytes) -> bytes:
    async def get_bytes(path: str, query: Any) -> bytes:
        return case

    engine: Any = SimpleNamespace(title="Docker at /x", get_bytes=get_bytes)
    found = _driven(reading._read(engine, "container", "/x"))
    assert isinstance(found, bytes)
    return found


ARCHIVE = Family(
    "engine-archive",
    "bytes",
    _archives(),
    _archive,
    (ImageError, reading.Unseen),
    lambda case, found: _bounded(found),
    plants=(Plant("links are followed", lambda patch: patch.setattr(reading, "_is_plain", lambda member: True)),),
    words=(b"0", b"7", b"x", b"\0" * 512, b"00000000005\0", b"77777777777\0", b"ustar\0", b"\x1f\x8b\x08"),
    weight=0.7,
)


def _bounded(found: bytes) -> None:
    assert len(found) < 1 << 20, "more than a small file"


# --- why a pull failed

_IMAGE = Image("registry.example.org/a/b:1", Login("me", Secret("CanaryPassword0001")))


def _refused(case: bytes) -> ImageError:
    return pull_refused(_IMAGE, "podman", case.decode("utf-8", "surrogateescape"))


def _judge_refused(case: bytes, error: ImageError) -> None:
    assert_fit_to_be_told(error)
    assert "CanaryPassword0001" not in "".join(told(error)), "the password is told"
    assert all(len(text) < 3000 for text in told(error))


REFUSED = Family(
    "engine-refusal",
    "text",
    (
        b"toomanyrequests: You have reached your pull rate limit. retry-after: 15.5 s",
        b"Get https://me:CanaryPassword0001@registry.example.org/v2/: unauthorized",
        b"initializing source docker://a: reading manifest: denied: requested access to the resource is denied",
    ),
    _refused,
    judge=_judge_refused,
    plants=(Plant("the engine is quoted as it is", lambda patch: patch.setattr(refusals, "quotable", lambda s, _: s)),),
    words=(b"rate limit", b"retry-after: ", b"4\xc5\xbf", b"9ms", b"CanaryPassword0001", b"x509", b"\n"),
)

FAMILIES = (REFUSED, JOURNAL, TREE, SIDECAR, TIE, KEPT, PULL, ARCHIVE)
