// The 8-bit kernels for AVX-512 without VNNI. See int8_avx2.cpp.
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// gcc's own intrinsics start from a register that they leave undefined (gcc bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

#include "int8.hpp"

#if defined(__x86_64__)

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 1
#define RACELINE_SPLITS 1

namespace raceline {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx2,fma")
#endif
namespace {
#include "vector_avx512.inc"
#include "vector_math.inc"
#include "words_avx512.inc"
INLINE I products_in_pairs(I a, I b) { return _mm512_maddubs_epi16(a, b); }
INLINE I add_halves(I x, I y) { return _mm512_add_epi16(x, y); }
INLINE I add_pairs(I sum, I halves, I by) {
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(halves, by));
    // Or the compiler, which knows that the order of additions does not matter, would multiply far ahead and run
    // out of registers.
    asm("" : "+v"(sum));
    return sum;
}
INLINE I ones() { return _mm512_set1_epi16(1); }
template <bool wide>
INLINE I dot(I sum, I a, I b) {
    return wide ? add_pairs(sum, a, b) : add_pairs(sum, products_in_pairs(a, b), ones());
}
#include "int8_kernels.inc"
}  // namespace

const Int8Kernels& int8_avx512() {
    static const Int8Kernels set = [] {
        Int8Kernels made = begin_set("avx512bw");
        list_form<true, 14, 14, 8, 6>(made);
        list_form<false, 14, 13, 8, 6>(made);
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
