"""Who asks the embedded hub, what they may see, and how much of their quota is left.

Decides from values; the answers of the real Hub to each refusal are written here once. No sockets, no routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fetcher.testing.hub.repos import Repo
from fetcher.testing.messages import Reply, Request


@dataclass(frozen=True, slots=True)
class Quotas:
    """Requests per fixed window and bucket. What comes from the CDN counts nowhere."""

    api: int = 500
    resolvers: int = 3_000
    pages: int = 100
    window_s: int = 300


ANONYMOUS = Quotas()
FREE = Quotas(api=1_000, resolvers=5_000, pages=200)
"""The plan of a token that states no other."""


@dataclass(frozen=True, slots=True)
class Token:
    """A valid credential: whose it is and what it opens."""

    user: str
    repos: frozenset[str] | None = None
    """Ids of the private and gated repositories it opens; None opens all."""
    quotas: Quotas = FREE

    def opens(self, repo: Repo) -> bool:
        """Whether this token was granted access to ``repo``."""
        return self.repos is None or repo.id in self.repos


class Refused(Exception):
    """Carries the reply that refuses a request; never leaves the hub."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """Return an error as the Hub words it: code and message in headers, the message as JSON."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if code is not None:
        fields["X-Error-Code"] = code
    fields["X-Error-Message"] = message
    return Reply(status, fields, rows={"error": message})


def identify(request: Request, tokens: Mapping[str, Token]) -> Token | None:
    """Return the token that a request carries, None for an anonymous one; refuse an invalid one."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, credential = header.partition(" ")
    token = tokens.get(credential.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        raise Refused(refusal(401, "Invalid credentials in Authorization header"))
    return token


def admit(repo: Repo | None, token: Token | None, *, to_files: bool) -> Repo:
    """Return ``repo`` if this asker may see it, and with ``to_files`` also read files from it; refuse otherwise.

    A private repository answers exactly as a missing one: to tell them apart would tell strangers what exists.
    """
    if repo is None or (repo.private and (token is None or not token.opens(repo))):
        if token is None:
            raise Refused(refusal(401, "Invalid username or password.", "RepoNotFound"))
        raise Refused(refusal(404, "Repository not found", "RepoNotFound"))
    if repo.disabled:
        raise Refused(refusal(403, "Access to this resource is disabled."))
    if to_files and repo.gated and (token is None or not token.opens(repo)):
        restricted = f"Access to {repo.kind[:-1]} {repo.id} is restricted"
        if token is None:
            message = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
            raise Refused(refusal(401, message, "GatedRepo"))
        message = f"{restricted} and you are not in the authorized list. Visit its page to ask for access."
        raise Refused(refusal(403, message, "GatedRepo"))
    return repo


@dataclass
class RateLimiter:
    """Counts requests per asker and bucket in fixed windows."""

    clock: Callable[[], float]
    _windows: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def charge(self, asker: str, bucket: str, quotas: Quotas) -> tuple[dict[str, str], bool]:
        """Count one request; return the headers to announce and whether it is still within the quota."""
        now = self.clock()
        began, used = self._windows.get((asker, bucket), (now, 0))
        if now >= began + quotas.window_s:
            began, used = now, 0
        used += 1
        self._windows[asker, bucket] = began, used
        quota: int = getattr(quotas, bucket)
        left_s = max(1, math.ceil(began + quotas.window_s - now))
        return announce(bucket, max(0, quota - used), left_s, quota, quotas.window_s), used <= quota


def announce(bucket: str, remaining: int, reset_s: int, quota: int, window_s: int) -> dict[str, str]:
    """Return the two rate limit headers that every answer of the Hub carries."""
    return {
        "RateLimit": f'"{bucket}";r={remaining};t={reset_s}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={window_s}',
    }


def over_quota(bucket: str) -> Reply:
    """Return the 429 of an exhausted bucket; when to come back stands in ``RateLimit``, there is no Retry-After."""
    return refusal(429, f"We had to rate limit you: the quota of {bucket!r} is used up.")


def whoami(token: Token | None) -> Reply:
    """Answer ``/api/whoami-v2``."""
    if token is None:
        return refusal(401, "Invalid username or password.")
    rows: dict[str, Any] = {"type": "user", "id": token.user, "name": token.user, "fullname": token.user, "orgs": []}
    return Reply(200, rows=rows | {"auth": {"type": "access_token", "accessToken": {"role": "read"}}})
