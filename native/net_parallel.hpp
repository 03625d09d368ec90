// The seam between a net's threads and kernels that know no net.
#pragma once

#include <exception>
#include <mutex>

#include "net_pool.hpp"
#include "parallel.hpp"

namespace raceline::net {

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

}  // namespace raceline::net
