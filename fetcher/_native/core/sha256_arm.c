/* SHA-256 with the cryptographic extension of ARMv8. */
#include "sha256_machine.h"

#if SHA256_HAS_ARM
/* Both compilers take the intrinsics only in functions that have the extension, and gcc's header wants it by its older name. */
#ifdef __clang__
#ifndef __ARM_FEATURE_SHA2 /* before clang 16 the header hides them where not all of a file is for the extension */
#define __ARM_FEATURE_SHA2 1
#endif
#define TARGET __attribute__((target("sha2")))
#else
#define TARGET __attribute__((target("+crypto")))
#endif
#define INLINE TARGET static inline __attribute__((always_inline))

#include <arm_neon.h>

typedef uint32x4_t words;

struct halves {
    words abcd, efgh;
};

INLINE words load_message(const uint8_t *data) { return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data))); }

INLINE words schedule(words a, words b, words c, words d) { return vsha256su1q_u32(vsha256su0q_u32(a, b), c, d); }

INLINE void rounds(struct halves *state, words w) {
    words abcd = state->abcd;
    state->abcd = vsha256hq_u32(abcd, state->efgh, w);
    state->efgh = vsha256h2q_u32(state->efgh, abcd, w);
}

INLINE void both_rounds(struct halves *a, words w_a, struct halves *b, words w_b) {
    rounds(a, w_a);
    rounds(b, w_b);
}

INLINE void add(struct halves *state, struct halves before) {
    state->abcd = vaddq_u32(state->abcd, before.abcd);
    state->efgh = vaddq_u32(state->efgh, before.efgh);
}

INLINE struct halves open_state(const uint32_t standard[SHA256_WORDS]) {
    return (struct halves){.abcd = vld1q_u32(standard), .efgh = vld1q_u32(standard + 4)};
}

INLINE void close_state(struct halves state, uint32_t standard[SHA256_WORDS]) {
    vst1q_u32(standard, state.abcd);
    vst1q_u32(standard + 4, state.efgh);
}

#define LOAD_CONSTANTS(t) vld1q_u32(sha256_constants + (t))
#define LOAD_MESSAGE load_message
#define SCHEDULE schedule
#include "sha256_steps.h"

const struct sha256_kernel sha256_arm = {.name = "armv8", .one = hash_one, .two = hash_two};
#endif
