"""Which engine is found: what the environment names, the usual sockets, and what is said where there is none."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fetcher.errors import ImageError
from fetcher.images import engines
from fetcher.images.engines import Candidate, NoEngine, candidates, find_engine
from fetcher.images.pull import ContainerEngine
from tests.images.stub import settings, stub_engine
from tests.support.cli import ORDINARY_UID


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose sockets' paths are short enough."""
    directory = Path(tempfile.mkdtemp(prefix="fetcher-sockets-"))
    yield directory
    shutil.rmtree(directory)


def found_at(*sockets: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(path, path) for path in sockets)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/7"},
            found_at(
                "/var/run/docker.sock",
                "/run/user/7/podman/podman.sock",
                "/run/podman/podman.sock",
                "/home/a/.nosana/podman/podman.sock",
                "/run/user/7/docker.sock",
            ),
        ),
        (
            {"XDG_RUNTIME_DIR": "relative", "DOCKER_HOST": ""},
            found_at(
                "/var/run/docker.sock",
                "/run/user/42/podman/podman.sock",
                "/run/podman/podman.sock",
                "/run/user/42/docker.sock",
            ),
        ),
        ({"DOCKER_HOST": "unix:///a.sock"}, (Candidate("DOCKER_HOST=unix:///a.sock", "/a.sock"),)),
        ({"DOCKER_HOST": "unix:/a.sock"}, (Candidate("DOCKER_HOST=unix:/a.sock", "/a.sock"),)),
        (
            {"DOCKER_HOST": "unix:///a.sock", "CONTAINER_HOST": "unix:///b.sock", "HOME": "/home/a"},
            (
                Candidate("CONTAINER_HOST=unix:///b.sock", "/b.sock"),
                Candidate("DOCKER_HOST=unix:///a.sock", "/a.sock"),
            ),
        ),
    ],
)
def test_where_is_looked(environ: dict[str, str], expected: tuple[Candidate, ...]) -> None:
    assert candidates(environ, 42) == expected


@pytest.mark.parametrize(
    "value",
    [
        "tcp://127.0.0.1:2375",
        "ssh://user:hunter22@host",
        "/var/run/docker.sock",
        "unix://a.sock",
        "unix://",
        "unix:///",
    ],
)
@pytest.mark.parametrize("variable", ["DOCKER_HOST", "CONTAINER_HOST"])
def test_only_unix_sockets_are_spoken_to(variable: str, value: str) -> None:
    with pytest.raises(ImageError, match="through a unix socket only") as caught:
        candidates({variable: value}, 0)
    assert variable in caught.value.message
    assert variable in (caught.value.hint or "")
    assert "hunter22" not in caught.value.message


def test_the_first_that_answers_is_taken(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with stub_engine(libpod="4.3.1", version="4.3.1") as stub:
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.bind(str(short / "deaf.sock"))  # nobody listens: what a killed engine leaves
                places = found_at(str(short / "none.sock"), str(short / "deaf.sock"), str(stub.socket), "/not/reached")
                monkeypatch.setattr(engines, "candidates", lambda environ, uid: places)
                engine = await find_engine({}, settings())
                assert isinstance(engine, ContainerEngine)
                try:
                    assert (engine.name, engine.version, engine.socket) == ("podman", "4.3.1", str(stub.socket))
                    assert repr(engine) == f"<ContainerEngine podman 4.3.1 at {stub.socket}>"
                finally:
                    await engine.close()

    asyncio.run(test())


def test_what_was_tried_is_told_with_reasons(short: Path) -> None:
    (short / "file").write_text("")
    (short / "dangling").symlink_to("nowhere")

    async def test() -> None:
        async with (
            stub_engine(api_newest="1.60", api_oldest="1.52") as new,
            stub_engine(api_newest="") as other,
            stub_engine(ping_status=503) as ill,
        ):
            for path, reason in (
                (short / "none", "no such socket"),
                (short / "file", "nobody listens"),
                (short / "dangling", "no such socket"),
                (short / ("x" * 120), "longer than 107 bytes"),
                (new.socket, "its API begins at 1.52"),
                (other.socket, "what answers is no container engine (status 200 to a ping)"),
                (ill.socket, "what answers is no container engine (status 503 to a ping)"),
            ):
                if len(path.name) == 120:
                    path.touch()
                found = await find_engine({"DOCKER_HOST": f"unix://{path}"}, settings())
                assert isinstance(found, NoEngine)
                assert not found
                (tried,) = found.tried
                assert reason in tried.reason
                assert tried.place.startswith("DOCKER_HOST=unix://")
                assert found.reason == f"no container engine answers ({tried.place}: {tried.reason})"
                assert found.reason.count(str(path)) <= 1

    asyncio.run(test())


@pytest.mark.needs("root")
def test_a_socket_of_others_is_told_as_such(short: Path) -> None:
    short.chmod(0o700)

    async def test() -> None:
        async with stub_engine() as stub:
            stub.socket.parent.chmod(0o755)
            stub.socket.chmod(0o600)
            os.seteuid(ORDINARY_UID)
            try:
                for path in (stub.socket, short / "behind-a-closed-door.sock"):
                    found = await find_engine({"DOCKER_HOST": f"unix://{path}"}, settings())
                    assert isinstance(found, NoEngine)
                    assert "permission denied (is this user in" in found.reason
            finally:
                os.seteuid(0)

    asyncio.run(test())


def test_an_engine_that_does_not_answer_is_given_up(short: Path) -> None:
    closed = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async def test() -> None:
        path = str(short / "hung.sock")
        server = await asyncio.start_unix_server(hang, path)
        async with server:
            found = await find_engine({"DOCKER_HOST": f"unix://{path}"}, settings(connect_timeout_s=0.2))
            assert isinstance(found, NoEngine)
            assert "no answer within 0.2 s" in found.reason
            await asyncio.wait_for(closed.wait(), 20)

    asyncio.run(test())


@pytest.mark.needs("root")
def test_a_socket_that_another_user_made_is_used_only_where_it_is_named(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with stub_engine(libpod="4.3.1", version="4.3.1") as stub:
            os.chown(stub.socket, 1234, 1234)
            monkeypatch.setattr(engines, "candidates", lambda environ, uid: found_at(str(stub.socket)))
            found = await find_engine({}, settings())
            assert isinstance(found, NoEngine)
            assert [tried.reason for tried in found.tried] == ["belongs to another user"]
            monkeypatch.undo()
            engine = await find_engine({"CONTAINER_HOST": f"unix://{stub.socket}"}, settings())
            assert isinstance(engine, ContainerEngine)
            await engine.close()

    asyncio.run(test())
