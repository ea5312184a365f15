/* What was just written, read back from the page cache into hashes: the work of the follower that trails a download. */
#include "file_read.h"
#include "sha256.h"

static size_t smaller(uint64_t a, size_t b) { return a < b ? (size_t)a : b; }

int sha256_update_file(struct sha256_stream *stream, int fd, uint64_t offset, uint64_t length, uint8_t *buffer, size_t buffer_bytes,
                       uint64_t *taken) {
    *taken = 0;
    while (*taken < length) {
        size_t wanted = smaller(length - *taken, buffer_bytes), got;
        int error = file_read(fd, offset + *taken, buffer, wanted, &got);
        if (error)
            return error;
        sha256_update(stream, buffer, got);
        *taken += got;
        if (got < wanted)
            break;
    }
    return 0;
}

int sha256_update_pair_files(struct sha256_stream *a, int fd_a, uint64_t offset_a, struct sha256_stream *b, int fd_b, uint64_t offset_b,
                             uint64_t length, uint8_t *buffer, size_t buffer_bytes, uint64_t *taken) {
    size_t half = buffer_bytes / 2;
    uint8_t *buffer_a = buffer, *buffer_b = buffer + half;
    *taken = 0;
    while (*taken < length) {
        size_t wanted = smaller(length - *taken, half), got_a, got_b;
        int error = file_read(fd_a, offset_a + *taken, buffer_a, wanted, &got_a);
        if (!error)
            error = file_read(fd_b, offset_b + *taken, buffer_b, wanted, &got_b);
        if (error)
            return error;
        /* Where one ends early both stop: their places stay equal, and who asked sees which one it was. */
        size_t got = got_a < got_b ? got_a : got_b;
        sha256_update_pair(a, buffer_a, got, b, buffer_b, got);
        *taken += got;
        if (got < wanted)
            break;
    }
    return 0;
}
