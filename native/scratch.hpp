// Aligned memory for kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "sanitized.hpp"

namespace raceline {

struct FreeFloats {
    void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, FreeFloats>;

// Throws std::bad_alloc, also for a count that is negative or absurd.
inline Floats allocate_floats(std::int64_t count) {
    constexpr std::int64_t line = 64, most = std::int64_t(1) << 44;
    if (count < 0 || count > most) throw std::bad_alloc();
    const std::size_t bytes = (std::size_t(count) * sizeof(float) / line + 1) * line;
    Floats floats(static_cast<float*>(std::aligned_alloc(line, bytes)));
    if (!floats) throw std::bad_alloc();
    forbid(floats.get() + count, bytes - std::size_t(count) * sizeof(float));
    return floats;
}

// Between arrays that share a work space: nothing, but where a sanitizer is to see who goes beyond his own.
constexpr std::int64_t gap_floats = sanitized ? 16 : 0;
inline float* after_gap(float* end) {
    forbid(end, gap_floats * sizeof(float));
    return end + gap_floats;
}

// The calling thread's own work space, kept between calls: fresh pages would cost more than small products.
// A second call may move it, and does so where a sanitizer is to see its end.
inline float* scratch_floats(std::int64_t count) {
    thread_local Floats floats;
    thread_local std::int64_t held = 0;
    if (count > held || sanitized) {
        floats.reset();
        held = 0;
        floats = allocate_floats(count);
        held = count;
    }
    return floats.get();
}

inline std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

}  // namespace raceline
