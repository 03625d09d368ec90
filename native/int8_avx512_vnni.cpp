// The 8-bit kernels for AVX-512 with VNNI: one instruction multiplies and adds 64 bytes, exactly.
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
#define RACELINE_SPLITS 0

namespace raceline {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vnni,avx2,fma")
#endif
namespace {
#include "vector_avx512.inc"
#include "vector_math.inc"
#include "words_avx512.inc"
template <bool wide>
INLINE I dot(I sum, I a, I b) {
    return _mm512_dpbusd_epi32(sum, a, b);
}
#include "int8_kernels.inc"
}  // namespace

const Int8Kernels& int8_avx512_vnni() {
    static const Int8Kernels set = [] {
        Int8Kernels made = begin_set("avx512_vnni");
        list_form<false, 14, 14, 9, 6>(made);
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
