# What sha256.pyx uses of the C core; core/sha256.h is the authority and says what each function promises.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "core/sha256.h" nogil:
    enum:
        SHA256_MESSAGE_BYTES
        SHA256_DIGEST_BYTES
        SHA256_WORDS

    struct sha256_stream:
        uint32_t words[8]
        uint64_t length
        uint8_t tail[64]

    void sha256_kernel_detect()
    const char *sha256_kernel_name(size_t index)
    const char *sha256_kernel_active()
    bint sha256_kernel_choose(const char *name)

    void sha256_init(sha256_stream *stream)
    void sha256_update(sha256_stream *stream, const uint8_t *data, size_t bytes)
    void sha256_update_pair(sha256_stream *a, const uint8_t *data_a, size_t bytes_a,
                            sha256_stream *b, const uint8_t *data_b, size_t bytes_b)
    void sha256_digest(const sha256_stream *stream, uint8_t *digest)
    int sha256_update_file(sha256_stream *stream, int fd, uint64_t offset, uint64_t length,
                           uint8_t *buffer, size_t buffer_bytes, uint64_t *taken)
    int sha256_update_pair_files(sha256_stream *a, int fd_a, uint64_t offset_a, sha256_stream *b, int fd_b, uint64_t offset_b,
                                 uint64_t length, uint8_t *buffer, size_t buffer_bytes, uint64_t *taken)

cdef extern from "core/bytes.h" nogil:
    uint32_t load_word(const uint8_t *source)
    void store_word(uint8_t *target, uint32_t word)

cdef extern from "core/busy.h" nogil:
    bint busy_take(unsigned char *flag)
    void busy_release(unsigned char *flag)
