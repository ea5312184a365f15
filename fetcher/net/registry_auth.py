"""Logging in to registries: challenges, the token service, and the tokens got there. Knows no manifest.

A registry that wants to know who asks answers 401 and says how (RFC 9110, 11.6; distribution-spec's token protocol):
``Basic``, or ``Bearer`` with a *realm*, the address of a service that gives tokens for a time. The registry names the
realm, so the realm is a stranger: it is judged by the guard like any address (unless the operator named it), the login
goes there only over https or to an address the operator allows, and only the login that was given for this registry.
A token is bound to registry, repository and credential, and goes to that registry alone.

Nothing is sent before it was asked for: who needs no login never sees one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec

from fetcher.errors import DeniedError, FetcherError, TransportError
from fetcher.model.secret import Login, Secret
from fetcher.net.api import ApiClient, Refused
from fetcher.net.request import Request, display_url, origin_of

RegistryCredential = Secret | Login
"""A ready token for the registry, or user name and password."""

CHALLENGE_CHARACTERS_MAX = 8_192
TOKEN_ANSWER_BYTES_MAX = 256 << 10
TOKEN_LIFETIME_S = 60.0
"""Where the service does not say (token protocol: "defaults to 60 seconds")."""
TOKEN_LIFETIME_MAX_S = 86_400.0
USED_SHARE = 0.9
"""Of its lifetime a token is used; the rest is for clocks that differ and requests under way."""
DOORS_MAX = 4_096
"""Remembered; beyond that the oldest are forgotten and cost one question more."""

_TOKEN68 = re.compile(r"[\x21-\x7e]{1,16384}")
_PARAMETER = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)""")
_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in that a 401 offers."""

    scheme: str
    """Lower case."""
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenges(text: str) -> tuple[Challenge, ...]:
    """The challenges of a ``WWW-Authenticate`` field, in order; ends at the first thing that is none."""
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while len(text) <= CHALLENGE_CHARACTERS_MAX:
        position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty text
        if found and (parameter := _PARAMETER.match(text, position)):
            value = parameter[2]
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            found[-1][1].setdefault(parameter[1].lower(), value)
            position = parameter.end()
        elif scheme := _SCHEME.match(text, position):
            found.append((scheme[0].lower(), {}))
            position = scheme.end()
        else:
            break
    return tuple(
        Challenge(scheme, values.get("realm", ""), values.get("service", ""), values.get("scope", ""))
        for scheme, values in found
    )


@dataclass(frozen=True, slots=True)
class Door:
    """Where somebody wants in. Its repr holds no secret: those of credentials don't."""

    registry: str
    """``scheme://host:port``."""
    repository: str
    credential: RegistryCredential | None
    """Given for this registry; None: as anybody."""
    trusted_origins: frozenset[str] = frozenset()
    """Of the Asker."""


@dataclass(slots=True)
class _Key:
    """What opens a door at present."""

    credential: RegistryCredential | None = None
    expires_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _TokenAnswer(msgspec.Struct, frozen=True, gc=False):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


class _NoToken(FetcherError):
    """The token service gives none; never leaves this module."""


class Authenticator:
    """Finds and keeps what opens doors. One for all requests of a run; asks through ``api``."""

    def __init__(self, api: ApiClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._keys: dict[Door, _Key] = {}

    def __repr__(self) -> str:
        return f"<Authenticator {len(self._keys)} doors>"

    def current(self, door: Door) -> RegistryCredential | None:
        """What to send at ``door``: what the registry has taken or asked for before, None where nothing is known."""
        if isinstance(door.credential, Secret):
            return door.credential
        key = self._keys.get(door)
        return key.credential if key is not None and self._clock() < key.expires_at else None

    async def answer(self, door: Door, refused: Refused, used: RegistryCredential | None) -> RegistryCredential | None:
        """What to send instead of ``used``, which the registry refused with a 401; None: there is nothing better.

        One question to the token service serves all who wait at the same door. Raises DeniedError if the service does
        not know the login, TransportError or RateLimitedError if it can't be asked.
        """
        if isinstance(door.credential, Secret):
            return None  # a ready token: nobody to ask for another
        key = self._key(door)
        async with key.lock:
            newer = self.current(door)
            if newer is not None and newer != used:
                return newer
            key.credential = None
            challenges = parse_challenges(refused.headers.get("WWW-Authenticate", ""))
            for challenge in challenges:
                if challenge.scheme == "bearer" and challenge.realm:
                    token, lifetime_s = await self._token(door, challenge)
                    key.credential = token
                    key.expires_at = self._clock() + lifetime_s * USED_SHARE
                    return token
            if door.credential != used and any(challenge.scheme == "basic" for challenge in challenges):
                key.credential = door.credential
                key.expires_at = float("inf")
            return key.credential

    def _key(self, door: Door) -> _Key:
        key = self._keys.get(door)
        if key is None:
            while len(self._keys) >= DOORS_MAX:
                del self._keys[next(iter(self._keys))]
            key = self._keys[door] = _Key()
        return key

    async def _token(self, door: Door, challenge: Challenge) -> tuple[Secret | None, float]:
        """A token and the seconds it is good for; None where an anonymous asker gets none."""
        scopes = challenge.scope.split() or [f"repository:{door.repository}:pull"]
        query = [("service", challenge.service)] if challenge.service else []
        query += [("scope", scope) for scope in scopes]
        joint = "&" if "?" in challenge.realm else "?"
        # Bytes that are no text go back as they came.
        url = f"{challenge.realm}{joint}{urlencode(query, errors='surrogateescape')}"
        realm = origin_of(url)
        request = Request(
            "GET",
            url,
            headers=(("Accept", "application/json"),),
            credential=door.credential,
            credential_origin=None if door.credential is None else realm,
            trusted_origins=door.trusted_origins,
            purpose="api",
        )
        try:
            found = await self._api.get_json(
                request, _TokenAnswer, refusal=_refused_token, bytes_max=TOKEN_ANSWER_BYTES_MAX
            )
        except _NoToken as error:
            if door.credential is None:
                return None, 0.0
            raise DeniedError(
                f"the login given for {door.registry} is not accepted by {display_url(challenge.realm)}",
                hint="user name or password is mistyped, expired or revoked",
            ) from error
        text = found.value.token or found.value.access_token or ""
        if not _TOKEN68.fullmatch(text):
            raise TransportError(f"{display_url(challenge.realm)} gave no token that could be sent")
        lifetime_s = found.value.expires_in or TOKEN_LIFETIME_S
        return Secret(text), min(max(lifetime_s, 0.0), TOKEN_LIFETIME_MAX_S)


def _refused_token(refused: Refused) -> FetcherError:
    where = display_url(refused.url)
    if refused.status in (400, 401, 403, 404):
        return _NoToken(f"{where} answered {refused.status}")
    return TransportError(f"{where} answered {refused.status} to a request for a token")
