# What both extensions do with their arguments before the C below them trusts its caller.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef enum:
    # Below this, handing the GIL over costs more than hashing (the same threshold as hashlib and the blake3 package).
    GIL_BYTES = 2048
    # Half of a common L2, for what is read from a file: hashed before it leaves the cache.
    READ_BUFFER_BYTES = 256 * 1024
    PAGE_BYTES = 4096


cdef inline int take_bytes(object data, Py_buffer *view) except -1:
    """A contiguous buffer of single bytes; the caller releases it."""
    PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
    if view.itemsize != 1:
        PyBuffer_Release(view)
        raise TypeError(f"data must be a buffer of single bytes, its items have {view.itemsize}")
    return 0
