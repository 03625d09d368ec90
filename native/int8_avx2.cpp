// The 8-bit kernels for AVX2 without VNNI. Its one instruction for bytes adds pairs of products in 16 bits with
// saturation, which is exact only for weights that were split before (see Int8Gemm::split); 16-bit halves are exact
// always, at one more instruction in three.
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "int8.hpp"

#if defined(__x86_64__)

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 0
#define RACELINE_SPLITS 1

namespace raceline {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace {
#include "vector_avx2.inc"
#include "vector_math.inc"
#include "words_avx2.inc"
INLINE I products_in_pairs(I a, I b) { return _mm256_maddubs_epi16(a, b); }
INLINE I add_halves(I x, I y) { return _mm256_add_epi16(x, y); }
INLINE I add_pairs(I sum, I halves, I by) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(halves, by));
    // Or the compiler, which knows that the order of additions does not matter, would multiply far ahead and run
    // out of registers.
    asm("" : "+x"(sum));
    return sum;
}
INLINE I ones() { return _mm256_set1_epi16(1); }
template <bool wide>
INLINE I dot(I sum, I a, I b) {
    return wide ? add_pairs(sum, a, b) : add_pairs(sum, products_in_pairs(a, b), ones());
}
#include "int8_kernels.inc"
}  // namespace

const Int8Kernels& int8_avx2() {
    static const Int8Kernels set = [] {
        Int8Kernels made = begin_set("avx2");
        list_form<true, 12, 6, 4, 0>(made);
        list_form<false, 10, 5, 3, 0>(made);
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
