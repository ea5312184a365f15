"""A byte that turns over on its way: the hub states the digest of the right one, the CDN sends another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import Hubs, nginx
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Conditions, Failed, run
from benchmarks.running.options import BIG, MIB, Options
from benchmarks.running.race import Row, outputs_of, room_in
from benchmarks.running.work import Work

REPO = "bench/flipped"
SIZE_BYTES = 64 * MIB
RIVALS_OF_HUBS = (
    *("fetcher", "huggingface_hub", "huggingface_hub with hf_xet", "huggingface_hub, then its verify"),
    *("hf_transfer", "curl --parallel"),
)


def flipped(options: Options) -> Iterator[Row]:
    """One bit of a large file is wrong where the bytes come from: who notices, and what is under the final name."""
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        original = contents.large(root / "repo" / BIG, SIZE_BYTES)
        with nginx(here, root, Hubs({REPO: "repo"})) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/repo", (BIG,), sink, hub=server.hub, repo=REPO)
            able = []
            for name in options.of(RIVALS_OF_HUBS):
                rival = RIVALS[name]
                row: Row = {"rival": name, "verifies": rival.verifies}
                if rival.missing:
                    yield row | {"missing": rival.missing}
                    continue
                # Who fails with the right bytes too has noticed nothing.
                with room_in(work.directory) as directory:
                    try:
                        run(rival.ways["repo"](replace(work, directory=directory)), Conditions(options.core))
                        able.append(name)
                    except Failed as failed:
                        yield row | {"failed": str(failed)}
            flip_a_bit(original, SIZE_BYTES // 2 + 12345)  # the hub has read it, and said what it is
            for name in able:
                rival = RIVALS[name]
                row = {"rival": name, "verifies": rival.verifies}
                with room_in(work.directory) as directory:
                    own = replace(work, directory=directory)
                    command = rival.ways["repo"](own)
                    try:
                        run(command, Conditions(options.core))
                        noticed = False
                    except Failed as failed:
                        noticed, row["said"] = True, _last_line(str(failed))
                    visible = bool(outputs_of(directory, command, BIG))
                    yield row | {"version": rival.version(), "noticed": noticed, "wrong_is_visible": visible}


def flip_a_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (old,) = file.read(1)
        file.seek(offset)
        file.write(bytes([old ^ 1]))


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:200]
