/* Four lanes: SSE4.1 on x86-64, NEON on aarch64 (where every CPU has it). */
#include "blake3_machine.h"

#if BLAKE3_HAS_X86_LANES || BLAKE3_HAS_NEON_LANES
#define LANES 4
#define SETS 1
#define KERNEL blake3_lanes4
#if BLAKE3_HAS_X86_LANES
#define KERNEL_NAME "sse4.1"
#define TARGET __attribute__((target("sse4.1")))
#else
#define KERNEL_NAME "neon"
#define TARGET
#endif
#include "blake3_lanes.h"
#endif
