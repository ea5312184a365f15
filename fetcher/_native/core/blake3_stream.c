/* A run of blocks that arrives in pieces of any size, in order.
 *
 * Sockets do not deliver multiples of a chunk. Pieces are staged up to the next full load of the widest kernel, or to the end of the
 * block, so that no narrow call happens in mid-stream. All else is blake3_tree.c's work.
 */
#include "blake3.h"

#include <string.h>

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

void blake3_stream_init(struct blake3_stream *stream, const struct blake3_mode *mode, uint64_t offset, size_t block_bytes) {
    stream->mode = *mode;
    stream->offset = offset;
    stream->length = 0;
    stream->block_bytes = block_bytes;
    stream->block_filled = 0;
    stream->staged_bytes = 0;
    blake3_tree_open(&stream->tree, mode, offset);
}

size_t blake3_stream_completes(const struct blake3_stream *stream, size_t bytes) {
    size_t missing = stream->block_bytes - stream->block_filled;
    return bytes < missing ? 0 : 1 + (bytes - missing) / stream->block_bytes;
}

/* `bytes` never cross the end of the block under way. */
static void feed_block(struct blake3_stream *stream, const uint8_t *data, size_t bytes) {
    stream->block_filled += bytes;
    bool block_full = stream->block_filled == stream->block_bytes;
    if (stream->staged_bytes) {
        size_t taken = smaller(bytes, BLAKE3_STAGING_BYTES - stream->staged_bytes);
        memcpy(stream->staging + stream->staged_bytes, data, taken);
        stream->staged_bytes += taken;
        data += taken;
        bytes -= taken;
        if (stream->staged_bytes == BLAKE3_STAGING_BYTES || (block_full && !bytes)) {
            blake3_tree_add_chunks(&stream->tree, stream->staging, stream->staged_bytes / BLAKE3_CHUNK_BYTES);
            stream->staged_bytes = 0;
        }
    }
    size_t direct = block_full ? bytes : bytes - bytes % BLAKE3_STAGING_BYTES;
    blake3_tree_add_chunks(&stream->tree, data, direct / BLAKE3_CHUNK_BYTES);
    size_t rest = bytes - direct;
    if (rest) {
        memcpy(stream->staging, data + direct, rest);
        stream->staged_bytes = rest;
    }
}

void blake3_stream_update(struct blake3_stream *stream, const uint8_t *data, size_t bytes, uint8_t *cvs) {
    if (bytes && stream->length < BLAKE3_CHUNK_BYTES) {
        size_t kept = (size_t)stream->length;
        memcpy(stream->first_chunk + kept, data, smaller(bytes, BLAKE3_CHUNK_BYTES - kept));
    }
    while (bytes) {
        size_t taken = smaller(bytes, stream->block_bytes - stream->block_filled);
        feed_block(stream, data, taken);
        stream->length += taken;
        data += taken;
        bytes -= taken;
        if (stream->block_filled == stream->block_bytes) {
            blake3_tree_close(&stream->tree, cvs);
            cvs += BLAKE3_CV_BYTES;
            /* Opening the next subtree leaves `top` alone: the run may end here, as a file of exactly one block. */
            blake3_tree_open(&stream->tree, &stream->mode, stream->offset + stream->length);
            stream->block_filled = 0;
        }
    }
}

bool blake3_stream_finish(struct blake3_stream *stream, uint8_t cv[BLAKE3_CV_BYTES]) {
    if (stream->block_filled == 0)
        return false;
    blake3_tree_add(&stream->tree, stream->staging, stream->staged_bytes);
    stream->staged_bytes = 0;
    blake3_tree_close(&stream->tree, cv);
    stream->block_filled = 0;
    return true;
}

void blake3_stream_root(const struct blake3_stream *stream, uint8_t root[BLAKE3_CV_BYTES]) {
    if (stream->length <= BLAKE3_CHUNK_BYTES)
        blake3_chunk(&stream->mode, stream->first_chunk, (size_t)stream->length, 0, BLAKE3_ROOT, root);
    else
        blake3_tree_root(&stream->tree, root);
}
