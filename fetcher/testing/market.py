"""An embedded market endpoint: the list of what a node must have before it joins a market.

    with market_in_thread() as market:
        market.set("7AtiXMSH…", {"required_images": ["docker.io/acme/app:1"], "required_remote_resources": []})
        ...  # FETCHER_MARKET_URL=market.template
        market.behave("down")

Both published spellings of the address are served. What an endpoint may do wrong has names in ``MODES``; single
requests are spoiled with the fault plan (``on("market", …)``). ``DOCUMENTS`` holds a list in every published shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from fetcher.testing.contents import BytesContent
from fetcher.testing.faultplan import Exchange, Fault, FaultPlan, Rule
from fetcher.testing.faults import CutHead, Delay, Status, Trickle
from fetcher.testing.messages import Reply, Request
from fetcher.testing.origin import Origin, in_thread
from fetcher.testing.wire import Listener

_PATH = re.compile(r"(?P<prefix>/api)?/markets/(?P<market>[^/]+)/required-resources")

Garbage = Literal["html", "half-json", "wrong-types", "wrong-shape", "array", "null", "empty", "deep", "not-utf-8"]


class Market(Origin):
    """A market endpoint on a loopback port. Use it as an async context manager, or with ``market_in_thread``.

    Documents may be set before it starts and while it runs, from any thread.
    """

    def __init__(self, *, faults: FaultPlan | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(faults)
        self._address = (host, port)
        self._documents: dict[str, bytes] = {}
        self._moved: tuple[str, int] | None = None

    def _open_listeners(self) -> None:
        self._listeners.append(Listener(self._answer, *self._address))

    @property
    def endpoint(self) -> str:
        """Scheme, host and port."""
        if not self._listeners:
            raise RuntimeError("the market has not been started: use 'async with Market()' or market_in_thread()")
        return self._listeners[0].origin

    @property
    def template(self) -> str:
        """The address in the spelling that the node uses, for ``FETCHER_MARKET_URL``."""
        return f"{self.endpoint}/markets/{{market}}/required-resources"

    @property
    def api_template(self) -> str:
        """The address in the older spelling."""
        return f"{self.endpoint}/api/markets/{{market}}/required-resources"

    def url(self, address: str) -> str:
        """Return where the list of one market is."""
        return self.template.format(market=address)

    # What it says

    def set(self, address: str, document: object) -> None:
        """Let a market (address or slug) require ``document``: JSON values, or ``bytes`` that are sent as they are."""
        self._documents[address] = document if isinstance(document, bytes) else json.dumps(document).encode()

    def remove(self, address: str) -> None:
        """Forget a market: 404 from now on."""
        del self._documents[address]

    def behave(self, mode: str | None) -> None:
        """Behave as ``MODES`` says under this name from now on; None: well again. Rules of one's own are dropped."""
        self.faults.clear()
        if mode is not None:
            self.faults.add(*MODES[mode])

    def move(self, url: str | None, status: int = 308) -> None:
        """Redirect from now on to ``url``, a template with ``{market}``; None: it is here again.

        A bare path is one of this endpoint: whoever asks there is answered.
        """
        self._moved = (url, status) if url is not None else None

    # Answering

    async def _answer(self, request: Request) -> Reply:
        match = _PATH.fullmatch(request.path)
        record = self._record(request, "market" if match else "other", credentials="authorization" in request.headers)
        record.path = unquote(match["market"]) if match else None
        exchange = Exchange(request, record, self)
        try:
            reply = await self.faults.before(exchange) or self._answer_market(request, record.path)
        except Exception as error:
            self.failures.append(error)
            reply = _error(500, "Error", f"the embedded market failed: {error!r}")
        return self._finish(exchange, reply)

    def _answer_market(self, request: Request, address: str | None) -> Reply:
        if address is None:
            return _error(404, "NotFoundError", f"Cannot {request.method} {request.path}")
        if request.method not in ("GET", "HEAD"):
            return _error(405, "MethodNotAllowedError", f"{request.method} is not allowed here")
        if self._moved is not None:
            location, status = self._moved[0].replace("{market}", request.path.split("/")[-2]), self._moved[1]
            if location != request.path:
                return Reply(status, {"Location": location, "Content-Type": "text/plain"}, BytesContent(b"Moved\n"))
        if address not in self._documents:
            return _error(404, "NotFoundError", "Market not found")
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return Reply(200, headers, BytesContent(self._documents[address]))


@contextmanager
def market_in_thread(market: Market | None = None, **settings: Any) -> Iterator[Market]:
    """Run a market in a thread until the block is left.

    Takes a ``Market`` that has not been started, or the keyword arguments to make one.
    """
    with in_thread(market if market is not None else Market(**settings)) as running:
        yield running


def _error(status: int, name: str, message: str) -> Reply:
    return Reply(status, rows={"name": name, "message": message})


# What may go wrong


@dataclass(frozen=True)
class MarketFailure(Fault):
    """Answer as the endpoint does when it fails itself: a status, and a JSON object with name and message."""

    places: ClassVar[tuple[str, ...]] = ("market",)
    status: int = 500
    error: str = "PrismaClientInitializationError"
    message: str = "Can't reach database server"

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        return _error(self.status, self.error, self.message)


@dataclass(frozen=True)
class MarketGarbage(Fault):
    """Answer 200 with something that is no list of what is required."""

    places: ClassVar[tuple[str, ...]] = ("market",)
    kind: Garbage = "html"

    async def before(self, exchange: Exchange, memory: dict[Any, Any]) -> Reply | None:
        kind = "text/html; charset=utf-8" if self.kind == "html" else "application/json; charset=utf-8"
        return Reply(200, {"Content-Type": kind}, BytesContent(_GARBAGE[self.kind]))


_GARBAGE: Mapping[Garbage, bytes] = {
    "html": b"<!doctype html><title>Please sign in to this network</title>",
    "half-json": b'{"required_images":["docker.io/acme/app:1"],"required_remote_resources":[{"type":"HF","ur',
    "wrong-types": b'{"required_images":{"0":7},"required_remote_resources":"none"}',
    "wrong-shape": b'{"required_vram":8,"required_cpu":4,"required_memory":16}',
    "array": b'["docker.io/acme/app:1"]',
    "null": b"null",
    "empty": b"",
    "deep": b"[" * 100_000,
    "not-utf-8": b'{"required_images":["\xff\xfe"],"required_remote_resources":[]}',
}

MODES: Mapping[str, tuple[Fault | Rule, ...]] = MappingProxyType(
    {
        "down": (Status(503),),
        "closed": (CutHead(0),),
        "cut": (CutHead(20, "fin"),),
        "slow": (Delay(2.0),),
        "trickle": (Trickle(20.0).on("market"),),
        "silent": (Delay(float("inf")),),
        "failing": (MarketFailure(),),
        **{f"garbage-{kind}": (MarketGarbage(kind),) for kind in _GARBAGE},
    }
)
"""Ways in which an endpoint does not do its duty, by name; moving away is ``Market.move``."""

# What it may say

DOCUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "empty": {"required_images": [], "required_remote_resources": []},
        "images-strings": {
            "required_images": ["registry.hub.docker.com/nosana/stats:v1.0.4", "docker.io/ollama/ollama:0.31.2"],
            "required_remote_resources": [],
        },
        "images-objects": {
            "required_images": [
                {
                    "name": "registry.example.com/org/model:v2",
                    "server": "registry.example.com",
                    "username": "market-user",
                    "password": "market-password",
                }
            ],
            "required_remote_resources": [],
        },
        "images-mixed": {
            "required_images": [
                "docker.io/acme/app:1",
                {"name": "registry.example.com/org/open:v1", "server": "registry.example.com"},
                {"name": "docker.io/acme/private:2", "username": "market-user", "password": "market-password"},
            ],
            "required_remote_resources": [],
        },
        "s3": {
            "required_images": [],
            "required_remote_resources": [
                {"type": "S3", "url": "https://models.nosana.io/stable-diffusion/dreamshaper/8"}
            ],
        },
        "s3-with-keys": {
            "required_images": [],
            "required_remote_resources": [
                {
                    "type": "S3",
                    "url": "https://bucket.example.com/models",
                    "files": ["a"],
                    "IAM": {"access_key_id": "AKIAMARKET", "secret_access_key": "market-secret"},
                }
            ],
        },
        "s3-buckets": {
            "required_images": [],
            "required_remote_resources": [
                {
                    "type": "S3",
                    "buckets": [
                        {"url": "https://bucket.example.com/one", "files": ["a"]},
                        {"url": "https://bucket.example.com/two"},
                    ],
                }
            ],
        },
        "hf-url": {
            "required_images": [],
            "required_remote_resources": [{"type": "HF", "url": "InternScience/Agents-A1-4B"}],
        },
        "hf-repo": {
            "required_images": [],
            "required_remote_resources": [
                {
                    "type": "HF",
                    "repo": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
                    "revision": "main",
                    "files": ["model.safetensors"],
                }
            ],
        },
        "ollama": {"required_images": [], "required_remote_resources": [{"type": "Ollama", "model": "gemma4:26b"}]},
        "images-only": {"required_images": ["docker.io/acme/app:1"]},
        "all": {
            "required_images": [
                "registry.hub.docker.com/nosana/stats:v1.0.4",
                {"name": "registry.example.com/org/model:v2", "username": "market-user", "password": "market-password"},
            ],
            "required_remote_resources": [
                {"type": "S3", "url": "https://models.nosana.io/stable-diffusion/dreamshaper/8"},
                {
                    "type": "S3",
                    "url": "https://bucket.example.com/models",
                    "files": ["a"],
                    "IAM": {"access_key_id": "AKIAMARKET", "secret_access_key": "market-secret"},
                },
                {"type": "S3", "buckets": [{"url": "https://bucket.example.com/one", "files": ["a"]}]},
                {"type": "HF", "url": "InternScience/Agents-A1-4B"},
                {"type": "Ollama", "model": "gemma4:26b"},
            ],
        },
    }
)
"""Lists in every shape that endpoints send, by name; the published ones, with names that lead nowhere for secrets."""
