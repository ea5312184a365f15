/* SHA-256 (FIPS 180-4): the interface of the C core.
 *
 * Origins state it of whole contents, and it can't be computed out of order. Two things make up for that: a hash under way is a plain
 * value that can be kept and gone on with, and two of them run side by side on one core at up to twice the speed of one, because one
 * alone waits for its own last round half of the time.
 *
 * A *message* here is the standard's 64-byte block, since a *block* in this project is a piece of a file. The caller has checked every
 * argument. Nothing here allocates, locks or fails, except the functions that read files.
 */
#ifndef FETCHER_SHA256_H
#define FETCHER_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHA256_MESSAGE_BYTES 64
#define SHA256_DIGEST_BYTES 32
#define SHA256_WORDS 8
#define SHA256_ROUNDS 64

/* ---- sha256_kernel.c: which kernel runs ---------------------------------------------------------------------------------------------- */

typedef void sha256_one_function(uint32_t words[SHA256_WORDS], const uint8_t *data, size_t messages);
typedef void sha256_two_function(uint32_t words_a[SHA256_WORDS], const uint8_t *data_a, uint32_t words_b[SHA256_WORDS],
                                 const uint8_t *data_b, size_t messages);

struct sha256_kernel {
    const char *name;
    sha256_one_function *one;
    sha256_two_function *two;
};

/* sha256_portable.c: the standard in plain C, correct everywhere, the measure of the others. */
extern const struct sha256_kernel sha256_portable;
/* The round constants: first 32 bits of the fractions of the cube roots of the first 64 primes (4.2.2). */
extern const uint32_t sha256_constants[SHA256_ROUNDS] __attribute__((visibility("hidden"))); /* else each is reached by way of a table */

/* Looks at the CPU and puts its instructions for SHA-256 to work, if it has any. Once, before the first hash. */
void sha256_kernel_detect(void);
/* The kernels this CPU can run, fastest first, "portable" last; NULL past the end. */
const char *sha256_kernel_name(size_t index);
const char *sha256_kernel_active(void);
/* False when there is no kernel of that name here. */
bool sha256_kernel_choose(const char *name);

/* Whole messages into one hash, and into two at once. */
void sha256_one(uint32_t words[SHA256_WORDS], const uint8_t *data, size_t messages);
void sha256_two(uint32_t words_a[SHA256_WORDS], const uint8_t *data_a, uint32_t words_b[SHA256_WORDS], const uint8_t *data_b,
                size_t messages);

/* ---- sha256_stream.c: a hash under way, fed in pieces of any size --------------------------------------------------------------------- */

struct sha256_stream {
    uint32_t words[SHA256_WORDS];
    uint64_t length;                    /* bytes taken */
    uint8_t tail[SHA256_MESSAGE_BYTES]; /* the last length % 64 of them */
};

void sha256_init(struct sha256_stream *stream);
void sha256_update(struct sha256_stream *stream, const uint8_t *data, size_t bytes);
/* Two different streams; as far as both have bytes, side by side. */
void sha256_update_pair(struct sha256_stream *a, const uint8_t *data_a, size_t bytes_a, struct sha256_stream *b, const uint8_t *data_b,
                        size_t bytes_b);
/* Of the bytes so far; the stream can go on. */
void sha256_digest(const struct sha256_stream *stream, uint8_t digest[SHA256_DIGEST_BYTES]);

/* ---- sha256_file.c: a file's bytes into hashes ---------------------------------------------------------------------------------------- */

/* Each takes `length` bytes from its offset on, by way of `buffer` (`buffer_bytes`, for the pair one half each); 0 or an errno. *taken is how
 * many bytes each stream took, less than `length` where a file ends or an error came: the streams then stand just behind them. */
int sha256_update_file(struct sha256_stream *stream, int fd, uint64_t offset, uint64_t length, uint8_t *buffer, size_t buffer_bytes,
                       uint64_t *taken);
int sha256_update_pair_files(struct sha256_stream *a, int fd_a, uint64_t offset_a, struct sha256_stream *b, int fd_b, uint64_t offset_b,
                             uint64_t length, uint8_t *buffer, size_t buffer_bytes, uint64_t *taken);

#endif
