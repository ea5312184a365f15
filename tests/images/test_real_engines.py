"""Images through real engines (dockerd, Podman) from real registries: Debian's, and the embedded one where something
has to go wrong. What an engine has is asked of it directly, past the code under test.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from fetcher.errors import ImageError
from fetcher.images import pull as pull_module
from fetcher.images.engines import find_engine
from fetcher.images.progress import PullProgress
from fetcher.images.pull import ContainerEngine
from fetcher.model.image import Image, ImageReference
from fetcher.model.secret import Login, Secret
from fetcher.testing.contents import Synthetic
from fetcher.testing.faults import StallAfter, Trickle
from fetcher.testing.registry import PullLimit, Registry, registry_in_thread
from tests.images.stub import settings
from tests.support.servers import images
from tests.support.servers.docker_registry import DockerRegistry, run_docker_registry
from tests.support.servers.engine import Engine
from tests.support.servers.engines import run_dockerd

MIB = 1 << 20


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The embedded registry, open and empty."""
    with registry_in_thread() as running:
        yield running


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of this test alone: engines keep layers, and what an engine has it does not pull."""
    return zlib.crc32(request.node.nodeid.encode())


def made(seed: int, size: int = MIB) -> images.Image:
    """An image of two layers, for Debian's registry."""
    noise = Synthetic(size, seed=seed).read()
    return images.image_of([images.layer_of({"data": noise}), images.layer_of({"seed": b"%d" % seed})])


def on(engine: Engine, test: Callable[[ContainerEngine], Awaitable[None]], **fields: Any) -> None:
    """Run ``test`` with the face of what is found at the engine's socket."""

    async def main() -> None:
        face = await find_engine({"CONTAINER_HOST": engine.host}, settings(**fields))
        assert isinstance(face, ContainerEngine)
        assert face.name == engine.kind
        try:
            async with asyncio.timeout(40):
                await test(face)
        finally:
            await face.close()

    asyncio.run(main())


async def refusal(face: ContainerEngine, image: Image) -> ImageError:
    """The error of a pull that the engine refuses."""
    with pytest.raises(ImageError) as caught:
        await face.pull(image)
    error = caught.value
    assert (error.kind, error.exit_code, error.resource) == ("image", 70, image.uri())
    assert error.message.startswith(f"{face.name.title()} could not pull {image.name}: ")
    assert error.hint
    return error


async def ended(registry: Registry) -> None:
    """Wait until the engine has let go of every blob."""
    deadline = time.monotonic() + 10
    while registry.open_bodies("blob"):
        await asyncio.sleep(0.02)
        assert time.monotonic() < deadline, "the engine goes on with it"


def test_an_image_is_pulled_once_and_present_by_its_exact_name(engine: Engine, registry: Registry, seed: int) -> None:
    registry.add_image(
        "org/app",
        "v1",
        layers=[{"data": Synthetic(3 * MIB, seed)}, {"a": "b"}],
        platforms=("linux/amd64", "linux/arm64"),
    )
    name = f"{registry.host}/org/app:v1"

    async def test(face: ContainerEngine) -> None:
        assert await face.present(name) is None
        seen: list[PullProgress] = []
        done = await face.pull(Image(name), seen.append)
        assert (done.name, done.already_present) == (name, False)
        assert done.bytes > 3 * MIB
        assert name in engine.names()
        found = engine.inspect(name)
        assert found is not None and found["Id"] == done.id
        assert seen[-1].layers_total == 3
        assert all(later != earlier and later.bytes_done >= earlier.bytes_done for earlier, later in pairwise(seen))
        # What is present is present: the registry is not asked again.
        asked = len(registry.requests)
        again = await face.pull(Image(name))
        assert again.already_present and again.id == done.id
        assert len(registry.requests) == asked

    on(engine, test)


def test_a_digest_is_pulled_and_found_as_such(engine: Engine, registry: Registry, seed: int) -> None:
    layers = [{"data": Synthetic(MIB, seed)}]
    index = registry.add_image("org/app", layers=layers, platforms=("linux/amd64", "linux/arm64"))
    name = f"{registry.host}/org/app@{index.digest}"

    async def test(face: ContainerEngine) -> None:
        assert not (await face.pull(Image(name))).already_present
        assert await face.present(name) is not None
        # With both, the digest wins: the tag is neither looked for nor made.
        both = f"{registry.host}/org/app:other@{index.digest}"
        assert (await face.pull(Image(both))).already_present
        assert not {f"{registry.host}/org/app:{tag}" for tag in ("latest", "other")} & engine.names()
        absent = await refusal(face, Image(f"{registry.host}/org/app@sha256:{'0' * 64}"))
        assert "manifest unknown" in absent.message

    on(engine, test)


def test_names_of_the_hub_are_pulled_and_kept_in_the_engines_own_spelling(
    engine: Engine, docker_registry: DockerRegistry, seed: int
) -> None:
    """The fixtures take what is the Hub's from Debian's registry: dockerd ``docker.io`` only, Podman both hosts."""
    tag = f"v{seed}"
    spellings = [
        "fetcher-names/bare",
        "docker.io/fetcher-names/short",
        "index.docker.io/fetcher-names/index",
        "fetcher-one",
    ]
    if engine.kind == "podman":
        spellings.append("registry.hub.docker.com/fetcher-names/long")
    image = made(seed)
    for spelling in spellings:
        repository = ImageReference.parse(spelling).repository
        images.push(image, docker_registry.endpoint, repository, tag)

    async def test(face: ContainerEngine) -> None:
        for number, spelling in enumerate(spellings):
            name = f"{spelling}:{tag}"
            assert await face.present(name) is None
            seen: list[PullProgress] = []
            assert not (await face.pull(Image(name), seen.append)).already_present
            assert ImageReference.parse(name).delivered(face.name) in engine.names()
            if number == 0:
                assert seen[-1].layers_done == seen[-1].layers_total >= 2
            blobs = [asked for asked in docker_registry.blob_requests() if image.layer_digests[0] in asked.path]
            # Layers that came under the first name are there for the others.
            assert len(blobs) == 1
            assert (await face.pull(Image(name))).already_present

    try:
        on(engine, test)
    finally:
        for spelling in spellings:
            name = ImageReference.parse(f"{spelling}:{tag}").delivered(
                "podman" if engine.kind == "podman" else "docker"
            )
            if name in engine.names():
                engine.remove(name)


def test_one_name_of_the_hub_is_not_another(engine: Engine, docker_registry: DockerRegistry, seed: int) -> None:
    tag = f"v{seed}"
    images.push(made(seed), docker_registry.endpoint, "fetcher-names/app", tag)
    source = f"{docker_registry.host}/fetcher-names/app:{tag}"
    engine.pull(source)
    given = ["registry.hub.docker.com/fetcher-names/long", "localhost/fetcher-mine"]

    async def test(face: ContainerEngine) -> None:
        for name in given:
            engine.ask("POST", f"/images/{source}/tag", query={"repo": name, "tag": tag})
            assert await face.present(f"{name}:{tag}") is not None
        # The long host is a registry of its own to the engines.
        assert await face.present(f"fetcher-names/long:{tag}") is None
        assert await face.present(f"docker.io/fetcher-names/long:{tag}") is None
        # An image made on this machine: Podman would take it for the Hub's.
        assert await face.present(f"fetcher-mine:{tag}") is None
        assert await face.present("fetcher-mine") is None

    try:
        on(engine, test)
    finally:
        for name in (*(f"{name}:{tag}" for name in given), source):
            engine.remove(name)


@pytest.mark.needs("docker-registry")
def test_basic_authentication_opens_with_the_right_password_only(engine: Engine, seed: int) -> None:
    with run_docker_registry(auth="basic") as locked:
        assert locked.credentials is not None
        user, password = locked.credentials
        images.push(made(seed), locked.endpoint, "org/app", "v1", credentials=locked.credentials)
        name = f"{locked.host}/org/app:v1"

        async def test(face: ContainerEngine) -> None:
            anonymous = await refusal(face, Image(name))
            assert "wants a login" in (anonymous.hint or "")
            wrong = await refusal(face, Image(name, Login(user, Secret("mistyped-word"))))
            assert "wants a login" in (wrong.hint or "")
            assert "mistyped-word" not in f"{wrong.message} {wrong.hint}"
            assert await face.present(name) is None
            login = Login(user, Secret(password))
            assert not (await face.pull(Image(name, login, locked.endpoint))).already_present
            assert name in engine.names()
            missing = await refusal(face, Image(f"{locked.host}/org/app:v2", login))
            assert "mistyped" in (missing.hint or "")
            assert password not in missing.message

        on(engine, test)


def test_a_token_service_is_asked_with_the_login(engine: Engine, seed: int) -> None:
    with registry_in_thread(users={"tester": "good-word"}) as registry:
        registry.add_image("org/app", layers=[{"data": Synthetic(MIB, seed)}], private=True)
        name = f"{registry.host}/org/app"

        async def test(face: ContainerEngine) -> None:
            for image in (Image(name), Image(name, Login("tester", Secret("mistyped-word")))):
                error = await refusal(face, image)
                assert "login" in (error.hint or "")
                assert "mistyped-word" not in error.message
            await face.pull(Image(name, Login("tester", Secret("good-word"))))
            assert f"{name}:latest" in engine.names()

        on(engine, test)


def test_what_is_not_there_or_not_for_this_machine_is_told_with_a_cure(engine: Engine, registry: Registry) -> None:
    registry.add_image("org/board", "v1", platforms=("linux/s390x",), index=True)

    async def test(face: ContainerEngine) -> None:
        for name, hint in (("org/none:v1", "mistyped"), ("org/board:v2", "mistyped"), ("org/board:v1", "platform")):
            error = await refusal(face, Image(f"{registry.host}/{name}"))
            assert hint in (error.hint or ""), error.message
        assert not any(known.startswith(registry.host) for known in engine.names())

    on(engine, test)


def test_a_limit_of_pulls_is_told_as_such(dockerd: Engine) -> None:
    """With Docker only: Podman comes back five times, for minutes, before it says the same."""
    with registry_in_thread(pull_limit=PullLimit(pulls=0, window_s=3600)) as registry:
        registry.add_image("org/app", "v1")

        async def test(face: ContainerEngine) -> None:
            error = await refusal(face, Image(f"{registry.host}/org/app:v1"))
            assert "counts pulls" in (error.hint or ""), error.message

        on(dockerd, test)


def test_a_cancelled_pull_ends_in_the_engine_too(engine: Engine, registry: Registry, seed: int) -> None:
    registry.add_image("org/app", "v1", layers=[{"data": Synthetic(4 * MIB, seed)}])
    name = f"{registry.host}/org/app:v1"
    registry.faults.add(Trickle(bytes_per_s=100_000).on("blob"))

    async def test(face: ContainerEngine) -> None:
        seen: list[PullProgress] = []
        pull = asyncio.create_task(face.pull(Image(name), seen.append))
        while registry.body_bytes_sent() < 200_000 or not seen:
            await asyncio.sleep(0.02)
            assert not pull.done()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await ended(registry)
        assert await face.present(name) is None
        registry.faults.clear()
        assert not (await face.pull(Image(name))).already_present

    on(engine, test)


def test_the_second_image_comes_however_long_the_first_one_takes(
    dockerd: Engine, registry: Registry, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker fetches three layers at a time, for all pulls together: of the second one it says nothing meanwhile."""
    monkeypatch.setattr(pull_module, "SILENCE_FACTOR", 1)
    for name in ("one", "two"):
        layers = [{"data": Synthetic(MIB, zlib.crc32(f"{seed} {name} {number}".encode()))} for number in range(3)]
        registry.add_image(f"org/{name}", "v1", layers=layers)
    registry.faults.add(Trickle(bytes_per_s=130_000).on("blob"))

    async def test(face: ContainerEngine) -> None:
        begun = asyncio.Event()

        def see(progress: PullProgress) -> None:
            if progress.bytes_done:
                begun.set()

        first = asyncio.create_task(face.pull(Image(f"{registry.host}/org/one:v1"), see))
        try:
            while not begun.is_set():
                assert not first.done(), first
                await asyncio.sleep(0.02)
            assert not (await face.pull(Image(f"{registry.host}/org/two:v1"))).already_present
            assert not (await first).already_present
        finally:
            first.cancel()

    on(dockerd, test, no_progress_timeout_s=5.0)


def test_a_registry_that_falls_silent_is_given_up(engine: Engine, registry: Registry, seed: int) -> None:
    registry.add_image("org/app", "v1", layers=[{"data": Synthetic(MIB, seed)}])
    registry.faults.add(StallAfter(bytes=300_000).on("blob"))
    name = f"{registry.host}/org/app:v1"

    async def test(face: ContainerEngine) -> None:
        with pytest.raises(ImageError, match="made no progress for") as caught:
            await face.pull(Image(name))
        assert str(engine.socket) in caught.value.message
        assert await face.present(name) is None
        registry.faults.clear()
        assert not (await face.pull(Image(name))).already_present

    on(engine, test, no_progress_timeout_s=1.0)


@pytest.mark.needs("dockerd")
def test_a_pull_that_the_engine_does_not_survive_is_an_error(registry: Registry, seed: int) -> None:
    registry.add_image("org/app", "v1", layers=[{"data": Synthetic(4 * MIB, seed)}])
    registry.faults.add(Trickle(bytes_per_s=100_000).on("blob"))
    name = f"{registry.host}/org/app:v1"
    with run_dockerd() as own:

        async def test(face: ContainerEngine) -> None:
            pull = asyncio.create_task(face.pull(Image(name)))
            while registry.body_bytes_sent() < 200_000:
                await asyncio.sleep(0.02)
                assert not pull.done()
            own.server.kill()
            with pytest.raises(ImageError, match="closed before the answer was complete") as caught:
                await pull
            assert caught.value.resource == f"docker://{name}"
            with pytest.raises(ImageError):
                await face.present(name)

        on(own, test)


def test_the_size_told_is_the_engines(engine: Engine, docker_registry: DockerRegistry, seed: int) -> None:
    images.push(made(seed), docker_registry.endpoint, "fetcher-names/size", f"v{seed}")
    name = f"{docker_registry.host}/fetcher-names/size:v{seed}"

    async def test(face: ContainerEngine) -> None:
        done = await face.pull(Image(name))
        listed = json.loads(engine.ask("GET", "/images/json"))
        assert {image["Size"] for image in listed if name in (image["RepoTags"] or ())} == {done.bytes}

    try:
        on(engine, test)
    finally:
        engine.remove(name)
