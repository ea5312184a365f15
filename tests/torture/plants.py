"""Faults to plant in a client, to show that the judges of this room see them. Each is one thing that a careless client
would do; called in the client's process before it begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def publish_unchecked() -> None:
    """What came is published, whatever the origin states of it."""
    from fetcher import hashing
    from fetcher.engine import small
    from fetcher.engine.attend import Attendant

    def believe(self: Any, computed: dict[str, str]) -> bool:
        self._job.verified = (self._job.digest,)
        return True

    def agree(digest: Any, data: Any, *, at_once: bool = False) -> bool:
        return True

    Attendant._right = believe  # type: ignore[method-assign]
    hashing.matches = agree
    small.hashing.matches = agree  # type: ignore[attr-defined]


def name_before_bytes() -> None:
    """A small file has its Blob's name before its bytes are written."""
    from fetcher import hashing
    from fetcher.cache import commit, durable

    def named_first(folder: int, names: Sequence[bytes], contents: Sequence[Any], mode: int) -> None:
        staging = Path(os.readlink(f"/proc/self/fd/{folder}"))
        for name, content in zip(map(os.fsdecode, names), contents, strict=True):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            os.fchmod(descriptor, mode)
            root = hashing.root_of(content).hex()
            blobs = staging.parents[1] / "blobs-v1" / root[:2]
            blobs.mkdir(mode=0o700, exist_ok=True)
            os.link(staging / name, blobs / root)
            durable.write_all(descriptor, content)
            os.close(descriptor)

    commit.durable.write_files = named_first  # type: ignore[attr-defined]


def forget_journal() -> None:
    """Nothing is journalled: after a kill all is fetched again."""
    from fetcher.cache.partials import Partial

    def nothing(self: Any, slot: int, record: bytes) -> None:
        return None

    begin = Partial.begin_block

    def without(self: Any, block: int, *, direct: bool = False) -> tuple[int, int, int, int]:
        fd, direct_fd, _, _ = begin(self, block, direct=direct)
        return fd, direct_fd, -1, 0

    Partial._record = nothing  # type: ignore[method-assign]
    Partial.begin_block = without  # type: ignore[method-assign]


def leave_staging() -> None:
    """Staged under a name that nobody sweeps."""
    from fetcher.cache.layout import Layout

    def elsewhere(self: Any, parent: Path, what: str, owner_id: str) -> Path:
        return parent / f".work-{what[:16]}.{os.urandom(8).hex()}"

    Layout.staging = elsewhere  # type: ignore[method-assign]


def promise_too_early() -> None:
    """Told as published before it is."""
    from tests.torture import client_process

    async def early(client: Any, uri: str) -> None:
        client_process.say(event="published", uri=uri, id="0" * 64, path="/nonexistent")
        await client.fetch(uri, "operator")

    for module in (client_process, __import__("__main__")):
        module._STEPS["fetch"] = early


def forget_poison() -> None:
    """What could not be made durable is kept for a resume, and journalled as before."""
    from fetcher.cache.partials import Partial

    def nothing(self: Any) -> None:
        return None

    Partial.poison = nothing  # type: ignore[method-assign]


def _deaf(call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> None:
        try:
            call(*arguments)
        except OSError:
            return

    return wrapped


def ignore_sync_errors() -> None:
    """Errors of fsync and its like are nobody's business."""
    from fetcher.cache import durable

    os.fsync = _deaf(os.fsync)
    os.fdatasync = _deaf(os.fdatasync)
    durable.sync_file_system = _deaf(durable.sync_file_system)


def raw_errors() -> None:
    """The operating system's errors leave as they are."""
    from fetcher.cache import layout

    def as_it_is(error: OSError, action: str, place: Path | str) -> OSError:
        return error

    layout.disk_error = as_it_is  # type: ignore[assignment]
