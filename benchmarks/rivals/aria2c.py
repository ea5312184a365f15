"""aria2c: told to split a file over so many connections, and not to allocate, which is slow on a tmpfs."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.running.work import FEW_CONNECTIONS, Command, Rival, Work, program_version, write_lines

QUIET = ("aria2c", "--no-conf", "--quiet", "--file-allocation=none", "--allow-overwrite=true")
"""Overwriting, as the others do unasked: else it writes beside a file that is there."""


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


def _continuing(*options: str, told: bool = False) -> Callable[[Work], Command]:
    """``--continue`` with its control file, which it saves each minute."""

    def resume(work: Work) -> Command:
        split = (f"--split={FEW_CONNECTIONS}", f"--max-connection-per-server={FEW_CONNECTIONS}")
        digest = ("--check-integrity", f"--checksum=sha-256={work.sha256}") if told else ()
        where = (f"--dir={work.directory}", f"--out={work.names[0]}", work.url)
        return Command(("aria2c", "--no-conf", "--quiet", "--continue", *split, *options, *digest, *where))

    return resume


def _resumer(name: str, *options: str, told: bool = False) -> Rival:
    verifies = "SHA-256, when told it" if told else "nothing but the length"
    way = _continuing(*options, told=told)
    return Rival(name, {"resume": way}, program_version("aria2c"), verifies, needs=("aria2c",))


SAVING = "--auto-save-interval=1"

RIVALS = (
    Rival("aria2c -x8", {"file": _split(8), "files": files}, program_version("aria2c"), needs=("aria2c",)),
    Rival("aria2c -x16", {"file": _split(16)}, program_version("aria2c"), needs=("aria2c",)),
    _resumer("aria2c --continue"),
    _resumer("aria2c --continue, saving each second", SAVING),
    _resumer("aria2c --continue, saving, told the sha256", SAVING, told=True),
)
