"""The Hugging Face Hub, and whatever serves its paths: mirrors and the embedded hub.

One question pins the commit, one paginated listing by that commit says the rest: path, size, sha256 (LFS and Xet
files) or git blob sha1 (regular files) of everything. No HEAD per file. Large files begin at ``/resolve/`` and end at
a signed URL elsewhere; regular files are asked directly at ``/api/resolve-cache/``, where ``/resolve/`` would only
send us, which halves the requests of a repo of many small files. An endpoint that does not know that address is asked
at ``/resolve/`` from then on.

Sources: huggingface.co/docs/hub (API endpoints, rate limits), huggingface_hub 2.4.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from fetcher.config import Settings
from fetcher.errors import DeniedError, FetcherError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.hf import FULL_COMMIT, HF
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.net.api import ApiClient, Refused
from fetcher.net.pacing import wait_asked_s
from fetcher.net.request import (
    Answer,
    Purpose,
    Request,
    address_of,
    display_url,
    origin_of,
    redirected,
    resolve_location,
)
from fetcher.origins.base import Pinned, Refusal
from fetcher.origins.hf_errors import hub_error
from fetcher.origins.hf_tree import Listing, Row, select
from fetcher.plan.retry import retried_status

PAGE_BYTES_MAX = 64 << 20
"""A page of 1000 rows has 300 KB; with names of 2 KiB and every field the Hub knows, a tenth of this."""
EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410})
"""How storage hosts refuse a signed URL past its time; which one depends on the host, so all of them mean: ask
again."""
RESOLVE_CACHE = "/api/resolve-cache/"

LINK_CHARACTERS_MAX = 16_384

_LINK = re.compile(r'<([^<>]*)>((?:\s*;\s*[^;,"]*(?:"[^"]*")?)*)')
_REL_NEXT = re.compile(r';\s*rel\s*=\s*(?:"(?:[^"]*\s)?next(?:\s[^"]*)?"|next\s*(?:;|$))', re.IGNORECASE)
_REPO_OF_FILE = re.compile(r"/api/resolve-cache/(?:models/)?(.+?)/[0-9a-f]{40}/|^/(.+?)/resolve/")


class Info(msgspec.Struct, frozen=True):
    """What we use of ``/api/models/…/revision/…``."""

    sha: str
    private: bool | None = None
    gated: bool | str | None = None
    """False, ``"auto"`` or ``"manual"``."""
    disabled: bool | None = None

    @property
    def closed(self) -> bool:
        """The Hub says that not everybody may read it."""
        return self.private is True or bool(self.gated)

    @property
    def public(self) -> bool:
        """The Hub says that anyone may read it."""
        return self.private is False and self.gated is False


class HfOrigin:
    """See ``base.Origin``. One per endpoint; remembers nothing but what the endpoint supports."""

    name = "hf"

    def __init__(self, api: ApiClient, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._endpoint = settings.hf_endpoint.rstrip("/")
        self._origin = origin_of(self._endpoint)
        self._has_resolve_cache = True

    def __repr__(self) -> str:
        return f"<HfOrigin {self._endpoint}>"

    # -- what there is -----------------------------------------------------------------------------------------------

    async def resolve(self, resource: HF, asker: Asker) -> Manifest:
        info = await self._info(resource, asker)
        what = _what(resource)
        listing = Listing(self._settings, what)
        url: str | None = self._tree_url(resource, info.sha)
        while url is not None:
            url = await self._page(resource, asker, url, listing)
        # Minutes are out of bounds, seconds are not: what else goes on meanwhile must go on.
        files = await asyncio.to_thread(select, listing.entries, resource.files, what)
        if not info.public:
            await self._prove_access(resource, asker, info.sha, files)
        return Manifest(
            origin=self.name,
            endpoint=self._origin,
            repository=f"{resource.kind}/{resource.repo}",
            revision=info.sha,
            private=_private(info, asker),
            closed=info.closed,
            files=files,
        )

    async def revision(self, resource: HF, asker: Asker) -> Pinned:
        info = await self._info(resource, asker)
        if not info.public:
            # Info and listing of a gated repo are open to all, and a token may open those of a private one and not its
            # files; only a file proves access. Any will do, but one has to be found first: a page may hold nothing but
            # folders.
            what = _what(resource)
            listing = Listing(self._settings, what)
            url: str | None = self._tree_url(resource, info.sha)
            while url is not None and not listing.entries:
                url = await self._page(resource, asker, url, listing)
            if not listing.entries:
                raise NotFoundError(f"{what} has no files")
            await self._prove_access(resource, asker, info.sha, listing.entries.values())
        return Pinned(info.sha, _private(info, asker), info.closed)

    async def _info(self, resource: HF, asker: Asker) -> Info:
        reference = quote(resource.reference, safe="")
        url = f"{self._endpoint}/api/{resource.kind}/{resource.repo}/revision/{reference}"
        request = self._api_request(url, asker)
        found = await self._api.get_json(request, Info, refusal=lambda refused: self._error(refused, resource, asker))
        info = found.value
        if not FULL_COMMIT.fullmatch(info.sha) or (resource.immutable and info.sha != resource.reference):
            raise TransportError(f"{display_url(found.url)} does not say which commit {resource.reference} is")
        if info.disabled:
            raise DeniedError(f"the Hub has disabled access to {_what(resource)}", hint="moderation; see its page")
        return info

    async def _page(self, resource: HF, asker: Asker, url: str, listing: Listing) -> str | None:
        """Read one page of the tree into ``listing``; returns the URL of the next one."""
        found = await self._api.get_json(
            self._api_request(url, asker),
            list[Row],
            refusal=lambda refused: self._error(refused, resource, asker),
            bytes_max=PAGE_BYTES_MAX,
        )
        following = _next_link(found.headers.get("Link", ""))
        listing.add(found.value, last=following is None)
        return None if following is None else self._at_endpoint(resolve_location(found.url, following))

    async def _prove_access(self, resource: HF, asker: Asker, commit: str, files: Iterable[FileEntry]) -> None:
        """Raise what the Hub answers this asker to a request for one of ``files``, if it is a refusal."""
        # A large file is answered with a signed URL elsewhere, a regular one at the second address, with its body.
        path = min(files, key=lambda file: (file.inline, file.size)).path
        request = self._request(self._resolve_url(resource.kind, resource.repo, commit, path), asker, "body")
        await self._api.may(
            request,
            refusal=lambda refused: self._error(refused, resource, asker, path),
            undecided=lambda url: _REPO_OF_FILE.search(urlsplit(url).path) is not None,
        )

    # -- where the bytes are -----------------------------------------------------------------------------------------

    async def renew(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
        """``locate`` needs nothing: every request to ``/resolve/`` gives a fresh URL."""

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        kind, _, repo = manifest.repository.partition("/")
        commit = manifest.revision or ""
        if entry.inline and self._has_resolve_cache:
            url = f"{self._endpoint}{RESOLVE_CACHE}{kind}/{repo}/{commit}/{quote(entry.path)}"
        else:
            url = self._resolve_url(kind, repo, commit, entry.path)
        return self._request(url, asker, "body")

    def follow(self, request: Request, response: Answer) -> Request | None:
        return redirected(request, response)

    def refusal(self, response: Answer, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        status = response.status
        if retried_status(status):
            return Refusal("busy", retry_after_s=wait_asked_s(response, time.time()))
        elsewhere = origin_of(response.url) != self._origin
        if (signed or elsewhere) and status in EXPIRED_STATUSES:
            return Refusal("expired")
        if self._is_unknown_address(response):
            self._has_resolve_cache = False
            return Refusal("expired")
        return Refusal("final", self._file_error(response, entry, elsewhere=elsewhere))

    def stated(self, response: Answer, entry: FileEntry, *, whole: bool) -> FileEntry | None:
        return entry  # the commit and the listing's digest name the bytes for ever

    def _is_unknown_address(self, response: Answer) -> bool:
        """Whether this is how an endpoint without bare ``/api/resolve-cache/`` addresses answers to one."""
        parts = urlsplit(response.url)
        if RESOLVE_CACHE not in parts.path or parts.query:
            return False  # with a query it is where /resolve/ itself sent us
        return response.status in (400, 404, 405, 410) and response.headers.get("X-Error-Code", "") in (
            "",
            "EntryNotFound",
        )

    def _file_error(self, response: Answer, entry: FileEntry, *, elsewhere: bool) -> FetcherError:
        if elsewhere or 200 <= response.status < 400 or response.status == 416:
            return TransportError(f"{display_url(response.url)} answered {response.status} to a request for a file")
        match = _REPO_OF_FILE.search(urlsplit(response.url).path)
        repo = next((name for name in match.groups() if name), "") if match else ""
        what = f"hf://{repo}" if repo else f"the repo of {entry.path!r}"
        page = f"{self._endpoint}/{repo}" if repo else None
        return hub_error(response.status, response.headers, what, path=entry.path, page=page)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _tree_url(self, resource: HF, commit: str) -> str:
        return f"{self._endpoint}/api/{resource.kind}/{resource.repo}/tree/{commit}?recursive=true&expand=false"

    def _resolve_url(self, kind: str, repo: str, commit: str, path: str) -> str:
        prefix = "" if kind == "models" else f"{kind}/"
        return f"{self._endpoint}/{prefix}{repo}/resolve/{commit}/{quote(path)}"

    def _api_request(self, url: str, asker: Asker) -> Request:
        return self._request(url, asker, "api")

    def _request(self, url: str, asker: Asker, purpose: Purpose) -> Request:
        return Request(
            "GET",
            url,
            credential=asker.credential,
            credential_origin=None if asker.credential is None else self._origin,
            trusted_origins=asker.trusted_origins,
            purpose=purpose,
        )

    def _at_endpoint(self, url: str) -> str:
        """``url`` of a next page with the scheme and host of our endpoint: behind a mirror it names the Hub itself.
        Raises ForbiddenError for what is no URL at all."""
        address_of(url)
        base, parts = urlsplit(self._endpoint), urlsplit(url)
        path = parts.path
        if base.path and not path.startswith(f"{base.path}/"):
            path = base.path + path
        return urlunsplit((base.scheme, base.netloc, path, parts.query, ""))

    def _error(self, refused: Refused, resource: HF, asker: Asker, path: str | None = None) -> FetcherError:
        prefix = "" if resource.kind == "models" else f"{resource.kind}/"
        return hub_error(
            refused.status,
            refused.headers,
            _what(resource),
            with_token=asker.token is not None,
            reference=resource.reference,
            path=path,
            page=f"{self._endpoint}/{prefix}{resource.repo}",
        )


def _what(resource: HF) -> str:
    """The repo as a person writes it, without its revision."""
    prefix = "" if resource.kind == "models" else f"{resource.kind}/"
    return f"hf://{prefix}{resource.repo}"


def _private(info: Info, asker: Asker) -> bool:
    """Public is what was fetched without a credential, or what the Hub says is neither private nor gated."""
    return asker.token is not None and not info.public


def _next_link(field: str) -> str | None:
    """Target of ``rel="next"`` in a ``Link`` field (RFC 8288)."""
    if len(field) > LINK_CHARACTERS_MAX:
        return None
    for target, parameters in _LINK.findall(field):
        if _REL_NEXT.search(parameters):
            return str(target)
    return None
