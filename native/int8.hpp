// Products of 8-bit matrices: C = activation((A - zero) B * scale + bias) + residual, exact to the last bit up to the
// scales on every instruction set, also where 16-bit sums of products would saturate.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "dense.hpp"
#include "parallel.hpp"
#include "scratch.hpp"
#include "tiling.hpp"

namespace raceline {

enum class Number { f32, u8, s8 };

// 32-bit words of a row that are packed side by side: one cache line. A word holds four bytes of A along k, or two
// of them widened to 16 bits.
constexpr std::int64_t line_words = 16;
constexpr int most_int8_vectors = 4, most_int8_rows = 14;

// What a vector of B's words lacks, at word `word` of k. See Int8Gemm::split.
struct Rest {
    std::int64_t word, at;  // the vector's first byte among all rests
    bool last;              // of a group whose products fit 16 bits together
};

// Sums of one tile of rows x (vectors * lanes). A is packed as [words / 16][rows][16], B as `words` rows of vectors.
struct Int8Tile {
    std::int64_t words;
    const void* a;
    const void* b;
    const std::int32_t* start;  // vectors * lanes sums to begin with
    std::int32_t* sums;
    std::int64_t stride;
    const Rest* rests[most_int8_vectors];
    std::int64_t rest_counts[most_int8_vectors];
    const std::int8_t* rest_bytes;
    const char* next;  // asked for on the way, `next_lines` cache lines for every 16 words; may be null
    int next_lines;
};

// Columns that lie together: a matrix whose blocks of them are 16 elements apart is an ordinary one.
constexpr std::int64_t together = 16;

// From whole sums to the output: activation(sums * scale + bias) + residual, held between `low` and `high`.
struct Int8Finish {
    std::int64_t rows, columns;
    std::int64_t first;  // column of its block that the first one is, a multiple of the kernels' lanes
    const std::int32_t* from;
    std::int64_t from_stride;
    const float *scale, *bias;  // `columns` floats
    const void* residual;       // of its block; null, or floats, or the bytes of (byte - zero) * scale
    std::int64_t residual_stride, residual_block_stride;
    Number residual_type;
    float residual_scale;
    int residual_zero;
    Activation activation;
    float low, high;
    Number type;
    void* to;  // of its block
    std::int64_t to_stride, to_block_stride;  // in elements
    float step;                               // where the output is quantised: its scale
    int zero;
};

struct Int8Kernels {
    const char* name;
    int lanes;
    int vectors;
    bool narrow, wide;  // which of the two forms of words it has
    bool saturates;     // pairs of narrow products are added in 16 bits
    int rows[2][most_int8_vectors];  // [wide][vectors - 1]: the tallest tile
    void (*tile[2][most_int8_vectors][most_int8_rows])(const Int8Tile&);
    void (*finish)(const Int8Finish&);
    // Bytes to the packed form of Int8Tile::a, each combined with `flip` by exclusive or; zeros beyond `columns`.
    void (*pack_rows[2])(const std::uint8_t* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                         std::uint8_t flip, void* to);
    // round(x / step) + zero, half to even, held within the type; a NaN becomes the smallest. As the standard says,
    // it divides: the product with 1 / step would round some ties the other way.
    void (*quantise)(const float* from, std::int64_t count, float step, int zero, Number type, void* to);
    // The same from pixels of 16 floats, of which `channels` are there, to rows of bytes; and back.
    void (*quantise_block)(const float* from, std::int64_t pixels, int channels, float step, int zero,
                           std::uint8_t* to, std::int64_t to_stride);
    void (*restore_block)(const std::uint8_t* from, std::int64_t from_stride, std::int64_t pixels, int channels,
                          float scale, int zero, float* to);
    // What floats stand for once they were u8.
    void (*round)(const float* from, std::int64_t count, float step, int zero, float* to);
};

// The sets this CPU can run, best first; "plain" is always the last.
const std::vector<const Int8Kernels*>& int8_kernels();

// The set of that name, the best one where it is empty. Throws std::invalid_argument.
const Int8Kernels& int8_kernels(const std::string& name);

struct Int8Plan {
    int vectors = 2;
    std::int64_t block_rows = 112;
    bool wide = false;
};

// Where rows of A come from that do not lie in memory.
class Int8Rows {
public:
    virtual ~Int8Rows() = default;
    // `rows` times k bytes, one row after another.
    virtual void get(std::int64_t row, std::int64_t rows, std::uint8_t* to) const = 0;
};

// Where sums go that become no plain matrix.
class Int8Sums {
public:
    virtual ~Int8Sums() = default;
    // `sums` has from where, how many, scale and bias.
    virtual void take(Int8Finish sums, std::int64_t row, std::int64_t column) const = 0;
};

struct Int8Call {
    const void* a;
    Number a_type;  // floats are quantised to u8 on the way
    std::int64_t lda, rows;
    float a_scale;
    int a_zero;
    void* c;
    Number c_type;
    std::int64_t ldc;
    float c_scale = 1;  // where C is no float
    int c_zero = 0;
    const float* residual = nullptr;  // may be c itself where that is float
    std::int64_t residual_stride = 0;
    Activation activation = Activation::none;
    const Int8Rows* from = nullptr;  // instead of `a`, which is of bytes then
    const Int8Sums* into = nullptr;  // instead of `c`
};

class Int8Gemm {
public:
    // Beyond it a sum on its way might not fit 32 bits.
    static constexpr std::int64_t most_k = 32768;

    // B is (k, n), rows `ldb` apart; `scale` n floats, `bias` n floats or null. All are copied.
    // Throws std::bad_alloc; std::invalid_argument where the plan does not fit or k is too large.
    Int8Gemm(const Int8Kernels& kernels, const Int8Plan& plan, const std::int8_t* b, std::int64_t ldb, std::int64_t k,
             std::int64_t n, const float* scale, const float* bias);

    // The numbers depend neither on the number of threads nor on the plan.
    void run(const Int8Call& call, Parallel& parallel) const;

    const Int8Plan& plan() const { return plan_; }
    std::int64_t k() const { return k_; }
    std::int64_t n() const { return n_; }
    std::int64_t size_bytes() const;
    const void* packed() const { return b_.get(); }
    std::int64_t packed_bytes() const { return packed_words_ * std::int64_t(sizeof(float)); }
    // Vectors of B that had to be split so that no sum saturates, as a share of all.
    double split_share() const;

private:
    struct Panel {
        std::int64_t column, columns;
        int vectors;
        std::int64_t at;  // its first word in the packed matrix
        std::int64_t first_rest[most_int8_vectors + 1];
    };
    struct Columns {
        Floats start, scale;  // the first holds 32-bit integers
    };

    void pack(const std::int8_t* b, std::int64_t ldb, const Panel& panel);
    void split(Panel& panel);
    void split_vector(const Panel& panel, int vector, std::int64_t word);
    Columns columns_of(const Int8Call& call) const;
    void run_block(const Int8Call&, const Columns&, const RowBlock&, std::int64_t first_panel,
                   std::int64_t end_panel) const;
    void ask_for(Int8Tile& tile, const Panel& next, std::int64_t t, std::int64_t tiles) const;
    void ask_for_rows(Int8Tile& tile, const Int8Call&, const RowBlock&, std::int64_t t, std::int64_t tiles) const;
    void finish(const Int8Call&, Int8Finish to, std::int64_t row, std::int64_t rows, std::int64_t column) const;
    void pack_block(const Int8Call&, const RowBlock&, std::uint8_t* row, float* packed) const;
    std::int8_t* vector_at(const Panel& panel, std::int64_t word, int vector) const;

    const Int8Kernels* kernels_;
    Int8Plan plan_;
    std::int64_t k_, n_, words_, padded_, packed_words_ = 0;
    std::vector<Panel> panels_;
    std::vector<Rest> rests_;
    std::vector<std::int32_t> column_sums_;
    std::vector<std::int8_t> rest_bytes_;
    Floats b_, scale_, bias_;
};

// What Int8Gemm::split_share() of narrow words would be.
double share_to_split(const Int8Kernels& kernels, const std::int8_t* b, std::int64_t ldb, std::int64_t k,
                      std::int64_t n);

// The fastest plan for this shape, found by timing a few on one thread for about `seconds` in all; kept for the
// life of the process. `split` is a matrix' share_to_split.
Int8Plan find_int8_plan(const Int8Kernels& kernels, std::int64_t rows, std::int64_t k, std::int64_t n, double split,
                        double seconds);

}  // namespace raceline
