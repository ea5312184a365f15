/* Which kernel runs, and the two shapes of work it gets: chunks of a run, parents of a level.
 *
 * A wide kernel takes whole groups of lanes; what is left goes to the next narrower one, the last few inputs to the scalar kernel.
 */
#include "blake3_machine.h"

#include <string.h>

#define KERNELS_MAX 7

/* What this CPU can run, widest first. Filled once, before there is a second thread. */
static const struct blake3_kernel *kernels[KERNELS_MAX] = {&blake3_portable};
static size_t kernel_count = 1;

/* Index of the widest kernel in use; relaxed atomics because any value that was ever stored is a good one. */
static size_t active_index = 0;

void blake3_kernel_detect(void) {
    kernel_count = 0;
#if BLAKE3_HAS_X86_LANES
    /* These ask the operating system's consent to the wide registers, too, not the CPU alone. */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
#if BLAKE3_HAS_X86_LANES32
        kernels[kernel_count++] = &blake3_lanes32;
#endif
        kernels[kernel_count++] = &blake3_lanes16;
        kernels[kernel_count++] = &blake3_lanes8_vl;
        kernels[kernel_count++] = &blake3_lanes4_vl;
    }
    if (__builtin_cpu_supports("avx2"))
        kernels[kernel_count++] = &blake3_lanes8;
    if (__builtin_cpu_supports("sse4.1"))
        kernels[kernel_count++] = &blake3_lanes4;
#elif BLAKE3_HAS_NEON_LANES
    kernels[kernel_count++] = &blake3_lanes4;
#endif
    kernels[kernel_count++] = &blake3_portable;
}

const char *blake3_kernel_name(size_t index) { return index < kernel_count ? kernels[index]->name : NULL; }

const char *blake3_kernel_active(void) { return kernels[__atomic_load_n(&active_index, __ATOMIC_RELAXED)]->name; }

bool blake3_kernel_choose(const char *name) {
    for (size_t i = 0; i < kernel_count; i++) {
        if (strcmp(kernels[i]->name, name) == 0) {
            __atomic_store_n(&active_index, i, __ATOMIC_RELAXED);
            return true;
        }
    }
    return false;
}

static void hash_inputs(struct blake3_inputs inputs, size_t count, uint8_t *cvs) {
    for (size_t i = __atomic_load_n(&active_index, __ATOMIC_RELAXED); count; i++) {
        const struct blake3_kernel *kernel = kernels[i];
        for (; count >= kernel->lanes; count -= kernel->lanes) {
            kernel->hash(&inputs, cvs);
            inputs.first += kernel->lanes * inputs.stride;
            inputs.counter += kernel->lanes * inputs.counter_step;
            cvs += kernel->lanes * BLAKE3_CV_BYTES;
        }
    }
}

void blake3_chunks(const struct blake3_mode *mode, const uint8_t *data, size_t chunks, uint64_t chunk_index, uint8_t *cvs) {
    struct blake3_inputs inputs = {
        .first = data,
        .stride = BLAKE3_CHUNK_BYTES,
        .messages = BLAKE3_CHUNK_MESSAGES,
        .key = mode->key,
        .counter = chunk_index,
        .counter_step = 1,
        .flags = mode->flags,
        .flags_first = BLAKE3_CHUNK_START,
        .flags_last = BLAKE3_CHUNK_END,
    };
    hash_inputs(inputs, chunks, cvs);
}

void blake3_parents(const struct blake3_mode *mode, const uint8_t *children, size_t parents, uint8_t *cvs) {
    struct blake3_inputs inputs = {
        .first = children,
        .stride = BLAKE3_MESSAGE_BYTES,
        .messages = 1,
        .key = mode->key,
        .flags = mode->flags | BLAKE3_PARENT,
    };
    hash_inputs(inputs, parents, cvs);
}
