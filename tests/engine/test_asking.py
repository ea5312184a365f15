"""A request from admission to its end: what becomes of its connection, its books, and whoever ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fetcher.engine import asking
from fetcher.engine.asking import Asking
from fetcher.engine.jobs import Active, PartEnded
from fetcher.errors import DeniedError
from fetcher.model.ranges import ByteRange
from fetcher.plan.transfer import Outcome, Part
from fetcher.plan.watch import Pulse

SPAN = ByteRange(0, 1000)


class Answer:
    """Releasing and asking take a turn of the loop where they are said to."""

    def __init__(self, release_turns: int = 0) -> None:
        self.ends: list[str] = []
        self._release_turns = release_turns

    async def release(self) -> None:
        for _ in range(self._release_turns):
            await asyncio.sleep(0)
        self.ends.append("released")

    def abort(self) -> None:
        self.ends.append("aborted")


class Scene:
    """A run, a job and a place, as far as a request knows of them."""

    def __init__(self, *, crawls: bool = False, small: bool = False, answers_s: float = 0.0, turns: int = 0) -> None:
        self.now = 0.0
        self.asked, self.answered = asyncio.Event(), asyncio.Event()
        self.served: list[str] = []
        self.judged: list[Active] = []
        self.booked: list[Active] = []
        self.told: list[tuple[str, float]] = []
        """How long which host took for its answer."""
        self.wishes: dict[str, Any] = {}
        """What the source was asked for besides bytes."""
        self.answer = Answer(turns)
        self.active = Active(None if small else Part(SPAN), Pulse(0.0))

        async def answer(*_: Any, **wishes: Any) -> Answer:
            self.wishes = wishes
            self.asked.set()
            await asyncio.sleep(answers_s)
            self.now += 2.0
            self.answered.set()
            return self.answer

        def is_through(active: Active, host: str) -> bool:
            self.judged.append(active)
            return crawls

        admission = SimpleNamespace(answered=lambda *said: self.told.append(said), served=self.served.append)
        self.run = SimpleNamespace(
            tools=SimpleNamespace(clock=lambda: self.now, transport=None, admission=admission),
            settings=SimpleNamespace(part_idle_timeout_s=15.0),
            crawling=SimpleNamespace(is_through=is_through),
            actives=set(),
            renewals=set(),
            changed=asyncio.Event(),
            finished_rates=[],
            book=self.booked.append,
        )
        self.job = SimpleNamespace(active=set(), source=SimpleNamespace(open=answer))

    def asking(self, *, fresh: bool = False) -> Asking:
        run: Any = self.run
        job: Any = self.job
        place: Any = SimpleNamespace(host="https://cdn.example:443")
        return Asking(run, job, self.active, place, SPAN, fresh=fresh)

    async def ask(self) -> None:
        async with self.asking():
            assert self.run.actives == self.job.active == {self.active}

    @property
    def is_over(self) -> bool:
        return not self.run.actives and not self.job.active


@pytest.mark.parametrize("crawls", [False, True])
def test_a_connection_that_crawled_through_its_part_is_closed_and_another_is_kept(crawls: bool) -> None:
    scene = Scene(crawls=crawls)
    asyncio.run(scene.ask())
    assert scene.answer.ends == (["aborted"] if crawls else ["released", "aborted"])  # the latter is of no effect then
    assert scene.is_over and len(scene.served) == 1
    assert scene.run.finished_rates == [SPAN.length / 2.0]


async def renewed(scene: Scene, renew: Callable[[], Awaitable[None]]) -> None:
    """As a lane does it where what the scene's file is asked for with has expired."""
    run: Any = scene.run
    job: Any = scene.job
    job.source.renew = renew
    try:
        await asking.renew(run, job)
    finally:
        assert not run.renewals and not job.active
        assert run.changed.is_set(), "others wait for what it has brought"


def test_who_asks_for_something_fresh_can_be_seen_and_holds_no_connection() -> None:
    scene = Scene()

    async def renew() -> None:
        assert len(scene.run.renewals) == 1 and scene.job.active == scene.run.renewals
        assert not scene.run.actives

    asyncio.run(renewed(scene, renew))


def test_that_something_can_not_be_renewed_is_heard() -> None:
    async def renew() -> None:
        await asyncio.sleep(0)
        raise DeniedError("not any more")

    with pytest.raises(DeniedError):
        asyncio.run(renewed(Scene(), renew))


@pytest.mark.parametrize("dropped", [True, False])
def test_asking_for_something_fresh_ends_where_nobody_needs_it(dropped: bool) -> None:
    """And who cancels the lane meanwhile is heard."""
    scene = Scene()

    async def renew() -> None:
        scene.asked.set()
        await asyncio.sleep(30.0)

    async def main() -> None:
        task = asyncio.create_task(renewed(scene, renew))
        await scene.asked.wait()
        if dropped:
            for each in scene.job.active:
                each.end_with(Outcome.SHED)
            await task
            assert not task.cancelling()
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_verdict_in_the_turn_in_which_something_fresh_comes_hits_no_later_await() -> None:
    scene = Scene()

    async def renew() -> None:
        for each in scene.job.active:
            each.end_with(Outcome.SHED)

    async def main() -> None:
        await renewed(scene, renew)
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    asyncio.run(main())


@pytest.mark.parametrize("fresh", [False, True])
def test_how_it_is_asked_and_what_others_hear_of_it(fresh: bool) -> None:
    scene = Scene()

    async def main() -> None:
        async with scene.asking(fresh=fresh):
            assert scene.told == [("https://cdn.example:443", 2.0)]
            assert scene.active.answered_s == 2.0

    asyncio.run(main())
    assert scene.wishes["fresh"] is fresh
    assert scene.wishes["idle_timeout_s"] > scene.run.settings.part_idle_timeout_s, "the watchdog is to be first"
    assert scene.booked == [scene.active]


def test_a_small_file_has_no_speed_to_judge() -> None:
    scene = Scene(crawls=True, small=True)
    asyncio.run(scene.ask())
    assert scene.answer.ends[0] == "released"
    assert scene.is_over and not scene.judged and not scene.run.finished_rates and len(scene.served) == 1


@pytest.mark.parametrize("turns", [0, 5])
def test_a_verdict_ends_it_wherever_it_is_and_the_lane_goes_on(turns: int) -> None:
    """While it waits for its answer, and while its connection is given back."""
    scene = Scene(answers_s=0.0 if turns else 30.0, turns=turns)

    async def lane() -> None:
        with pytest.raises(PartEnded) as ended:
            await scene.ask()
        assert ended.value.outcome is Outcome.SLOW
        await asyncio.sleep(0.01)

    async def main() -> None:
        task = asyncio.create_task(lane())
        await (scene.answered if turns else scene.asked).wait()
        scene.active.end_with(Outcome.SLOW)
        await task

    asyncio.run(main())
    assert scene.answer.ends == (["aborted"] if turns else [])
    assert scene.is_over and not scene.served


def test_a_verdict_in_the_turn_of_its_end_hits_no_later_await() -> None:
    scene = Scene()

    async def main() -> None:
        async with scene.asking():
            scene.active.end_with(Outcome.SLOW)
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    asyncio.run(main())
    assert scene.is_over and len(scene.served) == 1


def test_whoever_cancels_the_lane_is_heard() -> None:
    scene = Scene(answers_s=30.0)

    async def main() -> None:
        task = asyncio.create_task(scene.ask())
        await scene.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert scene.is_over and not scene.served
