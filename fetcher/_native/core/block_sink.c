/* Blocks into a file: hash while the bytes are still in the cache, then write.
 *
 * A block that was hashed but not written is harmless, as nobody has its CV yet; the reverse order would read the bytes twice.
 */
#include "blake3.h"

#include <errno.h>
#include <unistd.h>

int block_sink_write_plain(int fd, uint64_t offset, const uint8_t *data, size_t bytes) {
    while (bytes) {
        ssize_t written = pwrite(fd, data, bytes, (off_t)offset);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        /* POSIX leaves "nothing written, no error" open; asking again might never end. */
        if (written == 0)
            return EIO;
        data += written;
        offset += (uint64_t)written;
        bytes -= (size_t)written;
    }
    return 0;
}

int block_sink_write(int fd, uint64_t offset, const uint8_t *data, size_t bytes, size_t block_bytes, uint8_t *cvs) {
    struct blake3_mode mode;
    blake3_mode_init(&mode, NULL);
    /* An empty write still asks the kernel, so that a closed descriptor is an error for it, too. */
    if (!bytes)
        return pwrite(fd, "", 0, (off_t)offset) < 0 ? errno : 0;
    while (bytes) {
        size_t taken = bytes < block_bytes ? bytes : block_bytes;
        blake3_blocks(&mode, data, taken, offset, block_bytes, cvs);
        int error = block_sink_write_plain(fd, offset, data, taken);
        if (error)
            return error;
        data += taken;
        offset += taken;
        bytes -= taken;
        cvs += BLAKE3_CV_BYTES;
    }
    return 0;
}
