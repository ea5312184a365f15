/* The seven rounds of the compression function (paper 2.2), for words of any kind: the scalar and the wide kernels all run these lines.
 *
 * The includer defines ROTATE_16, ROTATE_12, ROTATE_8 and ROTATE_7 (rotations to the right), and QUARTER, which is BLAKE3_QUARTER done to
 * its kind of word. It has locals v0..v15 and m[16] of that kind when it says BLAKE3_ROUNDS(). Macros, because a function could be inlined
 * only into functions of its own target.
 */
#ifndef FETCHER_BLAKE3_ROUNDS_H
#define FETCHER_BLAKE3_ROUNDS_H

/* Paper table 1: the first words of the square roots' fractions, as in SHA-256. */
#define BLAKE3_IV                                                                                                                          \
    { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 }

/* The quarter round in the paper's natural order: interleaving four of them by hand was measured to be 18 % slower. Named locals: with an
 * array of state words gcc keeps more of them in memory than the register file requires. */
#define BLAKE3_QUARTER(a, b, c, d, x, y)                                                                                                   \
    do {                                                                                                                                   \
        a = a + b + (x);                                                                                                                   \
        d = ROTATE_16(d ^ a);                                                                                                              \
        c = c + d;                                                                                                                         \
        b = ROTATE_12(b ^ c);                                                                                                              \
        a = a + b + (y);                                                                                                                   \
        d = ROTATE_8(d ^ a);                                                                                                               \
        c = c + d;                                                                                                                         \
        b = ROTATE_7(b ^ c);                                                                                                               \
    } while (0)

/* Four columns, then four diagonals; the arguments are the message words in this round's order. */
#define BLAKE3_ROUND(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15)                                                 \
    do {                                                                                                                                   \
        QUARTER(v0, v4, v8, v12, m[m0], m[m1]);                                                                                            \
        QUARTER(v1, v5, v9, v13, m[m2], m[m3]);                                                                                            \
        QUARTER(v2, v6, v10, v14, m[m4], m[m5]);                                                                                           \
        QUARTER(v3, v7, v11, v15, m[m6], m[m7]);                                                                                           \
        QUARTER(v0, v5, v10, v15, m[m8], m[m9]);                                                                                           \
        QUARTER(v1, v6, v11, v12, m[m10], m[m11]);                                                                                         \
        QUARTER(v2, v7, v8, v13, m[m12], m[m13]);                                                                                          \
        QUARTER(v3, v4, v9, v14, m[m14], m[m15]);                                                                                          \
    } while (0)

/* Each line is the one before it, permuted by paper table 2. */
#define BLAKE3_ROUNDS()                                                                                                                    \
    do {                                                                                                                                   \
        BLAKE3_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                                                                \
        BLAKE3_ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8);                                                                \
        BLAKE3_ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1);                                                                \
        BLAKE3_ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6);                                                                \
        BLAKE3_ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4);                                                                \
        BLAKE3_ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7);                                                                \
        BLAKE3_ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13);                                                                \
    } while (0)

#endif
