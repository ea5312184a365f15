"""What tells one state of an object from another, and what follows: strong, weak, nothing at all. Never a mixture."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from fetcher import Fetcher, Notice, TransportError
from fetcher.engine.asks import Outcome
from fetcher.testing import S3, Exchange, RequestRecord, Synthetic, s3_in_thread
from fetcher.testing.faultplan import Fault
from fetcher.testing.faults import CutAfter, CutAt, IgnoreRange, OnRequest, StallAfter, Trickle
from fetcher.testing.messages import Reply
from fetcher.testing.s3 import RCLONE, Bucket, Quirks
from tests.e2e.support import (
    HURRIED,
    MIB,
    RESUMES,
    Child,
    assert_blobs_sound,
    kept_blocks,
    nothing_visible,
    partial_files,
    run_fetch,
    sha256_of,
    wait_until,
)

WEIGHTS = "weights.bin"
SIZE = 6 * MIB + 77
OLD, NEW = Synthetic(SIZE, 1), Synthetic(SIZE, 2)


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread() as running:
        yield running


def bucket_of(s3: S3, quirks: Quirks | None = None, **put: Any) -> Bucket:
    bucket = s3.add_bucket("models", public=True, quirks=quirks)
    bucket.put(WEIGHTS, OLD, last_modified=1_700_000_000, **put)
    return bucket


def options(cache_dir: Path, **more: Any) -> dict[str, Any]:
    return {**HURRIED, "cache_dir": str(cache_dir), **more}


def fetch(s3: S3, cache_dir: Path, url: str = "", *, on_event: Any = None, **more: Any) -> Outcome:
    make = lambda: Fetcher(environ={}, on_event=on_event, **options(cache_dir, **more))  # noqa: E731
    return run_fetch(make, url or s3.url("models", WEIGHTS))


def bodies(s3: S3, status: int | None = None) -> list[RequestRecord]:
    return s3.requests.select("object", method="GET", status=status)


def change_at(nth: int, bucket: Bucket, content: Synthetic = NEW, *, again: int = 1) -> Any:
    """A rule: before the ``nth`` GET (from 1) the object is replaced, and ``again`` times in all after as many more."""
    made: list[None] = []

    def replaced(exchange: Exchange) -> None:
        made.append(None)
        shown = content if len(made) % 2 else OLD
        bucket.put(WEIGHTS, Synthetic(shown.size, shown.seed), last_modified=1_700_000_000 + len(made))

    return OnRequest(replaced).on("object", method="GET", skip=nth - 1, times=again, every=nth)


def is_one_of(path: Path, *contents: Synthetic) -> bool:
    return sha256_of(path) in {content.sha256 for content in contents}


# --- strong ----------------------------------------------------------------------------------------------------------


def test_a_strong_etag_is_sent_with_every_range(s3: S3, cache_dir: Path) -> None:
    etag = f'"{bucket_of(s3).objects[WEIGHTS].etag}"'
    assert sha256_of(fetch(s3, cache_dir).snapshot.path / WEIGHTS) == OLD.sha256
    assert len(bodies(s3, 206)) == 7
    assert {record.headers.get("if-match") for record in bodies(s3)} == {etag}
    assert not any("if-range" in record.headers for record in s3.requests), "no real store obeys it"


@pytest.mark.parametrize(
    "quirks", [None, Quirks(if_match="ignored"), RCLONE], ids=["412", "if-match-ignored", "rclone"]
)
def test_an_object_that_is_replaced_in_mid_file_is_resolved_once_more(
    s3: S3, cache_dir: Path, quirks: Quirks | None
) -> None:
    bucket = bucket_of(s3, quirks)
    s3.faults.add(change_at(4, bucket))
    notices: list[str] = []
    outcome = fetch(
        s3,
        cache_dir,
        connections_max=2,
        on_event=lambda event: notices.append(event.message) if isinstance(event, Notice) else None,
    )
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == NEW.sha256, "all of it of the new state"
    assert [notice for notice in notices if "origin changed" in notice]
    assert s3.count("object", method="HEAD") >= 2
    assert s3.body_bytes_sent() <= 2 * SIZE + 2 * MIB
    assert not partial_files(cache_dir), "the blocks of the old state are gone"


@pytest.mark.parametrize(
    "quirks", [None, Quirks(if_match="ignored"), RCLONE], ids=["412", "if-match-ignored", "rclone"]
)
def test_an_object_that_keeps_changing_is_an_error(s3: S3, cache_dir: Path, quirks: Quirks | None) -> None:
    bucket = bucket_of(s3, quirks)
    s3.faults.add(change_at(4, bucket, again=20))
    with pytest.raises(TransportError, match="origin changed") as caught:
        fetch(s3, cache_dir, connections_max=2)
    assert caught.value.exit_code == 30
    assert caught.value.resource == s3.url("models", WEIGHTS)
    nothing_visible(cache_dir)
    assert_blobs_sound(cache_dir, [])
    assert not partial_files(cache_dir)
    s3.faults.clear()
    path = fetch(s3, cache_dir).snapshot.path / WEIGHTS
    assert is_one_of(path, OLD, NEW)


def test_another_size_under_the_same_name(s3: S3, cache_dir: Path) -> None:
    bucket = bucket_of(s3, Quirks(if_match="ignored"))
    longer = Synthetic(SIZE + MIB, 3)
    s3.faults.add(change_at(3, bucket, longer))
    outcome = fetch(s3, cache_dir, connections_max=1)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == longer.sha256


def test_a_store_that_denies_the_etag_it_states(s3: S3, cache_dir: Path) -> None:
    """It answers 412 to what it says itself: asked without the condition, every answer is compared all the same."""
    bucket = bucket_of(s3)

    def denied(exchange: Exchange) -> None:
        if "if-match" in exchange.request.headers:
            from fetcher.testing.s3.errors import Refused

            raise Refused("PreconditionFailed")

    s3.faults.add(OnRequest(denied).on("object"))
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == bucket.objects[WEIGHTS].content.sha256


@pytest.mark.needs("native")
def test_a_strong_one_resumes_after_a_kill(s3: S3, cache_dir: Path) -> None:
    bucket_of(s3)
    s3.faults.add(Trickle(2 * MIB).on("object"))
    killed_at(s3, cache_dir, 4 * MIB)
    s3.faults.clear()
    s3.requests.clear()
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert s3.body_bytes_sent() < SIZE - MIB


def killed_at(s3: S3, cache_dir: Path, mark: int) -> None:
    with Child(options(cache_dir, connections_max=2), [s3.url("models", WEIGHTS)]) as child:
        assert child.line()["event"] == "ready"
        wait_until(lambda: s3.body_bytes_sent() > mark or child.process.poll() is not None)
        wait_until(lambda: kept_blocks(cache_dir, 2) or child.process.poll() is not None)
        child.send(signal.SIGKILL)
        assert child.process.wait() == -signal.SIGKILL
    assert partial_files(cache_dir)


def test_after_a_kill_and_a_change_nothing_of_the_old_state_is_used(s3: S3, cache_dir: Path) -> None:
    bucket = bucket_of(s3)
    s3.faults.add(Trickle(2 * MIB).on("object"))
    killed_at(s3, cache_dir, 4 * MIB)
    s3.faults.clear()
    bucket.put(WEIGHTS, NEW)
    s3.requests.clear()
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == NEW.sha256
    assert s3.body_bytes_sent() == SIZE


def test_two_processes_share_one_download_of_a_strong_one(s3: S3, cache_dir: Path) -> None:
    bucket_of(s3)
    s3.faults.add(Trickle(3 * MIB).on("object"))
    results = two_processes(s3, cache_dir)
    assert len({result["paths"][0] for result in results}) == 1
    assert s3.body_bytes_sent() == SIZE
    assert sum(result["downloaded"] for result in results) == SIZE


def two_processes(s3: S3, cache_dir: Path) -> list[dict[str, Any]]:
    children = [Child(options(cache_dir, connections_max=2), [s3.url("models", WEIGHTS)]) for _ in range(2)]
    try:
        return [child.done() for child in children]
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_a_cdn_whose_copies_have_other_etags_than_the_listing(s3: S3, cache_dir: Path) -> None:
    bucket = bucket_of(s3)
    bucket.put("small.txt", "small")
    site = s3.add_site(bucket, "cloudfront", quirks=Quirks(edge_etag=True))
    outcome = fetch(s3, cache_dir, f"{site.endpoint}/")
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert (outcome.snapshot.path / "small.txt").read_text() == "small"
    assert not bodies(s3, 412)[1:], "the first one told"


# --- weak ------------------------------------------------------------------------------------------------------------

WEAK: Mapping[str, Quirks] = {
    "weak-etag": Quirks(validator="weak"),
    "last-modified": Quirks(validator="last-modified"),
}


def weak_bucket(s3: S3, name: str) -> Bucket:
    """Without a checksum: then nothing but the validator tells."""
    return bucket_of(s3, WEAK[name], checksum=None)


@pytest.mark.parametrize("name", WEAK)
def test_parts_of_a_weak_one_come_in_parallel_and_no_condition_is_sent(s3: S3, cache_dir: Path, name: str) -> None:
    weak_bucket(s3, name)
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert len(bodies(s3, 206)) == 7
    assert len({record.connection for record in bodies(s3)}) > 1
    assert not any("if-match" in record.headers for record in s3.requests)


@pytest.mark.parametrize("name", WEAK)
def test_a_cut_part_of_a_weak_one_goes_on_within_the_run(s3: S3, cache_dir: Path, name: str) -> None:
    weak_bucket(s3, name)
    s3.faults.add(CutAt(3 * MIB + 5).on("object", times=2))
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert s3.body_bytes_sent() <= SIZE + 2 * MIB


@pytest.mark.parametrize("name", WEAK)
def test_every_answer_for_a_weak_one_is_compared(s3: S3, cache_dir: Path, name: str) -> None:
    bucket = weak_bucket(s3, name)
    s3.faults.add(change_at(4, bucket))
    outcome = fetch(s3, cache_dir, connections_max=2)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == NEW.sha256, "all of it of the new state"
    s3.faults.clear()
    bucket = weak_bucket(s3, name)
    s3.faults.add(change_at(4, bucket, again=20))
    with pytest.raises(TransportError, match="origin changed"):
        fetch(s3, cache_dir.with_name("other"), connections_max=2)


@pytest.mark.parametrize("name", WEAK)
def test_a_weak_one_starts_anew_after_a_kill(s3: S3, cache_dir: Path, name: str) -> None:
    weak_bucket(s3, name)
    s3.faults.add(Trickle(2 * MIB).on("object"))
    killed_at(s3, cache_dir, 4 * MIB)
    s3.faults.clear()
    s3.requests.clear()
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert s3.body_bytes_sent() == SIZE, "all of it, from zero"

    async def collect() -> None:
        async with Fetcher(environ={}, **options(cache_dir)) as fetcher:
            fetcher.cache.gc()

    asyncio.run(collect())
    assert not partial_files(cache_dir), "what nobody can go on from is not kept for a day"


@pytest.mark.parametrize("name", WEAK)
def test_a_run_that_fails_keeps_nothing_of_a_weak_one(s3: S3, cache_dir: Path, name: str) -> None:
    weak_bucket(s3, name)
    s3.faults.add(StallAfter(0).on("object", method="GET", skip=3))
    with pytest.raises(TransportError):
        fetch(s3, cache_dir, no_progress_timeout_s=1.0)
    assert not partial_files(cache_dir)
    s3.faults.clear()
    s3.requests.clear()
    assert sha256_of(fetch(s3, cache_dir).snapshot.path / WEIGHTS) == OLD.sha256
    assert s3.body_bytes_sent() == SIZE


def test_a_weak_one_with_a_checksum_of_sha256_is_known_by_that(s3: S3, cache_dir: Path) -> None:
    bucket_of(s3, Quirks(validator="weak"), checksum="sha256")
    s3.faults.add(StallAfter(0).on("object", method="GET", skip=4))
    with pytest.raises(TransportError):
        fetch(s3, cache_dir, f"{s3.endpoint}/models/", no_progress_timeout_s=1.0)
    s3.faults.clear()
    s3.requests.clear()
    outcome = fetch(s3, cache_dir, f"{s3.endpoint}/models/")
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert outcome.snapshot.verified_by == "sha256"
    assert s3.body_bytes_sent() <= (SIZE - 2 * MIB if RESUMES else SIZE)


@pytest.mark.parametrize("name", [*WEAK, "none"])
def test_two_runs_share_nothing_of_what_is_not_strong(s3: S3, cache_dir: Path, name: str) -> None:
    bucket_of(s3, WEAK.get(name, NOTHING), checksum=None)
    s3.faults.add(Trickle(6 * MIB).on("object"))
    results = two_processes(s3, cache_dir)
    assert s3.body_bytes_sent() >= 2 * SIZE
    for result in results:
        assert sha256_of(Path(result["paths"][0]) / WEIGHTS) == OLD.sha256


# --- nothing at all --------------------------------------------------------------------------------------------------

NOTHING = Quirks(validator="none")


def nothing_bucket(s3: S3, quirks: Quirks = NOTHING) -> Bucket:
    return bucket_of(s3, quirks, checksum=None)


def whole_bodies(s3: S3) -> list[RequestRecord]:
    """GETs of the whole object; a question for its first byte is none."""
    return [record for record in bodies(s3) if record.range is None]


def test_one_stream_at_a_time(s3: S3, cache_dir: Path) -> None:
    nothing_bucket(s3)
    most = []

    def count(exchange: Exchange) -> None:
        most.append(s3.open_bodies("object"))

    s3.faults.add(OnRequest(count).on("object", method="GET"), Trickle(8 * MIB).on("object"))
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert outcome.snapshot.verified_by == "size"
    assert len(whole_bodies(s3)) == 1
    assert not any(record.range for record in bodies(s3))
    assert max(most) <= 1
    assert s3.body_bytes_sent() == SIZE


@pytest.mark.parametrize("at", [1, MIB, MIB + 1, 3 * MIB + 5, SIZE - 1])
def test_a_cut_stream_starts_from_zero_and_two_answers_are_never_mixed(s3: S3, cache_dir: Path, at: int) -> None:
    bucket = nothing_bucket(s3)
    s3.faults.add(CutAfter(at).on("object", method="GET", times=1))

    def other_bytes(exchange: Exchange) -> None:
        bucket.put(WEIGHTS, NEW, checksum=None)

    s3.faults.add(OnRequest(other_bytes).on("object", method="GET", nth=2))
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == NEW.sha256, "wholly the second answer"
    assert s3.body_bytes_sent() == at + SIZE
    assert_blobs_sound(cache_dir, [NEW.sha256])


def test_a_stream_is_begun_five_times_at_most(s3: S3, cache_dir: Path) -> None:
    nothing_bucket(s3)
    s3.faults.add(CutAfter(2 * MIB + 9).on("object", method="GET"))
    notices: list[Notice] = []
    with pytest.raises(TransportError, match="5 times") as caught:
        fetch(s3, cache_dir, on_event=lambda event: notices.append(event) if isinstance(event, Notice) else None)
    assert "ETag" in str(caught.value.hint)
    assert len(whole_bodies(s3)) == 5
    assert len(notices) == 4
    nothing_visible(cache_dir)
    assert not partial_files(cache_dir)


def test_a_slow_stream_is_not_moved(s3: S3, cache_dir: Path) -> None:
    bucket = nothing_bucket(s3)
    for number in range(4):
        bucket.put(f"fast-{number}.bin", Synthetic(2 * MIB, 10 + number), checksum=None)
    s3.faults.add(Trickle(3 * MIB).on("object", path=WEIGHTS))
    outcome = fetch(s3, cache_dir, f"{s3.endpoint}/models/", part_slow_bytes_per_s=32.0 * MIB, part_slow_window_s=0.3)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert s3.body_bytes_sent(WEIGHTS) == SIZE


def test_a_stream_that_ignores_range_is_not_moved_for_being_slow(s3: S3, cache_dir: Path) -> None:
    bucket = bucket_of(s3)
    for number in range(4):
        bucket.put(f"fast-{number}.bin", Synthetic(2 * MIB, 10 + number))
    s3.faults.add(
        IgnoreRange().on("object", method="GET", path=WEIGHTS), Trickle(3 * MIB).on("object", path=WEIGHTS, skip=2)
    )
    outcome = fetch(s3, cache_dir, f"{s3.endpoint}/models/", part_slow_bytes_per_s=32.0 * MIB, part_slow_window_s=0.3)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert len([record for record in bodies(s3, 200) if record.path == WEIGHTS]) == 3, "two to notice, and the stream"


@pytest.mark.parametrize("validator", ["strong", "weak", "last-modified", "none"])
def test_a_host_without_ranges(s3: S3, cache_dir: Path, validator: Any) -> None:
    bucket_of(s3, Quirks(ranges="ignored", validator=validator), checksum=None)
    s3.faults.add(CutAfter(4 * MIB + 5).on("object", method="GET", skip=2, times=1))
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    most = 1 if validator == "none" else 4
    assert len(bodies(s3, 200)) <= most


@pytest.mark.parametrize("validator", ["strong", "weak", "last-modified", "none"])
@pytest.mark.parametrize("ranges", ["206", "ignored"])
def test_a_host_that_states_no_length(s3: S3, cache_dir: Path, validator: Any, ranges: Any) -> None:
    bucket_of(s3, Quirks(content_length="missing", validator=validator, ranges=ranges), checksum=None)
    outcome = fetch(s3, cache_dir)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert outcome.snapshot.bytes == SIZE


@pytest.mark.parametrize("ranges", ["206", "ignored"])
@pytest.mark.parametrize("size", [SIZE, 1000])
def test_a_file_that_grows_where_neither_length_nor_state_is_stated(
    s3: S3, cache_dir: Path, ranges: Any, size: int
) -> None:
    """The first bytes of a longer file are no file."""
    bucket = s3.add_bucket(
        "models", public=True, quirks=Quirks(content_length="missing", validator="none", ranges=ranges)
    )
    bucket.put(WEIGHTS, Synthetic(size, 1), checksum=None)
    grown = Synthetic(size + 100, 4)

    def grows(exchange: Exchange) -> None:
        bucket.put(WEIGHTS, grown, checksum=None)

    # The questions that come before: one for the first byte, or the whole to count it.
    s3.faults.add(OnRequest(grows).on("object", method="GET", skip=1))
    try:
        outcome = fetch(s3, cache_dir, no_progress_timeout_s=1.5)
    except TransportError:
        nothing_visible(cache_dir)
    else:
        assert sha256_of(outcome.snapshot.path / WEIGHTS) == grown.sha256


def test_a_file_that_shrinks_or_grows_where_nothing_tells_is_resolved_once_more(s3: S3, cache_dir: Path) -> None:
    bucket = nothing_bucket(s3)
    other = Synthetic(SIZE - 1000, 5)

    def shrinks(exchange: Exchange) -> None:
        bucket.put(WEIGHTS, other, checksum=None)

    s3.faults.add(OnRequest(shrinks).on("object", method="GET", nth=1))
    assert sha256_of(fetch(s3, cache_dir).snapshot.path / WEIGHTS) == other.sha256


@pytest.mark.parametrize("validator", ["strong", "weak", "last-modified", "none"])
def test_when_its_time_is_over(s3: S3, cache_dir: Path, validator: Any) -> None:
    """Unchanged costs a question, where the origin lets anybody tell; where not, it is fetched again."""
    bucket = bucket_of(s3, Quirks(validator=validator), checksum=None)
    first = fetch(s3, cache_dir, fresh_for_s=0.0).snapshot
    s3.requests.clear()
    again = fetch(s3, cache_dir, fresh_for_s=0.0).snapshot
    assert s3.body_bytes_sent() == (SIZE if validator == "none" else 0)
    assert (again.id, again.downloaded_at) == (first.id, first.downloaded_at), "it turned out to be the same"
    assert again.validated_at > first.validated_at
    bucket.put(WEIGHTS, NEW, last_modified=1_700_000_100, checksum=None)
    assert sha256_of(fetch(s3, cache_dir, fresh_for_s=0.0).snapshot.path / WEIGHTS) == NEW.sha256


def test_weak_ones_of_two_runs_of_one_process(s3: S3, cache_dir: Path) -> None:
    bucket = bucket_of(s3, Quirks(validator="last-modified"), checksum=None)
    bucket.put("second.bin", Synthetic(2 * MIB, 9), checksum=None)
    s3.faults.add(Trickle(8 * MIB).on("object"))

    async def main() -> list[Outcome]:
        async with Fetcher(environ={}, **options(cache_dir)) as fetcher:
            # Two resources with one object in common.
            urls = (s3.url("models", WEIGHTS), f"{s3.endpoint}/models/")
            return list(await asyncio.gather(*(fetcher.fetch(url) for url in urls)))

    for outcome in asyncio.run(main()):
        assert sha256_of(outcome.snapshot.path / WEIGHTS) == OLD.sha256
    assert s3.body_bytes_sent(WEIGHTS) == 2 * SIZE


# --- ranges that do not say whose they are ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RangesWithoutAWord(Fault):
    """Leave the validators out of ranges, as some front ends do; whole answers have them."""

    late: ClassVar[bool] = True

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return super().fits(exchange, reply) and reply.status == 206

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        for name in ("ETag", "Last-Modified"):
            reply.headers.pop(name, None)


@pytest.mark.parametrize("validator", ["weak", "last-modified"])
def test_ranges_without_a_word_of_their_state_are_not_put_together(
    s3: S3, cache_dir: Path, validator: Literal["weak", "last-modified"]
) -> None:
    bucket_of(s3, Quirks(validator=validator), checksum=None)
    rule = RangesWithoutAWord().on("object", method="GET")
    s3.faults.add(rule)
    outcome = fetch(s3, cache_dir)
    assert s3.faults.fired
    assert is_one_of(outcome.snapshot.path / WEIGHTS, OLD)
    whole = [record for record in bodies(s3, 200) if record.span == (0, SIZE)]
    assert len(whole) == 1, "in the end it came in one answer"


def test_what_a_whole_digest_will_tell_apart_may_come_in_any_ranges(s3: S3, cache_dir: Path) -> None:
    bucket_of(s3)
    s3.faults.add(RangesWithoutAWord().on("object", method="GET"))
    outcome = fetch(s3, cache_dir)
    assert is_one_of(outcome.snapshot.path / WEIGHTS, OLD)
    assert not [record for record in bodies(s3, 200) if record.span == (0, SIZE)]
