/* From chunks to the CV of a subtree, and from the CVs of blocks to the root (paper 2.1 and 5.1).
 *
 * The shape of the tree follows from its number of chunks alone: every left subtree is full and at least as large as its right sibling.
 * Pairing neighbours level by level and carrying an odd one up gives exactly that shape, for chunks as well as for equal, aligned blocks.
 */
#include "blake3.h"

#include <string.h>

/* One level up, in place: returns the new number of CVs. */
static size_t merge_level(const struct blake3_mode *mode, uint8_t *cvs, size_t count) {
    size_t parents = count / 2;
    blake3_parents(mode, cvs, parents, cvs);
    if (count % 2) {
        memmove(cvs + parents * BLAKE3_CV_BYTES, cvs + (count - 1) * BLAKE3_CV_BYTES, BLAKE3_CV_BYTES);
        parents++;
    }
    return parents;
}

/* The parent of two CVs, remembered as the top one so far. */
static void merge_pair(struct blake3_tree *tree, const uint8_t *left, const uint8_t *right, uint8_t *cv) {
    memcpy(tree->top, left, BLAKE3_CV_BYTES);
    memcpy(tree->top + BLAKE3_CV_BYTES, right, BLAKE3_CV_BYTES);
    blake3_parent(&tree->mode, tree->top, 0, cv);
}

/* The leaves gathered so far become one CV at the top of the stack. */
static void push_leaves(struct blake3_tree *tree) {
    size_t count = tree->leaf_count;
    while (count > 2)
        count = merge_level(&tree->mode, tree->leaves, count);
    if (count == 2)
        merge_pair(tree, tree->leaves, tree->leaves + BLAKE3_CV_BYTES, tree->leaves);
    memcpy(tree->stack + tree->stack_count * BLAKE3_CV_BYTES, tree->leaves, BLAKE3_CV_BYTES);
    tree->stack_count++;
    tree->leaf_count = 0;
}

static void merge_stack_top(struct blake3_tree *tree) {
    tree->stack_count--;
    uint8_t *right = tree->stack + tree->stack_count * BLAKE3_CV_BYTES;
    uint8_t *left = right - BLAKE3_CV_BYTES;
    merge_pair(tree, left, right, left);
}

/* A full group closes as many subtrees as its number has trailing zero bits, as carries do in a binary counter. */
static void push_full_group(struct blake3_tree *tree) {
    push_leaves(tree);
    tree->groups++;
    for (uint64_t carry = tree->groups; carry % 2 == 0; carry /= 2)
        merge_stack_top(tree);
}

void blake3_tree_open(struct blake3_tree *tree, const struct blake3_mode *mode, uint64_t offset) {
    tree->mode = *mode;
    tree->chunk_index = offset / BLAKE3_CHUNK_BYTES;
    tree->groups = 0;
    tree->leaf_count = 0;
    tree->stack_count = 0;
}

void blake3_tree_add_chunks(struct blake3_tree *tree, const uint8_t *data, size_t chunks) {
    while (chunks) {
        size_t room = BLAKE3_GROUP_LEAVES - tree->leaf_count;
        size_t count = chunks < room ? chunks : room;
        blake3_chunks(&tree->mode, data, count, tree->chunk_index, tree->leaves + tree->leaf_count * BLAKE3_CV_BYTES);
        tree->chunk_index += count;
        tree->leaf_count += count;
        if (tree->leaf_count == BLAKE3_GROUP_LEAVES)
            push_full_group(tree);
        data += count * BLAKE3_CHUNK_BYTES;
        chunks -= count;
    }
}

void blake3_tree_add(struct blake3_tree *tree, const uint8_t *data, size_t bytes) {
    size_t whole = bytes / BLAKE3_CHUNK_BYTES;
    blake3_tree_add_chunks(tree, data, whole);
    size_t rest = bytes % BLAKE3_CHUNK_BYTES;
    if (rest) {
        uint8_t *leaf = tree->leaves + tree->leaf_count * BLAKE3_CV_BYTES;
        blake3_chunk(&tree->mode, data + whole * BLAKE3_CHUNK_BYTES, rest, tree->chunk_index, 0, leaf);
        tree->chunk_index++;
        tree->leaf_count++;
        if (tree->leaf_count == BLAKE3_GROUP_LEAVES)
            push_full_group(tree);
    }
}

void blake3_tree_close(struct blake3_tree *tree, uint8_t cv[BLAKE3_CV_BYTES]) {
    if (tree->leaf_count)
        push_leaves(tree);
    while (tree->stack_count > 1)
        merge_stack_top(tree);
    memcpy(cv, tree->stack, BLAKE3_CV_BYTES);
}

void blake3_tree_root(const struct blake3_tree *tree, uint8_t root[BLAKE3_CV_BYTES]) {
    blake3_parent(&tree->mode, tree->top, BLAKE3_ROOT, root);
}

void blake3_blocks(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint64_t offset, size_t block_bytes, uint8_t *cvs) {
    struct blake3_tree tree;
    while (bytes) {
        size_t taken = bytes < block_bytes ? bytes : block_bytes;
        blake3_tree_open(&tree, mode, offset);
        blake3_tree_add(&tree, data, taken);
        blake3_tree_close(&tree, cvs);
        offset += taken;
        data += taken;
        bytes -= taken;
        cvs += BLAKE3_CV_BYTES;
    }
}

void blake3_root(const struct blake3_mode *mode, const uint8_t *data, size_t bytes, uint8_t root[BLAKE3_CV_BYTES]) {
    if (bytes <= BLAKE3_CHUNK_BYTES) {
        blake3_chunk(mode, data, bytes, 0, BLAKE3_ROOT, root);
        return;
    }
    struct blake3_tree tree;
    blake3_tree_open(&tree, mode, 0);
    blake3_tree_add(&tree, data, bytes);
    blake3_tree_close(&tree, root);
    blake3_tree_root(&tree, root);
}

void blake3_merge_root(const struct blake3_mode *mode, uint8_t *cvs, size_t count, uint8_t root[BLAKE3_CV_BYTES]) {
    while (count > 2)
        count = merge_level(mode, cvs, count);
    blake3_parent(mode, cvs, BLAKE3_ROOT, root);
}
