/* One block: its chaining value while the bytes are in the cache, the bytes at their offset, then the record that says so.
 *
 * In this order: a record must never be there before its bytes. Each record has a place of its own, so one that fails harms no other.
 */
#include "sink.h"

#include "bytes.h"

#include <errno.h>

#define KIND_BLOCK 1

/* CRC-32 as zlib has it, four bits at a time: a record has 44 bytes, a larger table would cost more in cache misses than it saves. */
static uint32_t crc32_add(uint32_t crc, const uint8_t *data, size_t bytes) {
    static const uint32_t nibbles[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return crc;
}

void sink_record(uint8_t record[SINK_RECORD_BYTES], uint64_t block, const uint8_t cv[BLAKE3_CV_BYTES]) {
    store_word(record, KIND_BLOCK);
    store_word(record + 8, (uint32_t)block);
    store_word(record + 12, (uint32_t)(block >> 32));
    memcpy(record + 16, cv, BLAKE3_CV_BYTES);
    uint32_t crc = crc32_add(UINT32_MAX, record, 4);
    crc = crc32_add(crc, record + 8, SINK_RECORD_BYTES - 8);
    store_word(record + 4, ~crc);
}

bool sink_waits(const struct sink_job *job) {
    return job->direct_fd >= 0 && job->bytes % SINK_DIRECT_BYTES == 0 && (uintptr_t)job->data % SINK_DIRECT_BYTES == 0;
}

static int write_data(const struct sink_job *job) {
    if (sink_waits(job)) {
        int error = block_sink_write_plain(job->direct_fd, job->offset, job->data, job->bytes);
        /* A disk with larger sectors, a rest after a short write: nothing is wrong with the bytes. */
        if (error != EINVAL)
            return error;
    }
    return block_sink_write_plain(job->fd, job->offset, job->data, job->bytes);
}

void sink_hash(struct sink_job *job) {
    struct blake3_mode mode;
    blake3_mode_init(&mode, NULL);
    blake3_blocks(&mode, job->data, job->bytes, job->offset, SINK_BLOCK_BYTES, job->cv);
}

void sink_write(struct sink_job *job) {
    job->stage = SINK_DATA;
    job->error = write_data(job);
    if (job->error)
        return;
    if (job->journal_fd >= 0) {
        uint8_t record[SINK_RECORD_BYTES];
        sink_record(record, job->offset / SINK_BLOCK_BYTES, job->cv);
        job->stage = SINK_JOURNAL;
        job->error = block_sink_write_plain(job->journal_fd, job->journal_offset, record, sizeof record);
        if (job->error)
            return;
    }
    job->stage = SINK_DONE;
}
