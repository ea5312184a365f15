/* Which wide kernels this compiler can build for this machine. Whether the CPU at hand can run them is asked at run time. */
#ifndef FETCHER_BLAKE3_MACHINE_H
#define FETCHER_BLAKE3_MACHINE_H

#include "blake3.h"

#ifndef __has_builtin /* gcc < 10 */
#define __has_builtin(name) 0
#endif

/* FETCHER_PORTABLE_ONLY: for compilers and CPUs that nobody has tried. */
#if __has_builtin(__builtin_shufflevector) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && !defined FETCHER_PORTABLE_ONLY
#if defined __x86_64__
#define BLAKE3_HAS_X86_LANES 1
#elif defined __aarch64__
#define BLAKE3_HAS_NEON_LANES 1
#endif
#endif

#if BLAKE3_HAS_X86_LANES
extern const struct blake3_kernel blake3_lanes4, blake3_lanes8;
extern const struct blake3_kernel blake3_lanes4_vl, blake3_lanes8_vl, blake3_lanes16;
/* Tuned because of gcc: its general schedule of the two-vector kernel was measured to be 6 % slower, on AMD's Zen 5 too. */
#define BLAKE3_TARGET_AVX512 __attribute__((target("avx512f,avx512vl,tune=skylake")))
#if !defined __clang__ /* which spills so much of two states that its one-vector kernel is faster (clang 14) */
#define BLAKE3_HAS_X86_LANES32 1
extern const struct blake3_kernel blake3_lanes32;
#endif
#elif BLAKE3_HAS_NEON_LANES
extern const struct blake3_kernel blake3_lanes4;
#endif

#endif
