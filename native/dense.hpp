// Kernels of matrix products, normalisations and activations, one set of them for each instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sanitized.hpp"

namespace raceline {

enum class Activation { none, relu, gelu, gelu_tanh, silu };

// Floats of a row that are packed side by side: one cache line.
constexpr std::int64_t line_floats = 16;
constexpr int most_vectors = 4, most_rows = 14;

// Where a tile's sums go: stored, or added to what is there. `sign` is 1 or -1.
struct Destination {
    float* c;
    std::int64_t ldc;
    float sign;
    bool add;
};

// C = A B + bias for one tile of rows x (vectors * lanes). A is packed as [k / 16][rows][16], so that every
// operand of the inner loop lies at a constant distance from one pointer.
struct Tile {
    std::int64_t k;
    const float* a;
    const float* b;  // k rows, each of vectors * lanes floats, `ldb` apart
    std::int64_t ldb;
    const float* bias;  // vectors * lanes floats, or null
    Destination to[2];
    int destinations;
    int last;  // columns of the last vector that exist, 1..lanes
    // Asked for on the way, `next_lines` cache lines for every 16 steps of k: weights that come next, which
    // mostly lie in main memory by the time a network comes back to them. May be null.
    const float* next;
    int next_lines;
};

// What happens to a tile between its sums and the output.
struct Finish {
    std::int64_t rows, columns;
    const float* from;
    std::int64_t from_stride;
    float* to;
    std::int64_t to_stride;
    const float* bias;      // `columns` floats, or null
    const float* residual;  // same shape as `to`, or null
    std::int64_t residual_stride;
    Activation activation;  // applied before the residual is added
};

struct Normalise {
    std::int64_t columns;
    const float *scale, *shift;  // `columns` floats each; shift may be null
    float epsilon;
};

// One row block's softmax, done in place of the packed scores: see attention.cpp.
struct SoftmaxRows {
    std::int64_t rows, keys, score_stride;
    float* scores;        // (rows, keys) with stride; overwritten
    float* packed;        // [keys / 16][rows][16]: receives exp(score - max), zero beyond `keys`
    float scale;          // multiplies the scores before the mask is added
    const float* mask;    // (rows or 1, keys), or null
    std::int64_t mask_row_stride;
    float *row_max, *row_sum, *correction;  // running state of each row; see the streaming softmax
};

struct DenseKernels {
    const char* name;
    int lanes;
    int vectors;                // the widest tile, in vectors
    int rows[most_vectors];     // the tallest tile of 1, 2, ... vectors
    void (*tile[most_vectors][most_rows])(const Tile&);
    void (*finish)(const Finish&);
    // Copy `rows` rows of `columns` floats into the packed form of Tile::a, padded with zeros.
    void (*pack_rows)(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to);
    // The same for the sum of two matrices, the second multiplied by `sign`.
    void (*pack_sum)(const float* x, const float* y, std::int64_t stride, float sign, std::int64_t rows,
                     std::int64_t columns, float* to);
    void (*normalise)(const Normalise&, const float* from, std::int64_t from_stride, std::int64_t rows, float* to,
                      std::int64_t to_stride);
    void (*softmax_rows)(const SoftmaxRows&);
    // Each row times its factor.
    void (*scale_rows)(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t columns,
                       const float* by, float* to, std::int64_t to_stride);
    // to[j * to_stride + i] = from[i * from_stride + j]
    void (*transpose)(const float* from, std::int64_t from_stride, std::int64_t rows, std::int64_t columns, float* to,
                      std::int64_t to_stride);
    // Elementwise functions: to[i] = f(from[i]).
    void (*exp)(const float* from, float* to, std::int64_t count);
    void (*erf)(const float* from, float* to, std::int64_t count);
    void (*tanh)(const float* from, float* to, std::int64_t count);
    void (*activate)(Activation, const float* from, float* to, std::int64_t count);
};

// The sets this CPU can run, best first; "plain" is always the last.
const std::vector<const DenseKernels*>& dense_kernels();

// The set of that name, the best one where it is empty. Throws std::invalid_argument.
const DenseKernels& dense_kernels(const std::string& name);

}  // namespace raceline
