"""kill -9 at random moments, without a tracer: several clients at one cache, one of them is killed while the others go
on. Moments are spread over the time that the same work takes undisturbed."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fetcher import hashing
from fetcher.testing import Hub
from fetcher.testing.faults import Trickle
from tests.e2e.support import MIB, held_by, options, wait_until
from tests.torture import modes
from tests.torture.judging import FIRST, SECOND, add_repos, assert_kept, assert_survives
from tests.torture.traced import Client, Ended

pytestmark = pytest.mark.timeout(modes.count(120, 3600))

CLIENTS = 3
CONNECTIONS = 2
SHARED_BYTES = 24 * MIB + 123
LINE_BYTES_PER_S = 16 * MIB
"""Of one body: slow enough that a kill finds files under way."""
FETCHING = [["fetch", FIRST], ["fetch", SECOND]]
CHURNING = [["fetch", FIRST], ["copy", FIRST], ["remove", FIRST], ["gc"], ["fetch", SECOND], ["remove", SECOND], ["gc"]]
"""What clients get in each other's way with; a refusal of one step does not end them."""
IN_FLIGHT_BYTES = CONNECTIONS * (2 * MIB + MIB // 2)
"""What docs/SEMANTICS.md lets be asked for again after a kill: of each connection a block that was not whole, one on
its way to the disk, and what was read ahead. Small files are less than that."""


def union_bytes(hub: Hub) -> int:
    """What both resources consist of, each content once."""
    contents: dict[str, int] = {}
    for repo in ("acme/first", "acme/second"):
        contents.update({sha256: size for size, sha256 in held_by(hub, repo).values()})
    return sum(contents.values())


def order_of(hub: Hub, cache_dir: Path, **more: Any) -> dict[str, Any]:
    settings = options(hub, cache_dir, sync_bytes=4 * MIB, connections_max=CONNECTIONS, heartbeat_s=0.2)
    return {"options": settings, **more}


def together(clients: list[Client], order: dict[str, Any], victim: Client | None, after_s: float) -> list[Ended]:
    """All carry out the order at the same time, one is killed after a while; how each ended, in their order."""
    for client in clients:
        client.begin(order)
    ended: dict[int, Ended] = {}

    def wait_for(number: int) -> None:
        ended[number] = clients[number].end()

    threads = [threading.Thread(target=wait_for, args=(number,)) for number in range(len(clients))]
    for client in clients:
        client.go()
    for thread in threads:
        thread.start()
    if victim is not None:
        time.sleep(after_s)
        victim.kill()
    for thread in threads:
        thread.join()
    return [ended[number] for number in range(len(clients))]


@pytest.mark.parametrize("work", ["fetching", "churning"])
def test_one_of_several_is_killed_at_a_random_moment(
    hub: Hub, tmp_path: Path, rng: random.Random, work: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_repos(hub, shared_bytes=SHARED_BYTES if work == "fetching" else 7 * MIB)
    hub.faults.add(Trickle(LINE_BYTES_PER_S).on("cdn"))
    steps = FETCHING if work == "fetching" else CHURNING
    union = union_bytes(hub)
    killed, again = 0, 0
    with ExitStack() as stack:
        clients = [stack.enter_context(Client()) for _ in range(CLIENTS)]

        def order(cache_dir: Path) -> dict[str, Any]:
            return order_of(hub, cache_dir, steps=steps, go_on=work == "churning")

        began = time.monotonic()
        for ended in together(clients, order(tmp_path / "undisturbed"), None, 0.0):
            assert ended.status == 0, ended.facts
        whole_s = time.monotonic() - began
        kills = modes.count(3, 50)
        for number in range(kills):
            cache_dir = tmp_path / str(number)
            victim = rng.choice(clients)
            sent = hub.body_bytes_sent()
            ended_all = together(clients, order(cache_dir), victim, rng.uniform(0.0, 0.9) * whole_s)
            in_time = sum(ended.killed for ended in ended_all)
            killed += in_time
            whole_s *= 1.0 if in_time else 0.5  # the machine has more time for it than when that was measured
            try:
                for client, ended in zip(clients, ended_all, strict=True):
                    assert ended.status == 0 or (ended.killed and client is victim), ended.facts
                    for refused in ended.told("refused"):
                        assert refused["kind"] in ("cache", "lease"), refused
                if work == "fetching":
                    lost = hub.body_bytes_sent() - sent - union
                    assert lost <= IN_FLIGHT_BYTES or not hashing.HAS_TREE, f"{lost} bytes were asked for twice"
                    again = max(again, lost)
                    for ended in ended_all:
                        assert_kept(cache_dir, hub, ended.facts)
                    assert_survives(cache_dir, hub, Ended(0), rerun=True)
                else:
                    assert_survives(cache_dir, hub, Ended(0), rerun=rng.random() < 0.5, bounded=False)
            except Exception as error:
                error.add_note(f"kill {number + 1} of {kills}: {cache_dir}")
                raise
    assert killed >= kills // 2, "most processes had ended before they were killed"
    with capsys.disabled():
        print(f"\n  {work}: {killed} killed of {kills}, {again / MIB:.1f} MiB asked again at most ", end="")


@pytest.mark.needs("native")
@pytest.mark.parametrize("plant", [None, "forget_journal"])
def test_a_client_that_forgets_what_it_had_is_over_the_bound(hub: Hub, cache_dir: Path, plant: str | None) -> None:
    """Killed after three quarters of a file, then started again; and the same without the fault."""
    add_repos(hub, shared_bytes=SHARED_BYTES)
    hub.faults.add(Trickle(LINE_BYTES_PER_S).on("cdn"))
    with Client() as client:
        client.begin(order_of(hub, cache_dir, steps=FETCHING, plant=plant))
        client.go()
        wait_until(lambda: hub.body_bytes_sent() > SHARED_BYTES * 3 // 4)
        client.kill()
        assert client.end().killed
        assert client.work(order_of(hub, cache_dir, steps=FETCHING)).status == 0
    lost = hub.body_bytes_sent() - union_bytes(hub)
    assert (lost > IN_FLIGHT_BYTES) == (plant is not None), lost
