"""Whether a job may be given, unasked, what an operator may have fetched from inside the host's own network.

An operator's request to an address that he typed is not judged, and what he gets without a credential is public. A job
that names the same address could not have got it: what is only reachable from here is not everybody's. So where a URL
says by itself that the guard may refuse it (plain http, an address in place of a name), a job's is no hit before the
origin was asked as that job. Knows no DNS: of a name under https only asking tells, and a hit asks nobody.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fetcher.config import Settings
from fetcher.engine.asks import Ask
from fetcher.model.resource import S3


def may_be_given(ask: Ask, settings: Settings) -> bool:
    """Whether a public Snapshot of what ``ask`` names may be given to it without asking the origin."""
    if ask.asker.role != "job" or not isinstance(ask.resource, S3):
        return True
    return all(
        _is_plain(settings.s3_endpoint if location.url.startswith("s3:") else location.url, settings)
        for location in ask.resource.locations
    )


def _is_plain(url: str, settings: Settings) -> bool:
    """Whether nothing in ``url`` itself keeps a job from it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    # A cheap look first: the guard takes longer to load than a hit takes.
    if parts.scheme == "https" and ":" not in host and not host.rstrip(".").rpartition(".")[2].isdecimal():
        return True
    from fetcher.errors import ForbiddenError
    from fetcher.net.guard import Guard, canonical_literal

    try:
        literal = canonical_literal(host)
    except ForbiddenError:
        return False
    if literal is None:
        return False
    scheme, port = ("https", 443) if parts.scheme == "https" else ("http", 80)
    return Guard(settings.allow_net).judge_endpoint(literal, parts.port or port, scheme) is None  # type: ignore[arg-type]
