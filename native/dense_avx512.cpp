// The dense kernels for AVX-512: 32 registers of 16 floats.
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

#include "dense.hpp"

#if defined(__x86_64__)

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 1

namespace raceline {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx2,fma")
#endif
namespace {
#include "vector_avx512.inc"
#include "vector_math.inc"
#include "dense_kernels.inc"
}  // namespace

const DenseKernels& dense_avx512() {
    static const DenseKernels set = make_kernels<14, 14, 9, 6>("avx512");
    return set;
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace raceline

#endif
