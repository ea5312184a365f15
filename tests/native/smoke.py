"""What an installed wheel must be able to do: ``python smoke.py`` with the Python it was installed for.

Run on each Python that is found (tests/native/test_wheel.py) and in each container that builds a wheel (cibuildwheel).
Needs the package and its dependency ``blake3``, nothing of the tests. Ends with 0 and says what it tried, or raises.
"""

import errno
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import blake3 as judge

from fetcher import _native
from fetcher._native import files, sha256, sink, sockets

PUBLISHED = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
}
"""Length → first 32 bytes of the published BLAKE3 vector; its input byte i is i mod 251."""

PUBLISHED_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

MIB = 1 << 20


def require(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"{what}: {found!r}, and not {expected!r}")


def paint(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def try_blake3() -> str:
    # The switch has compared the core with the `blake3` package by now: a wrong one is not in use.
    if _native.ACTIVE != "native":
        raise SystemExit(_native.describe())
    from fetcher._native import blake3 as core

    for kernel in core.simd_names():
        core.set_simd(kernel)
        require("the kernel in use", core.simd(), kernel)
        for length, digest in PUBLISHED.items():
            require(f"BLAKE3 of {length} bytes by {kernel}", core.root_of(paint(length)).hex(), digest)
        for length in (MIB + 1, 3 * MIB + 77):
            data = paint(length)
            expected = judge.blake3(data).digest()
            hasher = core.SubtreeHasher(0)
            for at in range(0, length, 100_003):
                hasher.update(data[at : at + 100_003])
            require(f"BLAKE3 in pieces by {kernel}", hasher.root(), expected)
            with tempfile.TemporaryFile() as file:
                cvs = core.write_blocks(file.fileno(), 0, data)
                require(f"BLAKE3 of {length} bytes in blocks by {kernel}", core.merge_root(cvs, length), expected)
                require("bad blocks of a good file", core.scan_file(file.fileno(), 0, length, cvs), [])
                file.seek(MIB)
                file.write(b"\xff")
                file.flush()
                require("bad blocks of a bad file", core.scan_file(file.fileno(), 0, length, cvs), [1])
    return f"{core.__file__} ({', '.join(core.simd_names())})"


def try_sha256() -> str:
    for kernel in sha256.simd_names():
        sha256.set_simd(kernel)
        data = paint(MIB + 1)
        one, other = sha256.Sha256(), sha256.Sha256()
        sha256.sha256_pair(one, b"abc", other, data)
        # The first example of FIPS 180.
        require(f"SHA-256 of abc by {kernel}", one.hexdigest(), PUBLISHED_SHA256)
        require(f"SHA-256 of 1 MiB and a byte by {kernel}", other.digest(), hashlib.sha256(data).digest())
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            begun = sha256.Sha256()
            begun.update_file(file.fileno(), 0, 100_001)
            resumed = sha256.Sha256.load(begun.export())
            resumed.update_file(file.fileno(), 100_001, MIB)
        require(f"SHA-256 that was saved, by {kernel}", resumed.digest(), hashlib.sha256(data).digest())
    return f"{sha256.__file__} ({', '.join(sha256.simd_names())})"


def try_files() -> str:
    with tempfile.TemporaryDirectory() as place:
        folder = os.open(place, os.O_RDONLY)
        try:
            files.write_files(folder, [b"one", b"two"], [b"1", b"22"], 0o444)
            require("links", files.link_files(folder, [b"one", b"two"], folder, [b"three", b"one"]), [0, errno.EEXIST])
            require("bytes", Path(place, "three").read_bytes(), b"1")
            require("removed", files.unlink_files(folder, [b"one", b"two", b"three"]), [0, 0, 0])
        finally:
            os.close(folder)
    return f"{files.__file__} (many files at once)"


def try_sink() -> str:
    data = paint(MIB + 77)
    blocks = {0: data[:MIB], 1: data[MIB:]}
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as journal:
        written = sink.BlockSink(2)
        for block, content in blocks.items():
            written.submit(block, file.fileno(), block * MIB, content, journal.fileno(), 48 * block)
        written.close()
        told = {block: (value, number) for block, value, number, _ in written.completions()}
        require("blocks told of", sorted(told), [0, 1])
        require("errors of the sink", [number for _, number in told.values()], [0, 0])
        cvs = told[0][0] + told[1][0]
        from fetcher._native import blake3 as core

        require("BLAKE3 by the sink", core.merge_root(cvs, len(data)), judge.blake3(data).digest())
        file.seek(0)
        require("bytes of the sink", file.read(), data)
        require("bytes of its journal", os.fstat(journal.fileno()).st_size, 96)
    return f"{sink.__file__} (blocks on their way to the disk)"


def try_sockets() -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        require("news of a silent socket", sockets.has_news(ours.fileno()), False)
        theirs.send(b"x")
        require("news", sockets.has_news(ours.fileno()), True)
    return f"{sockets.__file__} (a look at a socket)"


if __name__ == "__main__":
    print("\n".join([sys.version, try_blake3(), try_sha256(), try_files(), try_sink(), try_sockets()]))
