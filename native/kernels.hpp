// Loops that do nothing but multiply and add, one for each instruction set, to see how fast the core can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "Raceline's kernels are written for x86-64 and 64-bit ARM"
#endif

namespace raceline {

struct Kernel {
    const char* precision;        // "fp32", "int8" or "bf16"
    const char* instruction_set;  // the name in cpu.hpp whose presence it needs
    double ops;                   // operations of one iteration; a multiply-add counts as two
    double product;               // what one multiply-add adds to the total
    // Run `iterations` and return the sum of all accumulators: iterations * ops / 2 * product, as long as
    // that is small enough to be exact. A loop that the compiler thinned out returns something else.
    double (*run)(std::int64_t iterations);
};

// The kernels compiled for this architecture, whether or not this CPU has their instructions.
const std::vector<Kernel>& compiled_kernels();

// Run a chain of dependent instructions whose latency is the same on every core of this architecture:
// iterations * chain_cycles cycles.
extern const int chain_cycles;
void run_chain(std::int64_t iterations);

// a = b + triad_scale * c for `count` numbers, a multiple of 16; all arrays are aligned to 64 bytes. Written
// past the caches where the CPU can, so that what is counted is what moves: two reads and one write.
constexpr float triad_scale = 3.0f;
void triad(float* a, const float* b, const float* c, std::int64_t count);

// Sum of the numbers of type T that fill `size_bytes` at `data`.
template <typename T>
static double total(const void* data, std::size_t size_bytes) {
    double all = 0;
    for (std::size_t at = 0; at < size_bytes; at += sizeof(T)) {
        T value;
        __builtin_memcpy(&value, static_cast<const char*>(data) + at, sizeof value);
        all += value;
    }
    return all;
}

}  // namespace raceline
