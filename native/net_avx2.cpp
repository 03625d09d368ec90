// Sixteen registers of eight floats: a tile of one block and six pixels takes twelve for its sums.
#if defined(__x86_64__)
#define LANES 8
#define TABLE avx2_kernels
#define NAME "avx2"
#define PIXELS_1 6
#define PIXELS_2 2
#define PIXELS_3 1
#define PIXELS_4 1
#include "net_kernels.inc"
#endif
