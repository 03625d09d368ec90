// The dense kernels for AVX2 with FMA: 16 registers of 8 floats.
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "dense.hpp"

#if defined(__x86_64__)

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 0

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
#include "dense_kernels.inc"
}  // namespace

const DenseKernels& dense_avx2() {
    static const DenseKernels set = make_kernels<12, 6, 4, 0>("avx2");
    return set;
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace raceline

#endif
