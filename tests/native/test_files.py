"""write_blocks and scan_file: real files, real errors of the kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.native.cores import Core, paint


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def test_writes_at_its_offset_and_says_the_cvs(core: Core, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\xff" * 6144)
    data = paint(2500)
    with opened(path) as fd:
        os.lseek(fd, 7, os.SEEK_SET)
        assert core.write_blocks(fd, 2048, data, block=1024) == core.hash_blocks(data, 2048, block=1024)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    assert path.read_bytes() == b"\xff" * 2048 + data + b"\xff" * (6144 - 2048 - 2500)


def test_blocks_written_out_of_order_make_the_file(core: Core, tmp_path: Path) -> None:
    block = 1024
    data = paint(5 * block + 10)
    cvs: dict[int, bytes] = {}
    with opened(tmp_path / "data") as fd:
        for index in (3, 0, 5, 1, 4, 2):
            at = index * block
            cvs[index] = core.write_blocks(fd, at, data[at : at + block], block=block)
        assert core.scan_file(fd, 0, len(data), b"".join(cvs[i] for i in range(6)), block=block) == []
    assert (tmp_path / "data").read_bytes() == data
    assert core.merge_root(b"".join(cvs[i] for i in range(6)), len(data), block=block) == core.root_of(data)


@pytest.mark.needs("native")
def test_many_large_blocks_in_one_call(tmp_path: Path) -> None:
    from fetcher._native import blake3 as compiled

    data = paint((5 << 20) + 99)
    with opened(tmp_path / "data") as fd:
        cvs = compiled.write_blocks(fd, 2 << 20, data)
        assert cvs == compiled.hash_blocks(data, 2 << 20)
        assert os.pread(fd, len(data) + 1, 2 << 20) == data
        assert compiled.scan_file(fd, 2 << 20, len(data), cvs) == []


def test_nothing_to_write(core: Core, tmp_path: Path) -> None:
    with opened(tmp_path / "data") as fd:
        assert core.write_blocks(fd, 0, b"", block=1024) == b""
        assert os.fstat(fd).st_size == 0


@pytest.mark.parametrize("data", [b"", b"x" * 3000], ids=["empty", "full"])
def test_write_says_the_kernels_refusal(core: Core, tmp_path: Path, data: bytes) -> None:
    with opened(tmp_path / "data") as fd:
        pass
    with pytest.raises(OSError) as closed:
        core.write_blocks(fd, 0, data, block=1024)
    assert closed.value.errno == errno.EBADF
    assert os.strerror(errno.EBADF) in str(closed.value)
    with opened(tmp_path / "data", os.O_RDONLY) as fd, pytest.raises(OSError) as read_only:
        core.write_blocks(fd, 0, data, block=1024)
    assert read_only.value.errno == errno.EBADF
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError) as pipe:
            core.write_blocks(writer, 0, data, block=1024)
    finally:
        os.close(reader)
        os.close(writer)
    assert pipe.value.errno == errno.ESPIPE


def test_write_on_a_full_disk(core: Core) -> None:
    with opened(Path("/dev/full"), os.O_RDWR) as fd, pytest.raises(OSError) as full:
        core.write_blocks(fd, 0, paint(3000), block=1024)
    assert full.value.errno == errno.ENOSPC


@pytest.mark.needs("native")
def test_short_write_is_continued_until_the_error(tmp_path: Path) -> None:
    # A file size limit cuts the first pwrite short and refuses the next: both halves of the retry in one call. It
    # holds for a whole process, so it gets one of its own.
    script = textwrap.dedent("""
        import errno, os, resource, sys
        from fetcher._native import blake3 as compiled
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        try:
            compiled.write_blocks(fd, 0, b"x" * 4096, block=4096)
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        else:
            raise SystemExit("no error")
        assert os.fstat(fd).st_size == 1500
    """)
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "data"], capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr


def test_scan_names_the_bad_blocks_by_their_place_in_the_file(core: Core, tmp_path: Path) -> None:
    path = tmp_path / "data"
    data = bytearray(paint(6 * 1024 - 100))
    cvs = core.hash_blocks(data, 0, block=1024)
    for at in (1024, 3 * 1024 - 1, 6 * 1024 - 101):  # first byte of block 1, last of 2, last of the file
        data[at] ^= 1
    path.write_bytes(data)
    with opened(path) as fd:
        assert core.scan_file(fd, 0, len(data), cvs, block=1024) == [1, 2, 5]
        assert core.scan_file(fd, 2048, len(data) - 2048, cvs[64:], block=1024) == [2, 5]
        assert core.scan_file(fd, 3 * 1024, 2048, cvs[96:160], block=1024) == []
        assert core.scan_file(fd, 0, 0, b"", block=1024) == []


def test_scan_of_a_file_that_ends_early(core: Core, tmp_path: Path) -> None:
    path = tmp_path / "data"
    data = paint(5 * 1024)
    cvs = core.hash_blocks(data, 0, block=1024)
    path.write_bytes(data[:2500])
    with opened(path) as fd:
        assert core.scan_file(fd, 0, len(data), cvs, block=1024) == [2, 3, 4]
    path.write_bytes(b"")
    with opened(path) as fd:
        assert core.scan_file(fd, 0, len(data), cvs, block=1024) == [0, 1, 2, 3, 4]


def test_scan_does_not_take_the_block_before_for_the_missing_one(core: Core, tmp_path: Path) -> None:
    # Equal blocks, the file cut: a reader that hashed its whole buffer would find the bytes of the block before in it.
    path = tmp_path / "data"
    path.write_bytes(bytes(2500))
    with opened(path) as fd:
        assert core.scan_file(fd, 0, 5120, core.hash_blocks(bytes(5120), 0, block=1024), block=1024) == [2, 3, 4]


def test_scan_takes_a_longer_file_for_what_it_was_asked(core: Core, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(paint(5000))
    with opened(path) as fd:
        assert core.scan_file(fd, 0, 1500, core.hash_blocks(paint(1500), 0, block=1024), block=1024) == []


@pytest.mark.needs("native")
def test_scan_of_blocks_larger_than_its_buffer(tmp_path: Path) -> None:
    from fetcher._native import blake3 as compiled

    path = tmp_path / "data"
    data = bytearray(paint((2 << 20) + (300 << 10) + 7))
    cvs = compiled.hash_blocks(data, 0)
    data[(1 << 20) + (700 << 10)] ^= 0x80
    path.write_bytes(data)
    with opened(path) as fd:
        assert compiled.scan_file(fd, 0, len(data), cvs) == [1]
        os.truncate(path, len(data) - 1)
        assert compiled.scan_file(fd, 0, len(data), cvs) == [1, 2]


def test_scan_says_the_kernels_refusal(core: Core, tmp_path: Path) -> None:
    with opened(tmp_path / "data", os.O_WRONLY | os.O_CREAT) as fd, pytest.raises(OSError) as write_only:
        core.scan_file(fd, 0, 10, bytes(32), block=1024)
    assert write_only.value.errno == errno.EBADF
    with opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY) as fd, pytest.raises(OSError) as directory:
        core.scan_file(fd, 0, 10, bytes(32), block=1024)
    assert directory.value.errno == errno.EISDIR


def test_scan_counts_its_cvs(core: Core) -> None:
    for expected in (b"", bytes(32), bytes(96), bytes(65)):
        with pytest.raises(ValueError, match="2 blocks"):
            core.scan_file(0, 0, 1025, expected, block=1024)
