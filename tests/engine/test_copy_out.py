"""``--to``: whole or not at all, nothing outside of the directory, and nothing that reaches back into the cache."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from fetcher.cache.records import Snapshot, SnapshotFile
from fetcher.engine.copy_out import copy_out
from fetcher.errors import CacheError, FetcherError, InterruptedByUser, UsageError

TREE = {"config.json": b"{}", "empty": b"", "sub/deep/model.bin": b"weights" * 50_000, "sub/vocab.txt": b"a\nb\n"}


def a_snapshot(root: Path, tree: dict[str, bytes]) -> tuple[Snapshot, list[SnapshotFile]]:
    """A published directory: read-only files, hard-linked as the cache does."""
    directory, blobs = root / "snapshot", root / "blobs"
    blobs.mkdir()
    files = []
    for number, (path, content) in enumerate(tree.items()):
        blob = blobs / str(number)
        blob.write_bytes(content)
        blob.chmod(0o444)
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(blob)
        files.append(SnapshotFile(path, len(content), "d" * 64 if content else None, None, "size"))
    snapshot = Snapshot(
        id="s1",
        key="k1",
        uri="hf://acme/tiny@main",
        revision="f" * 40,
        path=directory,
        endpoint="https://hub.example:443",
        bytes=sum(map(len, tree.values())),
        files=len(tree),
        verified_by="size",
        private=False,
        principal=None,
        downloaded_at=0.0,
        validated_at=0.0,
        last_used_at=0.0,
        fresh_until=None,
        keep_until=0.0,
        manifest_digest="m" * 64,
    )
    return snapshot, files


def tree_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def names_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.fixture
def source(tmp_path: Path) -> tuple[Snapshot, list[SnapshotFile]]:
    room = tmp_path / "cache"
    room.mkdir()
    return a_snapshot(room, TREE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where copies go; nothing else is there."""
    made = tmp_path / "user"
    made.mkdir()
    return made


Source = tuple[Snapshot, list[SnapshotFile]]


@pytest.mark.parametrize("there", ["absent", "with parents", "empty"])
@pytest.mark.parametrize("merge", [False, True])
def test_a_new_directory_holds_the_tree_and_nothing_else(source: Source, place: Path, there: str, merge: bool) -> None:
    target = place / ("a/b/out" if there == "with parents" else "out")
    if there == "empty":
        target.mkdir()
    assert copy_out(*source, target, merge=merge) == len(TREE)
    assert tree_of(target) == TREE
    assert names_in(target.parent) == ["out"], "no staging left"


def test_copies_are_the_users_own(source: Source, place: Path) -> None:
    snapshot, _ = source
    copy_out(*source, place / "out", merge=False)
    for path in TREE:
        copied = place / "out" / path
        assert copied.stat().st_nlink == 1
        assert copied.stat().st_ino != (snapshot.path / path).stat().st_ino
        assert copied.stat().st_mode & 0o200, "he may write to it"
        copied.write_bytes(b"changed")
    assert tree_of(snapshot.path) == TREE


def test_a_directory_in_use_is_refused(source: Source, place: Path) -> None:
    target = place / "out"
    target.mkdir()
    (target / "mine").write_text("here first")
    with pytest.raises(UsageError, match="not empty") as raised:
        copy_out(*source, target, merge=False)
    assert "--merge" in (raised.value.hint or "")
    assert tree_of(target) == {"mine": b"here first"}


def test_merged_files_come_among_what_is_there(source: Source, place: Path) -> None:
    target = place / "out"
    (target / "sub").mkdir(parents=True)
    (target / "mine").write_text("here first")
    (target / "sub" / "vocab.txt").write_text("an old one")
    assert copy_out(*source, target, merge=True) == len(TREE)
    assert tree_of(target) == TREE | {"mine": b"here first"}


def test_a_failure_leaves_no_new_directory(source: Source, place: Path) -> None:
    snapshot, files = source
    lost = SnapshotFile("z/lost", 3, "d" * 64, None, "size")
    with pytest.raises(CacheError):
        copy_out(snapshot, [*files, lost], place / "out", merge=False)
    assert names_in(place) == []


def test_a_failed_merge_leaves_whole_files_only(source: Source, place: Path) -> None:
    snapshot, files = source
    target = place / "out"
    target.mkdir()
    (target / "mine").write_text("here first")
    with pytest.raises(CacheError):
        copy_out(snapshot, [*files, SnapshotFile("z/lost", 3, "d" * 64, None, "size")], target, merge=True)
    assert tree_of(target) == TREE | {"mine": b"here first"}


@pytest.mark.parametrize("merge", [False, True])
def test_a_file_is_no_directory(source: Source, place: Path, merge: bool) -> None:
    target = place / "out"
    target.write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        copy_out(*source, target, merge=merge)
    assert target.read_text() == "mine"


def test_below_a_file_there_is_no_directory(source: Source, place: Path) -> None:
    (place / "file").write_text("mine")
    with pytest.raises(CacheError):
        copy_out(*source, place / "file" / "out", merge=False)
    assert tree_of(place) == {"file": b"mine"}


def test_a_file_where_a_folder_has_to_be_is_kept_and_named(source: Source, place: Path) -> None:
    target = place / "out"
    target.mkdir()
    (target / "sub").write_text("mine")
    with pytest.raises(CacheError, match="out/sub"):
        copy_out(*source, target, merge=True)
    assert (target / "sub").read_text() == "mine"


def test_a_folder_where_a_file_has_to_be_is_kept(source: Source, place: Path) -> None:
    target = place / "out"
    (target / "config.json").mkdir(parents=True)
    (target / "config.json" / "mine").write_text("mine")
    with pytest.raises(CacheError):
        copy_out(*source, target, merge=True)
    assert (target / "config.json" / "mine").read_text() == "mine"
    assert not [name for name in names_in(target) if name.startswith(".fetcher-")]


def test_a_link_to_elsewhere_is_not_followed(source: Source, place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    target = place / "out"
    target.mkdir()
    (target / "sub").symlink_to(elsewhere)
    with pytest.raises(CacheError, match="out/sub"):
        copy_out(*source, target, merge=True)
    assert names_in(elsewhere) == []


def test_a_linked_file_is_replaced_not_written_through(source: Source, place: Path) -> None:
    outside = place / "outside"
    outside.write_text("precious")
    target = place / "out"
    target.mkdir()
    (target / "config.json").symlink_to(outside)
    copy_out(*source, target, merge=True)
    assert outside.read_text() == "precious"
    assert not (target / "config.json").is_symlink()
    assert tree_of(target) == TREE


def test_the_directory_itself_may_be_a_link_of_the_user(source: Source, place: Path) -> None:
    real = place / "real"
    real.mkdir()
    (place / "out").symlink_to(real)
    copy_out(*source, place / "out", merge=False)
    assert (place / "out").is_symlink()
    assert tree_of(real) == TREE


@pytest.mark.parametrize("what", ["loop", "long name"])
@pytest.mark.parametrize("merge", [False, True])
def test_odd_directories_end_in_a_typed_error(source: Source, place: Path, what: str, merge: bool) -> None:
    target = place / ("loop" if what == "loop" else "x" * 300)
    if what == "loop":
        target.symlink_to(target)
    with pytest.raises(FetcherError):
        copy_out(*source, target, merge=merge)


def test_what_is_found_damaged_meanwhile_is_not_handed_over(source: Source, place: Path) -> None:
    with pytest.raises(CacheError, match="nothing was left of the copy"):
        copy_out(*source, place / "out", merge=False, sound=lambda: False)
    assert names_in(place) == []
    (place / "mine").write_text("mine")
    with pytest.raises(CacheError, match="must not be used"):
        copy_out(*source, place, merge=True, sound=lambda: False)
    assert (place / "mine").read_text() == "mine"


def test_what_is_to_be_closed_is_so_from_the_first_byte(source: Source, place: Path) -> None:
    target = place / "out"
    target.mkdir(0o700)
    modes: set[int] = set()

    def stopped() -> bool:
        modes.update(path.stat().st_mode & 0o777 for path in place.glob(".*.fetcher-*"))
        return False

    copy_out(*source, target, merge=False, stopped=stopped)
    assert modes == {0o700}
    assert target.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_a_copy_that_is_given_up_leaves_nothing(
    source: tuple[Snapshot, list[SnapshotFile]], place: Path, looks: int
) -> None:
    seen: list[int] = []

    def stopped() -> bool:
        seen.append(1)
        return len(seen) > looks

    with pytest.raises(InterruptedByUser):
        copy_out(*source, place / "out", merge=False, stopped=stopped)
    assert names_in(place) == []


def test_a_large_file_is_given_up_in_its_middle(
    source: tuple[Snapshot, list[SnapshotFile]], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fetcher.engine import copy_out as room

    monkeypatch.setattr(room, "COPY_STEP_BYTES", 1000)
    monkeypatch.setattr(room, "_reflink", lambda target, source: False)
    looks = iter([False] * 20 + [True] * 1000)
    with pytest.raises(InterruptedByUser):
        copy_out(*source, place / "out", merge=False, stopped=lambda: next(looks))
    assert names_in(place) == []


@pytest.mark.parametrize("merge", [False, True])
def test_a_folder_that_becomes_a_link_in_the_middle_leads_nowhere(source: Source, place: Path, merge: bool) -> None:
    """Who else may write there swaps each folder for a symlink when the file in it is about to be made."""
    elsewhere, target = place / "elsewhere", place / "out"
    elsewhere.mkdir()
    if merge:
        target.mkdir()
        (target / "mine").write_text("here first")

    def swap() -> bool:
        for folder in [*place.glob("out/sub/deep"), *place.glob(".out.*/sub/deep")]:
            if not folder.is_symlink() and folder.is_dir():
                folder.rename(folder.with_name(f"{folder.name}.aside"))
                folder.symlink_to(elsewhere)
        return False

    with suppress(FetcherError):
        copy_out(*source, target, merge=merge, stopped=swap)
    assert names_in(elsewhere) == []
