"""What the refusals of registries mean, in our words. Values in, errors out; asks nobody.

Registries say it by status and by ``{"errors": [{"code": …, "message": …}]}`` (OCI distribution-spec 1.1, error codes).
Of what an asker may not see they say 401, 403 or 404, by taste: a name that is mistyped and one that is private often
look alike. 21 and 22 repeat what the registry said to *this* asker, no more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from fetcher.errors import DeniedError, FetcherError, NotFoundError, RateLimitedError, TransportError
from fetcher.model.text import shown
from fetcher.plan.retry import parse_retry_after

UNKNOWN_CODES = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_INVALID"})
DENIED_CODES = frozenset({"DENIED", "UNAUTHORIZED"})


class _Error(msgspec.Struct, frozen=True, gc=False):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True, gc=False):
    errors: list[_Error] = []


def registry_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    what: str,
    registry: str,
    *,
    logged_in: bool,
) -> FetcherError:
    """The error for a refusal that no second try would change.

    ``what``: as a person writes it. ``registry``: its origin. ``logged_in``: whether a credential was given for it.
    """
    code, said = _first(body)
    reason = f": {shown(said)}" if said else ""
    if code == "TOOMANYREQUESTS" or status == 429:
        return too_many(registry, headers, logged_in=logged_in)
    if status in (401, 403) or (code in DENIED_CODES and status != 404):
        if logged_in:
            hint = "the name is mistyped, or private and not open to this login"
            return DeniedError(f"{registry} does not let this login have {what}", hint=hint)
        if status == 401:
            return NotFoundError(
                f"{registry} has no {what} that is open to everybody", hint="the name is mistyped, or private"
            )
        return DeniedError(f"{registry} refuses {what}{reason}", hint="it may be private and need a login")
    if status in (404, 410) or code in UNKNOWN_CODES:
        private = "private and not open to this login" if logged_in else "private"
        return NotFoundError(f"{registry} knows no {what}", hint=f"the name is mistyped, or {private}")
    if logged_in:
        reason = ""  # what a registry says may repeat what it was sent
    return TransportError(f"{registry} answered {status} to a request for {what}{reason}")


def too_many(registry: str, headers: Mapping[str, str], *, logged_in: bool) -> RateLimitedError:
    """The error for an asker whose pulls are used up; says when there will be new ones, where the registry does."""
    wait_s = parse_retry_after(headers.get("Retry-After"), time.time())
    later = "" if wait_s is None else f"; in {wait_s:.0f} s it will again"
    hint = "try again later" if logged_in else "try again later; with a login a registry allows more"
    return RateLimitedError(f"{registry} allows no further pulls for now{later}", hint=hint)


def _first(body: bytes) -> tuple[str, str]:
    """Code and message of the first error of an answer; empty where there is none."""
    try:
        errors = msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return "", ""
    return (errors[0].code.upper(), errors[0].message) if errors else ("", "")
