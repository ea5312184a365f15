"""What the refusals of S3 stores and web hosts mean, in our words. Values in, errors out; asks nobody.

A refusal to a GET carries an ``Error`` document with a code; one to a HEAD has nothing but its status. Three things
surprise: who may not list gets 403 for what is not there, anonymous askers get 400 or 412 from stores that know only
signatures, and a host behind a domain of its own speaks HTML. 21 and 22 repeat what the host said to *this* asker.

Sources: Amazon S3 API reference ("Error responses"), and the answers of Ceph, Swift and rclone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fetcher.errors import DeniedError, FetcherError, NotFoundError, ResourceError, TransportError
from fetcher.model.text import shown
from fetcher.net.api import Refused
from fetcher.origins.s3_listing import read_error

Who = Literal["anonymous", "keys", "query", "somebody"]
"""With what was asked: nothing, keys that sign, the query of the URL; or it is not known."""

WAYS_OUT = (
    "name the files (files in a job's resource, --file on the command line), or give the bucket, its API endpoint and "
    "keys that may list it"
)
"""For hosts that serve objects but list none."""

NEEDS_KEYS = (
    "it may be private: give keys that may read it (IAM in a job's resource, AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY for commands)"
)
NOT_FOR_THESE_KEYS = "it may be private, and not open to these keys; buckets whose requester pays are never paid for"
NOT_FOR_THEM = "it may be private, and not open to those who may list it"
IF_ONLY_LISTING = "; if only the listing is closed, name the files (files in a job's resource, --file for commands)"
"""Who may not list is refused in the same words as who may not read."""
NOT_FOR_THIS_QUERY = "it may be private: the URL's signature is wrong, used up, or for something else; get a fresh URL"

EXPIRED_TOKENS = frozenset({"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"})
"""Codes of refusals to keys that are good for a time, when it is over."""
EXPIRED = "these temporary keys have expired: get new ones"
ENDED_MEANWHILE = (
    f"{EXPIRED}, good for as long as it takes, and run it again; what came with the old ones is theirs alone, so "
    "it begins anew"
)
"""Where they were good when the run began. Whoever brings other keys is somebody else to the cache."""

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{1,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9=/+_-]{1,100}")
REQUEST_ID_HEADERS = ("x-amz-request-id", "x-amz-cf-id", "cf-ray")
_STORE_HEADERS = ("x-amz-request-id", "x-openstack-request-id")
"""Swift's S3 face lets what is not signed through to Swift itself, which knows no such address."""

_WRONG_KEYS: dict[str, str] = {
    "SignatureDoesNotMatch": "the secret key is mistyped, or it belongs to another key id",
    "InvalidAccessKeyId": "the access key id is mistyped, deleted, or of another provider",
    "InvalidSecurity": "the keys are not valid there",
    "InvalidToken": "the session token is mistyped, or belongs to other keys",
    **dict.fromkeys(EXPIRED_TOKENS, EXPIRED),
    "UnrecognizedClientException": "the access key id is mistyped, deleted, or of another provider",
}


class Told(FetcherError):
    """A refusal on its way to whoever knows what was asked, and can say it. Never leaves the origin."""

    def __init__(self, fault: S3Fault) -> None:
        super().__init__(f"the host answered {_said(fault)}")
        self.fault = fault


@dataclass(frozen=True, slots=True)
class S3Fault:
    """A refusal, read."""

    status: int
    code: str
    """Of its ``Error`` document; empty where there is none."""
    message: str
    region: str
    """That the bucket is in, if it was said."""
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, refused: Refused) -> S3Fault:
        """What ``refused`` says of itself."""
        fields = read_error(refused.body)
        code = fields.get("Code", "").strip()
        return cls(
            refused.status,
            code if _CODE.fullmatch(code) else "",
            fields.get("Message", "").strip(),
            (refused.headers.get("x-amz-bucket-region") or fields.get("Region") or "").strip(),
            refused.headers,
        )

    @property
    def expired(self) -> bool:
        """Whether it refuses a signed URL past its time. That is final."""
        return self.code == "RequestExpired" or self.message.lower().startswith("request has expired")

    @property
    def is_passing(self) -> bool:
        """Whether it is a 400 that means what other servers say with 408: next time there may be an answer."""
        return self.code == "RequestTimeout"

    @property
    def of_keys(self) -> bool:
        """Whether it says that the keys themselves are not accepted, whatever is asked with them. A signature does not
        match either where a header does not arrive as it was sent."""
        return self.code in _WRONG_KEYS and self.code != "SignatureDoesNotMatch"

    @property
    def of_an_s3(self) -> bool:
        """Whether an S3 said it."""
        return bool(self.code) or any(name in self.headers for name in _STORE_HEADERS)


def s3_error(fault: S3Fault, what: str, who: Who, *, sure: bool = True, listing: bool = False) -> FetcherError:
    """The error for a refusal that no second try would change.

    ``what``: what was asked for, as a person writes it. ``sure``: whether the host is known to be an S3, so that keys
    mean something there. ``listing``: whether a listing was, or would have been, asked for.
    """
    status, code = fault.status, fault.code
    end = _request_id(fault.headers)
    if who == "query" and (fault.expired or status in (400, 401, 403)):
        reason = "has expired" if fault.expired else f"is refused ({_said(fault)})"
        return DeniedError(f"the signed URL of {what} {reason}{end}", hint=NOT_FOR_THIS_QUERY)
    if code in _WRONG_KEYS:
        return DeniedError(f"{what}: the keys are not accepted ({code}){end}", hint=_WRONG_KEYS[code])
    if code == "RequestTimeTooSkewed":
        return DeniedError(f"{what}: this machine's clock is wrong{end}", hint="set the clock; S3 allows 15 minutes")
    if code == "InvalidObjectState":
        return archived(what)
    if code == "NoSuchBucket":
        return NotFoundError(f"{what}: there is no such bucket{end}", hint="its name is mistyped, or its region is")
    if code == "InvalidBucketName":
        return ResourceError(f"{what}: that is no bucket's name there{end}")
    if code in ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed") or status == 301:
        if fault.region:
            return TransportError(
                f"{what}: the bucket is in the region {shown(fault.region)}, which this host does not serve{end}",
                hint="name the endpoint of that region",
            )
        return TransportError(
            f"{what}: the bucket is asked in the wrong region, and the right one is not told{end}",
            hint="give the region: IAM.REGION in a job's resource, AWS_REGION for commands",
        )
    if status in (401, 403):
        return _denied(fault, what, who, end, sure=sure, listing=listing)
    if who == "anonymous" and status in (400, 412) and fault.of_an_s3:
        return _denied(fault, what, who, end, sure=sure, listing=listing)  # Swift, and rclone with keys
    if status in (404, 410) or code == "NoSuchKey":
        return NotFoundError(f"{what} is not there{end}", hint="a name is mistyped, or its file is gone")
    if status == 405 and fault.headers.get("x-amz-delete-marker") == "true":
        return NotFoundError(f"that version of {what} is a deletion{end}")
    return TransportError(f"{what}: the host answered {_said(fault)}{end}")


def archived(what: str) -> DeniedError:
    """For an object that has to be restored before anybody may read it."""
    return DeniedError(
        f"{what} is in an archive (GLACIER or DEEP_ARCHIVE) and can't be read",
        hint="restore it first, or copy it to another storage class",
    )


def cannot_list(what: str, why: str) -> ResourceError:
    """For a folder on a host that lists nothing: the definition has to say more."""
    return ResourceError(f"{what} can't be listed: {why}", hint=WAYS_OUT)


def not_found_nor_listed(what: str, why: str) -> NotFoundError:
    """For a URL without a slash at its end: no object has that name, and if it is a folder, nobody will list it."""
    return NotFoundError(f"{what} is no object, and as a folder it can't be listed: {why}", hint=WAYS_OUT)


def _denied(fault: S3Fault, what: str, who: Who, end: str, *, sure: bool, listing: bool) -> DeniedError:
    if who == "keys" and not sure and not fault.of_an_s3:
        return DeniedError(
            f"{what}: the host answered {fault.status} to a signed request, and does not seem to be an S3 API{end}",
            hint="it may be private: leave the keys out if the host is a public domain, or name the API endpoint",
        )
    way_out = IF_ONLY_LISTING if listing else ""
    if who == "anonymous":
        return DeniedError(f"{what} needs credentials ({_said(fault)}){end}", hint=NEEDS_KEYS + way_out)
    hint = NOT_FOR_THESE_KEYS if who == "keys" else NOT_FOR_THEM
    return DeniedError(f"{what} is refused ({_said(fault)}){end}", hint=hint + way_out)


def _said(fault: S3Fault) -> str:
    said = f"{fault.status} {fault.code}".strip()
    # Only of a plain refusal: other messages quote what was signed.
    if fault.code == "AccessDenied" and fault.message.lower().rstrip(".") not in ("", "access denied"):
        said += f": {shown(fault.message)}"
    return said


def _request_id(headers: Mapping[str, str]) -> str:
    """For whoever has to ask the host's people about it."""
    for name in REQUEST_ID_HEADERS:
        value = headers.get(name, "")
        if _REQUEST_ID.fullmatch(value):
            return f" (request {value})"
    return ""
