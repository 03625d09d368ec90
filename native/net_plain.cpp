// For any CPU: registers of four floats, which x86-64 and 64-bit ARM both have.
#define LANES 4
#define TABLE plain_kernels
#define NAME "plain"
#define PIXELS_1 2
#define PIXELS_2 1
#define PIXELS_3 1
#define PIXELS_4 1
#include "net_kernels.inc"
