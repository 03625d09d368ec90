// softmax(Q K^T scale + mask) V for each head, its scores kept in the cache.
#pragma once

#include <cstdint>

#include "dense.hpp"
#include "parallel.hpp"

namespace raceline {

// A (batch, heads, rows, depth) array whose last axis is contiguous; strides in floats.
template <typename Float>
struct Heads {
    Float* data;
    std::int64_t batch_stride, head_stride, row_stride;
    Float* at(std::int64_t batch, std::int64_t head, std::int64_t row = 0) const {
        return data + batch * batch_stride + head * head_stride + row * row_stride;
    }
};

struct AttentionCall {
    std::int64_t batch, heads, queries, keys, depth, value_depth;
    Heads<const float> q, k, v;  // rows: queries, keys, keys
    Heads<const float> mask;     // rows: queries, depth: keys; a stride is 0 where it is broadcast; data may be null
    Heads<float> out;            // rows: queries, depth: value_depth
    float scale;
};

// With no keys the result is zero. Throws std::bad_alloc; std::invalid_argument for absurd sizes.
void attention(const DenseKernels& kernels, const AttentionCall& call, Parallel& parallel);

}  // namespace raceline
