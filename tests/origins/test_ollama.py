"""The dialect of Ollama's registry: which requests are made, where they go, and what a store consists of."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fetcher.errors import FetcherError, ForbiddenError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.ollama import Ollama
from fetcher.model.secret import AWSKeys, Login, Secret
from fetcher.net.api import ApiClient
from fetcher.net.request import Request
from fetcher.net.roads import Roads
from fetcher.origins.ollama import OllamaOrigin
from fetcher.testing.registry import HOSTILE_MANIFESTS, HostileManifest, Registry, User
from tests.net.fakes import FakeResponse, FakeTransport, answer
from tests.origins.conformance import Answered
from tests.origins.ollama_reader import models_in
from tests.origins.registries import origin_at, settings_for, store_of

NOBODY = Asker("job")
LAYERS = {"model": b"weights", "license": b"free", "params": b"{}"}
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class _At:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint


def scripted(*script: Any, endpoint: str = "https://registry.ollama.ai") -> tuple[OllamaOrigin, FakeTransport]:
    """An origin that talks to a script instead of a network."""
    transport = FakeTransport(*script)
    settings = settings_for(_At(endpoint), api_tries_max=1)
    return OllamaOrigin(ApiClient(transport, settings), settings), transport


def document(*layers: tuple[str, bytes], config: Any = b"{}", **changes: Any) -> dict[str, Any]:
    def row(media_type: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    made: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "layers": [row(f"application/vnd.ollama.image.{kind}", data) for kind, data in layers],
    }
    if isinstance(config, bytes):
        config = row("application/vnd.docker.container.image.v1+json", config)
    made["config"] = config
    return {**made, **changes}


def body(made: Mapping[str, Any]) -> FakeResponse:
    return answer(200, json.dumps(made).encode(), Content_Type="text/plain; charset=utf-8")


MODEL = document(("model", b"weights"), ("params", b"{}"), config=b"{ }")


# --- addresses


@pytest.mark.parametrize(
    ("name", "url", "path"),
    [
        ("tiny", "registry.ollama.ai/v2/library/tiny/manifests/latest", "registry.ollama.ai/library/tiny/latest"),
        (
            "gpt-oss:20b",
            "registry.ollama.ai/v2/library/gpt-oss/manifests/20b",
            "registry.ollama.ai/library/gpt-oss/20b",
        ),
        ("acme/x:q4_K_M", "registry.ollama.ai/v2/acme/x/manifests/q4_K_M", "registry.ollama.ai/acme/x/q4_K_M"),
        ("hf.co/Acme/x.y-GGUF:Q8_0", "hf.co/v2/Acme/x.y-GGUF/manifests/Q8_0", "hf.co/Acme/x.y-GGUF/Q8_0"),
        ("R.example:5000/a/b:c", "r.example:5000/v2/a/b/manifests/c", "r.example:5000/a/b/c"),
    ],
)
def test_one_question_for_a_model(name: str, url: str, path: str) -> None:
    origin, transport = scripted(body(MODEL))
    manifest = asyncio.run(origin.resolve(Ollama.of(name), NOBODY))
    assert [request.url for request in transport.asked] == [f"https://{url}"]
    assert transport.asked[0].purpose == "api" and transport.asked[0].guarded
    assert manifest.files[-1].path == f"manifests/{path}"
    assert [entry.path for entry in manifest.files[:-1]] == sorted(
        f"blobs/sha256-{hashlib.sha256(data).hexdigest()}" for data in (b"weights", b"{}", b"{ }")
    )
    text = json.dumps(MODEL).encode()
    assert manifest.revision == f"sha256:{hashlib.sha256(text).hexdigest()}" == str(manifest.files[-1].digest)
    assert manifest.files[-1].size == len(text)
    assert not manifest.private and manifest.origin == "ollama"


def test_a_mirror_fills_the_store_of_the_registry_itself() -> None:
    origin, transport = scripted(body(MODEL), endpoint="http://127.0.0.1:5000")
    manifest = asyncio.run(origin.resolve(Ollama.of("tiny"), NOBODY))
    assert transport.asked[0].url == "http://127.0.0.1:5000/v2/library/tiny/manifests/latest"
    assert manifest.files[-1].path == "manifests/registry.ollama.ai/library/tiny/latest"
    assert (manifest.endpoint, manifest.repository) == ("http://127.0.0.1:5000", "library/tiny")


def test_the_configured_registry_may_be_named_in_full() -> None:
    origin, transport = scripted(body(MODEL), endpoint="http://127.0.0.1:5000")
    manifest = asyncio.run(origin.resolve(Ollama.of("127.0.0.1:5000/library/tiny"), NOBODY))
    assert transport.asked[0].url == "http://127.0.0.1:5000/v2/library/tiny/manifests/latest"
    assert manifest.files[-1].path == "manifests/127.0.0.1:5000/library/tiny/latest"


def test_other_hosts_are_asked_over_https_and_the_error_says_so() -> None:
    async def main() -> None:
        async with Registry() as registry, origin_at(_At("https://registry.ollama.ai")) as (origin, _):
            registry.add_model("library/tiny")
            with pytest.raises(TransportError) as caught:
                await origin.resolve(Ollama.of(f"{registry.host}/library/tiny"), NOBODY)
            assert caught.value.hint is not None
            assert "over https" in caught.value.hint and "FETCHER_OLLAMA_URL" in caught.value.hint

    asyncio.run(main())


def test_an_operator_is_trusted_with_the_registry_that_was_named_and_no_other() -> None:
    origin, transport = scripted(body(MODEL), endpoint="http://127.0.0.1:5000")
    operator = Asker("operator", None, frozenset({"http://127.0.0.1:5000"}))
    asyncio.run(origin.resolve(Ollama.of("tiny", "r.example/a/b"), operator))
    assert [(request.origin, request.guarded) for request in transport.asked] == [
        ("https://r.example:443", True),
        ("http://127.0.0.1:5000", False),
    ]


# --- stores of several models


def test_models_share_one_store_and_each_content_is_there_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Registry(dialect="ollama") as registry:
            for name, config in (("library/one", "1B"), ("library/two", "2B"), ("acme/three", "1B")):
                registry.add_model(name, layers=LAYERS, config={"model_type": config})
            resource = Ollama.of("two", "one", "acme/three", "one:latest")
            async with origin_at(registry) as (origin, transport):
                manifest = await origin.resolve(resource, NOBODY)
                expected = store_of(registry, "library/one", "library/two", "acme/three")
                assert [entry.path for entry in manifest.files] == sorted(expected)
                assert len(expected) == 3 + 3 + 2  # manifests, layers, two configs
                await save(origin, transport, manifest, tmp_path)
                assert await origin.revision(resource, NOBODY) == await origin.revision(
                    Ollama.of("acme/three", "one", "two"), NOBODY
                )
            for path, data in expected.items():
                assert (tmp_path / path).read_bytes() == data

    asyncio.run(main())
    assert set(models_in(tmp_path)) == {
        "registry.ollama.ai/library/one:latest",
        "registry.ollama.ai/library/two:latest",
        "registry.ollama.ai/acme/three:latest",
    }


def test_the_revision_of_several_changes_with_each() -> None:
    async def main() -> None:
        async with Registry() as registry, origin_at(registry) as (origin, _):
            for name in ("library/one", "library/two"):
                registry.add_model(name, layers=LAYERS)
            both = Ollama.of("one", "two")
            seen = {(await origin.revision(both, NOBODY)).revision}
            assert seen == {(await origin.resolve(both, NOBODY)).revision}
            for name in ("library/one", "library/two"):
                registry.add_model(name, layers={**LAYERS, "system": name.encode()})
                seen.add((await origin.revision(both, NOBODY)).revision)
            assert len(seen) == 3 and all(revision and len(revision) == 71 for revision in seen)

    asyncio.run(main())


def test_one_missing_model_of_several_is_named() -> None:
    async def main() -> None:
        async with Registry() as registry, origin_at(registry) as (origin, _):
            registry.add_model("library/one")
            with pytest.raises(NotFoundError, match="ollama://two:latest") as caught:
                await origin.resolve(Ollama.of("one", "two"), NOBODY)
            assert caught.value.hint == "the name is mistyped, or private; ollama.com/library lists the public ones"

    asyncio.run(main())


def test_names_that_differ_in_case_only_do_not_share_a_store() -> None:
    origin, _ = scripted(body(MODEL))
    with pytest.raises(ForbiddenError, match="differ"):
        asyncio.run(origin.resolve(Ollama.of("tiny", "Tiny"), NOBODY))


# --- what is a model


@pytest.mark.parametrize("kind", ["model", "tensor", "json", "adapter", "projector", "messages", "of-tomorrow"])
def test_all_kinds_of_layers_are_taken(kind: str) -> None:
    origin, _ = scripted(body(document((kind, b"x"))))
    assert len(asyncio.run(origin.resolve(Ollama.of("tiny"), NOBODY)).files) == 3


def test_a_model_may_have_no_config_or_no_layers_but_not_neither() -> None:
    for made, count in (
        (document(("model", b"x"), config=None), 2),
        (document(("model", b"x"), config={"digest": "", "size": 0, "mediaType": ""}), 2),
        (document(layers=None), 2),  # a stub for a model that runs elsewhere
    ):
        origin, _ = scripted(body(made))
        assert len(asyncio.run(origin.resolve(Ollama.of("tiny"), NOBODY)).files) == count
    origin, _ = scripted(body(document(config=None)))
    with pytest.raises(ForbiddenError, match="is empty"):
        asyncio.run(origin.resolve(Ollama.of("tiny"), NOBODY))


def test_an_empty_layer_is_a_file() -> None:
    origin, _ = scripted(body(document(("system", b""))))
    manifest = asyncio.run(origin.resolve(Ollama.of("tiny"), NOBODY))
    assert (f"blobs/sha256-{EMPTY_SHA256}", 0) in {(entry.path, entry.size) for entry in manifest.files}


def bad(**changes: Any) -> dict[str, Any]:
    made = document(("model", b"weights"), ("params", b"{}"))
    return {**made, "layers": [{**made["layers"][0], **changes}, *made["layers"][1:]]}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (bad(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip"), "is a container image, not an Ollama"),
        (bad(mediaType="application/vnd.oci.image.layer.v1.tar+zstd"), "is a container image, not an Ollama"),
        (bad(mediaType="text/plain"), "a layer of type 'text/plain', not an Ollama"),
        (bad(mediaType=None), "a layer of type '', not an Ollama"),
        (bad(digest="sha512:" + "0" * 128), "sha256 only"),
        (bad(size=10**15), "beyond the bound"),
        (bad(size=0), "which can't be"),
        (bad(digest=f"sha256:{EMPTY_SHA256}"), "which can't be"),
        (document(("model", b"x"), config={"mediaType": "x/y", "digest": "sha256:" + "0" * 64, "size": 1}), "x/y"),
        (bad(digest=f"sha256:{hashlib.sha256(b'{}').hexdigest()}"), "states a size"),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(made: dict[str, Any], words: str) -> None:
    origin, _ = scripted(body(made))
    with pytest.raises((ForbiddenError, TransportError), match=words) as caught:
        asyncio.run(origin.resolve(Ollama.of("tiny"), NOBODY))
    assert "ollama://tiny:latest" in caught.value.message


@pytest.mark.parametrize("platforms", [("linux/amd64",), ("linux/amd64", "linux/arm64")])
@pytest.mark.parametrize("style", ["docker", "oci"])
def test_a_container_image_is_no_model(platforms: tuple[str, ...], style: Any) -> None:
    async def main() -> None:
        async with Registry() as registry, origin_at(registry) as (origin, _):
            registry.add_image("acme/app", platforms=platforms, style=style)
            with pytest.raises(ForbiddenError, match="container image"):
                await origin.resolve(Ollama.of("acme/app"), NOBODY)

    asyncio.run(main())


HARMLESS = {"no-layers", "layers-null", "layers-empty", "no-config", "config-null", "many-layers", "digest-of-nothing"}
HARMLESS |= {"size-understated", "size-overstated"}
"""Lies that only the blobs show, and shapes that Ollama takes as well."""


@pytest.mark.parametrize("kind", HOSTILE_MANIFESTS)
def test_no_hostile_manifest_makes_it_stumble(kind: str) -> None:
    async def main() -> None:
        async with Registry(dialect="ollama") as registry, origin_at(registry) as (origin, _):
            registry.add_model("library/tiny", layers=LAYERS)
            registry.faults.add(HostileManifest(kind))
            try:
                await origin.resolve(Ollama.of("tiny"), NOBODY)
                said = None
            except FetcherError as error:
                said = error
            assert (said is None) == (kind in HARMLESS), said
            assert said is None or isinstance(said, ForbiddenError | TransportError)

    asyncio.run(main())


def test_counts_are_bounded() -> None:
    async def main() -> None:
        async with Registry() as registry, origin_at(registry, manifest_files_max=4) as (origin, _):
            registry.add_model("library/tiny", layers=LAYERS)
            with pytest.raises(ForbiddenError, match="more than 4 files"):
                await origin.resolve(Ollama.of("tiny"), NOBODY)

    asyncio.run(main())


# --- who asks


def test_what_anybody_may_have_is_asked_for_by_nobody() -> None:
    async def test(origin: OllamaOrigin, registry: Registry) -> None:
        alice = Asker("job", Login("alice", Secret("alice-secret")))
        assert not (await origin.resolve(Ollama.of("tiny"), alice)).private
        assert not any(record.principal for record in registry.requests)
        both = await origin.resolve(Ollama.of("tiny", "acme/secret"), alice)
        assert both.private and (await origin.revision(Ollama.of("tiny", "acme/secret"), alice)).private
        pinned = await origin.revision(Ollama.of("acme/secret"), alice)
        assert pinned.private
        other = Asker("job", AWSKeys("key", Secret("another kind")))
        assert not (await origin.resolve(Ollama.of("tiny"), other)).private

    async def main() -> None:
        async with Registry(users={"alice": User("alice-secret")}) as registry, origin_at(registry) as (origin, _):
            registry.add_model("library/tiny")
            registry.add_model("acme/secret", private=True)
            await test(origin, registry)

    asyncio.run(main())


def test_bodies_from_other_hosts_are_asked_for_without_the_credential() -> None:
    def script(request: Request) -> FakeResponse:
        if request.origin == "https://registry.ollama.ai:443" and not request.credential:
            return answer(401, WWW_Authenticate='Basic realm="x"')
        return body(MODEL if "library" in request.url else document(("model", b"other")))

    origin, _ = scripted(script)
    alice = Asker("job", Secret("ready"))
    manifest = asyncio.run(origin.resolve(Ollama.of("other.example/a/b", "tiny"), alice))
    assert manifest.private and manifest.endpoint == "https://registry.ollama.ai:443"
    requests = [origin.locate(manifest, entry, alice) for entry in manifest.files]
    assert {(request.origin, request.carried_credential) for request in requests} == {
        ("https://registry.ollama.ai:443", alice.credential),
        ("https://other.example:443", None),
    }


def test_a_credential_goes_to_the_configured_registry_and_not_to_the_hosts_of_other_models() -> None:
    def script(request: Request) -> FakeResponse:
        if request.url.endswith("/manifests/latest"):
            return body(MODEL) if request.credential else answer(401, WWW_Authenticate='Basic realm="x"')
        return answer(404)

    async def main() -> None:
        origin, transport = scripted(script)
        alice = Asker("job", Login("alice", Secret("alice-secret")))
        assert (await origin.resolve(Ollama.of("tiny"), alice)).private
        with pytest.raises(NotFoundError):
            await origin.resolve(Ollama.of("a-first.example/a/b", "tiny"), alice)
        assert {request.origin for request in transport.asked if request.credential} == {
            "https://registry.ollama.ai:443"
        }

    asyncio.run(main())


# --- bodies


async def save(origin: OllamaOrigin, transport: Roads, manifest: Manifest, directory: Path) -> None:
    """Fetch a store as plainly as it goes."""
    for entry in manifest.files:
        request = origin.locate(manifest, entry, NOBODY)
        while True:
            response = await transport.send(request, idle_timeout_s=5)
            following = origin.follow(request, response)
            if following is None:
                break
            await response.release()
            request = following
        assert response.status == 200, entry
        path = directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(await response.read_all(1 << 24))
        await response.release()


def entries_of(origin: OllamaOrigin, asker: Asker = NOBODY) -> tuple[Manifest, FileEntry, FileEntry]:
    """A manifest of one model, its entry of the manifest and one of a blob."""
    manifest = asyncio.run(origin.resolve(Ollama.of("tiny"), asker))
    return manifest, manifest.files[-1], manifest.files[0]


def test_where_bodies_begin() -> None:
    origin, _ = scripted(body(MODEL))
    manifest, document_entry, blob = entries_of(origin)
    request = origin.locate(manifest, blob, NOBODY)
    assert request.url == f"https://registry.ollama.ai/v2/library/tiny/blobs/{blob.digest}" == blob.url
    assert (request.method, request.purpose, request.headers, request.credential) == ("GET", "body", (), None)
    request = origin.locate(manifest, document_entry, NOBODY)
    assert request.url == f"https://registry.ollama.ai/v2/library/tiny/manifests/{manifest.revision}"
    assert "application/vnd.docker.distribution.manifest.v2+json" in dict(request.headers)["Accept"]


def test_a_manifest_is_found_where_its_registry_keeps_it() -> None:
    origin, _ = scripted(body(MODEL))
    manifest, entry, blob = entries_of(origin)
    base = "https://registry.ollama.ai/v2/library/tiny"
    urls = [f"{base}/manifests/{entry.digest}", f"{base}/blobs/{entry.digest}", f"{base}/manifests/latest"]
    for url in urls[:2]:
        assert origin.locate(manifest, entry, NOBODY).url == url
        # Others may still be on their way to the first address.
        for _ in range(2):
            assert origin.refusal(Answered(404, url), entry, signed=False).kind == "expired"
    assert origin.locate(manifest, entry, NOBODY).url == urls[2]
    final = origin.refusal(Answered(404, urls[2]), entry, signed=False)
    assert final.kind == "final" and isinstance(final.error, NotFoundError)
    # The addresses of other manifests, and of blobs, are not in doubt.
    assert origin.refusal(Answered(404, blob.url or ""), blob, signed=False).kind == "final"
    assert origin.locate(manifest, blob, NOBODY).url == blob.url


def test_a_tag_that_was_moved_is_a_change() -> None:
    origin, _ = scripted(body(MODEL))
    _, entry, blob = entries_of(origin)
    tag = "https://registry.ollama.ai/v2/library/tiny/manifests/latest"
    size = str(entry.size)
    for headers, same in (
        ({}, True),
        ({"Content-Length": size, "Docker-Content-Digest": str(entry.digest)}, True),
        ({"Content-Length": "7"}, False),
        ({"Docker-Content-Digest": "sha256:" + "0" * 64}, False),
        ({"Ollama-Content-Digest": "0" * 64}, False),
    ):
        assert (origin.stated(Answered(200, tag, headers), entry, whole=True) is entry) == same
    by_digest = Answered(200, entry.url or "", {"Content-Length": "7"})
    assert origin.stated(by_digest, entry, whole=True) is entry
    assert origin.stated(Answered(206, "https://cdn.example/x?sig=1"), blob, whole=False) is blob


def test_renewing_finds_another_address_or_says_that_the_tag_was_moved() -> None:
    def registry_with(latest: str) -> Callable[[Request], FakeResponse]:
        def script(request: Request) -> FakeResponse:
            if request.method == "GET":
                return body(MODEL)
            if request.url.endswith("/manifests/latest"):
                return answer(200, b"", Ollama_Content_Digest=latest)
            return answer(404)

        return script

    digits = hashlib.sha256(json.dumps(MODEL).encode()).hexdigest()
    origin, transport = scripted(registry_with(digits))
    manifest, entry, blob = entries_of(origin)
    asyncio.run(origin.renew(manifest, entry, NOBODY))
    assert origin.locate(manifest, entry, NOBODY).url.endswith("/manifests/latest")
    assert [request.method for request in transport.asked] == ["GET", "HEAD", "HEAD", "HEAD"]
    with pytest.raises(NotFoundError, match="blob sha256"):
        asyncio.run(origin.renew(manifest, blob, NOBODY))
    origin, _ = scripted(registry_with("0" * 64))
    manifest, entry, _ = entries_of(origin)
    with pytest.raises(TransportError, match="was changed at") as caught:
        asyncio.run(origin.renew(manifest, entry, NOBODY))
    assert caught.value.hint == "try again"


def test_a_refused_token_is_renewed_for_bodies_too() -> None:
    async def main() -> None:
        users = {"alice": User("alice-secret")}
        async with Registry(users=users) as registry, origin_at(registry) as (origin, transport):
            registry.add_model("acme/secret", private=True)
            alice = Asker("job", Login("alice", Secret("alice-secret")))
            manifest = await origin.resolve(Ollama.of("acme/secret"), alice)
            for entry in (manifest.files[0], manifest.files[-1]):
                registry.revoke_tokens()
                for expected in (401, 200):
                    response = await transport.send(origin.locate(manifest, entry, alice), idle_timeout_s=5)
                    assert response.status == expected
                    if expected == 401:
                        assert origin.refusal(response, entry, signed=False).kind == "expired"
                        await origin.renew(manifest, entry, alice)
                    response.abort()
            # Without the login there is nothing to renew with, and that is said.
            registry.revoke_tokens()
            with pytest.raises(NotFoundError):
                await origin.renew(manifest, manifest.files[0], NOBODY)

    asyncio.run(main())


def test_an_answer_from_elsewhere_is_no_word_of_the_registry() -> None:
    origin, _ = scripted(body(MODEL))
    _, entry, blob = entries_of(origin)
    for one in (entry, blob):
        for status in (400, 401, 403, 404, 410):
            assert origin.refusal(Answered(status, "https://cdn.example/x?sig=1"), one, signed=True).kind == "expired"
        final = origin.refusal(Answered(418, "https://cdn.example/x?sig=hunter2"), one, signed=True)
        assert isinstance(final.error, TransportError) and "hunter2" not in final.error.message
