# What blake3.pyx uses of the C core; core/blake3.h is the authority and says what each function promises.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "core/blake3.h" nogil:
    enum:
        BLAKE3_CHUNK_BYTES
        BLAKE3_CV_BYTES

    struct blake3_mode:
        pass

    struct blake3_stream:
        uint64_t length

    void blake3_mode_init(blake3_mode *mode, const uint8_t *key)

    void blake3_kernel_detect()
    const char *blake3_kernel_name(size_t index)
    const char *blake3_kernel_active()
    bint blake3_kernel_choose(const char *name)

    void blake3_blocks(const blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t offset, size_t block_bytes, uint8_t *cvs)
    void blake3_root(const blake3_mode *mode, const uint8_t *data, size_t bytes, uint8_t *root)
    void blake3_merge_root(const blake3_mode *mode, uint8_t *cvs, size_t count, uint8_t *root)

    void blake3_stream_init(blake3_stream *stream, const blake3_mode *mode, uint64_t offset, size_t block_bytes)
    size_t blake3_stream_completes(const blake3_stream *stream, size_t bytes)
    void blake3_stream_update(blake3_stream *stream, const uint8_t *data, size_t bytes, uint8_t *cvs)
    bint blake3_stream_finish(blake3_stream *stream, uint8_t *cv)
    void blake3_stream_root(const blake3_stream *stream, uint8_t *root)

    int block_sink_write(int fd, uint64_t offset, const uint8_t *data, size_t bytes, size_t block_bytes, uint8_t *cvs)
    int block_scan_file(int fd, uint64_t offset, uint64_t length, const uint8_t *expected, size_t block_bytes,
                        uint8_t *buffer, size_t buffer_bytes, uint8_t *bad)

cdef extern from "core/busy.h" nogil:
    bint busy_take(unsigned char *flag)
    void busy_release(unsigned char *flag)
