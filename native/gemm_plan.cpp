#include <time.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "gemm.hpp"

namespace raceline {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// Larger shapes are timed on a part of this size: what holds for it holds for more.
constexpr std::int64_t most_trial_rows = 1024, most_trial_k = 2048, most_trial_n = 1536;

std::vector<GemmPlan> candidates(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n,
                                 bool exact) {
    std::vector<GemmPlan> plans;  // the likeliest first, as time may run out
    for (const std::int64_t block : {112, 56, 224})
        for (const bool strassen : {true, false})
            for (int vectors = kernels.vectors; vectors >= 1; --vectors) {
                const bool barred = strassen && (exact || !may_halve(rows, k, n));
                const bool narrow = vectors == 1 && n > kernels.lanes, same = block > rows && block != 112;
                if (!barred && !narrow && !same) plans.push_back({vectors, block, strassen});
            }
    return plans;
}

// What this thread has computed for: another program's turn on the core is not the plan's fault.
double computing_s() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

struct Contender {
    GemmPlan plan;
    Gemm gemm;
    double best_s;
};

// Interleaved, so that what else the machine does spares none; and each plan finds its weights as a whole network
// would leave them, pushed out by the others'. After each round those far behind drop out.
GemmPlan search(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                double seconds) {
    const Floats a = allocate_floats(rows * k), b = allocate_floats(k * n), c = allocate_floats(rows * n);
    std::fill_n(a.get(), rows * k, 0.5f);
    std::fill_n(b.get(), k * n, 0.25f);
    const GemmCall call{a.get(), k, rows, c.get(), n};
    Alone alone;
    std::vector<Contender> contenders;
    const auto start = Clock::now();
    for (const GemmPlan& plan : candidates(kernels, rows, k, n, exact)) {
        contenders.push_back({plan, Gemm(kernels, plan, b.get(), n, k, n, nullptr), 1e30});
        contenders.back().gemm.run(call, alone);  // the first run brings in pages and instructions
        if (Seconds(Clock::now() - start).count() > seconds / 2) break;
    }
    const auto faster = [](const Contender& x, const Contender& y) { return x.best_s < y.best_s; };
    for (int round = 0; contenders.size() > 1 && round < 64; ++round) {
        for (Contender& contender : contenders) {
            const double before = computing_s();
            contender.gemm.run(call, alone);
            contender.best_s = std::min(contender.best_s, computing_s() - before);
        }
        std::sort(contenders.begin(), contenders.end(), faster);
        if (Seconds(Clock::now() - start).count() > seconds) break;
        while (round >= 2 && contenders.back().best_s > 1.05 * contenders.front().best_s) contenders.pop_back();
    }
    return contenders.front().plan;
}

}  // namespace

GemmPlan find_plan(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                   double seconds) {
    using Key = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t, bool>;
    static std::mutex mutex;
    static std::map<Key, GemmPlan> found;
    if (rows <= 0 || k <= 0 || n <= 0) return {};
    rows = std::min(rows, most_trial_rows);
    const std::int64_t trial_k = std::min(k, most_trial_k), trial_n = std::min(n, most_trial_n);
    const std::lock_guard<std::mutex> lock(mutex);  // one at a time, too, so that no search disturbs another
    const Key key{kernels.name, rows, k, n, exact};
    const auto known = found.find(key);
    if (known != found.end()) return known->second;
    exact = exact || !may_halve(rows, k, n);
    return found[key] = search(kernels, rows, trial_k, trial_n, exact, seconds);
}

}  // namespace raceline
