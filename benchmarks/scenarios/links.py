"""A long link: streams that are capped, and an origin that turns to 429 for a while."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents, links
from benchmarks.origins.nginx import Nginx, nginx, nginx_here
from benchmarks.running.machine import Conditions, Failed, ended, run
from benchmarks.running.options import BIG, MIB, Options
from benchmarks.running.race import Race, Row, command_of, in_turns, judge, room_in
from benchmarks.running.work import Work


@contextmanager
def linked(options: Options, chosen_by: str = "--link-size") -> Iterator[tuple[Nginx, Path, Conditions, Work]]:
    nginx_here()
    links.links_here()
    with room_in(options.memory, 2 * options.link_bytes, chosen_by=chosen_by) as room:
        root = room / "root"
        contents.large(root / BIG, options.link_bytes)
        with (
            links.link() as pair,
            nginx(room / "nginx", root, host=links.SERVER, inside=pair.at_server()) as server,
            room_in(room) as sink,
        ):
            work = Work("", (BIG,), sink, allow_net=links.NETWORK)
            yield server, root, Conditions(options.core, inside=pair.at_client()), work


def link_capped(options: Options) -> Iterator[Row]:
    """40 ms, 1 Gbit/s, 20 MiB/s for a stream: nobody but aria2c is told how many streams that takes."""
    with linked(options) as (server, root, conditions, work):
        work = replace(work, base=server.capped)
        # With one stream the cap is the speed: 51 s for 1 GiB, in each round, say nothing. Who wants to see names it.
        entrants = ("fetcher", "aria2c -x16", "aria2c -x8")
        yield from Race("link-capped", options, "file", entrants, work, root, conditions, server).rows()


def link_straggler(options: Options) -> Iterator[Row]:
    """40 ms, 1 Gbit/s, one connection in five crawls: what asking twice gains, and what it costs the line."""
    with linked(options) as (server, root, conditions, work):
        work = replace(work, base=server.straggling)
        entrants = ("fetcher", "fetcher, no hedges", "aria2c -x16")
        yield from Race("link-straggler", options, "file", entrants, work, root, conditions, server).rows()


PLATEAU_S = 8.0
"""When the origin begins to refuse. Half of that before it is what the plateau is taken from."""
REFUSED_S = 10.0
SAMPLE_S = 0.1
WINDOW_S = 1.0
AFTER_S = 6.0


def link_refused(options: Options) -> Iterator[Row]:
    """40 ms, 1 Gbit/s; the origin turns to 429 for 10 s, then back: who fails, and how soon it is fast again."""
    # Long enough for the plateau before, what comes in between, and some seconds after.
    link_bytes = int(1e9 / 8 * (PLATEAU_S + AFTER_S + 4))
    with linked(replace(options, link_bytes=link_bytes), "") as (server, root, conditions, work):
        work = replace(work, base=server.switched)

        def one(name: str, round_number: int) -> Row:
            return _refused_once(name, work, root, conditions, server)

        common: Row = {"scenario": "link-429", "way": "file", "bytes": link_bytes, "files": 1, **conditions.row()}
        # Alone: whoever asks once for a sixteenth of the file each time never meets a refusal.
        yield from in_turns(common, options.rounds, options.of(("fetcher",)), one)


def _refused_once(name: str, work: Work, root: Path, conditions: Conditions, server: Nginx) -> Row:
    samples: list[tuple[float, int]] = []
    turned: dict[bool, float] = {}

    def watch(process: subprocess.Popen[bytes]) -> None:
        start = time.perf_counter()
        while not ended(process):
            now = time.perf_counter() - start
            samples.append((now, links.received_bytes(process.pid)))
            if True not in turned and now >= PLATEAU_S:
                server.refuse(True)
                turned[True] = now
            if True in turned and False not in turned and now >= turned[True] + REFUSED_S:
                server.refuse(False)
                turned[False] = now
            time.sleep(SAMPLE_S)

    with room_in(work.directory) as directory:
        command = command_of(name, "file", replace(work, directory=directory))
        try:
            measured = run(command, conditions, server_cpu_s=server.cpu_s, while_running=watch)
            judge(replace(work, directory=directory), command, root, compare=True)
        except Failed as failed:
            return {"failed": str(failed), "samples": _rates(samples)}
        finally:
            if turned.keys() == {True}:
                server.refuse(False)
        return measured.row() | recovery(samples, turned) | {"samples": _rates(samples)}


def recovery(samples: Sequence[tuple[float, int]], turned: dict[bool, float]) -> Row:
    """The plateau before the refusals, and how long after their end a whole window is at 0.9 of it again.

    ``samples``: seconds and bytes received until then. ``turned``: when the refusals began and ended.
    """
    if turned.keys() != {True, False}:
        return {"recovery_s": None}  # the file was here before they ended
    before = [rate for at, rate in _windows(samples) if at >= PLATEAU_S / 2 and at + WINDOW_S <= turned[True]]
    plateau = statistics.median(before) if before else 0.0
    again = [at for at, rate in _windows(samples) if at >= turned[False] and rate >= 0.9 * plateau]
    return {
        "plateau_mib_s": round(plateau / MIB, 1),
        "recovery_s": round(again[0] - turned[False], 2) if again else None,
    }


def _windows(samples: Sequence[tuple[float, int]]) -> Iterator[tuple[float, float]]:
    """When a window begins, and bytes per second in it."""
    after = 0
    for at, count in samples:
        while after < len(samples) and samples[after][0] < at + WINDOW_S:
            after += 1
        if after == len(samples):
            return
        yield at, (samples[after][1] - count) / (samples[after][0] - at)


def _rates(samples: Sequence[tuple[float, int]]) -> list[float]:
    """MiB/s in each second from the first packet on, for a picture."""
    some = [(at, count) for at, count in samples if count]  # 0: the process was not in its namespace yet
    rates, last = [], some[0] if some else (0.0, 0)
    for at, count in some:
        if at - last[0] >= 1.0:
            rates.append(round((count - last[1]) / MIB / (at - last[0]), 1))
            last = at, count
    return rates
