/* Which kernels with instructions for SHA-256 this compiler can build for this machine. Whether the CPU has them is asked at run time. */
#ifndef FETCHER_SHA256_MACHINE_H
#define FETCHER_SHA256_MACHINE_H

#include "sha256.h"

#if !defined FETCHER_PORTABLE_ONLY && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#if defined __x86_64__
#define SHA256_HAS_X86 1
extern const struct sha256_kernel sha256_x86;
#elif defined __aarch64__
#define SHA256_HAS_ARM 1
extern const struct sha256_kernel sha256_arm;
#endif
#endif

#endif
