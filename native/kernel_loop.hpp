// The loop that every register kernel shares.
#pragma once

#include "kernels.hpp"

// A multiply-add takes 4 or 5 cycles; x86 cores start two in each, wide ARM cores four. So 12 and 16
// independent sums keep the units busy, and they fit the registers beside their operands. Each sum is a
// variable of its own, for compilers leave an array in memory.
#if defined(__x86_64__)
#define EACH_SUM(DO, what)                                                          \
    DO(0, what) DO(1, what) DO(2, what) DO(3, what) DO(4, what) DO(5, what)         \
    DO(6, what) DO(7, what) DO(8, what) DO(9, what) DO(10, what) DO(11, what)
#define IN_REGISTER "+v"
constexpr int sums = 12;
#else
#define EACH_SUM(DO, what)                                                          \
    DO(0, what) DO(1, what) DO(2, what) DO(3, what) DO(4, what) DO(5, what)         \
    DO(6, what) DO(7, what) DO(8, what) DO(9, what) DO(10, what) DO(11, what)       \
    DO(12, what) DO(13, what) DO(14, what) DO(15, what)
#define IN_REGISTER "+w"
constexpr int sums = 16;
#endif

// An empty asm that claims to change a register. Without it the compiler would see that all sums hold the
// same value and keep one, or compute an integer product once, before the loop.
#define OPAQUE(value) asm volatile("" : IN_REGISTER(value))

// Defines `double name(int64_t iterations)`, compiled with `attributes`. Its sums start at `zero`; each
// iteration assigns `step`, an expression of s, x and y, to each of them in turn as s. Their lanes are of
// type Number.
#define KERNEL(name, attributes, Number, zero, x_value, y_value, step) \
    attributes double name(std::int64_t iterations) {                  \
        auto x = x_value, y = y_value;                                 \
        EACH_SUM(DECLARE_SUM, zero)                                    \
        for (std::int64_t i = 0; i < iterations; ++i) {                \
            EACH_SUM(ADD_TO_SUM, step)                                 \
        }                                                              \
        const decltype(s0) all[] = {EACH_SUM(LIST_SUM, )};             \
        return total<Number>(all, sizeof all);                         \
    }
#define DECLARE_SUM(k, zero) \
    auto s##k = zero;        \
    OPAQUE(s##k);
#define ADD_TO_SUM(k, step) \
    {                       \
        OPAQUE(x);          \
        auto& s = s##k;     \
        s = step;           \
    }
#define LIST_SUM(k, _) s##k,
