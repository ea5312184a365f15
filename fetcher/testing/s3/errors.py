"""Errors of S3: their codes, statuses and sentences, and how a reply with one is written.

Every refusal of the embedded S3 is raised as ``Refused`` and becomes a reply in one place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias
from xml.sax.saxutils import escape

from fetcher.testing.contents import BytesContent
from fetcher.testing.messages import Reply

XML = "application/xml"

CODES: dict[str, tuple[int, str]] = {
    "AccessDenied": (403, "Access Denied"),
    "AuthorizationHeaderMalformed": (400, "The authorization header that you provided is not valid."),
    "AuthorizationQueryParametersError": (400, "The authorization query parameters that you provided are not valid."),
    "ExpiredToken": (400, "The provided token has expired."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidObjectState": (403, "The operation is not valid for the object's storage class"),
    "InvalidPartNumber": (416, "The requested partnumber is not satisfiable"),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "KeyTooLongError": (400, "Your key is too long"),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NotImplemented": (501, "A header or query you provided implies functionality that is not implemented."),
    "NotModified": (304, "Not Modified"),
    "PermanentRedirect": (
        301,
        "The bucket you are attempting to access must be addressed using the specified endpoint. "
        "Please send all future requests to this endpoint.",
    ),
    "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
    "RequestTimeout": (400, "Your socket connection to the server was idle for too long."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "TemporaryRedirect": (307, "Please re-send this request to the specified temporary endpoint."),
    "XAmzContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
}
"""Code → status and usual sentence. Source: Amazon S3 API reference, "Error responses"."""

Elements: TypeAlias = Mapping[str, str]


class Refused(Exception):
    """Carries what a refusal says; never leaves the embedded S3.

    ``elements`` stand in the XML besides code and message, ``headers`` go on the reply.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        elements: Elements | None = None,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        usual_status, usual = CODES[code]
        self.status = usual_status if status is None else status
        self.message = message or usual
        self.elements = dict(elements or {})
        self.headers = dict(headers or {})


def request_id(number: int) -> str:
    """Return the id of the request with that number in the log: 16 letters and digits, as Amazon's."""
    return hashlib.sha256(b"request %d" % number).hexdigest()[:16].upper()


def reply(refused: Refused, number: int, *, bare: bool) -> Reply:
    """Return the reply to request ``number`` that says why; without a body (``bare``) for HEAD and 304."""
    if bare or refused.status == 304:
        return Reply(refused.status, {"Content-Type": XML, **refused.headers})
    elements = {
        "Code": refused.code,
        "Message": refused.message,
        **refused.elements,
        "RequestId": request_id(number),
        "HostId": "ZW1iZWRkZWQ=",
    }
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in elements.items())
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return Reply(refused.status, {"Content-Type": XML, **refused.headers}, BytesContent(text.encode()))


def page(status: int, title: str) -> Reply:
    """Return an error as a web server words it that is no S3."""
    text = f"<!DOCTYPE html>\n<html><head><title>{status} {title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Reply(status, {"Content-Type": "text/html; charset=utf-8"}, BytesContent(text.encode()))
