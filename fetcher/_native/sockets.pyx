# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False, freethreading_compatible=True
"""One question about a socket, compiled: the promise is in sockets.pyi, its twin in pure_sockets.py.

poll(2) with no time to wait takes less than a microsecond, and the GIL is kept: giving it away on an event loop beside a
busy worker costs ten of them, or five milliseconds.
"""
import os
from operator import index

from libc.errno cimport EINTR, errno

cdef extern from "poll.h":
    struct pollfd:
        int fd
        short events
        short revents
    ctypedef unsigned long nfds_t
    int poll(pollfd *descriptors, nfds_t count, int timeout_ms)
    const short POLLIN


def has_news(descriptor):
    cdef pollfd asked
    cdef int found = -1
    cdef int error
    asked.fd = index(descriptor)
    if asked.fd < 0:  # poll(2) passes over it
        return True
    asked.events = POLLIN
    asked.revents = 0
    while found < 0:
        found = poll(&asked, 1, 0)
        error = errno
        if found < 0 and error != EINTR:
            raise OSError(error, os.strerror(error))
    return found > 0
