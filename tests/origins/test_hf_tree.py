"""Listings: selection as the official client does it, and everything a hostile repo could list."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fetcher.config import Settings
from fetcher.errors import ForbiddenError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry
from fetcher.model.resource import HF
from fetcher.origins.hf_tree import Listing, Row, select
from fetcher.testing import FaultPlan, Hub
from fetcher.testing.hub import HOSTILE_ROWS, EndlessLinks, HostileTree
from tests.origins.hubs import FILES, origin_at

NOBODY = Asker("job")
SHA = "a" * 64
OID = "b" * 40
TREE = ("onnx/model.onnx", "onnx/sub/x.onnx", "config.json", "a[1].txt")


def entries(*paths: str) -> dict[str, FileEntry]:
    return {path: FileEntry(path, 1, None) for path in paths}


def chosen(*selectors: str, tree: tuple[str, ...] = TREE) -> list[str]:
    return [entry.path for entry in select(entries(*tree), selectors, "hf://acme/tiny")]


ONNX = ["onnx/model.onnx", "onnx/sub/x.onnx"]


@pytest.mark.parametrize(
    ("selectors", "paths"),
    [
        ((), sorted(TREE)),
        (("*",), sorted(TREE)),
        (("onnx/",), ONNX),
        (("onnx/*",), ONNX),
        (("*.onnx",), ONNX),
        (("**/*.onnx",), ONNX),
        (("onnx/sub/",), ["onnx/sub/x.onnx"]),
        (("config.json",), ["config.json"]),
        (("config.json", "*.json"), ["config.json"]),
        (("c[n-p]nfig.j?on",), ["config.json"]),
        (("[!x]*.json",), ["config.json"]),
        (("a[1].txt",), ["a[1].txt"]),
        (("a[[]1].txt",), ["a[1].txt"]),
        (("config.json", "onnx/"), ["config.json", *ONNX]),
    ],
)
def test_selection(selectors: tuple[str, ...], paths: list[str]) -> None:
    assert chosen(*selectors) == paths


@pytest.mark.parametrize(
    "selector",
    [
        "onnx",
        "**/*.json",
        "./config.json",
        "{a,b}.*",
        "Config.json",
        "*.JSON",
        "config",
        "onnx/model",
        "missing.bin",
        "x/",
    ],
)
def test_what_selects_nothing_is_an_error_that_names_it(selector: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        chosen("config.json", selector)
    assert repr(selector) in caught.value.message
    assert caught.value.hint


def test_exact_names_come_before_globs() -> None:
    assert chosen("a[1].txt", tree=("a[1].txt", "a1.txt")) == ["a[1].txt"]
    assert chosen("a[1].txt", tree=("a1.txt",)) == ["a1.txt"]
    assert chosen("a*", tree=("a*", "ab")) == ["a*"]


@pytest.mark.parametrize(
    ("selector", "hint"),
    [("confg.json", "config.json"), ("onnx", "onnx/"), ("x.onnx", "onnx/sub/x.onnx"), ("zzzzzz", "case-sensitive")],
)
def test_the_hint_helps(selector: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        chosen(selector)
    assert hint in str(caught.value.hint)


def test_many_misses_are_not_all_printed() -> None:
    with pytest.raises(NotFoundError) as caught:
        chosen(*(f"missing-{number}" for number in range(50)))
    assert "and 45 more" in caught.value.message and len(caught.value.message) < 400


def test_a_repo_without_files() -> None:
    with pytest.raises(NotFoundError, match="no files"):
        chosen(tree=())


def test_a_selection_beyond_bounds_is_refused() -> None:
    tree = entries(*(f"f{number}" for number in range(6000)))
    with pytest.raises(ForbiddenError, match="beyond bounds"):
        select(tree, [f"{number}*" for number in range(10_000)], "hf://acme/tiny")


def test_long_globs_against_long_paths_are_bounded_by_their_characters() -> None:
    """A match takes a nanosecond for each pair of characters: counted as one each, these would take minutes."""
    tree = entries(*(f"{number}/{'a' * 200}/{'b' * 200}/{'c' * 200}" for number in range(1000)))
    glob = "*" + "c" * 1000 + "d"
    began = time.monotonic()
    with pytest.raises(ForbiddenError, match="beyond bounds"):
        select(tree, [f"{glob}{number}" for number in range(20)], "hf://a/b")
    assert time.monotonic() - began < 20
    # Plain names and few globs are no work.
    assert len(select(tree, [*tree, "*c"], "hf://a/b")) == 1000


def test_a_glob_does_not_hang_on_a_hostile_name() -> None:
    began = time.perf_counter()
    with pytest.raises(NotFoundError):
        chosen("*a" * 30 + "b", tree=("a" * 2000 + ".txt",))
    assert time.perf_counter() - began < 20


def test_only_what_is_selected_must_fit_into_one_tree() -> None:
    twins = ("README.md", "readme.md", "config.json")
    assert chosen("config.json", tree=twins) == ["config.json"]
    with pytest.raises(ForbiddenError, match="case"):
        chosen(tree=twins)


# --- rows

SETTINGS = Settings(cache_dir=Path("/unused"), state_dir=Path("/unused"), manifest_files_max=100)


def listed(*rows: Any, last: bool = True) -> dict[str, FileEntry]:
    listing = Listing(SETTINGS, "hf://acme/tiny")
    listing.add(msgspec.convert(list(rows), list[Row]), last=last)
    return listing.entries


def file(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "oid": OID, "size": 3, **more}


def test_rows_become_entries() -> None:
    found = listed(
        {"type": "directory", "path": "onnx", "oid": OID, "size": 0},
        file("a", xetHash="x", lastCommit={"id": "y"}),
        file("b", lfs={"oid": SHA, "size": 3, "pointerSize": 134}),
        file("c", lfs={"oid": "sha256:" + SHA, "size": 3}),
        file("d", oid=""),
        {"type": "unknown", "path": "e"},
    )
    assert {path: (str(entry.digest), entry.inline) for path, entry in found.items()} == {
        "a": (f"git-sha1:{OID}", True),
        "b": (f"sha256:{SHA}", False),
        "c": (f"sha256:{SHA}", False),
        "d": ("None", True),
    }


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (file("../x"), ForbiddenError),
        (file("/x"), ForbiddenError),
        (file("a\\b"), ForbiddenError),
        (file("a\x00b"), ForbiddenError),
        (file(""), ForbiddenError),
        (file("a//b"), ForbiddenError),
        (file("x" * 300), ForbiddenError),
        (file("a", size=-1), ForbiddenError),
        (file("a", size=1 << 60), ForbiddenError),
        (file("a", size=-1, lfs={"oid": SHA, "size": -1}), ForbiddenError),
        (file("a", lfs={"oid": SHA, "size": 4}), TransportError),
        (file("a", lfs={"oid": SHA[1:], "size": 3}), TransportError),
        (file("a", lfs={"oid": SHA.upper(), "size": 3}), TransportError),
        (file("a", oid="xyz"), TransportError),
        (file("a", oid="../../../etc/passwd"), TransportError),
    ],
    ids=str,
)
def test_a_row_no_honest_repo_lists(row: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        listed(file("good"), row)


def test_a_path_is_listed_once() -> None:
    for again in (file("a"), file("a", oid="c" * 40)):
        with pytest.raises(ForbiddenError, match="twice"):
            listed(file("a"), again)


def test_a_page_that_repeats_earlier_ones_leads_nowhere() -> None:
    listing = Listing(SETTINGS, "hf://acme/tiny")
    rows = msgspec.convert([{"type": "directory", "path": "d"}, file("d/a")], list[Row])
    listing.add(rows, last=False)
    with pytest.raises(TransportError, match="repeats"):
        listing.add(rows, last=True)


def test_the_count_is_bounded() -> None:
    with pytest.raises(ForbiddenError, match="more than 100"):
        listed(*(file(f"f{number}") for number in range(101)))
    with pytest.raises(ForbiddenError, match="more than 100"):
        listed(*({"type": "directory", "path": f"d{number}"} for number in range(101)))


def test_a_listing_of_crumbs_has_an_end() -> None:
    listing = Listing(Settings(cache_dir=Path("/unused"), state_dir=Path("/unused")), "hf://acme/tiny")
    with pytest.raises(TransportError, match="does not end"):
        for number in range(1000):
            listing.add([Row("file", f"f{number}", OID, 1)], last=False)


# --- from the hub


@pytest.mark.parametrize("rows", HOSTILE_ROWS.values(), ids=HOSTILE_ROWS)
def test_hostile_rows_refuse_the_repo(rows: tuple[Any, ...]) -> None:
    async def main() -> None:
        faults = FaultPlan(HostileTree(rows))
        async with Hub(faults=faults) as hub, origin_at(hub, api_tries_max=2) as origin:
            hub.add_repo("acme/tiny", files=FILES)
            with pytest.raises((ForbiddenError, TransportError)):
                await origin.resolve(HF("acme/tiny"), NOBODY)
            assert faults.fired

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["same", "fresh"])
def test_endless_links_end(kind: Any) -> None:
    async def main() -> None:
        faults = FaultPlan(EndlessLinks(kind))
        async with Hub(faults=faults) as hub, origin_at(hub, manifest_files_max=300) as origin:
            hub.add_repo("acme/tiny", files=FILES)
            with pytest.raises((TransportError, ForbiddenError)) as caught:
                await origin.resolve(HF("acme/tiny"), NOBODY)
            assert "does not end" in caught.value.message or "more than 300" in caught.value.message
            assert hub.count("tree") <= 40

    asyncio.run(main())


def test_a_hundred_thousand_files_are_listed_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "type": "file",
            "path": f"data/part-{number // 1000:03}/{number:06}.json",
            "oid": f"{number:040x}",
            "size": number,
        }
        for number in range(100_000)
    ]
    pages = [msgspec.json.encode(rows[start : start + 1000]) for start in range(0, 100_000, 1000)]
    decoder = msgspec.json.Decoder(list[Row])
    began = time.perf_counter()
    listing = Listing(Settings(cache_dir=Path("/unused"), state_dir=Path("/unused")), "hf://acme/tiny")
    for number, page in enumerate(pages):
        listing.add(decoder.decode(page), last=number == 99)
    files = select(listing.entries, ("data/part-000/", "*.json"), "hf://acme/tiny")
    took_s = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n100,000 files decoded, judged, selected and ordered in {took_s:.2f} s")
    assert len(files) == 100_000
    assert took_s < 40
