/* Which SHA-256 kernel runs. */
#include "sha256_machine.h"

#include <string.h>

#if SHA256_HAS_X86
#include <cpuid.h>
#elif SHA256_HAS_ARM
#include <sys/auxv.h>
#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6) /* Linux, arch/arm64 */
#endif
#endif

#define KERNELS_MAX 2

/* What this CPU can run, fastest first. Filled once, before there is a second thread. */
static const struct sha256_kernel *kernels[KERNELS_MAX] = {&sha256_portable};
static size_t kernel_count = 1;

/* Relaxed atomics because any value that was ever stored is a good one. */
static size_t active_index = 0;

#if SHA256_HAS_X86
/* CPUID itself, because not every compiler's __builtin_cpu_supports knows "sha". */
static bool cpu_has_sha(void) {
    unsigned int a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1))
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_SHA;
}
#endif

void sha256_kernel_detect(void) {
    kernel_count = 0;
#if SHA256_HAS_X86
    if (cpu_has_sha())
        kernels[kernel_count++] = &sha256_x86;
#elif SHA256_HAS_ARM
    if (getauxval(AT_HWCAP) & HWCAP_SHA2)
        kernels[kernel_count++] = &sha256_arm;
#endif
    kernels[kernel_count++] = &sha256_portable;
}

const char *sha256_kernel_name(size_t index) { return index < kernel_count ? kernels[index]->name : NULL; }

static const struct sha256_kernel *active(void) { return kernels[__atomic_load_n(&active_index, __ATOMIC_RELAXED)]; }

const char *sha256_kernel_active(void) { return active()->name; }

bool sha256_kernel_choose(const char *name) {
    for (size_t i = 0; i < kernel_count; i++) {
        if (strcmp(kernels[i]->name, name) == 0) {
            __atomic_store_n(&active_index, i, __ATOMIC_RELAXED);
            return true;
        }
    }
    return false;
}

void sha256_one(uint32_t words[SHA256_WORDS], const uint8_t *data, size_t messages) { active()->one(words, data, messages); }

void sha256_two(uint32_t words_a[SHA256_WORDS], const uint8_t *data_a, uint32_t words_b[SHA256_WORDS], const uint8_t *data_b,
                size_t messages) {
    active()->two(words_a, data_a, words_b, data_b, messages);
}
