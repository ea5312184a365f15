# What sink.pyx uses of the C core; core/sink.h is the authority and says what each function promises.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

cdef extern from "core/blake3.h" nogil:
    enum:
        BLAKE3_CV_BYTES

    void blake3_kernel_detect()
    const char *blake3_kernel_active()
    bint blake3_kernel_choose(const char *name)

cdef extern from "core/sink.h" nogil:
    enum:
        SINK_BLOCK_BYTES
        SINK_THREADS_MAX
        SINK_DONE
        SINK_DATA
        SINK_JOURNAL

    struct sink_job:
        sink_job *next
        const uint8_t *data
        size_t bytes
        uint64_t offset
        uint64_t journal_offset
        int fd
        int direct_fd
        int journal_fd
        int error
        int stage
        uint8_t cv[BLAKE3_CV_BYTES]

    struct sink:
        pass

    int sink_open(sink **opened, unsigned threads, unsigned waiting)
    int sink_event_fd(const sink *sink)
    bint sink_submit(sink *sink, sink_job *job)
    sink_job *sink_take(sink *sink)
    size_t sink_pending(sink *sink)
    void sink_close(sink *sink)
    void sink_close_event(sink *sink)
    void sink_free(sink *sink)

    int sink_preallocate(int fd, uint64_t offset, uint64_t bytes)
