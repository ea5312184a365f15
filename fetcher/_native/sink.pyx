# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False, freethreading_compatible=True
"""The block sink, compiled: the Python face of core/sink_*.c.

Every argument is checked here, with the GIL held; the C below trusts its caller, and its threads never take the GIL. This
module must not know what the bytes mean; its readable twin is plain_sink.py, its promises are in sink.pyi.
"""
import errno
import os
from operator import index  # a float is no descriptor, though C would take it

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdlib cimport calloc, free

from fetcher._native.arguments cimport PyBuffer_Release, take_bytes

cdef extern from "unistd.h" nogil:
    int getpid()

BLOCK_BYTES = SINK_BLOCK_BYTES
THREADS_MAX = SINK_THREADS_MAX
STAGE_DONE = SINK_DONE
STAGE_DATA = SINK_DATA
STAGE_JOURNAL = SINK_JOURNAL

cdef object FILE_BYTES_MAX = (1 << 63) - 1  # off_t

# Not errors of preallocation: the file system, or the kernel, has none.
cdef object NO_PREALLOCATION = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

blake3_kernel_detect()


def simd():
    return blake3_kernel_active().decode()


def set_simd(str name):
    if not blake3_kernel_choose(name.encode()):
        raise ValueError(f"no kernel {name!r} on this machine")


def preallocate(fd, size, *, offset=0):
    cdef int descriptor = index(fd)
    cdef int error
    size, offset = index(size), index(offset)
    if not 0 <= size <= FILE_BYTES_MAX:
        raise ValueError(f"size must be from 0 to 2**63 - 1, not {size}")
    if not 0 <= offset <= FILE_BYTES_MAX - size:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 less the size, not {offset}")
    if size == 0:
        return True  # fallocate(2) takes no empty range
    cdef uint64_t start = offset
    cdef uint64_t bytes_wanted = size
    with nogil:
        error = sink_preallocate(descriptor, start, bytes_wanted)
    if error in NO_PREALLOCATION:
        return False
    if error:
        raise OSError(error, os.strerror(error))
    return True


cdef struct submission:
    sink_job job  # first: the core gives back a pointer to it
    Py_buffer view
    PyObject *token


cdef class BlockSink:
    cdef sink *core
    cdef int owner
    cdef bint closed

    def __cinit__(self, threads, *, waiting=0):
        threads, waiting = index(threads), index(waiting)
        if not 1 <= threads <= SINK_THREADS_MAX:
            raise ValueError(f"threads must be from 1 to {SINK_THREADS_MAX}, not {threads}")
        if not 0 <= waiting <= SINK_THREADS_MAX:
            raise ValueError(f"waiting must be from 0 to {SINK_THREADS_MAX}, not {waiting}")
        self.owner = getpid()
        cdef int error = sink_open(&self.core, threads, waiting)
        if error:
            raise OSError(error, os.strerror(error))

    def __dealloc__(self):
        if self.core == NULL:
            return
        if getpid() != self.owner:
            # Its threads are not here, and what they had in hand when we were forked nobody can tell.
            sink_close_event(self.core)
            return
        self.finish()
        self.take(None)
        sink_free(self.core)

    cdef void finish(self):
        """Ends the threads, once."""
        if not self.closed:
            self.closed = True
            with nogil:
                sink_close(self.core)
            sink_close_event(self.core)

    cdef void take(self, list completed):
        """Lets go of all that is done, and lists it unless that is None."""
        cdef sink_job *job = sink_take(self.core)
        cdef sink_job *following
        cdef submission *taken
        while job != NULL:
            following = job.next
            taken = <submission *>job
            token = <object>taken.token
            Py_DECREF(token)
            PyBuffer_Release(&taken.view)
            if completed is not None:
                cv = b"" if job.stage == SINK_DATA else PyBytes_FromStringAndSize(<char *>job.cv, BLAKE3_CV_BYTES)
                completed.append((token, cv, job.error, job.stage))
            free(taken)
            job = following

    cdef int check_process(self) except -1:
        if getpid() != self.owner:
            raise RuntimeError("this BlockSink belongs to the process that made it, not to a child of it")
        return 0

    def fileno(self):
        if self.closed:
            raise ValueError("this BlockSink is closed")
        return sink_event_fd(self.core)

    @property
    def pending(self):
        self.check_process()
        return sink_pending(self.core)

    def submit(self, token, fd, offset, view, journal_fd, journal_offset, *, direct_fd=-1):
        cdef int data_descriptor = index(fd)
        cdef int journal_descriptor = index(journal_fd)
        cdef int direct_descriptor = index(direct_fd)
        self.check_process()
        offset, journal_offset = index(offset), index(journal_offset)
        if not 0 <= offset <= FILE_BYTES_MAX - SINK_BLOCK_BYTES:
            raise ValueError(f"offset must be from 0 to 2**63 - 1 less a block, not {offset}")
        if offset % SINK_BLOCK_BYTES:
            raise ValueError(f"offset must be a multiple of the block, {offset} is not one of {SINK_BLOCK_BYTES}")
        if not 0 <= journal_offset <= FILE_BYTES_MAX - SINK_BLOCK_BYTES:
            raise ValueError(f"journal_offset must be from 0 to 2**63 - 1 less a block, not {journal_offset}")
        cdef submission *made = <submission *>calloc(1, sizeof(submission))
        if made == NULL:
            raise MemoryError
        try:
            take_bytes(view, &made.view)
        except BaseException:
            free(made)
            raise
        try:
            if not 0 < made.view.len <= SINK_BLOCK_BYTES:
                raise ValueError(f"a block has from 1 to {SINK_BLOCK_BYTES} bytes, not {made.view.len}")
            made.job.data = <const uint8_t *>made.view.buf
            made.job.bytes = made.view.len
            made.job.offset = offset
            made.job.journal_offset = journal_offset
            made.job.fd = data_descriptor
            made.job.journal_fd = journal_descriptor
            made.job.direct_fd = direct_descriptor
            made.token = <PyObject *>token
            Py_INCREF(token)
            if not sink_submit(self.core, &made.job):
                Py_DECREF(token)
                raise ValueError("this BlockSink is closed")
        except BaseException:
            PyBuffer_Release(&made.view)
            free(made)
            raise

    def completions(self):
        cdef list completed = []
        self.check_process()
        self.take(completed)
        return completed

    def close(self):
        if getpid() == self.owner:
            self.finish()
