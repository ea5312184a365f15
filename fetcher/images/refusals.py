"""What an engine says when a pull fails, in our words. Text in, error out; asks nobody.

Engines pass on what the registry said, each in its own prose and without codes, so the text is all there is to go by.
The engine's own sentence is always quoted: it names the place. What we add is the cure.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from fetcher.errors import ImageError
from fetcher.model.image import EngineKind, Image
from fetcher.model.secret import Login
from fetcher.model.text import shown

SAID_CHARACTERS_MAX: Final = 400
"""Podman tells the whole way down to the cause, and the cause comes last."""

TITLES: Final[dict[EngineKind, str]] = {"docker": "Docker", "podman": "Podman"}

_RATE_LIMIT = re.compile(r"toomanyrequests|too many requests|rate limit", re.IGNORECASE)
_RETRY_AFTER = re.compile(r"retry-after:?\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h)?", re.IGNORECASE | re.ASCII)
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_HINTS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        # Narrow before wide: "denied" also stands in Docker's answer about a name that does not exist.
        (
            r"no space left on device|disk quota exceeded",
            "the disk of the container engine is full, or its directory for temporary files: "
            "`docker system df` or `podman system df` shows what fills it",
        ),
        (
            r"no matching manifest for|no image found in (?:manifest list|image index)|does not match the spec",
            "the image is not made for this machine's platform; the registry's page lists those it is made for",
        ),
        (
            r"invalid tar header|zstd",
            "the layers may be zstd-compressed, which Docker knows from version 23 on: update it, or use Podman",
        ),
        (
            r"manifest\.v1|schema ?(?:version)? ?1\b|docker image format v1",
            "the image is in the old schema 1, which current engines refuse: it has to be pushed anew",
        ),
        (
            r"server gave HTTP response to HTTPS client",
            "the registry speaks plain http; only the engine can allow that: insecure-registries in Docker's "
            "daemon.json, insecure = true in Podman's registries.conf",
        ),
        (
            r"x509|certificate",
            "the engine does not trust the registry's certificate; a private CA goes into its certs.d directory",
        ),
        (
            r"pull access denied|requested access to the resource is denied|repository does not exist",
            "the name is mistyped, or the image is private and needs a login that may read it",
        ),
        (
            r"manifest unknown|name unknown|not found|no such (?:image|manifest)",
            "the name or the tag is mistyped, or it was removed",
        ),
        (
            r"unauthorized|no basic auth credentials|authentication required|incorrect username|invalid username|denied"
            r"|forbidden",
            "the registry wants a login that may read the image, or does not take the one given",
        ),
        (
            r"no such host|connection refused|i/o timeout|timeout|deadline exceeded|connection reset|network is unreach"
            r"|unexpected EOF|server misbehaving",
            "the engine can't reach the registry: check its network, name server and proxy settings",
        ),
    )
)


def pull_refused(image: Image, engine: EngineKind, said: str) -> ImageError:
    """The error for a pull that ``engine`` gave up, saying ``said``."""
    quoted = quotable(said, image.login) or "no reason given"
    hint = _rate_limit_hint(said, image) or next((hint for rule, hint in _HINTS if rule.search(said)), None)
    return ImageError(f"{TITLES[engine]} could not pull {image.name}: {quoted}", hint=hint, resource=image.uri())


def quotable(said: str, login: Login | None) -> str:
    """An engine's text for a message: bounded, printable, without the password in any form it was sent in."""
    text = " ".join(said.split())
    if login is not None:
        password = login.password.reveal()
        pair = f"{login.username}:{password}".encode()
        forms = [password, base64.b64encode(pair).decode(), base64.urlsafe_b64encode(pair).decode()]
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "[hidden]")
    if len(text) > SAID_CHARACTERS_MAX:
        text = "…" + text[-SAID_CHARACTERS_MAX + 1 :]
    return shown(text, SAID_CHARACTERS_MAX)


def _rate_limit_hint(said: str, image: Image) -> str | None:
    if not _RATE_LIMIT.search(said):
        return None
    if match := _RETRY_AFTER.search(said):
        seconds = float(match[1]) * _UNIT_S[(match[2] or "s").lower()]
        return f"the registry counts pulls and asks to come back in {max(1, round(seconds))} s"
    if image.login is None:
        return "the registry counts pulls by address, usually for an hour: wait, or give the image a login"
    return "the registry counts pulls of this account, usually for an hour: wait, or use another"
