"""A disk that remembers everything: each write and each flush goes into a log, in the order in which it came.

A FUSE file system that consists of one plain file (its root), for a loop device to lie on; what a file system on that
device does arrives here request by request. From the log every state can be made that a power cut may leave (see
``crash_log.py``). Speaks the kernel's FUSE protocol itself, as far as one file needs it: Linux, include/uapi/linux/
fuse.h. Runs in a process of its own, so that nothing which waits for the disk can keep the disk waiting.

Argument: a JSON object with ``place`` (an empty file: here the disk appears), ``base`` (what the disk holds at first),
``log`` (made anew) and ``flush_s`` (how long a flush takes). Says ``ready`` and ends when it is unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

RECORD = struct.Struct("<BdQQ")
"""Kind, when it arrived (CLOCK_MONOTONIC), offset, length; a write's bytes follow."""
WRITE, ZERO, FLUSH = 1, 2, 3

_WRITE_BYTES_MAX = 1 << 20
_PAGE_BYTES = 4096

# Opcodes.
_FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE, _FSYNC = 2, 3, 4, 14, 15, 16, 17, 18, 20
_FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET, _FALLOCATE = 25, 26, 36, 38, 42, 43

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_ATTR_OUT = struct.Struct("<QII QQQQQQ IIIIIIIIII")
_OPEN_OUT = struct.Struct("<QIi")
_READ_WRITE_IN = struct.Struct("<QQIIQII")
_WRITE_OUT = struct.Struct("<II")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_FALLOCATE_IN = struct.Struct("<QQQII")

_ASYNC_READ, _BIG_WRITES, _ASYNC_DIO, _MAX_PAGES = 1 << 0, 1 << 5, 1 << 15, 1 << 22
_DIRECT_IO = 1
"""No page cache between the loop device and us: what it writes is here when its write has ended, not at some time."""
_PR_SET_IO_FLUSHER = 57

_library = ctypes.CDLL(None, use_errno=True)


class RecordingDisk:
    """The one file, in memory, and its log."""

    def __init__(self, place: Path, base: Path, log: Path, flush_s: float) -> None:
        self._place = place
        self._flush_s = flush_s
        self._size = base.stat().st_size
        self._bytes = mmap.mmap(-1, self._size)
        with base.open("rb", buffering=0) as file:
            _read_sparse(file.fileno(), self._bytes, self._size)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    def mount(self) -> None:
        """Let the file appear. Needs root."""
        options = f"fd={self._fuse},rootmode=100600,user_id=0,group_id=0"
        if _library.mount(b"recording-disk", os.fsencode(self._place), b"fuse", 2 | 4, options.encode()):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self._place))

    def serve(self) -> None:
        """Answer until the file is unmounted."""
        request = memoryview(bytearray(_WRITE_BYTES_MAX + _PAGE_BYTES))
        while True:
            try:
                length = os.readv(self._fuse, [request])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):  # ENOENT: that request was taken back
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            now = time.monotonic()
            _, opcode, unique, *_ = _IN.unpack_from(request)
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            if opcode == _FSYNC and self._flush_s:
                # What came before is safe from here on; whoever asked learns it later, and others go on meanwhile.
                self._record(FLUSH, now)
                threading.Timer(self._flush_s, self._reply, (unique, 0)).start()
                continue
            try:
                pieces = self._answer(opcode, request[_IN.size : length], now)
            except OSError as error:
                self._reply(unique, -(error.errno or errno.EIO))
            else:
                self._reply(unique, 0, *pieces)
            if opcode == _DESTROY:
                return

    def _reply(self, unique: int, error: int, *pieces: bytes | memoryview) -> None:
        head = _OUT.pack(_OUT.size + sum(map(len, pieces)), error, unique)
        try:
            os.writev(self._fuse, [head, *pieces])
        except OSError as failed:
            if failed.errno not in (errno.ENOENT, errno.ENODEV):  # nobody waits for it any more
                raise

    def _answer(self, opcode: int, body: memoryview, now: float) -> tuple[bytes | memoryview, ...]:
        if opcode == _WRITE:
            _, offset, size, *_ = _READ_WRITE_IN.unpack_from(body)
            data = body[_READ_WRITE_IN.size : _READ_WRITE_IN.size + size]
            self._record(WRITE, now, offset, data)
            self._bytes[offset : offset + size] = data
            return (_WRITE_OUT.pack(size, 0),)
        if opcode == _READ:
            _, offset, size, *_ = _READ_WRITE_IN.unpack_from(body)
            return (self._bytes[offset : min(self._size, offset + size)],)
        if opcode == _FSYNC:
            self._record(FLUSH, now)
            return ()
        if opcode == _FALLOCATE:
            _, offset, size, mode, _ = _FALLOCATE_IN.unpack_from(body)
            if not mode & (0x02 | 0x10):  # neither a hole nor zeros: it is all allocated
                return ()
            size = min(size, self._size - offset)
            os.writev(self._log, [RECORD.pack(ZERO, now, offset, size)])
            self._bytes[offset : offset + size] = bytes(size)
            return ()
        if opcode in (_GETATTR, _SETATTR):
            times = (0, 0, 0, 0, 0, 0)
            blocks = self._size // 512
            mode, links, owner, group, device = 0o100600, 1, 0, 0, 0
            attributes = (1, self._size, blocks, *times, mode, links, owner, group, device, _PAGE_BYTES, 0)
            return (_ATTR_OUT.pack(3600, 0, 0, *attributes),)
        if opcode == _OPEN:
            return (_OPEN_OUT.pack(1, _DIRECT_IO, 0),)
        if opcode == _STATFS:
            return (_STATFS_OUT.pack(self._size // _PAGE_BYTES, 0, 0, 1, 0, _PAGE_BYTES, 255, _PAGE_BYTES, 0),)
        if opcode == _INIT:
            major, minor, readahead, offered = _INIT_IN.unpack_from(body)
            if (major, minor) < (7, 28):
                raise OSError(errno.EPROTO, "the kernel's FUSE is too old")
            flags = offered & (_ASYNC_READ | _BIG_WRITES | _ASYNC_DIO | _MAX_PAGES)
            pages = _WRITE_BYTES_MAX // _PAGE_BYTES
            return (_INIT_OUT.pack(7, min(minor, 31), readahead, flags, 64, 48, _WRITE_BYTES_MAX, 1, pages, 0, 0, 0),)
        if opcode in (_RELEASE, _FLUSH, _DESTROY):
            return ()
        raise OSError(errno.ENOSYS, "nothing that one file needs")

    def _record(self, kind: int, now: float, offset: int = 0, data: bytes | memoryview = b"") -> None:
        """One write(2) each, so that a reader never sees half of one for long."""
        os.writev(self._log, [RECORD.pack(kind, now, offset, len(data)), data])


def _read_sparse(descriptor: int, target: mmap.mmap, size: int) -> None:
    """Fill ``target``, but leave holes untouched: memory is taken for what is there."""
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        stop = os.lseek(descriptor, offset, os.SEEK_HOLE)
        while offset < stop:
            data = os.pread(descriptor, min(stop - offset, 1 << 20), offset)
            target[offset : offset + len(data)] = data
            offset += len(data)


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    # Memory that we ask for must never be found by writing to the disk that we are.
    _library.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    disk = RecordingDisk(Path(order["place"]), Path(order["base"]), Path(order["log"]), float(order["flush_s"]))
    disk.mount()
    print("ready", flush=True)
    disk.serve()


if __name__ == "__main__":
    main()
