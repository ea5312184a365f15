"""``fetcher inspect``: one entry of the cache, its files and what each was compared with."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fetcher.cli.context import Context
from fetcher.cli.entries import entry_json, snapshot_at, snapshots_of
from fetcher.cli.ls import state_words
from fetcher.cli.output import table
from fetcher.model.quantities import format_size
from fetcher.model.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fetcher.cache.records import SnapshotFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="URI|PATH", help="a resource, or any path inside its directory")


def run(context: Context) -> int:
    what: str = context.options.what
    with context.cache(looking=True) as cache:
        found = snapshots_of(cache, what) if "://" in what else [snapshot_at(cache, Path(what))]
        leases, pins, present = cache.leases(), cache.pins(), cache.snapshots()
        entries = [entry_json("inspect", snapshot, leases, pins, present) for snapshot in found]
        # One that was found damaged has no list any more: nobody is given it, and no new index is to adopt it.
        files = [[] if snapshot.damaged else cache.files(snapshot.id) for snapshot in found]
    for number, (entry, listed) in enumerate(zip(entries, files, strict=True)):
        if context.output.json_lines:
            context.output.event({**entry, "file_list": [_file_json(file) for file in listed]})
        else:
            for line in ([""] if number else []) + _lines(entry, listed):
                context.output.data(line)
    return 0


def _file_json(file: SnapshotFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "size": file.size,
        "blake3": file.root,
        "digest": str(file.digest) if file.digest else None,
        "verified_by": file.verified_by,
    }


def _lines(entry: dict[str, Any], files: Sequence[SnapshotFile]) -> list[str]:
    facts = [
        ("resource", entry["resource"]),
        ("revision", entry["revision"] or "none"),
        ("endpoint", entry["endpoint"]),
        ("path", entry["path"]),
        ("size", f"{format_size(entry['bytes'])} in {entry['files']} files"),
        ("verified by", entry["verified_by"]),
        ("state", state_words(entry, time.time())),
        ("downloaded", when(entry["downloaded_at"])),
        ("fresh until", "for ever" if entry["fresh_until"] is None else when(entry["fresh_until"])),
        ("kept until", when(entry["keep_until"])),
    ]
    facts += [
        ("lease", f"{lease['id']} until {when(lease['expires_at']) if lease['expires_at'] else 'its process ends'}")
        for lease in entry["leases"]
    ]
    lines = [f"{name + ':':<13} {printable(str(value))}" for name, value in facts]
    rows = [
        [file.path, format_size(file.size), file.verified_by, str(file.digest or "-"), file.root or "-"]
        for file in files
    ]
    if entry["damaged"]:
        return lines
    return [*lines, "", *table(["FILE", "SIZE", "VERIFIED BY", "DIGEST OF THE ORIGIN", "BLAKE3"], rows, right=(1,))]


def when(unix_s: float) -> str:
    """A time for people, in their own zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
