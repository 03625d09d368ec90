#include "race.hpp"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace raceline {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// What this thread has computed for: another program's turn on the core is not the plan's fault.
double computing_s() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

}  // namespace

// Interleaved, so that what else the machine does spares none; and each way finds its weights as a whole network
// would leave them, pushed out by the others'. After each round those far behind drop out.
Fastest fastest_of(std::size_t ways, const std::function<void(std::size_t)>& prepare,
                   const std::function<void(std::size_t)>& run, double most_s) {
    std::vector<Fastest> contenders;
    const auto start = Clock::now();
    const auto spent_s = [&] { return Seconds(Clock::now() - start).count(); };
    for (std::size_t way = 0; way < ways; ++way) {
        prepare(way);
        run(way);  // the first run brings in pages and instructions
        contenders.push_back({way, 1e30});
        if (spent_s() > most_s / 2) break;
    }
    const auto faster = [](const Fastest& x, const Fastest& y) { return x.seconds < y.seconds; };
    for (int round = 0; round < 64; ++round) {
        for (Fastest& contender : contenders) {
            const double before = computing_s();
            run(contender.way);
            contender.seconds = std::min(contender.seconds, computing_s() - before);
        }
        std::sort(contenders.begin(), contenders.end(), faster);
        if (spent_s() > most_s) break;
        const double limit = 1.05 * contenders.front().seconds;
        while (round >= 2 && contenders.back().seconds > limit) contenders.pop_back();
        if (round >= 8 && contenders.size() == 1) break;
    }
    return contenders.front();
}

}  // namespace raceline
