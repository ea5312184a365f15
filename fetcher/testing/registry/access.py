"""Who asks the embedded registry, what they may pull, and how many pulls are left to them.

Decides from values, and words each refusal as registries do. No sockets, no repositories. Passwords and tokens go in
and are compared; none comes out in a repr or a record.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from fetcher.testing.messages import Reply, Request

Auth = Literal["open", "basic", "bearer"]
"""Whether nobody is asked who they are, or by a user's name and password, or by a token from the token service."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can log in."""

    password: str = field(repr=False)
    repositories: frozenset[str] | None = None
    """Names of the private repositories this user may pull; None opens all."""

    def opens(self, name: str) -> bool:
        """Whether this user was granted the private repository ``name``."""
        return self.repositories is None or name in self.repositories


@dataclass(frozen=True, slots=True)
class PullLimit:
    """Manifests that an asker may GET in a fixed window; HEAD and blobs cost nothing, as on Docker's registry."""

    pulls: int = 100
    window_s: int = 21_600
    retry_after: bool = True
    """Whether a refusal says when to come back."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What a token, once issued, is good for."""

    user: str | None
    names: frozenset[str]
    """Repositories that may be pulled with it."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sent a request."""

    user: str | None = None
    names: frozenset[str] = frozenset()
    """What the token sent opens."""
    error: str | None = None
    """``none`` when no credential was sent, ``invalid`` when it is worth nothing; None when it is good."""


class Refused(Exception):
    """Carries the reply that refuses a request; never leaves the registry."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def refusal(status: int, code: str, message: str, detail: object = None, **headers: str) -> Reply:
    """Return an error as registries word it. ``headers``: ``_`` stands for ``-``."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"code": code, "message": message} | ({"detail": detail} if detail is not None else {})
    return Reply(status, fields, rows={"errors": [error]})


def unauthorized(challenge: str, name: str | None) -> Reply:
    """Return the 401 that tells how to log in; ``name`` is the repository asked for, if any."""
    detail = [{"Type": "repository", "Class": "", "Name": name, "Action": "pull"}] if name else None
    return refusal(401, "UNAUTHORIZED", "authentication required", detail, WWW_Authenticate=challenge)


def basic_login(request: Request, users: Mapping[str, User]) -> Asker:
    """Say whose name and password a request carries."""
    header = request.headers.get("authorization")
    if header is None:
        return Asker(error="none")
    scheme, _, credential = header.partition(" ")
    try:
        text = base64.b64decode(credential.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    name, _, password = text.partition(":")
    user = users.get(name)
    good = user is not None and hmac.compare_digest(user.password.encode(), password.encode())
    return Asker(name) if good else Asker(error="invalid")


@dataclass
class TokenService:
    """Issues tokens and knows the ones it has issued."""

    service: str
    lifetime_s: float
    clock: Callable[[], float]
    fields: tuple[str, ...]
    """Under which names the answer gives the token: ``token``, ``access_token`` or both."""
    seed: int = 0
    _passes: dict[str, Pass] = field(default_factory=dict, repr=False)

    def answer(self, request: Request, asker: Asker, may_pull: Callable[[str | None, str], bool]) -> Reply:
        """Answer a request for a token by ``asker``, who logged in, sent no credential, or a wrong one.

        Whoever asks for more than they may have gets a token without it, never an error: so it is with the real ones,
        and the registry refuses the token then.
        """
        if request.method != "GET":
            return refusal(405, "UNSUPPORTED", "The operation is unsupported.", Allow="GET")
        if asker.error == "invalid":
            return refusal(401, "UNAUTHORIZED", "incorrect username or password")
        query = parse_qs(request.query)
        if query.get("service", [self.service]) != [self.service]:
            return refusal(400, "UNSUPPORTED", f"this is the token service of {self.service!r}")
        asked = [name for text in query.get("scope", []) for scope in text.split() if (name := _pull_of(scope))]
        names = frozenset(name for name in asked if may_pull(asker.user, name))
        now = self.clock()
        token = self._issue(Pass(asker.user, names, now + self.lifetime_s))
        issued_at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows: dict[str, Any] = dict.fromkeys(self.fields, token)
        return Reply(200, rows=rows | {"expires_in": math.floor(self.lifetime_s), "issued_at": issued_at})

    def _issue(self, granted: Pass) -> str:
        text = hashlib.sha256(b"token %d of %d" % (len(self._passes), self.seed)).hexdigest()
        token = f"embedded.{text}.pull"
        self._passes[token] = granted
        return token

    def redeem(self, request: Request) -> Asker:
        """Say who a request's token speaks for."""
        header = request.headers.get("authorization")
        if header is None:
            return Asker(error="none")
        scheme, _, token = header.partition(" ")
        granted = self._passes.get(token.strip()) if scheme.lower() == "bearer" else None
        if granted is None or self.clock() >= granted.expires_at:
            return Asker(error="invalid")
        return Asker(granted.user, granted.names)

    def revoke_all(self) -> None:
        """Take no token any more that was issued so far."""
        # Kept, though worth nothing: the next one issued must be another.
        self._passes = {token: Pass(None, frozenset(), -math.inf) for token in self._passes}


def _pull_of(scope: str) -> str | None:
    """``repository:org/name:pull,push`` → ``org/name``."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return name if kind.partition("(")[0] == "repository" and "pull" in actions.split(",") else None


@dataclass
class PullCounter:
    """Counts pulls per asker in fixed windows."""

    limit: PullLimit
    clock: Callable[[], float]
    _windows: dict[str, tuple[float, int]] = field(default_factory=dict)

    def charge(self, asker: str, pulls: int) -> tuple[dict[str, str], Reply | None]:
        """Count ``pulls``, 0 to only look; return the headers to announce, and the refusal if there are none left."""
        limit, now = self.limit, self.clock()
        began, used = self._windows.get(asker, (now, 0))
        if now >= began + limit.window_s:
            began, used = now, 0
        over = pulls > 0 and used + pulls > limit.pulls
        used = used if over else used + pulls
        self._windows[asker] = began, used
        headers = {
            "RateLimit-Limit": f"{limit.pulls};w={limit.window_s}",
            "RateLimit-Remaining": f"{limit.pulls - used};w={limit.window_s}",
        }
        if not over:
            return headers, None
        reply = too_many(max(1, math.ceil(began + limit.window_s - now)) if limit.retry_after else None)
        return headers, reply


def too_many(retry_after_s: int | None) -> Reply:
    """Return the 429 of an asker without pulls left."""
    reply = refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
    if retry_after_s is not None:
        reply.headers["Retry-After"] = str(retry_after_s)
    return reply
