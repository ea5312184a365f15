"""The embedded hub itself: two listeners, the routes of the read API, and the log of what was asked.

Puts together what its neighbours decide: ``routes`` reads paths, ``access`` refuses, ``repos`` knows the files, ``cdn``
signs and serves the large ones, and the fault plan spoils it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qs, quote

from fetcher.testing import bodies
from fetcher.testing.contents import BytesContent, ContentLike
from fetcher.testing.faultplan import Exchange, FaultPlan
from fetcher.testing.hub import access, answers, gitids
from fetcher.testing.hub.access import Quotas, Refused, Token, refusal
from fetcher.testing.hub.cdn import Storage
from fetcher.testing.hub.repos import LFS_PATTERNS, LFS_THRESHOLD_BYTES, Commit, Entry, Gated, Kind, Repo
from fetcher.testing.hub.routes import Route, parse
from fetcher.testing.messages import Reply, Request
from fetcher.testing.origin import Origin
from fetcher.testing.records import RequestRecord
from fetcher.testing.wire import Listener

_GZIP_BYTES_MIN = 1024


class Hub(Origin):
    """A Hugging Face Hub on two loopback ports, strict where the real one is.

        async with Hub(tokens={"hf_alice": "alice"}) as hub:
            hub.add_repo("acme/tiny", files={"config.json": b"{}", "model.safetensors": Synthetic(50 << 20)})
            ...  # point a client at hub.endpoint

    Repositories may be added and committed to before it starts and while it runs, from any thread. So may who gets what
    be changed: ``repo.private``, ``repo.gated`` and ``repo.disabled``, ``rename_repo`` and ``remove_repo``; a token is
    revoked with ``del hub.tokens[text]``, and gets other rights with another ``Token`` in its place.

    ``tokens``: token → ``Token``, or just the user's name for one that opens everything. ``quotas``: instead of those
    of the anonymous and free plans, for everybody. ``url_lifetime_s``: how long a signed URL is good.
    ``resolve_cache_without_query``: whether ``/api/resolve-cache/…`` answers without the query its redirect gives it.
    ``cdn_origin``: another server that has the large files (at the paths of ``cdn.storage_path``), to which signed URLs
    then lead. ``clock``: unix seconds, for signed URLs and rate limits. ``seed``: of signatures.
    """

    def __init__(
        self,
        *,
        page_entries: int = 1000,
        url_lifetime_s: float = 3600.0,
        tokens: Mapping[str, Token | str] | None = None,
        quotas: Quotas | None = None,
        faults: FaultPlan | None = None,
        resolve_cache_without_query: bool = True,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_host: str | None = None,
        cdn_origin: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(faults)
        self.page_entries = page_entries
        self.url_lifetime_s = url_lifetime_s
        self.tokens = {text: Token(who) if isinstance(who, str) else who for text, who in (tokens or {}).items()}
        self.quotas = quotas
        self.resolve_cache_without_query = resolve_cache_without_query
        self._addresses = (host, port), (cdn_host or host, 0)
        self._cdn_origin = cdn_origin
        self._clock = clock
        self._repos: dict[tuple[Kind, str], Repo] = {}
        self._former: dict[tuple[Kind, str], Repo] = {}
        """Under the names that repositories had before."""
        self._storage = Storage(seed, clock)
        self._limiter = access.RateLimiter(clock)

    def _open_listeners(self) -> None:
        (hub_host, hub_port), (cdn_host, cdn_port) = self._addresses
        self._listeners.append(Listener(self._answer_hub, hub_host, hub_port))
        self._listeners.append(Listener(self._answer_cdn, cdn_host, cdn_port))

    @property
    def endpoint(self) -> str:
        """Origin of the hub, for ``HF_ENDPOINT``."""
        return self._listener(0).origin

    @property
    def cdn_endpoint(self) -> str:
        """The other origin, that serves large files."""
        return self._cdn_origin or self._listener(1).origin

    def _listener(self, index: int) -> Listener:
        if not self._listeners:
            raise RuntimeError("the hub has not been started: use 'async with Hub() as hub' or hub_in_thread()")
        return self._listeners[index]

    # Content

    def add_repo(
        self,
        repo_id: str,
        *,
        kind: Kind = "models",
        files: Mapping[str, ContentLike] | None = None,
        private: bool = False,
        gated: Gated | bool = False,
        disabled: bool = False,
        lfs: Iterable[str] | None = None,
        lfs_threshold: int = LFS_THRESHOLD_BYTES,
    ) -> Repo:
        """Make a repository whose first commit, on ``main``, holds ``files``.

        A file is large (LFS, served by the CDN) when it is longer than ``lfs_threshold`` bytes or matches one of the
        ``lfs`` globs, by default those of a fresh repository's .gitattributes. Replaces a repository of the same name.
        """
        repo = Repo(repo_id, kind, private, "auto" if gated is True else gated, disabled)
        repo.lfs = tuple(LFS_PATTERNS if lfs is None else lfs)
        repo.lfs_threshold = lfs_threshold
        repo.commit(files or {})
        self._repos[kind, repo_id] = repo
        self._former.pop((kind, repo_id), None)
        return repo

    def repo(self, repo_id: str, kind: Kind = "models") -> Repo:
        """Return a repository added before."""
        return self._repos[kind, repo_id]

    def rename_repo(self, repo_id: str, new_id: str, *, kind: Kind = "models", forwards: bool = True) -> Repo:
        """Give a repository another name. ``forwards``: who asks for the old one, and may see it, is sent to the new
        one, as the Hub does until somebody takes the name."""
        repo = self._repos.pop((kind, repo_id))
        repo.id = new_id
        self._repos[kind, new_id] = repo
        self._former.pop((kind, new_id), None)
        if forwards:
            self._former[kind, repo_id] = repo
        return repo

    def remove_repo(self, repo_id: str, kind: Kind = "models") -> None:
        """Forget a repository, and the names that it had before."""
        gone = self._repos.pop((kind, repo_id))
        self._former = {name: repo for name, repo in self._former.items() if repo is not gone}

    def commit(
        self,
        repo: Repo | str,
        files: Mapping[str, ContentLike] | None = None,
        *,
        branch: str = "main",
        delete: Iterable[str] = (),
        title: str = "",
    ) -> str:
        """Commit to a branch (new ones start from main; ``refs/pr/N`` too), moving it. Return the commit's id."""
        if isinstance(repo, str):
            repo = self.repo(repo)
        return repo.commit(files or {}, branch=branch, delete=delete, title=title)

    @property
    def repos(self) -> list[Repo]:
        """All repositories, in the order they were added."""
        return list(self._repos.values())

    # Answering

    async def _answer_hub(self, request: Request) -> Reply:
        route = parse(
            request.path, lambda kind, repo_id: (kind, repo_id) in self._repos or (kind, repo_id) in self._former
        )
        record = self._record(request, route.name, credentials="authorization" in request.headers)
        if route.repo_id:
            record.repo, record.revision, record.path = route.repo_id, route.revision, route.path
        exchange = Exchange(request, record, self)
        headers = {"X-Request-Id": f"Root=1-{record.number:08x}"}
        try:
            try:
                token = access.identify(request, self.tokens)
            except Refused as refused:
                headers |= self._charge(record, route, None)[0]
                reply = refused.reply
            else:
                record.principal = token.user if token else None
                announced, within = self._charge(record, route, token)
                headers |= announced
                early = await self.faults.before(exchange) if within else access.over_quota(route.bucket)
                reply = early or self._answer_route(exchange, route, token)
        except Refused as refused:
            reply = refused.reply
        except Exception as error:
            reply = self._fail(error)
        reply.headers = headers | reply.headers
        return self._finish(exchange, reply)

    async def _answer_cdn(self, request: Request) -> Reply:
        record = self._record(request, "cdn", credentials="authorization" in request.headers)
        record.repo, record.path = self._storage.owner_of(request.target)
        exchange = Exchange(request, record, self)
        try:
            reply = await self.faults.before(exchange) or self._storage.answer(exchange.request)
        except Exception as error:
            reply = self._fail(error)
        return self._finish(exchange, reply)

    def _charge(self, record: RequestRecord, route: Route, token: Token | None) -> tuple[dict[str, str], bool]:
        # Every anonymous client on a loopback has one address, as behind one NAT.
        plan = token.quotas if token else access.ANONYMOUS
        return self._limiter.charge(token.user if token else "", route.bucket, self.quotas or plan)

    def _encode(self, exchange: Exchange, reply: Reply) -> None:
        super()._encode(exchange, reply)
        # The hub stands behind a front end that compresses, the CDN does not.
        at_hub = exchange.record.route != "cdn"
        if at_hub and bodies.accepts_gzip(exchange.request) and _worth_compressing(reply):
            bodies.compress(reply)

    def _fail(self, error: Exception) -> Reply:
        self.failures.append(error)
        return refusal(500, f"the embedded hub failed: {error!r}")

    # Routes

    def _answer_route(self, exchange: Exchange, route: Route, token: Token | None) -> Reply:
        request = exchange.request
        if route.name == "whoami":
            return access.whoami(token)
        if route.name == "other":
            return refusal(404, "Sorry, we can't find the page you are looking for.")
        if request.method not in (("POST",) if route.name == "paths-info" else ("GET", "HEAD")):
            return refusal(405, f"{request.method} is not allowed here")
        to_files = route.name in ("resolve", "resolve-cache", "raw")
        former = None if (route.kind, route.repo_id) in self._repos else self._former.get((route.kind, route.repo_id))
        if former is not None:
            access.admit(former, token, to_files=False)
            location = request.target.replace(quote(route.repo_id), quote(former.id), 1)
            return Reply(307, {"Location": location, "Content-Type": "text/plain; charset=utf-8"}, BytesContent(b""))
        repo = access.admit(self._repos.get((route.kind, route.repo_id)), token, to_files=to_files)
        if route.name == "refs":
            return answers.refs(repo, parse_qs(request.query))
        commit = repo.resolve(route.revision)
        if commit is None:
            return refusal(404, f"Invalid rev id: {route.revision}", "RevisionNotFound")
        if route.name == "info":
            return answers.info(repo, commit, parse_qs(request.query))
        if route.name == "tree":
            return answers.tree(commit, route, request, page_entries=self.page_entries, endpoint=self.endpoint)
        if route.name == "paths-info":
            return answers.paths_info(commit, request)
        entry = commit.entries.get(route.path)
        if entry is None:
            return refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.id)
        return self._file(exchange, route, repo, commit, entry, token)

    def _file(
        self, exchange: Exchange, route: Route, repo: Repo, commit: Commit, entry: Entry, token: Token | None
    ) -> Reply:
        request = exchange.request
        quoted = quote(entry.path.rpartition("/")[2], safe="")
        headers = {
            "X-Repo-Commit": commit.id,
            "Content-Disposition": f"inline; filename*=UTF-8''{quoted}; filename=\"{quoted}\";",
            "Content-Type": "text/plain; charset=utf-8" if entry.content.is_text else "application/octet-stream",
        }
        if route.name == "raw":
            pointer = gitids.lfs_pointer(entry.content.sha256, entry.content.size) if entry.lfs else None
            content = BytesContent(pointer) if pointer else entry.content
            return bodies.answer(request, content, entry.oid, headers)
        if entry.lfs:
            return self._redirect_to_cdn(exchange, repo, commit, entry, token)
        if route.name == "resolve-cache":
            if not request.query and not self.resolve_cache_without_query:
                return refusal(404, "Sorry, we can't find the page you are looking for.")
            return bodies.answer(request, entry.content, entry.oid, headers)
        if "if-none-match" in request.headers:
            fresh = bodies.answer(request, entry.content, entry.oid, headers)
            if fresh.status == 304:
                return fresh
        path = f"/api/resolve-cache/{repo.kind}/{quote(repo.id)}/{commit.id}/{quote(entry.path)}"
        location = f"{path}?{quote(request.path, safe='')}=&etag=%22{entry.oid}%22"
        headers |= {"Location": location, "ETag": f'"{entry.oid}"', "Content-Type": "text/plain; charset=utf-8"}
        text = f"Temporary Redirect. Redirecting to {location}"
        return Reply(307, headers, BytesContent(text.encode()))

    def _redirect_to_cdn(
        self, exchange: Exchange, repo: Repo, commit: Commit, entry: Entry, token: Token | None
    ) -> Reply:
        lifetime_s = self.url_lifetime_s if exchange.url_lifetime_s is None else exchange.url_lifetime_s
        name = self._storage.put(entry.content)
        user = token.user if token else "public"
        location = self._storage.sign(self.cdn_endpoint, repo.id, entry.path, name, lifetime_s, user)
        sha256 = entry.content.sha256
        headers = {
            "X-Repo-Commit": commit.id,
            "X-Linked-ETag": f'"{sha256}"',
            "X-Linked-Size": str(entry.content.size),
        }
        if "if-none-match" in exchange.request.headers:
            fresh = bodies.answer(exchange.request, entry.content, sha256, headers)
            if fresh.status == 304:
                return fresh
        headers |= {"Location": location, "Vary": "Accept", "Content-Type": "text/plain; charset=utf-8"}
        text = f"Found. Redirecting to {location}"
        return Reply(302, headers, BytesContent(text.encode()))


def _worth_compressing(reply: Reply) -> bool:
    """Whether the front end would compress: a complete text of some length."""
    if reply.content is None or reply.chunked or reply.status not in (200, 206):
        return False
    kind = reply.headers.get("Content-Type", "")
    return kind.startswith(("text/", "application/json")) and reply.content.size >= _GZIP_BYTES_MIN
