"""What the rooms' tests of the command line share: the program called in-process, or with a stdout that nobody reads, a
stocked cache, closed schemas.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fetcher import schemas
from fetcher.cache.records import NewSnapshot, SmallFile, Snapshot
from fetcher.cache.store import Cache
from fetcher.cli.app import main
from fetcher.config import load
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.resource import HF
from fetcher.net.request import origin_of
from tests.support.cli import CommandLine

COMMIT = "0123456789" * 4
FILES: Mapping[str, bytes] = {"config.json": b"{}", "empty": b"", "weights/model.bin": bytes(range(251)) * 400}


@dataclass(frozen=True, slots=True)
class Done:
    """How one in-process run ended."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Program:
    """``main()`` with its lines captured; every JSON line is held against its schema."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Done:
        self._capsys.readouterr()
        exit_code = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        done = Done(exit_code, out, err)
        if "--json" in arguments:
            for line in done.json:
                check(line)
        return done


def told_to_nobody(run_cli: CommandLine, *arguments: str | Path) -> None:
    """Run it with a stdout whose reader has gone, which is all that may be wrong."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = run_cli.start(*arguments, stdout=writer)
    finally:
        os.close(writer)
    with process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


def check(line: Mapping[str, Any]) -> None:
    """Hold one object against the schema of its event; fields that the schema does not tell of are a fault, too."""
    assert next(iter(line)) == "event"
    Draft202012Validator(closed(schemas.load(line["event"]))).validate(line)


def closed(schema: Any) -> Any:
    """``schema`` with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: closed(value) for name, value in schema.items()}
    if result.get("type") == "object":
        result["additionalProperties"] = False
    return result


def stock(
    resource: HF,
    files: Mapping[str, bytes] = FILES,
    *,
    age_s: float = 0.0,
    fresh_for_s: float = 86_400.0,
    keep_for_s: float = 86_400.0,
) -> Snapshot:
    """Put a public Snapshot into the cache that the environment names, as a download would have."""
    settings = load()
    entries = tuple(
        FileEntry(path, len(data), Digest("sha256", hashlib.sha256(data).hexdigest()))
        for path, data in sorted(files.items())
    )
    endpoint = origin_of(settings.hf_endpoint)
    manifest = Manifest("hf", endpoint, f"models/{resource.repo}", COMMIT, False, entries)
    with Cache.open(settings, clock=lambda: time.time() - age_s) as cache:
        bodies = [(entry, files[entry.path]) for entry in entries if entry.size]
        small = [
            SmallFile(entry.path, data, (entry.digest,) if entry.digest else (), "sha256") for entry, data in bodies
        ]
        blobs = cache.commit_small(small, private=False, principal=None)
        roots = {entry.path: blob.root for (entry, _), blob in zip(bodies, blobs, strict=True)}
        return cache.publish(
            NewSnapshot(
                key=resource.key(endpoint),
                uri=resource.uri(),
                resource={"type": "HF", "repo": resource.repo},
                endpoint=endpoint,
                manifest_digest=manifest.digest(),
                revision=COMMIT,
                private=False,
                principal=None,
                immutable=resource.immutable,
                downloaded_at=time.time() - age_s,
                fresh_for_s=fresh_for_s,
                keep_for_s=keep_for_s,
            ),
            [(entry, roots.get(entry.path), "sha256") for entry in entries],
        )
