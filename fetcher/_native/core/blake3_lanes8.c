/* Eight lanes: AVX2. */
#include "blake3_machine.h"

#if BLAKE3_HAS_X86_LANES
#define LANES 8
#define SETS 1
#define KERNEL blake3_lanes8
#define KERNEL_NAME "avx2"
#define TARGET __attribute__((target("avx2")))
#include "blake3_lanes.h"
#endif
