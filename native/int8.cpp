#include "int8.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cpu.hpp"

namespace raceline {

const Int8Kernels& int8_plain();
#if defined(__x86_64__)
const Int8Kernels& int8_avx2();
const Int8Kernels& int8_avx_vnni();
const Int8Kernels& int8_avx512();
const Int8Kernels& int8_avx512_vnni();
#endif

const std::vector<const Int8Kernels*>& int8_kernels() {
    static const std::vector<const Int8Kernels*> sets = [] {
        std::vector<const Int8Kernels*> found;
#if defined(__x86_64__)
        const bool avx2 = has_instruction_set("avx2") && has_instruction_set("fma");
        const bool avx512 = avx2 && has_instruction_set("avx512f") && has_instruction_set("avx512dq") &&
                            has_instruction_set("avx512bw");
        if (avx512 && has_instruction_set("avx512_vnni")) found.push_back(&int8_avx512_vnni());
        if (avx2 && has_instruction_set("avx_vnni")) found.push_back(&int8_avx_vnni());
        if (avx512) found.push_back(&int8_avx512());
        if (avx2) found.push_back(&int8_avx2());
#endif
        found.push_back(&int8_plain());
        return found;
    }();
    return sets;
}

const Int8Kernels& int8_kernels(const std::string& name) {
    for (const Int8Kernels* set : int8_kernels())
        if (name.empty() || name == set->name) return *set;
    throw std::invalid_argument("this CPU has no 8-bit kernels called " + name);
}

namespace {

constexpr std::int64_t word_bytes = 4, line_bytes = line_words * word_bytes;

std::int64_t taps(bool wide) { return wide ? 2 : 4; }  // bytes of A in a word

// Products of any bytes with weights whose positive and whose negative ones add up to 128 at most fit 16 bits:
// 255 * 128 does, 255 * 129 does not.
constexpr int most_together = 128;

// What must be taken out of a pair of weights so that it fits.
int excess(std::int8_t x, std::int8_t y) {
    const int positive = std::max<int>(x, 0) + std::max<int>(y, 0), negative = std::min<int>(x, 0) + std::min<int>(y, 0);
    return positive > most_together ? positive - most_together : std::min(negative + most_together, 0);
}

}  // namespace

double share_to_split(const Int8Kernels& kernels, const std::int8_t* b, std::int64_t ldb, std::int64_t k,
                      std::int64_t n) {
    if (!kernels.narrow || !kernels.saturates) return 0;
    std::int64_t split = 0, vectors = 0;
    for (std::int64_t r = 0; r < k; r += 4)
        for (std::int64_t c = 0; c < n; c += kernels.lanes, ++vectors) {
            bool found = false;
            for (std::int64_t pair = r; pair + 1 < std::min(k, r + 4) && !found; pair += 2)
                for (std::int64_t j = c; j < std::min(n, c + kernels.lanes); ++j)
                    found = found || excess(b[pair * ldb + j], b[(pair + 1) * ldb + j]);
            split += found;
        }
    return vectors ? double(split) / double(vectors) : 0;
}

Int8Gemm::Int8Gemm(const Int8Kernels& kernels, const Int8Plan& plan, const std::int8_t* b, std::int64_t ldb,
                   std::int64_t k, std::int64_t n, const float* scale, const float* bias)
    : kernels_(&kernels), plan_(plan), k_(k), n_(n), words_((k + taps(plan.wide) - 1) / taps(plan.wide)) {
    constexpr std::int64_t most_n = std::int64_t(1) << 31;
    if (k < 0 || n < 0 || k > most_k || n > most_n || plan.vectors < 1 || plan.vectors > kernels.vectors ||
        plan.block_rows < 1 || !(plan.wide ? kernels.wide : kernels.narrow))
        throw std::invalid_argument("the plan does not fit the matrix");
    const std::int64_t width = std::int64_t(plan.vectors) * kernels.lanes;
    for (std::int64_t column = 0; column < n; column += width) {
        const std::int64_t left = std::min(width, n - column);
        const int vectors = int(round_up(left, kernels.lanes) / kernels.lanes);
        panels_.push_back({column, left, vectors, packed_words_, {}});
        packed_words_ += words_ * vectors * kernels.lanes;
    }
    padded_ = round_up(n, width);
    b_ = allocate_floats(packed_words_);
    scale_ = allocate_floats(padded_);
    bias_ = allocate_floats(padded_);
    for (std::int64_t j = 0; j < padded_; ++j) {
        scale_.get()[j] = j < n ? scale[j] : 0.0f;
        bias_.get()[j] = j < n && bias ? bias[j] : 0.0f;
    }
    column_sums_.assign(padded_, 0);
    for (std::int64_t r = 0; r < k; ++r)
        for (std::int64_t j = 0; j < n; ++j) column_sums_[j] += b[r * ldb + j];
    for (const Panel& panel : panels_) pack(b, ldb, panel);
    if (kernels.saturates && !plan.wide)
        for (Panel& panel : panels_) split(panel);
}

std::int8_t* Int8Gemm::vector_at(const Panel& panel, std::int64_t word, int vector) const {
    const std::int64_t words = panel.at + (word * panel.vectors + vector) * kernels_->lanes;
    return reinterpret_cast<std::int8_t*>(b_.get()) + words * word_bytes;
}

// Each word of a panel: for each column its four bytes along k, or two widened; zeros beyond both ends.
void Int8Gemm::pack(const std::int8_t* b, std::int64_t ldb, const Panel& panel) {
    const std::int64_t width = std::int64_t(panel.vectors) * kernels_->lanes, per_word = taps(plan_.wide);
    for (std::int64_t word = 0; word < words_; ++word) {
        std::int8_t* to = vector_at(panel, word, 0);
        for (std::int64_t j = 0; j < width; ++j)
            for (std::int64_t t = 0; t < per_word; ++t) {
                const std::int64_t row = word * per_word + t;
                const std::int8_t value = j < panel.columns && row < k_ ? b[row * ldb + panel.column + j] : 0;
                if (plan_.wide) {
                    const std::int16_t wide = value;
                    std::memcpy(to + (j * per_word + t) * 2, &wide, sizeof wide);
                } else {
                    to[j * per_word + t] = value;
                }
            }
    }
}

// Where the products of two neighbours along k might not fit 16 bits together, what is too much is taken out of the
// larger weight and multiplied apart, after all others: rare among trained weights, for of two neighbours both would
// have to be large. So every sum is exact, at the price of part of a step for each vector that has such a pair.
void Int8Gemm::split(Panel& panel) {
    const std::int64_t bytes = kernels_->lanes * word_bytes;
    std::vector<int> positive, negative;  // what the group holds already, by pair
    for (int j = 0; j < panel.vectors; ++j) {
        panel.first_rest[j] = std::int64_t(rests_.size());
        for (std::int64_t word = 0; word < words_; ++word) split_vector(panel, j, word);
        positive.assign(bytes / 2, 0), negative.assign(bytes / 2, 0);
        for (auto rest = rests_.begin() + panel.first_rest[j]; rest != rests_.end(); ++rest) {
            const std::int8_t* of = rest_bytes_.data() + rest->at;
            bool fits = true;
            for (std::int64_t pair = 0; pair < bytes / 2; ++pair) {
                const int both = of[2 * pair] + of[2 * pair + 1];  // one of them is zero
                fits = fits && positive[pair] + both <= most_together && negative[pair] + both >= -most_together;
            }
            if (!fits) {
                (rest - 1)->last = true;
                std::fill(positive.begin(), positive.end(), 0), std::fill(negative.begin(), negative.end(), 0);
            }
            for (std::int64_t pair = 0; pair < bytes / 2; ++pair) {
                const int both = of[2 * pair] + of[2 * pair + 1];
                (both > 0 ? positive : negative)[pair] += both;
            }
            rest->last = rest + 1 == rests_.end();
        }
    }
    for (int j = panel.vectors; j <= most_int8_vectors; ++j) panel.first_rest[j] = std::int64_t(rests_.size());
}

void Int8Gemm::split_vector(const Panel& panel, int vector, std::int64_t word) {
    const std::int64_t bytes = kernels_->lanes * word_bytes, at = std::int64_t(rest_bytes_.size());
    std::int8_t* const of = vector_at(panel, word, vector);
    for (std::int64_t i = 0; i < bytes; i += 2) {
        const int much = excess(of[i], of[i + 1]);
        if (much == 0) continue;
        rest_bytes_.resize(at + bytes, 0);
        const std::int64_t larger = i + (std::abs(int(of[i])) < std::abs(int(of[i + 1])));
        rest_bytes_[at + larger] = std::int8_t(much);
        of[larger] = std::int8_t(of[larger] - much);
    }
    if (std::int64_t(rest_bytes_.size()) > at) rests_.push_back({word, at, false});
}

std::int64_t Int8Gemm::size_bytes() const {
    return packed_words_ * word_bytes + std::int64_t(rest_bytes_.size() + rests_.size() * sizeof(Rest));
}

double Int8Gemm::split_share() const {
    return packed_words_ == 0 ? 0 : double(rests_.size()) * kernels_->lanes / double(packed_words_);
}

// What depends on the scale and the zero point of A: sums begin with what the zero point would add too much.
Int8Gemm::Columns Int8Gemm::columns_of(const Int8Call& call) const {
    Columns columns{allocate_floats(padded_), allocate_floats(padded_)};
    const int zero = call.a_zero + (call.a_type == Number::s8 ? 128 : 0);
    auto* start = reinterpret_cast<char*>(columns.start.get());
    for (std::int64_t j = 0; j < padded_; ++j) {
        const std::int32_t sum = -zero * column_sums_[j];
        std::memcpy(start + j * word_bytes, &sum, sizeof sum);
        columns.scale.get()[j] = scale_.get()[j] * call.a_scale;
    }
    return columns;
}

void Int8Gemm::run(const Int8Call& call, Parallel& parallel) const {
    if (call.rows <= 0 || n_ == 0) return;
    const Columns columns = columns_of(call);
    run_parts(parallel, cut_rows(call.rows, plan_.block_rows), std::int64_t(panels_.size()),
              [&](const RowBlock& block, std::int64_t first, std::int64_t end, bool) {
                  run_block(call, columns, block, first, end);
              });
}

void Int8Gemm::pack_block(const Int8Call& call, const RowBlock& block, std::uint8_t* row_bytes, float* packed) const {
    const Tiling tiles = Tiling::of(block.rows, kernels_->rows[plan_.wide][plan_.vectors - 1]);
    const std::int64_t stride = round_up(words_, line_words);
    const std::uint8_t flip = call.a_type == Number::s8 ? 0x80 : 0;
    for (std::int64_t t = 0; t < tiles.count; ++t) {
        const std::int64_t row = tiles.begin(t), rows = tiles.begin(t + 1) - row, from = block.row + row;
        const auto* bytes = static_cast<const std::uint8_t*>(call.a) + from * call.lda;
        std::int64_t lda = call.lda;
        if (call.from) {
            call.from->get(from, rows, row_bytes);
            bytes = row_bytes, lda = k_;
        } else if (call.a_type == Number::f32) {
            const float* floats = static_cast<const float*>(call.a) + from * call.lda;
            for (std::int64_t i = 0; i < rows; ++i)
                kernels_->quantise(floats + i * call.lda, k_, call.a_scale, call.a_zero, Number::u8,
                                   row_bytes + i * k_);
            bytes = row_bytes, lda = k_;
        }
        kernels_->pack_rows[plan_.wide](bytes, lda, rows, k_, flip, packed + row * stride);
    }
}

void Int8Gemm::run_block(const Int8Call& call, const Columns& columns, const RowBlock& block,
                         std::int64_t first_panel, std::int64_t end_panel) const {
    const std::int64_t most = kernels_->rows[plan_.wide][plan_.vectors - 1];
    const Tiling tiles = Tiling::of(block.rows, most);
    const std::int64_t stride = round_up(words_, line_words), width = std::int64_t(plan_.vectors) * kernels_->lanes;
    const std::int64_t sums_words = round_up(most_finished_rows * width, line_words);
    float* const packed = scratch_floats(block.rows * stride + sums_words +
                                         (most * k_ + word_bytes) / word_bytes + 2 * gap_floats);
    float* const of_sums = after_gap(packed + block.rows * stride);
    auto* const sums = reinterpret_cast<std::int32_t*>(of_sums);
    pack_block(call, block, reinterpret_cast<std::uint8_t*>(after_gap(of_sums + sums_words)), packed);
    for (std::int64_t p = first_panel; p < end_panel; ++p) {
        const Panel& panel = panels_[p];
        const auto* start = reinterpret_cast<const std::int32_t*>(columns.start.get()) + panel.column;
        Int8Tile tile{words_, nullptr, vector_at(panel, 0, 0), start, sums, width, {}, {}, rest_bytes_.data(), nullptr, 0};
        for (int j = 0; j < panel.vectors && !rests_.empty(); ++j) {
            tile.rests[j] = rests_.data() + panel.first_rest[j];
            tile.rest_counts[j] = panel.first_rest[j + 1] - panel.first_rest[j];
        }
        Int8Finish to{};
        to.columns = panel.columns;
        to.from = sums, to.from_stride = width;
        to.scale = columns.scale.get() + panel.column, to.bias = bias_.get() + panel.column;
        std::int64_t unfinished = 0;  // the first row that is
        for (std::int64_t t = 0; t < tiles.count; ++t) {
            const std::int64_t row = tiles.begin(t), end = tiles.begin(t + 1), rows = end - row;
            tile.a = packed + row * stride;
            tile.sums = sums + (row - unfinished) * width;
            if (p + 1 < end_panel)
                ask_for(tile, panels_[p + 1], t, tiles.count);
            else
                ask_for_rows(tile, call, block, t, tiles.count);
            kernels_->tile[plan_.wide][panel.vectors - 1][rows - 1](tile);
            if (end - unfinished < least_finished_rows && end < block.rows) continue;
            finish(call, to, block.row + unfinished, end - unfinished, panel.column);
            unfinished = end;
        }
    }
}

void Int8Gemm::ask_for(Int8Tile& tile, const Panel& next, std::int64_t t, std::int64_t tiles) const {
    const std::int64_t lines = words_ * next.vectors * kernels_->lanes / line_words;
    const Prefetch share = share_of_next(lines, words_ / line_words, t, tiles);
    tile.next = reinterpret_cast<const char*>(vector_at(next, 0, 0)) + share.begin * line_bytes;
    tile.next_lines = share.per_step;
}

// The same for the rows of A that the next block packs, where they lie in one piece.
void Int8Gemm::ask_for_rows(Int8Tile& tile, const Int8Call& call, const RowBlock& block, std::int64_t t,
                            std::int64_t tiles) const {
    const std::int64_t next = block.row + block.rows, rows = std::min(block.rows, call.rows - next);
    if (rows <= 0 || call.from || call.lda != k_) return;
    const std::int64_t size = call.a_type == Number::f32 ? sizeof(float) : 1;
    const Prefetch share = share_of_next(rows * k_ * size / line_bytes, words_ / line_words, t, tiles);
    tile.next = static_cast<const char*>(call.a) + next * call.lda * size + share.begin * line_bytes;
    tile.next_lines = share.per_step;
}

void Int8Gemm::finish(const Int8Call& call, Int8Finish to, std::int64_t row, std::int64_t rows,
                      std::int64_t column) const {
    const std::int64_t size = call.c_type == Number::f32 ? sizeof(float) : 1;
    to.rows = rows;
    if (call.into) return call.into->take(to, row, column);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    to.activation = call.activation, to.low = -infinity, to.high = infinity;
    to.to = static_cast<char*>(call.c) + (row * call.ldc + column) * size;
    to.to_stride = call.ldc, to.to_block_stride = together;
    to.type = call.c_type, to.per_step = 1.0f / call.c_scale, to.zero = call.c_zero;
    if (call.residual) to.residual = call.residual + row * call.residual_stride + column;
    to.residual_type = Number::f32;
    to.residual_stride = call.residual_stride, to.residual_block_stride = together;
    kernels_->finish(to);
}

}  // namespace raceline
