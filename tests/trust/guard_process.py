"""A process that lives through the corpus of hostile addresses as a job would, and tells what came of each case.

Its origins are at 127.0.0.2, the only address that is allowed; at 127.0.0.1 and ::1 listens a trap. One JSON line at
the end: each case's outcome, the connections that this process made as Python saw them, and what the trap got. Whoever
wants to know better traces its system calls. ``--plant``: the guard has a hole, or does not hold on to the address that
it judged. ``--dns``: names are really looked up.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from fetcher.client import Fetcher, run
from fetcher.config import Settings
from fetcher.engine import fetch as engine
from fetcher.errors import FetcherError
from fetcher.net import door, guard, lanes
from fetcher.net.body import dial
from fetcher.net.request import Request
from fetcher.net.roads import Roads
from fetcher.testing import S3, Hub
from fetcher.testing.faultplan import Exchange, Fault
from fetcher.testing.faults import RedirectTo
from fetcher.testing.messages import Reply
from fetcher.testing.registry import Registry
from fetcher.testing.registry.hostility import Challenge
from tests.trust.hostile_addresses import ALLOWED, Case, corpus, dns_cases

SECONDS_MAX = 10.0
"""For one case; what hangs is a fault of its own."""
Connects = list[tuple[str, int]]


@dataclass(frozen=True)
class NextLink(Fault):
    """Name another page of the tree."""

    places: ClassVar[tuple[str, ...]] = ("tree",)
    late: ClassVar[bool] = True
    url: str = ""

    def fits(self, exchange: Exchange, reply: Reply) -> bool:
        return reply.status == 200

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        reply.headers["Link"] = f'<{self.url}>; rel="next"'


@dataclass
class Names:
    """The resolver: answers of the case at hand, one after the other."""

    answers: dict[str, list[str]] = field(default_factory=dict)

    async def look_up(self, host: str, port: int) -> list[str]:
        known = self.answers.get(host.rstrip(".").lower())
        if known is None:
            raise OSError(f"{host!r} is unknown here")
        answer = known.pop(0) if len(known) > 1 else known[0]
        return answer.split(",")


@dataclass
class Stage:
    """Origins, traps and the client of one run."""

    hub: Hub
    s3: S3
    registry: Registry
    names: Names
    fetcher: Fetcher
    transport: Roads
    places: dict[str, int]
    """Ports of the placeholders."""

    async def outcome(self, case: Case) -> str:
        """``ok``, or the kind of the error."""
        self.names.answers = {host: list(answers) for host, answers in case.answers}
        target = case.target
        for place, port in self.places.items():
            target = target.replace(f"{{{place}}}", str(port))
        worst = "ok"
        for _ in range(case.times):
            try:
                async with asyncio.timeout(SECONDS_MAX):
                    await self._act(case, target)
            except FetcherError as error:
                worst = error.kind
        return worst

    async def _act(self, case: Case, target: str) -> None:
        if case.road == "send":
            response = await self.transport.send(Request("GET", target), idle_timeout_s=5.0, fresh_connection=True)
            response.abort()
            return
        item: Any = "hf://acme/tiny"
        match case.road:
            case "s3":
                item = {"type": "S3", "url": target}
            case "ollama":
                item = {"type": "Ollama", "model": f"{target}/library/tiny"}
            case "api-redirect":
                self.hub.faults.add(RedirectTo(target).on("info"))
            case "body-redirect":
                self.hub.faults.add(RedirectTo(target).on("resolve"))
            case "next-link":
                self.hub.faults.add(NextLink(url=target).on("tree", times=1))
            case "s3-redirect":
                item = {"type": "S3", "url": f"{self.s3.endpoint}/models/"}
                self.s3.faults.add(RedirectTo(target, status=307).on("s3"))
            case "realm":
                item = {"type": "Ollama", "model": "tiny"}
                self.registry.faults.add(Challenge(f'Bearer realm="{target}",service="x"'))
        try:
            await self.fetcher.fetch(item, "job")
        finally:
            for origin in (self.hub, self.s3, self.registry):
                origin.faults.clear()


def plant_a_hole() -> None:
    """The guard forgets loopback, in every form."""
    guard._SPECIAL_V4 = tuple(row for row in guard._SPECIAL_V4 if row[1] != "loopback")
    guard._SPECIAL_V6 = tuple(
        row for row in guard._SPECIAL_V6 if row[1] not in ("loopback", "an IPv4-compatible address")
    )
    guard.is_own = lambda ip: False
    guard.special.cache_clear()


def plant_a_second_look() -> None:
    """What was judged is one answer; what is connected to is the next."""
    judged = lanes.Resolver.resolve

    async def again(self: Any, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> Any:
        await judged(self, host, port, family)
        self._judge, judge = None, self._judge
        try:
            return await judged(self, host, port, family)
        finally:
            self._judge = judge

    lanes.Resolver.resolve = again  # type: ignore[method-assign]
    lanes.Judge.socket = lambda self, info: socket.socket(*info[:3])  # type: ignore[method-assign]
    asked = dial.Addresses._ask

    async def asked_again(self: Any, lane: Any, address: Any) -> list[str]:
        await asked(self, lane, address)
        return list(await self._lookup(address.host, address.port))

    dial.Addresses._ask = asked_again  # type: ignore[method-assign]
    judge_all = door.Door.judge

    def judge(self: Any, lane: Any, host: str, addresses: Any, port: int) -> None:
        if [host] != list(addresses):  # a name, and not the very address of a socket
            judge_all(self, lane, host, addresses, port)

    door.Door.judge = judge  # type: ignore[method-assign]


class Trap(asyncio.Protocol):
    """Remembers who came."""

    caught = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Trap.caught += 1
        transport.close()


class Host(asyncio.Protocol):
    """Answers whoever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 204 Here\r\nConnection: close\r\n\r\n")
        self._transport.close()


async def traps(stack: AsyncExitStack) -> tuple[int, int]:
    """Ports of a trap on both loopback addresses, and of one where the allowed address has an origin of its own."""
    loop = asyncio.get_running_loop()
    allowed = await loop.create_server(Host, ALLOWED, 0)
    stack.callback(allowed.close)
    both = allowed.sockets[0].getsockname()[1]
    trap = await loop.create_server(Trap, "127.0.0.1", 0)
    stack.callback(trap.close)
    port = trap.sockets[0].getsockname()[1]
    for host, each in (("127.0.0.1", both), ("::1", port)):
        try:
            stack.callback((await loop.create_server(Trap, host, each)).close)
        except OSError:  # taken, or no IPv6: the tracer sees what the trap would
            pass
    return port, both


async def live(connects: Connects, cases: Sequence[Case], *, dns: bool) -> dict[str, Any]:
    outcomes: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        trap, both = await traps(stack)
        hub = await stack.enter_async_context(Hub(host=ALLOWED, cdn_host=ALLOWED))
        s3 = await stack.enter_async_context(S3(host=ALLOWED))
        registry = await stack.enter_async_context(Registry(host=ALLOWED))
        hub.add_repo("acme/tiny", files={"a.txt": "x", "large.bin": bytes(2 << 20)})
        s3.add_bucket("models", {"a": b"1"}, public=True)
        registry.add_model("library/tiny")
        names = Names()
        hurried = {"api_tries_max": 1, "connect_timeout_s": 3.0, "backoff_min_s": 0.01, "backoff_max_s": 0.01}
        hurried |= {"no_progress_timeout_s": 5.0, "space_floor_bytes": 0, "fresh_for_s": 0.0}
        lanes.DNS_KEPT_S = dial.DNS_KEPT_S = 0.0  # a look-up each time, so that answers can change
        made = functools.partial(Roads, lookup=guard.look_up if dns else names.look_up)
        engine.Roads = made  # type: ignore[misc, assignment]
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fetcher-guard-")), "cache")
        allow_net = f"{ALLOWED}/32"
        fetcher = await stack.enter_async_context(
            Fetcher(
                environ={},
                cache_dir=str(cache),
                hf_endpoint=hub.endpoint,
                ollama_url=registry.endpoint,
                allow_net=allow_net,
                **hurried,
            )
        )
        transport = made(Settings(cache_dir=cache, state_dir=cache, allow_net=(allow_net,), connect_timeout_s=3.0))
        stack.push_async_callback(transport.close)
        own = int(hub.endpoint.rpartition(":")[2])
        stage = Stage(hub, s3, registry, names, fetcher, transport, {"trap": trap, "own": own, "both": both})
        for case in cases:
            try:
                outcomes[case.name] = await stage.outcome(case)
            except Exception as error:  # a bug, to be told with the rest
                outcomes[case.name] = f"{type(error).__name__}: {error}"
        outcomes["whole"] = await stage.outcome(Case("whole", "send", "http://127.0.0.2:{own}/x"))
        await fetcher.fetch("hf://acme/tiny", "job")
        await fetcher.fetch({"type": "S3", "url": f"{s3.endpoint}/models/"}, "job")
        await fetcher.fetch({"type": "Ollama", "model": "tiny"}, "job")
    return {"outcomes": outcomes, "connects": connects, "caught": Trap.caught, "both": both}


def heard(connects: Connects) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that remembers every address that a socket is connected or sent to."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            if isinstance(address, tuple) and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
                connects.append((str(address[0]), int(address[1])))

    return hook


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plant", choices=("hole", "second-look"))
    parser.add_argument("--asyncio", action="store_true")
    parser.add_argument("--dns", action="store_true")
    options = parser.parse_args()
    connects: Connects = []
    sys.addaudithook(heard(connects))
    cases = dns_cases() if options.dns else corpus()
    if options.plant == "second-look":
        plant_a_second_look()
    if options.plant == "hole":
        plant_a_hole()
        # What the hole leads to, and nothing that would leave the machine.
        cases = tuple(case for case in cases if case.target.startswith("https://127.0.0.") and not case.answers)
        assert cases
    act: Callable[[], Awaitable[dict[str, Any]]] = functools.partial(live, connects, cases, dns=options.dns)
    told = asyncio.run(act()) if options.asyncio else run(act)  # type: ignore[arg-type]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
