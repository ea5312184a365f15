"""aria2c: told to split a file over so many connections, and not to allocate, which is slow on a tmpfs."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.hotpath.work import Command, Rival, Work, program_version, write_lines

QUIET = ("aria2c", "--no-conf", "--quiet", "--file-allocation=none")


def _split(connections: int) -> Callable[[Work], Command]:
    def file(work: Work) -> Command:
        trust = () if work.certificate is None else (f"--ca-certificate={work.certificate}",)
        split = (f"-x{connections}", f"-s{connections}", "-k1M")
        return Command((*QUIET, *split, *trust, f"--dir={work.directory}", f"--out={work.names[0]}", work.url))

    return file


def files(work: Work) -> Command:
    lines = [line for name in work.names for line in (f"{work.base}/{name}", f" out={name}")]
    listed = write_lines(work, "aria2c.urls", lines)
    return Command((*QUIET, "-j16", "-x1", f"--dir={work.directory}", f"--input-file={listed}"))


RIVALS = (
    Rival("aria2c -x8", {"file": _split(8), "files": files}, program_version("aria2c"), needs=("aria2c",)),
    Rival("aria2c -x16", {"file": _split(16)}, program_version("aria2c"), needs=("aria2c",)),
)
