/* Loads and stores of little-endian words, whatever the machine's byte order and alignment. */
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

#endif
