"""What a publish costs once for many files, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache.store import Cache
from fetcher.testing import Hub, Synthetic
from fetcher.testing.faults import OnRequest
from tests.e2e.support import MIB, REPO, assert_whole, fetch

FILES = 600


def test_many_small_files_share_barriers_and_have_no_tasks_of_their_own(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, files={f"{number:04}.bin": Synthetic(4096, number) for number in range(FILES)})
    batches: list[int] = []
    tasks: list[object] = []
    commit_small = Cache.commit_small

    def commit(cache: Cache, files: Any, **more: Any) -> Any:
        batches.append(len(files))
        return commit_small(cache, files, **more)

    def made(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        tasks.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    def count_tasks(event: object) -> None:
        asyncio.get_running_loop().set_task_factory(made)

    monkeypatch.setattr(Cache, "commit_small", commit)
    assert_whole(fetch(hub, cache_dir, on_event=count_tasks).snapshot, hub)
    assert sum(batches) == FILES
    assert len(batches) <= FILES / 10, "one barrier for many, also where the machine has little time for us"
    assert len(tasks) <= FILES / 10


def test_a_file_is_made_durable_while_the_next_one_comes(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two connections no third file is asked for before the body of one is here: it comes while that one waits."""
    hub.add_repo(REPO, files={f"{number}.safetensors": Synthetic(3 * MIB, number) for number in range(3)})
    came = threading.Event()
    overlapped: list[bool] = []
    commits = count()
    commit = Cache.commit

    def commit_late(cache: Cache, *arguments: Any, **more: Any) -> Any:
        if next(commits) == 0:
            overlapped.append(came.wait(20))
        return commit(cache, *arguments, **more)

    asked: set[str] = set()

    def note(exchange: Any) -> None:
        asked.add(exchange.request.path)
        if len(asked) == 3:
            came.set()

    monkeypatch.setattr(Cache, "commit", commit_late)
    hub.faults.add(OnRequest(note).on("cdn"))
    assert_whole(fetch(hub, cache_dir, connections_max=2).snapshot, hub)
    assert overlapped == [True]
