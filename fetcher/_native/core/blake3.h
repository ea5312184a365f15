/* BLAKE3 as a tree of blocks: the interface of the C core.
 *
 * Written from the paper "BLAKE3: one function, fast everywhere" (2021-11-05); section numbers in this directory refer to it. The core
 * knows bytes, counters and chaining values (CVs). It knows nothing of Python, of files being fetched or of what a digest is good for.
 *
 * Words: the paper's 64-byte "block" is called *message* here, because a *block* in this project is the aligned power-of-two piece of a
 * file (1 MiB by default) that is written, hashed and fetched again as one. A *chunk* is BLAKE3's leaf of 1024 bytes.
 *
 * The caller has checked every argument: blocks are powers of two >= 1024, offsets are multiples of the block, pointers are good for the
 * stated lengths. Nothing here allocates, locks or fails, except the two functions that do I/O, which return 0 or an errno.
 */
#ifndef FETCHER_BLAKE3_H
#define FETCHER_BLAKE3_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLAKE3_CHUNK_BYTES 1024
#define BLAKE3_MESSAGE_BYTES 64
#define BLAKE3_CHUNK_MESSAGES (BLAKE3_CHUNK_BYTES / BLAKE3_MESSAGE_BYTES)
#define BLAKE3_CV_BYTES 32
#define BLAKE3_KEY_WORDS 8

/* Domain flags, paper table 3. */
enum {
    BLAKE3_CHUNK_START = 1 << 0,
    BLAKE3_CHUNK_END = 1 << 1,
    BLAKE3_PARENT = 1 << 2,
    BLAKE3_ROOT = 1 << 3,
    BLAKE3_KEYED_HASH = 1 << 4,
};

/* What separates plain from keyed hashing: the first CV of every node, and a flag on every compression (paper 2.3). */
struct blake3_mode {
    uint32_t key[BLAKE3_KEY_WORDS];
    uint32_t flags;
};

/* Plain mode when key is NULL, else keyed mode with 32 key bytes. */
void blake3_mode_init(struct blake3_mode *mode, const uint8_t *key);

/* ---- blake3_compress.c: one compression, one chunk, one parent ---------------------------------------------------------------------- */

/* The CV of one chunk of 0..1024 bytes; extra_flags (BLAKE3_ROOT or 0) go on its last compression. */
void blake3_chunk(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t chunk_index, uint32_t extra_flags,
                  uint8_t cv[BLAKE3_CV_BYTES]);

/* The CV of a parent whose two children's CVs lie side by side in `children`. `cv` may be the start of `children`. */
void blake3_parent(const struct blake3_mode *mode, const uint8_t children[2 * BLAKE3_CV_BYTES], uint32_t extra_flags,
                   uint8_t cv[BLAKE3_CV_BYTES]);

/* ---- blake3_kernel.c: many equal inputs at once, with the widest kernel this CPU has ------------------------------------------------- */

/* Equal-sized inputs at equal distances: chunks of a run (stride 1024, 16 messages) or the pairs of a CV list (stride 64, 1 message). */
struct blake3_inputs {
    const uint8_t *first;
    size_t stride;
    size_t messages;       /* 64-byte messages in each input */
    const uint32_t *key;   /* the first CV of each input */
    uint64_t counter;      /* of the first input */
    uint32_t counter_step; /* 1 for chunks, 0 for parents */
    uint32_t flags;        /* on every compression */
    uint32_t flags_first;  /* on the first message of each input, too */
    uint32_t flags_last;   /* on the last one */
};

/* A kernel hashes exactly `lanes` inputs. It reads all of them before it writes the first CV when messages == 1 and stride == 64, so that
 * a level of a tree can be merged in place. */
typedef void blake3_kernel_function(const struct blake3_inputs *inputs, uint8_t *cvs);

struct blake3_kernel {
    const char *name;
    size_t lanes;
    blake3_kernel_function *hash;
};

/* The scalar kernel, one lane: correct everywhere, the measure of all others. */
extern const struct blake3_kernel blake3_portable;

#define BLAKE3_LANES_MAX 32

/* CVs of `chunks` whole chunks. */
void blake3_chunks(const struct blake3_mode *mode, const uint8_t *data, size_t chunks, uint64_t chunk_index, uint8_t *cvs);

/* CVs of `parents` parents whose children lie side by side. `cvs` may be the start of `children`: the level is then merged in place. */
void blake3_parents(const struct blake3_mode *mode, const uint8_t *children, size_t parents, uint8_t *cvs);

/* Looks at the CPU and puts the widest kernel to work. Once, before the first hash. */
void blake3_kernel_detect(void);
/* The kernels this CPU can run, widest first, "portable" last; NULL past the end. */
const char *blake3_kernel_name(size_t index);
const char *blake3_kernel_active(void);
/* False when there is no kernel of that name here. For tests, and to work round a faulty CPU. */
bool blake3_kernel_choose(const char *name);

/* ---- blake3_tree.c: chunks to a subtree's CV, CVs to the root ------------------------------------------------------------------------ */

/* Leaves are gathered in groups and merged level by level, so that parents run on the wide kernel as well: all but a handful at the top of
 * each group, which is why groups are large. */
#define BLAKE3_GROUP_LEAVES 256
/* One full subtree per power of two of groups: enough for 2^64 bytes. */
#define BLAKE3_STACK_CVS 47

/* One subtree under way, fed with chunks in order. Merging is eager; `top` keeps the children of the parent merged last, which after
 * blake3_tree_close is the top one, so that the root can still be finished with the ROOT flag. */
struct blake3_tree {
    struct blake3_mode mode;
    uint64_t chunk_index; /* of the next chunk, counted from the start of the file */
    uint64_t groups;      /* full groups of this subtree */
    size_t leaf_count;
    size_t stack_count;
    uint8_t leaves[BLAKE3_GROUP_LEAVES * BLAKE3_CV_BYTES];
    uint8_t stack[BLAKE3_STACK_CVS * BLAKE3_CV_BYTES];
    uint8_t top[2 * BLAKE3_CV_BYTES];
};

/* Starts a subtree at `offset`; leaves `top` as it was. */
void blake3_tree_open(struct blake3_tree *tree, const struct blake3_mode *mode, uint64_t offset);
void blake3_tree_add_chunks(struct blake3_tree *tree, const uint8_t *data, size_t chunks);
/* All of `data`; only the last call on a subtree may bring a partial chunk. */
void blake3_tree_add(struct blake3_tree *tree, const uint8_t *data, size_t bytes);
/* The subtree's (non-root) CV. The tree must hold at least one chunk. */
void blake3_tree_close(struct blake3_tree *tree, uint8_t cv[BLAKE3_CV_BYTES]);
/* The root of a closed subtree that started at offset 0 and had at least two chunks. */
void blake3_tree_root(const struct blake3_tree *tree, uint8_t root[BLAKE3_CV_BYTES]);

/* One CV per block of `data`, which starts at `offset` of its file; the last block may be partial. */
void blake3_blocks(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t offset, size_t block_bytes, uint8_t *cvs);
/* Plain or keyed BLAKE3 of one buffer of any length. */
void blake3_root(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint8_t root[BLAKE3_CV_BYTES]);
/* The root over `count` >= 2 block CVs. Overwrites `cvs`. */
void blake3_merge_root(const struct blake3_mode *mode, uint8_t *cvs, size_t count, uint8_t root[BLAKE3_CV_BYTES]);

/* ---- blake3_stream.c: a run of blocks, fed in pieces of any size --------------------------------------------------------------------- */

/* Bytes that do not fill the widest kernel wait here, so a run costs the same however it is split. */
#define BLAKE3_STAGING_BYTES (BLAKE3_LANES_MAX * BLAKE3_CHUNK_BYTES)

struct blake3_stream {
    struct blake3_tree tree;
    struct blake3_mode mode;
    uint64_t offset; /* of the run in its file */
    uint64_t length; /* bytes taken */
    size_t block_bytes;
    size_t block_filled; /* bytes of the block under way, staged ones included */
    size_t staged_bytes;
    uint8_t first_chunk[BLAKE3_CHUNK_BYTES]; /* kept for a root of at most one chunk */
    uint8_t staging[BLAKE3_STAGING_BYTES];
};

void blake3_stream_init(struct blake3_stream *stream, const struct blake3_mode *mode, uint64_t offset, size_t block_bytes);
/* Blocks that `bytes` more would complete: the room that blake3_stream_update needs at `cvs`, in CVs. */
size_t blake3_stream_completes(const struct blake3_stream *stream, size_t bytes);
void blake3_stream_update(struct blake3_stream *stream, const uint8_t *data, size_t bytes, uint8_t *cvs);
/* Closes a partial last block: true if there was one and `cv` was written. The stream takes no more bytes. */
bool blake3_stream_finish(struct blake3_stream *stream, uint8_t cv[BLAKE3_CV_BYTES]);
/* The root of a finished run that started at offset 0 and is not longer than one block. */
void blake3_stream_root(const struct blake3_stream *stream, uint8_t root[BLAKE3_CV_BYTES]);

/* ---- block_sink.c, block_scan.c: blocks to and from a file --------------------------------------------------------------------------- */

/* Hashes and writes `data`, block by block; 0 or an errno. On an error the CVs of all blocks are undefined. */
int block_sink_write(int fd, uint64_t offset, const uint8_t *data, size_t bytes, size_t block_bytes, uint8_t *cvs);

/* Writes all of `data`; 0 or an errno. */
int block_sink_write_plain(int fd, uint64_t offset, const uint8_t *data, size_t bytes);

/* Reads `length` bytes from `offset`, hashes them block by block and sets bad[i] = 1 where block i differs from expected CV i or is not
 * all there; 0 or an errno. `buffer` holds `buffer_bytes`, a multiple of 1024 that divides block_bytes. */
int block_scan_file(int fd, uint64_t offset, uint64_t length, const uint8_t *expected, size_t block_bytes, uint8_t *buffer,
                    size_t buffer_bytes, uint8_t *bad);

#endif
