"""Every build of SHA-256 against hashlib: at all boundaries, saved and gone on with, two at a time, out of files."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher import _native
from fetcher._native import plain, pure_sha256
from tests.native.cores import paint

LENGTHS = sorted(
    {0, 1, 2, 3, 1000} | {64 * k + d for k in range(1, 9) for d in (-10, -9, -8, -1, 0, 1)} | set(range(50, 70))
)


@dataclass(frozen=True, slots=True)
class Build:
    """One implementation, with one of its kernels."""

    module: ModuleType
    kernel: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def builds() -> list[Any]:
    found = [pytest.param(Build(pure_sha256, "pure"), id="pure"), pytest.param(Build(plain, "hashlib"), id="hashlib")]
    if _native.ACTIVE != "native":
        return [*found, pytest.param(None, id="compiled", marks=pytest.mark.needs("native"))]
    from fetcher._native import sha256

    return [*found, *(pytest.param(Build(sha256, kernel), id=kernel) for kernel in sha256.simd_names())]


def at_work(build: Build) -> Iterator[Build]:
    if build.module is plain:
        yield build
        return
    before = build.simd()
    build.set_simd(build.kernel)
    yield build
    build.set_simd(before)


@pytest.fixture(params=builds())
def build(request: pytest.FixtureRequest) -> Iterator[Build]:
    yield from at_work(request.param)


@pytest.fixture(params=[chosen for chosen in builds() if chosen.id != "hashlib"])
def saves(request: pytest.FixtureRequest) -> Iterator[Build]:
    """Those that can be saved and gone on with."""
    yield from at_work(request.param)


def right(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def fed(build: Build, *pieces: bytes) -> Any:
    hasher = build.Sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher


def scattered(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


# --- one -------------------------------------------------------------------------------------------------------------


def test_examples_of_the_standard(build: Build) -> None:
    """NIST's examples of SHA-256 with one message and with two."""
    assert fed(build, b"abc").hexdigest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    two = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
    assert fed(build, two).hexdigest() == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    assert fed(build).hexdigest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(build: Build, length: int) -> None:
    data = paint(length)
    hasher = fed(build, data)
    assert (hasher.hexdigest(), hasher.digest().hex(), hasher.tell()) == (right(data), right(data), length)


@pytest.mark.parametrize("step", [1, 7, 63, 64, 65, 127, 128, 200])
def test_pieces_of_one_size_with_digests_between(build: Build, step: int) -> None:
    data = paint(700)
    hasher = build.Sha256()
    for at in range(0, len(data), step):
        hasher.update(memoryview(data)[at : at + step])
        assert hasher.hexdigest() == right(data[: at + step])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=12))
def test_any_split(pieces: list[bytes]) -> None:
    for chosen in builds():
        build = chosen.values[0]
        assert build is None or fed(build, *pieces).hexdigest() == right(b"".join(pieces))


def test_a_long_one(build: Build) -> None:
    length = 5000 if build.module is pure_sha256 else (3 << 20) + 77
    data = scattered(length, 1)
    assert fed(build, data[: length // 3], data[length // 3 :]).hexdigest() == right(data)


# --- saved and gone on with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(130))
def test_saved_at_every_offset_of_a_message(saves: Build, at: int) -> None:
    data = paint(300)
    hasher = fed(saves, data[:at])
    state = hasher.export()
    assert len(state) == 40 + at % 64
    hasher.update(b"what comes after saving is not in it")
    loaded = saves.Sha256.load(state)
    assert (loaded.tell(), loaded.hexdigest(), loaded.export()) == (at, right(data[:at]), state)
    loaded.update(data[at:])
    assert loaded.hexdigest() == right(data)


@pytest.mark.needs("native")
def test_all_builds_save_the_same() -> None:
    from fetcher._native import sha256

    for length in (0, 1, 63, 64, 65, 640):
        states = set()
        for kernel in sha256.simd_names():
            sha256.set_simd(kernel)
            states.add(fed(Build(sha256, kernel), paint(length)).export())
        sha256.set_simd(sha256.simd_names()[0])
        assert states == {fed(Build(pure_sha256, "pure"), paint(length)).export()}


def test_the_layout_of_a_midstate(saves: Build) -> None:
    """Little-endian words of the standard's initial hash, the length, the tail: what docs/FORMAT.md relies on."""
    assert saves.Sha256().export().hex() == (
        "67e6096a85ae67bb72f36e3c3af54fa57f520e518c68059babd9831f19cde05b" + "00" * 8
    )
    assert fed(saves, b"abc").export()[32:] == b"\x03" + bytes(7) + b"abc"


@pytest.mark.parametrize(
    "state",
    [
        b"",
        bytes(39),
        bytes(41),
        bytes(32) + b"\x01" + bytes(7),
        bytes(32) + b"\x01" + bytes(7) + b"xx",
        bytes(32) + b"\x40" + bytes(7) + b"x",
        bytes(32) + b"\x00" * 7 + b"\x20",
    ],
    ids=bytes.hex,
)
def test_what_is_no_midstate(saves: Build, state: bytes) -> None:
    with pytest.raises(ValueError, match="midstate"):
        saves.Sha256.load(state)


def test_a_midstate_of_an_odd_type(saves: Build) -> None:
    assert saves.Sha256.load(memoryview(bytearray(saves.Sha256().export()))).tell() == 0
    for state in ("x" * 40, None, 40):
        with pytest.raises(TypeError):
            saves.Sha256.load(state)


def test_a_length_that_the_standard_can_not_count(saves: Build) -> None:
    full = saves.Sha256.load(bytes(32) + ((1 << 61) - 64).to_bytes(8, "little"))
    full.update(bytes(63))
    with pytest.raises(ValueError, match=r"2\*\*61"):
        full.update(b"x")
    with pytest.raises(ValueError, match=r"2\*\*61"):
        full.update_file(-1, 0, 1)
    other = saves.Sha256()
    with tempfile.TemporaryFile() as file:
        file.write(b"xy")
        file.flush()
        for a, b in ((full, other), (other, full)):
            with pytest.raises(ValueError, match=r"2\*\*61"):
                saves.sha256_pair(a, b"x", b, b"x")
            with pytest.raises(ValueError, match=r"2\*\*61"):
                saves.sha256_pair_files(a, file.fileno(), 0, b, file.fileno(), 0, 2)
    assert (full.tell(), other.tell()) == ((1 << 61) - 1, 0)


def test_hashlib_says_that_it_cannot_be_saved() -> None:
    assert plain.Sha256.can_export is False
    with pytest.raises(NotImplementedError, match="can_export"):
        plain.Sha256().export()
    with pytest.raises(NotImplementedError, match="can_export"):
        plain.Sha256.load(bytes(40))


# --- two at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before_a", "before_b"), list(itertools.product([0, 1, 63, 64], repeat=2)))
def test_a_pair_at_any_places_of_their_messages(build: Build, before_a: int, before_b: int) -> None:
    data_a, data_b = scattered(1200, 2), scattered(1200, 3)
    for length_a, length_b in [(0, 0), (0, 64), (64, 0), (1, 640), (640, 1), (500, 700), (700, 500), (900, 900)]:
        a, b = fed(build, data_a[:before_a]), fed(build, data_b[:before_b])
        end_a, end_b = before_a + length_a, before_b + length_b
        build.sha256_pair(a, data_a[before_a:end_a], b, memoryview(data_b)[before_b:end_b])
        assert (a.tell(), b.tell()) == (end_a, end_b)
        assert (a.hexdigest(), b.hexdigest()) == (right(data_a[:end_a]), right(data_b[:end_b]))
        a.update(b"on"), b.update(b"and on")
        assert a.hexdigest() == right(data_a[:end_a] + b"on")
        assert b.hexdigest() == right(data_b[:end_b] + b"and on")


def test_the_same_bytes_for_both(build: Build) -> None:
    data = scattered(1000, 4)
    a, b = fed(build), fed(build, b"before")
    build.sha256_pair(a, data, b, data)
    assert (a.hexdigest(), b.hexdigest()) == (right(data), right(b"before" + data))


def test_one_hash_is_no_pair(build: Build) -> None:
    a = fed(build, b"x")
    with pytest.raises(ValueError, match="two hashes"):
        build.sha256_pair(a, b"x", a, b"y")
    with tempfile.TemporaryFile() as file, pytest.raises(ValueError, match="two hashes"):
        file.write(bytes(10))
        file.flush()
        build.sha256_pair_files(a, file.fileno(), 0, a, file.fileno(), 0, 10)
    assert (a.tell(), a.hexdigest()) == (1, right(b"x"))


@pytest.mark.needs("native")
@pytest.mark.parametrize("other", [None, object(), hashlib.sha256(), plain.Sha256(), pure_sha256.Sha256()])
def test_a_pair_is_of_one_build(other: Any) -> None:
    from fetcher._native import sha256

    for a, b in ((sha256.Sha256(), other), (other, sha256.Sha256())):
        with pytest.raises(TypeError):
            sha256.sha256_pair(a, b"x", b, b"x")
        with pytest.raises(TypeError):
            sha256.sha256_pair_files(a, 0, 0, b, 0, 0, 0)


# --- out of files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def content(build: Build) -> bytes:
    """More than one buffer of the compiled reader, where that is quick."""
    return scattered(5000 if build.module is pure_sha256 else (700 << 10) + 11, 5)


@pytest.fixture
def descriptor(content: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(3)
        yield file.fileno()
        assert file.seek(0, os.SEEK_CUR) == 3, "the file position is the caller's"


def test_out_of_a_file(build: Build, content: bytes, descriptor: int) -> None:
    hasher = fed(build, b"head")
    assert hasher.update_file(descriptor, 0, 0) == 0
    assert hasher.update_file(descriptor, 1, 2000) == 2000
    rest = len(content) - 2001
    assert hasher.update_file(descriptor, 2001, rest) == rest
    assert (hasher.tell(), hasher.hexdigest()) == (len(content) + 3, right(b"head" + content[1:]))


def test_a_file_that_ends_early(build: Build, content: bytes, descriptor: int) -> None:
    hasher = build.Sha256()
    assert hasher.update_file(descriptor, 100, len(content) * 2) == len(content) - 100
    assert hasher.hexdigest() == right(content[100:])
    assert hasher.update_file(descriptor, len(content) + 5, 10) == 0
    assert hasher.hexdigest() == right(content[100:])


def test_a_pair_out_of_files(build: Build, content: bytes, descriptor: int) -> None:
    a, b = fed(build, b"head"), fed(build)
    length = len(content) - 999
    assert build.sha256_pair_files(a, descriptor, 0, b, descriptor, 999, length) == length
    assert (a.hexdigest(), b.hexdigest()) == (right(b"head" + content[:length]), right(content[999:]))


@pytest.mark.parametrize("short", ["a", "b"])
def test_a_pair_stops_where_one_file_ends(build: Build, content: bytes, descriptor: int, short: str) -> None:
    a, b = fed(build), fed(build, b"x")
    start_a, start_b = (1234, 0) if short == "a" else (0, 1234)
    length = len(content) - 1234
    assert build.sha256_pair_files(a, descriptor, start_a, b, descriptor, start_b, len(content)) == length
    assert a.hexdigest() == right(content[start_a:][:length])
    assert b.hexdigest() == right(b"x" + content[start_b:][:length])


def test_the_kernels_refusal(build: Build, content: bytes, descriptor: int) -> None:
    closed = os.dup(descriptor)
    os.close(closed)
    a, b = fed(build, b"a"), fed(build, b"b")
    for call in (
        lambda: a.update_file(closed, 0, 10),
        lambda: build.sha256_pair_files(a, closed, 0, b, descriptor, 0, 10),
        lambda: build.sha256_pair_files(a, descriptor, 0, b, closed, 0, 10),
    ):
        with pytest.raises(OSError) as refused:
            call()
        assert refused.value.errno == errno.EBADF
    assert (a.hexdigest(), b.hexdigest()) == (right(b"a"), right(b"b"))
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError) as pipe:
            a.update_file(reader, 0, 1)
    finally:
        os.close(reader)
        os.close(writer)
    assert pipe.value.errno == errno.ESPIPE


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (1 << 63, 1), (0, 1 << 63), ((1 << 63) - 1, 1)])
def test_ranges_lie_in_a_file(saves: Build, offset: int, length: int) -> None:
    a, b = saves.Sha256(), saves.Sha256()
    for call in (
        lambda: a.update_file(-1, offset, length),
        lambda: saves.sha256_pair_files(a, -1, offset, b, -1, 0, length),
        lambda: saves.sha256_pair_files(a, -1, min(offset, 0), b, -1, offset, length),
    ):
        with pytest.raises(ValueError, match="must be from 0"):
            call()


@pytest.mark.parametrize("number", ["1", None, 1.0])
def test_numbers_are_whole(saves: Build, number: Any) -> None:
    a, b = saves.Sha256(), saves.Sha256()
    calls: list[Callable[[], object]] = [
        lambda: a.update_file(number, 0, 1),
        lambda: a.update_file(-1, number, 1),
        lambda: a.update_file(-1, 0, number),
        lambda: saves.sha256_pair_files(a, -1, number, b, -1, 0, 1),
        lambda: saves.sha256_pair_files(a, -1, 0, b, -1, 0, number),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("text", TypeError),
        (None, TypeError),
        (7, TypeError),
        (memoryview(bytes(8)).cast("I"), TypeError),
        (memoryview(bytes(64))[::2], BufferError),
    ],
)
def test_other_buffers_are_refused(build: Build, data: Any, error: type[Exception]) -> None:
    a, b = fed(build, b"a"), fed(build, b"b")
    with pytest.raises(error):
        a.update(data)
    with pytest.raises(error):
        build.sha256_pair(a, data, b, b"")
    with pytest.raises(error):
        build.sha256_pair(a, b"", b, data)
    assert (a.hexdigest(), b.hexdigest()) == (right(b"a"), right(b"b"))


def test_buffers_are_let_go_of(build: Build) -> None:
    data = bytearray(5000)
    a, b = fed(build, data), build.Sha256()
    build.sha256_pair(a, data, b, data)
    data.append(1)


# --- threads ---------------------------------------------------------------------------------------------------------


def refused_while(work: Callable[[], object], intrude: Callable[[], object]) -> bool:
    """Whether ``intrude`` was refused while ``work`` ran in another thread."""
    for _ in range(20):
        refused = False
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            try:
                intrude()
            except RuntimeError:
                refused = True
        worker.join()
        if refused:
            return True
    return False


BIG = bytes(16 << 20)


@pytest.mark.parametrize("chosen", [plain, pytest.param("compiled", marks=pytest.mark.needs("native"))], ids=str)
def test_a_second_thread_is_refused(chosen: Any) -> None:
    if chosen == "compiled":
        from fetcher._native import sha256 as chosen
    hasher = chosen.Sha256()
    assert refused_while(lambda: hasher.update(BIG), lambda: hasher.update(b""))
    assert hasher.hexdigest() == right(bytes(hasher.tell()))


@pytest.mark.needs("native")
@pytest.mark.parametrize("call", ["digest", "hexdigest", "tell", "export"])
def test_nobody_looks_at_a_hash_at_work(call: str) -> None:
    from fetcher._native import sha256

    hasher = sha256.Sha256()
    assert refused_while(lambda: hasher.update(BIG), getattr(hasher, call))
    assert hasher.hexdigest() == right(bytes(hasher.tell()))


@pytest.mark.needs("native")
def test_a_refused_pair_leaves_both_free() -> None:
    from fetcher._native import sha256

    busy, idle = sha256.Sha256(), sha256.Sha256()
    assert refused_while(lambda: busy.update(BIG), lambda: sha256.sha256_pair(idle, b"", busy, b""))
    assert refused_while(lambda: busy.update(BIG), lambda: sha256.sha256_pair(busy, b"", idle, b""))
    idle.update(b"free")
    busy.update(b"free")
    assert idle.hexdigest() == right(b"free")


@pytest.mark.needs("native")
def test_many_threads_with_hashes_of_their_own() -> None:
    from fetcher._native import sha256

    data = scattered(1 << 20, 6)
    found: list[str] = []

    def work() -> None:
        a, b = sha256.Sha256(), sha256.Sha256()
        for _ in range(4):
            sha256.sha256_pair(a, data, b, data)
        found.extend([a.hexdigest(), b.hexdigest()])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [right(data * 4)] * 8
