// Threads that share the work of one call after another; between calls they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace raceline::net {

class Pool {
  public:
    // The caller of `run` is one of the threads.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return int(helpers_.size()) + 1; }

    // Calls work(index, thread) for every index below `count`, each once, and returns when all are done.
    // `thread` is less than threads(), and no two calls at one time share it. Helpers that sleep, or that other
    // programs keep from their core, are not waited for.
    void run(std::int64_t count, const std::function<void(std::int64_t, int)>& work);

    // While one of these lives helpers wait for work with open eyes: operators follow each other in
    // microseconds, and waking takes longer.
    class Busy {
      public:
        explicit Busy(Pool& pool);
        ~Busy();

      private:
        Pool& pool_;
    };

  private:
    void help(int thread);
    void take(int thread);

    static constexpr std::uint64_t most_left = (std::uint64_t(1) << 32) - 1;

    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<bool> busy_{false}, stop_{false};
    // The round in the upper half, so that no index of one is taken for another's; below, how many indices are
    // left to take.
    std::atomic<std::uint64_t> left_{0};
    std::atomic<std::int64_t> undone_{0};
    std::int64_t count_ = 0;
    const std::function<void(std::int64_t, int)>* work_ = nullptr;
};

}  // namespace raceline::net
