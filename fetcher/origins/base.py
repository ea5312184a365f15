"""The contract of an origin: a remote dialect that says what a resource consists of and which requests bring its bytes.

An origin owns no connection and touches no disk. It asks its API through an ``ApiClient``, as the asker it is given:
nothing it learned for one asker may shape an answer to another (what it may remember is what its *endpoint* can do).

- ``resolve``, ``revision`` and ``renew`` are the only calls that wait. They raise the typed errors of this asker:
  NotFoundError, DeniedError, RateLimitedError, TransportError, ForbiddenError (names, counts and sizes beyond bounds).
  If they return, the asker may read what they name: where an origin shows listings to people who may not read the
  files, it has been asked for one file first.
- ``locate`` is where the body of an entry begins; the same entry gives the same content for ever, because the
  Manifest is pinned, or its validator tells. ``follow``, ``refusal`` and ``stated`` say what an answer to such a
  request means. All four are pure functions of their arguments and of what the endpoint is known to support; none
  raises for what a hostile server may send, except the ForbiddenError or TransportError of a redirect that leads
  nowhere.

Every origin inherits ``tests/origins/conformance.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from fetcher.errors import FetcherError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.resource import Resource
from fetcher.net.request import Answer, Request


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a resource means at this moment."""

    revision: str | None
    """As ``Manifest.revision``: commit, digest or other immutable name; None if the origin has none."""
    private: bool
    """As ``Manifest.private``."""
    closed: bool = False
    """As ``Manifest.closed``."""
    manifest_digest: str | None = None
    """What ``Manifest.digest()`` would be; given where there is no revision to compare, and an equal one means that
    nothing has changed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an answer that is neither 200 nor 206 to a body request means."""

    kind: Literal["busy", "expired", "changed", "final"]
    """``busy``: the host wants fewer requests or a pause. ``expired``: this URL is used up, ``locate`` gives a good
    one. ``changed``: there are other bytes under the name now; the resource has to be resolved again. ``final``:
    ``error`` says why no request for this entry will do."""
    error: FetcherError | None = None
    """Given for ``final``, and only then."""
    retry_after_s: float | None = None
    """How long a busy host asks to be left alone, if it says so."""


R = TypeVar("R", bound=Resource, contravariant=True)


class Origin(Protocol[R]):
    """See the module docstring."""

    @property
    def name(self) -> str:
        """The dialect, as in ``Manifest.origin``."""
        ...

    async def resolve(self, resource: R, asker: Asker) -> Manifest:
        """What ``resource`` consists of at this moment, pinned. Never empty."""
        ...

    async def revision(self, resource: R, asker: Asker) -> Pinned:
        """What ``resource`` is pinned to at this moment: the cheapest question that proves access and currency."""
        ...

    async def renew(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
        """Called once ``refusal`` has said ``expired``, before ``locate`` is asked again: get what that needs (a fresh
        token of a registry). May raise as ``resolve``."""
        ...

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        """The GET request that the body of ``entry`` begins with, redirects to come; without ``Range``."""
        ...

    def follow(self, request: Request, response: Answer) -> Request | None:
        """The request a redirect leads to, or None if ``response`` is none. Credentials stay with their origin."""
        ...

    def refusal(self, response: Answer, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        """What an answer without the wanted bytes means.

        ``signed``: it came from the URL a redirect led to. ``text``: how its body begins, where that was read (of a
        400, whose status says nothing by itself).
        """
        ...

    def stated(self, response: Answer, entry: FileEntry, *, whole: bool) -> FileEntry | None:
        """``entry`` with what a 200 or 206 to a request for its body adds to what is known of it (digests, most often
        the entry itself); None if the answer is about other bytes than the entry's validator names. ``whole``: the body
        is the whole content."""
        ...
