// The 8-bit kernels for any CPU, on 16-bit halves: every 64-bit x86 multiplies and adds pairs of those.
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "int8.hpp"

#define INLINE static inline __attribute__((always_inline))
#define RACELINE_TABLES 0
#define RACELINE_SPLITS 0

namespace raceline {
namespace {
#include "vector_plain.inc"
#include "vector_math.inc"
#include "words_plain.inc"
template <bool wide>
INLINE I dot(I sum, I a, I b) {
#if defined(__x86_64__)
    sum += (I)_mm_madd_epi16((__m128i)a, (__m128i)b);
    asm("" : "+x"(sum));  // see int8_avx2.cpp
#else
    typedef std::int16_t Halves __attribute__((vector_size(16)));
    const Halves x = (Halves)a, y = (Halves)b;
    for (int i = 0; i < lanes; ++i) sum[i] += x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
#endif
    return sum;
}
#include "int8_kernels.inc"
}  // namespace

const Int8Kernels& int8_plain() {
    static const Int8Kernels set = [] {
        Int8Kernels made = begin_set("plain");
        list_form<true, 8, 4, 0, 0>(made);
        return made;
    }();
    return set;
}
}  // namespace raceline
