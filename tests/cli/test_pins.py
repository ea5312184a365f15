"""``pin`` and ``unpin``, and what they keep from ``rm``, ``prune`` and time."""

from __future__ import annotations

import time

import pytest

from fetcher.cache.records import Snapshot
from fetcher.cache.store import Cache
from fetcher.config import load
from fetcher.model.pins import pin_name
from fetcher.model.resource import HF
from tests.cli.support import Program, stock

URI = "hf://acme/tiny"


def pins(program: Program) -> dict[str, list[str]]:
    return {entry["resource"]: sorted(entry["pins"]) for entry in program("ls", "--json").json}


def test_pin_and_unpin(program: Program, tiny: Snapshot) -> None:
    done = program("pin", URI, "--name", "mine")
    assert (done.exit_code, done.out, done.err) == (0, "", f"pinned {URI}@main as mine\n")
    assert pins(program) == {f"{URI}@main": ["mine"]}
    assert program("pin", URI, "--name", "mine").exit_code == 0, "the same pin again changes nothing"
    program("pin", URI, "--name", "market:other")
    assert pins(program) == {f"{URI}@main": ["market:other", "mine"]}
    done = program("unpin", "mine")
    assert (done.exit_code, done.err) == (0, "unpinned mine: 1 resource\n")
    assert pins(program) == {f"{URI}@main": ["market:other"]}


def test_json(program: Program, tiny: Snapshot) -> None:
    assert program("pin", URI, "--name", "mine", "--json").json == [
        {"event": "pinned", "name": "mine", "resource": f"{URI}@main", "entries": 1, "dry_run": False}
    ]
    assert program("unpin", "mine", "--json").json == [
        {"event": "unpinned", "name": "mine", "resources": 1, "dry_run": False}
    ]


def test_all_choices_of_files_are_pinned(program: Program, tiny: Snapshot) -> None:
    stock(HF("acme/tiny", files=("config.json",)), {"config.json": b"{}"})
    (line,) = program("pin", URI, "--name", "mine", "--json").json
    assert line["entries"] == 2
    assert [entry["pins"] for entry in program("ls", "--json").json] == [["mine"], ["mine"]]
    assert program("unpin", "mine").err == "unpinned mine: 2 resources\n"


def test_a_dry_run_pins_nothing(program: Program, tiny: Snapshot) -> None:
    done = program("pin", URI, "--name", "mine", "--dry-run")
    assert (done.exit_code, done.err) == (0, f"would pin {URI}@main as mine\n")
    assert pins(program) == {f"{URI}@main": []}
    program("pin", URI, "--name", "mine")
    assert program("unpin", "mine", "--dry-run").err == "would unpin mine: 1 resource\n"
    assert program("unpin", "mine", "--dry-run", "--json").json[0]["dry_run"] is True
    assert pins(program) == {f"{URI}@main": ["mine"]}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["deed", "dry-run"])
def test_what_is_not_there(program: Program, tiny: Snapshot, dry: tuple[str, ...]) -> None:
    for command in (("pin", "hf://acme/none", "--name", "n"), ("unpin", "nobody")):
        done = program(*command, *dry, "--json")
        assert (done.exit_code, done.json[0]["kind"]) == (21, "not_found")
        assert done.json[0]["hint"].startswith("fetcher ls")


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "ü", "a\n", "x" * 201])
def test_names_that_can_not_be(program: Program, tiny: Snapshot, name: str) -> None:
    assert program("pin", URI, f"--name={name}").exit_code == 2
    with pytest.raises(ValueError, match="not a name for a pin"):
        pin_name(name)


def test_rm_refuses_what_is_pinned(program: Program, tiny: Snapshot) -> None:
    program("pin", URI, "--name", "mine")
    for dry in ((), ("--dry-run",)):
        done = program("rm", URI, *dry)
        assert done.exit_code == 60
        assert "mine" in done.err
    program("unpin", "mine")
    assert program("rm", URI).exit_code == 0
    assert pins(program) == {}


def test_a_pin_outlives_the_time_of_its_resource(program: Program) -> None:
    """Kept for a moment, made an hour ago: only the pin keeps it."""
    for name in ("kept", "dropped"):
        stock(HF(f"acme/{name}"), {"a": name.encode()}, age_s=3600, keep_for_s=1)
    program("pin", "hf://acme/kept", "--name", "mine")
    assert [item["resource"] for item in program("prune", "--dry-run", "--json").json[0]["snapshots"]] == [
        "hf://acme/dropped@main"
    ]
    assert program("prune").exit_code == 0
    assert program("prune", "--max-size", "0").exit_code == 0
    assert set(pins(program)) == {"hf://acme/kept@main"}
    with Cache.open(load()) as cache:
        cache.tidy()
        cache.gc()
    assert set(pins(program)) == {"hf://acme/kept@main"}
    program("unpin", "mine")
    program("prune")
    assert pins(program) == {}


def test_of_a_branch_that_moved_on_the_newest_is_kept(program: Program) -> None:
    """A pin is of a resource, not of what it was once."""
    stock(HF("acme/tiny"), {"a": b"old"}, age_s=7200, keep_for_s=1)
    program("pin", URI, "--name", "mine")
    stock(HF("acme/tiny"), {"a": b"new"}, age_s=3600, keep_for_s=1)
    program("prune")
    (entry,) = program("ls", "--json").json
    assert (entry["pins"], entry["downloaded_at"] > time.time() - 4000) == (["mine"], True)
