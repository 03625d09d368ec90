// How fast this machine multiplies, adds and moves memory. All rates are the best of several short runs:
// other work on the machine can only slow a run down.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace raceline {

// Get this process the right to run `kernel`; only AMX needs it. Throws std::runtime_error if it is refused.
void allow(const Kernel& kernel);

// Cycles per second of the calling thread's core, measured while it is busy.
double measure_clock_hz();

// Operations per second of one kernel, on all of `cpus` at once; where empty, on the calling thread.
double measure_ops_per_s(const Kernel& kernel, const std::vector<int>& cpus);

// STREAM triad, a = b + s * c, over three arrays of `size_bytes` in all, spread over `cpus` (where empty, on
// the calling thread). Counted as STREAM does: two reads and one write.
// Throws std::bad_alloc where memory does not suffice.
double measure_triad_bytes_per_s(std::int64_t size_bytes, const std::vector<int>& cpus);

}  // namespace raceline
