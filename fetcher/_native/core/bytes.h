/* Loads and stores of words, whatever the machine's byte order and alignment: BLAKE3's are little-endian, SHA-256's are big-endian. */
#ifndef FETCHER_BYTES_H
#define FETCHER_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint32_t load_word(const uint8_t *source) {
    uint32_t word;
    memcpy(&word, source, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    return word;
}

static inline void store_word(uint8_t *target, uint32_t word) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    memcpy(target, &word, sizeof word);
}

static inline uint32_t load_big_word(const uint8_t *source) { return __builtin_bswap32(load_word(source)); }

static inline void store_big_word(uint8_t *target, uint32_t word) { store_word(target, __builtin_bswap32(word)); }

#endif
