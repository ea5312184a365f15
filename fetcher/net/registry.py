"""The protocol of registries (OCI distribution-spec, Docker Registry HTTP API v2), its reading half.

Ollama models and container images speak it alike. This module asks and verifies; what a manifest says is judged by
``registry_documents``, who may ask is settled by ``registry_auth``, refusals get their words from ``registry_errors``.
It knows neither stores nor engines.

A registry is named by its origin (``scheme://host:port``). Whoever calls says which credential was given for *that*
registry; none ever reaches another, redirects included.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from fetcher.errors import FetcherError, ForbiddenError, IntegrityError, RateLimitedError, TransportError
from fetcher.net.api import ApiClient, Found, Refused
from fetcher.net.registry_auth import Authenticator, Door, RegistryCredential
from fetcher.net.registry_documents import (
    ACCEPT,
    DOCUMENT_BYTES_MAX,
    Document,
    LayeredManifest,
    Platform,
    check_is_document,
    choose_platform,
    image_bytes,
    is_digest,
    parse_document,
)
from fetcher.net.registry_errors import registry_error
from fetcher.net.request import Purpose, Request, display_url, origin_of

TRIES_AT_A_DOOR = 3
"""With what is known, with what somebody else has found out meanwhile, with what was found out for this request."""

NO_HEAD_STATUSES = frozenset({405, 501})
"""From registries that know GET only; then HEAD tells nothing, neither good nor bad."""

DIGEST_HEADERS = ("Docker-Content-Digest", "Ollama-Content-Digest")
"""Ollama's registry says it to HEAD only, and without the algorithm."""

_ADDRESS = re.compile(r"(https?://[^/?#]+)/v2/(.+)/(manifests|blobs)/([^/?#]+)")
_PULLS_LEFT = re.compile(r"[0-9]{1,9}")
"""How Docker Hub says it: ``87;w=21600``."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL of a registry names."""

    registry: str
    """As it stands in the URL."""
    repository: str
    kind: str
    """``manifests`` or ``blobs``."""
    reference: str
    """Tag or digest."""

    @classmethod
    def of(cls, url: str) -> Address:
        """The parts of a URL made by ``manifest_url`` or ``blob_url``. Raises ``ValueError``."""
        match = _ADDRESS.fullmatch(url)
        if match is None:
            raise ValueError(f"not an address of a registry: {display_url(url)}")
        registry, repository, kind, reference = match.groups()
        return cls(registry, unquote(repository), kind, unquote(reference))


def manifest_url(registry: str, repository: str, reference: str) -> str:
    """Where the manifest that a tag or digest stands for is."""
    return f"{registry}/v2/{quote(repository)}/manifests/{quote(reference, safe=':')}"


def blob_url(registry: str, repository: str, digest: str) -> str:
    """Where a blob is."""
    return f"{registry}/v2/{quote(repository)}/blobs/{quote(digest, safe=':')}"


@dataclass(frozen=True, slots=True)
class RegistryManifest:
    """A manifest as it was received, verified as far as the registry lets."""

    content: bytes
    """Exact; they are what the digest is of."""
    digest: str
    """``sha256:…`` of the content, or of the algorithm that it was asked for by."""
    media_type: str
    """What it is, see ``registry_documents``."""
    document: Document
    url: str
    """Where it was asked for."""


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What a container image costs to fetch."""

    digest: str
    """Of the manifest chosen: for one platform."""
    size_bytes: int
    """Config and layers as they are stored in the registry, each content once."""
    layer_count: int


class _NoHead(FetcherError):
    """The registry does not do HEAD; never leaves this module."""


class _Unauthorized(FetcherError):
    """A 401 with its challenge; never leaves this module."""

    def __init__(self, refused: Refused) -> None:
        super().__init__("401")
        self.refused = refused


class RegistryClient:
    """Asks registries through ``api``. One for all registries of a run; ``clock`` is for the lifetime of tokens."""

    def __init__(self, api: ApiClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._auth = Authenticator(api, clock)

    def __repr__(self) -> str:
        return f"<RegistryClient {self._auth!r}>"

    # -- questions ---------------------------------------------------------------------------------------------------

    async def manifest(
        self,
        registry: str,
        repository: str,
        reference: str,
        *,
        credential: RegistryCredential | None = None,
        trusted_origins: frozenset[str] = frozenset(),
        accept: Sequence[str] = ACCEPT,
        what: str | None = None,
    ) -> RegistryManifest:
        """The manifest that ``reference``, a tag or digest, stands for. ``what``: for messages, as a person writes it.

        Its bytes are verified against a digest in ``reference`` and against the one that the registry states. Raises
        NotFoundError, DeniedError, RateLimitedError, TransportError; ForbiddenError for what is no manifest we
        understand, IntegrityError for bytes that are not what was named, twice.
        """
        what = what or _what(registry, repository, reference)
        url = manifest_url(registry, repository, reference)
        door = _door(registry, repository, credential, trusted_origins)
        found = await self._ask("GET", url, door, what, accept=accept)
        if _digest_fault(found, reference):  # maybe the tag was moved between head and body, or a proxy stumbled
            found = await self._ask("GET", url, door, what, accept=accept)
        fault = _digest_fault(found, reference)
        if fault is not None:
            raise IntegrityError(f"the manifest of {what} is not what {door.registry} says it is: {fault}, twice")
        document = parse_document(found.value, found.headers.get("Content-Type", ""), what)
        digest = reference if is_digest(reference) else f"sha256:{hashlib.sha256(found.value).hexdigest()}"
        return RegistryManifest(found.value, digest, document.media_type, document, url)

    async def digest(
        self,
        registry: str,
        repository: str,
        reference: str,
        *,
        credential: RegistryCredential | None = None,
        trusted_origins: frozenset[str] = frozenset(),
        accept: Sequence[str] = ACCEPT,
        what: str | None = None,
    ) -> str | None:
        """The digest that ``reference`` stands for, by HEAD, which counts as no pull; None: the registry does not say.

        A claim, good for telling whether something changed. Errors as for ``manifest``.
        """
        what = what or _what(registry, repository, reference)
        door = _door(registry, repository, credential, trusted_origins)
        found = await self._ask("HEAD", manifest_url(registry, repository, reference), door, what, accept=accept)
        return stated_digest(found.headers)

    async def check_blob(
        self,
        registry: str,
        repository: str,
        digest: str,
        *,
        credential: RegistryCredential | None = None,
        trusted_origins: frozenset[str] = frozenset(),
        what: str | None = None,
    ) -> None:
        """Return if a blob would be served; afterwards ``blob_request`` carries what opens it. Errors as above."""
        door = _door(registry, repository, credential, trusted_origins)
        what = what or _what(registry, repository, digest)
        await self._ask("HEAD", blob_url(registry, repository, digest), door, what)

    async def image_size(
        self,
        registry: str,
        repository: str,
        reference: str,
        *,
        credential: RegistryCredential | None = None,
        trusted_origins: frozenset[str] = frozenset(),
        platform: Platform | None = None,
        pulls_spared: int = 0,
        what: str | None = None,
    ) -> ImageSize:
        """What a container image for ``platform`` (default: this machine's) costs to fetch. Costs one or two pulls.

        ``pulls_spared``: where the registry counts pulls and says, to a HEAD that costs none, that fewer than this are
        left, that is a RateLimitedError and no pull is used.

        Raises as ``manifest``; NotFoundError that lists the platforms there are, ForbiddenError for what is no image.
        """
        what = what or _what(registry, repository, reference)
        if pulls_spared:
            door = _door(registry, repository, credential, trusted_origins)
            url = manifest_url(registry, repository, reference)
            asked = await self._ask("HEAD", url, door, what, accept=ACCEPT)
            left = _PULLS_LEFT.match(asked.headers.get("RateLimit-Remaining", ""))
            if left is not None and int(left[0]) < pulls_spared:
                raise RateLimitedError(f"{door.registry} allows {int(left[0])} more pulls, {pulls_spared} are spared")
        for _ in range(2):
            found = await self.manifest(
                registry, repository, reference, credential=credential, trusted_origins=trusted_origins, what=what
            )
            document = found.document
            if isinstance(document, LayeredManifest):
                return ImageSize(found.digest, image_bytes(document, what), len(document.layers))
            reference = str(choose_platform(document, platform or Platform.here(), what).digest)
        raise ForbiddenError(f"{what} is an index of indexes, which no engine takes")

    # -- bodies ------------------------------------------------------------------------------------------------------

    def blob_request(
        self,
        registry: str,
        repository: str,
        digest: str,
        *,
        credential: RegistryCredential | None = None,
        trusted_origins: frozenset[str] = frozenset(),
    ) -> Request:
        """The GET request for a blob, with what is known to open it. A 401 to it: ask ``check_blob`` first."""
        door = _door(registry, repository, credential, trusted_origins)
        return self._request("GET", blob_url(registry, repository, digest), door, purpose="body")

    def manifest_request(
        self,
        registry: str,
        repository: str,
        reference: str,
        *,
        credential: RegistryCredential | None = None,
        trusted_origins: frozenset[str] = frozenset(),
        accept: Sequence[str] = ACCEPT,
    ) -> Request:
        """As ``blob_request``, for the bytes of a manifest."""
        door = _door(registry, repository, credential, trusted_origins)
        return self._request("GET", manifest_url(registry, repository, reference), door, accept=accept, purpose="body")

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, url: str, door: Door, what: str, *, accept: Sequence[str] = ()) -> Found[bytes]:
        """Ask, and log in where that is wanted. ``accept``: what a manifest may be; without, a blob is asked after."""

        def refusal(refused: Refused) -> FetcherError:
            # A 401 from where a redirect led is no business of this registry's credential.
            if refused.status == 401 and origin_of(refused.url) == door.registry:
                return _Unauthorized(refused)
            if method == "HEAD" and refused.status in NO_HEAD_STATUSES:
                return _NoHead(str(refused.status))
            return self._error(refused, door, what)

        def check(found: Found[bytes]) -> None:
            if method == "GET":
                check_is_document(found.value, display_url(found.url))

        used = self._auth.current(door)
        for attempt in range(TRIES_AT_A_DOOR):
            request = self._request(method, url, door, accept=accept, purpose="api", opened_by=used)
            try:
                if accept:
                    return await self._api.get_bytes(
                        request, refusal=refusal, bytes_max=DOCUMENT_BYTES_MAX, check=check
                    )
                await self._api.may(request, refusal=refusal, undecided=lambda _: False)
                return Found(b"", {}, url)
            except _NoHead:
                return Found(b"", {}, url)
            except _Unauthorized as unauthorized:
                refused = unauthorized.refused
                last = attempt == TRIES_AT_A_DOOR - 1
                better = None if last else await self._auth.answer(door, refused, used)
                if better is None:
                    raise self._error(refused, door, what) from None
                used = better
            except RateLimitedError as error:
                hint = error.hint if door.credential else "try again later; with a login a registry allows more"
                raise RateLimitedError(error.message, hint=hint) from None
        raise AssertionError("the last try returns or raises")

    def _request(
        self,
        method: str,
        url: str,
        door: Door,
        *,
        purpose: Purpose,
        accept: Sequence[str] = (),
        opened_by: RegistryCredential | None = None,
    ) -> Request:
        credential = opened_by or self._auth.current(door)
        return Request(
            method,
            url,
            headers=(("Accept", ", ".join(accept)),) if accept else (),
            credential=credential,
            credential_origin=None if credential is None else door.registry,
            trusted_origins=door.trusted_origins,
            purpose=purpose,
        )

    def _error(self, refused: Refused, door: Door, what: str) -> FetcherError:
        if origin_of(refused.url) != door.registry:
            return TransportError(f"{display_url(refused.url)} answered {refused.status} to a request for {what}")
        return registry_error(
            refused.status, refused.headers, refused.body, what, door.registry, logged_in=door.credential is not None
        )


def stated_digest(headers: Mapping[str, str]) -> str | None:
    """The digest that an answer states of the manifest it carries; None: none that counts."""
    for name in DIGEST_HEADERS:
        text = headers.get(name, "").strip().lower()
        for candidate in (text, f"sha256:{text}"):
            if is_digest(candidate):
                return candidate
    return None


def _digest_fault(found: Found[bytes], reference: str) -> str | None:
    """Why the bytes are not those that were named, or None."""
    for named in (reference if is_digest(reference) else None, stated_digest(found.headers)):
        if named is not None:
            algorithm, _, digits = named.partition(":")
            computed = hashlib.new(algorithm, found.value).hexdigest()
            if computed != digits:
                return f"{algorithm}:{computed}, not {named}"
    return None


def _door(
    registry: str, repository: str, credential: RegistryCredential | None, trusted_origins: frozenset[str]
) -> Door:
    return Door(origin_of(registry), repository, credential, trusted_origins)


def _what(registry: str, repository: str, reference: str) -> str:
    joint = "@" if is_digest(reference) else ":"
    return f"{registry.partition('://')[2]}/{repository}{joint}{reference}"
