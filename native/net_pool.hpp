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
    // `thread` is less than threads(), and no two calls at one time share it.
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
    bool wait_for_round(std::uint64_t seen);

    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<std::uint64_t> round_{0};  // of work that was given out
    std::atomic<bool> busy_{false}, stop_{false};
    std::atomic<std::int64_t> next_{0};
    std::atomic<int> working_{0};
    std::int64_t count_ = 0;
    const std::function<void(std::int64_t, int)>* work_ = nullptr;
};

}  // namespace raceline::net
