/* A kernel on a CPU with instructions for SHA-256, as a template: they do four rounds, and schedule four words, at a time.
 *
 * The includer defines TARGET (the instruction set as a function attribute), words (a vector of four words), INLINE, struct halves (the state, in the
 * two vectors that the instructions want) and, all inline with that TARGET:
 *
 *   LOAD_CONSTANTS(t)     four round constants from t on
 *   LOAD_MESSAGE(data)    16 bytes of a message as four words
 *   SCHEDULE(a, b, c, d)  the four words that follow the sixteen in a, b, c, d
 *   rounds(state, w)      four rounds; w are the words with their constants added
 *   both_rounds(…)        the same for two streams
 *   add(state, before)    the end of a message
 *   open_state, close_state   words of the standard to halves and back
 *
 * One stream waits for the result of its last round most of the time. `hash_two` is the same steps for two streams, interleaved, which the
 * CPU then overlaps. How far depends on how often it can start such an instruction: 1.9 times one stream on a Zen 3, 1.6 times on a Zen 5,
 * whose unit for the rounds is busy all the time then.
 */

struct stream {
    struct halves state;
    words w[4];
};

/* The words of four of the 64 rounds. From the fifth step on, they follow from the sixteen before. */
INLINE words words_of(struct stream *stream, int step) {
    words *w = stream->w;
    if (step >= 4)
        w[step % 4] = SCHEDULE(w[step % 4], w[(step + 1) % 4], w[(step + 2) % 4], w[(step + 3) % 4]);
    return w[step % 4] + LOAD_CONSTANTS(4 * step);
}

#define LOAD(stream, data)                                                                                                                 \
    do {                                                                                                                                   \
        for (int i = 0; i < 4; i++)                                                                                                        \
            (stream).w[i] = LOAD_MESSAGE((data) + 16 * i);                                                                                 \
    } while (0)

TARGET static void hash_one(uint32_t words_a[SHA256_WORDS], const uint8_t *data_a, size_t messages) {
    struct stream a = {.state = open_state(words_a)};
    for (; messages; messages--, data_a += SHA256_MESSAGE_BYTES) {
        struct halves before_a = a.state;
        LOAD(a, data_a);
#pragma GCC unroll 16
        for (int step = 0; step < SHA256_ROUNDS / 4; step++)
            rounds(&a.state, words_of(&a, step));
        add(&a.state, before_a);
    }
    close_state(a.state, words_a);
}

TARGET static void hash_two(uint32_t words_a[SHA256_WORDS], const uint8_t *data_a, uint32_t words_b[SHA256_WORDS], const uint8_t *data_b,
                            size_t messages) {
    struct stream a = {.state = open_state(words_a)}, b = {.state = open_state(words_b)};
    for (; messages; messages--, data_a += SHA256_MESSAGE_BYTES, data_b += SHA256_MESSAGE_BYTES) {
        struct halves before_a = a.state, before_b = b.state;
        LOAD(a, data_a);
        LOAD(b, data_b);
#pragma GCC unroll 16
        for (int step = 0; step < SHA256_ROUNDS / 4; step++) {
            words w_a = words_of(&a, step), w_b = words_of(&b, step);
            both_rounds(&a.state, w_a, &b.state, w_b);
        }
        add(&a.state, before_a);
        add(&b.state, before_b);
    }
    close_state(a.state, words_a);
    close_state(b.state, words_b);
}
