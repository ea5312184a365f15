"""Faults that only S3 has: its refusals, its listings, presigned URLs that run out, keys that are no file names.

What every origin may do wrong is in ``fault_cases``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import (
    DeniedError,
    Fetcher,
    FetcherError,
    NotFoundError,
    RateLimitedError,
    TransportError,
)
from fetcher.engine.asks import Outcome
from fetcher.engine.resolve import ASKED_AT_ONCE_MAX
from fetcher.origins import s3_survey
from fetcher.testing import S3, Synthetic, s3_in_thread
from fetcher.testing.faults import CutAt, Delay, OnRequest, RedirectTo, Status, Trickle
from fetcher.testing.s3 import (
    HOSTILE_KEYS,
    RCLONE,
    EndlessPages,
    ExtraRows,
    Key,
    ListGarbage,
    MissingToken,
    Quirks,
    RedirectElsewhere,
    RepeatedToken,
    Row,
    S3Error,
    SlowDownAbove,
    WrongPrefixEchoed,
    add_hostile_objects,
)
from tests.e2e.support import (
    HURRIED,
    MIB,
    assert_blobs_sound,
    bytes_below,
    mixed_files,
    nothing_visible,
    run_fetch,
    sha256_of,
    tree_of,
)

KEY_ID, SECRET = "AKIDEXAMPLE", "CanaryThatMustNotSing"
WEIGHTS = "model.safetensors"
BRIEF: dict[str, Any] = {"no_progress_timeout_s": 2.0, "api_time_max_s": 2.0, "api_timeout_s": 0.7}


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(keys={KEY_ID: Key(SECRET, "alice")}, page_keys=2) as running:
        running.add_bucket("models", mixed_files(), public=True)
        yield running


def fetch(s3: S3, cache_dir: Path, item: Any = None, **more: Any) -> Outcome:
    options = {**HURRIED, "cache_dir": str(cache_dir), **more}
    return run_fetch(lambda: Fetcher(environ={}, **options), f"{s3.endpoint}/models/" if item is None else item)


def attempt(s3: S3, cache_dir: Path, item: Any = None, **more: Any) -> Outcome | FetcherError:
    """As ``fetch``; an error is what comes of it."""
    try:
        return fetch(s3, cache_dir, item, **more)
    except FetcherError as error:
        return error


def held(s3: S3, bucket: str = "models") -> dict[str, tuple[int, str]]:
    return {key: (each.content.size, each.content.sha256) for key, each in s3.bucket(bucket).objects.items()}


def size_of(s3: S3) -> int:
    return sum(size for size, _ in held(s3).values())


# --- under load ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        S3Error("SlowDown").on("object", skip=3, times=6),
        S3Error("SlowDown").on("list", times=2),
        S3Error("InternalError").on("object", method="GET", times=3),
        S3Error("InternalError").on("list", times=2),
        S3Error("SlowDown", retry_after=1).on("object", method="GET", times=1),
        SlowDownAbove(40.0, 8).on(),
        S3Error("RequestTimeout").on("object", method="GET", path=WEIGHTS, skip=3, times=2),
        ListGarbage("error").on(times=2),
        ListGarbage("truncated").on(times=2),
    ],
    ids=lambda rule: f"{rule.name}-{'+'.join(sorted(rule.routes))}",
)
def test_healed(s3: S3, cache_dir: Path, rule: Any) -> None:
    s3.faults.add(rule)
    assert tree_of(fetch(s3, cache_dir).snapshot.path) == held(s3)
    assert s3.faults.fired
    assert s3.body_bytes_sent() <= size_of(s3) + 2 * MIB


@pytest.mark.parametrize("place", ["list", "object"])
def test_a_store_that_is_overloaded_for_good(s3: S3, cache_dir: Path, place: str) -> None:
    s3.faults.add(S3Error("SlowDown").on(place, method="GET"))
    with pytest.raises((TransportError, RateLimitedError)) as caught:
        fetch(s3, cache_dir, **BRIEF)
    assert "503" in caught.value.message
    nothing_visible(cache_dir)


@pytest.mark.parametrize("quirks", [RCLONE, Quirks(ranges="as-200")], ids=["rclone", "200-with-content-range"])
def test_stores_that_answer_a_range_with_200(s3: S3, cache_dir: Path, quirks: Quirks) -> None:
    s3.bucket("models").quirks = quirks
    s3.faults.add(CutAt(3 * MIB).on("object", path=WEIGHTS, times=1))
    assert tree_of(fetch(s3, cache_dir).snapshot.path) == held(s3)
    assert len([each for each in s3.requests.select("object", path=WEIGHTS, status=200) if each.range]) > 5
    assert s3.body_bytes_sent(WEIGHTS) <= 6 * MIB + 123


@pytest.mark.parametrize("coding", ["aws-chunked", "gzip", "aws-chunked,gzip"])
def test_a_store_that_keeps_the_encoding_of_an_upload(s3: S3, cache_dir: Path, coding: str) -> None:
    """``aws-chunked`` was taken off when the object came in; ``gzip`` is what the object is, bytes as listed."""
    s3.bucket("models").quirks = Quirks(content_encoding=coding)
    assert tree_of(fetch(s3, cache_dir).snapshot.path) == held(s3)


def test_many_objects_of_a_host_whose_listings_do_not_come(
    s3: S3, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are asked for at once wait for the listing, and what comes after them knows."""
    monkeypatch.setattr(s3_survey, "LISTING_AWAITED_S", 0.2)
    s3.add_bucket("many", {f"{number}.bin": b"%d" % number for number in range(3 * ASKED_AT_ONCE_MAX)}, public=True)
    site = s3.add_site("many", "plain")
    s3.faults.add(Delay(30).on("list"))

    async def main() -> list[bytes]:
        async with Fetcher(environ={}, **{**HURRIED, "cache_dir": str(cache_dir)}) as fetcher:
            asks: list[Any] = [(f"{site.endpoint}/{number}.bin", "operator") for number in range(3 * ASKED_AT_ONCE_MAX)]
            outcomes = await fetcher.fetch_all(asks)
            return [next(outcome.snapshot.path.iterdir()).read_bytes() for outcome in outcomes]

    assert asyncio.run(main()) == [b"%d" % number for number in range(3 * ASKED_AT_ONCE_MAX)]
    assert 1 <= s3.count("list") <= ASKED_AT_ONCE_MAX


# --- refusals in mid-file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("AccessDenied", DeniedError),
        ("NoSuchKey", NotFoundError),
        ("InvalidObjectState", FetcherError),
        ("ExpiredToken", DeniedError),
    ],
)
def test_a_refusal_in_mid_file_is_final(s3: S3, cache_dir: Path, code: str, error: type[FetcherError]) -> None:
    s3.faults.add(S3Error(code).on("object", method="GET", path=WEIGHTS, skip=3))
    with pytest.raises(error) as caught:
        fetch(s3, cache_dir, connections_max=1)
    assert WEIGHTS in caught.value.message
    assert caught.value.resource == f"{s3.endpoint}/models/"
    nothing_visible(cache_dir)
    s3.faults.clear()
    assert tree_of(fetch(s3, cache_dir).snapshot.path) == held(s3)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
@pytest.mark.parametrize("status", [400, 403])
def test_keys_that_end_are_told_as_such_whatever_the_status(s3: S3, cache_dir: Path, status: int, name: str) -> None:
    s3.faults.add(S3Error("ExpiredToken", status=status).on("object", method="GET", path=name))
    with pytest.raises(DeniedError, match=r"keys are not accepted \(ExpiredToken\)") as caught:
        fetch(s3, cache_dir)
    assert "begins anew" in (caught.value.hint or "")
    nothing_visible(cache_dir)


def test_a_presigned_url_that_runs_out_in_mid_file(s3: S3, cache_dir: Path) -> None:
    s3.add_bucket("closed").put(WEIGHTS, Synthetic(12 * MIB, 1))
    expires_s = 5
    ends_at = time.time() + expires_s + 1.1  # signatures know whole seconds

    async def later(exchange: object) -> None:
        await asyncio.sleep(max(0.0, ends_at - time.time()))

    s3.faults.add(OnRequest(later).on("object", skip=5))
    url = s3.presign("closed", WEIGHTS, KEY_ID, expires_s=expires_s)
    with pytest.raises(DeniedError, match="expired") as caught:
        fetch(s3, cache_dir, url, connections_max=2)
    assert s3.body_bytes_sent() > MIB, "it was good at first"
    for text in (caught.value.message, str(caught.value.hint), str(caught.value.resource), repr(caught.value)):
        assert "Signature" not in text
    assert b"X-Amz-Signature" not in bytes_below(cache_dir)
    nothing_visible(cache_dir)
    s3.faults.clear()
    fresh = s3.presign("closed", WEIGHTS, KEY_ID)
    outcome = fetch(s3, cache_dir, fresh)
    assert sha256_of(outcome.snapshot.path / WEIGHTS) == Synthetic(12 * MIB, 1).sha256
    assert outcome.snapshot.private


def test_keys_that_run_out_in_mid_file(cache_dir: Path) -> None:
    with s3_in_thread(keys={KEY_ID: Key(SECRET, "alice", "token", time.time() + 2)}) as s3:
        s3.add_bucket("closed").put(WEIGHTS, Synthetic(12 * MIB, 1))
        s3.faults.add(Trickle(2 * MIB).on("object"))
        item = {
            "type": "S3",
            "url": f"{s3.endpoint}/closed/",
            "IAM": {"ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET, "SESSION_TOKEN": "token"},
        }
        with pytest.raises((DeniedError, TransportError)) as caught:
            fetch(s3, cache_dir, item, connections_max=2)
        assert SECRET not in repr(caught.value) + str(caught.value.hint)
        nothing_visible(cache_dir)


# --- redirects -------------------------------------------------------------------------------------------------------


def test_objects_that_are_served_elsewhere(s3: S3, cache_dir: Path) -> None:
    s3.faults.add(RedirectElsewhere().on(method="GET"), Status(403).on("cdn", times=2))
    assert tree_of(fetch(s3, cache_dir).snapshot.path) == held(s3)
    assert s3.count("cdn") > 5


@pytest.mark.parametrize("place", ["list", "object"])
def test_a_redirect_in_a_circle(s3: S3, cache_dir: Path, place: str) -> None:
    s3.faults.add(RedirectTo("{self}", 307).on(place))
    with pytest.raises(TransportError):
        fetch(s3, cache_dir, **BRIEF)
    nothing_visible(cache_dir)


# --- listings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        EndlessPages("fresh").on(),
        EndlessPages("same").on(),
        EndlessPages("empty").on(),
        RepeatedToken().on(),
        MissingToken().on(),
        WrongPrefixEchoed("other/").on(),
        ExtraRows(("elsewhere/foreign.bin",)).on(),
        ExtraRows((Row("sub/negative", -5),)).on(),
        ExtraRows((Row("sub/petabyte", 1 << 50),)).on(),
        *(
            ListGarbage(kind).on()
            for kind in (
                "deep",
                "doctype",
                "empty",
                "entity-bomb",
                "error",
                "external-entity",
                "html",
                "not-utf8",
                "other-root",
                "truncated",
            )
        ),
    ],
    ids=lambda rule: rule.name if rule.name != "ExtraRows" else f"ExtraRows-{rule.fault.rows[0]}"[:40],
)
def test_a_listing_that_no_honest_store_gives(s3: S3, cache_dir: Path, rule: Any) -> None:
    bucket = s3.add_bucket("models", public=True)
    for number in range(5):
        bucket.put(f"sub/{number}.txt", f"text {number}")
    s3.faults.add(rule)
    before = everything_beside(cache_dir)
    result = attempt(s3, cache_dir, "s3://models/sub/", s3_endpoint=s3.endpoint, manifest_files_max=300, **BRIEF)
    assert s3.faults.fired
    assert everything_beside(cache_dir) - before <= {cache_dir.parent}
    if rule.name == "MissingToken":  # the last key shows how to go on
        assert not isinstance(result, FetcherError)
        expected = {key.removeprefix("sub/"): value for key, value in held(s3).items()}
        assert tree_of(result.snapshot.path) == expected
        return
    assert isinstance(result, FetcherError)
    assert result.exit_code in (10, 25, 30), repr(result)
    assert result.message.isprintable()
    nothing_visible(cache_dir)
    assert s3.body_bytes_sent() == 0


def everything_beside(cache_dir: Path) -> set[Path]:
    root = cache_dir.parent.parent
    return {path for path in root.rglob("*") if cache_dir not in path.parents and path != cache_dir}


JUST_NAMES = {
    *("astral", "long-path", "marker", "marker-beside", "non-characters", "only-slashes"),
    *("plus-and-space", "spaces", "xml"),
}
"""The others are refused, each by a rule of ``model.paths``."""


@pytest.mark.parametrize("name", HOSTILE_KEYS)
def test_keys_that_every_store_takes(s3: S3, cache_dir: Path, name: str) -> None:
    """A key is a file of the same name below the directory, or the resource is refused: never a file elsewhere."""
    bucket = s3.add_bucket("models", public=True)
    bucket.put("sub/honest.txt", "honest")
    for key in HOSTILE_KEYS[name]:
        if len(f"sub/{key}".encode()) <= 1024:
            bucket.put(f"sub/{key}", b"" if key.endswith("/") else f"content of {key!r}")
    before = everything_beside(cache_dir)
    result = attempt(s3, cache_dir, f"{s3.endpoint}/models/sub/")
    assert everything_beside(cache_dir) - before <= {cache_dir.parent}
    if name in JUST_NAMES:
        assert not isinstance(result, FetcherError), repr(result)
        expected = {key.removeprefix("sub/"): value for key, value in held(s3).items() if not key.endswith("/")}
        assert tree_of(result.snapshot.path) == expected
        return
    assert isinstance(result, FetcherError)
    assert result.exit_code == 25, repr(result)
    assert result.message.isprintable(), "safe to show on a terminal"
    assert s3.body_bytes_sent() == 0
    nothing_visible(cache_dir)
    assert_blobs_sound(cache_dir, [])


def test_all_of_them_at_once(s3: S3, cache_dir: Path) -> None:
    add_hostile_objects(s3.add_bucket("models", public=True))
    before = everything_beside(cache_dir)
    with pytest.raises(FetcherError) as caught:
        fetch(s3, cache_dir)
    assert caught.value.exit_code == 25
    assert everything_beside(cache_dir) - before <= {cache_dir.parent}
    nothing_visible(cache_dir)
