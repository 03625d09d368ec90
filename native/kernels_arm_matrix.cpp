// Kernels for newer ARM instructions. CMake compiles this one file for them, since clang before version 16
// hides their intrinsics otherwise; so nothing here may be shared with other files: no standard library, no
// inline function that is not static.
#include "kernel_loop.hpp"

#if defined(__aarch64__)

#include <arm_neon.h>

namespace raceline {
namespace {

uint16x8_t bf16_halves() {
    std::uint16_t half = 0x3f00;    // bf16 0.5
    asm volatile("" : "+r"(half));  // gcc 12 would load the constant by an instruction of another extension
    return vdupq_n_u16(half);
}

}  // namespace

KERNEL(int8_dotprod, , std::int32_t, vdupq_n_s32(0), vdupq_n_s8(3), vdupq_n_s8(2), vdotq_s32(s, x, y))

KERNEL(int8_i8mm, , std::int32_t, vdupq_n_s32(0), vdupq_n_s8(3), vdupq_n_s8(2), vmmlaq_s32(s, x, y))

KERNEL(bf16_matrix, , float, vdupq_n_f32(0), bf16_halves(), bf16_halves(),
       vbfmmlaq_f32(s, vreinterpretq_bf16_u16(x), vreinterpretq_bf16_u16(y)))

}  // namespace raceline

#endif
