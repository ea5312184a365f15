"""Which calls read back into digests together: two files as one call where both have bytes, alone where nobody has."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from fetcher import hashing
from fetcher.engine import readback
from fetcher.engine.readback import ReadBack
from fetcher.engine.workers import Workers
from fetcher.errors import CacheError
from tests.engine.fakes import paint

WAIT_S = 20.0
SIZE = 300_000


class Source:
    """What a Partial is to a reader: a descriptor for the time of a call."""

    def __init__(self, path: Path, data: bytes, gate: threading.Event | None = None) -> None:
        path.write_bytes(data)
        self.path = path
        self.data = data
        self.trouble: Exception | None = None
        self.readers = 0
        self._gate = gate

    @contextmanager
    def reading(self) -> Iterator[int]:
        if self.trouble is not None:
            raise self.trouble
        self.readers += 1
        if self._gate is not None:
            assert self._gate.wait(WAIT_S)
        with self.path.open("rb") as file:
            yield file.fileno()
        self.readers -= 1


class Desk:
    """A ReadBack with its workers, and the calls it made."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers = Workers()
        self.on_cores(2)
        self.gate = threading.Event()
        self.calls: list[tuple[str, ...]] = []
        self._tmp_path = tmp_path
        feed_all = readback._feed_all

        def noted(*steps: readback.Step) -> list[int | Exception]:
            self.calls.append(tuple(step.source.path.name for step in steps))
            return feed_all(*steps)

        monkeypatch.setattr(readback, "_feed_all", noted)

    def on_cores(self, cores: int) -> None:
        """As on a machine with so many: half of them follow."""
        self.workers.followers_max = cores
        self.readback = ReadBack(self.workers)

    def source(self, name: str, size: int = SIZE, *, gated: bool = False) -> Source:
        return Source(self._tmp_path / name, paint(size, shade=len(name)), self.gate if gated else None)

    async def whole(self, source: Source, step: int = SIZE, algorithm: str = "sha256") -> str:
        """The digest of all of a source, step by step."""
        trail = hashing.Trail(algorithm, len(source.data))
        while (run := trail.next_run(lambda _: True)) is not None:
            taken = await self.feed(run, source, min(step, run.stop - run.position))
            assert 0 < taken <= step
            trail.fed(run)
        return trail.hexdigest()

    async def feed(self, run: hashing.Run, source: Source, length: int) -> int:
        return await self.readback.feed(run, cast(Any, source), length)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(tmp_path, monkeypatch)
    yield made
    made.gate.set()
    made.workers.close()


@pytest.fixture(autouse=True)
def _pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that gains from it; what is computed is the same on every other."""
    monkeypatch.setattr(hashing, "SHA256_PAIRS", True)


def right(source: Source) -> str:
    return hashlib.sha256(source.data).hexdigest()


def run_of(source: Source) -> hashing.Run:
    run = hashing.Trail("sha256", len(source.data)).next_run(lambda _: True)
    assert run is not None
    return run


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_one_file_goes_alone_and_at_once(desk: Desk) -> None:
    source = desk.source("one")
    assert asyncio.run(desk.whole(source, step=100_000)) == right(source)
    assert desk.calls == [("one",)] * 3


@pytest.mark.parametrize("count", [2, 4])
def test_files_that_have_bytes_go_two_by_two(desk: Desk, count: int) -> None:
    async def main() -> list[str]:
        return await asyncio.gather(*(desk.whole(source, step=50_000) for source in sources))

    sources = [desk.source("x" * (number + 1)) for number in range(count)]
    assert asyncio.run(main()) == [right(source) for source in sources]
    assert {len(call) for call in desk.calls} == {2}
    assert len(desk.calls) == 6 * count // 2


def test_with_threads_to_spare_each_goes_alone(desk: Desk) -> None:
    desk.on_cores(4)

    async def main() -> list[str]:
        return await asyncio.gather(*(desk.whole(source, step=50_000) for source in sources))

    sources = [desk.source("a"), desk.source("bb")]
    assert asyncio.run(main()) == [right(source) for source in sources]
    assert {len(call) for call in desk.calls} == {1}
    assert len(desk.calls) == 12


def test_an_odd_one_goes_alone_beside_a_pair(desk: Desk) -> None:
    desk.on_cores(4)

    async def main() -> list[str]:
        return await asyncio.gather(*(desk.whole(source) for source in sources))

    sources = [desk.source("a"), desk.source("bb"), desk.source("ccc")]
    assert asyncio.run(main()) == [right(source) for source in sources]
    assert sorted(desk.calls) == [("a", "bb"), ("ccc",)]


def test_a_second_one_waits_for_the_first_and_joins_it(desk: Desk) -> None:
    """One that was just served is most likely back at once: then there are two."""

    async def main() -> None:
        first, second = desk.source("a", gated=True), desk.source("bb")
        one = asyncio.create_task(desk.whole(first, step=SIZE // 2))
        await until(lambda: first.readers == 1)
        other = asyncio.create_task(desk.whole(second, step=SIZE // 2))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert desk.calls == [("a",)]
        desk.gate.set()
        assert await asyncio.gather(one, other) == [right(first), right(second)]

    asyncio.run(main())
    assert desk.calls[1] in (("a", "bb"), ("bb", "a"))


def test_whoever_waits_goes_alone_when_the_other_does_not_come_back(desk: Desk) -> None:
    async def main() -> None:
        first, second = desk.source("a", gated=True), desk.source("bb")
        one = asyncio.create_task(desk.whole(first))
        await until(lambda: first.readers == 1)
        other = asyncio.create_task(desk.whole(second))
        await asyncio.sleep(0.002)
        desk.gate.set()
        assert await one == right(first)
        assert await other == right(second)

    asyncio.run(main())
    assert desk.calls == [("a",), ("bb",)]


def test_no_more_calls_at_a_time_than_there_are_threads(desk: Desk) -> None:
    async def main() -> None:
        sources = [desk.source("x" * (number + 1), gated=True) for number in range(4)]
        tasks = [asyncio.create_task(desk.whole(source)) for source in sources]
        await until(lambda: sources[0].readers == 1)
        await asyncio.sleep(0.005)
        assert desk.calls == [("x", "xx")]
        desk.gate.set()
        assert await asyncio.gather(*tasks) == [right(source) for source in sources]

    asyncio.run(main())
    assert desk.calls == [("x", "xx"), ("xxx", "xxxx")]


def test_pieces_of_different_lengths_go_as_far_as_both_have_bytes(desk: Desk) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(desk.feed(long, a, 200_000), desk.feed(short, b, 60_000))

    a, b = desk.source("a"), desk.source("bb")
    long, short = run_of(a), run_of(b)
    assert asyncio.run(main()) == [60_000, 60_000]
    assert (long.position, short.position) == (60_000, 60_000)


def test_trouble_of_one_is_not_the_others(desk: Desk) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(desk.whole(sound), desk.whole(troubled), return_exceptions=True)

    sound, troubled = desk.source("a"), desk.source("bb")
    troubled.trouble = CacheError("its disk is in trouble")
    digest, error = asyncio.run(main())
    assert digest == right(sound)
    assert error is troubled.trouble


@pytest.mark.parametrize("cut", [0, 1, SIZE // 2])
def test_a_file_that_was_cut_is_said_and_the_other_goes_on(desk: Desk, cut: int) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(desk.whole(short), desk.whole(sound), return_exceptions=True)

    short, sound = desk.source("a"), desk.source("bb")
    short.path.write_bytes(short.data[:cut])
    error, digest = asyncio.run(main())
    assert isinstance(error, CacheError) and "was cut" in error.message
    assert digest == right(sound)


def test_a_lone_file_that_was_cut(desk: Desk) -> None:
    for algorithm in ("sha256", "md5"):
        short = desk.source("a")
        short.path.write_bytes(b"")
        with pytest.raises(CacheError, match="was cut"):
            asyncio.run(desk.whole(short, algorithm=algorithm))


def test_cancelled_while_it_waits_it_leaves(desk: Desk) -> None:
    async def main() -> None:
        first = [desk.source("a", gated=True), desk.source("bb", gated=True)]
        tasks = [asyncio.create_task(desk.whole(source)) for source in first]
        await until(lambda: first[0].readers == 1)
        waiting = asyncio.create_task(desk.whole(desk.source("ccc")))
        await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        desk.gate.set()
        assert await asyncio.gather(*tasks) == [right(source) for source in first]

    asyncio.run(main())
    assert desk.calls == [("a", "bb")]
    assert "0 waiting" in repr(desk.readback)


def test_cancelled_in_a_call_it_ends_with_the_call(desk: Desk) -> None:
    """The other of the pair has what it asked for."""

    async def main() -> None:
        sources = [desk.source("a", gated=True), desk.source("bb", gated=True)]
        tasks = [asyncio.create_task(desk.whole(source)) for source in sources]
        await until(lambda: sources[0].readers == 1)
        tasks[0].cancel()
        await asyncio.sleep(0.005)
        assert not tasks[0].done(), "its file is being read"
        desk.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert sources[0].readers == 0
        assert await tasks[1] == right(sources[1])

    asyncio.run(main())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_a_thread_whoever_waits_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Of a limit on processes: the run must end, and not wait for a call that never began."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> list[Any]:
        return await asyncio.gather(*(desk.whole(source) for source in sources), return_exceptions=True)

    monkeypatch.setattr(desk.workers, "follow", refuse)
    sources = [desk.source("x" * (number + 1)) for number in range(count)]
    assert [str(error) for error in asyncio.run(main())] == ["can't start new thread"] * count


def test_a_call_that_breaks_is_told_to_both(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: readback.Step) -> list[int | Exception]:
        raise MemoryError

    async def main() -> list[Any]:
        return await asyncio.gather(*(desk.whole(source) for source in sources), return_exceptions=True)

    monkeypatch.setattr(readback, "_feed_all", broken)
    sources = [desk.source("a"), desk.source("bb")]
    assert [type(error) for error in asyncio.run(main())] == [MemoryError, MemoryError]


def test_other_digests_go_by_themselves(desk: Desk) -> None:
    async def main() -> list[str]:
        return await asyncio.gather(*(desk.whole(source, algorithm="md5") for source in sources))

    sources = [desk.source("a"), desk.source("bb")]
    assert asyncio.run(main()) == [hashlib.md5(source.data).hexdigest() for source in sources]
    assert desk.calls == [], "nobody waits for a partner that would not help"


def test_without_gain_there_are_no_pairs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "SHA256_PAIRS", False)

    async def main() -> list[str]:
        return await asyncio.gather(*(desk.whole(source) for source in sources))

    sources = [desk.source("a"), desk.source("bb")]
    assert asyncio.run(main()) == [right(source) for source in sources]
    assert desk.calls == []
