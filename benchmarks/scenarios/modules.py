"""Scenarios that are measured inside of one process: the hashing core, and the cache on the local disk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

from benchmarks.running.machine import Conditions, run
from benchmarks.running.options import Options
from benchmarks.running.race import Row
from benchmarks.running.work import CHECKOUT, Command


def hashing(options: Options) -> Iterator[Row]:
    """How many times as fast BLAKE3, SHA-256, writing and all of them together are; see measures/hashing.py."""
    yield from _module("hashing", options, f"--rounds={options.rounds}", f"--file-size={options.size_bytes // 4}")


def index(options: Options) -> Iterator[Row]:
    """A hit and a lease among many Snapshots, commits, gc, an index made anew; see measures/cache.py."""
    sizes = (f"--snapshots={options.snapshots // 10}", f"--file-size={options.size_bytes // 4}")
    yield from _module("cache", options, f"--rounds={options.rounds}", *sizes)


def denied(options: Options) -> Iterator[Row]:
    """Whether a refusal takes longer, or less long, where another's copy is in the cache; see measures/denied.py."""
    yield from _module("denied", options)


def _module(name: str, options: Options, *arguments: str) -> Iterator[Row]:
    command = (sys.executable, "-m", f"benchmarks.measures.{name}", *arguments, "--directory", str(options.disk))
    # Which kernel is measured may be chosen; nothing else of the environment reaches anybody.
    chosen = {name: os.environ[name] for name in ("FETCHER_SIMD", "FETCHER_NATIVE") if name in os.environ}
    output = run(Command(command, {"PYTHONPATH": str(CHECKOUT), **chosen}), Conditions(options.core)).stdout
    for line in output.partition("\n\n")[0].splitlines():
        yield json.loads(line) | ({"chosen": chosen} if chosen else {})
