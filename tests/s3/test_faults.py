"""The faults of every origin work on S3, and S3's own do what their docstrings say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args
from urllib.parse import quote
from xml.etree import ElementTree
from xml.parsers import expat

import pytest

from fetcher.testing import Exchange, Fault, FaultPlan, Rule, Synthetic
from fetcher.testing.contents import BytesContent
from fetcher.testing.faults import (
    ChangeContent,
    CutAfter,
    CutAt,
    CutHead,
    Delay,
    FlipByte,
    GzipBody,
    HangUp,
    HeadersWithoutEnd,
    IgnoreRange,
    MaxConcurrentBodies,
    OnRequest,
    RedirectTo,
    RefuseHead,
    ShiftRange,
    ShortBody,
    StallAfter,
    Status,
    Trickle,
)
from fetcher.testing.messages import Reply
from fetcher.testing.s3 import (
    S3,
    EndlessPages,
    ExtraRows,
    ListGarbage,
    MissingToken,
    RepeatedToken,
    Row,
    S3Error,
    SlowDownAbove,
    WrongPrefixEchoed,
    s3_in_thread,
)
from fetcher.testing.s3.hostility import GarbageKind
from tests.hub.raw import Answer, fetch
from tests.s3.judge import KEY_ID, SECRET, ask, code, element, elements, keys, query

MIB = 1 << 20
LARGE = Synthetic(2 * MIB + 9, 7)
KEY = "model.bin"
KEYS = [f"p/{n}" for n in range(5)]


@contextlib.contextmanager
def faulty(*rules: Fault | Rule) -> Iterator[S3]:
    with s3_in_thread(faults=FaultPlan(*rules), page_keys=2, keys={KEY_ID: SECRET}) as s3:
        s3.add_bucket("bucket", {KEY: LARGE, "small": b"small\n" * 10, **dict.fromkeys(KEYS, b"x")}, public=True)
        yield s3


def get(s3: S3, key: str = KEY, *, method: str = "GET", timeout_s: float = 10.0, **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(s3.url("bucket", key), method=method, headers=fields, timeout_s=timeout_s, bytes_max=4 * MIB)


def page(s3: S3, **fields: str) -> Answer:
    return fetch(s3.url("bucket") + query(list_type="2", prefix="p/", **fields))


# Those of every origin


def test_cuts_of_bodies_and_heads() -> None:
    rules = [CutAfter(1000).on("object", nth=1), CutAt(MIB, "fin").on("object", nth=2), CutHead(9).on("list")]
    with faulty(*rules) as s3:
        answer = get(s3)
        assert (answer.ended, answer.body) == ("rst", LARGE.read(0, 1000))
        assert s3.requests[0].body_bytes == 1000
        answer = get(s3, Range=f"bytes={MIB - 5}-")
        assert (answer.ended, answer.body) == ("fin", LARGE.read(MIB - 5, MIB))
        assert get(s3).body == LARGE.read()
        assert page(s3).status is None
        assert s3.requests[-1].status is None
        assert sum(s3.faults.fired.values()) == 3


def test_a_cut_in_the_middle_of_a_listing() -> None:
    with faulty(CutAfter(200, "fin").on("list", times=1)) as s3:
        answer = page(s3)
        assert (answer.status, answer.ended, len(answer.body)) == (200, "fin", 200)
        assert keys(page(s3)) == KEYS[:2]


def test_stalls_trickles_delays_and_hang_ups() -> None:
    with faulty(StallAfter(500, 0.2).on("object", nth=1), Trickle(200.0).on("object", path="small"), HangUp()) as s3:
        assert get(s3).seconds >= 0.2
        answer = get(s3, "small")
        assert (answer.body, answer.seconds > 0.2) == (b"small\n" * 10, True)
    with faulty(StallAfter(500).on("object")) as s3:
        answer = get(s3, timeout_s=2.0)
        assert (answer.ended, len(answer.body)) == ("silence", 500)
    with faulty(Delay(0.2).on("list")) as s3:
        assert page(s3).seconds >= 0.2
        get(s3, "small")
        assert [bool(record.faults) for record in s3.requests] == [True, False]
    with faulty(HeadersWithoutEnd().on("object")) as s3:
        assert (get(s3).status, get(s3).ended) == (None, "too much")


def test_wrong_bytes_and_wrong_ranges() -> None:
    with faulty(FlipByte(5).on("object", nth=1), ShiftRange(1024, lying=True)) as s3:
        body = get(s3).body
        assert [at for at in range(100) if body[at] != LARGE.read(at, at + 1)[0]] == [5]
        shifted = get(s3, Range="bytes=0-99")
        assert (shifted.headers["content-range"], shifted.body) == (f"bytes 0-99/{LARGE.size}", LARGE.read(1024, 1124))
    with faulty(ShortBody(3).on("object", nth=1), IgnoreRange().on("object", nth=2), GzipBody().on(path="small")) as s3:
        assert get(s3).headers["content-length"] == str(LARGE.size - 3)
        assert get(s3, Range="bytes=0-0").status == 200
        assert get(s3, "small").headers["content-encoding"] == "gzip"


def test_a_fault_does_not_break_a_signature() -> None:
    with faulty(IgnoreRange()) as s3:
        s3.bucket("bucket").public = False
        answer = ask(s3, f"/bucket/{KEY}", headers={"Range": "bytes=0-0"})
        assert (answer.status, answer.body) == (200, LARGE.read())
        # Whose signature is wrong meets no fault.
        assert ask(s3, f"/bucket/{KEY}", secret="another").status == 403
        assert s3.faults.fired["IgnoreRange"] == 1


def test_content_that_changes_in_mid_file() -> None:
    with faulty(ChangeContent().on("object", skip=1)) as s3:
        etag = get(s3, Range="bytes=0-9").headers["etag"]
        other = get(s3, Range="bytes=0-9")
        assert (other.status, other.headers["etag"] != etag, other.body != LARGE.read(0, 10)) == (206, True, True)
        assert get(s3, Range="bytes=0-9", If_Match=etag).status == 412


def test_refusals_redirects_and_callbacks() -> None:
    def grow(exchange: Exchange) -> None:
        exchange.origin.bucket("bucket").put("p/new", b"new")

    rules = [
        Status(429, retry_after=7).on("object", nth=1),
        RefuseHead().on("object"),
        RedirectTo("http://169.254.169.254/x").on("object", path="small"),
        OnRequest(grow).on("list", nth=2),
        OnRequest(lambda exchange: Reply(200, {}, BytesContent(b"mine"))).on("bucket"),
    ]
    with faulty(*rules) as s3:
        refused = get(s3)
        assert (refused.status, refused.headers["retry-after"]) == (429, "7")
        assert "x-amz-request-id" in refused.headers
        assert get(s3, method="HEAD").status == 405
        assert get(s3, "small").headers["location"] == "http://169.254.169.254/x"
        assert b"p/new" not in fetch(s3.url("bucket") + "?prefix=p/n").body
        assert b"p/new" in fetch(s3.url("bucket") + "?prefix=p/n").body
        assert fetch(s3.url("bucket") + "?location").body == b"mine"


def test_a_failing_callback_is_an_internal_error_and_is_raised_at_the_end() -> None:
    def fail(exchange: Exchange) -> None:
        raise KeyError("planned")

    with pytest.raises(KeyError, match="planned"), faulty(OnRequest(fail).on("object")) as s3:
        answer = get(s3)
        assert (answer.status, code(answer)) == (500, "InternalError")


def test_only_so_many_bodies_at_once() -> None:
    with faulty(MaxConcurrentBodies(1).on("object"), StallAfter(100, 1.0).on("object", nth=1)) as s3:
        first = threading.Thread(target=get, args=(s3,))
        first.start()
        while s3.open_bodies("object") == 0:
            time.sleep(0.005)
        assert get(s3, "small").status == 503
        first.join()
        assert get(s3, "small").status == 200


# S3's own


def test_slow_down_in_bursts() -> None:
    with faulty(S3Error(retry_after=3).on("object", "list", skip=1, times=3)) as s3:
        assert get(s3, "small").status == 200
        answers = [get(s3, "small"), page(s3), get(s3, "small", method="HEAD")]
        assert [answer.status for answer in answers] == [503] * 3
        assert (code(answers[0]), answers[0].headers["retry-after"]) == ("SlowDown", "3")
        assert (answers[2].body, answers[2].headers["content-length"]) == (b"", "0")
        assert get(s3, "small").status == 200
    with faulty(S3Error("InternalError").on("object", nth=1)) as s3:
        assert code(get(s3)) == "InternalError"
    with pytest.raises(ValueError, match="unknown code"):
        S3Error("NoSuchCode")


def test_slow_down_above_a_rate() -> None:
    with faulty(SlowDownAbove(requests_per_s=0.5, burst=3).on("object")) as s3:
        statuses = [get(s3, "small").status for _ in range(8)]
        assert statuses[:3] == [200] * 3 and 503 in statuses[3:]
        time.sleep(2.1)
        assert get(s3, "small").status == 200


def test_a_wrong_prefix_is_echoed() -> None:
    with faulty(WrongPrefixEchoed("q/")) as s3:
        answer = page(s3)
        assert (element(answer, "Prefix"), keys(answer)) == ("q/", KEYS[:2])


def test_rows_nobody_asked_for() -> None:
    rows = ("../../escaped", Row("p/negative", size=-1), Row("p/text", size="many", etag=None), Row("k" * 5000))
    with faulty(ExtraRows(rows)) as s3:
        answer = page(s3)
        assert keys(answer) == [*KEYS[:2], "../../escaped", "p/negative", "p/text", "k" * 5000]
        assert elements(answer, "Size")[-3:] == ["-1", "many", "0"]
        assert element(answer, "KeyCount") == "6"
        assert s3.faults.fired == {"ExtraRows": 1}


@pytest.mark.parametrize("kind", ["fresh", "same", "empty"])
def test_pages_without_end(kind: Any) -> None:
    with faulty(EndlessPages(kind)) as s3:
        token, tokens, pages = "", set(), []
        for _ in range(20):
            answer = page(s3, **({"continuation_token": token} if token else {}))
            assert element(answer, "IsTruncated") == "true"
            token = element(answer, "NextContinuationToken") or ""
            tokens.add(token)
            pages.append(keys(answer))
        assert len(tokens) == 20 and "" not in tokens
        if kind == "fresh":
            assert len({key for each in pages for key in each}) == 40
        else:
            assert pages == [KEYS[:2] if kind == "same" else []] * 20
        first = fetch(s3.url("bucket"))
        assert element(first, "IsTruncated") == "true" and element(first, "NextMarker")


def test_a_repeated_token() -> None:
    with faulty(RepeatedToken()) as s3:
        answers = [page(s3), page(s3, continuation_token="again+/=")]
        assert [element(answer, "NextContinuationToken") for answer in answers] == ["again+/="] * 2
        assert keys(answers[0]) == keys(answers[1]) == KEYS[:2]
        s3.bucket("bucket").public = False
        assert page(s3).status == 403


def test_a_missing_token() -> None:
    with faulty(MissingToken()) as s3:
        answer = page(s3)
        assert (element(answer, "IsTruncated"), element(answer, "NextContinuationToken")) == ("true", None)
        assert keys(page(s3, start_after=KEYS[1])) == KEYS[2:4]


@pytest.mark.parametrize("kind", get_args(GarbageKind))
def test_garbage_instead_of_a_listing(kind: Any) -> None:
    with faulty(ListGarbage(kind).on("list", times=1)) as s3:
        answer = page(s3)
        assert (answer.status, answer.ended) == (200, "complete")
        assert answer.headers["content-type"] == "application/xml"
        if kind in ("doctype", "entity-bomb", "external-entity"):
            assert b"<!DOCTYPE ListBucketResult" in answer.body
            assert _refused_for_its_doctype(answer.body)
        elif kind in ("error", "other-root"):
            assert ElementTree.fromstring(answer.body).tag != "ListBucketResult"
        else:
            with pytest.raises(ElementTree.ParseError):
                ElementTree.fromstring(answer.body)
        assert keys(page(s3)) == KEYS[:2]


def _refused_for_its_doctype(body: bytes) -> bool:
    """Whether a parser that refuses every DOCTYPE, as a careful one does, refuses this: before any entity counts."""

    class Doctype(Exception):
        pass

    def refuse(*_: object) -> None:
        raise Doctype

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except Doctype:
        return True
    return False


def test_faults_find_objects_by_their_key() -> None:
    with faulty(Status(500).on("object", path="p/*"), Status(404).on("bodies", path="sm?ll")) as s3:
        assert [get(s3, key).status for key in ("p/1", "small", KEY)] == [500, 404, 200]
        assert fetch(f"{s3.endpoint}/bucket/{quote('p/1', safe='')}").status == 500
        assert s3.count("s3") == s3.count("object") == s3.count() == 4
        assert s3.count("api") == 0
