"""The books of a round: whom a failure concerns, what goes on, and what is worth another try."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fetcher.cache.records import GoneError
from fetcher.engine.asks import Ask
from fetcher.engine.jobs import FileJob, OriginChangedError
from fetcher.engine.resolve import Prepared
from fetcher.engine.rounds import CHANGED_TRIES, Round
from fetcher.errors import DeniedError, FetcherError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.resource import HF
from fetcher.plan.fetch_plan import FetchPlan, PlannedFile, PlannedResource


class Job:
    """What the books look at of a job."""

    def __init__(self, content_id: str, manifest: Manifest | None) -> None:
        self.content_id = content_id
        self.manifest = manifest
        self.blob: object | None = None


def round_of(**needs: str) -> Round:
    """A resource for each keyword, that needs the contents of its letters: the first who needs one asks for it."""
    prepared, resources = [], []
    jobs: dict[str, Job] = {}
    for name, letters in needs.items():
        entries = tuple(FileEntry(f"{letter}.bin", 10, None) for letter in letters)
        manifest = (
            Manifest("hf", "https://hub:443", f"models/acme/{name}", "c" * 40, False, entries) if entries else None
        )
        ask = Ask(HF(f"acme/{name}"), Asker("job"), at=f"$.{name}")
        prepared.append(Prepared(ask, name, None, 0.0, None, None, manifest))
        files = tuple(PlannedFile(entry, "fetch", letter) for entry, letter in zip(entries, letters, strict=True))
        resources.append(PlannedResource(ask.resource.uri(), manifest, files, bytes_total=10 * len(letters)))
        for letter in letters:
            jobs.setdefault(letter, Job(letter, manifest))
    made = Round(prepared, FetchPlan(tuple(resources), 1000))
    made.jobs = cast(Any, jobs)
    return made


def fail(made: Round, content: str, error: FetcherError) -> set[str]:
    """Let a job fail; the contents that nobody needs any more."""
    return {job.content_id for job in made.failing()(made.jobs[content], error)}


def names(asks: list[Ask]) -> list[str]:
    return [ask.resource.uri().removeprefix("hf://acme/").removesuffix("@main") for ask in asks]


def test_a_failure_is_its_own_resources_alone() -> None:
    made = round_of(a="xy", b="z")
    error = DeniedError("no")
    assert fail(made, "x", error) == {"x", "y"}
    assert (made.failed, made.again, made.had) == ({0: error}, set(), [1])
    assert made.once_more({}) == []


def test_who_asked_for_a_shared_content_has_failed_and_the_other_asks_for_itself() -> None:
    made = round_of(a="xy", b="xz")
    assert fail(made, "x", DeniedError("no")) == {"x", "y"}, "what the other needs besides goes on"
    assert (set(made.failed), made.again, made.had) == ({0}, {1}, [])
    assert names(made.once_more({})) == ["b"]


def test_what_the_other_still_needs_of_a_failed_one_goes_on() -> None:
    made = round_of(a="xy", b="y")
    assert fail(made, "x", DeniedError("no")) == {"x"}
    assert made.had == [1]
    assert "y" in fail(made, "y", DeniedError("no"))
    assert (set(made.failed), made.again) == ({0}, {1})


def test_the_first_reason_stays() -> None:
    made = round_of(a="xy")
    first = NotFoundError("x is gone")
    fail(made, "x", first)
    fail(made, "y", DeniedError("later"))
    assert made.failed == {0: first}


def test_an_own_failure_counts_more_than_being_tried_again() -> None:
    made = round_of(a="x", b="xz")
    fail(made, "x", DeniedError("no"))
    fail(made, "z", DeniedError("its own"))
    assert set(made.failed) == {0, 1}
    assert made.once_more({}) == []


@pytest.mark.parametrize(
    "error", [OriginChangedError("other bytes"), GoneError("cleaned away")], ids=["changed", "gone"]
)
def test_what_changed_under_our_hands_is_asked_for_once_more(error: FetcherError) -> None:
    tries: dict[Ask, int] = {}
    for attempt in range(1, CHANGED_TRIES + 1):
        made = round_of(a="x")
        fail(made, "x", error)
        assert names(made.once_more(tries)) == (["a"] if attempt < CHANGED_TRIES else [])


def test_rounds_spent_on_anothers_failure_are_no_tries_of_its_own() -> None:
    tries: dict[Ask, int] = {}
    for _ in range(3):
        made = round_of(a="x", b="x")
        fail(made, "x", DeniedError("no"))
        assert names(made.once_more(tries)) == ["b"]
    made = round_of(b="x")
    fail(made, "x", OriginChangedError("other bytes"))
    assert names(made.once_more(tries)) == ["b"], "its first own failure"


def test_an_end_of_the_run_concerns_what_is_missing_each_with_its_own_name() -> None:
    made = round_of(a="x", b="y", c="z", d="")
    made.jobs["y"].blob = cast(Any, object())
    error = TransportError("nothing came", resource="the whole list")
    made.fail_missing(error)
    assert made.had == [1, 3]
    assert [(made.failed[index].resource, made.failed[index].at) for index in (0, 2)] == [
        ("hf://acme/a@main", "$.a"),
        ("hf://acme/c@main", "$.c"),
    ]
    assert error.resource == "the whole list"


def test_an_end_of_the_run_is_no_failure_of_who_asks_again_anyway() -> None:
    made = round_of(a="x", b="x")
    fail(made, "x", DeniedError("no"))
    made.fail_missing(TransportError("nothing came"))
    assert (set(made.failed), made.again) == ({0}, {1})


def test_jobs_are_those_of_the_engine() -> None:
    """The stand-in has what the books use, under the engine's names."""
    assert {"content_id", "manifest", "blob"} <= set(FileJob.__slots__)
