/* Four lanes where there is AVX-512: thirty-two registers and a rotation make the same width a good deal faster. */
#include "blake3_machine.h"

#if BLAKE3_HAS_X86_LANES
#define LANES 4
#define SETS 1
#define KERNEL blake3_lanes4_vl
#define KERNEL_NAME "avx512-4"
#define TARGET BLAKE3_TARGET_AVX512
#include "blake3_lanes.h"
#endif
