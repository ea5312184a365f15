/* A wide kernel as a template: LANES inputs at once, one in each lane of vectors.
 *
 * The includer defines LANES (4, 8, 16 or 32), SETS (how many vectors the lanes are spread over), KERNEL (the name of the struct
 * blake3_kernel), KERNEL_NAME (what people call it) and TARGET (the instruction set as a function attribute). Vector extensions of
 * gcc >= 12 and clang, no intrinsics: one source for all widths and machines. Little-endian machines only: words are loaded as they lie.
 *
 * Two sets side by side are two independent chains of instructions. Some CPUs need that to keep their units busy (on Zen 5 each addition
 * takes two cycles, and four are started per cycle), and it pays where the registers hold both states: there must be 32 of them.
 *
 * No helper functions: one that is always inlined would need its caller's target, and vectors in signatures depend on it, too.
 */
#include "blake3.h"
#include "blake3_rounds.h"

#include <string.h>

#define WIDTH (LANES / SETS)

typedef uint32_t vector __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t pairs __attribute__((vector_size(4 * WIDTH)));
typedef uint8_t octets __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t quarter __attribute__((vector_size(16)));

/* One word of every input. */
typedef struct {
    vector set[SETS];
} words;

/* Unrolled by decree: gcc leaves some of these loops alone, which was measured to cost 8 %. */
#define EACH_SET _Pragma("GCC unroll 2") for (int s = 0; s < SETS; s++)

/* SHUFFLE picks four words from each 128-bit quarter of x and y, where y's words count from WIDTH; SHUFFLE_PAIRS does the same with pairs of
 * words, for which compilers find the instruction only when it is said so. OCTETS turns each word's bytes. */
#if WIDTH == 4
#define SHUFFLE(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d)
#define SHUFFLE_PAIRS(x, y, a, b) __builtin_shufflevector(x, y, a, b)
#define OCTETS(x, a, b, c, d)                                                                                                              \
    __builtin_shufflevector(x, x, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12)
#elif WIDTH == 8
#define SHUFFLE(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4)
#define SHUFFLE_PAIRS(x, y, a, b) __builtin_shufflevector(x, y, a, b, a + 2, b + 2)
#define OCTETS(x, a, b, c, d)                                                                                                              \
    __builtin_shufflevector(x, x, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12,      \
                            a + 16, b + 16, c + 16, d + 16, a + 20, b + 20, c + 20, d + 20, a + 24, b + 24, c + 24, d + 24, a + 28,        \
                            b + 28, c + 28, d + 28)
#elif WIDTH == 16
#define SHUFFLE(x, y, a, b, c, d)                                                                                                          \
    __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12)
#define SHUFFLE_PAIRS(x, y, a, b) __builtin_shufflevector(x, y, a, b, a + 2, b + 2, a + 4, b + 4, a + 6, b + 6)
#endif

/* Rotations by whole bytes are byte shuffles, where there is no instruction that rotates (which both compilers find at a width of 16). */
#define SHIFTED(x, bits) (((x) >> (bits)) | ((x) << (32 - (bits))))
#if WIDTH == 16
#define ROTATE_16(x) SHIFTED(x, 16)
#define ROTATE_8(x) SHIFTED(x, 8)
#else
#define ROTATE_16(x) ((vector)OCTETS((octets)(x), 2, 3, 0, 1))
#define ROTATE_8(x) ((vector)OCTETS((octets)(x), 1, 2, 3, 0))
#endif
#define ROTATE_12(x) SHIFTED(x, 12)
#define ROTATE_7(x) SHIFTED(x, 7)

#define QUARTER(a, b, c, d, x, y)                                                                                                          \
    EACH_SET BLAKE3_QUARTER(a.set[s], b.set[s], c.set[s], d.set[s], x.set[s], y.set[s])

/* The 4x4 transpose inside every quarter: from four words of one lane each to one word of four lanes each, and back. */
#define LOW_PAIRS(x, y) ((vector)SHUFFLE_PAIRS((pairs)x, (pairs)y, 0, WIDTH / 2))
#define HIGH_PAIRS(x, y) ((vector)SHUFFLE_PAIRS((pairs)x, (pairs)y, 1, WIDTH / 2 + 1))
#define TRANSPOSE(r0, r1, r2, r3, t0, t1, t2, t3)                                                                                          \
    do {                                                                                                                                   \
        vector low01 = SHUFFLE(r0, r1, 0, WIDTH, 1, WIDTH + 1);                                                                            \
        vector high01 = SHUFFLE(r0, r1, 2, WIDTH + 2, 3, WIDTH + 3);                                                                       \
        vector low23 = SHUFFLE(r2, r3, 0, WIDTH, 1, WIDTH + 1);                                                                            \
        vector high23 = SHUFFLE(r2, r3, 2, WIDTH + 2, 3, WIDTH + 3);                                                                       \
        t0 = LOW_PAIRS(low01, low23);                                                                                                      \
        t1 = HIGH_PAIRS(low01, low23);                                                                                                     \
        t2 = LOW_PAIRS(high01, high23);                                                                                                    \
        t3 = HIGH_PAIRS(high01, high23);                                                                                                   \
    } while (0)

/* LOAD_ROW: 16 bytes of lane i, and of lanes i + 4, i + 8, i + 12 where there are such, in one vector. */
#define LOAD(target, lane) memcpy(&target, from + (lane) * stride, sizeof target)
#if WIDTH == 4
#define LOAD_ROW(row, lane) LOAD(row, lane)
#elif WIDTH == 8
#define LOAD_ROW(row, lane)                                                                                                                \
    do {                                                                                                                                   \
        quarter q0, q1;                                                                                                                    \
        LOAD(q0, lane);                                                                                                                    \
        LOAD(q1, (lane) + 4);                                                                                                              \
        row = __builtin_shufflevector(q0, q1, 0, 1, 2, 3, 4, 5, 6, 7);                                                                     \
    } while (0)
#elif WIDTH == 16
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
    const vector zero = {0};
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
        EACH_SET cv[i].set[s] = zero + inputs->key[i];

    for (size_t number = 0; number < inputs->messages; number++) {
        words m[16];
        EACH_SET {
            const uint8_t *from = inputs->first + (size_t)s * WIDTH * stride + number * BLAKE3_MESSAGE_BYTES;
            for (int i = 0; i < 16; i += 4, from += 16) {
                vector r0, r1, r2, r3;
                LOAD_ROW(r0, 0);
                LOAD_ROW(r1, 1);
                LOAD_ROW(r2, 2);
                LOAD_ROW(r3, 3);
                TRANSPOSE(r0, r1, r2, r3, m[i].set[s], m[i + 1].set[s], m[i + 2].set[s], m[i + 3].set[s]);
            }
        }
        uint32_t flags = inputs->flags;
        flags |= number == 0 ? inputs->flags_first : 0;
        flags |= number + 1 == inputs->messages ? inputs->flags_last : 0;

        words v0 = cv[0], v1 = cv[1], v2 = cv[2], v3 = cv[3], v4 = cv[4], v5 = cv[5], v6 = cv[6], v7 = cv[7];
        words v8, v9, v10, v11, v12 = counter_low, v13 = counter_high, v14, v15;
        EACH_SET {
            v8.set[s] = zero + IV[0];
            v9.set[s] = zero + IV[1];
            v10.set[s] = zero + IV[2];
            v11.set[s] = zero + IV[3];
            v14.set[s] = zero + (uint32_t)BLAKE3_MESSAGE_BYTES;
            v15.set[s] = zero + flags;
        }
        BLAKE3_ROUNDS();
        EACH_SET {
            cv[0].set[s] = v0.set[s] ^ v8.set[s];
            cv[1].set[s] = v1.set[s] ^ v9.set[s];
            cv[2].set[s] = v2.set[s] ^ v10.set[s];
            cv[3].set[s] = v3.set[s] ^ v11.set[s];
            cv[4].set[s] = v4.set[s] ^ v12.set[s];
            cv[5].set[s] = v5.set[s] ^ v13.set[s];
            cv[6].set[s] = v6.set[s] ^ v14.set[s];
            cv[7].set[s] = v7.set[s] ^ v15.set[s];
        }
    }

    /* All inputs are read by now: the CVs may lie where the inputs of a level lay. */
    EACH_SET {
        for (int i = 0; i < BLAKE3_KEY_WORDS; i += 4) {
            vector rows[4];
            TRANSPOSE(cv[i].set[s], cv[i + 1].set[s], cv[i + 2].set[s], cv[i + 3].set[s], rows[0], rows[1], rows[2], rows[3]);
            for (size_t lane = 0; lane < WIDTH; lane++)
                memcpy(cvs + (s * WIDTH + lane) * BLAKE3_CV_BYTES + 4 * i, (const uint8_t *)&rows[lane % 4] + 16 * (lane / 4), 16);
        }
    }
}

const struct blake3_kernel KERNEL = {.name = KERNEL_NAME, .lanes = LANES, .hash = hash_lanes};
