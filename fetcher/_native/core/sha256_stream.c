/* A SHA-256 under way (FIPS 180-4, 5.3.3 and 6.2): pieces of any size to whole messages, and the padding of the last one (5.1.1). */
#include "bytes.h"
#include "sha256.h"

void sha256_init(struct sha256_stream *stream) {
    /* First 32 bits of the fractions of the square roots of the first eight primes. */
    static const uint32_t initial[SHA256_WORDS] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(stream->words, initial, sizeof initial);
    stream->length = 0;
}

/* Bytes that are yet to be taken of one piece. */
struct piece {
    const uint8_t *data;
    size_t bytes;
};

static void skip(struct piece *piece, size_t bytes) {
    piece->data += bytes;
    piece->bytes -= bytes;
}

/* Completes the message that the tail began, if the piece reaches so far; afterwards there is no tail, or nothing left of the piece. */
static void fill_tail(struct sha256_stream *stream, struct piece *piece) {
    size_t filled = stream->length % SHA256_MESSAGE_BYTES;
    if (!filled)
        return;
    size_t taken = SHA256_MESSAGE_BYTES - filled;
    if (taken > piece->bytes)
        taken = piece->bytes;
    if (taken)
        memcpy(stream->tail + filled, piece->data, taken);
    stream->length += taken;
    skip(piece, taken);
    if (filled + taken == SHA256_MESSAGE_BYTES)
        sha256_one(stream->words, stream->tail, 1);
}

/* What is left of a piece that starts with a whole message, or is shorter than one. */
static void take_rest(struct sha256_stream *stream, struct piece *piece) {
    size_t messages = piece->bytes / SHA256_MESSAGE_BYTES;
    if (messages)
        sha256_one(stream->words, piece->data, messages);
    stream->length += piece->bytes;
    skip(piece, messages * SHA256_MESSAGE_BYTES);
    if (piece->bytes)
        memcpy(stream->tail, piece->data, piece->bytes);
}

void sha256_update(struct sha256_stream *stream, const uint8_t *data, size_t bytes) {
    struct piece piece = {data, bytes};
    fill_tail(stream, &piece);
    if (piece.bytes)
        take_rest(stream, &piece);
}

void sha256_update_pair(struct sha256_stream *a, const uint8_t *data_a, size_t bytes_a, struct sha256_stream *b, const uint8_t *data_b,
                        size_t bytes_b) {
    struct piece piece_a = {data_a, bytes_a}, piece_b = {data_b, bytes_b};
    fill_tail(a, &piece_a);
    fill_tail(b, &piece_b);
    size_t common = (piece_a.bytes < piece_b.bytes ? piece_a.bytes : piece_b.bytes) / SHA256_MESSAGE_BYTES;
    if (common) {
        sha256_two(a->words, piece_a.data, b->words, piece_b.data, common);
        a->length += common * SHA256_MESSAGE_BYTES;
        b->length += common * SHA256_MESSAGE_BYTES;
        skip(&piece_a, common * SHA256_MESSAGE_BYTES);
        skip(&piece_b, common * SHA256_MESSAGE_BYTES);
    }
    if (piece_a.bytes)
        take_rest(a, &piece_a);
    if (piece_b.bytes)
        take_rest(b, &piece_b);
}

void sha256_digest(const struct sha256_stream *stream, uint8_t digest[SHA256_DIGEST_BYTES]) {
    enum { LENGTH_BYTES = 8 };
    uint8_t padding[2 * SHA256_MESSAGE_BYTES] = {0};
    size_t filled = stream->length % SHA256_MESSAGE_BYTES;
    memcpy(padding, stream->tail, filled);
    padding[filled] = 0x80;
    size_t messages = filled + 1 + LENGTH_BYTES <= SHA256_MESSAGE_BYTES ? 1 : 2;
    uint64_t bits = stream->length * 8;
    uint8_t *end = padding + messages * SHA256_MESSAGE_BYTES;
    store_big_word(end - 8, (uint32_t)(bits >> 32));
    store_big_word(end - 4, (uint32_t)bits);

    uint32_t words[SHA256_WORDS];
    memcpy(words, stream->words, sizeof words);
    sha256_one(words, padding, messages);
    for (int i = 0; i < SHA256_WORDS; i++)
        store_big_word(digest + 4 * i, words[i]);
}
