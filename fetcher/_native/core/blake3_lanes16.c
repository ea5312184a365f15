/* Sixteen lanes: AVX-512. */
#include "blake3_machine.h"

#if BLAKE3_HAS_X86_LANES
#define LANES 16
#define KERNEL blake3_lanes16
#define KERNEL_NAME "avx512"
#define TARGET __attribute__((target("avx512f,avx512vl")))
#include "blake3_lanes.h"
#endif
