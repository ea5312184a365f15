"""A container engine's HTTP API over its unix socket: the few calls that are needed, for Docker and Podman alike.

Sockets are the operator's: whoever may write to one rules the host, so what the engine answers is believed, yet
bounded. The Docker Engine API is versioned by path; which version is spoken is agreed upon first (``agreed_version``).
Podman speaks the same API beside its own, ``/libpod``, and is told by the header of that name.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from fetcher.config import Settings
from fetcher.errors import ImageError, TransportError
from fetcher.images.refusals import SAID_CHARACTERS_MAX, TITLES
from fetcher.model.image import EngineKind
from fetcher.model.text import shown
from fetcher.net.foreign import map_exceptions

API_OLDEST: Final = (1, 24)
"""Docker 1.12. The calls used here are older still; engines before it are in no distribution."""
API_NEWEST: Final = (1, 51)
"""Docker 28.5, the newest that this was written against. A newer engine is asked to speak it; engines keep old
versions for years, and say which (``MinAPIVersion``): 1.44 in Docker 29.0, which broke clients that insist on less."""

ANSWER_BYTES_MAX: Final = 16 << 20
"""The inspection of an image is 2 to 50 KB; labels can make it larger."""
LINE_BYTES_MAX: Final = 1 << 20
"""A line of progress is about 200 bytes; an error with a whole HTML page in it has been seen."""
CONNECTIONS_MAX: Final = 32
"""A pull holds one as long as it runs."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""``sun_path`` of Linux, less the zero at its end."""

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
_LIBPOD_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")


class Refused(Exception):
    """The engine answered with an error: a status beyond 2xx, or an error line in a stream that had begun well."""

    def __init__(self, said: str, status: int = 200) -> None:
        super().__init__(said)
        self.said = said
        self.status = status


def agreed_version(newest: str, oldest: str) -> str:
    """The API version that both sides know, from the newest and oldest of the engine. Raises ``ValueError``."""
    theirs, floor = _parsed(newest), _parsed(oldest)
    if theirs is None:
        raise ValueError("it does not say which API version it speaks")
    if theirs < API_OLDEST:
        raise ValueError(f"its API {newest} is too old: {_text(API_OLDEST)} is needed, that is Docker 1.12")
    if floor is not None and floor > API_NEWEST:
        raise ValueError(f"its API begins at {oldest}, which is newer than this version of fetcher knows")
    return _text(min(theirs, API_NEWEST))


def _parsed(version: str) -> tuple[int, int] | None:
    match = _VERSION.fullmatch(version)
    return (int(match[1]), int(match[2])) if match else None


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


class EngineClient:
    """One engine at one socket. ``open()`` makes one that has answered; who opens it closes it."""

    kind: EngineKind
    version: str
    """Of the engine, as it calls itself: ``20.10.24+dfsg1``."""
    api_version: str
    """Agreed upon, ``1.41``."""
    libpod_version: str | None
    """Podman only, ``4.3.1``."""

    def __init__(self, socket: str, settings: Settings) -> None:
        self.socket = socket
        self.title = shown(socket)
        """For messages; ``Docker at /var/run/docker.sock`` as soon as that is known."""
        self._connect_timeout_s = settings.connect_timeout_s
        self._answer_timeout_s = settings.api_timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(socket, limit=CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    @classmethod
    async def open(cls, socket: str, settings: Settings) -> EngineClient:
        """The engine that answers at ``socket``. Raises ImageError with the reason why there is none to be used."""
        if len(os.fsencode(socket)) > SOCKET_PATH_BYTES_MAX:
            raise ImageError(f"{shown(socket)}: longer than {SOCKET_PATH_BYTES_MAX} bytes, no socket can be there")
        client = cls(socket, settings)
        try:
            await client._greet()
        except BaseException:
            await client.close()
            raise
        return client

    async def close(self) -> None:
        """End all connections; a pull that still runs is cancelled by that."""
        await self._session.close()

    async def _greet(self) -> None:
        with self.naming_place(self._connect_timeout_s):
            async with asyncio.timeout(self._connect_timeout_s):
                async with self._session.get(_url("/_ping")) as response:
                    status, headers = response.status, response.headers
        newest = headers.get("Api-Version", "")
        if status != 200 or not newest:
            raise ImageError(f"{self.title}: what answers is no container engine (status {status} to a ping)")
        try:
            about = await self._read("GET", "/version")
            self.api_version = agreed_version(newest, str(about.get("MinAPIVersion", "")))
        except Refused as refusal:
            raise ImageError(f"{self.title}: it does not tell its version: {shown(refusal.said)}") from None
        except ValueError as error:
            raise ImageError(f"{self.title}: {error}", hint="update the engine, or fetcher") from None
        libpod = _LIBPOD_VERSION.match(headers.get("Libpod-Api-Version", ""))
        self.libpod_version = libpod[0] if libpod else None
        self.kind = "podman" if libpod else "docker"
        self.version = shown(str(about.get("Version", "")), 40)
        self.title = f"{TITLES[self.kind]} at {self.title}"

    # --- calls

    async def get(self, path: str) -> dict[str, Any] | None:
        """The JSON object at ``path`` of the versioned API; None where the engine has no such thing. Raises Refused."""
        try:
            return await self._read("GET", f"/v{self.api_version}{path}")
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    async def get_list(self, path: str) -> list[dict[str, Any]]:
        """The JSON objects listed at ``path`` of the versioned API. Raises Refused."""
        body = await self._ask("GET", f"/v{self.api_version}{path}")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise ImageError(f"{self.title}: the answer is not the list it should be")
        return [item for item in found if isinstance(item, dict)]

    async def get_bytes(self, path: str, query: Mapping[str, str]) -> bytes:
        """What is at ``path`` of the versioned API. Raises Refused."""
        return await self._ask("GET", f"/v{self.api_version}{path}", query)

    async def post(self, path: str, query: Mapping[str, str]) -> None:
        """Do ``path``, whose answer says nothing. Raises Refused."""
        await self._read("POST", f"/v{self.api_version}{path}", query)

    async def create(self, path: str, query: Mapping[str, str], document: Mapping[str, Any]) -> None:
        """Make what ``document`` says at ``path`` (with its version). Raises Refused."""
        await self._ask("POST", path, query, document)

    async def delete(self, path: str, query: Mapping[str, str]) -> None:
        """Remove what is at ``path`` of the versioned API; fine if there is nothing. Raises Refused."""
        try:
            await self._ask("DELETE", f"/v{self.api_version}{path}", query)
        except Refused as refusal:
            if refusal.status != 404:
                raise

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> AsyncIterator[JSONLines]:
        """POST to ``path`` (with its version) and read JSON lines as they come. Leaving the block hangs up, which
        cancels what the engine does. No time limit here: the caller knows what progress is. Raises Refused.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s)
        with self.naming_place(self._connect_timeout_s):
            response = await self._session.post(_url(path, query), headers=headers, timeout=timeout)
        try:
            if response.status // 100 != 2:
                with self.naming_place(self._answer_timeout_s):
                    async with asyncio.timeout(self._answer_timeout_s):
                        body = await self._body(response)
                raise Refused(_said(body, response.status), response.status)
            yield JSONLines(response.content, self)
        finally:
            response.close()

    async def _read(self, method: str, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        body = await self._ask(method, path, query)
        return _object(body, self.title) if body.strip() else {}

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, document: Mapping[str, Any] | None = None
    ) -> bytes:
        with self.naming_place(self._answer_timeout_s):
            async with asyncio.timeout(self._answer_timeout_s):
                async with self._session.request(method, _url(path, query), json=document) as response:
                    body = await self._body(response)
        if response.status // 100 != 2:
            raise Refused(_said(body, response.status), response.status)
        return body

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                raise ImageError(f"{self.title}: an answer of more than {ANSWER_BYTES_MAX >> 20} MiB")
        return bytes(body)

    @contextmanager
    def naming_place(self, timeout_s: float) -> Iterator[None]:
        """What goes wrong on the way to an engine is an ImageError that names its socket."""
        try:
            with map_exceptions(self.title, connect_timeout_s=timeout_s, idle_timeout_s=timeout_s):
                yield
        except TransportError as error:
            raise ImageError(error.message, hint="is the engine running? its log tells more") from None


class JSONLines:
    """The objects of a stream, one a line (``\\n``, or ``\\r\\n`` as Docker ends them), until the stream ends.

    Iterating raises Refused for an error line, ImageError for what is no line of JSON.
    """

    def __init__(self, content: aiohttp.StreamReader, client: EngineClient) -> None:
        self._content = content
        self._client = client
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    def __aiter__(self) -> JSONLines:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while True:
            while self._lines:
                line = self._lines.popleft()
                if line.strip():
                    return self._object(line)
            if self._ended:
                raise StopAsyncIteration
            with self._client.naming_place(0.0):  # no time-out of its own
                piece = await self._content.readany()
            if piece:
                *lines, self._rest = (self._rest + piece).split(b"\n")
                self._lines.extend(lines)
                self._bounded(self._rest)
            else:
                # A last line without its end is whole if it is JSON.
                self._lines.append(self._rest)
                self._ended = True

    def _object(self, line: bytes) -> dict[str, Any]:
        self._bounded(line)
        found = _object(line, self._client.title)
        detail = found.get("errorDetail")
        said = (detail.get("message") if isinstance(detail, dict) else None) or found.get("error")
        if said:
            raise Refused(str(said))
        return found

    def _bounded(self, line: bytes) -> None:
        if len(line) > LINE_BYTES_MAX:
            raise ImageError(f"{self._client.title}: a line of more than {LINE_BYTES_MAX >> 20} MiB in its answer")


def quoted(name: str) -> str:
    """An image's name or id as a part of a path: slashes stay, the engines' routes take the rest of the path."""
    return quote(name, safe="/:@")


def _url(path: str, query: Mapping[str, str] | None = None) -> URL:
    # The host is for the header only; which engine is meant is decided by the socket.
    return URL(f"http://engine{path}{'?' + urlencode(query) if query else ''}", encoded=True)


def _object(raw: bytes, title: str) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ImageError(
            f"{title}: the answer is not the JSON it should be: {shown(raw[:80].decode(errors='replace'))}"
        )
    return found


def _said(body: bytes, status: int) -> str:
    """The reason in an error's body: ``{"message": …}``, or whatever text there is."""
    try:
        found = json.loads(body)
        said = found.get("message") or found.get("cause")
    except (ValueError, RecursionError, AttributeError):
        said = body[:SAID_CHARACTERS_MAX].decode(errors="replace").strip()
    return str(said) if said else f"status {status}"
