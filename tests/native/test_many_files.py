"""Calls on many files: each test runs on the readable twin and on the compiled one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher._native import many_files, pure_files

NAMES = [b"a", b"b", "\u00fc \udcff".encode(errors="surrogateescape"), b"d" * 255]


def twins() -> list[Any]:
    found = [pytest.param(pure_files, id="pure")]
    if many_files.ACTIVE != "native":
        return [*found, pytest.param(None, id="compiled", marks=pytest.mark.needs("native"))]
    from fetcher._native import files

    return [*found, pytest.param(files, id="compiled")]


@pytest.fixture(params=twins())
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.needs("native")
def test_the_compiled_one_was_really_loaded() -> None:
    assert many_files.ACTIVE == "native"
    assert many_files.write_files.__module__ == "fetcher._native.files"


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_have_their_bytes_and_exactly_their_mode(twin: Any, folder: int, tmp_path: Path, umask: int) -> None:
    contents = [b"", bytearray(b"two"), memoryview(b"three" * 30_000), b"\0"]
    before = os.umask(umask)
    try:
        twin.write_files(folder, NAMES, contents, 0o444)
    finally:
        os.umask(before)
    for name, content in zip(NAMES, contents, strict=True):
        path = tmp_path / os.fsdecode(name)
        assert path.read_bytes() == bytes(content)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_nothing_is_replaced_and_the_first_error_names_its_file(twin: Any, folder: int, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(FileExistsError) as caught:
        twin.write_files(folder, [b"a", b"b", b"c"], [b"1", b"2", b"3"], 0o444)
    assert caught.value.filename == "b"
    assert (tmp_path / "b").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_symlink_is_not_written_through(twin: Any, folder: int, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        twin.write_files(folder, [b"a"], [b"1"], 0o444)
    assert not (tmp_path / "elsewhere").exists()


def test_of_a_file_that_has_no_room_nothing_stays(twin: Any, folder: int, tmp_path: Path) -> None:
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError) as caught:
            twin.write_files(folder, [b"a", b"b", b"c"], [bytes(1000), bytes(1001), b"3"], 0o444)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_links_are_made_where_they_can_be(twin: Any, folder: int, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    (tmp_path / "target/two").write_text("taken")
    (tmp_path / "symlink").symlink_to("one")
    target = os.open(tmp_path / "target", os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = [b"one", b"two", b"missing", b"three", b"symlink"]
        found = twin.link_files(folder, names, target, [b"one", b"two", b"missing", b"none/three", b"symlink"])
    finally:
        os.close(target)
    assert found == [0, errno.EEXIST, errno.ENOENT, errno.ENOENT, 0]
    assert (tmp_path / "target/one").samefile(tmp_path / "one")
    assert (tmp_path / "target/two").read_text() == "taken"
    assert (tmp_path / "target/symlink").is_symlink(), "what it leads to is never linked"


def test_what_can_be_unlinked_is(twin: Any, folder: int, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    assert twin.unlink_files(folder, [b"one", b"missing", b"folder", b"two"]) == [0, errno.ENOENT, errno.EISDIR, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_has_a_name_is_seen(twin: Any, folder: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "symlink").symlink_to("file")
    names = [b"file", b"missing", b"folder", b"symlink", b"file/below", b"empty"]
    none, no_file = -errno.ENOENT, -errno.EINVAL
    assert twin.look_for_files(folder, names) == [4, none, no_file, no_file, -errno.ENOTDIR, 0]


def test_a_size_beyond_four_gib_is_told(twin: Any, folder: int, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate((5 << 30) + 1)
    assert twin.look_for_files(folder, [b"large"]) == [(5 << 30) + 1]


def test_none_at_all(twin: Any, folder: int) -> None:
    twin.write_files(folder, [], [], 0o444)
    assert twin.link_files(folder, [], folder, []) == []
    assert twin.look_for_files(folder, []) == []
    assert twin.unlink_files(folder, []) == []


@pytest.mark.parametrize(("name", "error"), [("a", TypeError), (b"", ValueError), (b"a\0b", ValueError)])
def test_wrong_names_are_refused_before_anything_is_done(
    twin: Any, folder: int, tmp_path: Path, name: Any, error: type[Exception]
) -> None:
    (tmp_path / "kept").touch()
    for call in (
        lambda: twin.write_files(folder, [b"kept2", name], [b"1", b"2"], 0o444),
        lambda: twin.link_files(folder, [b"kept", name], folder, [b"x", b"y"]),
        lambda: twin.link_files(folder, [b"kept", b"kept"], folder, [b"x", name]),
        lambda: twin.look_for_files(folder, [b"kept", name]),
        lambda: twin.unlink_files(folder, [b"kept", name]),
    ):
        with pytest.raises(error):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_as_many_names_as_contents(twin: Any, folder: int, tmp_path: Path) -> None:
    for call in (
        lambda: twin.write_files(folder, [b"a", b"b"], [b"1"], 0o444),
        lambda: twin.link_files(folder, [b"a"], folder, []),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises((TypeError, BufferError)):
        twin.write_files(folder, [b"a", b"b"], [b"1", "2"], 0o444)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_descriptor_is_an_error(twin: Any, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.close(descriptor)
    with pytest.raises(OSError) as caught:
        twin.write_files(descriptor, [b"a"], [b"1"], 0o444)
    assert caught.value.errno == errno.EBADF
    assert twin.unlink_files(descriptor, [b"a"]) == [errno.EBADF]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_directories_have_exactly_their_mode_and_what_is_there_is_left(
    twin: Any, folder: int, tmp_path: Path, umask: int
) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "old").mkdir(mode=0o711)
    names = [b"new", b"file", b"link", b"missing/below", b"old", b"last"]
    before = os.umask(umask)
    try:
        errors = twin.make_directories(folder, names, 0o750, os.getegid())
    finally:
        os.umask(before)
    assert errors == [0, errno.EEXIST, errno.EEXIST, errno.ENOENT, errno.EEXIST, 0]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "last", "old")] == [0o750, 0o750, 0o711]
    assert (tmp_path / "file").read_bytes() == b"kept" and not (tmp_path / "elsewhere").exists()
    assert twin.make_directories(folder, [], 0o750) == []
    with pytest.raises(ValueError):
        twin.make_directories(folder, [b"more", b""], 0o750)
    assert not (tmp_path / "more").exists()
