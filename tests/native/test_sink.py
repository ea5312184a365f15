"""The block sink, compiled and in plain Python: bytes, chaining values and records as the other functions make them,
errors of the kernel, its descriptor in event loops, and nothing that stays behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import mmap
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher import _native
from fetcher._native import plain_sink
from fetcher.cache import journal
from tests.native.cores import paint

BLOCK = 1 << 20
ACTIVE = _native.ACTIVE == "native"
WAIT_S = 30


def all_sinks() -> list[Any]:
    plain = pytest.param(plain_sink.BlockSink, id="plain")
    if not ACTIVE:
        return [plain, pytest.param(None, id="compiled", marks=pytest.mark.needs("native"))]
    from fetcher._native import sink

    return [plain, pytest.param(sink.BlockSink, id="compiled")]


@pytest.fixture(params=all_sinks())
def new_sink(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    made: Callable[[int], Any] = request.param
    return made


@pytest.fixture
def sink(new_sink: Callable[[int], Any]) -> Iterator[Any]:
    with closing(new_sink(2)) as made:
        yield made
    made.completions()


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    with ExitStack() as stack:
        found = []
        for path in paths:
            found.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            stack.callback(os.close, found[-1])
        yield found


def collected(sink: Any) -> list[tuple[Any, bytes, int, int]]:
    """All that is under way, by waiting for the descriptor alone."""
    found: list[tuple[Any, bytes, int, int]] = []
    while sink.pending:
        assert select.select([sink.fileno()], [], [], WAIT_S)[0], "nothing came"
        found += sink.completions()
    return found


def readable(sink: Any) -> bool:
    return bool(select.select([sink.fileno()], [], [], 0)[0])


def thread_names() -> list[str]:
    """Of the threads that the kernel knows."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return names


def cv_of(data: bytes, offset: int) -> bytes:
    return _native.hash_blocks(data, offset) if ACTIVE else b""


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_blocks_of_several_files_in_any_order(new_sink: Callable[[int], Any], tmp_path: Path, threads: int) -> None:
    dice = random.Random(threads)
    content = {name: dice.randbytes(5 * BLOCK + size) for name, size in (("a", 1), ("b", 4096), ("c", 777_777))}
    jobs = [(name, block) for name in content for block in range(6)]
    dice.shuffle(jobs)
    slots = {job: 64 + 48 * position for position, job in enumerate(jobs)}
    paths = [tmp_path / name for name in content]
    with opened(*paths, tmp_path / "journal") as (*files, log), closing(new_sink(threads)) as sink:
        fds = dict(zip(content, files, strict=True))
        for name, block in jobs:
            data = memoryview(content[name])[block * BLOCK : (block + 1) * BLOCK]
            sink.submit((name, block), fds[name], block * BLOCK, data, log, slots[name, block])
        done = collected(sink)
        records = os.pread(log, 1 << 20, 0)
    assert sorted(token for token, *_ in done) == sorted(jobs)
    assert {(error, stage) for _, _, error, stage in done} == {(0, 0)}
    for path in paths:
        assert path.read_bytes() == content[path.name]
    values = {token: value for token, value, *_ in done}
    for name, block in jobs:
        data = content[name][block * BLOCK : (block + 1) * BLOCK]
        assert values[name, block] == cv_of(data, block * BLOCK)
        if ACTIVE:
            at = slots[name, block]
            assert records[at : at + 48] == journal.block_record(block, values[name, block])
    if not ACTIVE:
        assert records == b""


@pytest.mark.parametrize("length", [1, 63, 1024, 1025, 4095, 4096, 65537, BLOCK - 1, BLOCK])
@pytest.mark.parametrize("block", [0, 1, 4097])
def test_one_block_of_any_length(sink: Any, tmp_path: Path, length: int, block: int) -> None:
    data = paint(length)
    with opened(tmp_path / "data", tmp_path / "again") as (fd, other):
        sink.submit(None, fd, block * BLOCK, data, -1, 0)
        assert collected(sink) == [(None, _native.write_blocks(other, block * BLOCK, data), 0, 0)]
        assert os.pread(fd, BLOCK + 1, block * BLOCK) == data
        assert os.fstat(fd).st_size == block * BLOCK + length


@pytest.mark.needs("native")
def test_each_kernel_makes_the_same_values(tmp_path: Path) -> None:
    from fetcher._native import blake3 as compiled
    from fetcher._native import sink as module

    data = paint(BLOCK - 3)
    right = compiled.hash_blocks(data, 5 * BLOCK)
    before = module.simd()
    assert before == compiled.simd()  # what FETCHER_SIMD chose is chosen for both
    try:
        with opened(tmp_path / "data") as (fd,), closing(module.BlockSink(1)) as sink:
            for name in compiled.simd_names():
                module.set_simd(name)
                sink.submit(name, fd, 5 * BLOCK, data, -1, 0)
                assert collected(sink) == [(name, right, 0, 0)]
        with pytest.raises(ValueError, match="no kernel"):
            module.set_simd("abacus")
    finally:
        module.set_simd(before)


@pytest.mark.needs("native")
@pytest.mark.parametrize("block", [0, 1, (1 << 32) - 1, 1 << 32, (1 << 43) - 2])
def test_records_are_the_journals(sink: Any, tmp_path: Path, block: int) -> None:
    # The data goes nowhere: no file system takes offsets like these.
    data = paint(100)
    with opened(tmp_path / "journal") as (log,), open("/dev/null", "wb") as nowhere:
        sink.submit(None, nowhere.fileno(), block * BLOCK, data, log, 9)
        assert collected(sink) == [(None, cv_of(data, block * BLOCK), 0, 0)]
        assert os.pread(log, 100, 0) == bytes(9) + journal.block_record(block, cv_of(data, block * BLOCK))


def test_what_lies_around_a_block_stays(sink: Any, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\xff" * (3 * BLOCK))
    with opened(path) as (fd,):
        os.lseek(fd, 7, os.SEEK_SET)
        sink.submit(None, fd, BLOCK, paint(1000), -1, 0)
        collected(sink)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    assert path.read_bytes() == b"\xff" * BLOCK + paint(1000) + b"\xff" * (2 * BLOCK - 1000)


# --- past the page cache ---------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
def test_direct_where_all_is_aligned(tmp_path: Path) -> None:
    from fetcher._native.sink import BlockSink

    slab = mmap.mmap(-1, 2 * BLOCK)
    slab[:] = random.Random(3).randbytes(2 * BLOCK)
    data = bytes(slab)
    tail = 8192
    with opened(tmp_path / "data", tmp_path / "direct") as (fd, direct), closing(BlockSink(2)) as sink:
        with memoryview(slab) as view:
            sink.submit("whole", fd, 0, view[:BLOCK], -1, 0, direct_fd=direct)
            sink.submit("short", fd, BLOCK, view[:tail], -1, 0, direct_fd=direct)
            sink.submit("odd length", fd, 2 * BLOCK, view[: tail + 1], -1, 0, direct_fd=direct)
            sink.submit("odd address", fd, 3 * BLOCK, view[512 : 512 + tail], -1, 0, direct_fd=direct)
            done = collected(sink)
        # Two files, to see which way each block took.
        assert os.pread(direct, BLOCK, 0) == data[:BLOCK] and os.pread(direct, 9 * BLOCK, BLOCK) == data[:tail]
        assert os.pread(fd, tail + 2, 2 * BLOCK)[: tail + 1] == data[: tail + 1]
        assert os.pread(fd, tail, 3 * BLOCK) == data[512 : 512 + tail]
        assert os.pread(fd, tail, 0) == bytes(tail)
    slab.close()
    assert {(error, stage) for _, _, error, stage in done} == {(0, 0)}
    values = {token: value for token, value, *_ in done}
    assert values["whole"] == cv_of(data[:BLOCK], 0)
    assert values["odd length"] == cv_of(data[: tail + 1], 2 * BLOCK)


# --- one waits for the disk, others work ------------------------------------------------------------------------------

HELD_WRITES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
/* A disk that is slow: writes to one descriptor wait until there is a byte to be read from another. */
static ssize_t held(int fd, const void *data, size_t bytes, off_t offset, const char *name) {
    const char *slow = getenv("SLOW_FD"), *gate = getenv("GATE_FD");
    char byte;
    if (slow && gate && fd == atoi(slow))
        while (read(atoi(gate), &byte, 1) < 0)
            ;
    typedef ssize_t write_at(int, const void *, size_t, off_t);
    return ((write_at *)dlsym(RTLD_NEXT, name))(fd, data, bytes, offset);
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) { return held(fd, data, bytes, offset, "pwrite"); }
ssize_t pwrite64(int fd, const void *data, size_t bytes, off_t at) { return held(fd, data, bytes, at, "pwrite64"); }
"""


@pytest.mark.needs("native")
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_while_one_block_waits_for_the_disk_others_are_hashed_and_written(tmp_path: Path) -> None:
    """One thread works, two may wait: two blocks held back at the disk leave a third, which goes another way, its turn;
    with more of them held than may wait, it has none."""
    shim, source = tmp_path / "held.so", tmp_path / "held.c"
    source.write_text(HELD_WRITES)
    # Under sanitizers they are for what is tested, not for the compiler.
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], env=plain, check=True, timeout=60)
    script = f"""
        import mmap, os, select, sys
        from contextlib import closing
        from fetcher._native.sink import BlockSink

        fd = os.open({str(tmp_path / "data")!r}, os.O_RDWR | os.O_CREAT, 0o600)
        slow = os.dup(fd)
        gate, opener = os.pipe()
        os.environ.update(SLOW_FD=str(slow), GATE_FD=str(gate))
        slab = mmap.mmap(-1, {BLOCK})

        def next_of(sink):
            assert select.select([sink.fileno()], [], [], {WAIT_S})[0], "nothing came"
            return [token for token, *_ in sink.completions()]

        with closing(BlockSink(1, waiting=2)) as sink:
            for block in range(2):
                sink.submit(f"held {{block}}", fd, block * {BLOCK}, slab, -1, 0, direct_fd=slow)
            sink.submit("free", fd, 2 * {BLOCK}, slab, -1, 0)
            assert next_of(sink) == ["free"]
            sink.submit("held 2", fd, 3 * {BLOCK}, slab, -1, 0, direct_fd=slow)
            sink.submit("behind", fd, 4 * {BLOCK}, slab, -1, 0)
            assert not select.select([sink.fileno()], [], [], 0.05)[0]
            os.write(opener, b"123")
            left = []
            while len(left) < 4:
                left += next_of(sink)
            assert sorted(left) == ["behind", "held 0", "held 1", "held 2"], left
        print("well")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip()},
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


@pytest.mark.needs("native")
def test_a_disk_that_refuses_direct_writes_gets_them_buffered(tmp_path: Path) -> None:
    from fetcher._native.sink import BlockSink

    slab = mmap.mmap(-1, BLOCK)
    # What is written to this file has to be a number, or else: EINVAL, as of a disk with larger sectors.
    refusing = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    try:
        with pytest.raises(OSError) as refused:
            os.pwrite(refusing, bytes(BLOCK), 0)
        assert refused.value.errno == errno.EINVAL
        with opened(tmp_path / "data") as (fd,), closing(BlockSink(1)) as sink:
            sink.submit(None, fd, 0, slab, -1, 0, direct_fd=refusing)
            assert collected(sink) == [(None, cv_of(bytes(BLOCK), 0), 0, 0)]
            assert os.fstat(fd).st_size == BLOCK
    finally:
        os.close(refusing)
    slab.close()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_the_kernels_refusals(sink: Any, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    read_only = os.open(tmp_path / "data", os.O_RDONLY)
    with opened(tmp_path / "journal") as (log,), open("/dev/full", "wb") as full:
        closed = os.dup(log)
        os.close(closed)
        sink.submit("closed", closed, 0, b"x", log, 0)
        sink.submit("read only", read_only, 0, b"x", log, 48)
        sink.submit("full", full.fileno(), 0, b"x", log, 96)
        done = {token: rest for token, *rest in collected(sink)}
        assert os.fstat(log).st_size == 0  # no record without its bytes
    os.close(read_only)
    assert done == {
        "closed": [b"", errno.EBADF, 1],
        "read only": [b"", errno.EBADF, 1],
        "full": [b"", errno.ENOSPC, 1],
    }


@pytest.mark.needs("native")
def test_a_record_that_fails(sink: Any, tmp_path: Path) -> None:
    data = paint(5000)
    with opened(tmp_path / "data") as (fd,), open("/dev/full", "wb") as full:
        sink.submit("full", fd, 0, data, full.fileno(), 0)
        assert collected(sink) == [("full", cv_of(data, 0), errno.ENOSPC, 2)]
        assert os.pread(fd, 5000, 0) == data


def test_a_limit_of_file_size(new_sink: Callable[[int], Any], tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path / "data") as (fd,), closing(new_sink(1)) as sink:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK + 5000, before[1]))
        try:
            for block in (0, 1, 2):
                sink.submit(block, fd, block * BLOCK, paint(BLOCK), -1, 0)
            done = collected(sink)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(token, error, stage) for token, _, error, stage in done] == [
        (0, 0, 0),
        (1, errno.EFBIG, 1),
        (2, errno.EFBIG, 1),
    ]


@pytest.mark.parametrize(
    ("offset", "length", "place"),
    [(1, 1, 0), (-BLOCK, 1, 0), (1 << 63, 1, 0), (0, 0, 0), (0, BLOCK + 1, 0), (0, 1, -1), (0, 1, 1 << 63)],
)
def test_wrong_values_are_refused(sink: Any, offset: int, length: int, place: int) -> None:
    data = bytearray(length)
    with pytest.raises(ValueError):
        sink.submit(None, 1, offset, data, -1, place)
    data.extend(b"x")  # nobody holds it
    assert sink.pending == 0


def test_wrong_types_are_refused(sink: Any) -> None:
    for arguments in (("1", 0, b"x", -1, 0), (1, 0.0, b"x", -1, 0), (1, 0, "x", -1, 0), (1, 0, b"x", None, 0)):
        with pytest.raises(TypeError):
            sink.submit(None, *arguments)
    with pytest.raises(TypeError):
        sink.submit(None, 1, 0, memoryview(b"abcd").cast("I"), -1, 0)
    with pytest.raises(BufferError):
        sink.submit(None, 1, 0, memoryview(b"abcd")[::2], -1, 0)
    with pytest.raises(TypeError):
        sink.submit(None, 1, 0, b"x", -1, 0, direct_fd="2")


def test_wrong_numbers_of_threads_are_refused(new_sink: Callable[[int], Any]) -> None:
    for threads in (0, -1, 65):
        with pytest.raises(ValueError):
            new_sink(threads)
    with pytest.raises(TypeError):
        new_sink(1.0)  # type: ignore[arg-type]


# --- the descriptor --------------------------------------------------------------------------------------------------


def test_the_descriptor_is_readable_while_something_waits(sink: Any, tmp_path: Path) -> None:
    assert not os.get_blocking(sink.fileno()) and not os.get_inheritable(sink.fileno())
    assert not readable(sink) and sink.completions() == []
    with opened(tmp_path / "data") as (fd,):
        for _ in range(3):
            for block in range(4):
                sink.submit(block, fd, block * BLOCK, b"x", -1, 0)
            assert len(collected(sink)) == 4
            assert sink.completions() == []
            assert not readable(sink)


def test_many_completions_are_one_wake(sink: Any, tmp_path: Path) -> None:
    with opened(tmp_path / "data") as (fd,):
        for block in range(20):
            sink.submit(block, fd, block * BLOCK, b"x", -1, 0)
        end = time.monotonic() + WAIT_S
        found = []
        while len(found) < 20 and time.monotonic() < end:
            assert select.select([sink.fileno()], [], [], WAIT_S)[0]
            found = [*found, *sink.completions()]
        assert len(found) == 20
        assert not readable(sink) or sink.completions() == []
        # The last wake may have come after its completions were taken: once, and then no more.
        assert not readable(sink)


def in_a_loop(run: Callable[[Any], Any], sink: Any, path: Path) -> None:
    blocks, under_way_max = 64, 3

    async def write_all(fd: int) -> list[int]:
        loop = asyncio.get_running_loop()
        finished = loop.create_future()
        done: list[int] = []
        waiting = list(range(blocks))

        def fill() -> None:
            while waiting and sink.pending < under_way_max:
                block = waiting.pop()
                sink.submit(block, fd, block * BLOCK, paint(BLOCK), -1, 0)

        def collect() -> None:
            for token, _, error, _ in sink.completions():
                assert error == 0
                done.append(token)
            fill()
            if len(done) == blocks and not finished.done():
                finished.set_result(None)

        loop.add_reader(sink.fileno(), collect)
        try:
            fill()
            await asyncio.wait_for(finished, WAIT_S)
        finally:
            loop.remove_reader(sink.fileno())
        return done

    with opened(path) as (fd,):
        assert sorted(run(write_all(fd))) == list(range(blocks))
        assert os.fstat(fd).st_size == blocks * BLOCK


def test_in_asyncio(sink: Any, tmp_path: Path) -> None:
    in_a_loop(asyncio.run, sink, tmp_path / "data")


def test_in_uvloop(sink: Any, tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    def run(work: Any) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)

    in_a_loop(run, sink, tmp_path / "data")


def test_many_threads_submit(sink: Any, tmp_path: Path) -> None:
    each, threads = 40, 6
    with opened(tmp_path / "data") as (fd,):

        def submit(first: int) -> None:
            for number in range(first, first + each):
                sink.submit(number, fd, number * BLOCK, number.to_bytes(4, "big"), -1, 0)

        submitting = [threading.Thread(target=submit, args=(each * index,)) for index in range(threads)]
        for thread in submitting:
            thread.start()
        found = []
        while len(found) < each * threads:
            assert select.select([sink.fileno()], [], [], WAIT_S)[0]
            found += sink.completions()
        for thread in submitting:
            thread.join()
        assert sorted(token for token, *_ in found) == list(range(each * threads))
        for number in range(each * threads):
            assert os.pread(fd, 4, number * BLOCK) == number.to_bytes(4, "big")


# --- ending ----------------------------------------------------------------------------------------------------------


def test_close_does_what_is_queued(new_sink: Callable[[int], Any], tmp_path: Path) -> None:
    sink = new_sink(2)
    data = paint(BLOCK)
    with opened(tmp_path / "data") as (fd,):
        for block in range(24):
            sink.submit(block, fd, block * BLOCK, data, -1, 0)
        sink.close()
        sink.close()
        assert os.fstat(fd).st_size == 24 * BLOCK
    assert sink.pending == 24
    assert sorted(token for token, *_ in sink.completions()) == list(range(24))
    assert (sink.pending, sink.completions()) == (0, [])
    with pytest.raises(ValueError, match="closed"):
        sink.submit(None, 1, 0, b"x", -1, 0)
    with pytest.raises(ValueError, match="closed"):
        sink.fileno()


def test_nothing_stays_behind(new_sink: Callable[[int], Any], tmp_path: Path) -> None:
    class Token:
        pass

    fds, threads = set(os.listdir("/proc/self/fd")), len(thread_names())
    with opened(tmp_path / "data") as (fd,):
        for way in ("closed", "collected", "neither"):
            for _ in range(8):
                data, token = bytearray(BLOCK), Token()
                before = sys.getrefcount(token)
                sink = new_sink(3)
                for block in range(5):
                    sink.submit(token, fd, block * BLOCK, data, -1, 0)
                if way == "collected":
                    collected(sink)
                if way == "closed":
                    sink.close()
                del sink
                gc.collect()
                assert sys.getrefcount(token) == before
                data.clear()  # BufferError, if somebody held it
    assert len(thread_names()) == threads
    assert set(os.listdir("/proc/self/fd")) == fds


def test_buffers_are_held_until_they_are_collected(sink: Any, tmp_path: Path) -> None:
    data = bytearray(paint(BLOCK))
    with opened(tmp_path / "data") as (fd,):
        sink.submit(None, fd, 0, data, -1, 0)
        with pytest.raises(BufferError):
            data.clear()
        collected(sink)
    data.clear()


@pytest.mark.needs("native")
def test_its_threads_have_a_name_and_take_no_signals() -> None:
    from fetcher._native.sink import BlockSink

    with closing(BlockSink(3)):
        deadline = time.monotonic() + WAIT_S
        while thread_names().count("fetcher-sink") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        blocked = [
            int(line.split()[1], 16)
            for task in Path("/proc/self/task").iterdir()
            if (task / "comm").read_text().strip() == "fetcher-sink"
            for line in (task / "status").read_text().splitlines()
            if line.startswith("SigBlk")
        ]
    assert len(blocked) == 3
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        assert all(mask >> (number - 1) & 1 for mask in blocked)
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # the program's own mask is as it was


@pytest.mark.parametrize("module", ["plain_sink", pytest.param("sink", marks=pytest.mark.needs("native"))])
def test_a_child_of_fork_can_not_use_it(module: str, tmp_path: Path) -> None:
    program = f"""
        import os, select, sys, warnings
        warnings.simplefilter("ignore")
        from fetcher._native.{module} import BlockSink

        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        sink = BlockSink(2)
        for block in range(9):
            sink.submit(block, fd, block << 20, bytes(1 << 20), -1, 0)
        child = os.fork()
        if not child:
            refused = 0
            for use in (lambda: sink.submit(0, fd, 0, b"x", -1, 0), sink.completions, lambda: sink.pending):
                try:
                    use()
                except RuntimeError:
                    refused += 1
            sink.close()
            del use, sink
            os._exit(refused)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done = 0
        while done < 9:
            select.select([sink.fileno()], [], [], 20)
            done += len(sink.completions())
        sink.close()
        print(status, done)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path / "data"], capture_output=True, text=True, timeout=50
    )
    assert (run.stdout, run.returncode) == ("3 9\n", 0), run.stderr


@pytest.mark.parametrize("module", ["plain_sink", pytest.param("sink", marks=pytest.mark.needs("native"))])
def test_an_interpreter_that_ends_with_one_open(module: str, tmp_path: Path) -> None:
    program = f"""
        import os, sys
        from fetcher._native.{module} import BlockSink

        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        sink = BlockSink(2)
        for block in range(9):
            sink.submit(block, fd, block << 20, bytes(1 << 20), -1, 0)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path / "data"], capture_output=True, text=True, timeout=50
    )
    assert (run.stderr, run.returncode) == ("", 0)


# --- space -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
def test_preallocation_takes_space_and_no_size(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as (fd,):
        os.pwrite(fd, b"abc", 0)
        if not _native.preallocate(fd, 3 * BLOCK + 1):
            pytest.skip("this file system has no fallocate")
        status = os.fstat(fd)
        assert status.st_size == 3 and status.st_blocks * 512 >= 3 * BLOCK + 1
        assert os.pread(fd, 10, 0) == b"abc"
    with opened(tmp_path / "later") as (fd,):
        assert _native.preallocate(fd, BLOCK, offset=50 * BLOCK)
        assert 2 * BLOCK > os.fstat(fd).st_blocks * 512 >= BLOCK
        os.ftruncate(fd, 51 * BLOCK)
        os.pwrite(fd, b"x", 50 * BLOCK)
        assert os.fstat(fd).st_blocks * 512 < 2 * BLOCK


@pytest.mark.needs("native")
def test_preallocation_says_what_is_wrong(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as (fd,):
        assert _native.preallocate(fd, 0)
        for size, offset in ((-1, 0), (1 << 63, 0), (1, -1), (1, (1 << 63) - 1)):
            with pytest.raises(ValueError):
                _native.preallocate(fd, size, offset=offset)
        with pytest.raises(OSError) as too_large:
            _native.preallocate(fd, (1 << 63) - 1)
        assert too_large.value.errno in (errno.EFBIG, errno.ENOSPC)
    with pytest.raises(OSError) as closed:
        _native.preallocate(fd, 1)
    assert closed.value.errno == errno.EBADF
    # /proc has files, and nothing that could be allocated.
    with open("/proc/self/oom_score_adj", "r+b") as file:
        assert _native.preallocate(file.fileno(), BLOCK) is False


def test_plain_python_preallocates_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as (fd,):
        assert plain_sink.preallocate(fd, BLOCK) is False
        assert os.fstat(fd).st_blocks == 0
        with pytest.raises(ValueError):
            plain_sink.preallocate(fd, -1)
    with pytest.raises(OSError):
        plain_sink.preallocate(fd, BLOCK)


@pytest.mark.parametrize(("error", "number"), [(MemoryError(), errno.ENOMEM), (OSError("of no number"), errno.EIO)])
def test_the_plain_sink_tells_of_whatever_failed(
    error: Exception, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> bytes:
        raise error

    monkeypatch.setattr(_native, "write_blocks", fail)
    with closing(plain_sink.BlockSink(1)) as made, opened(tmp_path / "data") as (fd,):
        made.submit("token", fd, 0, b"bytes", -1, 0)
        assert collected(made) == [("token", b"", number, plain_sink.STAGE_DATA)]
