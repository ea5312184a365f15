/* SHA-256 in plain C, as FIPS 180-4 writes it: functions of 4.1.2, constants of 4.2.2, computation of 6.2.2. */
#include "bytes.h"
#include "sha256.h"

const uint32_t sha256_constants[SHA256_ROUNDS] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t rotate_right(uint32_t x, int bits) { return (x >> bits) | (x << (32 - bits)); }

static inline uint32_t choose(uint32_t x, uint32_t y, uint32_t z) { return (x & y) ^ (~x & z); }
static inline uint32_t majority(uint32_t x, uint32_t y, uint32_t z) { return (x & y) ^ (x & z) ^ (y & z); }
static inline uint32_t big_sigma_0(uint32_t x) { return rotate_right(x, 2) ^ rotate_right(x, 13) ^ rotate_right(x, 22); }
static inline uint32_t big_sigma_1(uint32_t x) { return rotate_right(x, 6) ^ rotate_right(x, 11) ^ rotate_right(x, 25); }
static inline uint32_t small_sigma_0(uint32_t x) { return rotate_right(x, 7) ^ rotate_right(x, 18) ^ (x >> 3); }
static inline uint32_t small_sigma_1(uint32_t x) { return rotate_right(x, 17) ^ rotate_right(x, 19) ^ (x >> 10); }

static void compress(uint32_t words[SHA256_WORDS], const uint8_t *message) {
    uint32_t w[SHA256_ROUNDS];
    for (int t = 0; t < 16; t++)
        w[t] = load_big_word(message + 4 * t);
    for (int t = 16; t < SHA256_ROUNDS; t++)
        w[t] = small_sigma_1(w[t - 2]) + w[t - 7] + small_sigma_0(w[t - 15]) + w[t - 16];

    uint32_t a = words[0], b = words[1], c = words[2], d = words[3];
    uint32_t e = words[4], f = words[5], g = words[6], h = words[7];
    for (int t = 0; t < SHA256_ROUNDS; t++) {
        uint32_t t1 = h + big_sigma_1(e) + choose(e, f, g) + sha256_constants[t] + w[t];
        uint32_t t2 = big_sigma_0(a) + majority(a, b, c);
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    words[0] += a;
    words[1] += b;
    words[2] += c;
    words[3] += d;
    words[4] += e;
    words[5] += f;
    words[6] += g;
    words[7] += h;
}

static void hash_one(uint32_t words[SHA256_WORDS], const uint8_t *data, size_t messages) {
    for (; messages; messages--, data += SHA256_MESSAGE_BYTES)
        compress(words, data);
}

static void hash_two(uint32_t words_a[SHA256_WORDS], const uint8_t *data_a, uint32_t words_b[SHA256_WORDS], const uint8_t *data_b,
                     size_t messages) {
    hash_one(words_a, data_a, messages);
    hash_one(words_b, data_b, messages);
}

const struct sha256_kernel sha256_portable = {.name = "portable", .one = hash_one, .two = hash_two};
