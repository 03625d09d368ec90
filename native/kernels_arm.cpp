#include "kernel_loop.hpp"

#if defined(__aarch64__)

#include <arm_neon.h>

namespace raceline {

double int8_dotprod(std::int64_t iterations);  // kernels_arm_matrix.cpp
double int8_i8mm(std::int64_t iterations);
double bf16_matrix(std::int64_t iterations);

namespace {

KERNEL(fp32_neon, , float, vdupq_n_f32(0), vdupq_n_f32(0.5f), vdupq_n_f32(0.5f), vfmaq_f32(s, x, y))

// Without dotprod: bytes to 16-bit products, added in pairs to 32-bit sums.
KERNEL(int8_neon, , std::int32_t, vdupq_n_s32(0), vdupq_n_s8(3), vdupq_n_s8(2),
       vpadalq_s16(s, vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(y)), x, y)))

}  // namespace

const std::vector<Kernel>& compiled_kernels() {
    constexpr double ops_per_lane = 2.0 * sums;
    static const std::vector<Kernel> all = {
        {"fp32", "neon", 4 * ops_per_lane, 0.25, fp32_neon},
        {"int8", "neon", 16 * ops_per_lane, 6, int8_neon},
        {"int8", "dotprod", 16 * ops_per_lane, 6, int8_dotprod},
        {"int8", "i8mm", 32 * ops_per_lane, 6, int8_i8mm},
        {"bf16", "bf16", 16 * ops_per_lane, 0.25, bf16_matrix},
    };
    return all;
}

// These cores notice that whole lines are written and do not read them first.
void triad(float* __restrict a, const float* __restrict b, const float* __restrict c, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) a[i] = b[i] + triad_scale * c[i];
}

// Additions: one cycle everywhere.
const int chain_cycles = 64;

void run_chain(std::int64_t iterations) {
    std::int64_t x = 1;
    const std::int64_t y = 3;
    for (std::int64_t i = 0; i < iterations; ++i)
        for (int k = 0; k < chain_cycles; ++k) asm volatile("add %0, %0, %1" : "+r"(x) : "r"(y));
}

}  // namespace raceline

#endif
