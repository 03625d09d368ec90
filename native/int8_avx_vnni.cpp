// The 8-bit kernels for AVX2 with AVX-VNNI: one instruction multiplies and adds 32 bytes, exactly.
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "int8.hpp"

#if defined(__x86_64__)

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 0
#define RACELINE_SPLITS 0

namespace raceline {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#endif
namespace {
#include "vector_avx2.inc"
#include "vector_math.inc"
#include "words_avx2.inc"
template <bool wide>
INLINE I dot(I sum, I a, I b) {
    return _mm256_dpbusd_avx_epi32(sum, a, b);
}
#include "int8_kernels.inc"
}  // namespace

const Int8Kernels& int8_avx_vnni() {
    static const Int8Kernels set = [] {
        Int8Kernels made = begin_set("avx_vnni");
        list_form<false, 12, 6, 4, 0>(made);
        return made;
    }();
    return set;
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace raceline

#endif
