"""S3 and plain HTTPS: what a URL means, what refusals teach, and what a hostile store can't do. On real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fetcher import credentials
from fetcher.errors import FetcherError, ForbiddenError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest, Validator
from fetcher.model.s3 import S3, S3Location
from fetcher.model.secret import AWSKeys, Secret
from fetcher.net.request import Request
from fetcher.origins import s3_survey
from fetcher.origins.s3 import LOCATIONS_AT_ONCE
from fetcher.origins.s3_ask import LATE_PLACES_OF_HOST
from fetcher.testing.contents import Synthetic
from fetcher.testing.faultplan import FaultPlan
from fetcher.testing.faults import Delay, RedirectTo
from fetcher.testing.s3 import (
    HOSTILE_KEYS,
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
    WrongPrefixEchoed,
)
from fetcher.testing.s3 import S3 as EmbeddedS3
from fetcher.testing.s3.sites import SiteKind
from tests.origins.conformance import Answered, digest_of
from tests.origins.stores import ANONYMOUS, INSIDER, KEY_ID, MIB, OUTSIDER, SECRET, Asking, asking, settings_for

Test = Callable[[EmbeddedS3, Asking], Awaitable[None]]


def run(
    test: Test, *, clock: Callable[[], float] = time.time, settings: dict[str, Any] | None = None, **s3: Any
) -> None:
    """``test`` with an embedded S3, which knows one key, and an origin whose endpoint it is."""

    async def main() -> None:
        if "s3_clock" in s3:
            s3["clock"] = s3.pop("s3_clock")
        async with EmbeddedS3(**({"keys": {KEY_ID: SECRET}} | s3)) as store:
            async with asking(store.endpoint, clock=clock, **(settings or {})) as ask:
                await test(store, ask)

    asyncio.run(main())


def paths(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.files]


async def refused(ask: Asking, resource: S3, asker: Asker = INSIDER) -> FetcherError:
    with pytest.raises(FetcherError) as caught:
        await ask.origin.resolve(resource, asker)
    with pytest.raises(FetcherError) as again:
        await ask.origin.revision(resource, asker)
    assert caught.value.kind == again.value.kind
    return caught.value


# -- object, prefix, files ---------------------------------------------------------------------------------------------


def test_object_or_prefix() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"one": b"1", "p/a": b"a", "p/q/b": b"b", "p2/c": b"c", "both": b"x", "both/d": b"d"})
        bucket = s3.bucket("b-1")
        bucket.put("empty", b"")
        bucket.put("stand-in", b"")
        bucket.put("stand-in/e", b"e")
        bucket.put("typed", b"x", content_type="application/x-directory")
        bucket.put("typed/f", b"f")
        expected = {
            "one": ["one"],
            "p": ["a", "q/b"],
            "p/": ["a", "q/b"],
            "p/q": ["b"],
            "both": ["both"],
            "both/": ["d"],
            "empty": ["empty"],
            "stand-in": ["e"],
            "typed": ["f"],
        }
        for key, files in expected.items():
            manifest = await ask.origin.resolve(S3.at(f"s3://b-1/{key}"), INSIDER)
            assert (key, paths(manifest)) == (key, files)
            assert manifest.repository == f"b-1/{key}"
        s3.add_bucket("b-3", {"a": b"a", "q/b": b"b"})
        for url in ("s3://b-3", "s3://b-3/", f"{s3.endpoint}/b-3", f"{s3.endpoint}/b-3/"):
            manifest = await ask.origin.resolve(S3.at(url), INSIDER)
            assert (paths(manifest), manifest.repository) == (["a", "q/b"], "b-3")
        for key in ("missing", "missing/"):
            assert (await refused(ask, S3.at(f"s3://b-1/{key}"))).kind == "not_found"
        assert "no such bucket" in (await refused(ask, S3.at("s3://b-2/x"))).message

    run(test)


def test_named_files_are_asked_for_and_nothing_is_listed() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", public=True, list_allowed=False)
        for name in ("a", "sub/b", "odd +,~'()", "c"):
            bucket.put(f"p/{name}", b"x")
        for url in ("s3://b-1/p", "s3://b-1/p/"):
            manifest = await ask.origin.resolve(S3.at(url, "sub/b", "odd +,~'()", "a"), ANONYMOUS)
            assert paths(manifest) == ["a", "odd +,~'()", "sub/b"]
        assert not s3.requests.select("list")
        error = await refused(ask, S3.at("s3://b-1/p", "a", "missing"), ANONYMOUS)
        assert error.kind == "denied"  # who may not list is not told what is missing
        assert "p/missing" in error.message

    run(test)


def test_who_may_not_list_but_read_gets_objects() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"}, public=True, list_allowed=False)
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p/a"), ANONYMOUS)) == ["a"]
        for url in ("s3://b-1/p", "s3://b-1/p/"):
            error = await refused(ask, S3.at(url), ANONYMOUS)
            assert (error.kind, "name the files" in (error.hint or "")) == ("denied", True)

    run(test)


def test_a_pattern_among_names_is_told_to_be_none() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a", "p/*": b"star"})
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p", "*"), INSIDER)) == ["*"]
        assert "no patterns" in ((await refused(ask, S3.at("s3://b-1/p", "*.bin"))).hint or "")
        assert "no patterns" not in ((await refused(ask, S3.at("s3://b-1/p", "b.bin"))).hint or "")

    run(test)


def test_a_plus_may_stand_for_a_space() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a b/x": b"space", "c+d/x": b"plus", "e f.bin": b"object"})
        for url in ("s3://b-1/a+b", "s3://b-1/a%20b", "s3://b-1/c+d", "s3://b-1/c%2Bd"):
            assert paths(await ask.origin.resolve(S3.at(url), INSIDER)) == ["x"]
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/a+b", "x"), INSIDER)) == ["x"]
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/e+f.bin"), INSIDER)) == ["e f.bin"]
        assert (await refused(ask, S3.at("s3://b-1/a+c"))).message.startswith("s3://b-1/a+c is not there")

    run(test)


def test_several_places_are_one_tree() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a", "p/same": b"same"})
        s3.add_bucket("b-2", {"q/b": b"b", "q/same": b"same", "r/a": b"other"})
        places = tuple(S3Location.parse(f"s3://{name}") for name in ("b-1/p", "b-2/q"))
        manifest = await ask.origin.resolve(S3(places), INSIDER)
        assert paths(manifest) == ["a", "b", "same"]
        assert manifest.repository == "b-1/p,b-2/q"
        assert (await ask.origin.revision(S3(places), INSIDER)).manifest_digest == manifest.digest()
        places = tuple(S3Location.parse(f"s3://{name}") for name in ("b-1/p", "b-2/r"))
        error = await refused(ask, S3(places))
        assert error.kind == "resource"
        assert all(word in error.message for word in ("'a'", "s3://b-1/p", "s3://b-2/r"))

    run(test)


def test_several_places_with_one_name_and_one_size() -> None:
    """Uploads in parts: no digest is listed, only ETags tell equal objects from others."""

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        for name, seed in (("b-1", 1), ("b-2", 1), ("b-3", 2)):
            s3.add_bucket(name).put("p/a", Synthetic(3 * MIB, seed), part_bytes=MIB, checksum=None)
        one, same, other = (S3Location.parse(f"s3://b-{number}/p/") for number in (1, 2, 3))
        assert paths(await ask.origin.resolve(S3((one, same)), INSIDER)) == ["a"]
        assert (await refused(ask, S3((one, other)))).kind == "resource"

    run(test)


# -- names -------------------------------------------------------------------------------------------------------------

KEPT = {"spaces", "plus-and-space", "xml", "query", "non-characters", "astral", "marker", "marker-beside", "long-path"}


@pytest.mark.parametrize("name", sorted(HOSTILE_KEYS))
def test_odd_keys(name: str) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", {"p/good": b"x"})
        if name in KEPT:
            keys = [f"p/{key}" for key in HOSTILE_KEYS[name] if key != "a:b"]  # taken for a drive letter
            for key in keys:
                bucket.put(key, b"" if key.endswith("/") else key.encode())
            manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
            files = sorted(key[2:] for key in (*keys, "p/good") if not key.endswith("/"))
            assert paths(manifest) == files
            for entry in manifest.files:
                _, body = await ask.body(manifest, entry, INSIDER)
                assert body == (b"x" if entry.path == "good" else f"p/{entry.path}".encode())
        else:
            for key in HOSTILE_KEYS[name]:
                bucket.put(f"p/{key}", b"x")
            error = await refused(ask, S3.at("s3://b-1/p"))
            assert (error.kind, "p/" in error.message or "lists" in error.message) == ("forbidden", True)

    run(test)


def test_a_file_and_a_folder_of_one_name() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", {"p/node": b"x", "p/node/leaf": b"y"})
        assert "as a file and" in (await refused(ask, S3.at("s3://b-1/p"))).message
        bucket.put("p/node", b"")  # stands for the folder
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)) == ["node/leaf"]
        bucket.put("p/full/", b"x")
        assert (await refused(ask, S3.at("s3://b-1/p"))).kind == "forbidden"

    run(test)


def test_bounds() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {f"many/{number}": b"x" for number in range(5)}, public=True)
        s3.bucket("b-1").put("large/f", b"x" * 200)
        s3.bucket("b-1").put("x", b"x" * 200)
        for url, words in (
            ("many", "more than 3 keys"),
            ("large", "beyond the bound of 100"),
            ("x", "beyond the bound"),
        ):
            error = await refused(ask, S3.at(f"s3://b-1/{url}"))
            assert isinstance(error, ForbiddenError) and words in error.message and error.hint

    run(test, settings={"manifest_files_max": 3, "file_bytes_max": 100}, page_keys=2)


# -- an object, and a host whose front page misbehaves -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (S3Error("InternalError"), "transport"),
        (S3Error("SlowDown", retry_after=10_000), "rate_limited"),
        (RedirectTo("http://192.0.2.1/"), "forbidden"),
        (RedirectTo("{self}"), "transport"),
    ],
    ids=["fails", "is-busy", "leads-away", "leads-in-a-circle"],
)
def test_an_object_that_is_found_is_had_whatever_becomes_of_the_listing(fault: Any, kind: str) -> None:
    """To an ordinary web host the question for a listing is one for its front page."""

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a.bin": b"a" * 10, "folder/b": b"b", "empty": b""}, public=True)
        s3.faults.add(fault.on("list"))
        for where in (s3.add_site("b-1", "plain").endpoint, f"{s3.endpoint}/b-1"):
            manifest = await ask.origin.resolve(S3.at(f"{where}/a.bin"), ANONYMOUS)
            assert paths(manifest) == ["a.bin"]
            assert (await ask.body(manifest, manifest.files[0], ANONYMOUS))[1] == b"a" * 10
            for path in ("folder/", "folder", "empty"):  # of an empty object it is not known what lies below
                assert (await refused(ask, S3.at(f"{where}/{path}"), ANONYMOUS)).kind == kind

    run(test)


def test_a_listing_is_not_waited_for_long_once_there_is_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_survey, "LISTING_AWAITED_S", 0.2)

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a.bin": b"a" * 10}, public=True)
        site = s3.add_site("b-1", "plain")
        s3.faults.add(Delay(30).on("list"))
        assert paths(await ask.origin.resolve(S3.at(f"{site.endpoint}/a.bin"), ANONYMOUS)) == ["a.bin"]
        assert len(s3.requests.select("list")) == 1, "not until it has failed, and once more"

    run(test)


def test_a_listing_that_does_not_come_is_waited_for_once_by_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_survey, "LISTING_AWAITED_S", 0.2)

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        names = [f"{number}.bin" for number in range(5 * LOCATIONS_AT_ONCE)]
        s3.add_bucket("b-1", {**dict.fromkeys(names, b"a"), "folder/b": b"b"}, public=True)
        site = s3.add_site("b-1")
        objects = S3(tuple(S3Location.parse(f"{site.endpoint}/{name}", ()) for name in names))
        for call in (1, 2):
            with ask.api.own_places():
                before = len(s3.requests.select("list"))
                s3.faults.add(Delay(30).on("list"))
                assert paths(await ask.origin.resolve(objects, ANONYMOUS)) == sorted(names)
                asked = len(s3.requests.select("list")) - before
                assert 1 <= asked <= LOCATIONS_AT_ONCE, "those that did not know, of each call"
                s3.faults.clear()
                assert paths(await ask.origin.resolve(S3.at(f"{site.endpoint}/folder"), ANONYMOUS)) == ["b"], call

    run(test)


def test_buckets_whose_listings_do_not_come_speak_for_their_host_when_they_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_survey, "LISTING_AWAITED_S", 0.2)

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.faults.add(Delay(30).on("list"))
        buckets = [f"b-{number}" for number in range(LATE_PLACES_OF_HOST + 2)]
        with ask.api.own_places():
            for name in buckets:
                s3.add_bucket(name, {"a.bin": b"a"}, public=True)
                assert paths(await ask.origin.resolve(S3.at(f"{s3.endpoint}/{name}/a.bin"), ANONYMOUS)) == ["a.bin"]
        assert len(s3.requests.select("list")) == LATE_PLACES_OF_HOST

    run(test)


def test_what_lies_below_the_name_of_an_object_may_be_more_than_any_resource_may_have() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"big": b"x", **{f"big/{number}": b"x" for number in range(5)}})
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/big"), INSIDER)) == ["big"]
        assert (await refused(ask, S3.at("s3://b-1/big/"))).kind == "forbidden"

    run(test, settings={"manifest_files_max": 3}, page_keys=2)


# -- hosts that are no S3 ----------------------------------------------------------------------------------------------


def test_a_public_domain_that_does_not_list() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"controlnets/a.bin": b"a", "controlnets/b.bin": b"b", "empty": b""}, public=True)
        kinds: tuple[SiteKind, ...] = ("r2", "plain")
        for kind in kinds:
            site = s3.add_site("b-1", kind)
            error = await refused(ask, S3.at(f"{site.endpoint}/controlnets"), ANONYMOUS)
            assert (error.kind, "can't be listed" in error.message) == ("not_found", True)
            assert "name the files" in (error.hint or "")
            error = await refused(ask, S3.at(f"{site.endpoint}/controlnets/"), ANONYMOUS)
            assert (error.kind, "can't be listed" in error.message) == ("resource", True)
            assert "name the files" in (error.hint or "")
            manifest = await ask.origin.resolve(S3.at(f"{site.endpoint}/controlnets", "a.bin"), ANONYMOUS)
            assert (paths(manifest), manifest.endpoint, manifest.private) == (["a.bin"], site.endpoint, False)
            assert (await ask.body(manifest, manifest.files[0], ANONYMOUS))[1] == b"a"
            assert paths(await ask.origin.resolve(S3.at(f"{site.endpoint}/empty"), ANONYMOUS)) == ["empty"]
            assert (await refused(ask, S3.at(f"{site.endpoint}/empty", "x"), ANONYMOUS)).kind == "not_found"

    run(test)


def test_a_cdn_that_passes_the_listing_on() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a", "p2/b": b"b"}, public=True)
        site = s3.add_site("b-1")
        manifest = await ask.origin.resolve(S3.at(f"{site.endpoint}/p"), ANONYMOUS)
        assert paths(manifest) == ["a"]
        assert manifest.files[0].url == f"{site.endpoint}/p/a"
        assert manifest.files[0].digest == Digest("md5", hashlib.md5(b"a").hexdigest())

    run(test)


def test_a_cdn_that_drops_the_query_is_not_believed() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a", "q": b"q"}, public=True)
        site = s3.add_site("b-1", drops_query=True)
        error = await refused(ask, S3.at(f"{site.endpoint}/p/"), ANONYMOUS)
        assert (error.kind, "name the files" in (error.hint or "")) == ("resource", True)
        assert paths(await ask.origin.resolve(S3.at(f"{site.endpoint}/q"), ANONYMOUS)) == ["q"]
        assert paths(await ask.origin.resolve(S3.at(f"{site.endpoint}/p", "a"), ANONYMOUS)) == ["a"]

    run(test)


@pytest.mark.parametrize(
    "quirks", [Quirks(content_length="missing"), Quirks(content_length="missing", ranges="ignored")]
)
def test_a_host_that_says_no_length(quirks: Quirks) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a": b"a" * 1000, "empty": b""}, public=True)
        site = s3.add_site("b-1", "plain", quirks=quirks)
        manifest = await ask.origin.resolve(S3.at(site.endpoint, "a", "empty"), ANONYMOUS)
        assert [entry.size for entry in manifest.files] == [1000, 0]

    run(test)


def test_a_host_that_takes_no_head() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a": b"a" * 1000, "empty": b""}, public=True)
        site = s3.add_site("b-1", "plain", allows_head=False)
        for _ in range(2):
            manifest = await ask.origin.resolve(S3.at(site.endpoint, "a", "empty"), ANONYMOUS)
            assert [entry.size for entry in manifest.files] == [1000, 0]
        assert len(s3.requests.select(method="HEAD")) <= 2
        assert (await refused(ask, S3.at(site.endpoint, "b"), ANONYMOUS)).kind == "not_found"
        assert s3.requests.body_bytes() < 1000

    run(test)


def test_keys_for_a_host_that_is_no_s3() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"}, public=True)
        site = s3.add_site("b-1", "r2")
        error = await refused(ask, S3.at(f"{site.endpoint}/p/"), INSIDER)
        assert "name the files" in (error.hint or "")

    run(test)


# -- regions, clocks, keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["permanent", "malformed"])
def test_a_bucket_in_another_region(manner: Any) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a", "p/b": b"b"}, region="ap-south-1", wrong_region=manner)
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        assert paths(manifest) == ["a", "b"]
        before = len(s3.requests)
        for entry in manifest.files:
            stated, body = await ask.body(manifest, entry, INSIDER)
            assert (stated is not None, body) == (True, entry.path.encode())
        assert len(s3.requests) == before + 2  # the region is known by now
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p", "a"), INSIDER)) == ["a"]

    run(test)


def test_the_region_of_the_keys_is_tried_first() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"}, region="ap-south-1")
        for region in ("ap-south-1", "undefined"):
            asker = Asker("job", AWSKeys(KEY_ID, Secret(SECRET), region=region))
            assert paths(await ask.origin.resolve(S3.at("s3://b-1/p"), asker)) == ["a"]
            if region == "ap-south-1":
                assert {record.status for record in s3.requests} == {200, 404}

    run(test)


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
def test_a_wrong_clock_is_made_up_for(ahead_s: float) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        assert paths(manifest) == ["a"]
        before = len(s3.requests)
        assert (await ask.body(manifest, manifest.files[0], INSIDER))[1] == b"a"
        assert len(s3.requests) == before + 1

    run(test, s3_clock=lambda: time.time() + ahead_s)


def test_a_clock_that_goes_wrong_in_mid_run() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        entry = manifest.files[0]
        url = entry.url or ""
        headers = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
        assert ask.origin.refusal(Answered(403, url, headers), entry, signed=False).kind == "expired"
        assert ask.origin.locate(manifest, entry, INSIDER).clock_skew_s < -1e6
        kinds = [ask.origin.refusal(Answered(403, url, headers), entry, signed=False).kind for _ in range(2)]
        assert kinds == ["expired", "final"]  # it may have been the checksum that was asked for

    run(test)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (AWSKeys(KEY_ID, Secret("wrong")), "SignatureDoesNotMatch"),
        (AWSKeys("AKIDNOBODY", Secret(SECRET)), "InvalidAccessKeyId"),
        (AWSKeys(KEY_ID, Secret(SECRET), Secret("no such token")), "InvalidToken"),
        (AWSKeys("AKIDOLD", Secret(SECRET), Secret("token")), "ExpiredToken"),
        (AWSKeys("AKIDTEMPORARY", Secret(SECRET)), "InvalidToken"),
    ],
)
def test_keys_that_are_refused(keys: AWSKeys, words: str) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        for resource in (S3.at("s3://b-1/p"), S3.at("s3://b-1/p/"), S3.at("s3://b-1/p", "a")):
            error = await refused(ask, resource, Asker("job", keys))
            assert (error.kind, words in error.message, bool(error.hint)) == ("denied", True, True)
            assert "wrong" not in error.message and SECRET not in f"{error.message} {error.hint}"

    run(test, keys=KEYS)


KEYS = {
    KEY_ID: Key(SECRET),
    "AKIDTEMPORARY": Key(SECRET, "tester", session_token="token+/="),
    "AKIDOLD": Key(SECRET, "tester", session_token="token", expires_at=1.0),
}


def test_temporary_keys() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        asker = Asker("job", AWSKeys("AKIDTEMPORARY", Secret(SECRET), Secret("token+/=")))
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), asker)
        assert manifest.private
        assert (await ask.body(manifest, manifest.files[0], asker))[1] == b"a"

    run(test, keys=KEYS)


def test_nobody_in_particular_sends_nothing_of_amazons() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"}, public=True)
        await ask.origin.resolve(S3.at("s3://b-1/p"), ANONYMOUS)
        assert not any(record.authorization for record in s3.requests)
        assert {name for record in s3.requests for name in record.headers if name.startswith("x-amz")} <= {
            "x-amz-checksum-mode"
        }
        for resource in (S3.at("s3://b-1/p"), S3.at("s3://b-2/p")):
            s3.bucket("b-1").public = False
            error = await refused(ask, resource, ANONYMOUS)
            assert error.hint

    run(test)


# -- presigned URLs ----------------------------------------------------------------------------------------------------


def test_a_presigned_url() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a b+c": b"abc", "empty": b"", "large": b"x" * (2 * MIB)})
        for key, size in (("p/a b+c", 3), ("empty", 0), ("large", 2 * MIB)):
            url = s3.presign("b-1", key, KEY_ID)
            asker = credentials.for_s3(S3.at(url), "job", settings_for(s3.endpoint), {})
            manifest = await ask.origin.resolve(S3.at(url), asker)
            (entry,) = manifest.files
            assert (entry.path, entry.size, manifest.private) == (key.rpartition("/")[2], size, True)
            assert entry.url == url.partition("?")[0]
            assert "Signature" not in repr(manifest) and "Signature" not in repr(ask.origin)
            request = ask.origin.locate(manifest, entry, asker)
            assert request.url == url and request.credential is None and "Signature" not in repr(request)
            assert len((await ask.body(manifest, entry, asker))[1]) == size
            assert (await ask.origin.revision(S3.at(url), asker)).manifest_digest == manifest.digest()
        assert not s3.requests.select("list") and not s3.requests.select(method="HEAD")

    run(test)


def test_presigned_urls_side_by_side() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a": b"a", "b": b"b"})
        s3.add_bucket("b-2", {"c": b"c"}, public=True)
        urls = [s3.presign("b-1", "a", KEY_ID), s3.presign("b-1", "b", KEY_ID), s3.url("b-2", "c")]
        resource = S3(tuple(S3Location.parse(url) for url in urls))
        asker = credentials.for_s3(resource, "job", settings_for(s3.endpoint), {})
        manifest = await ask.origin.resolve(resource, asker)
        assert [(await ask.body(manifest, entry, asker))[1] for entry in manifest.files] == [b"a", b"b", b"c"]

    run(test)


def test_a_presigned_url_that_is_used_up() -> None:
    now = [time.time()]

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a": b"a"})
        url = s3.presign("b-1", "a", KEY_ID, expires_s=60)
        asker = credentials.for_s3(S3.at(url), "job", settings_for(s3.endpoint), {})
        manifest = await ask.origin.resolve(S3.at(url), asker)
        now[0] += 61
        error = await refused(ask, S3.at(url), asker)
        assert (error.kind, "has expired" in error.message) == ("denied", True)
        refusal = ask.origin.refusal(Answered(403, url), manifest.files[0], signed=False)
        assert refusal.kind == "final" and refusal.error is not None
        assert "has expired" in refusal.error.message and "Signature" not in refusal.error.message
        other = S3.at(url.replace("X-Amz-Signature=", "X-Amz-Signature=0"))
        error = await refused(ask, other, credentials.for_s3(other, "job", settings_for(s3.endpoint), {}))
        assert "fresh URL" in (error.hint or "") and "Signature=0" not in error.message

    run(test, clock=lambda: now[0], s3_clock=lambda: now[0])


# -- checks ------------------------------------------------------------------------------------------------------------


def entry_of(manifest: Manifest) -> FileEntry:
    (entry,) = manifest.files
    return entry


@pytest.mark.parametrize(
    ("put", "quirks", "name"),
    [
        ({"checksum": "crc64nvme"}, Quirks(), "crc64nvme"),
        ({"checksum": "sha256"}, Quirks(), "sha256"),
        ({"checksum": None}, Quirks(), "md5"),
        ({"checksum": "crc32c", "part_bytes": MIB}, Quirks(), f"crc32c/{MIB}"),
        ({"checksum": "crc32c", "part_bytes": MIB, "checksum_type": "FULL_OBJECT"}, Quirks(), "crc32c"),
        ({"checksum": None, "part_bytes": MIB}, Quirks(), f"md5/{MIB}"),
        ({"checksum": None, "part_bytes": MIB}, Quirks(part_number="part-etag"), f"md5/{MIB}"),
        ({"checksum": "sha1"}, Quirks(checksum_mode="ignored"), "md5"),
        ({"checksum": "sha1"}, Quirks(checksum_mode="unknown"), "md5"),
        ({"checksum": "sha1"}, Quirks(checksum_mode="denied"), "md5"),
        ({"checksum": None, "sse": "AES256"}, Quirks(), "md5"),
    ],
)
def test_what_a_large_object_is_compared_with(put: dict[str, Any], quirks: Quirks, name: str) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        content = Synthetic(3 * MIB + 5)
        s3.add_bucket("b-1", quirks=quirks).put("p/f", content, **put)
        entry = entry_of(await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER))
        assert entry.digest is not None and entry.guesses == ()
        assert entry.digest.name == name
        assert entry.digest == digest_of(name, content.read())
        named = entry_of(await ask.origin.resolve(S3.at("s3://b-1/p", "f"), INSIDER))
        assert named == entry

    run(test)


def test_an_etag_that_is_no_md5_is_found_out() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1")
        bucket.put("p/large", Synthetic(2 * MIB), checksum=None, sse="aws:kms")
        bucket.put("p/small", b"x", checksum=None, sse="aws:kms:dsse")
        bucket.put("p/small-2", b"x", checksum="crc64nvme", sse="aws:kms")
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        large, small, other = manifest.files
        assert large.digest is None
        assert small.digest is not None  # a listing does not tell
        stated, _ = await ask.body(manifest, small, INSIDER)
        assert stated is not None and stated.digest is None
        stated, _ = await ask.body(manifest, other, INSIDER)
        assert stated is not None and stated.digest == digest_of("crc64nvme", b"x")

    run(test)


def test_large_objects_of_a_listing_are_asked_for_their_checksums() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        content = Synthetic(3 * MIB)
        bucket = s3.add_bucket("b-1", {"p/small": b"small"})
        bucket.put("p/full", content, checksum="crc32c")
        bucket.put("p/parts", content, checksum="sha256", part_bytes=MIB)
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p/"), INSIDER)
        digests = {entry.path: entry.digest for entry in manifest.files}
        assert digests["full"] == digest_of("crc32c", content.read())
        assert digests["parts"] == digest_of(f"sha256/{MIB}", content.read())
        assert digests["small"] == digest_of("md5", b"small")  # its own answer will tell more, and costs no question
        asked = [
            record.target for record in s3.requests if record.method == "HEAD" and "partNumber" not in record.target
        ]
        assert not any(target.endswith("small") for target in asked)

    run(test)


def test_parts_of_unknown_size_are_guessed() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        content = Synthetic(20 * MIB)
        s3.add_bucket("b-1", quirks=Quirks(part_number="ignored")).put("f", content, part_bytes=8 * MIB, checksum=None)
        entry = entry_of(await ask.origin.resolve(S3.at("s3://b-1/f"), INSIDER))
        assert entry.digest is None
        assert digest_of(f"md5/{8 * MIB}", content.read()) in entry.guesses
        await ask.origin.resolve(S3.at("s3://b-1/f"), INSIDER)
        assert sum("partNumber" in record.target for record in s3.requests) == 1  # the host is known not to

    run(test)


@pytest.mark.parametrize("sizes", [(1, 3, 5), (6, 5, 6)])
@pytest.mark.parametrize("checksum", [None, "sha256"])
def test_parts_of_two_sizes_are_no_grid(sizes: tuple[int, ...], checksum: Any) -> None:
    """Neither those of which the first gives another number of parts, nor those of which it gives the right one."""

    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        content = Synthetic(sum(sizes) * MIB)
        s3.add_bucket("b-1").put("f", content, part_bytes=[size * MIB for size in sizes], checksum=checksum)
        entry = entry_of(await ask.origin.resolve(S3.at("s3://b-1/f"), INSIDER))
        assert entry.digest is None

    run(test)


def test_archives_are_refused_before_anything_is_fetched() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", {"p/a": b"a"})
        bucket.put("p/old", b"x", storage_class="DEEP_ARCHIVE")
        for resource in (S3.at("s3://b-1/p"), S3.at("s3://b-1/p/old"), S3.at("s3://b-1/p", "old")):
            error = await refused(ask, resource)
            assert (error.kind, "archive" in error.message, bool(error.hint)) == ("denied", True, True)
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p", "a"), INSIDER)) == ["a"]

    run(test)


# -- states ------------------------------------------------------------------------------------------------------------


def test_weak_and_missing_etags() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", {"p/a": b"a", "p/b": b"b"})
        for validator, kind in (("weak", "weak"), ("last-modified", "weak"), ("strong", "strong")):
            bucket.quirks = Quirks(validator=validator)  # type: ignore[arg-type]
            async with asking(s3.endpoint) as fresh:
                manifest = await fresh.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
                assert {entry.validator.kind for entry in manifest.files if entry.validator} == {kind}
                assert (await fresh.origin.revision(S3.at("s3://b-1/p"), INSIDER)).manifest_digest == manifest.digest()
                for entry in manifest.files:
                    stated, body = await fresh.body(manifest, entry, INSIDER)
                    assert (stated is not None, body) == (True, entry.path.encode())
                    request = fresh.origin.locate(manifest, entry, INSIDER)
                    assert ("If-Match" in dict(request.headers)) == (kind == "strong")

    run(test)


def test_a_listing_that_an_answer_denies_is_not_believed_again() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", {"p/a": b"a", "p/b": b"bb"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        entry = manifest.files[0]
        # A CDN in front begins to answer with copies of its own.
        bucket.quirks = Quirks(edge_etag=True)
        response = await ask.transport.send(ask.origin.locate(manifest, entry, INSIDER), idle_timeout_s=5)
        assert ask.origin.refusal(response, entry, signed=False).kind == "changed"
        response.abort()
        again = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        assert again.digest() != manifest.digest()
        for entry in again.files:
            stated, body = await ask.body(again, entry, INSIDER)
            assert (stated is not None, body[:1]) == (True, entry.path.encode())
        assert (await ask.origin.revision(S3.at("s3://b-1/p"), INSIDER)).manifest_digest == again.digest()

    run(test)


@pytest.mark.parametrize("files", [(), ("a",)])
def test_a_host_that_denies_the_very_etag_it_states(files: tuple[str, ...]) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        resource = S3.at("s3://b-1/p", *files)
        manifest = await ask.origin.resolve(resource, INSIDER)
        (entry,) = manifest.files
        assert ask.origin.refusal(Answered(412, entry.url or ""), entry, signed=False).kind == "changed"
        again = await ask.origin.resolve(resource, INSIDER)
        assert again == manifest
        assert "If-Match" not in dict(ask.origin.locate(again, entry, INSIDER).headers)
        stated, _ = await ask.body(again, entry, INSIDER)
        assert stated is not None

    run(test)


def test_a_header_that_a_host_does_not_bear_is_left_out() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        bucket = s3.add_bucket("b-1", {"p/a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        (entry,) = manifest.files
        bucket.quirks = Quirks(checksum_mode="unknown")
        assert "x-amz-checksum-mode" in dict(ask.origin.locate(manifest, entry, INSIDER).headers)
        response = await ask.transport.send(ask.origin.locate(manifest, entry, INSIDER), idle_timeout_s=5)
        assert ask.origin.refusal(response, entry, signed=False).kind == "expired"
        response.abort()
        assert (await ask.body(manifest, entry, INSIDER))[1] == b"a"
        assert "x-amz-checksum-mode" not in dict(ask.origin.locate(manifest, entry, INSIDER).headers)

    run(test)


def test_a_header_that_was_not_the_trouble_is_sent_again() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        (entry,) = manifest.files
        for kind in ("expired", "final"):
            response = await ask.transport.send(ask.origin.locate(manifest, entry, OUTSIDER), idle_timeout_s=5)
            assert response.status == 403
            assert ask.origin.refusal(response, entry, signed=False).kind == kind
            response.abort()
        assert "x-amz-checksum-mode" in dict(ask.origin.locate(manifest, entry, INSIDER).headers)

    run(test)


def test_a_signature_that_does_not_match_may_be_a_header_that_did_not_arrive() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        (entry,) = manifest.files
        answered = Answered(403, entry.url or "")
        for code, kinds in (("SignatureDoesNotMatch", ("expired", "final")), ("InvalidAccessKeyId", ("final",))):
            text = f"<Error><Code>{code}</Code></Error>".encode()
            for kind in kinds:
                assert ask.origin.refusal(answered, entry, signed=False, text=text).kind == kind
            assert "x-amz-checksum-mode" in dict(ask.origin.locate(manifest, entry, INSIDER).headers)

    run(test)


def test_keys_that_ended_meanwhile_are_told_from_a_header_that_is_not_borne() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        (entry,) = manifest.files
        s3.faults.add(S3Error("ExpiredToken").on("object"))
        response = await ask.transport.send(ask.origin.locate(manifest, entry, INSIDER), idle_timeout_s=5)
        text = await response.read_all(1 << 16)
        await response.release()
        assert response.status == 400
        refusal = ask.origin.refusal(response, entry, signed=False, text=text)
        assert refusal.kind == "final" and refusal.error is not None
        assert (refusal.error.kind, "ExpiredToken" in refusal.error.message) == ("denied", True)
        assert "begins anew" in (refusal.error.hint or "")
        assert "x-amz-checksum-mode" in dict(ask.origin.locate(manifest, entry, INSIDER).headers)

    run(test)


def test_a_store_that_says_with_400_what_others_say_with_408_is_asked_again() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        s3.faults.add(S3Error("RequestTimeout").on("list", times=1))
        manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)
        (entry,) = manifest.files
        text = b"<Error><Code>RequestTimeout</Code></Error>"
        for status in (400, 408):
            answered = Answered(status, entry.url or "")
            assert ask.origin.refusal(answered, entry, signed=False, text=text).kind == "busy"
        assert "x-amz-checksum-mode" in dict(ask.origin.locate(manifest, entry, INSIDER).headers)

    run(test)


def test_a_version_is_asked_for_by_its_id() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a": b"a"})
        manifest = await ask.origin.resolve(S3.at("s3://b-1/a?versionId=null"), INSIDER)
        (entry,) = manifest.files
        assert entry.validator == Validator("strong", f'"{hashlib.md5(b"a").hexdigest()}"', version="null")
        assert ask.origin.locate(manifest, entry, INSIDER).url == f"{entry.url}?versionId=null"
        assert (await ask.body(manifest, entry, INSIDER))[1] == b"a"

    run(test)


# -- strangers and liars -----------------------------------------------------------------------------------------------


def test_a_redirect_to_a_stranger_brings_it_nothing() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"a": b"a" * 10})
        s3.faults.add(RedirectElsewhere())
        manifest = await ask.origin.resolve(S3.at("s3://b-1", "a"), INSIDER)
        assert (await ask.body(manifest, manifest.files[0], INSIDER))[1] == b"a" * 10
        elsewhere = s3.requests.select("cdn")
        assert elsewhere and not any(record.authorization for record in elsewhere)
        assert not any(name.startswith("x-amz") for record in elsewhere for name in record.headers)

    run(test)


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/k",
        "http://b-1.s3.eu-west-1.amazonaws.com/k",
        "https://b-2.s3.eu-west-1.amazonaws.com/k",
        "https://s3.eu-west-1.amazonaws.com/b-2/k",
        "https://b-1.s3.eu-west-1.amazonaws.com.evil.example/k",
        "https://b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com/k",
    ],
)
def test_keys_do_not_follow_a_redirect_to_another(location: str) -> None:
    async def test(_: EmbeddedS3, ask: Asking) -> None:
        request = Request(
            "GET",
            "https://b-1.s3.us-east-1.amazonaws.com/k",
            (("x-amz-checksum-mode", "ENABLED"), ("If-Match", '"x"')),
            credential=AWSKeys(KEY_ID, Secret(SECRET), region="us-east-1"),
            credential_origin="https://b-1.s3.us-east-1.amazonaws.com:443",
        )
        following = ask.origin.follow(request, Answered(307, request.url, {"Location": location}))
        assert following is not None and following.credential is None
        assert following.headers == (("If-Match", '"x"'),)

    run(test)


@pytest.mark.parametrize(
    ("url", "answer", "target"),
    [
        ("https://b-1.s3.amazonaws.com/k?x=1", {"x-amz-bucket-region": "eu-west-1"}, "https://b-1.s3.eu-west-1.amazonaws.com/k?x=1"),
        ("https://s3.us-west-2.amazonaws.com/b-1/k", {"x-amz-bucket-region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/b-1/k"),
        (
            "https://b-1.s3.amazonaws.com/k",
            {"Location": "https://b-1.s3-eu-west-1.amazonaws.com/k"},
            "https://b-1.s3-eu-west-1.amazonaws.com/k",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 307])
def test_keys_follow_their_bucket_to_its_region(url: str, answer: dict[str, str], target: str, status: int) -> None:
    async def test(_: EmbeddedS3, ask: Asking) -> None:
        host = "/".join(url.split("/")[:3])
        request = Request(
            "GET", url, credential=AWSKeys(KEY_ID, Secret(SECRET), region="us-east-1"), credential_origin=f"{host}:443"
        )
        following = ask.origin.follow(request, Answered(status, url, answer))
        assert following is not None and following.url == target
        assert following.carried_credential == AWSKeys(KEY_ID, Secret(SECRET), region="eu-west-1")
        manifest = Manifest("s3", f"{host}:443", "b-1/k", None, True, ())
        entry = FileEntry("k", 1, None, url=url.partition("?")[0])
        asker = Asker("job", AWSKeys(KEY_ID, Secret(SECRET)))
        located = ask.origin.locate(manifest, entry, asker)
        assert isinstance(located.credential, AWSKeys) and located.credential.region == "eu-west-1"

    run(test)


def test_a_redirect_without_a_place() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        request = Request("GET", f"{s3.endpoint}/b-1/k")
        assert ask.origin.follow(request, Answered(301, request.url)) is None
        assert ask.origin.follow(request, Answered(200, request.url, {"Location": "https://x/"})) is None
        entry = FileEntry("k", 1, None, url=request.url)
        refusal = ask.origin.refusal(Answered(301, request.url), entry, signed=False)
        assert isinstance(refusal.error, TransportError)

    run(test)


GARBAGE = (
    "error",
    "truncated",
    "doctype",
    "entity-bomb",
    "external-entity",
    "html",
    "empty",
    "not-utf8",
    "deep",
    "other-root",
)


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_listing_that_is_none(kind: Any) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        began = time.monotonic()
        error = await refused(ask, S3.at("s3://b-1/p"))
        assert error.kind in ("transport", "not_found", "resource")
        assert (await refused(ask, S3.at("s3://b-1/p/"))).kind in ("transport", "resource")
        assert time.monotonic() - began < 30

    run(test, faults=FaultPlan(ListGarbage(kind)))


@pytest.mark.parametrize("kind", ["error", "truncated", "not-utf8"])
def test_a_broken_listing_is_asked_for_again(kind: Any) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)) == ["a"]
        assert len(s3.requests.select("list")) == 2

    run(test, faults=FaultPlan(ListGarbage(kind).on("list", times=1)))


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (EndlessPages("fresh"), {"forbidden", "transport"}),
        (EndlessPages("same"), {"transport"}),
        (EndlessPages("empty"), {"transport"}),
        (RepeatedToken(), {"transport"}),
        (WrongPrefixEchoed("q/"), {"not_found", "resource"}),
        (ExtraRows(("elsewhere/foreign.bin",)), {"not_found", "resource"}),
        (ExtraRows((Row("p/negative", size=-1),)), {"transport"}),
        (ExtraRows((Row("p/huge", size=1 << 60),)), {"forbidden"}),
        (ExtraRows(("p/../escaped",)), {"forbidden"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_listing_that_lies(fault: Any, kinds: set[str]) -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a", "p/b": b"b"})
        for url in ("s3://b-1/p", "s3://b-1/p/"):
            assert (await refused(ask, S3.at(url))).kind in kinds

    run(test, faults=FaultPlan(fault), settings={"manifest_files_max": 500}, page_keys=2)


def test_a_page_without_a_token_is_gone_on_from_its_last_key() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {f"p/{number}": b"x" for number in range(5)})
        assert len((await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)).files) == 5

    run(test, faults=FaultPlan(MissingToken()), page_keys=2)


def test_a_store_under_load_is_waited_for() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        s3.add_bucket("b-1", {"p/a": b"a"})
        assert paths(await ask.origin.resolve(S3.at("s3://b-1/p"), INSIDER)) == ["a"]

    run(test, faults=FaultPlan(S3Error("SlowDown").on("s3", times=2)))


def test_a_folder_of_a_web_server_is_no_file() -> None:
    async def test(s3: EmbeddedS3, ask: Asking) -> None:
        request = Request("HEAD", "https://models.example/dir")
        following = ask.origin.follow(request, Answered(301, request.url, {"Location": "/dir/"}))
        assert following is not None and following.url == "https://models.example/dir/"

    run(test)


def test_what_an_anonymous_run_need_not_pay_for() -> None:
    program = """
import asyncio, sys
from fetcher.model.s3 import S3
from fetcher.testing.s3 import S3 as EmbeddedS3
from fetcher.testing.s3.sites import SiteKind
from tests.origins.stores import ANONYMOUS, asking

async def main():
    async with EmbeddedS3() as s3:
        s3.add_bucket("b-1", {"p/a": b"a"}, public=True)
        async with asking(s3.endpoint) as ask:
            manifest = await ask.origin.resolve(S3.at("s3://b-1/p"), ANONYMOUS)
            await ask.body(manifest, manifest.files[0], ANONYMOUS)
    print([name for name in ("botocore", "xml.etree.ElementTree") if name in sys.modules])

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
