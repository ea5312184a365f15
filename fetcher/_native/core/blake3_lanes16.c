/* Sixteen lanes: AVX-512. */
#include "blake3_machine.h"

#if BLAKE3_HAS_X86_LANES
#define LANES 16
#define SETS 1
#define KERNEL blake3_lanes16
#define KERNEL_NAME "avx512"
#define TARGET BLAKE3_TARGET_AVX512
#include "blake3_lanes.h"
#endif
