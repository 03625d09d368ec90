#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "gemm.hpp"

namespace raceline {
namespace {

using Seconds = std::chrono::duration<double>;

// A product of this shape on made-up numbers; times plans and keeps the best.
class Trial {
public:
    Trial(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, double seconds)
        : kernels_(kernels), rows_(rows), k_(k), n_(n), seconds_(seconds), start_(Clock::now()),
          a_(allocate_floats(rows * k)), b_(allocate_floats(k * n)), c_(allocate_floats(rows * n)) {
        std::fill_n(a_.get(), rows * k, 0.5f);
        std::fill_n(b_.get(), k * n, 0.25f);
    }

    // Take `plan` if it is faster than what is held by more than noise. Without time left, nothing changes.
    void consider(const GemmPlan& plan) {
        if (Seconds(Clock::now() - start_).count() > seconds_ && best_s_ < 1e30) return;
        const Gemm gemm(kernels_, plan, b_.get(), n_, k_, n_, nullptr);
        const GemmCall call{a_.get(), k_, rows_, c_.get(), n_};
        Alone alone;
        double shortest = 1e30;
        for (int run = 0; run < 6; ++run) {
            const auto before = Clock::now();
            gemm.run(call, alone);
            const double took = Seconds(Clock::now() - before).count();
            if (run > 0) shortest = std::min(shortest, took);  // the first warms the caches
            if (took > 0.01 && run > 0) break;
        }
        if (shortest < best_s_ * 0.99) {
            best_s_ = shortest;
            best_ = plan;
        }
    }

    const GemmPlan& best() const { return best_; }

private:
    using Clock = std::chrono::steady_clock;
    const DenseKernels& kernels_;
    std::int64_t rows_, k_, n_;
    double seconds_, best_s_ = 1e30;
    Clock::time_point start_;
    Floats a_, b_, c_;
    GemmPlan best_;
};

GemmPlan search(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                double seconds) {
    Trial trial(kernels, rows, k, n, seconds);
    GemmPlan first;
    first.vectors = int(std::min<std::int64_t>(2, round_up(n, kernels.lanes) / kernels.lanes));
    trial.consider(first);
    if (!exact && may_halve(rows, k, n)) {
        first.strassen = true;
        trial.consider(first);
    }
    for (int vectors = 1; vectors <= kernels.vectors; ++vectors) {
        GemmPlan plan = trial.best();
        plan.vectors = vectors;
        if (vectors != trial.best().vectors) trial.consider(plan);
    }
    for (const std::int64_t block : {28, 56, 224, 448}) {
        GemmPlan plan = trial.best();
        plan.block_rows = block;
        if (block < 2 * rows) trial.consider(plan);
    }
    return trial.best();
}

}  // namespace

GemmPlan find_plan(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                   double seconds) {
    using Key = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t, bool>;
    static std::mutex mutex;
    static std::map<Key, GemmPlan> found;
    if (rows <= 0 || k <= 0 || n <= 0) return {};
    rows = std::min<std::int64_t>(rows, 1024);  // what holds for these holds for more
    const std::lock_guard<std::mutex> lock(mutex);  // one at a time, too, so that no search disturbs another
    const Key key{kernels.name, rows, k, n, exact};
    const auto known = found.find(key);
    if (known != found.end()) return known->second;
    return found[key] = search(kernels, rows, k, n, exact, seconds);
}

}  // namespace raceline
