"""How a lane asks: over which connection."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fetcher.engine import lanes
from fetcher.engine.lanes import Lanes
from tests.engine.fakes import a_job, a_part


class AskedError(Exception):
    """Enough is known."""


@pytest.mark.parametrize(
    ("failures", "moves", "fresh"), [(0, 0, False), (0, 1, False), (0, 2, True), (1, 0, True), (1, 2, True)]
)
@pytest.mark.parametrize("hedge", [False, True])
def test_kept_connections_come_first_and_new_ones_where_those_may_be_to_blame(
    monkeypatch: pytest.MonkeyPatch, failures: int, moves: int, fresh: bool, hedge: bool
) -> None:
    asked: list[bool] = []

    def asking(*_: Any, fresh: bool) -> Any:
        asked.append(fresh)
        raise AskedError

    monkeypatch.setattr(lanes, "Asking", asking)
    job = a_job(32 << 20)
    job.failures, job.source = failures, SimpleNamespace(scouting=False)  # type: ignore[assignment]
    part = a_part(job)
    part.moves = moves
    if hedge:
        part.hedges = a_part(job)
    run: Any = SimpleNamespace(
        settings=SimpleNamespace(part_moves_max=3),
        tools=SimpleNamespace(
            clock=lambda: 0.0, slabs=SimpleNamespace(take_pair=lambda: (), give_back=lambda slabs: None)
        ),
        hedging=SimpleNamespace(over=lambda *_: None),
    )
    place: Any = SimpleNamespace(leave=lambda: None)
    with pytest.raises(AskedError):
        asyncio.run(Lanes(run)._do_part(job, part, place))
    assert asked == [fresh]
