// The fastest of a few ways to compute the same, found by timing them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace raceline {

struct Fastest {
    std::size_t way;
    double seconds;  // of computing, the least of its runs; 1e30 where there was nothing to compare
};

// Prepares and then runs ways 0, 1, ..., the likeliest first as time may run out; returns the fastest. Takes about
// `seconds` and at least one run. On the calling thread.
Fastest fastest_of(std::size_t ways, const std::function<void(std::size_t)>& prepare,
                   const std::function<void(std::size_t)>& run, double seconds);

// Larger shapes are timed on a part of this size: what holds for it holds for more.
constexpr std::int64_t most_trial_rows = 1024, most_trial_k = 2048, most_trial_n = 1536;

}  // namespace raceline
