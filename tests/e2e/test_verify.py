"""After a scrub the next fetch gets what was damaged, and nothing else; jobs and leases are not disturbed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fetcher import Fetcher, NotFoundError
from fetcher.testing import Hub
from tests.e2e.support import MIB, REPO, fetch, fetcher_of, held_by, mixed_files, tree_of


@pytest.fixture
def known(hub: Hub, cache_dir: Path) -> Path:
    """The mixed repo, fetched."""
    hub.add_repo(REPO, files=mixed_files())
    return fetch(hub, cache_dir).snapshot.path


def flip(path: Path, position: int) -> None:
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 4]))
    path.chmod(0o444)


def sizes() -> dict[str, int]:
    return {"model.safetensors": 5 * MIB + 123, "nested/deeper/notes.txt": 2 * MIB + 5, "small.bin": 300_000}


@pytest.mark.parametrize(
    "damaged", [("model.safetensors",), ("nested/deeper/notes.txt",), ("small.bin",), tuple(sizes())]
)
def test_only_what_was_damaged_is_fetched_again(
    hub: Hub, cache_dir: Path, known: Path, damaged: tuple[str, ...]
) -> None:
    for path in damaged:
        flip(known / path, 70_000)
    with_fetcher = fetcher_of(hub, cache_dir)
    report = with_fetcher.verify(f"hf://{REPO}")
    with_fetcher.close()
    assert {file.path for damage in report.damage for file in damage.files} == set(damaged)
    assert known.exists(), "its sound files are needed"
    before = hub.body_bytes_sent()
    again = fetch(hub, cache_dir)
    assert again.snapshot.path != known and not again.hit
    assert tree_of(again.snapshot.path) == held_by(hub, REPO)
    expected = sum(sizes()[path] for path in damaged)
    assert hub.body_bytes_sent() - before == expected
    assert again.downloaded == expected
    assert fetch(hub, cache_dir).hit


def test_prefetch_makes_a_pinned_one_whole_again(hub: Hub, cache_dir: Path, known: Path) -> None:
    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as f:
            await f.prefetch([f"hf://{REPO}"], pin="market:test", images=False)
            flip(known / "small.bin", 5)
            assert not f.verify().sound
            assert [pin.name for pin in f.cache.pins()] == ["market:test"]
            before = hub.body_bytes_sent()
            report = await f.prefetch([f"hf://{REPO}"], pin="market:test", images=False)
            assert [item.status for item in report.items] == ["done"]
            assert hub.body_bytes_sent() - before == 300_000
            assert f.verify().sound
            found = f.hit(f"hf://{REPO}")
            assert found is not None and tree_of(found.path) == held_by(hub, REPO)

    asyncio.run(main())


def test_a_job_keeps_its_directory_while_the_next_one_gets_a_sound_one(hub: Hub, cache_dir: Path, known: Path) -> None:
    async def main() -> None:
        async with fetcher_of(hub, cache_dir) as f:
            async with f.lease(f"hf://{REPO}") as first:
                flip(first.path / "model.safetensors", 3 * MIB)
                before = (first.path / "model.safetensors").read_bytes()
                (damage,) = f.verify().damage
                assert (damage.action, damage.leases) == ("in_use", (first.id,))
                assert f.hit(f"hf://{REPO}") is None
                sent = hub.body_bytes_sent()
                async with f.lease(f"hf://{REPO}") as second:
                    assert second.path != first.path
                    assert tree_of(second.path) == held_by(hub, REPO)
                    assert hub.body_bytes_sent() - sent == 5 * MIB + 123
                    assert (first.path / "model.safetensors").read_bytes() == before
                assert f.hit(f"hf://{REPO}") is not None
            f.cache.gc()
            assert not known.exists()
            assert [item.damaged for item in f.cache.snapshots()] == [False]
            assert f.verify().sound

    asyncio.run(main())


def test_the_library_face(hub: Hub, cache_dir: Path, known: Path) -> None:
    events: list[Any] = []
    f = Fetcher(cache_dir=str(cache_dir), environ={}, on_event=events.append)
    try:
        with pytest.raises(NotFoundError):
            f.verify("hf://acme/none")
        assert f.verify({"type": "HF", "repo": REPO}).sound
        assert {event.phase for event in events} == {"verify", "done"}
    finally:
        f.close()
    looking = Fetcher(cache_dir=str(cache_dir), environ={}, looking=True)
    flip(known / "small.bin", 0)
    try:
        (damage,) = looking.verify().damage
        assert damage.action == "none" and known.exists()
    finally:
        looking.close()
