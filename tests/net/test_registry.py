"""Asking registries: manifests verified, logins given where they are due and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from multidict import CIMultiDict

from fetcher.errors import (
    DeniedError,
    FetcherError,
    ForbiddenError,
    IntegrityError,
    NotFoundError,
    RateLimitedError,
    TransportError,
)
from fetcher.model.secret import Login, Secret
from fetcher.net.aiohttp_transport import AiohttpTransport
from fetcher.net.api import ApiClient
from fetcher.net.registry import Address, RegistryClient, blob_url, manifest_url, stated_digest
from fetcher.net.registry_auth import Challenge as Offered
from fetcher.net.registry_auth import parse_challenges
from fetcher.net.registry_documents import DOCKER_MANIFEST, Platform
from fetcher.net.request import Request
from fetcher.testing.faults import Status
from fetcher.testing.registry import (
    Challenge,
    HostileManifest,
    OtherManifestBytes,
    PullLimit,
    Registry,
    TooManyRequests,
    User,
    WrongDigestHeader,
)
from tests.net.fakes import FakeResponse, FakeTransport, answer
from tests.origins.registries import settings_for

ALICE = Login("alice", Secret("alice-secret"))
MALLORY = Login("mallory", Secret("mallory-secret"))
USERS = {"alice": User("alice-secret"), "eve": User("eve-secret", frozenset())}


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_392_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def client_at(registry: Registry, clock: Clock | None = None, **changes: Any) -> AsyncIterator[RegistryClient]:
    settings = settings_for(registry, **changes)
    transport = AiohttpTransport(settings)
    try:
        yield RegistryClient(ApiClient(transport, settings), *([clock] if clock else []))
    finally:
        await transport.close()


def ask(
    test: Callable[[Registry, RegistryClient], Awaitable[None]], *, allow_net: tuple[str, ...] = ("127.0.0.0/8",),
    settings: dict[str, Any] | None = None, **manners: Any,
) -> None:  # fmt: skip
    async def main() -> None:
        clock = Clock()
        async with Registry(clock=clock, **manners) as registry:
            registry.add_image("acme/app", platforms=("linux/amd64", "linux/arm64"), attestation=True)
            registry.add_model("library/tiny")
            if registry.auth != "open":
                registry.add_model("acme/secret", private=True)
            async with client_at(registry, clock, allow_net=allow_net, **(settings or {})) as client:
                await test(registry, client)

    asyncio.run(main())


# --- manifests


@pytest.mark.parametrize("dialect", ["distribution", "ollama"])
def test_a_manifest_by_tag_and_by_digest(dialect: str) -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        held = registry.repository("library/tiny")["latest"]
        by_tag = await client.manifest(registry.endpoint, "library/tiny", "latest")
        assert (by_tag.content, by_tag.digest, by_tag.media_type) == (held.body, held.digest, DOCKER_MANIFEST)
        by_digest = await client.manifest(registry.endpoint, "library/tiny", held.digest)
        assert (by_digest.content, by_digest.digest) == (held.body, held.digest)
        assert await client.digest(registry.endpoint, "library/tiny", "latest") == held.digest
        assert [record.method for record in registry.requests] == ["GET", "GET", "HEAD"]

    ask(test, dialect=dialect)


@pytest.mark.parametrize("fault", [WrongDigestHeader(), OtherManifestBytes()])
def test_bytes_that_are_not_what_was_named_are_asked_for_once_more(fault: Any) -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        digest = registry.repository("library/tiny")["latest"].digest
        registry.faults.add(fault.on(times=1))
        assert (await client.manifest(registry.endpoint, "library/tiny", digest)).digest == digest
        registry.faults.add(fault)
        for reference in (digest, "latest"):
            with pytest.raises(IntegrityError, match="twice"):
                await client.manifest(registry.endpoint, "library/tiny", reference)
        assert registry.count("manifest") == 6

    ask(test)


def test_a_registry_that_states_no_digest_is_held_to_the_reference() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        digest = registry.repository("library/tiny")["latest"].digest
        registry.faults.add(WrongDigestHeader(missing=True))
        assert (await client.manifest(registry.endpoint, "library/tiny", "latest")).digest == digest
        assert await client.digest(registry.endpoint, "library/tiny", "latest") is None
        registry.faults.add(OtherManifestBytes())
        with pytest.raises(IntegrityError):
            await client.manifest(registry.endpoint, "library/tiny", digest)

    ask(test)


def test_too_large_a_manifest_is_not_read() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        registry.faults.add(HostileManifest("large"))
        with pytest.raises(ForbiddenError, match="longer than 4194304"):
            await client.manifest(registry.endpoint, "library/tiny", "latest")
        assert registry.count("manifest") == 1

    ask(test)


def test_a_portal_is_the_networks_failure_and_a_wrong_shape_the_registrys() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        registry.faults.add(HostileManifest("html").on(times=1))
        await client.manifest(registry.endpoint, "library/tiny", "latest")  # asked again
        registry.faults.add(HostileManifest("html").on(times=2))
        with pytest.raises(TransportError, match="not the JSON"):
            await client.manifest(registry.endpoint, "library/tiny", "latest")
        count = registry.count("manifest")
        registry.faults.add(HostileManifest("schema-1"))
        with pytest.raises(ForbiddenError, match="schema 1"):
            await client.manifest(registry.endpoint, "library/tiny", "latest")
        assert registry.count("manifest") == count + 1

    ask(test)


def test_a_registry_without_head_does_not_say_the_digest() -> None:
    async def main() -> None:
        client, transport = scripted(answer(405))
        assert await client.digest("https://registry.example", "a/b", "c") is None
        await client.check_blob("https://registry.example", "a/b", "sha256:" + "0" * 64)
        assert [request.method for request in transport.asked] == ["HEAD", "HEAD"]

    asyncio.run(main())


def test_stated_digests() -> None:
    digits = "ab" * 32
    assert stated_digest({"Docker-Content-Digest": f"sha256:{digits}"}) == f"sha256:{digits}"
    assert stated_digest({"Ollama-Content-Digest": digits}) == f"sha256:{digits}"
    assert stated_digest({"Docker-Content-Digest": "md5:00"}) is None
    assert stated_digest({}) is None


def test_addresses_are_made_and_read() -> None:
    digest = "sha256:" + "0" * 64
    for url, kind, reference in (
        (manifest_url("https://r.example:5000", "a/b", "v1.0"), "manifests", "v1.0"),
        (blob_url("https://r.example:5000", "a/b", digest), "blobs", digest),
    ):
        assert url == f"https://r.example:5000/v2/a/b/{kind}/{reference}"
        assert Address.of(url) == Address("https://r.example:5000", "a/b", kind, reference)
    for odd in ("", "https://r.example/v2/a/manifests/x?y", "https://r.example/v1/a/manifests/x"):
        with pytest.raises(ValueError, match="not an address"):
            Address.of(odd)


# --- images


def test_the_size_of_an_image_for_a_platform() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        repository = registry.repository("acme/app")
        for architecture in ("amd64", "arm64"):
            child = repository.child(repository["latest"], architecture)
            assert child is not None
            parts = [child.document["config"], *child.document["layers"]]
            size = await client.image_size(
                registry.endpoint, "acme/app", "latest", platform=Platform("linux", architecture)
            )
            assert (size.digest, size.layer_count) == (child.digest, len(parts) - 1)
            assert size.size_bytes == sum(len(repository.blobs[part["digest"]].read()) for part in parts)
        with pytest.raises(NotFoundError, match="linux/s390x") as caught:
            await client.image_size(registry.endpoint, "acme/app", "latest", platform=Platform("linux", "s390x"))
        assert caught.value.hint == "it has linux/amd64, linux/arm64"
        with pytest.raises(ForbiddenError, match="no container image"):
            await client.image_size(registry.endpoint, "library/tiny", "latest")
        inner = repository["latest"].descriptor(platform={"os": "linux", "architecture": "amd64"})
        nested = {"schemaVersion": 2, "mediaType": repository["latest"].media_type, "manifests": [inner]}
        registry.put_manifest("acme/app", "nested", json.dumps(nested).encode(), repository["latest"].media_type)
        with pytest.raises(ForbiddenError, match="index of indexes"):
            await client.image_size(registry.endpoint, "acme/app", "nested", platform=Platform("linux", "amd64"))

    ask(test)


@pytest.mark.parametrize(("pulls", "spared"), [(8, 50), (50, 50), (8, 0), (0, 1)])
def test_a_size_is_not_asked_for_with_pulls_that_are_to_be_spared(pulls: int, spared: int) -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        asking = client.image_size(
            registry.endpoint, "acme/app", "latest", platform=Platform("linux", "amd64"), pulls_spared=spared
        )
        if pulls >= spared:
            assert (await asking).size_bytes
        else:
            with pytest.raises(RateLimitedError, match=f"allows {pulls} more pulls"):
                await asking
        expected = (["HEAD"] if spared else []) + (["GET", "GET"] if pulls >= spared else [])
        assert [record.method for record in registry.requests] == expected

    ask(test, pull_limit=PullLimit(pulls=pulls))


def test_a_registry_that_does_not_count_or_knows_no_head_tells_the_size() -> None:
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": f"sha256:{'1' * 64}",
                "size": 7,
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "digest": f"sha256:{'2' * 64}",
                    "size": 35,
                }
            ],
        }
    ).encode()

    async def main(head: FakeResponse) -> None:
        client, transport = scripted(head, answer(200, manifest, Content_Type=DOCKER_MANIFEST))
        size = await client.image_size("https://registry.example", "a/b", "c", pulls_spared=50)
        assert size.size_bytes == 42
        assert [request.method for request in transport.asked] == ["HEAD", "GET"]

    for head in (
        answer(405),
        answer(200),
        answer(200, RateLimit_Remaining="many"),
        answer(200, RateLimit_Remaining=""),
    ):
        asyncio.run(main(head))


# --- who asks


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("fields", [("token",), ("access_token",)])
def test_anybody_gets_a_token_for_what_is_public(separate: bool, fields: tuple[str, ...]) -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        first = await client.manifest(registry.endpoint, "library/tiny", "latest")
        await client.digest(registry.endpoint, "library/tiny", "latest")
        assert [record.route for record in registry.requests] == ["manifest", "token", "manifest", "manifest"]
        assert not any(record.authorization for record in registry.requests if record.route == "token")
        request = client.blob_request(registry.endpoint, "library/tiny", first.digest)
        assert request.carried_credential is not None and request.url.endswith(f"/blobs/{first.digest}")
        assert client.blob_request(registry.endpoint, "library/other", first.digest).credential is None

    ask(test, users=USERS, separate_token_service=separate, token_fields=fields)


def test_a_login_opens_what_is_private_and_is_shown_to_the_token_service_only() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        await client.manifest(registry.endpoint, "acme/secret", "latest", credential=ALICE)
        assert [record.route for record in registry.requests] == ["manifest", "token", "manifest"]
        assert [record.authorization for record in registry.requests] == [False, True, True]
        # Each door has its own key: nobody passes with another's.
        with pytest.raises(NotFoundError) as caught:
            await client.manifest(registry.endpoint, "acme/secret", "latest")
        assert caught.value.hint == "the name is mistyped, or private"
        with pytest.raises(DeniedError, match="does not let this login"):
            eve = Login("eve", Secret("eve-secret"))
            await client.manifest(registry.endpoint, "acme/secret", "latest", credential=eve)

    ask(test, users=USERS, separate_token_service=True)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_login_is_denied_in_words_without_it(auth: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        with caplog.at_level(logging.DEBUG), pytest.raises(DeniedError) as caught:
            await client.manifest(registry.endpoint, "library/tiny", "latest", credential=MALLORY)
        assert caught.value.hint
        said = f"{caught.value!r} {caught.value.hint} {client!r} {caplog.text}"
        assert "mallory-secret" not in said
        assert base64.b64encode(b"mallory:mallory-secret").decode() not in said

    ask(test, users=USERS, auth=auth)


def test_basic_logs_in_once_asked_and_remembers() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        for _ in range(2):
            await client.manifest(registry.endpoint, "acme/secret", "latest", credential=ALICE)
        assert [record.authorization for record in registry.requests] == [False, True, True]
        with pytest.raises(NotFoundError):
            await client.manifest(registry.endpoint, "library/tiny", "latest")

    ask(test, users=USERS, auth="basic")


def test_a_ready_token_is_sent_as_it_is_and_never_exchanged() -> None:
    async def main() -> None:
        client, transport = scripted(answer(401, WWW_Authenticate='Bearer realm="https://auth.example/token"'))
        with pytest.raises(DeniedError):
            await client.digest("https://registry.example", "a/b", "c", credential=Secret("ready"))
        assert [request.carried_credential for request in transport.asked] == [Secret("ready")]

    asyncio.run(main())


def test_a_token_is_renewed_in_time_and_when_it_is_refused() -> None:
    async def main() -> None:
        clock = Clock()
        async with Registry(clock=clock, users=USERS, token_lifetime_s=300) as registry:
            registry.add_model("library/tiny")
            async with client_at(registry, clock) as client:

                async def routes() -> list[str]:
                    before = len(registry.requests)
                    await client.digest(registry.endpoint, "library/tiny", "latest")
                    return [record.route for record in list(registry.requests)[before:]]

                assert await routes() == ["manifest", "token", "manifest"]
                assert await routes() == ["manifest"]
                clock.now += 290  # still good there, too near the end here
                assert await routes() == ["manifest", "token", "manifest"]
                registry.revoke_tokens()
                assert await routes() == ["manifest", "token", "manifest"]
                await asyncio.gather(*(routes() for _ in range(5)))
                assert registry.count("token") == 3
                registry.revoke_tokens()
                tokens = registry.count("token")
                await asyncio.gather(*(routes() for _ in range(5)))
                assert registry.count("token") == tokens + 1  # one question for all

    asyncio.run(main())


def test_a_registry_that_takes_no_token_is_not_asked_for_ever() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        registry.faults.add(Challenge(f'Bearer realm="{registry.token_url}",service="embedded-registry"'))
        with pytest.raises(NotFoundError):
            await client.digest(registry.endpoint, "library/tiny", "latest")
        assert registry.count("manifest") <= 3

    ask(test, users=USERS)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Negotiate",
        "Bearer",
        'Bearer realm=""',
        'Bearer realm="not a url"',
        'Bearer realm="ftp://auth.example/token"',
        'Bearer realm="http://user:secret@auth.example/token"',
        "Bearer realm=" + '"' * 5000,
        "=,=,=,\x00",
    ],
)
def test_no_challenge_makes_it_stumble(header: str) -> None:
    async def main() -> None:
        client, transport = scripted(answer(401, WWW_Authenticate=header))
        with pytest.raises((NotFoundError, ForbiddenError)) as caught:
            await client.digest("https://registry.example", "a/b", "c")
        assert "secret@" not in f"{caught.value} {caught.value.hint}"
        assert len(transport.asked) == 1

    asyncio.run(main())


@pytest.mark.parametrize("credential", [None, ALICE])
def test_a_realm_elsewhere_is_a_stranger_to_the_guard(credential: Login | None) -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        # An operator named the registry; where it sends us, nobody named.
        trusted = frozenset({registry.endpoint})
        with pytest.raises(ForbiddenError, match="loopback"):
            await client.manifest(
                registry.endpoint, "library/tiny", "latest", credential=credential, trusted_origins=trusted
            )
        registry.faults.add(Challenge())
        with pytest.raises(ForbiddenError, match="metadata"):
            await client.digest(
                registry.endpoint, "library/tiny", "latest", credential=credential, trusted_origins=trusted
            )
        assert registry.count("token") == 0

    ask(test, users=USERS, allow_net=(), separate_token_service=True)


def test_a_realm_at_a_trusted_registry_itself_needs_no_leave() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        trusted = frozenset({registry.endpoint})
        await client.manifest(registry.endpoint, "acme/secret", "latest", credential=ALICE, trusted_origins=trusted)
        with pytest.raises(ForbiddenError):
            await client.manifest(registry.endpoint, "acme/secret", "latest", credential=ALICE)

    ask(test, users=USERS, allow_net=())


@pytest.mark.parametrize("credential", [Secret("ready"), ALICE, None])
def test_no_credential_follows_a_redirect_and_no_challenge_from_there_counts(credential: Secret | Login | None) -> None:
    def script(request: Request) -> FakeResponse:
        if request.url.startswith("https://registry.example/v2/"):
            return answer(307, Location="https://elsewhere.example/x")
        return answer(401, WWW_Authenticate='Bearer realm="https://elsewhere.example/token"')

    async def main() -> None:
        client, transport = scripted(script)
        with pytest.raises(TransportError, match=r"elsewhere\.example"):
            await client.manifest("https://registry.example", "a/b", "c", credential=credential)
        ready = credential if isinstance(credential, Secret) else None
        assert [request.carried_credential for request in transport.asked] == [ready, None]

    asyncio.run(main())


def test_a_token_request_is_redirected_without_its_login() -> None:
    def script(request: Request) -> FakeResponse:
        if "registry.example" in request.url:
            return answer(401, WWW_Authenticate='Bearer realm="https://auth.example/token?a=1",scope="x y"')
        if "auth.example" in request.url:
            return answer(302, Location="https://thief.example/token")
        return answer(200, b'{"token":"t"}')

    async def main() -> None:
        client, transport = scripted(script)
        with pytest.raises(DeniedError):
            await client.digest("https://registry.example", "a/b", "c", credential=ALICE)
        carried = {request.url.partition("?")[0]: request.carried_credential for request in transport.asked[:3]}
        assert carried["https://auth.example/token"] == ALICE
        assert carried["https://thief.example/token"] is None
        assert transport.asked[1].url == "https://auth.example/token?a=1&scope=x&scope=y"

    asyncio.run(main())


@pytest.mark.parametrize("token", ["", "with blank", "new\nline", "ä"])
def test_a_token_that_can_not_be_sent_is_none(token: str) -> None:
    def script(request: Request) -> FakeResponse:
        if "registry.example" in request.url:
            return answer(401, WWW_Authenticate='Bearer realm="https://auth.example/token"')
        return answer(200, json.dumps({"token": token}).encode())

    async def main() -> None:
        client, _ = scripted(script)
        with pytest.raises(TransportError, match="no token that could be sent"):
            await client.digest("https://registry.example", "a/b", "c")

    asyncio.run(main())


def test_challenges_are_read_as_the_rfc_writes_them() -> None:
    assert parse_challenges('Bearer realm="https://a/t",service="s, x",scope="repository:a/b:pull"') == (
        Offered("bearer", "https://a/t", "s, x", "repository:a/b:pull"),
    )
    assert parse_challenges('Basic realm="a \\"b\\"", bearer realm=https://a/t , Scope = "x"') == (
        Offered("basic", 'a "b"'),
        Offered("bearer", "https://a/t", "", "x"),
    )
    assert parse_challenges("") == ()
    assert parse_challenges("x" * 9000) == ()


# --- refusals


def test_limits_say_when_there_will_be_more() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        await client.manifest(registry.endpoint, "library/tiny", "latest")
        await client.digest(registry.endpoint, "library/tiny", "latest")  # HEAD costs no pull
        with pytest.raises(RateLimitedError, match="asks to wait 21600 s") as caught:
            await client.manifest(registry.endpoint, "library/tiny", "latest")
        assert caught.value.hint == "try again later; with a login a registry allows more"
        registry.faults.add(TooManyRequests(retry_after=999))
        with pytest.raises(RateLimitedError, match="999 s"):
            await client.digest(registry.endpoint, "library/tiny", "latest")

    ask(test, pull_limit=PullLimit(pulls=1))


def test_a_short_limit_is_waited_for() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        registry.faults.add(TooManyRequests(retry_after=0).on(times=1))
        await client.manifest(registry.endpoint, "library/tiny", "latest")

    ask(test)


TOO_MANY = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}'


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "words"),
    [
        (404, b"", {}, NotFoundError, "knows no"),
        (410, b"", {}, NotFoundError, "knows no"),
        (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', {}, NotFoundError, "knows no"),
        (400, b'{"errors":[{"code":"NAME_INVALID","message":"invalid"}]}', {}, NotFoundError, "knows no"),
        (401, b"", {}, NotFoundError, "open to everybody"),
        (403, b'{"errors":[{"code":"DENIED","message":"paid plan"}]}', {}, DeniedError, "paid plan"),
        (403, TOO_MANY, {"Retry-After": "60"}, RateLimitedError, "in 60 s it will again"),
        (400, b"[]", {}, TransportError, "answered 400"),
        (451, b"\xff", {}, TransportError, "answered 451"),
    ],
)
def test_refusals_in_our_words(
    status: int, body: bytes, headers: dict[str, str], kind: type[FetcherError], words: str
) -> None:
    async def main() -> None:
        client, _ = scripted(FakeResponse(status, body, CIMultiDict(headers)))
        with pytest.raises(kind, match=words) as caught:
            await client.manifest("https://registry.example", "a/b", "c")
        assert "registry.example" in caught.value.message
        if kind is NotFoundError:
            assert caught.value.hint is not None and "private" in caught.value.hint

    asyncio.run(main())


def test_a_stumbling_registry_is_asked_again() -> None:
    async def test(registry: Registry, client: RegistryClient) -> None:
        registry.faults.add(Status(503).on("manifest", times=1))
        await client.manifest(registry.endpoint, "library/tiny", "latest")

    ask(test)


def scripted(*script: Any) -> tuple[RegistryClient, FakeTransport]:
    transport = FakeTransport(*script)
    settings = settings_for(_Nowhere(), api_tries_max=1)
    return RegistryClient(ApiClient(transport, settings)), transport


class _Nowhere:
    endpoint = "https://registry.example"
