// The arithmetic of convolutional nets, one table of functions for each instruction set.
//
// Activations are blocked: [image][block of 16 channels][row][column][16 channels], so that a register holds
// neighbouring channels of one pixel whatever the picture's size. Channels beyond the last are padding: they
// hold anything, and no other channel is computed from them.
#pragma once

#include <cstdint>

namespace raceline::net {

constexpr int block = 16;  // channels that lie together

enum class Activation : int { none, clip, sigmoid, silu, hard_sigmoid, hard_swish, leaky_relu, tanh, linear };

// What happens to a sum: activation, residual, activation. `a` and `b` are the activation's own numbers:
// bounds of clip, slope and offset of hard_sigmoid and linear, slope of leaky_relu.
struct Function {
    Activation kind = Activation::none;
    float a = 0, b = 0;
};

// The pixels of one output tile: `pixels` of them, times `blocks` blocks of 16 channels.
struct Tile {
    const float* in;             // what `groups` counts from, at the first pixel
    const std::int32_t* groups;  // pairs: where neighbouring input numbers start, and how many they are
    int num_groups;
    std::int64_t in_stride;  // floats between pixels
    const float* weights;    // [sum of counts][blocks * 16]
    const float* bias;       // [blocks * 16]
    const float* residual;   // laid out as `out`; or null
    float* out;
    std::int64_t out_stride;        // floats between pixels
    std::int64_t out_block_stride;  // floats between blocks
    std::int64_t residual_stride, residual_block_stride;
    float low, high;
};
using TileKernel = void (*)(const Tile&);
constexpr int most_blocks = 4, most_pixels = 14;
enum TileStride { dense = 0, second = 1, any_stride = 2, num_strides = 3 };  // 16, 32 or other floats

// A row of a depthwise convolution, of one block of channels.
struct DepthwiseRow {
    const float* in;  // the block's first row, first pixel
    std::int64_t row_stride;
    int height, width, out_width;
    int kernel_h, kernel_w, stride_w, dilation_h, dilation_w, pad_left;
    int first_y;           // the input row of the window's first row; may be negative
    const float* weights;  // [kernel_h * kernel_w][16]
    const float* bias;     // [16]
    float* out;
    float low, high;
};

struct PoolRow {
    const float* in;
    std::int64_t row_stride;
    int height, width, out_width;
    int kernel_h, kernel_w, stride_w, dilation_h, dilation_w, pad_left, first_y;
    bool is_max;
    // Average: what a sum is divided by. Without padding, by the pixels that are there; with it, by those
    // within the padded picture, which ends at these (for windows that reach over it).
    bool count_padding;
    int padded_bottom, padded_right;
    float* out;
};

enum class Binary : int { add, sub, mul, div };

struct Kernels {
    const char* name;
    TileKernel tile[num_strides][most_blocks + 1][most_pixels + 1];  // null where there is none
    // Winograd F(m x m, 3 x 3), m = 2 or 4. `in` has (m + 2)^2 pixels 16 floats apart; product (i, j) goes to
    // out + (i * (m + 2) + j) * out_stride.
    void (*winograd_in)(int m, const float* in, std::int64_t row_stride, float* out, std::int64_t out_stride);
    // The reverse, to m * m pixels in `out`, bias added.
    void (*winograd_out)(int m, const float* in, std::int64_t in_stride, const float* bias, float* out);
    void (*depthwise)(const DepthwiseRow&);
    void (*pool)(const PoolRow&);
    // y = second(first(x) + residual), count a multiple of 16; residual may be null, x may be y.
    void (*apply)(const float* x, const float* residual, float* y, std::int64_t count, Function first,
                  Function second);
    // y = f(x op z); z has one block for all pixels if `z_is_pixel`, else as many floats as x.
    void (*binary)(Binary op, const float* x, const float* z, bool z_is_pixel, bool swapped, float* y,
                   std::int64_t count, Function f);
    void (*affine)(const float* x, const float* scale, const float* shift, float* y, std::int64_t count,
                   Function f);
    // Between `count` planes of numbers, `stride` floats apart, and the channels of a block; `pack` fills it up
    // with zeros.
    void (*pack)(const float* plain, std::int64_t stride, int count, std::int64_t pixels, float* blocked);
    void (*unpack)(const float* blocked, std::int64_t pixels, int count, float* plain, std::int64_t stride);
    void (*sum)(const float* x, std::int64_t pixels, float factor, float* y);  // of all pixels of a block
};

// By name: "avx512", "avx2" or "plain". Null where this CPU lacks the instructions or this build the code.
const Kernels* kernels_named(const char* name);
const Kernels& best_kernels();
extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#endif

// The interpolation points of F(4 x 4, 3 x 3) are 0, +-inner, +-outer and infinity; these keep the numbers
// of all three transforms near one, and the error a third of that of 0, +-1, +-2.
constexpr double winograd_inner = 0.625, winograd_outer = 1.5;

}  // namespace raceline::net
