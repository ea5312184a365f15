"""What the Hub's refusals mean, in our words. Values in, errors out; asks nobody.

The Hub tells by status, ``X-Error-Code`` and ``X-Error-Message``. Two things surprise: a missing *or private* repo is
401 for an anonymous asker (404 with a valid token), and an invalid token is a 401 without a code. 21 and 22 repeat
what the Hub said to *this* asker, no more: whether a private repo exists is not ours to tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fetcher.errors import DeniedError, FetcherError, NotFoundError, TransportError
from fetcher.model.text import shown

REQUEST_ID_HEADERS = ("X-Request-Id", "X-Amzn-Trace-Id", "X-Amz-Cf-Id")
DISABLED = "Access to this resource is disabled."
"""Moderation: the exact text is all that tells it from a missing permission."""


def hub_error(
    status: int,
    headers: Mapping[str, str],
    what: str,
    *,
    with_token: bool | None = None,
    reference: str | None = None,
    path: str | None = None,
    page: str | None = None,
) -> FetcherError:
    """The error for a refusal that no second try would change.

    ``what``: the repo as a person writes it. ``reference``: the revision asked for. ``path``: the file asked for.
    ``page``: where a person can ask for access. ``with_token``: whether a token was sent; None: as the status tells,
    because the Hub answers 401 to the anonymous and 403 or 404 to the others.
    """
    if with_token is None:
        with_token = status in (403, 404)
    code = headers.get("X-Error-Code", "")
    said = headers.get("X-Error-Message", "").strip()
    request_id = _request_id(headers)
    if code == "GatedRepo":
        if with_token:
            hint = f"this token's account has not been granted access; ask for it at {page or 'its page on the Hub'}"
        else:
            hint = (
                f"accept its conditions at {page or 'its page on the Hub'} and give a token: HF_TOKEN for commands, "
                "accessToken in a job's resource"
            )
        return DeniedError(f"{what} is gated{request_id}", hint=hint)
    if code == "RevisionNotFound":
        named = f" {shown(reference)!r}" if reference else ""
        return NotFoundError(f"{what} has no revision{named}{request_id}", hint="a branch, a tag or a full commit")
    if code == "EntryNotFound":
        named = f" {shown(path)!r}" if path else " of this name"
        return NotFoundError(f"{what} has no file{named}{request_id}")
    if code == "RepoNotFound":
        return _not_found(what, request_id, with_token=with_token)
    if status == 401:
        if with_token or said.lower().startswith("invalid credentials"):
            return DeniedError(
                f"the Hub does not accept the token given for {what}{request_id}",
                hint="it is mistyped, expired or revoked; https://huggingface.co/settings/tokens shows the valid ones",
            )
        return _not_found(what, request_id, with_token=False)
    if status == 403:
        if said == DISABLED:
            return DeniedError(f"the Hub has disabled access to {what}{request_id}", hint="moderation; see its page")
        reason = f": {shown(said)}" if said else ""
        hint = "the token may lack the permission to read this repo" if with_token else "it may need a token"
        return DeniedError(f"the Hub refuses {what}{reason}{request_id}", hint=hint)
    if status in (404, 410):
        return _not_found(what, request_id, with_token=with_token)
    reason = f": {shown(said)}" if said else ""
    return TransportError(f"the Hub answered {status} to a request for {what}{reason}{request_id}")


def _not_found(what: str, request_id: str, *, with_token: bool) -> NotFoundError:
    hint = "the name is mistyped, or private"
    hint += " and not open to this token" if with_token else " and needs a token"
    return NotFoundError(f"the Hub knows no {what}{request_id}", hint=hint)


def _request_id(headers: Mapping[str, str]) -> str:
    """For whoever has to ask the Hub's people about it."""
    for name in REQUEST_ID_HEADERS:
        value = headers.get(name, "")
        if value and re.fullmatch(r"[A-Za-z0-9=;_:+/.-]{1,100}", value):
            return f" (request {value})"
    return ""
