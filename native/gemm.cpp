#include "gemm.hpp"

#include <algorithm>
#include <stdexcept>

namespace raceline {
namespace {

// Strassen 1969. Of A's and B's quarters 11, 12, 21, 22:
//   M1 = (A11 + A22)(B11 + B22)  M2 = (A21 + A22) B11  M3 = A11 (B12 - B22)  M4 = A22 (B21 - B11)
//   M5 = (A11 + A12) B22         M6 = (A21 - A11)(B11 + B12)                 M7 = (A12 - A22)(B21 + B22)
//   C11 = M1 + M4 - M5 + M7   C12 = M3 + M5   C21 = M2 + M4   C22 = M1 - M2 + M3 + M6
constexpr int products = 7, quarters = 4;
struct Half {
    int first, second;  // quarters, row by row; the second -1 where there is none
    float sign;
};
constexpr Half of_a[products] = {{0, 3, 1}, {2, 3, 1}, {0, -1, 1}, {3, -1, 1}, {0, 1, 1}, {2, 0, -1}, {1, 3, -1}};
constexpr Half of_b[products] = {{0, 3, 1}, {0, -1, 1}, {1, 3, -1}, {2, 0, -1}, {3, -1, 1}, {0, 1, 1}, {2, 3, 1}};
struct Share {
    int quarter;
    float sign;
    bool add;  // false for the first that reaches a quarter
};
constexpr Share shares[products][2] = {
    {{0, 1, false}, {3, 1, false}}, {{2, 1, false}, {3, -1, true}}, {{1, 1, false}, {3, 1, true}},
    {{0, 1, true}, {2, 1, true}},   {{0, -1, true}, {1, 1, true}},  {{3, 1, true}, {-1, 0, false}},
    {{0, 1, true}, {-1, 0, false}},
};

}  // namespace

bool may_halve(std::int64_t rows, std::int64_t k, std::int64_t n) {
    return rows >= 16 && k >= 64 && n >= 64 && k % 2 == 0 && n % 2 == 0;
}

Gemm::Gemm(const DenseKernels& kernels, const GemmPlan& plan, const float* b, std::int64_t ldb, std::int64_t k,
           std::int64_t n, const float* bias)
    : kernels_(&kernels), plan_(plan), k_(k), n_(n), depth_(plan.strassen ? k / 2 : k) {
    constexpr std::int64_t most = std::int64_t(1) << 31;
    if (k < 0 || n < 0 || k > most || n > most || plan.vectors < 1 || plan.vectors > kernels.vectors ||
        plan.block_rows < 1 || (plan.strassen && (k % 2 || n % 2)))
        throw std::invalid_argument("the plan does not fit the matrix");
    const std::int64_t width = std::int64_t(plan.vectors) * kernels.lanes;
    const std::int64_t columns = plan.strassen ? n / 2 : n;
    for (std::int64_t column = 0; column < columns; column += width) {
        const std::int64_t left = std::min(width, columns - column);
        const int vectors = int(round_up(left, kernels.lanes) / kernels.lanes);
        panels_.push_back({column, left, vectors, matrix_floats_});
        matrix_floats_ += depth_ * vectors * kernels.lanes;
    }
    floats_ = matrix_floats_ * (plan.strassen ? products : 1);
    b_ = allocate_floats(floats_);
    if (!plan.strassen) pack(b, ldb, 0, nullptr, b_.get());
    for (int m = 0; plan.strassen && m < products; ++m) {
        const auto quarter = [&](int q) { return q < 0 ? nullptr : b + q / 2 * depth_ * ldb + q % 2 * columns; };
        pack(quarter(of_b[m].first), ldb, of_b[m].sign, quarter(of_b[m].second),
             b_.get() + m * matrix_floats_);
    }
    const std::int64_t padded = round_up(n, most_vectors * line_floats) + most_vectors * line_floats;
    bias_ = allocate_floats(padded);
    std::fill_n(bias_.get(), padded, 0.0f);
    if (bias) std::copy_n(bias, n, bias_.get());
}

// Each panel: `depth_` rows of its columns, then zeros to whole vectors.
void Gemm::pack(const float* b, std::int64_t ldb, float sign, const float* other, float* to) const {
    for (const Panel& panel : panels_) {
        const std::int64_t width = std::int64_t(panel.vectors) * kernels_->lanes;
        float* row = to + panel.at;
        for (std::int64_t r = 0; r < depth_; ++r, row += width) {
            const float* from = b + r * ldb + panel.column;
            std::copy_n(from, panel.columns, row);
            std::fill(row + panel.columns, row + width, 0.0f);
            if (!other) continue;
            const float* second = other + r * ldb + panel.column;
            for (std::int64_t j = 0; j < panel.columns; ++j) row[j] += sign * second[j];
        }
    }
}

// While tile `t` of a panel is computed, its share of the panel that comes next is fetched.
void Gemm::ask_for(Tile& tile, const Panel& next, std::int64_t matrix, std::int64_t t, std::int64_t tiles) const {
    const std::int64_t lines = depth_ * next.vectors * kernels_->lanes / line_floats;
    const Prefetch share = share_of_next(lines, depth_ / line_floats, t, tiles);
    tile.next = b_.get() + matrix * matrix_floats_ + next.at + share.begin * line_floats;
    tile.next_lines = share.per_step;
}

// The same for the rows of A that the next block packs, where they lie in one piece.
void Gemm::ask_for_rows(Tile& tile, const GemmCall& call, const RowBlock& block, std::int64_t t,
                        std::int64_t tiles) const {
    const std::int64_t next = block.row + block.rows, rows = std::min(block.rows, call.rows - next);
    if (rows <= 0 || call.lda != k_) return;
    const Prefetch share = share_of_next(rows * k_ / line_floats, depth_ / line_floats, t, tiles);
    tile.next = call.a + next * call.lda + share.begin * line_floats;
    tile.next_lines = share.per_step;
}

Tiling Gemm::tiling(std::int64_t rows) const { return Tiling::of(rows, kernels_->rows[plan_.vectors - 1]); }

void Gemm::run(const GemmCall& call, Parallel& parallel) const {
    if (call.rows <= 0 || n_ == 0) return;
    const auto blocks = cut_rows(call.rows, plan_.block_rows);
    const auto normalise_after = [&](const RowBlock& block) {
        if (call.after)
            kernels_->normalise(*call.after, call.c + block.row * call.ldc, call.ldc, block.rows,
                               call.c + block.row * call.ldc, call.ldc);
    };
    const auto part = [&](const RowBlock& block, std::int64_t first, std::int64_t end, bool whole) {
        if (plan_.strassen)
            run_block_strassen(call, block, first, end);
        else
            run_block(call, block, first, end);
        if (whole) normalise_after(block);
    };
    const bool whole = run_parts(parallel, blocks, std::int64_t(panels_.size()), part);
    if (!whole && call.after)
        parallel.run(std::int64_t(blocks.size()), [&](std::int64_t task) { normalise_after(blocks[task]); });
}

void Gemm::run_block(const GemmCall& call, const RowBlock& block, std::int64_t first_panel,
                     std::int64_t end_panel) const {
    const Tiling tiles = tiling(block.rows);
    const std::int64_t most = kernels_->rows[plan_.vectors - 1], stride = round_up(k_, line_floats);
    const std::int64_t width = std::int64_t(plan_.vectors) * kernels_->lanes;
    float* const packed = scratch_floats(block.rows * stride + most * width + most * k_ + 2 * gap_floats);
    float* const sums = after_gap(packed + block.rows * stride);
    float* const normalised = after_gap(sums + most * width);
    for (std::int64_t t = 0; t < tiles.count; ++t) {
        const std::int64_t row = tiles.begin(t), rows = tiles.begin(t + 1) - row;
        const float* a = call.a + (block.row + row) * call.lda;
        if (call.before) kernels_->normalise(*call.before, a, call.lda, rows, normalised, k_);
        kernels_->pack_rows(call.before ? normalised : a, call.before ? k_ : call.lda, rows, k_,
                            packed + row * stride);
    }
    const bool direct = call.activation == Activation::none && !call.residual;
    for (std::int64_t p = first_panel; p < end_panel; ++p) {
        const Panel& panel = panels_[p];
        const int last = int(panel.columns - std::int64_t(panel.vectors - 1) * kernels_->lanes);
        for (std::int64_t t = 0; t < tiles.count; ++t) {
            const std::int64_t row = tiles.begin(t), rows = tiles.begin(t + 1) - row;
            float* c = call.c + (block.row + row) * call.ldc + panel.column;
            const Destination to = {direct ? c : sums, direct ? call.ldc : width, 1.0f, false};
            const std::int64_t ldb = std::int64_t(panel.vectors) * kernels_->lanes;
            Tile tile{k_, packed + row * stride, b_.get() + panel.at, ldb, bias_.get() + panel.column, {to, {}}, 1,
                      last, nullptr, 0};
            if (p + 1 < end_panel)
                ask_for(tile, panels_[p + 1], 0, t, tiles.count);
            else
                ask_for_rows(tile, call, block, t, tiles.count);
            kernels_->tile[panel.vectors - 1][rows - 1](tile);
            if (direct) continue;
            const float* residual = call.residual ? call.residual + (block.row + row) * call.residual_stride +
                                                        panel.column
                                                  : nullptr;
            kernels_->finish({rows, panel.columns, sums, width, c, call.ldc, nullptr, residual, call.residual_stride,
                             call.activation});
        }
    }
}

// The seven left factors, each `half` packed rows; the lower half begins at row `lower`.
void Gemm::pack_sums(const float* a, std::int64_t lda, std::int64_t half, std::int64_t lower, float* packed) const {
    const Tiling tiles = tiling(half);
    const std::int64_t stride = round_up(depth_, line_floats);
    for (int m = 0; m < products; ++m)
        for (std::int64_t t = 0; t < tiles.count; ++t) {
            const std::int64_t row = tiles.begin(t), rows = tiles.begin(t + 1) - row;
            const auto quarter = [&](int q) { return a + (row + q / 2 * lower) * lda + q % 2 * depth_; };
            float* to = packed + (m * half + row) * stride;
            if (of_a[m].second < 0)
                kernels_->pack_rows(quarter(of_a[m].first), lda, rows, depth_, to);
            else
                kernels_->pack_sum(quarter(of_a[m].first), quarter(of_a[m].second), lda, of_a[m].sign, rows, depth_,
                                  to);
        }
}

// One panel of one product, added to the quarters that it belongs to.
void Gemm::multiply_halves(int product, const Panel& panel, std::int64_t half, const float* packed, float* sums,
                           int next_product, const Panel* next) const {
    const Tiling tiles = tiling(half);
    const std::int64_t width = plan_.vectors * kernels_->lanes, ldb = panel.vectors * kernels_->lanes;
    const std::int64_t stride = round_up(depth_, line_floats);
    for (std::int64_t t = 0; t < tiles.count; ++t) {
        const std::int64_t row = tiles.begin(t), rows = tiles.begin(t + 1) - row;
        Tile tile{depth_, packed + (product * half + row) * stride,
                  b_.get() + product * matrix_floats_ + panel.at, ldb, nullptr, {}, 0, kernels_->lanes, nullptr, 0};
        if (next) ask_for(tile, *next, next_product, t, tiles.count);
        for (const Share& share : shares[product])
            if (share.quarter >= 0)
                tile.to[tile.destinations++] = {sums + (share.quarter * half + row) * width, width, share.sign,
                                                share.add};
        kernels_->tile[panel.vectors - 1][rows - 1](tile);
    }
}

// The four quarters of one panel of columns. Of an odd number of rows the middle one is in both halves, and the
// lower one writes it: written twice, it would get its residual twice where that is the output itself.
void Gemm::finish_quarters(const GemmCall& call, const Panel& panel, const RowBlock& block, const float* sums) const {
    const std::int64_t half = (block.rows + 1) / 2, lower = block.rows - half;
    const std::int64_t width = plan_.vectors * kernels_->lanes;
    for (int q = 0; q < quarters; ++q) {
        const std::int64_t row = block.row + q / 2 * lower, column = panel.column + q % 2 * (n_ / 2);
        const float* residual = call.residual ? call.residual + row * call.residual_stride + column : nullptr;
        kernels_->finish({q < 2 ? lower : half, panel.columns, sums + q * half * width, width,
                         call.c + row * call.ldc + column, call.ldc, bias_.get() + column, residual,
                         call.residual_stride, call.activation});
    }
}

// Panels are taken in groups whose sums stay in the second-level cache; within a group each product runs through
// all its panels, so that every part of B is read once.
void Gemm::run_block_strassen(const GemmCall& call, const RowBlock& block, std::int64_t first_panel,
                              std::int64_t end_panel) const {
    constexpr std::int64_t cached_floats = 64 << 10;
    const std::int64_t half = (block.rows + 1) / 2, lower = block.rows - half;
    const std::int64_t width = plan_.vectors * kernels_->lanes, stride = round_up(depth_, line_floats);
    const std::int64_t panel_floats = quarters * half * width;
    const std::int64_t group =
        std::min(end_panel - first_panel, std::max<std::int64_t>(1, cached_floats / panel_floats));
    const std::int64_t packed_floats = products * half * stride, sums_floats = group * panel_floats;
    const std::int64_t normalised_floats = call.before ? block.rows * k_ : 0;
    float* const packed = scratch_floats(packed_floats + sums_floats + normalised_floats + 2 * gap_floats);
    float* const sums = after_gap(packed + packed_floats);
    float* const normalised = after_gap(sums + sums_floats);
    const float* a = call.a + block.row * call.lda;
    if (call.before) kernels_->normalise(*call.before, a, call.lda, block.rows, normalised, k_);
    if (call.before)
        pack_sums(normalised, k_, half, lower, packed);
    else
        pack_sums(a, call.lda, half, lower, packed);
    for (std::int64_t first = first_panel; first < end_panel; first += group) {
        const std::int64_t end = std::min(end_panel, first + group);
        for (int product = 0; product < products; ++product)
            for (std::int64_t p = first; p < end; ++p)
                multiply_halves(product, panels_[p], half, packed, sums + (p - first) * panel_floats,
                                p + 1 < end ? product : (product + 1) % products,
                                p + 1 < end              ? &panels_[p + 1]
                                : product + 1 < products ? &panels_[first]
                                : end < end_panel        ? &panels_[end]
                                                         : nullptr);
        for (std::int64_t p = first; p < end; ++p)
            finish_quarters(call, panels_[p], block, sums + (p - first) * panel_floats);
    }
}

}  // namespace raceline
