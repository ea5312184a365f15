/* The compression function (paper 2.2) in plain words, and the two nodes of the tree made with it: the chunk (2.4) and the parent (2.5).
 *
 * Only the first half of the function's output is computed: a CV is 32 bytes, and so is every root this project stores.
 */
#include "blake3.h"
#include "blake3_rounds.h"
#include "bytes.h"

static const uint32_t IV[BLAKE3_KEY_WORDS] = BLAKE3_IV;

static inline uint32_t rotate_right(uint32_t word, int bits) { return (word >> bits) | (word << (32 - bits)); }

#define ROTATE_16(word) rotate_right(word, 16)
#define ROTATE_12(word) rotate_right(word, 12)
#define ROTATE_8(word) rotate_right(word, 8)
#define ROTATE_7(word) rotate_right(word, 7)
#define QUARTER BLAKE3_QUARTER

static inline void compress(uint32_t cv[BLAKE3_KEY_WORDS], const uint8_t message[BLAKE3_MESSAGE_BYTES], uint64_t counter, uint32_t bytes,
                            uint32_t flags) {
    uint32_t m[16];
    for (int i = 0; i < 16; i++)
        m[i] = load_word(message + 4 * i);

    uint32_t v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
    uint32_t v8 = IV[0], v9 = IV[1], v10 = IV[2], v11 = IV[3];
    uint32_t v12 = (uint32_t)counter, v13 = (uint32_t)(counter >> 32), v14 = bytes, v15 = flags;

    BLAKE3_ROUNDS();

    cv[0] = v0 ^ v8;
    cv[1] = v1 ^ v9;
    cv[2] = v2 ^ v10;
    cv[3] = v3 ^ v11;
    cv[4] = v4 ^ v12;
    cv[5] = v5 ^ v13;
    cv[6] = v6 ^ v14;
    cv[7] = v7 ^ v15;
}

static inline void store_cv(uint8_t *target, const uint32_t cv[BLAKE3_KEY_WORDS]) {
    for (int i = 0; i < BLAKE3_KEY_WORDS; i++)
        store_word(target + 4 * i, cv[i]);
}

void blake3_mode_init(struct blake3_mode *mode, const uint8_t *key) {
    mode->flags = key ? BLAKE3_KEYED_HASH : 0;
    for (int i = 0; i < BLAKE3_KEY_WORDS; i++)
        mode->key[i] = key ? load_word(key + 4 * i) : IV[i];
}

void blake3_chunk(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t chunk_index, uint32_t extra_flags,
                  uint8_t cv[BLAKE3_CV_BYTES]) {
    uint32_t state[BLAKE3_KEY_WORDS];
    memcpy(state, mode->key, sizeof state);
    uint32_t flags = mode->flags | BLAKE3_CHUNK_START;
    for (; bytes > BLAKE3_MESSAGE_BYTES; bytes -= BLAKE3_MESSAGE_BYTES, data += BLAKE3_MESSAGE_BYTES) {
        compress(state, data, chunk_index, BLAKE3_MESSAGE_BYTES, flags);
        flags = mode->flags;
    }
    /* The last message is padded with zeros; an empty input is one empty message. */
    uint8_t last[BLAKE3_MESSAGE_BYTES] = {0};
    if (bytes)
        memcpy(last, data, bytes);
    compress(state, last, chunk_index, (uint32_t)bytes, flags | BLAKE3_CHUNK_END | extra_flags);
    store_cv(cv, state);
}

void blake3_parent(const struct blake3_mode *mode, const uint8_t children[2 * BLAKE3_CV_BYTES], uint32_t extra_flags,
                   uint8_t cv[BLAKE3_CV_BYTES]) {
    uint32_t state[BLAKE3_KEY_WORDS];
    memcpy(state, mode->key, sizeof state);
    compress(state, children, 0, BLAKE3_MESSAGE_BYTES, mode->flags | BLAKE3_PARENT | extra_flags);
    store_cv(cv, state);
}

static void hash_portable(const struct blake3_inputs *inputs, uint8_t *cvs) {
    uint32_t state[BLAKE3_KEY_WORDS];
    memcpy(state, inputs->key, sizeof state);
    for (size_t i = 0; i < inputs->messages; i++) {
        uint32_t flags = inputs->flags;
        flags |= i == 0 ? inputs->flags_first : 0;
        flags |= i + 1 == inputs->messages ? inputs->flags_last : 0;
        compress(state, inputs->first + i * BLAKE3_MESSAGE_BYTES, inputs->counter, BLAKE3_MESSAGE_BYTES, flags);
    }
    store_cv(cvs, state);
}

const struct blake3_kernel blake3_portable = {.name = "portable", .lanes = 1, .hash = hash_portable};
