"""Listings that no honest origin has: refused by name, before a byte is asked for and with nothing touched outside."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fetcher import HF, FetcherError, ForbiddenError, IntegrityError, TransportError
from fetcher.testing import Hub, Quotas, Synthetic
from fetcher.testing.faultplan import Exchange
from fetcher.testing.hub.hostility import HOSTILE_ROWS, HostileTree
from fetcher.testing.messages import Reply
from tests.e2e.support import REPO, Child, fetch, fetcher_of, held_by, mixed_files, nothing_visible, options, tree_of

MALFORMED = {
    "size-text",
    "size-float",
    "bad-oid",
    "bad-sha256",
    "no-path",
    "null-row",
    "surrogate",
    "two-sizes",
}
"""No listing of the Hub at all: what the origin says can't be read. The others can, and are refused by policy."""


def everything_beside(cache_dir: Path) -> set[Path]:
    root = cache_dir.parent.parent
    return {path for path in root.rglob("*") if cache_dir not in path.parents and path != cache_dir}


@pytest.mark.parametrize("name", HOSTILE_ROWS)
def test_hostile_rows_are_refused(hub: Hub, cache_dir: Path, name: str) -> None:
    hub.add_repo(REPO, files=mixed_files())
    hub.faults.add(HostileTree(HOSTILE_ROWS[name]).on())
    before = everything_beside(cache_dir)
    with pytest.raises(FetcherError) as caught:
        fetch(hub, cache_dir)
    assert hub.faults.fired
    assert type(caught.value) is (TransportError if name in MALFORMED else ForbiddenError), repr(caught.value)
    assert caught.value.exit_code == (30 if name in MALFORMED else 25)
    assert caught.value.resource == f"hf://{REPO}@main"
    assert all(character.isprintable() for character in caught.value.message), "safe to show on a terminal"
    assert hub.count("bodies") == hub.count("resolve") == 0
    assert everything_beside(cache_dir) - before <= {cache_dir.parent}
    nothing_visible(cache_dir)


@pytest.mark.parametrize("name", ["dot-dot", "absolute", "nul", "long-segment", "petabyte"])
def test_a_hostile_row_anywhere_refuses_the_repo(hub: Hub, cache_dir: Path, name: str) -> None:
    """Also where only other files are wanted: who lists such a name is not to be trusted with the rest."""
    hub.add_repo(REPO, files=mixed_files())
    hub.faults.add(HostileTree(HOSTILE_ROWS[name]).on())
    with pytest.raises(ForbiddenError):
        fetch(hub, cache_dir, HF(REPO, files=("config.json",)))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "aux_loss.py",
            "console",
            "COM10.json",
            " leading blank",
            "trailing.",
            "trailing ",
            "...",
            "-rf",
            "~",
            "$HOME",
        ),
        *("a b:c", "\u202egpj.exe", "naïve", "zero\u200bwidth", "`id`", "'; rm -rf x", "%2e%2e%2fx", "\U0001f600"),
    ],
)
def test_odd_names_are_just_names(hub: Hub, cache_dir: Path, path: str) -> None:
    hub.add_repo(REPO, files={path: "text"})
    assert (fetch(hub, cache_dir).snapshot.path / path).read_text() == "text"


@pytest.mark.parametrize("path", ["aux", "con.txt", "NUL", "COM1.json", "nested/lpt9/x"])
def test_names_of_devices_are_refused(hub: Hub, cache_dir: Path, path: str) -> None:
    hub.add_repo(REPO, files={path: "text", "config.json": "{}"})
    with pytest.raises(ForbiddenError, match="reserved name"):
        fetch(hub, cache_dir)
    nothing_visible(cache_dir)


LINK = {"oid": "0" * 40, "size": 11, "target": "/etc/passwd"}


@pytest.mark.parametrize("kind", ["symlink", "submodule", "commit", "", "FILE", "hardlink"])
@pytest.mark.parametrize("path", ["link", "nested/link", "../escaped", "/etc/escaped", "small.bin"])
def test_only_files_of_a_listing_are_made(hub: Hub, cache_dir: Path, kind: str, path: str) -> None:
    """Rows of another type than file and directory name nothing that is fetched, and nothing is made of them."""
    hub.add_repo(REPO, files=mixed_files())
    hub.faults.add(HostileTree(({**LINK, "type": kind, "path": path},)).on())
    snapshot = fetch(hub, cache_dir).snapshot
    assert tree_of(snapshot.path) == held_by(hub), "plain files, those of the hub and no more"
    assert not list(cache_dir.parent.rglob("escaped"))


def test_a_file_whose_text_is_a_link_is_a_file(hub: Hub, cache_dir: Path) -> None:
    """What git keeps of a symlink is its target, as text; the Hub serves it as that."""
    hub.add_repo(REPO, files={"link": "../../../etc/passwd"})
    made = fetch(hub, cache_dir).snapshot.path / "link"
    assert not made.is_symlink() and made.read_text() == "../../../etc/passwd"


@pytest.mark.parametrize("size", [130, 5 * (1 << 20) + 123])
def test_a_pointer_that_lies_about_its_bytes(hub: Hub, cache_dir: Path, size: int) -> None:
    """An LFS row with another file's digest: bytes come, and are not what was vouched for."""
    repo = hub.add_repo(REPO, files={"weights.bin": Synthetic(size, 1), "other.txt": "other"})
    assert repo.head is not None
    lie = {"type": "file", "path": "weights.bin", "oid": "1" * 40, "size": size, "lfs": {"oid": "2" * 64, "size": size}}
    hub.faults.add(Relisted((lie,)).on())
    with pytest.raises(IntegrityError) as caught:
        fetch(hub, cache_dir)
    assert caught.value.exit_code == 40
    nothing_visible(cache_dir)


@dataclass(frozen=True)
class Relisted(HostileTree):
    """The rows instead of those of the same path."""

    def after(self, exchange: Exchange, reply: Reply, memory: dict[Any, Any]) -> None:
        paths = {row["path"] for row in self.rows}
        assert isinstance(reply.rows, list)
        reply.rows = [row for row in reply.rows if row["path"] not in paths]
        super().after(exchange, reply, memory)


def test_ten_thousand_empty_files_in_one_folder(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={f"e/{n:05}": b"" for n in range(10_000)})
    snapshot = fetch(hub, cache_dir).snapshot
    assert snapshot.files == 10_000
    assert hub.count("bodies") == 0


def test_too_many_files_are_refused_with_the_number(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={f"{n}.txt": "x" for n in range(50)})
    with pytest.raises(ForbiddenError, match="49"):
        fetch(hub, cache_dir, manifest_files_max=49)


@pytest.mark.timeout(150)  # four times what it takes on a machine that does nothing else
def test_planning_a_hundred_thousand_files(hub: Hub, cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 100_000
    hub.quotas = Quotas(api=100_000)
    hub.add_repo(REPO, files={f"train/{n // 1000:03}/{n:06}.json": b"{%d}" % n for n in range(count)})
    began = time.monotonic()
    with Child(options(hub, cache_dir, api_timeout_s=60.0, api_time_max_s=120.0), plan_only=True) as child:
        assert child.line()["event"] == "ready"
        started = time.monotonic()
        fact = child.done(120)
        took_s = time.monotonic() - started
    assert started >= began
    assert (fact["files"], fact["files_to_fetch"]) == (count, count)
    with capsys.disabled():
        print(f"\n  {count} files planned in {took_s:.1f} s, peak {fact['peak_bytes'] >> 20} MiB ", end="")
    assert fact["peak_bytes"] < 2 << 30


def test_the_error_of_a_hostile_name_is_plain_json(hub: Hub, cache_dir: Path) -> None:
    """What a hostile origin writes into a name must not break the line of who reads us."""
    hub.add_repo(REPO, files={"a": "a"})
    row: Any = "\x1b]0;owned\x07\u2028\r\n../x"
    hub.faults.add(HostileTree((row,)).on())

    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as fetcher:
            with pytest.raises(ForbiddenError) as caught:
                await fetcher.plan(f"hf://{REPO}")
            assert json.loads(json.dumps(caught.value.message)) == caught.value.message
            assert caught.value.message.isprintable()

    asyncio.run(main())
