#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gemm.hpp"
#include "race.hpp"

namespace raceline {
namespace {

std::vector<GemmPlan> candidates(const DenseKernels& kernels, std::int64_t rows, std::int64_t n, bool strassen) {
    std::vector<GemmPlan> plans;  // the likeliest first, as time may run out
    for (const std::int64_t block : {112, 56, 224})
        for (int vectors = kernels.vectors; vectors >= 1; --vectors) {
            const bool narrow = vectors == 1 && n > kernels.lanes, same = block > rows && block != 112;
            if (!narrow && !same) plans.push_back({vectors, block, strassen});
        }
    return plans;
}

GemmPlan search(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                double seconds) {
    const Floats a = allocate_floats(rows * k), b = allocate_floats(k * n), c = allocate_floats(rows * n);
    std::fill_n(a.get(), rows * k, 0.5f);
    std::fill_n(b.get(), k * n, 0.25f);
    const GemmCall call{a.get(), k, rows, c.get(), n};
    Alone alone;
    const auto race = [&](bool strassen) {
        const std::vector<GemmPlan> plans = candidates(kernels, rows, n, strassen);
        std::vector<Gemm> ways;
        const Fastest best = fastest_of(
            plans.size(), [&](std::size_t way) { ways.emplace_back(kernels, plans[way], b.get(), n, k, n, nullptr); },
            [&](std::size_t way) { ways[way].run(call, alone); }, exact ? seconds : seconds / 2);
        return std::pair(plans[best.way], best.seconds);
    };
    const auto [plain, plain_s] = race(false);
    if (exact) return plain;
    // Digits are not given away for what may be noise.
    constexpr double worth = 0.97;
    const auto [halved, halved_s] = race(true);
    return halved_s < worth * plain_s ? halved : plain;
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
