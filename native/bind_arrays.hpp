// What the bindings of kernels share: checks of arrays, and threads for one call.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dense.hpp"
#include "parallel.hpp"

namespace nb = nanobind;

namespace raceline {
using In = nb::ndarray<const float, nb::device::cpu>;
using Out = nb::ndarray<float, nb::device::cpu>;

// Threads made for one call: enough to show that a kernel's split is right; an engine brings a pool.
class Fresh final : public Parallel {
public:
    explicit Fresh(int threads) : threads_(threads) {
        if (threads < 1 || threads > 256) throw nb::value_error("threads must be 1 to 256");
    }
    int threads() const override { return threads_; }
    void run_each(std::int64_t count, void (*body)(void*, std::int64_t), void* context) override {
        std::vector<std::exception_ptr> failures(threads_);
        const auto part = [&](int thread) {
            try {
                for (std::int64_t index = thread; index < count; index += threads_) body(context, index);
            } catch (...) {
                failures[thread] = std::current_exception();
            }
        };
        std::vector<std::thread> team;
        for (int thread = 1; thread < threads_; ++thread) team.emplace_back(part, thread);
        part(0);
        for (auto& member : team) member.join();
        for (const auto& failure : failures)
            if (failure) std::rethrow_exception(failure);
    }

private:
    int threads_;
};

inline void need(bool condition, const char* message) {
    if (!condition) throw nb::value_error(message);
}

inline void need_contiguous_last(std::size_t ndim, std::int64_t size, std::int64_t stride) {
    need(ndim > 0 && (size <= 1 || stride == 1), "the last axis must be contiguous");
}

template <typename Array>
void need_matrix(const Array& x, std::int64_t columns, const char* message) {
    need(x.ndim() == 2 && std::int64_t(x.shape(1)) == columns, message);
    if (x.size() == 0) return;  // NumPy's strides mean nothing there
    need_contiguous_last(2, columns, x.stride(1));
    need(x.shape(0) <= 1 || x.stride(0) >= columns, "rows must not overlap");
}

template <typename Array>
std::int64_t row_stride(const Array& x) {
    return x.shape(0) <= 1 ? std::int64_t(x.shape(1)) : x.stride(0);
}

inline const float* vector_of(const std::optional<In>& x, std::int64_t size, const char* message) {
    if (!x) return nullptr;
    need(x->ndim() == 1 && std::int64_t(x->shape(0)) == size && (size <= 1 || x->stride(0) == 1), message);
    return x->data();
}

inline Activation activation_of(const std::string& name) {
    const char* names[] = {"", "relu", "gelu", "gelu_tanh", "silu"};
    for (int i = 0; i < 5; ++i)
        if (name == names[i]) return Activation(i);
    throw nb::value_error(("there is no activation " + name).c_str());
}

}  // namespace raceline
