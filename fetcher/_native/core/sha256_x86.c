/* SHA-256 with the SHA extensions of x86-64 (SHA-NI). */
#include "sha256_machine.h"

#if SHA256_HAS_X86
#ifndef __clang__
/* The order below is meant: two streams are 5 % faster in it than as gcc 12 would arrange them. */
#pragma GCC optimize("O2", "no-schedule-insns2")
#endif
#include <immintrin.h>

#define TARGET __attribute__((target("sha,sse4.1")))
#define INLINE TARGET static inline __attribute__((always_inline))

typedef uint32_t words __attribute__((vector_size(16)));

/* What the instructions want: a, b, e, f in one register and c, d, g, h in the other, the first named in the highest word. */
struct halves {
    __m128i abef, cdgh;
};

INLINE words load_words(const void *source) { return (words)_mm_loadu_si128(source); }

INLINE words load_message(const uint8_t *data) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    return (words)_mm_shuffle_epi8(_mm_loadu_si128((const void *)data), big_endian);
}

INLINE words schedule(words a, words b, words c, words d) {
    words seven_before = (words)_mm_alignr_epi8((__m128i)d, (__m128i)c, 4);
    words sum = (words)_mm_sha256msg1_epu32((__m128i)a, (__m128i)b) + seven_before;
    return (words)_mm_sha256msg2_epu32((__m128i)sum, (__m128i)d);
}

/* An instruction does two rounds with the lower two words: the halves change places. */
INLINE void rounds(struct halves *state, words w) {
    state->cdgh = _mm_sha256rnds2_epu32(state->cdgh, state->abef, (__m128i)w);
    state->abef = _mm_sha256rnds2_epu32(state->abef, state->cdgh, _mm_shuffle_epi32((__m128i)w, 0x0e));
}

INLINE void both_rounds(struct halves *a, words w_a, struct halves *b, words w_b) {
    a->cdgh = _mm_sha256rnds2_epu32(a->cdgh, a->abef, (__m128i)w_a);
    b->cdgh = _mm_sha256rnds2_epu32(b->cdgh, b->abef, (__m128i)w_b);
    a->abef = _mm_sha256rnds2_epu32(a->abef, a->cdgh, _mm_shuffle_epi32((__m128i)w_a, 0x0e));
    b->abef = _mm_sha256rnds2_epu32(b->abef, b->cdgh, _mm_shuffle_epi32((__m128i)w_b, 0x0e));
}

INLINE void add(struct halves *state, struct halves before) {
    state->abef = _mm_add_epi32(state->abef, before.abef);
    state->cdgh = _mm_add_epi32(state->cdgh, before.cdgh);
}

INLINE struct halves open_state(const uint32_t standard[SHA256_WORDS]) {
    __m128i badc = _mm_shuffle_epi32((__m128i)load_words(standard), 0xb1);
    __m128i efgh = _mm_shuffle_epi32((__m128i)load_words(standard + 4), 0x1b);
    return (struct halves){.abef = _mm_alignr_epi8(badc, efgh, 8), .cdgh = _mm_blend_epi16(efgh, badc, 0xf0)};
}

INLINE void close_state(struct halves state, uint32_t standard[SHA256_WORDS]) {
    __m128i feba = _mm_shuffle_epi32(state.abef, 0x1b);
    __m128i dchg = _mm_shuffle_epi32(state.cdgh, 0xb1);
    _mm_storeu_si128((void *)standard, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((void *)(standard + 4), _mm_alignr_epi8(dchg, feba, 8));
}

#define LOAD_CONSTANTS(t) load_words(sha256_constants + (t))
#define LOAD_MESSAGE load_message
#define SCHEDULE schedule
#include "sha256_steps.h"

const struct sha256_kernel sha256_x86 = {.name = "sha-ni", .one = hash_one, .two = hash_two};
#endif
