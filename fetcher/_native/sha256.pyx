# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False, freethreading_compatible=True
"""SHA-256, compiled: the Python face of core/sha256_*.c.

Every argument is checked here, with the GIL held; the C below trusts its caller. This module must not know what the bytes
mean; its readable twin is pure_sha256.py, its promises are in sha256.pyi.
"""
import os
from operator import index  # a float is no number of bytes, though C would take it

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdlib cimport free
from libc.string cimport memcpy

from fetcher._native.arguments cimport GIL_BYTES, PAGE_BYTES, READ_BUFFER_BYTES, PyBuffer_Release, take_bytes

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **pointer, size_t alignment, size_t size)

STATE_BYTES = 40

cdef object FILE_BYTES_MAX = (1 << 63) - 1  # off_t
cdef object LENGTH_MAX = (1 << 61) - 1  # FIPS 180-4 counts bits in 64 bits

sha256_kernel_detect()


def simd():
    return sha256_kernel_active().decode()


def simd_names():
    names = []
    while sha256_kernel_name(len(names)) != NULL:
        names.append(sha256_kernel_name(len(names)).decode())
    return tuple(names)


def set_simd(str name):
    if not sha256_kernel_choose(name.encode()):
        raise ValueError(f"no kernel {name!r} on this machine, there are: {', '.join(simd_names())}")


cdef int check_range(object offset, object length) except -1:
    if not 0 <= length <= FILE_BYTES_MAX:
        raise ValueError(f"length must be from 0 to 2**63 - 1, not {length}")
    if not 0 <= offset <= FILE_BYTES_MAX - length:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 less the length, not {offset}")
    return 0


cdef void *new_buffer() except NULL:
    cdef void *buffer = NULL
    if posix_memalign(&buffer, PAGE_BYTES, READ_BUFFER_BYTES):
        raise MemoryError
    return buffer


cdef class Sha256:
    can_export = True

    cdef sha256_stream stream
    cdef unsigned char busy

    def __cinit__(self):
        sha256_init(&self.stream)

    cdef int take(self) except -1:
        if not busy_take(&self.busy):
            raise RuntimeError("this Sha256 is at work in another thread")
        return 0

    cdef void release(self) noexcept:
        busy_release(&self.busy)

    cdef int check_room(self, object more) except -1:
        if more > LENGTH_MAX - self.stream.length:
            raise ValueError("SHA-256 takes less than 2**61 bytes")
        return 0

    def update(self, data, /):
        cdef Py_buffer view
        take_bytes(data, &view)
        try:
            self.take()
            try:
                self.check_room(view.len)
                if view.len < GIL_BYTES:
                    sha256_update(&self.stream, <const uint8_t *>view.buf, view.len)
                else:
                    with nogil:
                        sha256_update(&self.stream, <const uint8_t *>view.buf, view.len)
            finally:
                self.release()
        finally:
            PyBuffer_Release(&view)

    def update_file(self, fd, offset, length):
        cdef int descriptor = index(fd)
        cdef int error
        cdef uint64_t taken = 0
        offset, length = index(offset), index(length)
        check_range(offset, length)
        cdef uint64_t start = offset
        cdef uint64_t wanted = length
        cdef void *buffer
        self.take()
        try:
            self.check_room(length)
            buffer = new_buffer()
            with nogil:
                error = sha256_update_file(
                    &self.stream, descriptor, start, wanted, <uint8_t *>buffer, READ_BUFFER_BYTES, &taken
                )
                free(buffer)
        finally:
            self.release()
        if error:
            raise OSError(error, os.strerror(error))
        return taken

    def digest(self):
        cdef uint8_t digest[SHA256_DIGEST_BYTES]
        self.take()
        sha256_digest(&self.stream, digest)
        self.release()
        return PyBytes_FromStringAndSize(<char *>digest, SHA256_DIGEST_BYTES)

    def hexdigest(self):
        return self.digest().hex()

    def tell(self):
        self.take()
        length = self.stream.length
        self.release()
        return length

    def export(self):
        cdef uint8_t state[40 + SHA256_MESSAGE_BYTES]
        cdef int i
        cdef size_t tail
        self.take()
        for i in range(SHA256_WORDS):
            store_word(state + 4 * i, self.stream.words[i])
        store_word(state + 32, <uint32_t>self.stream.length)
        store_word(state + 36, <uint32_t>(self.stream.length >> 32))
        tail = self.stream.length % SHA256_MESSAGE_BYTES
        memcpy(state + 40, self.stream.tail, tail)
        self.release()
        return PyBytes_FromStringAndSize(<char *>state, 40 + tail)

    @classmethod
    def load(cls, state):
        cdef bytes raw = bytes(memoryview(state))
        cdef const uint8_t *source = <const uint8_t *>PyBytes_AsString(raw)
        cdef uint64_t length
        cdef int i
        if len(raw) < STATE_BYTES:
            raise ValueError(f"a midstate has {STATE_BYTES} bytes or more, not {len(raw)}")
        length = load_word(source + 32) | <uint64_t>load_word(source + 36) << 32
        if length > LENGTH_MAX or len(raw) != STATE_BYTES + length % SHA256_MESSAGE_BYTES:
            raise ValueError(f"{len(raw)} bytes are no midstate after {length} bytes")
        cdef Sha256 loaded = cls()
        for i in range(SHA256_WORDS):
            loaded.stream.words[i] = load_word(source + 4 * i)
        loaded.stream.length = length
        memcpy(loaded.stream.tail, source + 40, length % SHA256_MESSAGE_BYTES)
        return loaded


cdef int take_both(Sha256 a, Sha256 b) except -1:
    if a is b:
        raise ValueError("a pair needs two hashes: the bytes of one have an order")
    a.take()
    try:
        b.take()
    except RuntimeError:
        a.release()
        raise
    return 0


def sha256_pair(Sha256 a not None, data_a, Sha256 b not None, data_b):
    cdef Py_buffer view_a
    cdef Py_buffer view_b
    take_bytes(data_a, &view_a)
    try:
        take_bytes(data_b, &view_b)
        try:
            take_both(a, b)
            try:
                a.check_room(view_a.len)
                b.check_room(view_b.len)
                with nogil:
                    sha256_update_pair(
                        &a.stream, <const uint8_t *>view_a.buf, view_a.len,
                        &b.stream, <const uint8_t *>view_b.buf, view_b.len,
                    )
            finally:
                a.release()
                b.release()
        finally:
            PyBuffer_Release(&view_b)
    finally:
        PyBuffer_Release(&view_a)


def sha256_pair_files(Sha256 a not None, fd_a, offset_a, Sha256 b not None, fd_b, offset_b, length):
    cdef int descriptor_a = index(fd_a)
    cdef int descriptor_b = index(fd_b)
    cdef int error
    cdef uint64_t taken = 0
    offset_a, offset_b, length = index(offset_a), index(offset_b), index(length)
    check_range(offset_a, length)
    check_range(offset_b, length)
    cdef uint64_t start_a = offset_a
    cdef uint64_t start_b = offset_b
    cdef uint64_t wanted = length
    cdef void *buffer
    take_both(a, b)
    try:
        a.check_room(length)
        b.check_room(length)
        buffer = new_buffer()
        with nogil:
            error = sha256_update_pair_files(
                &a.stream, descriptor_a, start_a, &b.stream, descriptor_b, start_b,
                wanted, <uint8_t *>buffer, READ_BUFFER_BYTES, &taken,
            )
            free(buffer)
    finally:
        a.release()
        b.release()
    if error:
        raise OSError(error, os.strerror(error))
    return taken
