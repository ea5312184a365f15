"""Ollama models from a real registry (Debian's docker-registry): resolved, fetched and read as Ollama reads them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fetcher.errors import DeniedError, ForbiddenError, NotFoundError
from fetcher.model.asker import Asker
from fetcher.model.manifest import Manifest
from fetcher.model.ollama import Ollama
from fetcher.model.ranges import ByteRange
from fetcher.model.secret import Login, Secret
from fetcher.net.api import ApiClient
from fetcher.net.registry import RegistryClient
from fetcher.net.registry_documents import Platform
from fetcher.net.roads import Roads
from fetcher.origins.ollama import OllamaOrigin
from tests.origins.ollama_reader import models_in
from tests.origins.registries import origin_at, settings_for
from tests.support.servers.docker_registry import DockerRegistry, run_docker_registry
from tests.support.servers.images import DOCKER, OCI, Image, image_of, index_of, layer_of, push

pytestmark = pytest.mark.needs("debian:docker-registry")

WEIGHTS = bytes(range(251)) * 9_000
NOBODY = Asker("job")


def model_of(*layers: tuple[str, bytes]) -> Image:
    """A model as ``ollama push`` would send it."""
    config = json.dumps({"model_format": "gguf", "architecture": "amd64", "os": "linux"}).encode()
    rows = [_row("application/vnd.docker.container.image.v1+json", config)]
    rows += [_row(f"application/vnd.ollama.image.{kind}", data) for kind, data in layers]
    document = {"schemaVersion": 2, "mediaType": DOCKER["manifest"], "config": rows[0], "layers": rows[1:]}
    blobs = {row["digest"]: data for row, data in zip(rows, (config, *(data for _, data in layers)), strict=True)}
    return Image(json.dumps(document).encode(), DOCKER["manifest"], blobs)


def _row(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


TINY = model_of(("model", WEIGHTS), ("license", b"free\n"), ("params", b'{"num_ctx":4096}'))
OTHER = model_of(("model", WEIGHTS), ("license", b"free\n"), ("system", b"You are small."))


async def save(origin: OllamaOrigin, transport: Roads, manifest: Manifest, asker: Asker, directory: Path) -> None:
    for entry in manifest.files:
        request = origin.locate(manifest, entry, asker)
        response = await transport.send(request, idle_timeout_s=5)
        assert response.status == 200, entry
        assert origin.follow(request, response) is None
        assert origin.stated(response, entry, whole=True) == entry
        path = directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(await response.read_all(1 << 24))
        await response.release()


def login_of(registry: DockerRegistry) -> Login:
    assert registry.credentials is not None
    name, password = registry.credentials
    return Login(name, Secret(password))


def test_two_models_make_one_store_that_ollama_can_read(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    push(TINY, docker_registry.endpoint, "library/real-tiny", "1b")
    push(OTHER, docker_registry.endpoint, "acme/real-other", "latest")
    resource = Ollama.of("real-tiny:1b", "acme/real-other")

    async def main() -> None:
        async with origin_at(docker_registry) as (origin, transport):
            manifest = await origin.resolve(resource, NOBODY)
            assert not manifest.private
            pinned = await origin.revision(resource, NOBODY)
            assert (pinned.revision, pinned.private) == (manifest.revision, False)
            assert len(manifest.files) == 2 + 5  # weights, license and config are shared
            await save(origin, transport, manifest, NOBODY, tmp_path)
            weights = max(manifest.files, key=lambda entry: entry.size)
            span = ByteRange(1000, 70_000)
            request = origin.locate(manifest, weights, NOBODY)
            ranged = replace(request, headers=(*request.headers, ("Range", span.header())))
            response = await transport.send(ranged, idle_timeout_s=5)
            assert response.status == 206
            assert await response.read_all(1 << 20) == WEIGHTS[1000:70_000]
            await response.release()

    asyncio.run(main())
    assert models_in(tmp_path) == {
        "registry.ollama.ai/library/real-tiny:1b": sum(map(len, TINY.blobs.values())),
        "registry.ollama.ai/acme/real-other:latest": sum(map(len, OTHER.blobs.values())),
    }


def test_a_tag_that_moves_is_seen_and_what_was_pinned_stays(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    push(TINY, docker_registry.endpoint, "library/real-moving", "latest")
    resource = Ollama.of("real-moving")

    async def main() -> None:
        async with origin_at(docker_registry) as (origin, transport):
            before = await origin.resolve(resource, NOBODY)
            assert before.revision == TINY.digest
            push(OTHER, docker_registry.endpoint, "library/real-moving", "latest")
            assert (await origin.revision(resource, NOBODY)).revision == OTHER.digest
            await save(origin, transport, before, NOBODY, tmp_path)
            await origin.renew(before, before.files[-1], NOBODY)
            assert origin.locate(before, before.files[-1], NOBODY).url.endswith(TINY.digest)

    asyncio.run(main())
    assert (tmp_path / "manifests/registry.ollama.ai/library/real-moving/latest").read_bytes() == TINY.manifest


def test_what_is_not_there_and_what_is_no_model(docker_registry: DockerRegistry) -> None:
    push(image_of([layer_of({"a": b"a"})]), docker_registry.endpoint, "acme/real-image", "latest")

    async def main() -> None:
        async with origin_at(docker_registry) as (origin, _):
            for name in ("real-missing", "acme/real-image:missing"):
                with pytest.raises(NotFoundError) as caught:
                    await origin.resolve(Ollama.of(name), NOBODY)
                assert caught.value.hint is not None and "or private" in caught.value.hint
                with pytest.raises(NotFoundError):
                    await origin.revision(Ollama.of(name), NOBODY)
            with pytest.raises(ForbiddenError, match="is a container image"):
                await origin.resolve(Ollama.of("acme/real-image"), NOBODY)

    asyncio.run(main())


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_registry_that_wants_a_login(auth: Any, tmp_path: Path) -> None:
    with run_docker_registry(auth=auth) as registry:
        push(TINY, registry.endpoint, "acme/secret", "latest", credentials=registry.credentials)
        resource = Ollama.of("acme/secret")
        insider = Asker("job", login_of(registry))

        async def main() -> None:
            async with origin_at(registry) as (origin, transport):
                with pytest.raises(NotFoundError, match="open to everybody"):
                    await origin.resolve(resource, NOBODY)
                with pytest.raises(DeniedError):
                    stranger = Asker("job", Login(login_of(registry).username, Secret("wrong")))
                    await origin.resolve(resource, stranger)
                manifest = await origin.resolve(resource, insider)
                assert manifest.private and manifest.revision == TINY.digest
                assert (await origin.revision(resource, insider)).private
                await save(origin, transport, manifest, insider, tmp_path)
                refused = await transport.send(origin.locate(manifest, manifest.files[0], NOBODY), idle_timeout_s=5)
                assert refused.status == 401
                refused.abort()

        asyncio.run(main())
    assert models_in(tmp_path) == {"registry.ollama.ai/acme/secret:latest": sum(map(len, TINY.blobs.values()))}


def test_tokens_for_everybody_where_a_repository_is_public(tmp_path: Path) -> None:
    with run_docker_registry(auth="token", public_repositories=("library/tiny",)) as registry:
        push(TINY, registry.endpoint, "library/tiny", "latest", credentials=registry.credentials)
        insider = Asker("job", login_of(registry))

        async def main() -> None:
            async with origin_at(registry) as (origin, transport):
                for asker in (NOBODY, insider):
                    manifest = await origin.resolve(Ollama.of("tiny"), asker)
                    assert not manifest.private
                    await save(origin, transport, manifest, asker, tmp_path)

        asyncio.run(main())
    assert list(models_in(tmp_path)) == ["registry.ollama.ai/library/tiny:latest"]


def test_a_token_past_its_time_is_exchanged_for_a_good_one() -> None:
    """The registry gives a minute's leeway, so tokens are asked for that are over for longer than that."""
    with run_docker_registry(auth="token", token_life_s=-120) as stale, run_docker_registry(auth="token") as good:
        push(TINY, good.endpoint, "acme/secret", "latest", credentials=good.credentials)

        async def main() -> None:
            async with origin_at(stale) as (origin, _):
                with pytest.raises(DeniedError):  # no token is ever good there: said, not tried for ever
                    await origin.resolve(Ollama.of("acme/secret"), Asker("job", login_of(stale)))
            async with origin_at(good) as (origin, transport):
                insider = Asker("job", login_of(good))
                manifest = await origin.resolve(Ollama.of("acme/secret"), insider)
                entry = manifest.files[0]
                fresh = OllamaOrigin(ApiClient(transport, settings_for(good)), settings_for(good))
                response = await transport.send(fresh.locate(manifest, entry, insider), idle_timeout_s=5)
                assert response.status == 401  # another process resolved it; this one has no token yet
                assert fresh.refusal(response, entry, signed=False).kind == "expired"
                response.abort()
                await fresh.renew(manifest, entry, insider)
                response = await transport.send(fresh.locate(manifest, entry, insider), idle_timeout_s=5)
                assert response.status == 200
                response.abort()

        asyncio.run(main())


# --- images, which are asked for by the same client


@asynccontextmanager
async def client_at(registry: DockerRegistry) -> AsyncIterator[RegistryClient]:
    settings = settings_for(registry)
    transport = Roads(settings)
    try:
        yield RegistryClient(ApiClient(transport, settings))
    finally:
        await transport.close()


@pytest.mark.parametrize("types", [DOCKER, OCI])
def test_the_size_of_a_real_image(docker_registry: DockerRegistry, types: Any) -> None:
    name = f"acme/real-sized-{'docker' if types is DOCKER else 'oci'}"
    shared = layer_of({"shared": WEIGHTS})
    images = {
        architecture: image_of(
            [shared, layer_of({"own": architecture.encode()}), shared], architecture=architecture, types=types
        )
        for architecture in ("amd64", "arm64")
    }
    push(index_of(images, types=types), docker_registry.endpoint, name, "all")
    push(images["amd64"], docker_registry.endpoint, name, "one")

    async def main() -> None:
        async with client_at(docker_registry) as client:
            for architecture, image in images.items():
                wanted = Platform("linux", architecture)
                size = await client.image_size(docker_registry.endpoint, name, "all", platform=wanted)
                assert (size.digest, size.layer_count) == (image.digest, 3)
                assert size.size_bytes == sum(map(len, image.blobs.values()))
            single = await client.image_size(docker_registry.endpoint, name, "one")
            assert single.digest == images["amd64"].digest
            by_digest = await client.image_size(docker_registry.endpoint, name, images["arm64"].digest)
            assert by_digest.digest == images["arm64"].digest
            assert await client.digest(docker_registry.endpoint, name, "one") == images["amd64"].digest

    asyncio.run(main())
