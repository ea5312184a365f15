/* The C entry points with inputs of every length and split, in buffers of exactly that length: under AddressSanitizer a byte read or written
 * beyond them ends the run. All kernels must agree with the portable ones, streams with one shot, pairs with one after the other, files with
 * memory. Usage: fuzz SEED CASES; says the seed of a case that fails. Run by sanitize.sh.
 */
#include "blake3.h"
#include "sha256.h"
#include "sink.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES_MAX (40 * 1024)
#define BLAKE3_BYTES_MAX (80 * 1024) /* so that parents fill the widest kernel, too */
#define FILE_OFFSET_MAX (1ull << 40)

static uint64_t dice_state, case_seed;

/* xorshift64*: good enough to choose lengths. */
static uint64_t dice(void) {
    dice_state ^= dice_state >> 12;
    dice_state ^= dice_state << 25;
    dice_state ^= dice_state >> 27;
    return dice_state * 0x2545f4914f6cdd1d;
}

static size_t below(size_t bound) { return bound ? (size_t)(dice() >> 16) % bound : 0; }

/* Lengths near what matters: messages, chunks, blocks; and any other. */
static size_t some_length(size_t most) {
    static const size_t units[] = {1, 64, 1024, 4096, 16 * 1024};
    size_t length = below(4) ? units[below(5)] * below(36) + below(3) : below(most + 1);
    if (length && !below(3))
        length--;
    return length > most ? most : length;
}

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "fuzz: case %llu: ", (unsigned long long)case_seed);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

/* malloc of exactly so many bytes, one for none: a red zone begins right behind. */
static uint8_t *exactly(size_t bytes) {
    uint8_t *room = malloc(bytes ? bytes : 1);
    if (!room)
        abort();
    return room;
}

static uint8_t *some_bytes(size_t bytes) {
    uint8_t *data = exactly(bytes);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(dice() >> 56);
    return data;
}

static void same(const uint8_t *a, const uint8_t *b, size_t bytes, const char *what, const char *kernel) {
    if (memcmp(a, b, bytes))
        fail("%s differs with the kernel %s", what, kernel);
}

static size_t count_blocks(size_t bytes, size_t block) { return bytes / block + (bytes % block != 0); }

/* Everything that BLAKE3 says of one input, by the kernel in use. */
struct answers {
    uint8_t root[BLAKE3_CV_BYTES], merged[BLAKE3_CV_BYTES];
    uint8_t *cvs;
};

static void ask_blake3(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t offset, size_t block,
                       struct answers *answers) {
    size_t count = count_blocks(bytes, block);
    blake3_root(mode, data, bytes, answers->root);
    answers->cvs = exactly(count * BLAKE3_CV_BYTES);
    blake3_blocks(mode, data, bytes, offset, block, answers->cvs);
    memset(answers->merged, 0, sizeof answers->merged);
    if (count > 1) {
        uint8_t *scratch = exactly(count * BLAKE3_CV_BYTES);
        memcpy(scratch, answers->cvs, count * BLAKE3_CV_BYTES);
        blake3_merge_root(mode, scratch, count, answers->merged);
        free(scratch);
        if (offset == 0)
            same(answers->root, answers->merged, BLAKE3_CV_BYTES, "the root from blocks", blake3_kernel_active());
    }
}

static void stream_blake3(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t offset, size_t block,
                          const struct answers *expected) {
    struct blake3_stream *stream = (struct blake3_stream *)exactly(sizeof *stream);
    blake3_stream_init(stream, mode, offset, block);
    uint8_t *cvs = exactly(count_blocks(bytes, block) * BLAKE3_CV_BYTES), *next = cvs;
    for (size_t taken = 0; taken < bytes;) {
        size_t piece = some_length(bytes - taken), complete = blake3_stream_completes(stream, piece);
        uint8_t *copy = exactly(piece), *room = exactly(complete * BLAKE3_CV_BYTES);
        memcpy(copy, data + taken, piece);
        blake3_stream_update(stream, copy, piece, room);
        memcpy(next, room, complete * BLAKE3_CV_BYTES);
        next += complete * BLAKE3_CV_BYTES;
        taken += piece;
        free(copy);
        free(room);
    }
    uint8_t last[BLAKE3_CV_BYTES], root[BLAKE3_CV_BYTES];
    if (blake3_stream_finish(stream, last)) {
        memcpy(next, last, sizeof last);
        next += BLAKE3_CV_BYTES;
    }
    if ((size_t)(next - cvs) != count_blocks(bytes, block) * BLAKE3_CV_BYTES)
        fail("a stream of %zu bytes gave %td bytes of CVs", bytes, next - cvs);
    same(cvs, expected->cvs, (size_t)(next - cvs), "a streamed CV", blake3_kernel_active());
    if (offset == 0 && bytes <= block) {
        blake3_stream_root(stream, root);
        same(root, expected->root, sizeof root, "a streamed root", blake3_kernel_active());
    }
    free(cvs);
    free(stream);
}

/* Written, read back, and with one byte changed or the end cut off. */
static void through_a_file(int fd, const uint8_t *data, size_t bytes, uint64_t offset, size_t block, const uint8_t *expected) {
    size_t count = count_blocks(bytes, block), buffer_bytes = block < 4096 ? block : 4096;
    uint8_t *cvs = exactly(count * BLAKE3_CV_BYTES), *bad = exactly(count), *buffer = exactly(buffer_bytes);
    if (ftruncate(fd, 0) || block_sink_write(fd, offset, data, bytes, block, cvs))
        fail("a file could not be written");
    same(cvs, expected, count * BLAKE3_CV_BYTES, "a written CV", blake3_kernel_active());
    memset(bad, 0, count);
    size_t changed = below(bytes);
    if (bytes) {
        uint8_t byte = data[changed] ^ 0x40;
        if (pwrite(fd, &byte, 1, (off_t)(offset + changed)) != 1)
            fail("a file could not be changed");
    }
    if (block_scan_file(fd, offset, bytes, cvs, block, buffer, buffer_bytes, bad))
        fail("a file could not be scanned");
    for (size_t i = 0; i < count; i++)
        if (bad[i] != (i == changed / block))
            fail("block %zu of %zu: bad is %d, byte %zu was changed", i, count, bad[i], changed);
    free(cvs);
    free(bad);
    free(buffer);
}

static void try_blake3(int fd) {
    size_t bytes = some_length(BLAKE3_BYTES_MAX), block = (size_t)1024 << below(7);
    /* Counters of more than 32 bits, too. */
    uint64_t offset = below(2) ? 0 : (dice() >> (2 + below(60))) / block * block;
    uint8_t *data = some_bytes(bytes), *key = some_bytes(32);
    struct blake3_mode mode;
    bool keyed = below(3) == 0;
    blake3_mode_init(&mode, keyed ? key : NULL);
    struct answers portable;
    blake3_kernel_choose("portable");
    ask_blake3(&mode, data, bytes, offset, block, &portable);
    for (size_t i = 0; blake3_kernel_name(i); i++) {
        const char *kernel = blake3_kernel_name(i);
        blake3_kernel_choose(kernel);
        struct answers wide;
        ask_blake3(&mode, data, bytes, offset, block, &wide);
        same(wide.root, portable.root, BLAKE3_CV_BYTES, "a root", kernel);
        same(wide.merged, portable.merged, BLAKE3_CV_BYTES, "a merged root", kernel);
        same(wide.cvs, portable.cvs, count_blocks(bytes, block) * BLAKE3_CV_BYTES, "a CV", kernel);
        stream_blake3(&mode, data, bytes, offset, block, &portable);
        if (!keyed && offset < FILE_OFFSET_MAX)
            through_a_file(fd, data, bytes, offset, block, portable.cvs);
        free(wide.cvs);
    }
    free(portable.cvs);
    free(data);
    free(key);
}

static void digest_in_pieces(const uint8_t *data, size_t bytes, uint8_t digest[SHA256_DIGEST_BYTES]) {
    struct sha256_stream stream;
    sha256_init(&stream);
    for (size_t taken = 0; taken < bytes;) {
        size_t piece = some_length(bytes - taken);
        uint8_t *copy = exactly(piece);
        memcpy(copy, data + taken, piece);
        sha256_update(&stream, copy, piece);
        free(copy);
        taken += piece;
    }
    sha256_digest(&stream, digest);
}

static void try_sha256(int fd) {
    size_t bytes_a = some_length(BYTES_MAX), bytes_b = some_length(BYTES_MAX);
    uint8_t *a = some_bytes(bytes_a), *b = some_bytes(bytes_b);
    uint8_t right_a[SHA256_DIGEST_BYTES], right_b[SHA256_DIGEST_BYTES], digest[SHA256_DIGEST_BYTES];
    sha256_kernel_choose("portable");
    digest_in_pieces(a, bytes_a, right_a);
    digest_in_pieces(b, bytes_b, right_b);
    for (size_t i = 0; sha256_kernel_name(i); i++) {
        const char *kernel = sha256_kernel_name(i);
        sha256_kernel_choose(kernel);
        digest_in_pieces(a, bytes_a, digest);
        same(digest, right_a, sizeof digest, "a SHA-256", kernel);

        struct sha256_stream one, other;
        sha256_init(&one);
        sha256_init(&other);
        size_t before_a = below(bytes_a + 1), before_b = below(bytes_b + 1);
        sha256_update(&one, a, before_a);
        sha256_update_pair(&one, a + before_a, bytes_a - before_a, &other, b, before_b);
        sha256_update(&other, b + before_b, bytes_b - before_b);
        sha256_digest(&one, digest);
        same(digest, right_a, sizeof digest, "the first of two SHA-256", kernel);
        sha256_digest(&other, digest);
        same(digest, right_b, sizeof digest, "the second of two SHA-256", kernel);

        /* Both out of one file, the second behind the first; buffers so small that there are several reads. */
        size_t buffer_bytes = 2 * (1 + below(3000));
        uint8_t *buffer = exactly(buffer_bytes);
        uint64_t taken, common = bytes_a < bytes_b ? bytes_a : bytes_b;
        if (ftruncate(fd, 0) || block_sink_write_plain(fd, 0, a, bytes_a) || block_sink_write_plain(fd, bytes_a, b, bytes_b))
            fail("a file could not be written");
        sha256_init(&one);
        sha256_init(&other);
        /* Asked for more, both stop where the second file ends. */
        uint64_t wanted = bytes_a > bytes_b ? bytes_a : common;
        if (sha256_update_pair_files(&one, fd, 0, &other, fd, bytes_a, wanted, buffer, buffer_bytes, &taken) || taken != common)
            fail("a pair took %llu of %llu bytes", (unsigned long long)taken, (unsigned long long)common);
        if (sha256_update_file(&one, fd, common, bytes_a - common, buffer, buffer_bytes, &taken) || taken != bytes_a - common)
            fail("a file gave %llu bytes", (unsigned long long)taken);
        if (sha256_update_file(&other, fd, bytes_a + common, BYTES_MAX + 1, buffer, buffer_bytes, &taken) || taken != bytes_b - common)
            fail("a file that ends early gave %llu bytes", (unsigned long long)taken);
        sha256_digest(&one, digest);
        same(digest, right_a, sizeof digest, "the first file's SHA-256", kernel);
        sha256_digest(&other, digest);
        same(digest, right_b, sizeof digest, "the second file's SHA-256", kernel);
        free(buffer);
    }
    free(a);
    free(b);
}

/* Some blocks at once through the threads of the sink: each is written and journalled, and has the CV that one call says. */
static void try_sink(struct sink *sink, int fd) {
    enum { JOBS_MAX = 5 };
    const uint64_t journal = (uint64_t)JOBS_MAX * SINK_BLOCK_BYTES;
    struct sink_job jobs[JOBS_MAX];
    size_t count = 1 + below(JOBS_MAX);
    if (ftruncate(fd, 0))
        fail("a file could not be emptied");
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 1 + below(BYTES_MAX);
        bool closed = below(8) == 0;
        jobs[i] = (struct sink_job){.data = some_bytes(bytes), .bytes = bytes, .offset = i * SINK_BLOCK_BYTES,
                                    .journal_offset = journal + i * SINK_RECORD_BYTES, .fd = closed ? -1 : fd,
                                    .direct_fd = below(2) ? fd : -1, .journal_fd = below(4) ? fd : -1};
        if (closed)
            jobs[i].direct_fd = -1;
        if (!sink_submit(sink, &jobs[i]))
            fail("an open sink took no job");
    }
    size_t done = 0;
    while (done < count) {
        struct pollfd ready = {.fd = sink_event_fd(sink), .events = POLLIN};
        if (poll(&ready, 1, 20000) != 1)
            fail("%zu of %zu jobs did not come back", count - done, count);
        for (struct sink_job *job = sink_take(sink); job; job = job->next)
            done++;
    }
    struct blake3_mode mode;
    blake3_mode_init(&mode, NULL);
    for (size_t i = 0; i < count; i++) {
        struct sink_job *job = &jobs[i];
        uint8_t cv[BLAKE3_CV_BYTES], record[SINK_RECORD_BYTES], found[SINK_RECORD_BYTES];
        if ((job->fd < 0) != (job->error != 0) || job->stage != (job->fd < 0 ? SINK_DATA : SINK_DONE))
            fail("a job has error %d at stage %d", job->error, job->stage);
        if (!job->error) {
            uint8_t *back = exactly(job->bytes);
            blake3_blocks(&mode, job->data, job->bytes, job->offset, SINK_BLOCK_BYTES, cv);
            same(job->cv, cv, sizeof cv, "a CV of the sink", blake3_kernel_active());
            if (pread(fd, back, job->bytes, (off_t)job->offset) != (ssize_t)job->bytes || memcmp(back, job->data, job->bytes))
                fail("the sink wrote other bytes");
            free(back);
            sink_record(record, i, cv);
            if (job->journal_fd >= 0 && (pread(fd, found, sizeof found, (off_t)job->journal_offset) != (ssize_t)sizeof found ||
                                         memcmp(found, record, sizeof record)))
                fail("the sink wrote another record");
        }
        free((void *)job->data);
    }
    if (sink_pending(sink))
        fail("%zu jobs too many are pending", sink_pending(sink));
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fuzz SEED CASES\n");
        return 2;
    }
    uint64_t seed = strtoull(argv[1], NULL, 10), cases = strtoull(argv[2], NULL, 10);
    FILE *file = tmpfile();
    if (!file)
        fail("no temporary file");
    blake3_kernel_detect();
    sha256_kernel_detect();
    struct sink *sink;
    if (sink_open(&sink, 3, 2))
        fail("no sink");
    for (uint64_t i = 0; i < cases; i++) {
        case_seed = seed + i;
        dice_state = (case_seed + 1) * 0x9e3779b97f4a7c15;
        try_blake3(fileno(file));
        try_sha256(fileno(file));
        try_sink(sink, fileno(file));
    }
    sink_close(sink);
    sink_close_event(sink);
    sink_free(sink);
    fclose(file);
    printf("fuzz: %llu cases from seed %llu\n", (unsigned long long)cases, (unsigned long long)seed);
    return 0;
}
