/* Blocks of a file against the CVs they should have: the work of resume, scrub and repair.
 *
 * The file may be changing or damaged; what cannot be read because the file ends early is a bad block, what the kernel refuses to read is
 * an error.
 */
#include "blake3.h"
#include "file_read.h"

#include <string.h>

/* Reads and hashes one block of `bytes`; *bad becomes 1 when it is short or its CV is another one. */
static int scan_block(int fd, const struct blake3_mode *mode, uint64_t offset, size_t bytes, const uint8_t *expected, uint8_t *buffer,
                      size_t buffer_bytes, uint8_t *bad) {
    struct blake3_tree tree;
    blake3_tree_open(&tree, mode, offset);
    *bad = 1;
    while (bytes) {
        size_t taken = bytes < buffer_bytes ? bytes : buffer_bytes;
        size_t got;
        int error = file_read(fd, offset, buffer, taken, &got);
        if (error || got < taken)
            return error;
        blake3_tree_add(&tree, buffer, taken);
        offset += taken;
        bytes -= taken;
    }
    uint8_t cv[BLAKE3_CV_BYTES];
    blake3_tree_close(&tree, cv);
    *bad = memcmp(cv, expected, BLAKE3_CV_BYTES) != 0;
    return 0;
}

int block_scan_file(int fd, uint64_t offset, uint64_t length, const uint8_t *expected, size_t block_bytes, uint8_t *buffer,
                    size_t buffer_bytes, uint8_t *bad) {
    struct blake3_mode mode;
    blake3_mode_init(&mode, NULL);
    while (length) {
        size_t taken = length < block_bytes ? (size_t)length : block_bytes;
        int error = scan_block(fd, &mode, offset, taken, expected, buffer, buffer_bytes, bad);
        if (error)
            return error;
        offset += taken;
        length -= taken;
        expected += BLAKE3_CV_BYTES;
        bad++;
    }
    return 0;
}
