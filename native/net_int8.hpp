// Steps of a net that multiply 8-bit numbers, exactly, whatever instructions there are.
#pragma once

#include "int8.hpp"
#include "net.hpp"

namespace raceline::net {

// y = activation(bytes(x) weights + bias) + residual, where bytes(x) are the floats of x rounded to bytes.
struct Int8LinearSpec {
    Value x, y;
    Bytes x_bytes;
    const std::int8_t* weights;  // (x.c, y.c), copied
    const float* scale;          // y.c, copied: what each column of the weights stands for
    const float* bias;           // y.c, copied; may be null
    raceline::Activation activation = raceline::Activation::none;
    bool has_residual = false;
    Value residual;
    double seconds = 0.1;  // to look for the fastest plan
};
std::unique_ptr<Step> make_int8_linear(const Int8LinearSpec& spec, const Kernels& kernels);

// Floats of a matrix as what they stand for once they were rounded to bytes.
std::unique_ptr<Step> make_rounded(const Value& x, const Value& y, const Bytes& bytes, const Kernels& kernels);

// The 8-bit kernels that go with those of a net: none wider.
const Int8Kernels& int8_kernels_like(const Kernels& kernels);

void check_bytes(const Bytes& bytes);

// Convolutions of bytes, of one group or depthwise; y and the residual are of bytes or floats. They are computed in
// bytes, or, where that may be faster, in floats that stand aside, in the arena from `aside` on.
void check_int8_convolution(const ConvSpec& spec);
std::vector<Method> int8_methods_for(const ConvSpec& spec, const Kernels& kernels, bool winograd);
std::unique_ptr<Step> make_int8_convolution(const ConvSpec& spec, const Method& method, const Kernels& kernels,
                                            const std::int8_t* weights, const float* scale, const float* bias,
                                            std::int64_t aside);
std::unique_ptr<Step> make_int8_depthwise(const ConvSpec& spec, const Kernels& kernels, const std::int8_t* weights,
                                          const float* scale, const float* bias);
// What the second way needs.
std::int64_t floats_aside(const ConvSpec& spec);

// Floats, of the arena or as they come, to bytes; bytes to floats of the arena.
std::unique_ptr<Step> make_quantise(const Value& x, const Value& y, const Kernels& kernels);
std::unique_ptr<Step> make_restore(const Value& x, const Value& y, const Kernels& kernels);
// The largest of each window, among bytes.
std::unique_ptr<Step> make_bytes_pool(const PoolSpec& spec);

// What follows a sum, as far as 8-bit kernels do it by themselves.
struct Ending {
    bool whole;  // whether that is all
    raceline::Activation activation;
    float low, high;
};
Ending ending_of(const Epilogue& epilogue);

}  // namespace raceline::net
