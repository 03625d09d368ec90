// How products of matrices are cut, whatever their numbers are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.hpp"

namespace raceline {

struct RowBlock {
    std::int64_t row, rows;
};

// Blocks of at most `most` rows, of even heights.
inline std::vector<RowBlock> cut_rows(std::int64_t rows, std::int64_t most) {
    const std::int64_t count = (rows + most - 1) / most;
    std::vector<RowBlock> all;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t begin = rows * i / count;
        all.push_back({begin, rows * (i + 1) / count - begin});
    }
    return all;
}

// Tiles of even heights: a short last one would leave the multipliers waiting for each other.
struct Tiling {
    std::int64_t count, rows;
    static Tiling of(std::int64_t rows, std::int64_t most) { return {(rows + most - 1) / most, rows}; }
    std::int64_t begin(std::int64_t tile) const { return rows * tile / count; }
};

// Cache lines to ask for at each of `steps` steps of tile `t` of `tiles`, from line `begin` on, so that all tiles
// of a panel together bring in the `lines` of the next one.
struct Prefetch {
    std::int64_t begin = 0;
    int per_step = 0;
};
inline Prefetch share_of_next(std::int64_t lines, std::int64_t steps, std::int64_t t, std::int64_t tiles) {
    // Few rows do not take long enough to hide it; they read B once, in order, as hardware foresees.
    constexpr std::int64_t most_per_step = 16;
    if (steps == 0) return {};
    const std::int64_t per_step = (lines + steps * tiles - 1) / (steps * tiles), begin = t * steps * per_step;
    if (per_step > most_per_step || begin + steps * per_step > lines + steps * tiles) return {};
    return {begin, int(per_step)};
}

// Calls `body(block, first_panel, end_panel, whole)` for every part of a product; `whole` where a part has all the
// panels. Blocks are cut between the threads where there are too few of them. Returns whether all parts were whole.
template <typename Body>
bool run_parts(Parallel& parallel, const std::vector<RowBlock>& blocks, std::int64_t panels, Body body) {
    const std::int64_t count = std::int64_t(blocks.size()), threads = std::max(1, parallel.threads());
    const std::int64_t chunks = count >= 4 * threads || count % threads == 0 ? 1 : std::min(threads, panels);
    parallel.run(count * chunks, [&](std::int64_t task) {
        const std::int64_t chunk = task % chunks;
        body(blocks[task / chunks], panels * chunk / chunks, panels * (chunk + 1) / chunks, chunks == 1);
    });
    return chunks == 1;
}

}  // namespace raceline
