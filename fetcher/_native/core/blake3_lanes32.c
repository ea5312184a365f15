/* Thirty-two lanes: AVX-512, two vectors side by side. */
#include "blake3_machine.h"

#if BLAKE3_HAS_X86_LANES32
#define LANES 32
#define SETS 2
#define KERNEL blake3_lanes32
#define KERNEL_NAME "avx512x2"
#define TARGET BLAKE3_TARGET_AVX512
#include "blake3_lanes.h"
#endif
