// Steps of a net over matrices: values of one pixel, whose images are rows and whose channels are columns.
#pragma once

#include "dense.hpp"
#include "net.hpp"

namespace raceline::net {

struct NormSpec {
    const float *scale, *shift;  // as many as columns; shift may be null
    float epsilon;
};

// y = after(activation(before(x) weights + bias) + residual)
struct LinearSpec {
    Value x, y;
    const float* weights;  // (x.c, y.c), copied
    const float* bias;     // y.c, copied; may be null
    raceline::Activation activation = raceline::Activation::none;
    bool has_residual = false;
    Value residual;
    const NormSpec *before = nullptr, *after = nullptr;
    bool exact = false;    // no Strassen
    double seconds = 0.1;  // to look for the fastest plan
};
std::unique_ptr<Step> make_linear(const LinearSpec& spec, const Kernels& kernels);

std::unique_ptr<Step> make_norm(const Value& x, const Value& y, const NormSpec& spec, const Kernels& kernels);

// Heads side by side in the columns of a matrix of batch * rows rows.
struct HeadsSpec {
    Value value;
    std::int64_t column, head_stride;
};

struct AttentionSpec {
    HeadsSpec q, k, v;
    Value y;  // head after head
    std::int64_t batch, heads, queries, keys, depth, value_depth;
    float scale;
    bool has_mask = false;
    Value mask;  // (mask_batch * mask_heads * mask_queries, keys)
    std::int64_t mask_batch = 1, mask_heads = 1, mask_queries = 1;
};
std::unique_ptr<Step> make_attention(const AttentionSpec& spec, const Kernels& kernels);

}  // namespace raceline::net
