"""Whose turn it is: whoever can't be served now holds up nobody else."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fetcher.config import Settings
from fetcher.engine import queues
from fetcher.engine.admission import Admission
from fetcher.engine.jobs import FileJob
from fetcher.engine.queues import OPENING_MAX, Queues
from fetcher.plan.tree import BLOCK_BYTES
from tests.engine.fakes import a_job

FIRST, SECOND = "https://first.example:443", "https://second.example:443"
CONNECTIONS = 4


def a_tool_box() -> Any:
    settings = Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"), connections_max=CONNECTIONS)
    return SimpleNamespace(
        settings=settings, clock=lambda: 100.0, admission=Admission(settings, lambda: 100.0, random.Random(1))
    )


def jobs_of(host: str, count: int, size: int) -> list[FileJob]:
    found = []
    for number in range(count):
        job = a_job(size)
        job.content_id = f"{host} {number}"
        job.resource = host
        job.source = cast(Any, SimpleNamespace(host=host, pause_s=lambda: 0.0))
        found.append(job)
    return found


def begin_all(waiting: Queues, begun: list[FileJob]) -> list[FileJob]:
    """As lanes would, until none is to begin now."""
    while (job := waiting.next_to_begin(begun)) is not None:
        waiting.opening -= 1
        begun.append(job)
    return begun


def test_large_files_of_a_host_that_wants_no_request_hold_up_no_other_host() -> None:
    tools = a_tool_box()
    waiting = Queues(tools, [*jobs_of(FIRST, 40, 9 * BLOCK_BYTES), *jobs_of(SECOND, 10, 9 * BLOCK_BYTES)])
    begun = begin_all(waiting, [])
    assert [job.source.host for job in begun] == [FIRST] * CONNECTIONS
    tools.admission.busy(FIRST, 60.0)
    begin_all(waiting, begun)
    assert [job.source.host for job in begun] == [FIRST] * CONNECTIONS + [SECOND] * CONNECTIONS
    del begun[CONNECTIONS:]
    assert [job.source.host for job in begin_all(waiting, begun)][CONNECTIONS:] == [SECOND] * CONNECTIONS
    del begun[CONNECTIONS:]
    assert [job.source.host for job in begin_all(waiting, begun)][CONNECTIONS:] == [SECOND] * 2, "all of them"


def test_where_all_hosts_want_no_request_no_more_is_begun_than_else() -> None:
    tools = a_tool_box()
    tools.admission.busy(FIRST, 60.0)
    waiting = Queues(tools, jobs_of(FIRST, 40, 9 * BLOCK_BYTES))
    assert len(begin_all(waiting, [])) == CONNECTIONS
    for _ in range(OPENING_MAX):
        assert waiting.next_to_begin([]) is not None
    assert waiting.next_to_begin([]) is None, "opening is the disk's work"


def test_what_stalls_goes_behind_the_small_files_of_others() -> None:
    waiting = Queues(a_tool_box(), [*jobs_of(FIRST, 200, 100), *jobs_of(SECOND, 5, 100)])
    for job in waiting.next_small_to_claim():
        waiting.add_small(job)
    waiting.claiming_small = False
    stalled = waiting.small.popleft()
    stalled.failures += 1
    waiting.small_stalled(FIRST)
    waiting.add_small(stalled)
    assert not waiting.small and waiting.small_to_come
    while batch := waiting.next_small_to_claim():
        for job in batch:
            waiting.add_small(job)
        waiting.claiming_small = False
    assert [job.resource for job in waiting.small] == [SECOND] * 5
    assert len(waiting.small_failed) == 200 and not waiting.small_to_come
    waiting.small_came(FIRST)
    (fresh,) = jobs_of(FIRST, 1, 100)
    waiting.add_small(fresh)
    assert fresh in waiting.small, "it is well again"
    waiting.remove({job.content_id for job in waiting.small_failed} | {fresh.content_id})
    assert len(waiting.small) == 5 and not waiting.small_failed


def test_what_has_failed_is_asked_for_while_nothing_better_comes(monkeypatch: Any) -> None:
    monkeypatch.setattr(queues, "SMALL_READY_MAX", 3)
    waiting = Queues(a_tool_box(), jobs_of(FIRST, 1000, 100))
    waiting.small_stalled(FIRST)
    for job in waiting.next_small_to_claim():
        waiting.add_small(job)
    assert not waiting.small_to_come, "there are enough of them by now"
