#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "gemm.hpp"
#include "race.hpp"

namespace raceline {
namespace {

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

GemmPlan search(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                double seconds) {
    const Floats a = allocate_floats(rows * k), b = allocate_floats(k * n), c = allocate_floats(rows * n);
    std::fill_n(a.get(), rows * k, 0.5f);
    std::fill_n(b.get(), k * n, 0.25f);
    const GemmCall call{a.get(), k, rows, c.get(), n};
    const std::vector<GemmPlan> plans = candidates(kernels, rows, k, n, exact);
    std::vector<Gemm> ways;
    Alone alone;
    return plans[fastest_of(
        plans.size(), [&](std::size_t way) { ways.emplace_back(kernels, plans[way], b.get(), n, k, n, nullptr); },
        [&](std::size_t way) { ways[way].run(call, alone); }, seconds).way];
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
