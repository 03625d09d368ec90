// 32 registers of sixteen floats: a tile of two blocks and fourteen pixels takes 28 for its sums.
#if defined(__x86_64__)
#define LANES 16
#define TABLE avx512_kernels
#define NAME "avx512"
#define PIXELS_1 14
#define PIXELS_2 14
#define PIXELS_3 9
#define PIXELS_4 6
#include "net_kernels.inc"
#endif
