"""Ollama models: asked for at a registry, laid out as the store that Ollama itself reads (``ollama_store``).

One question per model pins everything: a manifest names all content by sha256, so every blob is the same for ever and
in every model. Models without a host are asked for at the configured registry, those of other hosts at that host over
https. Blobs begin at the registry and mostly end at a signed URL elsewhere.

Everything is asked for anonymously first: what anybody may have is public and shared. A credential is shown only where
that was refused, and only at the one registry that it can be meant for (``Manifest.endpoint``).

Facts about registry.ollama.ai (ollama issues 6470 and 7244; oras-go issue 882): it has no ``/v2/``, calls manifests
plain text, sends no Content-Length with them, and states their digest to HEAD alone.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypedDict, TypeVar
from urllib.parse import urlsplit

from fetcher.config import Settings
from fetcher.errors import DeniedError, FetcherError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.ollama import Ollama, OllamaModel
from fetcher.model.secret import AWSKeys
from fetcher.net.api import ApiClient
from fetcher.net.pacing import wait_asked_s
from fetcher.net.registry import Address, RegistryClient, RegistryManifest, stated_digest
from fetcher.net.registry_auth import RegistryCredential
from fetcher.net.registry_errors import registry_error
from fetcher.net.request import Answer, Request, display_url, origin_of, redirected
from fetcher.origins.base import Pinned, Refusal
from fetcher.origins.ollama_store import PulledModel, revision_of, store_files, what
from fetcher.plan.retry import retried_status

Value = TypeVar("Value")

EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410})
"""How storage hosts refuse a signed URL past its time; which one depends on the host."""
UNKNOWN_ADDRESS_STATUSES = frozenset({400, 404, 405, 410, 501})
"""How a registry refuses an address that it does not have."""
REMEMBERED_MAX = 1_024


class _Shown(TypedDict):
    """What a question lets a registry see of its asker."""

    credential: RegistryCredential | None
    trusted_origins: frozenset[str]


class OllamaOrigin:
    """See ``base.Origin``. One for all registries; remembers tokens, and at which address a manifest could not be
    had."""

    name = "ollama"

    def __init__(self, api: ApiClient, settings: Settings) -> None:
        self._settings = settings
        self._registry = RegistryClient(api)
        self._default = settings.ollama_url.rstrip("/")
        self._default_netloc = urlsplit(self._default).netloc.lower()
        self._refused_addresses: dict[Address, None] = {}
        """Of manifests by digest, those that their registry does not know, oldest first."""

    def __repr__(self) -> str:
        return f"<OllamaOrigin {self._default}>"

    # -- what there is -----------------------------------------------------------------------------------------------

    async def resolve(self, resource: Ollama, asker: Asker) -> Manifest:
        home = self._home(resource)
        pulled: list[PulledModel] = []
        private = False
        for model in resource.models:
            manifest, closed = await self._ask(self._manifest_of, model, asker, home)
            pulled.append(PulledModel(model, self._registry_of(model), manifest))
            private = private or closed
        return Manifest(
            origin=self.name,
            endpoint=home,
            repository=_repository(resource),
            revision=revision_of([(one.model, one.digest) for one in pulled]),
            private=private,
            closed=private,
            files=store_files(pulled, self._settings),
        )

    async def revision(self, resource: Ollama, asker: Asker) -> Pinned:
        home = self._home(resource)
        pins: list[tuple[OllamaModel, str]] = []
        private = False
        for model in resource.models:
            digest, closed = await self._ask(self._digest_of, model, asker, home)
            pins.append((model, digest))
            private = private or closed
        return Pinned(revision_of(pins), private, private)

    async def _manifest_of(self, model: OllamaModel, show: _Shown) -> RegistryManifest:
        return await self._registry.manifest(
            self._registry_of(model), model.repository, model.tag, what=what(model), **show
        )

    async def _digest_of(self, model: OllamaModel, show: _Shown) -> str:
        said = await self._registry.digest(
            self._registry_of(model), model.repository, model.tag, what=what(model), **show
        )
        if said is not None and said.startswith("sha256:"):
            return said
        return (await self._manifest_of(model, show)).digest

    async def _ask(
        self, question: Callable[[OllamaModel, _Shown], Awaitable[Value]], model: OllamaModel, asker: Asker, home: str
    ) -> tuple[Value, bool]:
        """The answer to ``question`` about ``model``, and whether that took the asker's credential."""
        credential = _credential(asker) if origin_of(self._registry_of(model)) == home else None
        try:
            try:
                return await question(model, _Shown(credential=None, trusted_origins=asker.trusted_origins)), False
            except (NotFoundError, DeniedError):
                if credential is None:
                    raise
                show = _Shown(credential=credential, trusted_origins=asker.trusted_origins)
                return await question(model, show), True
        except NotFoundError as error:
            raise NotFoundError(error.message, hint=_where_to_look(error.hint, model)) from None
        except TransportError as error:
            if error.hint is None and not self._is_default(model):
                hint = f"{model.host} is asked over https; FETCHER_OLLAMA_URL may name one registry that speaks http"
                raise TransportError(error.message, hint=hint) from None
            raise

    def _is_default(self, model: OllamaModel) -> bool:
        """Whether ``model`` is asked for at the configured registry; the registry may also be named in full."""
        return model.host is None or model.host == self._default_netloc

    def _registry_of(self, model: OllamaModel) -> str:
        return self._default if self._is_default(model) else f"https://{model.host}"

    def _home(self, resource: Ollama) -> str:
        """The registry that a credential of the resource is meant for: the configured one where any model is there."""
        registries = [self._registry_of(model) for model in resource.models]
        return origin_of(self._default if self._default in registries else registries[0])

    # -- where the bytes are -----------------------------------------------------------------------------------------

    async def renew(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
        """Make sure that ``locate`` gives an address that is open to ``asker``: a fresh token, or another address."""
        for address in self._addresses(entry):
            show = _Shown(credential=self._shown_to(address, manifest, asker), trusted_origins=asker.trusted_origins)
            place = (address.registry, address.repository, address.reference)
            name = _name_of(entry, address)
            try:
                if address.kind == "blobs":
                    await self._registry.check_blob(*place, what=name, **show)
                    return
                said = await self._registry.digest(*place, what=name, **show)
            except NotFoundError:
                if address == self._all_addresses(entry)[-1]:
                    raise
                self._refuse(address)
                continue
            if said is not None and said != str(entry.digest):
                where = origin_of(address.registry)
                raise TransportError(f"{name} was changed at {where} while it was fetched", hint="try again")
            return

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        address = self._addresses(entry)[0]
        ask = self._registry.blob_request if address.kind == "blobs" else self._registry.manifest_request
        return ask(
            address.registry,
            address.repository,
            address.reference,
            credential=self._shown_to(address, manifest, asker),
            trusted_origins=asker.trusted_origins,
        )

    def follow(self, request: Request, response: Answer) -> Request | None:
        return redirected(request, response)

    def refusal(self, response: Answer, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        status = response.status
        if retried_status(status):
            return Refusal("busy", retry_after_s=wait_asked_s(response, time.time()))
        place = Address.of(entry.url or "")
        elsewhere = origin_of(response.url) != origin_of(place.registry)
        if (signed or elsewhere) and status in EXPIRED_STATUSES:
            return Refusal("expired")
        if status == 401:
            return Refusal("expired")  # the token's time is up; ``renew`` finds out whether there is another
        asked = _address_of(response.url)
        if asked is not None and status in UNKNOWN_ADDRESS_STATUSES and asked in self._all_addresses(entry)[:-1]:
            self._refuse(asked)
            return Refusal("expired")
        return Refusal("final", self._file_error(response, entry, place, elsewhere=elsewhere))

    def stated(self, response: Answer, entry: FileEntry, *, whole: bool) -> FileEntry | None:
        asked = _address_of(response.url)
        if asked is None or asked.kind != "manifests" or asked.reference == str(entry.digest):
            return entry  # asked for by digest: there are no other bytes of this name
        length = response.headers.get("Content-Length")
        said = stated_digest(response.headers)
        if (said is not None and said != str(entry.digest)) or (whole and length not in (None, str(entry.size))):
            return None  # the tag has been moved
        return entry

    # -- addresses ---------------------------------------------------------------------------------------------------

    def _addresses(self, entry: FileEntry) -> list[Address]:
        """Where ``entry`` can be asked for, the best first, without those that its registry does not know."""
        addresses = self._all_addresses(entry)
        return [one for one in addresses[:-1] if one not in self._refused_addresses] + addresses[-1:]

    def _all_addresses(self, entry: FileEntry) -> list[Address]:
        """A blob has one address. A manifest is asked for by its digest, which names it for ever; as a blob, which is
        how Ollama's own registry knows manifests by digest; at last by its tag, which may have been moved."""
        place = Address.of(entry.url or "")
        if place.kind == "blobs":
            return [place]
        tag = entry.path.rpartition("/")[2]
        return [
            place,
            Address(place.registry, place.repository, "blobs", place.reference),
            Address(place.registry, place.repository, "manifests", tag),
        ]

    def _refuse(self, address: Address) -> None:
        while len(self._refused_addresses) >= REMEMBERED_MAX:
            del self._refused_addresses[next(iter(self._refused_addresses))]
        self._refused_addresses[address] = None

    def _shown_to(self, place: Address, manifest: Manifest, asker: Asker) -> RegistryCredential | None:
        """The asker's credential, if what it opens is at ``place``."""
        if not manifest.private or origin_of(place.registry) != manifest.endpoint:
            return None
        return _credential(asker)

    def _file_error(self, response: Answer, entry: FileEntry, place: Address, *, elsewhere: bool) -> FetcherError:
        name = _name_of(entry, place)
        if elsewhere or 200 <= response.status < 400 or response.status == 416:
            return TransportError(f"{display_url(response.url)} answered {response.status} to a request for {name}")
        registry = origin_of(place.registry)
        return registry_error(response.status, response.headers, b"", name, registry, logged_in=False)


def _address_of(url: str) -> Address | None:
    try:
        return Address.of(url)
    except ValueError:
        return None


def _credential(asker: Asker) -> RegistryCredential | None:
    return None if isinstance(asker.credential, AWSKeys) else asker.credential


def _repository(resource: Ollama) -> str:
    first = resource.models[0]
    return first.repository if len(resource.models) == 1 else ",".join(map(str, resource.models))


def _name_of(entry: FileEntry, place: Address) -> str:
    """A file of a store for messages, with the repository it comes from."""
    kind = "the manifest" if place.kind == "manifests" else f"blob {place.reference}"
    return f"{kind} of {place.repository}"


def _where_to_look(hint: str | None, model: OllamaModel) -> str | None:
    return hint if model.host is not None else f"{hint}; ollama.com/library lists the public ones"
