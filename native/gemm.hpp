// C = activation(norm(A) B + bias) + residual, normalised or not, with a constant B that is packed once.
#pragma once

#include <cstdint>
#include <vector>

#include "dense.hpp"
#include "parallel.hpp"
#include "scratch.hpp"
#include "tiling.hpp"

namespace raceline {

// How a product is cut. All plans give the same numbers but for rounding.
struct GemmPlan {
    int vectors = 2;                // of a tile's columns
    std::int64_t block_rows = 112;  // rows of A that are packed together and stay in the cache
    // One level of Strassen's algorithm inside each block: 7 products of halves instead of 8, at the price of an
    // error that grows with the largest element rather than with each one.
    bool strassen = false;
};

struct GemmCall {
    const float* a;
    std::int64_t lda, rows;
    float* c;
    std::int64_t ldc;
    const float* residual = nullptr;  // may be c itself
    std::int64_t residual_stride = 0;
    Activation activation = Activation::none;
    const Normalise* before = nullptr;  // of A's rows
    const Normalise* after = nullptr;   // of C's rows, last of all
};

class Gemm {
public:
    // B is (k, n), rows `ldb` apart; `bias` n floats or null. Both are copied.
    // Throws std::bad_alloc; std::invalid_argument where the plan does not fit.
    Gemm(const DenseKernels& kernels, const GemmPlan& plan, const float* b, std::int64_t ldb, std::int64_t k,
         std::int64_t n, const float* bias);

    // The numbers do not depend on the number of threads.
    void run(const GemmCall& call, Parallel& parallel) const;

    const GemmPlan& plan() const { return plan_; }
    std::int64_t k() const { return k_; }
    std::int64_t n() const { return n_; }
    std::int64_t size_bytes() const { return floats_ * std::int64_t(sizeof(float)); }

private:
    struct Panel {
        std::int64_t column, columns;
        int vectors;
        std::int64_t at;  // where its part of each packed matrix begins
    };

    void pack(const float* b, std::int64_t ldb, float sign, const float* other, float* to) const;
    void ask_for(Tile& tile, const Panel& next, std::int64_t matrix, std::int64_t t, std::int64_t tiles) const;
    void ask_for_rows(Tile& tile, const GemmCall&, const RowBlock&, std::int64_t t, std::int64_t tiles) const;
    Tiling tiling(std::int64_t rows) const;
    void run_block(const GemmCall&, const RowBlock&, std::int64_t first_panel, std::int64_t end_panel) const;
    void run_block_strassen(const GemmCall&, const RowBlock&, std::int64_t first_panel, std::int64_t end_panel) const;
    void pack_sums(const float* a, std::int64_t lda, std::int64_t half, std::int64_t lower, float* packed) const;
    void multiply_halves(int product, const Panel&, std::int64_t half, const float* packed, float* sums,
                         int next_product, const Panel* next) const;
    void finish_quarters(const GemmCall&, const Panel&, const RowBlock&, const float* sums) const;

    const DenseKernels* kernels_;
    GemmPlan plan_;
    std::int64_t k_, n_, depth_, matrix_floats_ = 0, floats_ = 0;
    std::vector<Panel> panels_;
    Floats b_, bias_;
};

// Whether Strassen's algorithm can be used at all, and is worth a try.
bool may_halve(std::int64_t rows, std::int64_t k, std::int64_t n);

// The fastest plan for this shape, found by timing a few on one thread for about `seconds` in all; kept for the
// life of the process. Exactness bars Strassen's algorithm.
GemmPlan find_plan(const DenseKernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, bool exact,
                   double seconds);

}  // namespace raceline
