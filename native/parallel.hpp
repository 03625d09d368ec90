// The seam between kernels and whoever owns the threads.
#pragma once

#include <cstdint>

namespace raceline {

// Runs `body(context, index)` for every index below `count`, in any order, on any threads, and returns when
// all are done. Kernels split their work so that the numbers do not depend on who computes what.
class Parallel {
public:
    virtual ~Parallel() = default;
    virtual int threads() const = 0;
    virtual void run_each(std::int64_t count, void (*body)(void*, std::int64_t), void* context) = 0;

    template <typename Body>
    void run(std::int64_t count, Body body) {
        run_each(count, [](void* context, std::int64_t index) { (*static_cast<Body*>(context))(index); }, &body);
    }
};

// The calling thread alone.
class Alone final : public Parallel {
public:
    int threads() const override { return 1; }
    void run_each(std::int64_t count, void (*body)(void*, std::int64_t), void* context) override {
        for (std::int64_t index = 0; index < count; ++index) body(context, index);
    }
};

}  // namespace raceline
