"""Removing what a hostile job left: all of it goes and nothing outside of it is touched, whatever is swapped."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import clearing
from fetcher.cache.store import Cache
from fetcher.cache.usage import allocated
from tests.cache.world import ROOT_OF_CHECKOUT, paint, publish, settings
from tests.support.cli import ORDINARY_UID, as_ordinary_user

GETFLAGS, SETFLAGS, IMMUTABLE, APPEND_ONLY = 0x80086601, 0x40086602, 0x10, 0x20
CLOSED = 0o000
DEEP_BYTES = 8 << 20
"""More than the folders above it take, wherever folders take any."""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must be as it was at the end, to the last byte and mode."""
    place = tmp_path / "outside"
    (place / "inner").mkdir(parents=True)
    (place / "precious").write_bytes(b"precious")
    (place / "inner" / "precious").write_bytes(b"precious")
    before = {path: (path.lstat().st_mode, path.lstat().st_nlink) for path in (place, *place.rglob("*"))}
    yield place
    assert {path: (path.lstat().st_mode, path.lstat().st_nlink) for path in (place, *place.rglob("*"))} == before
    assert (place / "precious").read_bytes() == (place / "inner" / "precious").read_bytes() == b"precious"


@pytest.fixture
def copy(cache: Cache) -> Path:
    """A private copy, with a lease."""
    snapshot = publish(cache, "m", {"a/b/c": b"c", "f": paint(5000)})
    return cache.copy_adopt(cache.copy_stage(snapshot.id), cache.lease_timed([snapshot.id], 100.0).id, 0)


def release(cache: Cache) -> list[str]:
    """End the lease; what is left of its copies."""
    cache.lease_release(cache.leases()[0].id)
    return os.listdir(cache.layout.writable)


def deep(top: Path, depth: int) -> None:
    """Folders in folders, far beyond PATH_MAX, with a file in the last one."""
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("x" * 50, dir_fd=here)
        below = os.open("x" * 50, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    descriptor = os.open("last", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(descriptor, bytes(DEEP_BYTES))
    os.close(descriptor)
    os.close(here)


def lock(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        (before,) = struct.unpack("i4x", fcntl.ioctl(descriptor, GETFLAGS, bytes(8)))
        fcntl.ioctl(descriptor, SETFLAGS, struct.pack("i4x", before | flags))
    finally:
        os.close(descriptor)


# --- whatever is in it -----------------------------------------------------------------------------------------------


def test_links_lead_nowhere(cache: Cache, copy: Path, outside: Path) -> None:
    (copy / "folder").symlink_to(outside)
    (copy / "file").symlink_to(outside / "precious")
    (copy / "a" / "up").symlink_to("../../../..")
    (copy / "loop").symlink_to("loop")
    (copy / "a" / "root").symlink_to("/")
    assert release(cache) == []


def test_a_link_in_place_of_the_copy_is_removed_itself(cache: Cache, copy: Path, outside: Path) -> None:
    os.rename(copy, copy.parent / ".trash-1")
    copy.symlink_to(outside)
    assert release(cache) == [".trash-1"]


def test_odd_names_and_kinds(cache: Cache, copy: Path) -> None:
    for name in (b"new\nline", b"\xff\xfe no text", b"-rf", b" ", b"x" * 255, b".trash-1", b".staging-copy.1", b"*"):
        os.mkdir(os.fsencode(copy) + b"/" + name)
        (Path(os.fsdecode(os.fsencode(copy) + b"/" + name)) / os.fsdecode(name)).touch()
    os.mkfifo(copy / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(copy, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    assert release(cache) == []


@pytest.mark.needs("root")
def test_devices_and_files_of_others(cache: Cache, copy: Path) -> None:
    os.mknod(copy / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (copy / "a" / "theirs").mkdir(mode=0o700)
    (copy / "a" / "theirs" / "f").write_bytes(b"x")
    (copy / "a" / "theirs" / "f").chmod(0o4000)
    for path in (copy / "a/theirs/f", copy / "a/theirs", copy / "a", copy):
        os.chown(path, 1234, 1234)
    copy.chmod(0o1000)
    assert release(cache) == []


def test_deeper_than_paths_and_descriptors_reach(cache: Cache, copy: Path) -> None:
    """1,500 folders below each other: beyond what a path can name, and what recursion could do."""
    before = cache.usage().copy_bytes
    deep(copy, 1500)
    assert cache.usage().copy_bytes - before >= DEEP_BYTES
    assert release(cache) == []


@pytest.mark.needs("root")
@pytest.mark.parametrize("flags", [IMMUTABLE, APPEND_ONLY])
def test_locked_by_flags(cache: Cache, copy: Path, flags: int) -> None:
    for place in (copy / "a/b/c", copy / "f", copy / "a/b", copy / "a"):
        lock(place, flags)
    assert release(cache) == []


@pytest.mark.needs("root")
def test_a_locked_copy_itself(cache: Cache, copy: Path) -> None:
    """It can't even be renamed; it is emptied where it is."""
    lock(copy, IMMUTABLE)
    assert release(cache) == []


@pytest.mark.needs("root")
def test_what_is_mounted_in_it_is_not_entered(cache: Cache, copy: Path, outside: Path) -> None:
    """Also where both are of one file system, so that no device number tells them apart."""
    for place in (copy / "a" / "mounted", copy / "mounted"):
        place.mkdir()
        subprocess.run(["mount", "--bind", str(outside), str(place)], check=True)
    try:
        (trash,) = (cache.layout.writable / name for name in release(cache))
        assert trash.name.startswith(".trash-")
        assert sorted(os.listdir(trash)) == ["a", "mounted"] and os.listdir(trash / "a") == ["mounted"]
        assert cache.gc().leftovers == 0, "not gone yet"
    finally:
        # A mount moves with the name above it.
        for place in tuple(cache.layout.writable.rglob("mounted")):
            subprocess.run(["umount", str(place)], check=True)
    assert cache.gc().leftovers == 1
    assert os.listdir(cache.layout.writable) == []


# --- whatever happens meanwhile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
def test_a_folder_swapped_for_a_link(
    cache: Cache, copy: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    """By a job still at work, between our look at a name and our opening it: a folder at the top, then a deeper one."""
    real, opened = os.open, 0

    def swapping(path: Any, flags: int, *arguments: Any, dir_fd: int | None = None) -> int:
        nonlocal opened
        opened += dir_fd is not None
        if dir_fd is not None and opened == turn:
            os.rename(path, "aside", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            os.symlink(outside, path, dir_fd=dir_fd)
        return real(path, flags, *arguments, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapping)
    release(cache)
    cache.gc()  # comes by again, if there was nothing else to remove when a name turned out to be something else
    assert os.listdir(cache.layout.writable) == []
    assert opened > turn


@pytest.mark.parametrize("call", ["unlink", "rmdir", "rename"])
def test_what_goes_by_itself_is_not_missed(
    cache: Cache, copy: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def twice(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        if options:  # ours, by descriptor
            raise FileNotFoundError(2, "gone")

    monkeypatch.setattr(os, call, twice)
    assert release(cache) == []


def test_something_that_is_filled_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "0").touch()
    real, made = os.unlink, 0

    def refilling(name: str, *, dir_fd: int) -> None:
        nonlocal made
        made += 1
        (top / str(made)).touch()
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refilling)
    monkeypatch.setattr(clearing, "ENTRIES_MAX", 1000)
    with pytest.raises(OSError, match="still being written"):
        clearing.remove_tree(top)
    assert made == 1000


def test_what_can_not_be_removed_is_told_and_all_else_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "top"
    for name in ("a/stays", "a/goes", "b/c/goes"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(bytes(5000))
    size = (top / "a/stays").stat().st_blocks * 512
    real = os.unlink

    def refusing(name: str, *, dir_fd: int) -> None:
        if name == "stays":
            raise PermissionError(1, "no")
        real(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing)
        freed, error = clearing.clear(top)
        assert (freed, isinstance(error, PermissionError)) == (2 * size, True)
        assert [path.name for path in top.rglob("*")] == ["a", "stays"]
        with pytest.raises(PermissionError):
            clearing.remove_tree(top)
    assert clearing.remove_tree(top) == size and not top.exists()
    assert clearing.remove_tree(top) == 0


def test_bodies_with_another_name_are_not_freed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_bytes(bytes(8192))
    (tmp_path / "g").hardlink_to(top / "f")
    assert allocated(top, set()) == (top / "f").stat().st_blocks * 512
    assert clearing.remove_tree(top) == 0


# --- by an ordinary user ---------------------------------------------------------------------------------------------

_AS_ORDINARY = """
import os, sys
from pathlib import Path
from fetcher.cache.store import Cache
from tests.cache.world import publish, settings

with Cache.open(settings(Path(sys.argv[1]))) as cache:
    snapshot = publish(cache, "m", {"a/b/c": b"c"})
    lease = cache.lease_timed([snapshot.id], 100.0)
    copy = cache.copy_adopt(cache.copy_stage(snapshot.id), lease.id, 0)
    print(copy, flush=True)
    sys.stdin.readline()
    cache.lease_release(lease.id)
    report = cache.gc()
    print(report.leftovers, len(os.listdir(cache.layout.writable)), cache.usage().copy_bytes > 0, flush=True)
"""


def _after(change: Callable[[Path], None], directory: Path) -> str:
    """What an ordinary user says who ends a lease after that change to its copy."""
    with subprocess.Popen(
        as_ordinary_user([sys.executable, "-c", _AS_ORDINARY, str(directory / "cache")]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT_OF_CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT_OF_CHECKOUT)},
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        change(Path(process.stdout.readline().strip()))
        process.stdin.write("\n")
        process.stdin.close()
        return process.stdout.read().strip()


@pytest.mark.needs("ordinary-user")
def test_modes_do_not_keep_its_owner_out(ordinary_directory: Path) -> None:
    def close_all(copy: Path) -> None:
        (copy / "a/b/under/it").mkdir(parents=True)
        for path in sorted((copy, *copy.rglob("*")), reverse=True):
            os.chown(path, ORDINARY_UID, ORDINARY_UID)
            path.chmod(CLOSED)

    assert _after(close_all, ordinary_directory) == "0 0 False"


@pytest.mark.needs("ordinary-user")
def test_files_of_other_users_go_what_they_closed_stays_for_root(ordinary_directory: Path) -> None:
    def plant(copy: Path) -> None:
        for path in (copy / "file", copy / "a/b/c/f", copy / "empty/f", copy / "open/f"):
            if path.parent.name == "c":
                path.parent.unlink()
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"theirs")
        (copy / "empty/f").unlink()
        for path in (copy / "file", copy / "a/b/c/f", copy / "a/b/c", copy / "empty", copy / "open", copy / "open/f"):
            os.chown(path, 1234, 1234)
            path.chmod(0o700)
        (copy / "open").chmod(0o777)

    assert _after(plant, ordinary_directory) == "0 1 True", "nothing raised, and df still shows it"
    place = ordinary_directory / "cache"
    (trash,) = (place / "writable-v1").iterdir()
    assert [path.name for path in sorted(trash.rglob("*"))[1:]] == ["c", "f"], "below what was a/b"
    with Cache.open(settings(place)) as cache:
        assert cache.gc().leftovers == 1
        assert os.listdir(cache.layout.writable) == []
