# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False, freethreading_compatible=True
"""Many small files at once, compiled: the Python face of core/files_many.c.

Every argument is checked here, with the GIL held, which is then dropped once for all files of a call. This module must not
know what the files mean; its readable twin is pure_files.py, its promises are in files.pyi.
"""
import os
from operator import index

from cpython.bytes cimport PyBytes_AsString
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from fetcher._native.arguments cimport PyBuffer_Release, take_bytes

cdef extern from "core/files_many.h" nogil:
    struct file_content:
        const uint8_t *data
        size_t bytes
    int files_write(int folder, const char *const *names, const file_content *contents, size_t count, unsigned int mode,
                    size_t *failed)
    void files_link(int source, const char *const *names, int target, const char *const *targets, size_t count, int *errors)
    void files_look(int folder, const char *const *names, size_t count, int64_t *sizes)
    void files_unlink(int folder, const char *const *names, size_t count, int *errors)
    void files_make_directories(int folder, const char *const *names, size_t count, unsigned int mode, unsigned int group,
                                int *errors)


cdef list checked_names(object names):
    cdef list listed = list(names)
    for name in listed:
        if type(name) is not bytes:
            raise TypeError(f"a name must be bytes, not {type(name).__name__}")
        if not name or b"\0" in name:
            raise ValueError("a name is neither empty nor has it a null byte")
    return listed


cdef void *new_array(size_t count, size_t item_bytes) except NULL:
    cdef void *array = calloc(count + 1, item_bytes)
    if array is NULL:
        raise MemoryError
    return array


cdef const char **pointers(list names) except NULL:
    """To the bytes of `names`, which own them."""
    cdef const char **array = <const char **>new_array(len(names), sizeof(char *))
    cdef Py_ssize_t position
    for position in range(len(names)):
        array[position] = PyBytes_AsString(names[position])
    return array


def write_files(folder, names, contents, mode):
    cdef int descriptor = index(folder)
    cdef unsigned int bits = index(mode)
    cdef list listed = checked_names(names)
    cdef list bodies = list(contents)
    cdef size_t count = len(listed)
    cdef size_t failed = 0
    cdef size_t taken = 0
    cdef int error = 0
    cdef const char **texts = NULL
    cdef file_content *pieces = NULL
    cdef Py_buffer *views = NULL
    if len(bodies) != len(listed):
        raise ValueError(f"{len(listed)} names for {len(bodies)} contents")
    try:
        texts = pointers(listed)
        pieces = <file_content *>new_array(count, sizeof(file_content))
        views = <Py_buffer *>new_array(count, sizeof(Py_buffer))
        while taken < count:
            take_bytes(bodies[taken], &views[taken])
            pieces[taken].data = <const uint8_t *>views[taken].buf
            pieces[taken].bytes = views[taken].len
            taken += 1
        with nogil:
            error = files_write(descriptor, texts, pieces, count, bits, &failed)
    finally:
        while taken > 0:
            taken -= 1
            PyBuffer_Release(&views[taken])
        free(views)
        free(pieces)
        free(texts)
    if error:
        raise OSError(error, os.strerror(error), os.fsdecode(listed[failed]))


def link_files(source, names, target, targets):
    cdef int source_descriptor = index(source)
    cdef int target_descriptor = index(target)
    cdef list listed = checked_names(names)
    cdef list wanted = checked_names(targets)
    cdef size_t count = len(listed)
    cdef const char **texts = NULL
    cdef const char **target_texts = NULL
    cdef int *errors = NULL
    if len(wanted) != len(listed):
        raise ValueError(f"{len(listed)} names for {len(wanted)} targets")
    try:
        texts = pointers(listed)
        target_texts = pointers(wanted)
        errors = <int *>new_array(count, sizeof(int))
        with nogil:
            files_link(source_descriptor, texts, target_descriptor, target_texts, count, errors)
        return [errors[position] for position in range(count)]
    finally:
        free(errors)
        free(target_texts)
        free(texts)


def look_for_files(folder, names):
    cdef int descriptor = index(folder)
    cdef list listed = checked_names(names)
    cdef size_t count = len(listed)
    cdef const char **texts = NULL
    cdef int64_t *sizes = NULL
    try:
        texts = pointers(listed)
        sizes = <int64_t *>new_array(count, sizeof(int64_t))
        with nogil:
            files_look(descriptor, texts, count, sizes)
        return [sizes[position] for position in range(count)]
    finally:
        free(sizes)
        free(texts)


def unlink_files(folder, names):
    cdef int descriptor = index(folder)
    cdef list listed = checked_names(names)
    cdef size_t count = len(listed)
    cdef const char **texts = NULL
    cdef int *errors = NULL
    try:
        texts = pointers(listed)
        errors = <int *>new_array(count, sizeof(int))
        with nogil:
            files_unlink(descriptor, texts, count, errors)
        return [errors[position] for position in range(count)]
    finally:
        free(errors)
        free(texts)


def make_directories(folder, names, mode, group=None):
    cdef int descriptor = index(folder)
    cdef unsigned int bits = index(mode)
    cdef unsigned int owning = <unsigned int>-1 if group is None else index(group)
    cdef list listed = checked_names(names)
    cdef size_t count = len(listed)
    cdef const char **texts = NULL
    cdef int *errors = NULL
    try:
        texts = pointers(listed)
        errors = <int *>new_array(count, sizeof(int))
        with nogil:
            files_make_directories(descriptor, texts, count, bits, owning, errors)
        return [errors[position] for position in range(count)]
    finally:
        free(errors)
        free(texts)
