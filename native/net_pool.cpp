#include "net_pool.hpp"

namespace raceline::net {
namespace {

constexpr int looks = 4000;  // before a waiting thread lets others run; some ten microseconds

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) {
    try {
        for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
    } catch (...) {  // the system has no more threads: those that are there must end
        stop_ = true;
        wake_.notify_all();
        for (auto& helper : helpers_) helper.join();
        throw;
    }
}

Pool::~Pool() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
}

Pool::Busy::Busy(Pool& pool) : pool_(pool) {
    if (pool_.helpers_.empty()) return;
    {
        std::lock_guard lock(pool_.mutex_);
        pool_.busy_ = true;
    }
    pool_.wake_.notify_all();
}
Pool::Busy::~Busy() { pool_.busy_ = false; }

void Pool::run(std::int64_t count, const std::function<void(std::int64_t, int)>& work) {
    if (helpers_.empty() || count <= 1) {
        for (std::int64_t i = 0; i < count; ++i) work(i, 0);
        return;
    }
    work_ = &work;
    count_ = count;
    next_ = 0;
    working_ = int(helpers_.size());
    {
        std::lock_guard lock(mutex_);
        ++round_;
    }
    wake_.notify_all();
    take(0);
    for (int i = 0; working_.load(std::memory_order_acquire) > 0; ++i) {
        pause();
        if (i > looks) std::this_thread::yield();  // a helper may wait for this very core
    }
}

void Pool::take(int thread) {
    for (std::int64_t i; (i = next_.fetch_add(1)) < count_;) (*work_)(i, thread);
}

bool Pool::wait_for_round(std::uint64_t seen) {
    for (int i = 0; busy_ && !stop_; ++i) {
        if (round_.load(std::memory_order_acquire) != seen) return true;
        pause();
        if (i > looks) std::this_thread::yield();
    }
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stop_ || busy_ || round_ != seen; });
    return !stop_;
}

void Pool::help(int thread) {
    std::uint64_t seen = 0;
    while (wait_for_round(seen)) {
        if (round_.load(std::memory_order_acquire) == seen) continue;  // woken to keep watch
        ++seen;
        take(thread);
        working_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace raceline::net
