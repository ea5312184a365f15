"""Which container engine there is: named by the environment, else the first usual socket that answers.

Names win alone: who sets ``DOCKER_HOST`` does not want another engine to be filled. Only unix sockets are spoken to;
an engine elsewhere keeps its images elsewhere, where they are of no use to this host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fetcher.config import Settings
from fetcher.errors import ImageError
from fetcher.images.client import EngineClient
from fetcher.images.pull import ContainerEngine
from fetcher.model.text import shown

VARIABLES: Final = ("CONTAINER_HOST", "DOCKER_HOST")
"""Podman's and Docker's own, in this order."""


_PLAIN_REASONS: Final = {
    "no such file or directory": "no such socket",
    "permission denied": "permission denied (is this user in the socket's group?)",
    "connection refused": "nobody listens (is the engine running?)",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """One place where no engine could be used."""

    place: str
    """Path of the socket, or ``VARIABLE=value``."""
    reason: str


@dataclass(frozen=True, slots=True)
class NoEngine:
    """No container engine was found; false in conditions."""

    tried: tuple[Tried, ...]

    @property
    def reason(self) -> str:
        """One sentence, for whoever asked for images."""
        places = "; ".join(f"{tried.place}: {tried.reason}" for tried in self.tried)
        return f"no container engine answers ({places})"

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place to try."""

    place: str
    socket: str


async def find_engine(environ: Mapping[str, str], settings: Settings) -> ContainerEngine | NoEngine:
    """The engine to use; the caller closes it. Raises ImageError where the environment names one that can't be used."""
    tried = []
    for candidate in candidates(environ, os.geteuid()):
        if candidate.place == candidate.socket and _is_another_users(candidate.socket):
            tried.append(Tried(candidate.place, "belongs to another user"))
            continue
        try:
            client = await EngineClient.open(candidate.socket, settings)
        except ImageError as error:
            tried.append(Tried(candidate.place, _reason(error, candidate)))
            continue
        return ContainerEngine(client, settings)
    return NoEngine(tuple(tried))


def candidates(environ: Mapping[str, str], uid: int) -> tuple[Candidate, ...]:
    """Where to look, in order. Raises ImageError for a variable that names anything but a unix socket."""
    named = [_named(variable, environ[variable]) for variable in VARIABLES if environ.get(variable)]
    if named:
        return tuple(named)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        runtime = f"/run/user/{uid}"  # where it is by convention; cron and services often do not say
    sockets = ["/var/run/docker.sock", f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"]
    home = environ.get("HOME", "")
    if home.startswith("/"):
        sockets.append(f"{home.rstrip('/')}/.nosana/podman/podman.sock")  # Podman in a container, as nodes run it
    sockets.append(f"{runtime}/docker.sock")  # rootless Docker
    return tuple(Candidate(socket, socket) for socket in sockets)


def _is_another_users(socket: str) -> bool:
    """Whether a socket that nobody named is somebody else's: logins are not sent to whoever has made it."""
    try:
        return os.stat(socket).st_uid not in (0, os.geteuid())
    except OSError:
        return False  # told when it is opened


def _named(variable: str, value: str) -> Candidate:
    place = f"{variable}={shown(value)}"
    scheme, colon, rest = value.partition(":")
    path = rest.removeprefix("//")
    if not colon or scheme.lower() != "unix" or not path.startswith("/") or path == "/" or not path.isprintable():
        raise ImageError(
            f"{place}: images can be pulled through a unix socket only",
            hint=f"set {variable} to unix:///path/to/the.sock, or unset it to have the usual places tried",
        )
    return Candidate(place, path)


def _reason(error: ImageError, candidate: Candidate) -> str:
    """The error without the place it begins with: that is said once."""
    reason = error.message.removeprefix(f"{shown(candidate.socket)}: ")
    return _PLAIN_REASONS.get(reason, reason)
