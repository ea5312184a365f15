"""What refusals mean to whom, as a table; and what never gets into a message."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fetcher.net.api import Refused
from fetcher.origins.s3_errors import S3Fault, Who, archived, cannot_list, not_found_nor_listed, s3_error

WHAT = "s3://b-1/k"


def fault(
    status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None, more: str = ""
) -> S3Fault:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return S3Fault.of(Refused(status, "https://x/", headers or {}, body.encode() if code else b""))


@pytest.mark.parametrize(
    ("status", "code", "who", "kind", "words"),
    [
        (403, "AccessDenied", "anonymous", "denied", "needs credentials"),
        (401, "", "anonymous", "denied", "needs credentials"),
        (400, "InvalidRequest", "anonymous", "denied", "needs credentials"),  # rclone with keys
        (412, "PreconditionFailed", "anonymous", "denied", "needs credentials"),  # Swift
        (400, "", "anonymous", "transport", "answered 400"),
        (403, "AccessDenied", "keys", "denied", "is refused"),
        (403, "SignatureDoesNotMatch", "keys", "denied", "SignatureDoesNotMatch"),
        (403, "InvalidAccessKeyId", "keys", "denied", "InvalidAccessKeyId"),
        (400, "ExpiredToken", "keys", "denied", "ExpiredToken"),
        (400, "InvalidToken", "keys", "denied", "InvalidToken"),
        (403, "RequestTimeTooSkewed", "keys", "denied", "clock is wrong"),
        (403, "InvalidObjectState", "keys", "denied", "archive"),
        (403, "", "query", "denied", "signed URL"),
        (403, "RequestExpired", "query", "denied", "has expired"),
        (404, "", "anonymous", "not_found", "is not there"),
        (404, "NoSuchKey", "keys", "not_found", "is not there"),
        (404, "NoSuchBucket", "keys", "not_found", "no such bucket"),
        (400, "InvalidBucketName", "keys", "resource", "no bucket's name"),
        (410, "", "keys", "not_found", "is not there"),
        (301, "PermanentRedirect", "keys", "transport", "wrong region"),
        (400, "AuthorizationHeaderMalformed", "keys", "transport", "wrong region"),
        (405, "MethodNotAllowed", "keys", "transport", "405 MethodNotAllowed"),
        (501, "NotImplemented", "keys", "transport", "501 NotImplemented"),
    ],
)
def test_a_refusal_in_words(status: int, code: str, who: Who, kind: str, words: str) -> None:
    error = s3_error(fault(status, code), WHAT, who)
    assert (error.kind, WHAT in error.message) == (kind, True)
    assert words in error.message
    assert error.hint or kind in ("transport", "resource")


def test_a_region_that_is_told_is_named() -> None:
    told = s3_error(fault(301, "PermanentRedirect", more="<Region>eu-west-1</Region>"), WHAT, "keys")
    assert (told.kind, "eu-west-1" in told.message, "endpoint" in (told.hint or "")) == ("transport", True, True)
    told = s3_error(fault(301, "PermanentRedirect"), WHAT, "keys")
    assert "not told" in told.message and "REGION" in (told.hint or "")


def test_a_presigned_url_past_its_time() -> None:
    error = s3_error(fault(403, "AccessDenied", "Request has expired"), WHAT, "query")
    assert "has expired" in error.message and error.hint and "fresh URL" in error.hint


def test_keys_at_a_host_that_is_no_s3() -> None:
    error = s3_error(fault(403), WHAT, "keys", sure=False)
    assert "does not seem to be an S3 API" in error.message
    assert "does not seem" not in s3_error(fault(403, "AccessDenied"), WHAT, "keys", sure=False).message


def test_a_version_that_is_a_deletion() -> None:
    error = s3_error(fault(405, headers={"x-amz-delete-marker": "true"}), WHAT, "keys")
    assert (error.kind, "deletion" in error.message) == ("not_found", True)


def test_who_may_not_list_hears_of_the_way_out() -> None:
    for who in ("anonymous", "keys"):
        error = s3_error(fault(403, "AccessDenied"), WHAT, who, listing=True)
        assert error.hint and "private" in error.hint and "name the files" in error.hint
    for error in (cannot_list(WHAT, "it is so"), not_found_nor_listed(WHAT, "it is so")):
        assert "it is so" in error.message and error.hint and "name the files" in error.hint
    assert "restore" in (archived(WHAT).hint or "")


def test_what_the_host_says_is_shown_only_where_it_is_no_echo() -> None:
    said = s3_error(fault(403, "AccessDenied", "User: arn:aws:iam::1:user/x is not authorized"), WHAT, "keys")
    assert "not authorized" in said.message
    echo = s3_error(fault(403, "SignatureDoesNotMatch", "we calculated hunter2"), WHAT, "keys")
    assert "hunter2" not in echo.message
    odd = s3_error(fault(403, "<b>hunter2</b>"), WHAT, "keys")
    assert "hunter2" not in odd.message
    hidden = s3_error(fault(403, "AccessDenied", "see https://x/?sig=hunter2"), WHAT, "keys")
    assert "hunter2" not in hidden.message


@pytest.mark.parametrize("name", ["x-amz-request-id", "x-amz-cf-id", "cf-ray"])
def test_the_request_is_named_for_the_hosts_people(name: str) -> None:
    assert (
        "(request 4442587FB7D0A2F9)" in s3_error(fault(404, headers={name: "4442587FB7D0A2F9"}), WHAT, "keys").message
    )
    assert "request" not in s3_error(fault(404, headers={name: "<x>"}), WHAT, "keys").message


def test_the_region_is_read_from_header_or_body() -> None:
    assert fault(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}).region == "eu-west-1"
    assert fault(400, "AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>").region == "eu-west-1"
    assert fault(301).region == ""
