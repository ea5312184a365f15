"""What is said to an engine and what is made of its answers, against a stub at a real unix socket."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import web

from fetcher.errors import ImageError
from fetcher.images import pull
from fetcher.images.client import LINE_BYTES_MAX, EngineClient, agreed_version
from fetcher.images.progress import PullProgress
from fetcher.images.pull import ContainerEngine, PulledImage
from fetcher.model.image import Image
from fetcher.model.secret import Login, Secret
from tests.images.stub import SHA, Say, StubEngine, layer, line, says, settings, stub_engine

NAME = "ghcr.io/org/app:v1"
DIGEST = "sha256:" + "cd" * 32


def run(test: Callable[[], Awaitable[None]], *, uv: bool = False) -> None:
    """On asyncio's own loop, or on uvloop, which the command line runs on."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        runner.run(bounded())
    gc.collect()  # an answer that was forgotten would warn now, in this test


@asynccontextmanager
async def connected(
    stub_fields: dict[str, Any] | None = None, **settings_fields: Any
) -> AsyncIterator[tuple[StubEngine, ContainerEngine]]:
    """A stub and the engine that is found there."""
    known = settings(**settings_fields)
    async with stub_engine(**(stub_fields or {})) as stub:
        engine = ContainerEngine(await EngineClient.open(str(stub.socket), known), known)
        try:
            yield stub, engine
        finally:
            await engine.close()


async def refusal(engine: ContainerEngine, image: Image) -> ImageError:
    """The error of a pull that fails, with its stub-independent promises checked."""
    with pytest.raises(ImageError) as caught:
        await engine.pull(image)
    error = caught.value
    assert error.exit_code == 70
    assert error.resource == image.uri()
    assert error.message.isprintable()
    return error


# --- which version is spoken


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [
        ("1.41", "1.12", "1.41"),
        ("1.51", "1.24", "1.51"),
        ("1.52", "1.44", "1.51"),
        ("1.60", "1.51", "1.51"),
        ("1.24", "", "1.24"),
        ("1.41", "garbage", "1.41"),
        ("2.0", "1.44", "1.51"),
    ],
)
def test_the_newest_version_that_both_know_is_spoken(newest: str, oldest: str, spoken: str) -> None:
    assert agreed_version(newest, oldest) == spoken


@pytest.mark.parametrize(
    ("newest", "oldest", "sentence"),
    [
        ("1.60", "1.52", "begins at 1.52"),
        ("1.23", "1.12", "too old"),
        ("1", "1.12", "does not say"),
        ("1.41.2", "1.12", "does not say"),
    ],
)
def test_an_engine_without_a_version_in_common_is_not_used(newest: str, oldest: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        agreed_version(newest, oldest)


@pytest.mark.parametrize(
    ("fields", "kind", "path"),
    [
        ({"api_newest": "1.52", "api_oldest": "1.44"}, "docker", "/v1.51/images/create"),
        ({"api_newest": "1.41", "api_oldest": "1.12"}, "docker", "/v1.41/images/create"),
        ({"api_newest": "1.51", "api_oldest": None}, "docker", "/v1.51/images/create"),
        ({"libpod": "4.3.1", "api_oldest": "1.24"}, "podman", "/v1.41/images/create"),
    ],
)
def test_every_call_carries_the_version_agreed_upon(fields: dict[str, Any], kind: str, path: str) -> None:
    async def test() -> None:
        async with connected(fields) as (stub, engine):
            assert engine.name == kind
            assert engine.version == "20.10.24"
            await engine.pull(Image(NAME))
            assert stub.requests[:2] == ["GET /_ping", "GET /version"]
            assert f"POST {path}?fromImage=ghcr.io/org/app&tag=v1" in stub.requests
            version = path.split("/")[1]
            assert all(request.split()[1].startswith(f"/{version}/") for request in stub.requests[2:])

    run(test)


# --- what is asked for


@pytest.mark.parametrize(
    ("name", "libpod", "request_line"),
    [
        ("nginx", None, "/v1.41/images/create?fromImage=nginx&tag=latest"),
        ("docker.io/vllm/x:1", None, "/v1.41/images/create?fromImage=vllm/x&tag=1"),
        ("nginx", "4.3.1", "/v1.41/images/create?fromImage=docker.io/library/nginx&tag=latest"),
        (f"ghcr.io/a:1@{DIGEST}", None, f"/v1.41/images/create?fromImage=ghcr.io/a&tag={DIGEST}"),
        ("127.0.0.1:5000/a:1", None, "/v1.41/images/create?fromImage=127.0.0.1:5000/a&tag=1"),
        # Podman reaches a loopback registry over plain http by its own endpoint only.
        ("127.0.0.1:5000/a:1", "5.8.6", "/v5.8.6/libpod/images/pull?reference=127.0.0.1:5000/a:1&tlsVerify=false"),
        ("localhost/a:1", "5.8.0-dev", "/v5.8.0/libpod/images/pull?reference=localhost/a:1&tlsVerify=false"),
    ],
)
def test_a_pull_is_asked_for_in_the_engines_own_spelling(name: str, libpod: str | None, request_line: str) -> None:
    async def test() -> None:
        async with connected({"libpod": libpod}) as (stub, engine):
            done = await engine.pull(Image(name))
            assert done == PulledImage(name, SHA, 42, already_present=False)
            assert stub.requests[3] == f"POST {request_line}"
            assert stub.auth == [None]

    run(test)


def test_the_login_goes_along_as_engines_take_it() -> None:
    async def test() -> None:
        async with connected() as (stub, engine):
            # Bytes that differ between the two alphabets of base64.
            await engine.pull(Image("org/app", Login("ü>?", Secret("p~~?>>"))))
            (sent,) = stub.auth
            assert sent is not None
            assert not {"+", "/"} & set(sent)
            assert json.loads(base64.urlsafe_b64decode(sent)) == {
                "username": "ü>?",
                "password": "p~~?>>",
                "serveraddress": "https://index.docker.io/v1/",
            }

    run(test)


def test_what_is_present_is_not_pulled() -> None:
    async def test() -> None:
        async with connected({"tags": {NAME: NAME}}) as (stub, engine):
            assert await engine.pull(Image(NAME)) == PulledImage(NAME, SHA, 42, already_present=True)
            assert not [request for request in stub.requests if request.startswith("POST")]
            assert await engine.present("ghcr.io/org/app:v2") is None
            with pytest.raises(ValueError, match="upper-case"):
                await engine.present("Nginx")

    run(test)


def test_an_image_found_under_another_name_is_not_present() -> None:
    """Podman takes ``localhost/org/app`` for ``org/app``, and so may an engine of tomorrow."""

    async def test() -> None:
        tags = {"docker.io/org/app:latest": "localhost/org/app:latest"}
        async with connected({"libpod": "4.3.1", "tags": tags}) as (_, engine):
            assert await engine.present("org/app") is None

    run(test)


@pytest.mark.parametrize("libpod", [None, "4.3.1"])
def test_what_was_stored_under_another_spelling_gets_the_required_name(libpod: str | None) -> None:
    async def test() -> None:
        async with connected({"libpod": libpod, "pulled_as": "elsewhere.io/app:v1"}) as (stub, engine):
            done = await engine.pull(Image(NAME))
            assert done.name == NAME and not done.already_present
            assert f"POST /v1.41/images/{SHA}/tag?repo=ghcr.io/org/app&tag=v1" in stub.requests
            assert await engine.present(NAME) is not None

    run(test)


def test_the_id_that_podman_tells_is_enough_to_name_it() -> None:
    async def test() -> None:
        async with connected({"libpod": "4.3.1", "pull_says": says(line(images=["e" * 64], id="e" * 64))}) as (
            stub,
            engine,
        ):
            image = Image("localhost/app:v1")
            stub.tags = _Forgetful()
            await engine.pull(image)
            assert f"POST /v1.41/images/{'e' * 64}/tag?repo=localhost/app&tag=v1" in stub.requests

    run(test)


class _Forgetful(dict[str, str]):
    """Forgets the first name that is stored."""

    stored = 0

    def __setitem__(self, name: str, listed: str) -> None:
        self.stored += 1
        if self.stored > 1:
            super().__setitem__(name, listed)


def test_a_name_that_is_not_there_afterwards_is_an_error() -> None:
    async def test() -> None:
        async with connected({"pulled_as": "elsewhere.io/app:v1", "may_tag": False}) as (stub, engine):
            error = await refusal(engine, Image(NAME))
            assert "tagging is not allowed" in error.message
            stub.tags = _Forgetful()
            assert "has no image of that name now" in (await refusal(engine, Image(NAME))).message
            # A digest can't be given to an image: only a pull records it.
            stub.tags = {}
            stub.may_tag = True
            error = await refusal(engine, Image(f"ghcr.io/a@{DIGEST}"))
            assert "has no image of that name now" in error.message

    run(test)


# --- what goes wrong


@pytest.mark.parametrize(
    "last",
    [
        line(errorDetail={"message": "no matching manifest for linux/amd64"}, error="no matching manifest"),
        line(errorDetail={"code": 1, "message": "no matching manifest for linux/amd64"}),
        line(error="no matching manifest for linux/amd64"),
        json.dumps({"error": "no matching manifest for linux/amd64"}).encode(),  # no end of line
    ],
)
def test_an_error_inside_a_stream_that_began_well_ends_the_pull(last: bytes) -> None:
    async def test() -> None:
        async with connected({"pull_says": says(layer("Pulling fs layer"), last)}) as (_, engine):
            error = await refusal(engine, Image(NAME))
            assert error.message.startswith(f"Docker could not pull {NAME}: no matching manifest")
            assert "platform" in (error.hint or "")

    run(test)


@pytest.mark.parametrize("status", [404, 500, 429])
def test_an_error_status_ends_the_pull_with_what_the_engine_says(status: int) -> None:
    async def test() -> None:
        async with connected({"pull_status": status}) as (_, engine):
            error = await refusal(engine, Image(NAME))
            assert error.message == f"Docker could not pull {NAME}: pull access denied for x"

    run(test)


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        ([layer("Pulling fs layer"), b'{"status": "Downl'], "not the JSON"),
        ([b"<html>502</html>\n"], "not the JSON"),
        ([b"[1, 2]\n"], "not the JSON"),
        ([b"[" * 100_000 + b"\n"], "not the JSON"),
        ([b'{"status": "' + b"x" * LINE_BYTES_MAX + b'"}\n'], "a line of more than 1 MiB"),
        ([b"x" * 65_536] * 40, "a line of more than 1 MiB"),
    ],
)
def test_what_is_no_stream_of_json_lines_ends_the_pull(pieces: list[bytes], sentence: str) -> None:
    async def test() -> None:
        async with connected({"pull_says": says(*pieces)}) as (stub, engine):
            error = await refusal(engine, Image(NAME))
            assert sentence in error.message
            assert str(stub.socket) in error.message

    run(test)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_lines_arrive_whole_however_they_are_cut(size: int) -> None:
    async def test() -> None:
        text = b"".join(
            [
                line(status="Pulling from org/app", id="v1"),
                layer("Pulling fs layer", "a"),
                layer("Pulling fs layer", "b"),
                b"\r\n",
                layer("Downloading", "a", 50, 100),
                layer("Downloading", "b", 10, 40),
                layer("Download complete", "a"),
                layer("Pull complete", "a"),
                line(status="Digest: " + DIGEST),
            ]
        )
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        async with connected({"pull_says": says(*pieces)}) as (_, engine):
            seen: list[PullProgress] = []
            await engine.pull(Image(NAME), seen.append)
            assert seen[-1] == PullProgress(NAME, 110, 140, 1, 2)
            assert PullProgress(NAME, 50, 100, 0, 2) in seen

    run(test)


@pytest.mark.parametrize("uv", [False, True])
def test_a_stream_that_is_cut_is_an_error_that_names_the_engine(uv: bool) -> None:
    async def cut(response: web.StreamResponse) -> None:
        await response.write(layer("Downloading", "a", 1, 100))
        assert response._req is not None and response._req.transport is not None
        response._req.transport.abort()

    async def test() -> None:
        async with connected({"pull_says": cut}) as (stub, engine):
            error = await refusal(engine, Image(NAME))
            assert str(stub.socket) in error.message
            assert "closed" in error.message

    run(test, uv=uv)


async def _silent(response: web.StreamResponse) -> None:
    await response.write(layer("Downloading", "a", 1, 100))
    await asyncio.sleep(30)


async def _repeating(response: web.StreamResponse) -> None:
    while True:
        await response.write(layer("Downloading", "a", 1, 100))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("say", [_silent, _repeating])
def test_a_pull_without_progress_ends_and_the_engine_is_told(say: Callable[[web.StreamResponse], Any]) -> None:
    async def test() -> None:
        async with connected({"pull_says": say}, no_progress_timeout_s=0.3) as (stub, engine):
            error = await refusal(engine, Image(NAME))
            assert "made no progress for 0.3 s" in error.message
            await asyncio.wait_for(stub.hung_up.wait(), 20)

    run(test)


def test_an_engine_that_never_begins_to_answer_is_not_waited_for() -> None:
    async def test() -> None:
        async with connected({"pull_delay_s": 30.0}, no_progress_timeout_s=0.3) as (_, engine):
            assert "made no progress" in (await refusal(engine, Image(NAME))).message

    run(test)


@pytest.mark.parametrize("uv", [False, True])
def test_slow_progress_is_progress(uv: bool) -> None:
    async def slowly(response: web.StreamResponse) -> None:
        for done in range(6):
            await response.write(layer("Downloading", "a", done, 100))
            await asyncio.sleep(0.5)

    async def test() -> None:
        async with connected({"pull_says": slowly}, no_progress_timeout_s=2.0) as (_, engine):
            assert not (await engine.pull(Image(NAME))).already_present

    run(test, uv=uv)


def test_an_engine_that_stores_what_has_arrived_may_be_silent_for_longer() -> None:
    async def storing(response: web.StreamResponse) -> None:
        await response.write(layer("Downloading", "a", 99, 100) + layer("Extracting", "a", 100, 100))
        await asyncio.sleep(3.0)
        await response.write(layer("Pull complete", "a"))

    async def test() -> None:
        async with connected({"pull_says": storing}, no_progress_timeout_s=1.5) as (_, engine):
            assert not (await engine.pull(Image(NAME))).already_present

    run(test)


@pytest.mark.parametrize("uv", [False, True])
def test_cancelling_a_pull_hangs_up(uv: bool) -> None:
    async def test() -> None:
        async with connected({"pull_says": _repeating}) as (stub, engine):
            begun = asyncio.Event()
            pull = asyncio.create_task(engine.pull(Image(NAME), lambda progress: begun.set()))
            await begun.wait()
            pull.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pull
            await asyncio.wait_for(stub.hung_up.wait(), 20)
            assert await engine.present(NAME) is None  # and the engine can be talked to as before

    run(test, uv=uv)


def test_an_observers_own_error_is_not_renamed() -> None:
    def observer(progress: PullProgress) -> None:
        raise OSError("the display is gone")

    async def test() -> None:
        async with connected({"pull_says": says(layer("Downloading", "a", 1, 2))}) as (_, engine):
            with pytest.raises(OSError, match="the display is gone"):
                await engine.pull(Image(NAME), observer)

    run(test)


def test_an_engine_that_can_not_look_is_an_error_and_not_an_absence() -> None:
    async def test() -> None:
        async with connected({"inspect_status": 500}) as (_, engine):
            with pytest.raises(ImageError, match=r"can't say whether .* is present: storage is broken"):
                await engine.present(NAME)

    run(test)


def test_two_pulls_at_once_do_not_wait_for_each_other() -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def together(response: web.StreamResponse) -> None:
            waiting.append(response)
            if len(waiting) == 2:
                gate.set()
            await asyncio.wait_for(gate.wait(), 20)
            await response.write(line(status="done"))

        waiting: list[web.StreamResponse] = []
        async with connected({"pull_says": together}) as (_, engine):
            both = await asyncio.gather(engine.pull(Image("ghcr.io/a:1")), engine.pull(Image("ghcr.io/b:1")))
            assert [done.name for done in both] == ["ghcr.io/a:1", "ghcr.io/b:1"]

    run(test)


# --- turns: Docker fetches three layers at a time, for all pulls together

FIRST, SECOND = Image("ghcr.io/first:1"), Image("ghcr.io/second:1")
LISTED = layer("Pulling fs layer", "b")


def of_two(first: Say, second: Say) -> Say:
    """What the engine says of each."""

    async def say(response: web.StreamResponse) -> None:
        assert response._req is not None
        await (first if response._req.query["fromImage"] == "ghcr.io/first" else second)(response)

    return say


@pytest.mark.parametrize(
    "told",
    [b"", line(status="Pulling from second", id="1"), LISTED, layer("Already exists") + LISTED + layer("Waiting", "b")],
    ids=["nothing", "begun", "listed", "waiting"],
)
def test_a_pull_whose_turn_has_not_come_lives_on_the_progress_of_the_others(
    told: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SILENCE_FACTOR", 1)

    async def test() -> None:
        over = asyncio.Event()

        async def first(response: web.StreamResponse) -> None:
            for done in range(16):
                await response.write(layer("Downloading", "a", done, 100))
                await asyncio.sleep(0.25)
            over.set()

        async def second(response: web.StreamResponse) -> None:
            if told:
                await response.write(told)
            await over.wait()
            await response.write(layer("Pull complete", "b"))

        async with connected({"pull_says": of_two(first, second)}, no_progress_timeout_s=1.5) as (_, engine):
            both = await asyncio.gather(engine.pull(FIRST), engine.pull(SECOND))
            assert [done.name for done in both] == [FIRST.name, SECOND.name]
            assert not engine._under_way

    run(test)


def test_a_pull_that_has_begun_does_not_live_on_the_progress_of_the_others() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def first(response: web.StreamResponse) -> None:
            done = 0
            while not ended.is_set():
                done += 1
                await response.write(layer("Downloading", "a", done, 10_000))
                await asyncio.sleep(0.02)

        async with connected({"pull_says": of_two(first, _silent)}, no_progress_timeout_s=1.5) as (_, engine):
            going = asyncio.create_task(engine.pull(FIRST))
            assert "made no progress for 1.5 s" in (await refusal(engine, SECOND)).message
            ended.set()
            assert not (await going).already_present

    run(test)


def test_nobody_waits_for_a_turn_that_no_pull_brings_nearer() -> None:
    async def second(response: web.StreamResponse) -> None:
        await response.write(LISTED + layer("Waiting", "b"))
        await asyncio.sleep(30)

    async def test() -> None:
        async with connected({"pull_says": of_two(_silent, second)}, no_progress_timeout_s=0.6) as (_, engine):
            errors = await asyncio.gather(refusal(engine, FIRST), refusal(engine, SECOND))
            assert "for 0.6 s" in errors[0].message and "for 3 s" in errors[1].message
            assert not engine._under_way

    run(test)


def test_what_somebody_else_pulls_is_waited_for_as_well() -> None:
    """Nothing is told of that; only that this one waits."""

    async def waiting(response: web.StreamResponse) -> None:
        await response.write(LISTED + layer("Waiting", "b"))
        await asyncio.sleep(3.0)
        await response.write(layer("Pull complete", "b"))

    async def test() -> None:
        async with connected({"pull_says": waiting}, no_progress_timeout_s=1.5) as (_, engine):
            assert not (await engine.pull(Image(NAME))).already_present

    run(test)
