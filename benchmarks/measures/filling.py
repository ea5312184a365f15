"""A cache with very many Snapshots, in seconds: what publishing leaves on disk and in the index, without its fsyncs.

Publishing one costs some fsyncs, which is right for a cache and too slow for a hundred thousand of them. Directories,
hard links, modes, sidecars and rows are the same, made with the functions that make them in ``fetcher.cache``. That
they are what publishing makes is looked at each time: publishing one of them again must find it there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fetcher import Fetcher, hashing
from fetcher.cache.blobs import insert_blob
from fetcher.cache.layout import make_directory
from fetcher.cache.publish import insert_snapshot, sidecar_of
from fetcher.cache.records import NewSnapshot
from fetcher.cache.small_files import BODY_MODE
from fetcher.cache.snapshots import snapshot_id
from fetcher.cache.staged import FOLDER_MODE, PublishedFile
from fetcher.cache.store import Cache
from fetcher.config import resource_key
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry
from fetcher.model.resource import Resource
from fetcher.model.secret import Secret

DAY_S = 86_400.0
SNAPSHOTS_PER_TRANSACTION = 500


@dataclass(frozen=True, slots=True)
class Filling:
    """Which Snapshots to make."""

    name: str
    """Of their repositories; with another name come other contents."""
    snapshots: int
    files_each: int = 1
    age_s: float = 0.0
    """Downloaded so long ago. A day: their time is over."""

    def uri(self, number: int) -> str:
        return f"hf://bench/{self.name}-{number:06d}"


def fill(client: Fetcher, filling: Filling) -> None:
    """Make them."""
    cache = client.cache
    then = time.time() - filling.age_s
    for start in range(0, filling.snapshots, SNAPSHOTS_PER_TRANSACTION):
        with cache.index.write(durable=False) as rows:
            for number in range(start, min(start + SNAPSHOTS_PER_TRANSACTION, filling.snapshots)):
                new, files = _snapshot(client, filling, number, then)
                wanted = _identity(new)
                _directory(cache, wanted, new, files, list(_contents(filling, number)))
                insert_snapshot(rows, wanted, new, files, now=then)
                for entry, root, _ in files:
                    assert root is not None and entry.digest is not None
                    insert_blob(rows, root, entry.size, [entry.digest], "", then)
    if filling.age_s == 0.0:
        new, files = _snapshot(client, filling, 0, then)
        inode = os.stat(cache.layout.snapshot(_identity(new))).st_ino
        assert os.stat(cache.publish(new, files).path).st_ino == inode, "publishing made it anew"


def loose_blobs(cache: Cache, name: str, count: int, *, age_s: float = DAY_S) -> None:
    """Make Blobs that no Snapshot refers to, last used so long ago."""
    with cache.index.write(durable=False) as rows:
        for number in range(count):
            data = f"{name} {number}".encode()
            root = hashing.root_of(data).hex()
            _body(cache, root, data)
            insert_blob(rows, root, len(data), [_digest(data)], "", time.time() - age_s)


def make_private(client: Fetcher, item: Mapping[str, Any], token: str) -> str:
    """One private Snapshot, of no files, and the proof that whoever has ``token`` may have it; its id."""
    cache = client.cache
    principal = Secret(token).fingerprint(cache.principal_key)
    new = _new(client, client.resource(item), time.time(), principal=principal)
    snapshot = cache.publish(new, [])
    cache.proofs.grant(snapshot.id, principal, asked_at_s=cache.proofs.now_s(), for_s=client.settings.proof_for_s)
    return snapshot.id


def _contents(filling: Filling, number: int) -> Iterator[bytes]:
    for file in range(filling.files_each):
        yield f'{{"of": "{filling.name}", "snapshot": {number}, "file": {file}}}\n'.encode()


def _snapshot(client: Fetcher, filling: Filling, number: int, then: float) -> tuple[NewSnapshot, list[PublishedFile]]:
    files: list[PublishedFile] = []
    for file, data in enumerate(_contents(filling, number)):
        entry = FileEntry(f"file-{file:03d}.json", len(data), _digest(data))
        files.append((entry, hashing.root_of(data).hex(), "sha256"))
    return _new(client, client.resource(filling.uri(number)), then), files


def _new(client: Fetcher, resource: Resource, then: float, *, principal: str | None = None) -> NewSnapshot:
    key = resource_key(resource, client.settings)
    return NewSnapshot(
        key=key,
        uri=resource.uri(),
        resource={},
        endpoint="http://127.0.0.1:9",
        manifest_digest=hashlib.sha256(key.encode()).hexdigest(),
        revision=key[:40],
        private=principal is not None,
        principal=principal,
        immutable=False,
        downloaded_at=then,
        fresh_for_s=DAY_S,
        keep_for_s=DAY_S,
    )


def _identity(new: NewSnapshot) -> str:
    return snapshot_id(key=new.key, manifest_digest=new.manifest_digest, private=False, principal=None)


def _digest(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def _directory(cache: Cache, wanted: str, new: NewSnapshot, files: list[PublishedFile], contents: list[bytes]) -> None:
    """Directory, hard links, Blobs and sidecar."""
    place = cache.layout.snapshot(wanted)
    os.mkdir(place, FOLDER_MODE)
    for (entry, root, _), data in zip(files, contents, strict=True):
        assert root is not None
        _body(cache, root, data)
        os.link(cache.layout.blob(root), place / entry.path)
    text = json.dumps(sidecar_of(wanted, new, files, 0), ensure_ascii=False, separators=(",", ":"))
    _write(str(cache.layout.sidecar(wanted)), text.encode(), 0o600)


def _body(cache: Cache, root: str, data: bytes) -> None:
    place = cache.layout.blob(root)
    make_directory(place.parent, cache.layout.directory_mode)
    _write(str(place), data, BODY_MODE)


def _write(path: str, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(descriptor, data)
    os.close(descriptor)
