# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False, freethreading_compatible=True
"""BLAKE3 over blocks, compiled: the Python face of core/.

Every argument is checked here, with the GIL held; the C below trusts its caller. The GIL is dropped for inputs of GIL_BYTES
and more, by root_of for more than ROOT_GIL_BYTES. This module must not know what the bytes mean; its readable twin is
pure.py, its promises are in blake3.pyi.
"""
import os
from operator import index  # a float is no number of bytes, though C would take it

from cpython.bytearray cimport PyByteArray_AsString, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free

from fetcher._native.arguments cimport GIL_BYTES, PAGE_BYTES, READ_BUFFER_BYTES, PyBuffer_Release, take_bytes

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **pointer, size_t alignment, size_t size)

CV_BYTES = BLAKE3_CV_BYTES

cdef object FILE_BYTES_MAX = (1 << 63) - 1  # off_t
cdef object BLOCK_BYTES_MIN = BLAKE3_CHUNK_BYTES
cdef object BLOCK_BYTES_MAX = 1 << 30
cdef object KEY_BYTES = 32
# Roots of small files are asked for on an event loop: this much takes 5 microseconds, and beside busy threads to hand the
# GIL over costs more than that.
cdef enum:
    ROOT_GIL_BYTES = 64 << 10


cdef size_t checked_block(object block) except 0:
    block = index(block)
    if not BLOCK_BYTES_MIN <= block <= BLOCK_BYTES_MAX or block & (block - 1):
        raise ValueError(f"block must be a power of two from {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX}, not {block}")
    return block


cdef uint64_t checked_offset(object offset, object block, object length) except? 0:
    offset = index(offset)
    if not 0 <= offset <= FILE_BYTES_MAX - length:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 less the length, not {offset}")
    if offset % block:
        raise ValueError(f"offset must be a multiple of the block, {offset} is not one of {block}")
    return offset


cdef int set_mode(blake3_mode *mode, object key) except -1:
    if key is None:
        blake3_mode_init(mode, NULL)
        return 0
    cdef bytes copy = bytes(memoryview(key))
    if len(copy) != KEY_BYTES:
        raise ValueError(f"key must be {KEY_BYTES} bytes, not {len(copy)}")
    blake3_mode_init(mode, <const uint8_t *>PyBytes_AsString(copy))
    return 0


cdef Py_ssize_t count_blocks(size_t bytes, size_t block_bytes) noexcept nogil:
    return bytes // block_bytes + (bytes % block_bytes != 0)


cdef bytes new_cvs(Py_ssize_t count):
    return PyBytes_FromStringAndSize(NULL, count * BLAKE3_CV_BYTES)

blake3_kernel_detect()


def simd():
    return blake3_kernel_active().decode()


def simd_names():
    names = []
    while blake3_kernel_name(len(names)) != NULL:
        names.append(blake3_kernel_name(len(names)).decode())
    return tuple(names)


def set_simd(str name):
    if not blake3_kernel_choose(name.encode()):
        raise ValueError(f"no kernel {name!r} on this machine, there are: {', '.join(simd_names())}")


def root_of(data, *, key=None):
    cdef blake3_mode mode
    cdef Py_buffer view
    cdef uint8_t root[BLAKE3_CV_BYTES]
    set_mode(&mode, key)
    take_bytes(data, &view)
    try:
        if view.len <= ROOT_GIL_BYTES:
            blake3_root(&mode, <const uint8_t *>view.buf, view.len, root)
        else:
            with nogil:
                blake3_root(&mode, <const uint8_t *>view.buf, view.len, root)
    finally:
        PyBuffer_Release(&view)
    return PyBytes_FromStringAndSize(<char *>root, BLAKE3_CV_BYTES)


def roots_of(contents):
    cdef blake3_mode mode
    cdef list bodies = list(contents)
    cdef size_t count = len(bodies)
    cdef size_t taken = 0
    cdef size_t position
    cdef Py_buffer *views = <Py_buffer *>calloc(count + 1, sizeof(Py_buffer))
    cdef uint8_t *roots = <uint8_t *>calloc(count + 1, BLAKE3_CV_BYTES)
    blake3_mode_init(&mode, NULL)
    try:
        if views is NULL or roots is NULL:
            raise MemoryError
        while taken < count:
            take_bytes(bodies[taken], &views[taken])
            taken += 1
        with nogil:
            for position in range(count):
                blake3_root(&mode, <const uint8_t *>views[position].buf, views[position].len,
                            roots + position * BLAKE3_CV_BYTES)
        return [PyBytes_FromStringAndSize(<char *>roots + position * BLAKE3_CV_BYTES, BLAKE3_CV_BYTES)
                for position in range(count)]
    finally:
        while taken > 0:
            taken -= 1
            PyBuffer_Release(&views[taken])
        free(roots)
        free(views)


def hash_blocks(data, offset, *, block=1 << 20, key=None):
    cdef blake3_mode mode
    cdef Py_buffer view
    cdef size_t block_bytes = checked_block(block)
    cdef uint64_t start
    cdef uint8_t *target
    set_mode(&mode, key)
    take_bytes(data, &view)
    try:
        start = checked_offset(offset, block, view.len)
        cvs = new_cvs(count_blocks(view.len, block_bytes))
        target = <uint8_t *>PyBytes_AsString(cvs)
        if view.len < GIL_BYTES:
            blake3_blocks(&mode, <const uint8_t *>view.buf, view.len, start, block_bytes, target)
        else:
            with nogil:
                blake3_blocks(&mode, <const uint8_t *>view.buf, view.len, start, block_bytes, target)
    finally:
        PyBuffer_Release(&view)
    return cvs


def merge_root(cvs, size, *, block=1 << 20, key=None):
    cdef blake3_mode mode
    cdef size_t block_bytes = checked_block(block)
    cdef uint8_t root[BLAKE3_CV_BYTES]
    set_mode(&mode, key)
    size = index(size)
    if not block < size <= FILE_BYTES_MAX:
        raise ValueError(f"size must be more than one block of {block}, not {size}: a smaller file has its root from root_of")
    cdef bytearray level = bytearray(memoryview(cvs))
    cdef Py_ssize_t count = count_blocks(size, block_bytes)
    if len(level) != count * BLAKE3_CV_BYTES:
        raise ValueError(f"a file of {size} bytes has {count} blocks of {block}, not {len(level) / BLAKE3_CV_BYTES:g}")
    cdef uint8_t *scratch = <uint8_t *>PyByteArray_AsString(level)
    with nogil:
        blake3_merge_root(&mode, scratch, count, root)
    return PyBytes_FromStringAndSize(<char *>root, BLAKE3_CV_BYTES)


def write_blocks(fd, offset, data, *, block=1 << 20):
    cdef Py_buffer view
    cdef size_t block_bytes = checked_block(block)
    cdef int descriptor = index(fd)
    cdef int error
    cdef uint64_t start
    cdef uint8_t *target
    take_bytes(data, &view)
    try:
        start = checked_offset(offset, block, view.len)
        cvs = new_cvs(count_blocks(view.len, block_bytes))
        target = <uint8_t *>PyBytes_AsString(cvs)
        with nogil:
            error = block_sink_write(descriptor, start, <const uint8_t *>view.buf, view.len, block_bytes, target)
    finally:
        PyBuffer_Release(&view)
    if error:
        raise OSError(error, os.strerror(error))
    return cvs


def scan_file(fd, offset, length, expected, *, block=1 << 20):
    cdef size_t block_bytes = checked_block(block)
    cdef int descriptor = index(fd)
    length = index(length)
    if not 0 <= length <= FILE_BYTES_MAX:
        raise ValueError(f"length must be from 0 to 2**63 - 1, not {length}")
    cdef uint64_t start = checked_offset(offset, block, length)
    cdef uint64_t bytes_wanted = length
    cdef bytes wanted = bytes(memoryview(expected))
    cdef Py_ssize_t count = count_blocks(bytes_wanted, block_bytes)
    if len(wanted) != count * BLAKE3_CV_BYTES:
        raise ValueError(f"{length} bytes have {count} blocks of {block}, not {len(wanted) / BLAKE3_CV_BYTES:g}")
    cdef bytearray bad = bytearray(count)
    cdef uint8_t *marks = <uint8_t *>PyByteArray_AsString(bad)
    cdef const uint8_t *cvs = <const uint8_t *>PyBytes_AsString(wanted)
    cdef size_t buffer_bytes = min(block_bytes, <size_t>READ_BUFFER_BYTES)
    cdef void *buffer = NULL
    cdef int error = posix_memalign(&buffer, PAGE_BYTES, buffer_bytes)
    if error:
        raise MemoryError
    with nogil:
        error = block_scan_file(descriptor, start, bytes_wanted, cvs, block_bytes, <uint8_t *>buffer, buffer_bytes, marks)
        free(buffer)
    if error:
        raise OSError(error, os.strerror(error))
    first = offset // block
    return [first + i for i, mark in enumerate(bad) if mark]


cdef class SubtreeHasher:
    cdef blake3_mode mode
    cdef blake3_stream stream
    cdef bytearray complete
    cdef object offset
    cdef object block
    cdef bint finished
    cdef unsigned char busy

    def __cinit__(self, offset, *, block=1 << 20, key=None):
        cdef size_t block_bytes = checked_block(block)
        cdef uint64_t start = checked_offset(offset, block, 0)
        set_mode(&self.mode, key)
        blake3_stream_init(&self.stream, &self.mode, start, block_bytes)
        self.complete = bytearray()
        self.offset = offset
        self.block = block

    cdef int take(self) except -1:
        if not busy_take(&self.busy):
            raise RuntimeError("this SubtreeHasher is at work in another thread")
        return 0

    cdef int finish_taken(self) except -1:
        cdef uint8_t cv[BLAKE3_CV_BYTES]
        if not self.finished:
            if blake3_stream_finish(&self.stream, cv):
                self.complete.extend(PyBytes_FromStringAndSize(<char *>cv, BLAKE3_CV_BYTES))
            self.finished = True
        return 0

    @property
    def length(self):
        return self.stream.length

    def update(self, data):
        cdef Py_buffer view
        cdef Py_ssize_t known
        cdef uint8_t *target
        take_bytes(data, &view)
        try:
            self.take()
            try:
                if self.finished:
                    raise ValueError("this SubtreeHasher is finished, it takes no more bytes")
                if view.len > FILE_BYTES_MAX - self.offset - self.stream.length:
                    raise ValueError("a file cannot have more than 2**63 - 1 bytes")
                known = len(self.complete)
                PyByteArray_Resize(
                    self.complete, known + blake3_stream_completes(&self.stream, view.len) * BLAKE3_CV_BYTES
                )
                target = <uint8_t *>PyByteArray_AsString(self.complete) + known
                if view.len < GIL_BYTES:
                    blake3_stream_update(&self.stream, <const uint8_t *>view.buf, view.len, target)
                else:
                    with nogil:
                        blake3_stream_update(&self.stream, <const uint8_t *>view.buf, view.len, target)
            finally:
                busy_release(&self.busy)
        finally:
            PyBuffer_Release(&view)

    def cvs(self):
        self.take()
        try:
            return bytes(self.complete)
        finally:
            busy_release(&self.busy)

    def finish(self):
        self.take()
        try:
            self.finish_taken()
            return bytes(self.complete)
        finally:
            busy_release(&self.busy)

    def root(self):
        cdef uint8_t root[BLAKE3_CV_BYTES]
        cdef bytearray level
        if self.offset != 0:
            raise ValueError(f"only a run from offset 0 has a root, this one starts at {self.offset}")
        self.take()
        try:
            self.finish_taken()
            if self.stream.length <= self.block:
                blake3_stream_root(&self.stream, root)
            else:
                level = bytearray(self.complete)
                blake3_merge_root(
                    &self.mode, <uint8_t *>PyByteArray_AsString(level), len(level) // BLAKE3_CV_BYTES, root
                )
            return PyBytes_FromStringAndSize(<char *>root, BLAKE3_CV_BYTES)
        finally:
            busy_release(&self.busy)
