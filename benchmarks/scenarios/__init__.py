"""Who does what work, from which origin into which sink: one function for each scenario, which yields a row a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks.running.options import Options
from benchmarks.running.race import Row
from benchmarks.scenarios import concurrent, files, flipped, kill, links, many, modules, objects, repeat, start


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question."""

    run: Callable[[Options], Iterator[Row]]
    nearest: tuple[str, ...] = ()
    """Who is in the short form: us, the limit, and those who come nearest. Empty: everybody."""
    short: bool = True
    """Whether the short form has it at all."""

    @property
    def asks(self) -> str:
        return (self.run.__doc__ or "").partition("\n")[0]


SCENARIOS: Mapping[str, Scenario] = {
    "engine": Scenario(files.engine, ("fetcher engine", "C", "rclone", "obstore", "hf_transfer")),
    "http": Scenario(files.http, ("fetcher", "C, BLAKE3", "obstore", "hf_transfer", "rclone", "curl")),
    "lfs": Scenario(files.lfs, ("fetcher", "C, BLAKE3, SHA-256", "hf_transfer")),
    "sharded": Scenario(files.sharded),
    "https": Scenario(files.https, ("fetcher", "C, BLAKE3", "rclone", "obstore", "curl")),
    "disk": Scenario(files.disk, ("fetcher", "C, BLAKE3, O_DIRECT", "rclone", "wget2")),
    "link-capped": Scenario(links.link_capped, ("fetcher", "aria2c -x16")),
    "link-straggler": Scenario(links.link_straggler, short=False),
    "link-429": Scenario(links.link_refused, short=False),
    "small": Scenario(many.small, ("fetcher engine", "fetcher", "curl --parallel", "wget2")),
    "medium": Scenario(many.medium, ("fetcher engine", "fetcher", "curl --parallel", "wget2")),
    "requests": Scenario(many.requests),
    "s3": Scenario(objects.s3, ("fetcher", "s5cmd", "rclone")),
    "repeat": Scenario(repeat.repeat),
    "concurrent": Scenario(concurrent.concurrent),
    "kill": Scenario(kill.kill, ("fetcher", "aria2c --continue, saving each second", "curl")),
    "flipped": Scenario(flipped.flipped),
    "start": Scenario(start.start),
    "hashing": Scenario(modules.hashing),
    "index": Scenario(modules.index, short=False),
    "denied": Scenario(modules.denied, short=False),
}
