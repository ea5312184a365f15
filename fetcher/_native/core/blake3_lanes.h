/* A wide kernel as a template: LANES inputs at once, one in each lane of vectors of LANES words.
 *
 * The includer defines LANES (4, 8 or 16), KERNEL (the name of the struct blake3_kernel), KERNEL_NAME (what people call it) and TARGET
 * (the instruction set as a function attribute). Vector extensions of gcc >= 12 and clang, no intrinsics: one source for all widths and
 * machines. Little-endian machines only: words are loaded as they lie.
 *
 * No helper functions: one that is always inlined would need its caller's target, and vectors in signatures depend on it, too.
 */
#include "blake3.h"
#include "blake3_rounds.h"

#include <string.h>

typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint8_t octets __attribute__((vector_size(4 * LANES)));
typedef uint32_t quarter __attribute__((vector_size(16)));

/* SHUFFLE picks four words from each 128-bit quarter of x and y; y's words count from LANES. OCTETS turns each word's bytes. */
#if LANES == 4
#define SHUFFLE(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d)
#define OCTETS(x, a, b, c, d)                                                                                                              \
    __builtin_shufflevector(x, x, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12)
#elif LANES == 8
#define SHUFFLE(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4)
#define OCTETS(x, a, b, c, d)                                                                                                              \
    __builtin_shufflevector(x, x, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12,      \
                            a + 16, b + 16, c + 16, d + 16, a + 20, b + 20, c + 20, d + 20, a + 24, b + 24, c + 24, d + 24, a + 28,        \
                            b + 28, c + 28, d + 28)
#elif LANES == 16
#define SHUFFLE(x, y, a, b, c, d)                                                                                                          \
    __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12)
#endif

/* Rotations by whole bytes are byte shuffles, where there is no instruction that rotates (which both compilers find at 16 lanes). */
#define SHIFTED(x, bits) (((x) >> (bits)) | ((x) << (32 - (bits))))
#if LANES == 16
#define ROTATE_16(x) SHIFTED(x, 16)
#define ROTATE_8(x) SHIFTED(x, 8)
#else
#define ROTATE_16(x) ((words)OCTETS((octets)(x), 2, 3, 0, 1))
#define ROTATE_8(x) ((words)OCTETS((octets)(x), 1, 2, 3, 0))
#endif
#define ROTATE_12(x) SHIFTED(x, 12)
#define ROTATE_7(x) SHIFTED(x, 7)

/* The 4x4 transpose inside every quarter: from four words of one lane each to one word of four lanes each, and back. */
#define TRANSPOSE(r0, r1, r2, r3, t0, t1, t2, t3)                                                                                          \
    do {                                                                                                                                   \
        words low01 = SHUFFLE(r0, r1, 0, LANES, 1, LANES + 1);                                                                             \
        words high01 = SHUFFLE(r0, r1, 2, LANES + 2, 3, LANES + 3);                                                                        \
        words low23 = SHUFFLE(r2, r3, 0, LANES, 1, LANES + 1);                                                                             \
        words high23 = SHUFFLE(r2, r3, 2, LANES + 2, 3, LANES + 3);                                                                        \
        t0 = SHUFFLE(low01, low23, 0, 1, LANES, LANES + 1);                                                                                \
        t1 = SHUFFLE(low01, low23, 2, 3, LANES + 2, LANES + 3);                                                                            \
        t2 = SHUFFLE(high01, high23, 0, 1, LANES, LANES + 1);                                                                              \
        t3 = SHUFFLE(high01, high23, 2, 3, LANES + 2, LANES + 3);                                                                          \
    } while (0)

/* LOAD_ROW: 16 bytes of lane i, and of lanes i + 4, i + 8, i + 12 where there are such, in one vector. */
#define LOAD(target, lane) memcpy(&target, from + (lane) * stride, sizeof target)
#if LANES == 4
#define LOAD_ROW(row, lane) LOAD(row, lane)
#elif LANES == 8
#define LOAD_ROW(row, lane)                                                                                                                \
    do {                                                                                                                                   \
        quarter q0, q1;                                                                                                                    \
        LOAD(q0, lane);                                                                                                                    \
        LOAD(q1, (lane) + 4);                                                                                                              \
        row = __builtin_shufflevector(q0, q1, 0, 1, 2, 3, 4, 5, 6, 7);                                                                     \
    } while (0)
#elif LANES == 16
typedef uint32_t half __attribute__((vector_size(32)));
#define LOAD_ROW(row, lane)                                                                                                                \
    do {                                                                                                                                   \
        quarter q0, q1, q2, q3;                                                                                                            \
        LOAD(q0, lane);                                                                                                                    \
        LOAD(q1, (lane) + 4);                                                                                                              \
        LOAD(q2, (lane) + 8);                                                                                                              \
        LOAD(q3, (lane) + 12);                                                                                                             \
        half low = __builtin_shufflevector(q0, q1, 0, 1, 2, 3, 4, 5, 6, 7);                                                                \
        half high = __builtin_shufflevector(q2, q3, 0, 1, 2, 3, 4, 5, 6, 7);                                                               \
        row = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                                    \
    } while (0)
#endif

TARGET static void hash_lanes(const struct blake3_inputs *inputs, uint8_t *cvs) {
    static const uint32_t IV[BLAKE3_KEY_WORDS] = BLAKE3_IV;
    const words zero = {0};
    const size_t stride = inputs->stride;

    uint32_t counters_low[LANES], counters_high[LANES];
    for (size_t lane = 0; lane < LANES; lane++) {
        uint64_t counter = inputs->counter + lane * inputs->counter_step;
        counters_low[lane] = (uint32_t)counter;
        counters_high[lane] = (uint32_t)(counter >> 32);
    }
    words counter_low, counter_high;
    memcpy(&counter_low, counters_low, sizeof counter_low);
    memcpy(&counter_high, counters_high, sizeof counter_high);

    words cv[BLAKE3_KEY_WORDS];
    for (int i = 0; i < BLAKE3_KEY_WORDS; i++)
        cv[i] = zero + inputs->key[i];

    for (size_t number = 0; number < inputs->messages; number++) {
        words m[16];
        const uint8_t *from = inputs->first + number * BLAKE3_MESSAGE_BYTES;
        for (int i = 0; i < 16; i += 4, from += 16) {
            words r0, r1, r2, r3;
            LOAD_ROW(r0, 0);
            LOAD_ROW(r1, 1);
            LOAD_ROW(r2, 2);
            LOAD_ROW(r3, 3);
            TRANSPOSE(r0, r1, r2, r3, m[i], m[i + 1], m[i + 2], m[i + 3]);
        }
        uint32_t flags = inputs->flags;
        flags |= number == 0 ? inputs->flags_first : 0;
        flags |= number + 1 == inputs->messages ? inputs->flags_last : 0;

        words v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
        words v8 = zero + IV[0], v9 = zero + IV[1], v10 = zero + IV[2], v11 = zero + IV[3];
        words v12 = counter_low, v13 = counter_high, v14 = zero + (uint32_t)BLAKE3_MESSAGE_BYTES, v15 = zero + flags;
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

    /* All inputs are read by now: the CVs may lie where the inputs of a level lay. */
    for (int i = 0; i < BLAKE3_KEY_WORDS; i += 4) {
        words lanes[4];
        TRANSPOSE(cv[i], cv[i + 1], cv[i + 2], cv[i + 3], lanes[0], lanes[1], lanes[2], lanes[3]);
        for (size_t lane = 0; lane < LANES; lane++)
            memcpy(cvs + lane * BLAKE3_CV_BYTES + 4 * i, (const uint8_t *)&lanes[lane % 4] + 16 * (lane / 4), 16);
    }
}

const struct blake3_kernel KERNEL = {.name = KERNEL_NAME, .lanes = LANES, .hash = hash_lanes};
