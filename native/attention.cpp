#include "attention.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "scratch.hpp"

namespace raceline {
namespace {

// So many keys are weighed at once: a tile's scores for them stay in the second-level cache.
constexpr std::int64_t key_block = 1024;
constexpr int tile_vectors = 2;

// One head: its keys and values packed once, then tiles of queries.
class Head {
public:
    Head(const DenseKernels& kernels, const AttentionCall& call, std::int64_t batch, std::int64_t head)
        : kernels_(kernels), call_(call), batch_(batch), head_(head), width_(tile_vectors * kernels.lanes),
          rows_(kernels.rows[tile_vectors - 1]), padded_keys_(round_up(call.keys, width_)),
          padded_depth_(round_up(call.value_depth, width_)),
          block_(call.keys <= 2 * key_block ? padded_keys_ : key_block) {
        const std::int64_t q = rows_ * round_up(call.depth, line_floats);
        const std::int64_t scores = rows_ * round_up(block_, line_floats);
        const std::int64_t total = padded_keys_ * call.depth + call.keys * padded_depth_ + q + 2 * scores +
                                   rows_ * padded_depth_ + 4 * most_rows + 6 * gap_floats;
        keys_ = scratch_floats(total);
        values_ = after_gap(keys_ + padded_keys_ * call.depth);
        query_ = after_gap(values_ + call.keys * padded_depth_);
        scores_ = after_gap(query_ + q);
        weights_ = after_gap(scores_ + scores);
        sums_ = after_gap(weights_ + scores);
        state_ = after_gap(sums_ + rows_ * padded_depth_);
    }

    // Panels of `width_` keys, as columns; panels of `width_` of the values' columns.
    void pack() const {
        const std::int64_t row_stride = call_.k.row_stride;
        for (std::int64_t key = 0; key < call_.keys; key += width_) {
            const std::int64_t count = std::min(width_, call_.keys - key);
            float* panel = keys_ + key * call_.depth;
            const std::int64_t wide = vectors(key) * kernels_.lanes;
            if (count < wide) std::fill_n(panel, wide * call_.depth, 0.0f);
            kernels_.transpose(call_.k.at(batch_, head_, key), row_stride, count, call_.depth, panel, wide);
        }
        for (std::int64_t column = 0; column < call_.value_depth; column += width_) {
            const std::int64_t count = std::min(width_, call_.value_depth - column);
            float* to = values_ + column * call_.keys;
            for (std::int64_t key = 0; key < call_.keys; ++key, to += width_) {
                const float* from = call_.v.at(batch_, head_, key) + column;
                for (std::int64_t j = 0; j < count; ++j) to[j] = from[j];
                for (std::int64_t j = count; j < width_; ++j) to[j] = 0.0f;
            }
        }
    }

    // Up to `rows_` queries.
    void run(std::int64_t query, std::int64_t rows) const {
        float *most = state_, *sum = state_ + most_rows, *correction = state_ + 2 * most_rows;
        std::fill_n(most, rows, -std::numeric_limits<float>::infinity());
        std::fill_n(sum, rows, 0.0f);
        kernels_.pack_rows(call_.q.at(batch_, head_, query), call_.q.row_stride, rows, call_.depth, query_);
        for (std::int64_t key = 0; key < call_.keys; key += block_) {
            const std::int64_t count = std::min(block_, call_.keys - key);
            score(key, count, rows);
            const float* mask = call_.mask.data ? call_.mask.at(batch_, head_, query) + key : nullptr;
            kernels_.softmax_rows({rows, count, block_, scores_, weights_, call_.scale, mask, call_.mask.row_stride,
                                   most, sum, correction});
            if (key > 0)
                kernels_.scale_rows(sums_, padded_depth_, rows, call_.value_depth, correction, sums_, padded_depth_);
            add_values(key, count, rows);
        }
        for (std::int64_t i = 0; i < rows; ++i) correction[i] = 1.0f / sum[i];
        kernels_.scale_rows(sums_, padded_depth_, rows, call_.value_depth, correction,
                            call_.out.at(batch_, head_, query), call_.out.row_stride);
    }

private:
    // The last panel may be narrower.
    int vectors(std::int64_t key) const {
        return int(std::min<std::int64_t>(tile_vectors, (call_.keys - key + kernels_.lanes - 1) / kernels_.lanes));
    }

    void score(std::int64_t first, std::int64_t count, std::int64_t rows) const {
        for (std::int64_t key = 0; key < count; key += width_) {
            const float* panel = keys_ + (first + key) * call_.depth;
            multiply(vectors(first + key), rows, call_.depth, query_, panel, {scores_ + key, block_, 1.0f, false});
        }
    }

    void add_values(std::int64_t first, std::int64_t count, std::int64_t rows) const {
        for (std::int64_t column = 0; column < call_.value_depth; column += width_) {
            const float* panel = values_ + column * call_.keys + first * width_;
            multiply(tile_vectors, rows, count, weights_, panel, {sums_ + column, padded_depth_, 1.0f, first > 0});
        }
    }

    void multiply(int vectors, std::int64_t rows, std::int64_t k, const float* a, const float* b,
                  const Destination& to) const {
        const std::int64_t ldb = std::int64_t(vectors) * kernels_.lanes;
        const Tile tile{k, a, b, ldb, nullptr, {to, {}}, 1, kernels_.lanes, nullptr, 0};
        kernels_.tile[vectors - 1][rows - 1](tile);
    }

    const DenseKernels& kernels_;
    const AttentionCall& call_;
    std::int64_t batch_, head_, width_, rows_, padded_keys_, padded_depth_, block_;
    float *keys_, *values_, *query_, *scores_, *weights_, *sums_, *state_;
};

}  // namespace

void attention(const DenseKernels& kernels, const AttentionCall& call, Parallel& parallel) {
    constexpr std::int64_t most_size = std::int64_t(1) << 28;  // so that no product below overflows
    for (const std::int64_t size : {call.batch, call.heads, call.queries, call.keys, call.depth, call.value_depth})
        if (size < 0 || size > most_size) throw std::invalid_argument("attention over more than 2^28 of something");
    const std::int64_t heads = call.batch * call.heads, most = kernels.rows[tile_vectors - 1];
    if (heads <= 0 || call.queries <= 0 || call.value_depth <= 0) return;
    const std::int64_t tiles = (call.queries + most - 1) / most, threads = std::max(1, parallel.threads());
    const std::int64_t chunks = heads % threads == 0 ? 1 : std::min(threads, tiles);
    parallel.run(heads * chunks, [&](std::int64_t task) {
        const std::int64_t index = task / chunks, chunk = task % chunks;
        const std::int64_t batch = index / call.heads, head = index % call.heads;
        if (call.keys <= 0) {
            for (std::int64_t i = call.queries * chunk / chunks; i < call.queries * (chunk + 1) / chunks; ++i)
                std::fill_n(call.out.at(batch, head, i), call.value_depth, 0.0f);
            return;
        }
        const Head work(kernels, call, batch, head);
        work.pack();
        for (std::int64_t t = tiles * chunk / chunks; t < tiles * (chunk + 1) / chunks; ++t) {
            const std::int64_t begin = call.queries * t / tiles;
            work.run(begin, call.queries * (t + 1) / tiles - begin);
        }
    });
}

}  // namespace raceline
