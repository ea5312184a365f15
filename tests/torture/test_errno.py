"""A disk that says no: each call of a publish is refused once, under ``fetcher get``, and what it says then is judged.

strace counts per thread, so one injection may hit several threads, each once; its log says which calls were hit, of
which files. What hits no file of the cache (stdout, a module of Python's) is not judged but for the cache's sake.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fetcher.errors import ERROR_CLASSES
from fetcher.testing import Hub
from tests.cli.support import check
from tests.e2e.support import LOOPBACK, fetch, options
from tests.torture import modes
from tests.torture.judging import (
    FIRST,
    GOOD,
    add_repos,
    assert_goes,
    assert_nothing_wrong,
    assert_rerun,
    assert_right,
    complaint_of,
)
from tests.torture.traced import KINDS, Call, Client, Ended, counts

pytestmark = [pytest.mark.needs("root", "debian:strace"), pytest.mark.timeout(modes.count(120, 3600))]

SYNCS = ("fsync", "fdatasync", "syncfs")
WRITES = ("write", "pwrite64", "ftruncate", "linkat", "mkdir", "mkdirat", "rename", "openat")
INTERRUPTIBLE = (*SYNCS, "write", "pwrite64", "ftruncate", "flock", "read", "pread64", "preadv")
"""Calls that Linux lets return EINTR, and reading, which is no change of a disk."""
EXIT_CODES = {error.kind: error.exit_code for error in ERROR_CLASSES}


class Bench:
    """A hub, a client, and a cache with an older good Snapshot for each run."""

    def __init__(self, hub: Hub, client: Client, top: Path) -> None:
        self.hub = hub
        self.client = client
        self.top = top
        self.cache_dir = top / "cache"
        self.stderr = top / "stderr"
        self.log = top / "log"

    def order(self, **more: Any) -> dict[str, Any]:
        environ = {
            "FETCHER_CACHE_DIR": str(self.cache_dir),
            "FETCHER_ALLOW_NET": LOOPBACK,
            "FETCHER_PART_BYTES": "1MiB",
            "FETCHER_SYNC_BYTES": "1MiB",
            "FETCHER_SPACE_FLOOR_BYTES": "0",
            "HF_ENDPOINT": self.hub.endpoint,
            "HOME": str(self.top / "home"),
            "PATH": "/usr/bin:/bin",
        }
        return {"command": ["get", FIRST, "--json"], "environ": environ, "stderr": str(self.stderr), **more}

    def get(self, *injections: str, **more: Any) -> Ended:
        """``fetcher get`` beside an older Snapshot, under these injections."""
        shutil.rmtree(self.cache_dir, ignore_errors=True)
        ready = self.client.work({"options": options(self.hub, self.cache_dir), "steps": [["fetch", GOOD]]})
        assert ready.status == 0, ready.facts
        kinds = (*KINDS, "read", "pread64", "preadv") if any("EINTR" in each for each in injections) else KINDS
        return self.client.traced(self.order(**more), self.log, *injections, kinds=kinds)

    def hits(self, ended: Ended) -> list[Call]:
        """Refused calls that were about a file of the cache. One whose name went meanwhile has no path any more."""
        return [call for call in ended.hit if call.concerns(self.cache_dir) or "<>" in call.text]

    def judge_words(self, ended: Ended) -> dict[str, Any]:
        """What it told is of the machine interface, a sentence and a hint, and never a traceback. The last line."""
        said = self.stderr.read_text()
        assert "Traceback" not in said and ended.status != 99, said
        assert ended.facts, "it told nothing"
        for fact in ended.facts:
            check(fact)
        last = ended.facts[-1]
        if ended.status:
            assert last["event"] == "error" and last["message"] and last["hint"], last
            assert EXIT_CODES[last["kind"]] == ended.status
        else:
            assert last["event"] == "snapshot"
        return last

    def judge_cache(self) -> None:
        """Nothing wrong is visible, the older Snapshot is unharmed, a later fetch completes, all goes in the end."""
        assert_nothing_wrong(self.cache_dir, self.hub)
        sent = self.hub.body_bytes_sent()
        assert_right(fetch(self.hub, self.cache_dir, GOOD, asker="operator").snapshot, self.hub)
        assert self.hub.body_bytes_sent() == sent, "the older snapshot was fetched again"
        assert_rerun(self.cache_dir, self.hub, [FIRST])
        assert_nothing_wrong(self.cache_dir, self.hub)
        assert_goes(self.cache_dir)


@pytest.fixture
def bench(hub: Hub, tmp_path: Path) -> Iterable[Bench]:
    add_repos(hub)
    with ExitStack() as stack:
        yield Bench(hub, stack.enter_context(Client()), tmp_path)


def is_index(call: Call) -> bool:
    """SQLite's own: of its files, or of the directory when it has made one. (Our own barriers of directories are fsync;
    SQLite's is fdatasync, and it goes on when that fails.)"""
    of_directory = call.kind == "fdatasync" and "-v1" not in call.text and "<>" not in call.text
    return "index-v1.sqlite" in call.text or of_directory


def is_partial(call: Call, cache_dir: Path) -> bool:
    """Bytes or journal of a Partial: what is not durable there may never be resumed."""
    return f"{cache_dir}/partials-v1/" in call.text and call.text.partition(">")[0].endswith(("/data", "/journal"))


def points(bench: Bench, kinds: Iterable[str]) -> list[tuple[str, int]]:
    """All calls of these kinds that one thread of ``fetcher get`` makes."""
    ended = bench.get()
    assert ended.status == 0, ended.facts
    found = counts(ended.calls)
    return [(kind, number) for kind in kinds for number in range(1, found.get(kind, 0) + 1)]


def drawn(every: list[tuple[str, int]], number: int, dice: random.Random) -> list[tuple[str, int]]:
    """So many of them, each kind at least once; in the long mode all."""
    if modes.LONG or number >= len(every):
        return every
    kinds = sorted({kind for kind, _ in every})
    first = [dice.choice([point for point in every if point[0] == kind]) for kind in kinds]
    rest = [point for point in every if point not in first]
    return first + dice.sample(rest, max(0, number - len(first)))


# --- EIO of a barrier ------------------------------------------------------------------------------------------------


def judge_sync(bench: Bench, ended: Ended) -> None:
    """What could not be made durable is not published, the error is typed, and nothing of it is resumed."""
    hits = bench.hits(ended)
    last = bench.judge_words(ended)
    if [call for call in hits if not is_index(call)]:  # SQLite may put off folding its log into the database
        assert ended.status == 51 and last["kind"] == "cache", f"a barrier failed and it said {last}"
    for call in hits:
        if is_partial(call, bench.cache_dir):
            place = Path(call.text.partition("<")[2].partition(">")[0]).parent
            assert not (place / "journal").exists(), f"{place} is left for a resume"


def test_a_barrier_that_fails_poisons_what_it_was_for(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them; there are few."""
    places: Counter[str] = Counter()
    for kind, number in points(bench, SYNCS):
        ended = bench.get(f"{kind}:error=EIO:when={number}")
        try:
            judge_sync(bench, ended)
            bench.judge_cache()
        except Exception as error:
            error.add_note(f"EIO at {kind} {number}: {[call.text for call in ended.hit]} {ended.facts}")
            raise
        places.update(_place(call, bench.cache_dir) for call in bench.hits(ended))
    report(capsys, "EIO of a barrier", places)
    assert places.total() >= 5 and places["index"] and places["partials"]


# --- no space --------------------------------------------------------------------------------------------------------


def judge_full(bench: Bench, ended: Ended, error: str) -> None:
    hits = bench.hits(ended)
    last = bench.judge_words(ended)
    if not ended.status or not hits:
        return  # a courtesy failed, or nothing of the cache was hit; whether all is right is judged in any case
    if any(is_index(call) for call in hits):
        # SQLite keeps the number of an error to itself; what is refused once is no full disk when we look.
        assert (ended.status, last["kind"]) in ((50, "no_space"), (51, "cache")), last
    elif len(hits) == len(ended.hit):
        assert (ended.status, last["kind"]) == (50, "no_space"), f"{error} was called {last}"


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_no_space_at_any_call(bench: Bench, rng: random.Random, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    places: Counter[str] = Counter()
    told: Counter[int] = Counter()
    every = points(bench, WRITES)
    first = drawn(every, 9, rng)
    # Most calls of one draw may be SQLite's own, a courtesy, or another thread's: then some more are tried.
    more = rng.sample(every, min(len(every), modes.count(20, 0)))
    for tried, (kind, number) in enumerate(first + more):
        if tried >= len(first) and told[50] >= 4:
            break
        ended = bench.get(f"{kind}:error={error}:when={number}")
        if any(not call.concerns(bench.cache_dir) for call in ended.hit if kind == "openat"):
            continue  # a module or a file of settings: strange words are allowed
        try:
            judge_full(bench, ended, error)
            bench.judge_cache()
        except Exception as wrong:
            wrong.add_note(f"{error} at {kind} {number}: {[call.text for call in ended.hit]} {ended.facts}")
            raise
        places.update(_place(call, bench.cache_dir) for call in bench.hits(ended))
        told[ended.status] += 1
    report(capsys, f"{error}, exit codes {dict(told)}", places)
    assert told[50] >= 4


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("first", [1, 2])
def test_an_index_that_gets_no_space_any_more(bench: Bench, error: str, first: int) -> None:
    """Refused from the n-th call of each thread on, as a full disk does: then it can be found out what SQLite met."""
    ended = bench.get(f"pwrite64:error={error}:when={first}+", f"fallocate:error={error}:when=1+")
    assert any(is_index(call) for call in ended.hit)
    last = bench.judge_words(ended)
    assert (ended.status, last["kind"]) == (50, "no_space"), last
    bench.judge_cache()


@pytest.mark.parametrize(
    ("injection", "exit_code", "word"),
    [("linkat:error=ENOSPC:when=1", 50, "No space left"), ("syncfs:error=EIO:when=1", 51, "Input/output error")],
)
def test_what_a_person_reads(bench: Bench, injection: str, exit_code: int, word: str) -> None:
    ended = bench.get(injection, command=["get", FIRST, "--quiet"])
    said = bench.stderr.read_text()
    assert ended.status == exit_code and not ended.facts
    assert word in said and "\nhint: " in said and "Traceback" not in said
    bench.judge_cache()


# --- interrupted calls -----------------------------------------------------------------------------------------------


def test_an_interrupted_call_is_made_again(
    bench: Bench, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Python, by the native core (its pread64 and pwrite64 of blocks), and by us."""
    places: Counter[str] = Counter()
    core = [("syncfs", 1), ("pwrite64", 1), ("pwrite64", 2), ("pread64", 1), ("preadv", 1)]  # blocks and digests
    for kind, number in core + drawn(points(bench, INTERRUPTIBLE), modes.count(8, 0), rng):
        ended = bench.get(f"{kind}:error=EINTR:when={number}")
        last = bench.judge_words(ended)
        hits = bench.hits(ended)
        if any(call.kind == "fdatasync" and is_index(call) for call in hits):
            assert not ended.status or (ended.status, last["kind"]) == (51, "cache")  # SQLite gives up there
        else:
            assert ended.status == 0, f"EINTR at {kind} {number}: {[call.text for call in ended.hit]} {last}"
        bench.judge_cache()
        places.update(f"{call.kind} of {_place(call, bench.cache_dir)}" for call in hits)
    report(capsys, "EINTR", places)
    assert places["pwrite64 of partials"], "no block of the native core was interrupted"


# --- the judges bite -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [("ignore_sync_errors", "a barrier failed|left for a resume"), ("forget_poison", "left for a resume")],
)
def test_a_client_that_takes_barriers_lightly_is_caught(bench: Bench, plant: str, complaint: str) -> None:
    for kind, number in points(bench, ("fdatasync", "fsync")):
        ended = bench.get(f"{kind}:error=EIO:when={number}", plant=plant)
        if found := complaint_of(partial(judge_sync, bench, ended)):
            assert re.search(complaint, found)
            return
    raise AssertionError("it was never caught")


def test_a_client_with_untyped_errors_is_caught(bench: Bench) -> None:
    ended = bench.get("linkat:error=ENOSPC:when=1", plant="raw_errors")
    with pytest.raises(AssertionError, match="ENOSPC was called"):
        judge_full(bench, ended, "ENOSPC")


def _place(call: Call, cache_dir: Path) -> str:
    """Which part of the cache a call was about."""
    if is_index(call):
        return "index"
    for name in ("partials", "blobs", "snapshots", "owners", "writable"):
        if f"{cache_dir}/{name}-v1" in call.text:
            return name
    return "roots" if str(cache_dir) in call.text else "gone"


def report(capsys: pytest.CaptureFixture[str], what: str, places: Counter[str]) -> None:
    with capsys.disabled():
        print(f"\n  {what}: {', '.join(f'{name} {number}' for name, number in places.most_common())} ", end="")
