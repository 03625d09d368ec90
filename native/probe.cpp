#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#endif

#include "cpu.hpp"

namespace raceline {
namespace {

using Clock = std::chrono::steady_clock;

using Seconds = std::chrono::duration<double>;

void keep_smaller(double& best, Seconds took) { best = std::min(best, took.count()); }

// Tie the calling thread to one CPU. Best effort: where it is refused, the scheduler spreads the threads.
void stay_on([[maybe_unused]] int cpu) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#endif
}

// Lets threads start each round together; they yield while they wait, for there may be more than cores.
class Gate {
public:
    explicit Gate(int threads) : threads_(threads) {}

    void wait() {
        const int round = round_.load();
        if (arrived_.fetch_add(1) + 1 == threads_) {
            arrived_.store(0);
            round_.fetch_add(1);
            return;
        }
        while (round_.load() == round) std::this_thread::yield();
    }

private:
    const int threads_;
    std::atomic<int> arrived_{0}, round_{0};
};

struct Shortest {
    double round_s = 1e30;         // from the first start to the last end
    std::vector<double> thread_s;  // of each thread by itself
};

// Run `body(thread)` on all CPUs at once, `rounds` times, and keep the shortest times. `prepare(thread)` runs
// once before, on the same CPU.
template <typename Prepare, typename Body>
Shortest run_rounds(const std::vector<int>& cpus, int rounds, Prepare prepare, Body body) {
    const int threads = std::max<int>(1, cpus.size());
    std::vector<Clock::time_point> starts(threads), ends(threads);
    Gate gate(threads);
    Shortest shortest;
    shortest.thread_s.assign(threads, 1e30);
    const auto work = [&](int thread) {
        prepare(thread);
        for (int round = 0; round < rounds; ++round) {
            gate.wait();
            starts[thread] = Clock::now();
            body(thread);
            ends[thread] = Clock::now();
            keep_smaller(shortest.thread_s[thread], ends[thread] - starts[thread]);
            gate.wait();
            if (thread == 0)
                keep_smaller(shortest.round_s, *std::max_element(ends.begin(), ends.end()) -
                                                   *std::min_element(starts.begin(), starts.end()));
        }
    };
    if (cpus.empty()) {
        work(0);
        return shortest;
    }
    std::vector<std::thread> team;
    for (int thread = 0; thread < threads; ++thread)
        team.emplace_back([&, thread] {
            stay_on(cpus[thread]);
            work(thread);
        });
    for (auto& member : team) member.join();
    return shortest;
}

// Iterations of `run` that take about `seconds`.
template <typename Run>
std::int64_t iterations_for(double seconds, Run run) {
    for (std::int64_t iterations = 256;; iterations *= 4) {
        const auto start = Clock::now();
        run(iterations);
        const double took = Seconds(Clock::now() - start).count();
        if (took > seconds / 8) return std::max<std::int64_t>(1, iterations * (seconds / took));
    }
}

// Rounds shorter than a time slice, so that some pass undisturbed on a busy machine.
constexpr int compute_rounds = 20, memory_rounds = 10;
constexpr double round_s = 0.002;

// Three float arrays of `length`, a multiple of 16, in one block, apart by an odd number of cache lines:
// equal low address bits would make loads wait for unrelated stores.
class TriadArrays {
public:
    explicit TriadArrays(std::int64_t length) : stride_(length + 17 * 16) {
        constexpr std::size_t huge_page = 2u << 20;
        const std::size_t bytes = (3 * stride_ * sizeof(float) + huge_page - 1) / huge_page * huge_page;
        block_.reset(static_cast<float*>(std::aligned_alloc(huge_page, bytes)));
        if (!block_) throw std::bad_alloc();
#if defined(__linux__)
        madvise(block_.get(), bytes, MADV_HUGEPAGE);  // fewer translations; fine where it is refused
#endif
    }

    float* array(int k) const { return block_.get() + k * stride_; }

private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    std::int64_t stride_;
    std::unique_ptr<float, Free> block_;
};

}  // namespace

void allow(const Kernel& kernel) {
    if (std::strncmp(kernel.instruction_set, "amx", 3) == 0 && !enable_tiles())
        throw std::runtime_error("the operating system refuses AMX tiles to this process");
}

double measure_clock_hz() {
    const auto iterations = iterations_for(round_s, run_chain);
    const auto shortest = run_rounds({}, compute_rounds, [](int) {}, [&](int) { run_chain(iterations); });
    return double(iterations) * chain_cycles / shortest.round_s;
}

double measure_ops_per_s(const Kernel& kernel, const std::vector<int>& cpus) {
    allow(kernel);
    const auto iterations = iterations_for(round_s, kernel.run);
    std::atomic<double> sink{0};
    const auto shortest =
        run_rounds(cpus, compute_rounds, [](int) {}, [&](int) { sink = kernel.run(iterations); });
    // Cores share no multiplier, so each one's best round counts even where another core was disturbed in it.
    double ops_per_s = 0;
    for (const double thread_s : shortest.thread_s) ops_per_s += kernel.ops * double(iterations) / thread_s;
    return ops_per_s;
}

double measure_triad_bytes_per_s(std::int64_t size_bytes, const std::vector<int>& cpus) {
    constexpr std::int64_t line = 16;  // floats of a cache line
    const std::int64_t threads = std::max<int>(1, cpus.size());
    const std::int64_t lines = std::max<std::int64_t>(threads, size_bytes / 3 / sizeof(float) / line);
    const TriadArrays arrays(lines * line);
    float *a = arrays.array(0), *b = arrays.array(1), *c = arrays.array(2);
    const auto begin = [&](int thread) { return lines * thread / threads * line; };
    // Each thread is the first to touch its own part, so that the pages lie in its own memory node.
    const auto touch = [&](int t) {
        std::fill(a + begin(t), a + begin(t + 1), 0.0f);
        std::fill(b + begin(t), b + begin(t + 1), 1.0f);
        std::fill(c + begin(t), c + begin(t + 1), 2.0f);
    };
    const auto shortest = run_rounds(cpus, memory_rounds, touch, [&](int t) {
        triad(a + begin(t), b + begin(t), c + begin(t), begin(t + 1) - begin(t));
    });
    constexpr float expected = 1.0f + triad_scale * 2.0f;
    if (std::any_of(a, a + lines * line, [](float value) { return value != expected; }))
        throw std::logic_error("the triad left something out");
    return 3.0 * sizeof(float) * double(lines * line) / shortest.round_s;
}

}  // namespace raceline
