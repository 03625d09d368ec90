// What steps over matrices share.
#pragma once

#include <algorithm>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "net_rows.hpp"

namespace raceline::net {

inline void require(bool fits, const char* what) {
    if (!fits) throw BadNet(what);
}

inline void require_result(const Value& y) { require(y.place != Place::input, "an input is not written"); }
inline void require_rows(const Value& v) { require(v.h == 1 && v.w == 1 && v.n > 0 && v.c > 0, "a matrix has one pixel"); }

// A net's threads for kernels that know no net.
class OnPool final : public Parallel {
  public:
    explicit OnPool(Pool& pool) : pool_(pool) {}
    int threads() const override { return pool_.threads(); }
    void run_each(std::int64_t count, void (*body)(void*, std::int64_t), void* context) override {
        std::exception_ptr failure;
        std::mutex mutex;
        pool_.run(count, [&](std::int64_t index, int) {
            try {
                body(context, index);
            } catch (...) {
                const std::lock_guard lock(mutex);
                failure = std::current_exception();
            }
        });
        if (failure) std::rethrow_exception(failure);
    }

  private:
    Pool& pool_;
};

inline const DenseKernels& kernels_like(const Kernels& kernels) {
    const DenseKernels* narrowest = nullptr;
    for (const DenseKernels* set : dense_kernels()) {
        if (std::string(set->name) == kernels.name) return *set;
        narrowest = set;
    }
    return *narrowest;
}

// A layer norm and the numbers that it holds.
class HeldNorm {
  public:
    HeldNorm() = default;
    HeldNorm(const NormSpec& spec, std::int64_t columns)
        : scale_(spec.scale, spec.scale + columns), shift_(columns, 0.0f), epsilon_(spec.epsilon) {
        if (spec.shift) shift_.assign(spec.shift, spec.shift + columns);
    }
    bool there() const { return !scale_.empty(); }
    Normalise get() const { return {std::int64_t(scale_.size()), scale_.data(), shift_.data(), epsilon_}; }

  private:
    std::vector<float> scale_, shift_;
    float epsilon_ = 0;
};

// A layer norm of the rows of x, by all threads; y may be x.
inline void normalise(const Call& call, const HeldNorm& held, const Value& x, const Value& y,
                      const DenseKernels& kernels) {
    constexpr std::int64_t together = 32;
    const Normalise norm = held.get();
    call.pool.run((x.n + together - 1) / together, [&](std::int64_t part, int) {
        const std::int64_t row = part * together, rows = std::min(together, x.n - row);
        kernels.normalise(norm, call.at(x, row), x.image_stride, rows, call.at(y, row), y.image_stride);
    });
}

}  // namespace raceline::net
