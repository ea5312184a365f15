"""The judge of what a power cut has left: opens the cache on a recovered file system, and misses or mistrusts things.

Faults are sentences; none at all is what the product promises. ``Testimony`` is what the workload said until it was cut
off, ``Verdict`` what was found.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetcher import hashing
from fetcher.cache import journal
from fetcher.cache.layout import Layout
from fetcher.cache.records import Snapshot
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from fetcher.client import Fetcher
from fetcher.config import Settings
from fetcher.errors import FetcherError
from fetcher.testing import Hub
from tests.cache.asking import blob_of, blob_of_content
from tests.torture import world

MIB = 1 << 20


# --- what was promised -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Promise:
    began: float
    made: float
    uri: str
    id: str
    hit: bool


@dataclass(frozen=True, slots=True)
class _Removal:
    began: float
    ended: float
    """Infinite: it was not seen to end."""
    ids: frozenset[str]
    uris: frozenset[str]


class Testimony:
    """What one run's workloads said, in the order of time."""

    def __init__(self, facts_of_each: Iterable[list[dict[str, Any]]]) -> None:
        self._promises: list[_Promise] = []
        self._removals: list[_Removal] = []
        self._pins: dict[str, list[Any]] = {}
        self._begun: list[tuple[float, float, str]] = []
        self._samples: list[list[dict[str, Any]]] = []
        self.failures: list[str] = []
        for facts in facts_of_each:
            self._hear(facts)

    def _hear(self, facts: list[dict[str, Any]]) -> None:
        begun: dict[int, dict[str, Any]] = {}
        """Calls that were not yet heard to end."""
        self._samples.append([fact for fact in facts if fact["event"] == "proven"])
        for fact in facts:
            event, when = fact["event"], fact["time"]
            if event in ("begin", "removing"):
                begun[fact["call"]] = fact
            elif event in ("promised", "failed", "removed"):
                self._ended(begun.pop(fact["call"]), when, fact)
            elif event == "pinned":
                self._pins[fact["name"]] = [when, float("inf"), fact["key"]]
            elif event == "unpinning":
                self._pins[fact["name"]][1] = when
        for beginning in begun.values():
            self._ended(beginning, float("inf"), {"event": "cut"})

    def _ended(self, beginning: dict[str, Any], when: float, end: dict[str, Any]) -> None:
        began = beginning["time"]
        if beginning["event"] == "removing":
            self._removals.append(_Removal(began, when, frozenset(beginning["ids"]), frozenset(beginning["uris"])))
            return
        self._begun.append((began, when, beginning["uri"]))
        if end["event"] == "promised":
            self._promises.append(_Promise(began, when, beginning["uri"], end["id"], end["hit"]))
        elif end["event"] == "failed":
            self.failures.append(f"{end['kind']}: {end['message']}")

    def carried(self, cut: float) -> list[dict[str, Any]]:
        """What holds after this cut, for a run that goes on from there: as if it had been promised at that moment."""
        facts: list[dict[str, Any]] = []
        for call, (wanted, uri) in enumerate(self.promised(cut).items()):
            facts.append({"event": "begin", "time": cut, "call": call, "uri": uri})
            facts.append({"event": "promised", "time": cut, "call": call, "id": wanted, "hit": True})
        facts += [{"event": "pinned", "time": cut, "name": name, "key": key} for name, key in sorted(self.pins(cut))]
        return facts

    def promise_times(self) -> list[float]:
        return sorted(promise.made for promise in self._promises)

    def publish_times(self) -> list[float]:
        """When something was promised that had not been there before."""
        return sorted(promise.made for promise in self._promises if not promise.hit)

    def promised(self, cut: float) -> dict[str, str]:
        """Id of a Snapshot → URI: those that have to be there after this cut."""
        return {
            promise.id: promise.uri
            for promise in self._promises
            if promise.made <= cut
            # Taken back: asked to go after the call that promised it had begun, and before the cut.
            and not any(
                promise.id in removal.ids and removal.began <= cut and removal.ended >= promise.began
                for removal in self._removals
            )
        }

    def pins(self, cut: float) -> set[tuple[str, str]]:
        return {(name, key) for name, (made, dropped, key) in self._pins.items() if made <= cut < dropped}

    def under_way(self, cut: float) -> list[str]:
        """URIs whose fetch was under way."""
        return sorted({uri for began, ended, uri in self._begun if began <= cut < ended})

    def proven(self, cut: float) -> dict[str, tuple[int, int]]:
        """Content id → its size, and how many bytes of it were proven a moment before the cut at least."""
        found: dict[str, tuple[int, int]] = {}
        for samples in self._samples:
            last = next((sample for sample in reversed(samples) if sample["time"] <= cut), None)
            for content, (size, proven) in last["partials"].items() if last else ():
                if not self._may_be_gone(size, last["time"], cut) and proven >= found.get(content, (0, 0))[1]:
                    found[content] = (size, proven)
        return found

    def _may_be_gone(self, size: int, since: float, cut: float) -> bool:
        """Published, and removed with its Snapshot, between the look and the cut."""
        return any(
            removal.began <= cut and removal.ended >= since and any(_has_size(uri, size) for uri in removal.uris)
            for removal in self._removals
        )


def _has_size(uri: str, size: int) -> bool:
    return size in world.sizes(*world.split(uri))


# --- what was found --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verdict:
    """Of one image."""

    faults: list[str] = field(default_factory=list)
    snapshots: int = 0
    """That can be seen, all of whose bytes were compared with the origin's."""
    promises: int = 0
    pins: int = 0
    blobs: int = 0
    bytes_compared: int = 0
    proven_bytes: int = 0
    """In Partials, a moment before the cut."""
    lost_bytes: int = 0
    """Of those, what the cut took: it was not yet on the disk."""
    asked_bytes: int = 0
    """What completing all that was under way has cost, beyond what the image held."""
    leftovers: int = 0
    """Files that gc took away."""


class Judge:
    """Looks at one recovered cache. ``hub`` is still the origin, without faults now."""

    def __init__(self, hub: Hub, options: Mapping[str, Any], *, connections: int, processes: int) -> None:
        self._hub = hub
        self._options = options
        self._connections = connections
        self._processes = processes
        self._settings: Settings

    def judge(self, cache_dir: Path, testimony: Testimony, cut: float) -> Verdict:
        verdict = Verdict()
        try:
            self._judge({**self._options, "cache_dir": str(cache_dir)}, testimony, cut, verdict)
        except FetcherError as error:
            verdict.faults.append(f"the cache can't be used: {error.message}")
        return verdict

    def _judge(self, options: Mapping[str, Any], testimony: Testimony, cut: float, verdict: Verdict) -> None:
        with Fetcher(environ={}, **options).cache as cache:
            self._settings = cache.settings
            self._look_at_index(cache, verdict)
            blobs = self._look_at_blobs(cache, verdict)
            self._look_at_snapshots(cache, testimony.promised(cut), verdict)
            self._look_at_pins(cache, testimony.pins(cut), verdict)
            kept = self._look_at_partials(cache, testimony.proven(cut), verdict)
        self._complete(options, testimony.under_way(cut), blobs, kept, verdict)
        self._tidy(verdict)

    def _look_at_index(self, cache: Cache, verdict: Verdict) -> None:
        damaged = [name for name in os.listdir(cache.layout.state_dir) if ".aside-" in name]
        if damaged:
            verdict.faults.append(f"the index was set aside as damaged: {damaged}")
        if cache.recovery.refused:
            verdict.faults.append(f"Snapshots were not adopted: {cache.recovery.refused}")
        with cache.index.read() as rows:
            said = [text for (text,) in rows.execute("PRAGMA integrity_check")]
        if said != ["ok"]:
            verdict.faults.append(f"the index is damaged: {said}")

    def _look_at_blobs(self, cache: Cache, verdict: Verdict) -> set[str]:
        """SHA-256 of each Blob that a fetch would use, all of which are compared with what is claimed of them."""
        with cache.index.read() as rows:
            roots = [root for (root,) in rows.execute("SELECT root FROM blobs")]
        held = set()
        for root in roots:
            blob = blob_of(cache, root)
            if blob is None:
                continue  # a row that counts for nothing
            data = blob.path.read_bytes()
            verdict.blobs += 1
            verdict.bytes_compared += len(data)
            if hashing.root_of(data).hex() != root:
                verdict.faults.append(f"Blob {root} of {len(data)} bytes has other bytes")
                continue
            sha256 = hashlib.sha256(data).hexdigest()
            held.add(sha256)
            for digest in cache.blobs.digests(root):
                if digest.algorithm == "sha256" and digest.hex != sha256:
                    verdict.faults.append(f"Blob {root} is said to have {digest}")
            if len(data) > hashing.BLOCK_BYTES:
                self._look_at_tree(cache, root, data, verdict)
        return held

    def _look_at_tree(self, cache: Cache, root: str, data: bytes, verdict: Verdict) -> None:
        try:
            tree = TreeFile.decode(cache.layout.tree(root).read_bytes())
        except (OSError, ValueError) as error:
            verdict.faults.append(f"the tree of Blob {root}: {error}")
            return
        expected = hashing.hash_blocks(data, 0, block=hashing.BLOCK_BYTES) if tree.block_bytes else b""
        if (tree.root, tree.size, tree.chaining_values) != (root, len(data), expected):
            verdict.faults.append(f"the tree of Blob {root} is of other bytes")

    def _look_at_snapshots(self, cache: Cache, promised: Mapping[str, str], verdict: Verdict) -> None:
        sound = set()
        for row in cache.snapshots():
            snapshot = cache.get_snapshot(row.id)
            if snapshot is None:
                continue  # a row that counts for nothing
            verdict.snapshots += 1
            found = differences(self._hub, snapshot)
            verdict.bytes_compared += snapshot.bytes
            if found:
                verdict.faults.append(f"false publish of {snapshot.uri}: {'; '.join(found[:5])}")
            else:
                sound.add(snapshot.id)
                cache.files(snapshot.id)  # its sidecar can be read
        verdict.promises = len(promised)
        for wanted, uri in promised.items():
            if wanted not in sound:
                verdict.faults.append(f"{uri} was promised, and is not there ({wanted[:12]})")

    def _look_at_pins(self, cache: Cache, promised: set[tuple[str, str]], verdict: Verdict) -> None:
        verdict.pins = len(promised)
        missing = promised - {(pin.name, pin.resource_key) for pin in cache.pins()}
        verdict.faults += [f"pin {name} was promised, and is not there" for name, _ in sorted(missing)]

    def _look_at_partials(
        self, cache: Cache, proven: Mapping[str, tuple[int, int]], verdict: Verdict
    ) -> dict[int, int]:
        """Size of a content (which tells the large ones apart) → bytes of it that can be resumed. What is lost is
        counted."""
        kept, sizes = resumable(cache.layout)
        for content, (size, bytes_proven) in proven.items():
            verdict.proven_bytes += bytes_proven
            if blob_of_content(cache, content, None, size, principal=None) is None:
                verdict.lost_bytes += max(0, bytes_proven - kept.get(content, 0))
        # A block that is at its worker when all is full is written nevertheless: two per connection.
        allowed = self._processes * (self._settings.sync_bytes + 2 * self._connections * MIB)
        if verdict.lost_bytes > allowed:
            verdict.faults.append(
                f"{verdict.lost_bytes} of {verdict.proven_bytes} proven bytes were lost, {allowed} may be"
            )
        return {sizes[content]: byte_count for content, byte_count in kept.items()}

    def _complete(
        self, options: Mapping[str, Any], uris: list[str], blobs: set[str], kept: Mapping[int, int], verdict: Verdict
    ) -> None:
        """Let a client finish what was under way: the result is right, and only what is missing is asked for."""
        missing: dict[str, int] = {}
        for uri in uris:
            for path, entry in world.entries(self._hub, uri).items():
                size, sha256 = entry.content.size, entry.content.sha256
                if entry.lfs and sha256 not in blobs:
                    missing[sha256] = size - (kept.get(size, 0) if size > hashing.BLOCK_BYTES else 0)
                elif not entry.lfs:  # no SHA-256 is stated by which what lies in the cache could be found
                    missing[f"{uri}/{path}"] = size
        before = len(self._hub.requests.select("bodies"))

        async def main() -> list[Snapshot]:
            async with Fetcher(environ={}, **options) as fetcher:
                return [outcome.snapshot for outcome in await fetcher.fetch_all([(uri, "job") for uri in uris])]

        for snapshot in asyncio.run(main()):
            if found := differences(self._hub, snapshot):
                verdict.faults.append(f"{snapshot.uri} was completed wrongly: {'; '.join(found[:5])}")
        # Only these: what is said to a client that was cut off is counted a while longer.
        bodies = self._hub.requests.select("bodies")[before:]
        verdict.asked_bytes = sum(record.body_bytes for record in bodies if record.status in (200, 206))
        allowed = sum(missing.values())
        if verdict.asked_bytes > allowed:
            detail = ", ".join(f"{record.path} {record.range} {record.body_bytes}" for record in bodies)
            verdict.faults.append(
                f"{verdict.asked_bytes} bytes were asked for, {allowed} were missing: {uris}; {detail}"
            )

    def _tidy(self, verdict: Verdict) -> None:
        """Once every grace is over, nothing is left that nobody owns."""
        later = 2 * max(self._settings.gc_grace_s, self._settings.partial_keep_s)
        with Cache.open(self._settings, clock=lambda: time.time() + later) as cache:
            before = {row.id for row in cache.snapshots() if cache.get_snapshot(row.id) is not None}
            report = cache.gc()
            verdict.leftovers = report.leftovers + report.partials
            if taken := before - {row.id for row in cache.snapshots()}:
                verdict.faults.append(f"gc took Snapshots whose time was not over: {sorted(taken)}")
            verdict.faults += [f"gc has left {name}" for name in strays(cache)]


# --- looking at bytes and names --------------------------------------------------------------------------------------


def differences(hub: Hub, snapshot: Snapshot) -> list[str]:
    """In what a Snapshot's directory differs from what the origin holds."""
    expected = {path: entry.content for path, entry in world.entries(hub, snapshot.uri).items()}
    found = []
    seen = set()
    for folder, _, names in os.walk(snapshot.path):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(snapshot.path).as_posix()
            seen.add(relative)
            if relative not in expected:
                found.append(f"{relative} is no file of it")
            elif path.stat().st_size != expected[relative].size:
                found.append(f"{relative} has {path.stat().st_size} bytes, not {expected[relative].size}")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != expected[relative].sha256:
                found.append(f"{relative} has other bytes")
    return found + [f"{relative} is missing" for relative in sorted(expected.keys() - seen)]


def resumable(layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """Content id → bytes of whole blocks that are what a journal says, of the best Partial there is; and the sizes."""
    kept: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for place in layout.partials.glob("[0-9a-f]*.*"):
        found = journal.read(place / "journal")
        if found is None or not hashing.HAS_TREE:
            continue
        content, size = found.head.content_id, found.head.size
        try:
            data = (place / "data").read_bytes()
        except FileNotFoundError:
            continue
        sound = 0
        for block, value in found.blocks.items():
            offset = block * hashing.BLOCK_BYTES
            piece = data[offset : min(offset + hashing.BLOCK_BYTES, size)]
            if len(piece) == min(hashing.BLOCK_BYTES, size - offset) > 0:
                sound += len(piece) * (hashing.hash_blocks(piece, offset, block=hashing.BLOCK_BYTES) == value)
        kept[content] = max(sound, kept.get(content, 0))
        sizes[content] = size
    return kept, sizes


def strays(cache: Cache) -> list[str]:
    """Names below the cache directory that docs/FORMAT.md does not know, or that no row and no owner speaks of."""
    layout = cache.layout
    with cache.index.read() as rows:
        roots = {root for (root,) in rows.execute("SELECT root FROM blobs")}
        ids = {wanted for (wanted,) in rows.execute("SELECT id FROM snapshots")}
    known = {
        layout.snapshots: ids | {f"{wanted}.json" for wanted in ids},
        layout.partials: set(),
        layout.writable: set(),
    }
    found = [
        f"{folder.name}/{name}" for folder, names in known.items() for name in os.listdir(folder) if name not in names
    ]
    for path in layout.blobs.iterdir():
        names = os.listdir(path) if path.is_dir() else [path.name]
        found += [f"blobs-v1/{path.name}/{name}" for name in names if name.removesuffix(".tree") not in roots]
    found += [f"owners-v1/{name}" for name in os.listdir(layout.owners) if name != cache.owner.id]
    top = {"CACHEDIR.TAG", "cache-id-v1", "cache-id-v1.lock", "index-v1.lock", "principal-key-v1", "spare-v1"}
    top |= {f"index-v1.sqlite{suffix}" for suffix in ("", "-wal", "-shm")}
    top |= {folder.name for folder in (*known, layout.blobs, layout.owners, layout.markets)}
    return found + sorted(set(os.listdir(layout.cache_dir)) - top)
