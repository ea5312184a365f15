"""The embedded registry itself: its listeners, the routes of the read side, and the log of what was asked.

Puts together what its neighbours decide: ``routes`` reads paths, ``access`` refuses, ``store`` knows the contents,
``images`` makes them, ``cdn`` signs and serves blobs, and the fault plan spoils it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fetcher.testing.contents import BytesContent, ContentLike
from fetcher.testing.faultplan import Exchange, FaultPlan
from fetcher.testing.messages import Reply, Request
from fetcher.testing.origin import Origin, in_thread
from fetcher.testing.registry import access, answers, images
from fetcher.testing.registry.access import Asker, Auth, PullLimit, Refused, User, refusal
from fetcher.testing.registry.answers import Dialect
from fetcher.testing.registry.cdn import SignedStore
from fetcher.testing.registry.routes import OTHER, TOKEN, Route, parse
from fetcher.testing.registry.store import Manifest, Repository, is_digest
from fetcher.testing.wire import Listener


class Registry(Origin):
    """A distribution registry on loopback ports, for Ollama models and container images; strict where real ones are.

        async with Registry() as registry:
            registry.add_model("library/tiny", "1b")
            registry.add_image("acme/app", platforms=("linux/amd64", "linux/arm64"))
            ...  # point a client at registry.endpoint

    Repositories may be added and changed before it starts and while it runs, from any thread. So may who gets what be
    changed: ``repository.private``, ``rename`` and ``remove``; a login is revoked with ``del registry.users[name]``,
    and gets other rights with another ``User`` in its place. A token that was issued opens no more than its user does.

    ``users``: name → ``User``, or just the password of one who may pull everything. ``auth``: by default ``bearer``
    when there are users, else ``open``. ``redirect_blobs``: whether blobs are a 307 to the CDN, a second listener; by
    default so with the manners of Ollama. ``url_lifetime_s``, ``token_lifetime_s``: how long a signed URL, a token is
    good. ``separate_token_service``: on a third listener, as Docker's own registry has it. ``token_fields``: names
    under which a token is given. ``pull_limit``: GETs of manifests per asker. ``clock``: unix seconds, for all these.
    """

    def __init__(
        self,
        *,
        dialect: Dialect = "distribution",
        auth: Auth | None = None,
        users: Mapping[str, User | str] | None = None,
        redirect_blobs: bool | None = None,
        url_lifetime_s: float = 1200.0,
        token_lifetime_s: float = 300.0,
        separate_token_service: bool = False,
        token_fields: Sequence[str] = ("token", "access_token"),
        pull_limit: PullLimit | None = None,
        faults: FaultPlan | None = None,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(faults)
        self.dialect: Dialect = dialect
        self.users = {name: User(who) if isinstance(who, str) else who for name, who in (users or {}).items()}
        self.auth: Auth = auth if auth is not None else "bearer" if self.users else "open"
        self.redirect_blobs = dialect == "ollama" if redirect_blobs is None else redirect_blobs
        self.url_lifetime_s = url_lifetime_s
        self._address = (host, port)
        self._separate_token_service = separate_token_service
        self._repositories: dict[str, Repository] = {}
        self._store = SignedStore(seed, clock)
        self._tokens = access.TokenService("embedded-registry", token_lifetime_s, clock, tuple(token_fields), seed)
        self._pulls = access.PullCounter(pull_limit, clock) if pull_limit is not None else None

    def _open_listeners(self) -> None:
        host, port = self._address
        self._listeners.append(Listener(self._answer_registry, host, port))
        self._listeners.append(Listener(self._answer_cdn, host))
        if self._separate_token_service:
            self._listeners.append(Listener(self._answer_token_service, host))

    @property
    def endpoint(self) -> str:
        """Scheme, host and port of the registry."""
        return self._listener(0).origin

    @property
    def cdn_endpoint(self) -> str:
        """The other origin, that serves blobs when they are redirected."""
        return self._listener(1).origin

    @property
    def token_url(self) -> str:
        """Where tokens are to be had: the ``realm`` of the challenge."""
        return f"{self._listener(2 if self._separate_token_service else 0).origin}/token"

    @property
    def host(self) -> str:
        """The registry as it stands in front of a name: ``127.0.0.1:40001``."""
        return self.endpoint.removeprefix("http://")

    def _listener(self, index: int) -> Listener:
        if not self._listeners:
            raise RuntimeError("the registry has not been started: use 'async with Registry()' or registry_in_thread()")
        return self._listeners[index]

    # Content

    def add_model(
        self,
        name: str,
        tag: str = "latest",
        *,
        layers: Mapping[str, ContentLike] | Sequence[tuple[str, ContentLike]] | None = None,
        config: Mapping[str, Any] | None = None,
        private: bool = False,
    ) -> Manifest:
        """Put an Ollama model into the repository ``name`` (``library/tiny``) under ``tag``, as ``ollama push`` does.

        ``layers``: in order, by kind (``model``, ``template``, ``system``, ``params``, ``license``, ``projector``,
        ``adapter``, or a whole media type); pairs where a kind comes twice. By default noise of 5 MiB and some texts.
        ``config``: what differs from the usual one.
        """
        return images.put_model(self._opened(name, private), tag, layers, config or {})

    def add_image(
        self,
        name: str,
        tag: str = "latest",
        *,
        layers: Sequence[images.LayerLike] = ({"etc/image": "embedded\n"},),
        platforms: Sequence[str] = ("linux/amd64",),
        style: images.Style = "docker",
        index: bool | None = None,
        attestation: bool = False,
        config: Mapping[str, Any] | None = None,
        private: bool = False,
    ) -> Manifest:
        """Put a container image into the repository ``name`` under ``tag``; return what the tag points to.

        ``layers``: files, or ``Layer``; each platform gets one more of its own. ``index``: whether the tag points to
        an index; by default when there are several platforms or an ``attestation``, the entry for no platform that
        build tools add. ``config``: of its containers (``Cmd``, ``Env``, …).
        """
        wants_index = len(platforms) > 1 or attestation if index is None else index
        repository = self._opened(name, private)
        return images.put_image(
            repository, tag, layers, platforms, style, index=wants_index, attestation=attestation, config=config or {}
        )

    def put_manifest(self, name: str, tag: str | None, body: bytes, media_type: str) -> Manifest:
        """Put a manifest of any content, however wrong, into a repository that exists already."""
        return self.repository(name).put_manifest(Manifest(body, media_type), tag)

    def repository(self, name: str) -> Repository:
        """Return a repository added before: to move a tag, to delete, to look at manifests and blobs."""
        return self._repositories[name]

    @property
    def repositories(self) -> list[Repository]:
        """All repositories, in the order in which they were added."""
        return list(self._repositories.values())

    def rename(self, name: str, new_name: str) -> Repository:
        """Give a repository another name. Nobody is told the new one: registries know no renaming."""
        repository = self._repositories.pop(name)
        repository.name = new_name
        self._repositories[new_name] = repository
        return repository

    def remove(self, name: str) -> None:
        """Forget a repository with all it holds."""
        del self._repositories[name]

    def revoke_tokens(self) -> None:
        """Take no token any more that was issued so far."""
        self._tokens.revoke_all()

    def _opened(self, name: str, private: bool) -> Repository:
        if private and self.auth == "open":
            raise ValueError("a private repository needs a registry with auth='basic' or 'bearer', and users")
        repository = self._repositories.get(name) or Repository(name)
        repository.private = repository.private or private
        self._repositories[name] = repository
        return repository

    # Answering

    async def _answer_registry(self, request: Request) -> Reply:
        route = parse(request.path)
        return await self._answer_at(request, OTHER if self._separate_token_service and route == TOKEN else route)

    async def _answer_token_service(self, request: Request) -> Reply:
        return await self._answer_at(request, TOKEN if parse(request.path) == TOKEN else OTHER)

    async def _answer_at(self, request: Request, route: Route) -> Reply:
        record = self._record(request, route.name, credentials="authorization" in request.headers)
        record.repo = route.repository
        record.path = record.revision = route.reference
        asker = self._identify(request, route)
        record.principal = asker.user
        exchange = Exchange(request, record, self)
        reply = await self._settle(exchange, lambda: self._answer_route(exchange, route, asker))
        if self.dialect == "distribution":
            reply.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        return self._finish(exchange, reply)

    async def _answer_cdn(self, request: Request) -> Reply:
        record = self._record(request, "cdn", credentials="authorization" in request.headers)
        record.repo, record.path = self._store.owner_of(request.target)
        exchange = Exchange(request, record, self)
        return self._finish(exchange, await self._settle(exchange, lambda: self._store.answer(exchange.request)))

    async def _settle(self, exchange: Exchange, answer: Callable[[], Reply]) -> Reply:
        try:
            return await self.faults.before(exchange) or answer()
        except Refused as refused:
            return refused.reply
        except Exception as error:
            self.failures.append(error)
            return refusal(500, "UNKNOWN", f"the embedded registry failed: {error!r}")

    def _identify(self, request: Request, route: Route) -> Asker:
        if self.auth == "bearer" and route != TOKEN:
            return self._tokens.redeem(request)
        if self.auth == "open":
            return Asker()
        return access.basic_login(request, self.users)

    def _answer_route(self, exchange: Exchange, route: Route, asker: Asker) -> Reply:
        request = exchange.request
        if route == TOKEN and self.auth == "bearer":
            return self._tokens.answer(request, asker, self._may_pull)
        if route in (TOKEN, OTHER) or (self.dialect == "ollama" and route.name in ("ping", "tags")):
            return Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, BytesContent(b"404 page not found\n"))
        self._admit(route.repository, asker)
        if request.method not in ("GET", "HEAD"):
            return refusal(405, "UNSUPPORTED", "The operation is unsupported.", Allow="GET, HEAD")
        if route.name == "ping":
            return Reply(200, rows={})
        repository = self._repositories.get(route.repository or "", Repository("nothing"))
        if route.name == "tags":
            return answers.tags(self._repositories.get(route.repository or ""), request, route)
        assert route.reference is not None
        if route.name == "manifest":
            return self._manifest(request, repository, route.reference, asker)
        return self._blob(exchange, repository, route.reference)

    # Who may

    def _may_pull(self, user: str | None, name: str) -> bool:
        """Whether a user, or anybody at all, may pull a repository. What is missing is as closed as what is private."""
        who = self.users.get(user) if user is not None else None
        if who is not None and who.opens(name):
            return True
        repository = self._repositories.get(name)
        return repository is not None and not repository.private

    def _admit(self, name: str | None, asker: Asker) -> None:
        """Refuse who is not known well enough, as the way of logging in demands."""
        if self.auth == "open":
            return
        if self.auth == "basic":
            if asker.error is not None:
                raise Refused(access.unauthorized('Basic realm="embedded registry"', name))
            if name is not None and not self._may_pull(asker.user, name):
                raise Refused(refusal(403, "DENIED", "requested access to the resource is denied"))
            return
        challenge = f'Bearer realm="{self.token_url}",service="{self._tokens.service}"'
        if name is not None:
            challenge += f',scope="repository:{name}:pull"'
        if asker.error == "invalid":
            challenge += ',error="invalid_token"'
        elif asker.error is None:
            # The user is asked again, not only the token: access may have been taken away since.
            if name is None or (name in asker.names and self._may_pull(asker.user, name)):
                return
            challenge += ',error="insufficient_scope"'
        raise Refused(access.unauthorized(challenge, name))

    # Routes

    def _manifest(self, request: Request, repository: Repository, reference: str, asker: Asker) -> Reply:
        announced: dict[str, str] = {}
        if self._pulls is not None:
            pulls = 1 if request.method == "GET" else 0
            announced, over = self._pulls.charge(asker.user or request.peer, pulls)
            if over is not None:
                over.headers |= announced
                return over
        manifest = repository.find(reference)
        if manifest is None:
            named = {"Name": repository.name, "Revision": reference} if is_digest(reference) else {"Tag": reference}
            return refusal(404, "MANIFEST_UNKNOWN", "manifest unknown", named)
        return answers.manifest(self.dialect, request, repository, manifest, reference, announced)

    def _blob(self, exchange: Exchange, repository: Repository, digest: str) -> Reply:
        if not is_digest(digest):
            return refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content", {})
        content = repository.blobs.get(digest)
        if content is None:
            return refusal(404, "BLOB_UNKNOWN", "blob unknown to registry", digest)
        request = exchange.request
        if self.redirect_blobs:
            lifetime_s = self.url_lifetime_s if exchange.url_lifetime_s is None else exchange.url_lifetime_s
            location = self._store.sign(self.cdn_endpoint, request.method, repository.name, digest, content, lifetime_s)
            return answers.redirect(location, digest)
        return answers.blob(request, digest, content)


@contextmanager
def registry_in_thread(registry: Registry | None = None, **settings: Any) -> Iterator[Registry]:
    """Run a registry in a thread until the block is left.

    Takes a ``Registry`` that has not been started, or the keyword arguments to make one.
    """
    with in_thread(registry if registry is not None else Registry(**settings)) as running:
        yield running
