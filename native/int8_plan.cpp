#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "int8.hpp"
#include "race.hpp"

namespace raceline {
namespace {

std::vector<Int8Plan> candidates(const Int8Kernels& kernels, std::int64_t rows, std::int64_t n, bool wide) {
    std::vector<Int8Plan> plans;  // the likeliest first, as time may run out
    for (const std::int64_t block : {112, 224, 448, 56})
        for (int vectors = kernels.vectors; vectors >= 1; --vectors) {
            const bool narrow = vectors == 1 && n > kernels.lanes, same = block > rows && block != 112;
            if (!narrow && !same) plans.push_back({vectors, block, wide});
        }
    return plans;
}

struct Timed {
    Int8Plan plan;
    double seconds = 1e30;
};

Timed search(const Int8Kernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool wide,
             double seconds) {
    const std::vector<Int8Plan> plans = candidates(kernels, rows, n, wide);
    const std::vector<std::uint8_t> a(rows * k, 100);
    const std::vector<std::int8_t> b(k * n, 50);
    const std::vector<float> scale(n, 0.01f);
    const Floats c = allocate_floats(rows * n);
    const Int8Call call{a.data(), Number::u8, k, rows, 0.01f, 128, c.get(), Number::f32, n};
    std::vector<Int8Gemm> ways;
    Alone alone;
    const Fastest best = fastest_of(
        plans.size(),
        [&](std::size_t way) { ways.emplace_back(kernels, plans[way], b.data(), n, k, n, scale.data(), nullptr); },
        [&](std::size_t way) { ways[way].run(call, alone); }, seconds);
    return {plans[best.way], best.seconds};
}

}  // namespace

Int8Plan find_int8_plan(const Int8Kernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, double split,
                        double seconds) {
    using Key = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t>;
    static std::mutex mutex;
    static std::map<Key, std::array<Timed, 2>> found;  // narrow, wide
    if (rows <= 0 || k <= 0 || n <= 0) return {2, 112, !kernels.narrow};
    rows = std::min(rows, most_trial_rows), k = std::min(k, most_trial_k), n = std::min(n, most_trial_n);
    const std::lock_guard<std::mutex> lock(mutex);  // one at a time, too, so that no search disturbs another
    const Key key{kernels.name, rows, k, n};
    if (!found.count(key)) {
        const double each_s = kernels.narrow && kernels.wide ? seconds / 2 : seconds;
        std::array<Timed, 2> both;
        if (kernels.narrow) both[0] = search(kernels, rows, k, n, false, each_s);
        if (kernels.wide) both[1] = search(kernels, rows, k, n, true, each_s);
        found[key] = both;
    }
    // A vector that is split takes two instructions more than the three that it takes anyway.
    const auto& [narrow, wide] = found[key];
    return narrow.seconds * (1 + 2 * split / 3) <= wide.seconds ? narrow.plan : wide.plan;
}

}  // namespace raceline
