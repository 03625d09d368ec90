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
    if (helpers_.empty() || count <= 1 || count > std::int64_t(most_left)) {
        for (std::int64_t i = 0; i < count; ++i) work(i, 0);
        return;
    }
    work_ = &work;
    count_ = count;
    undone_.store(count, std::memory_order_relaxed);
    const std::uint64_t round = left_.load(std::memory_order_relaxed) / (most_left + 1) + 1;
    left_.store(round * (most_left + 1) + std::uint64_t(count), std::memory_order_release);
    take(0);
    for (int i = 0; undone_.load(std::memory_order_acquire) > 0; ++i) {
        pause();
        if (i > looks) std::this_thread::yield();  // a helper may wait for this very core
    }
}

// Whoever takes an index keeps the round from ending until it is done, so that what it reads then is the round's
// own; a helper that comes late finds nothing left, and nobody waits for it.
void Pool::take(int thread) {
    std::uint64_t left = left_.load(std::memory_order_acquire);
    while (left & most_left) {
        if (!left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) continue;
        (*work_)(count_ - std::int64_t(left & most_left), thread);
        undone_.fetch_sub(1, std::memory_order_release);
        left = left_.load(std::memory_order_acquire);
    }
}

void Pool::help(int thread) {
    while (!stop_) {
        take(thread);
        for (int i = 0; busy_ && !stop_ && !(left_.load(std::memory_order_acquire) & most_left); ++i) {
            pause();
            if (i > looks) std::this_thread::yield();
        }
        if (busy_) continue;
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || busy_; });
    }
}

}  // namespace raceline::net
