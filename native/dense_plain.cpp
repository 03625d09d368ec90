// The dense kernels for any CPU.
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "dense.hpp"

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 0

namespace raceline {
namespace {
#include "vector_plain.inc"
#include "vector_math.inc"
#include "dense_kernels.inc"
}  // namespace

const DenseKernels& dense_plain() {
    static const DenseKernels set = make_kernels<8, 4, 0, 0>("plain");
    return set;
}
}  // namespace raceline
