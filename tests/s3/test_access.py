"""Signatures are checked for real: each way to get one wrong is refused with Amazon's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from fetcher.testing.s3 import S3, Key, s3_in_thread
from fetcher.testing.s3.signing import presigned_query
from tests.hub.raw import Answer, fetch
from tests.s3.judge import KEY_ID, SECRET, Clock, ask, code, element, presigned, signed

TOKEN = "session+token/of=the/test=="
ODD = "odd (key)/~a+b c'*!&=?#é/../x//y"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def s3(clock: Clock) -> Iterator[S3]:
    keys = {
        KEY_ID: Key(SECRET, "alice"),
        "AKIDBOB": Key("bob's", "bob"),
        "ASIATEMP": Key("temporary", "alice", TOKEN, clock.now + 600),
    }
    with s3_in_thread(keys=keys, clock=clock) as running:
        private = running.add_bucket("private", {"key": b"content", ODD: b"odd"}, readers=["alice"])
        assert not private.public
        running.add_bucket("public", {"key": b"content", ODD: b"odd"}, public=True)
        yield running


# Who may


def test_what_a_bucket_opens_to_whom(s3: S3) -> None:
    bob = {"key_id": "AKIDBOB", "secret": "bob's"}
    assert ask(s3, "/private/key").body == b"content"
    assert s3.requests[-1].principal == "alice"
    assert code(ask(s3, "/private/key", **bob)) == "AccessDenied"
    assert s3.requests[-1].principal == "bob"
    assert code(fetch(s3.url("private", "key"))) == "AccessDenied"
    assert s3.requests[-1].principal is None
    assert ask(s3, "/public/key", **bob).body == fetch(s3.url("public", "key")).body == b"content"
    for answer in (ask(s3, "/private", **bob), fetch(s3.url("private"))):
        assert (answer.status, code(answer)) == (403, "AccessDenied")
    assert ask(s3, "/private").status == fetch(s3.url("public")).status == 200


@pytest.mark.parametrize(
    ("list_allowed", "anonymous", "with_key"), [(True, 404, 404), ("signed", 403, 404), (False, 403, 403)]
)
def test_a_missing_key_is_told_only_to_who_may_list(s3: S3, list_allowed: bool, anonymous: int, with_key: int) -> None:
    s3.bucket("public").list_allowed = list_allowed
    for method in ("GET", "HEAD"):
        answer = fetch(s3.url("public", "none"), method=method)
        assert answer.status == anonymous
        assert ask(s3, "/public/none", method=method).status == with_key
        assert fetch(s3.url("public", "key"), method=method).status == 200
        assert bool(answer.body) == (method == "GET")
    assert fetch(s3.url("public")).status == (200 if anonymous == 404 else 403)
    assert ask(s3, "/public").status == (200 if with_key == 404 else 403)
    assert code(ask(s3, "/public/none")) == ("NoSuchKey" if with_key == 404 else "AccessDenied")


def test_buckets_that_are_not_there(s3: S3) -> None:
    answer = fetch(s3.url("none", "key"))
    assert (answer.status, code(answer), element(answer, "BucketName")) == (404, "NoSuchBucket", "none")
    head = fetch(s3.url("none"), method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (404, b"", "0")


def test_the_list_of_buckets_needs_a_key(s3: S3) -> None:
    assert code(fetch(s3.endpoint + "/")) == "AccessDenied"
    answer = ask(s3, "/")
    assert (answer.status, answer.body.count(b"<Bucket>")) == (200, 2)
    assert ask(s3, "/", key_id="AKIDBOB", secret="bob's").body.count(b"<Bucket>") == 1


def test_every_answer_has_an_id_and_no_two_the_same(s3: S3) -> None:
    answers = [fetch(s3.url("public", key)) for key in ("key", "key", "none")]
    assert len({answer.headers["x-amz-request-id"] for answer in answers}) == 3
    assert all(answer.headers["server"] == "AmazonS3" and answer.headers["x-amz-id-2"] for answer in answers)


# Signatures in the header


def test_wrong_secrets_and_unknown_keys(s3: S3) -> None:
    wrong = ask(s3, "/private/key", secret="another")
    assert (wrong.status, code(wrong)) == (403, "SignatureDoesNotMatch")
    assert element(wrong, "CanonicalRequest")
    unknown = ask(s3, "/private/key", key_id="AKIDNOBODY")
    assert (unknown.status, code(unknown)) == (403, "InvalidAccessKeyId")
    # A bad signature is no better than none, also where none is needed.
    assert ask(s3, "/public/key", secret="another").status == 403
    assert [record.principal for record in s3.requests] == [None] * 3


def test_the_signature_covers_method_path_query_and_signed_headers(s3: S3) -> None:
    url = f"{s3.endpoint}/private/{quote(ODD)}?y=1&x=a%20b"
    headers = signed(url, headers={"If-Match": '"x"', "Range": "bytes=0-0"})
    assert code(fetch(url, headers=headers)) == "PreconditionFailed"
    changed = [
        (url.replace("odd", "even"), headers),
        (url.replace("y=1", "y=2"), headers),
        (url + "&y", headers),
        (url, headers | {"If-Match": '"y"'}),
        (url, headers | {"Range": "bytes=0-1"}),
        (url, headers | {"Host": "other.test"}),
    ]
    for other, sent in changed:
        assert code(fetch(other, headers=sent)) == "SignatureDoesNotMatch", (other, sent)
    assert fetch(url, method="HEAD", headers=headers).status == 403
    assert fetch(url, headers=headers | {"User-Agent": "may change", "Accept-Encoding": "identity"}).status == 412


def test_path_and_query_may_be_quoted_otherwise_but_a_bare_plus_never_matches(s3: S3) -> None:
    key = quote(ODD, safe="/-_.~")
    url = f"{s3.endpoint}/private/{key}"
    headers = signed(url)
    assert fetch(url, headers=headers).body == b"odd"
    for other in (url.replace("%28key%29", "(key)"), url.replace("~", "%7E"), url.replace("%2B", "%2b")):
        assert other != url
        assert fetch(other, headers=headers).body == b"odd"
    plus = url.replace("%2B", "+")
    assert code(fetch(plus, headers=signed(plus))) == "SignatureDoesNotMatch"
    # To nobody in particular it is a space.
    s3.bucket("public").put("a b", b"space")
    s3.bucket("public").put("a+b", b"plus")
    assert fetch(f"{s3.endpoint}/public/a+b").body == b"space"
    assert fetch(f"{s3.endpoint}/public/a%2Bb").body == b"plus"


def test_every_amazon_header_must_be_signed(s3: S3) -> None:
    headers = signed(s3.url("private", "key"))
    answer = fetch(s3.url("private", "key"), headers=headers | {"x-amz-checksum-mode": "ENABLED"})
    assert (answer.status, code(answer)) == (403, "AccessDenied")
    assert element(answer, "HeadersNotSigned") == "x-amz-checksum-mode"
    together = signed(s3.url("private", "key"), headers={"x-amz-checksum-mode": "ENABLED"})
    assert fetch(s3.url("private", "key"), headers=together).status == 200


@pytest.mark.parametrize("seconds", [899, 901, -899, -901, 86_400])
def test_the_clock_may_be_a_quarter_of_an_hour_off(s3: S3, clock: Clock, seconds: int) -> None:
    headers = signed(s3.url("private", "key"))
    clock.now = int(clock.now) + seconds
    answer = fetch(s3.url("private", "key"), headers=headers)
    if abs(seconds) <= 900:
        assert answer.status == 200
        return
    assert (answer.status, code(answer)) == (403, "RequestTimeTooSkewed")
    assert element(answer, "MaxAllowedSkewMilliseconds") == "900000"
    # The right time is in the answer.
    from email.utils import parsedate_to_datetime

    assert abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - clock.now) <= 1


def test_temporary_keys_need_their_token_and_their_time(s3: S3, clock: Clock) -> None:
    temporary = {"key_id": "ASIATEMP", "secret": "temporary"}
    assert ask(s3, "/private/key", **temporary, token=TOKEN).status == 200
    for other in ({}, {"token": TOKEN[:-1]}):
        answer = ask(s3, "/private/key", **temporary, **other)
        assert (answer.status, code(answer)) == (400, "InvalidToken")
    assert code(ask(s3, "/private/key", token=TOKEN)) == "InvalidToken"
    headers = signed(s3.url("private", "key"), token=TOKEN, **temporary)
    clock.now += 601
    answer = fetch(s3.url("private", "key"), headers=headers)
    assert (answer.status, code(answer)) == (400, "ExpiredToken")


def _changed(s3: S3, old: str, new: str, *, header: str = "Authorization") -> Answer:
    headers = signed(s3.url("public", "key"))
    assert old in headers[header]
    return fetch(s3.url("public", "key"), headers=headers | {header: headers[header].replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 ", "Bearer ", "InvalidArgument"),
        ("/s3/", "/ec2/", "AuthorizationHeaderMalformed"),
        ("/aws4_request", "", "AuthorizationHeaderMalformed"),
        ("Signature=", "Signature", "AuthorizationHeaderMalformed"),
        ("Signature=", "Signature=0", "SignatureDoesNotMatch"),
        ("host;", "", "AuthorizationHeaderMalformed"),
    ],
)
def test_malformed_authorization(s3: S3, old: str, new: str, expected: str) -> None:
    assert code(_changed(s3, old, new)) == expected


def test_malformed_dates_and_missing_hashes(s3: S3, clock: Clock) -> None:
    day = signed(s3.url("public", "key"))["X-Amz-Date"][:8]
    assert code(_changed(s3, f"/{day}/", "/20200101/")) == "AuthorizationHeaderMalformed"
    assert code(_changed(s3, day, "garbage!", header="X-Amz-Date")) == "AccessDenied"
    headers = signed(s3.url("public", "key"))
    del headers["X-Amz-Content-SHA256"]
    assert code(fetch(s3.url("public", "key"), headers=headers)) == "InvalidRequest"


def test_the_hash_of_the_body_is_checked(s3: S3) -> None:
    url = s3.url("private", "key")
    headers = signed(url, body=b"x")
    assert headers["X-Amz-Content-SHA256"] == hashlib.sha256(b"x").hexdigest()
    assert fetch(url, headers=headers, body=b"x").status == 200
    other = fetch(url, headers=headers, body=b"y")
    assert (other.status, code(other)) == (400, "XAmzContentSHA256Mismatch")
    unsigned = signed(url, body=b"x", hashed=False)
    assert unsigned["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
    assert fetch(url, headers=unsigned, body=b"y").status == 200


def test_old_signatures_are_refused(s3: S3) -> None:
    url = s3.url("public", "key")
    assert code(fetch(url, headers={"Authorization": "AWS AKID:c2lnbmF0dXJl"})) == "InvalidRequest"
    assert code(fetch(f"{url}?AWSAccessKeyId=AKID&Expires=9999999999&Signature=x")) == "InvalidRequest"


# Signatures in the query


def test_a_presigned_url_opens_one_object_for_one_method(s3: S3) -> None:
    for url in (presigned(s3.url("private", ODD)), s3.presign("private", ODD, KEY_ID)):
        assert fetch(url).body == b"odd"
        part = fetch(url, headers={"Range": "bytes=1-", "If-Match": "*"})
        assert (part.status, part.body) == (206, b"dd")
        assert code(fetch(url.replace("odd", "even"))) == "SignatureDoesNotMatch"
        assert fetch(url, method="HEAD").status == 403
        assert code(fetch(url + "&versionId=null")) == "SignatureDoesNotMatch"
        assert code(fetch(url, headers={"x-amz-checksum-mode": "ENABLED"})) == "AccessDenied"
        assert code(fetch(url, headers=signed(s3.url("private", "key")))) == "InvalidArgument"
    assert fetch(s3.presign("private", ODD, KEY_ID, method="HEAD"), method="HEAD").status == 200


def test_the_helper_signs_as_the_official_client_does(s3: S3) -> None:
    temporary = {"key_id": "ASIATEMP", "secret": "temporary", "token": TOKEN}
    assert fetch(presigned(s3.url("private", "key"), **temporary)).status == 200
    assert fetch(s3.presign("private", "key", "ASIATEMP")).status == 200


def test_a_presigned_url_expires(s3: S3, clock: Clock) -> None:
    url = s3.presign("private", "key", KEY_ID, expires_s=60)
    clock.now = int(clock.now) + 59
    assert fetch(url).status == 200
    clock.now += 1
    late = fetch(url)
    assert (late.status, code(late), element(late, "Message")) == (403, "AccessDenied", "Request has expired")
    assert code(fetch(url.replace("Expires=60", "Expires=6000"))) == "SignatureDoesNotMatch"
    clock.now -= 1060
    assert element(fetch(url), "Message") == "Request is not yet valid"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Expires=60", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=60", "X-Amz-Expires=-1"),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4"),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=range"),
        ("X-Amz-Date=", "X-Amz-Date=x"),
        ("aws4_request", "aws3_request"),
        ("&X-Amz-SignedHeaders=host", ""),
    ],
)
def test_malformed_presigned_urls(s3: S3, old: str, new: str) -> None:
    url = presigned(s3.url("public", "key"))
    assert old in url
    answer = fetch(url.replace(old, new))
    assert (answer.status, code(answer)) == (400, "AuthorizationQueryParametersError")


# What is remembered


def test_no_record_holds_a_credential(s3: S3) -> None:
    ask(s3, "/private/key", key_id="ASIATEMP", secret="temporary", token=TOKEN)
    url = s3.presign("private", "key", KEY_ID)
    fetch(url)
    fetch(s3.url("public", "key"))
    by_header, by_query, nobody = s3.requests
    assert by_header.authorization and by_query.authorization and not nobody.authorization
    assert not {"authorization", "x-amz-security-token"} & set(by_header.headers)
    assert by_header.headers["x-amz-date"]
    assert by_query.target == url.removeprefix(s3.endpoint)
    shown = f"{s3!r} {s3.keys!r} {list(s3.requests)!r}"
    assert "temporary" not in shown and TOKEN not in shown and SECRET not in shown


# Requests that are none


@pytest.mark.parametrize(
    ("target", "method", "status", "expected"),
    [
        ("/public/key", "PUT", 405, "MethodNotAllowed"),
        ("/public/key", "DELETE", 405, "MethodNotAllowed"),
        ("/public/%ff", "GET", 400, "InvalidURI"),
        ("/public/key?x=%ff", "GET", 400, "InvalidURI"),
        ("//key", "GET", 400, "InvalidURI"),
        (f"/public/{'k' * 1025}", "GET", 400, "KeyTooLongError"),
        ("/public/key?attributes", "GET", 501, "NotImplemented"),
        ("/public?versions", "GET", 501, "NotImplemented"),
        ("/public/key?versionId=abc", "GET", 400, "InvalidArgument"),
    ],
)
def test_refusals_before_any_look_at_the_object(s3: S3, target: str, method: str, status: int, expected: str) -> None:
    answer = fetch(s3.endpoint + target, method=method)
    assert (answer.status, code(answer)) == (status, expected)


def test_the_null_version_is_the_object(s3: S3) -> None:
    assert fetch(s3.url("public", "key") + "?versionId=null").body == b"content"


def test_presigned_query_needs_nothing_but_values() -> None:
    settings = {"method": "GET", "host": "h", "path": "/b/k", "key_id": "A", "secret": "s", "region": "auto"}
    query = presigned_query(**settings, session_token=None, amz_date="20260101T000000Z", expires_s=9)
    assert query.startswith(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20260101%2Fauto%2Fs3%2Faws4_request&"
    )
