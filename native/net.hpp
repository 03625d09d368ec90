// A convolutional net made ready to run: its values have places in one arena, its steps follow each other.
//
// Who builds one (src/raceline/engines/native) has fused operators and chosen the places. What is said here
// is checked all the same: no step reads or writes outside the arena, an input or an output.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "net_kernels.hpp"
#include "net_pool.hpp"

namespace raceline::net {

struct BadNet : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// Memory of floats at a cache line's start.
class Floats {
  public:
    Floats() = default;
    explicit Floats(std::int64_t count);  // zero; throws std::bad_alloc
    float* data() const { return data_.get(); }
    std::int64_t size() const { return size_; }

  private:
    struct Free {
        void operator()(float* at) const;
    };
    std::unique_ptr<float, Free> data_;
    std::int64_t size_ = 0;
};

enum class Place : int { arena, input, output };

// How u8 stand for numbers: (byte - zero) * scale.
struct Bytes {
    float scale = 1;
    int zero = 0;
};

// A value of (n, c, h, w) numbers: blocked in the arena, plain (NCHW) as an input or output. Or of bytes in the
// arena, the channels of a pixel side by side (NHWC).
struct Value {
    Place place = Place::arena;
    std::int64_t offset = 0;  // floats in the arena; the index of an input or output
    std::int64_t n = 0, c = 0, h = 0, w = 0;
    std::int64_t image_stride = 0;  // floats between images
    bool is_bytes = false;
    Bytes bytes;

    bool plain() const { return place != Place::arena; }
    std::int64_t blocks() const { return (c + block - 1) / block; }
    std::int64_t pixels() const { return h * w; }
    std::int64_t plane() const { return h * w * block; }  // floats of a block of channels
};

// What one call works with.
struct Call {
    Pool& pool;
    float* arena;
    float* scratch;
    const float* const* inputs;
    float* const* outputs;

    float* at(const Value& value, std::int64_t image) const {
        float* base = value.place == Place::arena    ? arena + value.offset
                      : value.place == Place::output ? outputs[value.offset]
                                                     : const_cast<float*>(inputs[value.offset]);
        return base + image * value.image_stride;
    }
    std::uint8_t* bytes_at(const Value& value, std::int64_t image) const {
        return reinterpret_cast<std::uint8_t*>(at(value, image));
    }
};

// Memory that a step reads anew in each call.
struct Memory {
    const void* at = nullptr;
    std::int64_t size_bytes = 0;
};

struct Epilogue {
    Function first, second;
    bool has_residual = false;
    Value residual;

    // Bounds that a kernel can apply by itself after the residual; false where `apply` has to follow.
    bool within_kernel(float& low, float& high) const;
};

class Step {
  public:
    virtual ~Step() = default;
    virtual void run(const Call& call) const = 0;
    virtual std::int64_t scratch_floats(int) const { return 0; }
    virtual std::int64_t weight_bytes() const { return 0; }
    virtual Memory weights() const { return {}; }
    virtual std::string name() const = 0;
};

struct ConvSpec {
    Value x, y;
    std::int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
    std::int64_t pad_top = 0, pad_left = 0, groups = 1;
    Epilogue epilogue;
};

// How a convolution is computed. Chosen by measuring, for its shape.
struct Method {
    enum Kind : int { direct, winograd, depthwise, int8 } kind = direct;
    int blocks = 1;                // of output channels in a tile; int8: vectors
    int pixels = 1;                // most pixels in a tile; int8: in a block
    bool channels_outside = true;  // loop order: all pixels for a group of channels, or the reverse; int8: wide
    int side = 4;                  // Winograd: m of F(m x m, 3 x 3)
    int chunk = 1;                 // Winograd: tiles that are transformed together
    std::string text() const;
    bool operator==(const Method& other) const {
        return kind == other.kind && blocks == other.blocks && pixels == other.pixels &&
               channels_outside == other.channels_outside && side == other.side && chunk == other.chunk;
    }
};

// What this process knows about which method is fastest, by kernels, threads and shape.
std::map<std::string, Method> known_methods();
// Adds what another process found; what is known stays. A method that a shape does not have is never used.
void learn_methods(const std::map<std::string, Method>& found);

std::vector<Method> methods_for(const ConvSpec& spec, const Kernels& kernels, bool winograd);
// `weights` is OIHW, `bias` has c floats or is null.
std::unique_ptr<Step> make_convolution(const ConvSpec& spec, const Method& method, const Kernels& kernels,
                                       const float* weights, const float* bias);
void check_convolution(const ConvSpec& spec);
bool takes_winograd(const ConvSpec& spec);
std::unique_ptr<Step> make_winograd(const ConvSpec& spec, const Method& method, const Kernels& kernels,
                                    const float* weights, const float* bias);
Floats padded_bias(const ConvSpec& spec, const float* bias);
void finish(const Kernels& kernels, const Epilogue& epilogue, float* out, const float* residual,
            std::int64_t count);

struct PoolSpec {
    Value x, y;
    std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    std::int64_t pad_top, pad_left, pad_bottom, pad_right;
    bool is_max, count_padding;
};

void check_pool(const PoolSpec& spec);
std::unique_ptr<Step> make_pool(const PoolSpec& spec, const Kernels& kernels);
std::unique_ptr<Step> make_average(const Value& x, const Value& y, const Kernels& kernels);
std::unique_ptr<Step> make_apply(const Value& x, const Value& y, Function f, const Kernels& kernels);
std::unique_ptr<Step> make_binary(Binary op, const Value& x, const Value& z, bool swapped, const Value& y,
                                  Function f, const Kernels& kernels);
std::unique_ptr<Step> make_affine(const Value& x, const Value& y, const float* scale, const float* shift,
                                  Function f, const Kernels& kernels);
// Channels [from, from + y.c) of x, or all of x into the channels of y that start at `to`.
std::unique_ptr<Step> make_copy(const Value& x, std::int64_t from, const Value& y, std::int64_t to,
                                std::int64_t channels);
std::unique_ptr<Step> make_upsample(const Value& x, const Value& y);
std::unique_ptr<Step> make_pack(const Value& x, const Value& y, const Kernels& kernels);
std::unique_ptr<Step> make_unpack(const Value& x, const Value& y, const Kernels& kernels);

// Steps in order, and what they share. Built by one thread; then `run` may be called from many.
class Net {
  public:
    // `kernels`: a name of net_kernels.hpp, or empty for the best there are.
    Net(int threads, int streams, const std::string& kernels, std::int64_t arena_floats);

    int add_value(Value value);  // checked; returns its number
    void add(std::unique_ptr<Step> step);
    void add_convolution(const ConvSpec& spec, const float* weights, const float* bias);
    // Of bytes: `weights` is OIHW, `scale` what the numbers of each output channel stand for.
    void add_int8_convolution(const ConvSpec& spec, const std::int8_t* weights, const float* scale,
                              const float* bias);
    // Give every convolution its method, by measuring for about `budget_s` in all; where the time is up, or
    // is zero, by rules. Winograd changes the last digits, and is tried only where `winograd`. Or by
    // `choice`, where it is not negative: the method of that number among those there are, counted round.
    void prepare(double budget_s, bool winograd, int choice = -1);
    void run(const float* const* inputs, float* const* outputs);

    const Value& value(int number) const;      // of floats
    const Value& any_value(int number) const;  // or of bytes
    const Kernels& kernels() const { return *kernels_; }
    std::int64_t memory_bytes() const;
    std::vector<std::string> step_names() const;
    // Least seconds of each step over some calls: of computing at one thread, else of time.
    std::vector<double> time_steps(const float* const* inputs, float* const* outputs, int repeats);
    const std::vector<Value>& inputs() const { return inputs_; }
    const std::vector<Value>& outputs() const { return outputs_; }

  private:
    struct Context {  // what one of the calls that run side by side has for itself
        std::unique_ptr<Pool> pool;
        Floats arena, scratch;
    };
    struct Pending {
        std::size_t place;
        ConvSpec spec;
        std::vector<float> weights, bias;
        std::vector<std::int8_t> whole;  // instead of `weights`
        std::vector<float> scale;
        std::int64_t weight_bytes() const {
            return std::int64_t(weights.size() * sizeof(float) + whole.size());
        }
    };
    struct Turn;
    void forbid_gaps(float* arena) const;
    void add_pending(Pending pending);
    std::vector<Method> ways_of(const Pending& pending, bool winograd) const;
    std::unique_ptr<Step> make(const Pending& pending, const Method& method) const;
    void resize_arenas(std::int64_t more_floats);
    Method choose(const Pending& pending, bool winograd, double until_s);
    // The fastest, and whether all were tried before the time was up.
    std::pair<Method, bool> measure(const Pending& pending, const std::vector<Method>& methods,
                                    double until_s);
    Call call_on(const Context& context, const float* const* inputs, float* const* outputs) const;

    int threads_;
    const Kernels* kernels_;
    std::int64_t arena_floats_;
    std::vector<Value> values_, inputs_, outputs_;
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<Pending> pending_;
    std::vector<std::unique_ptr<Context>> contexts_;
    std::vector<Context*> free_;
    std::mutex mutex_;
    std::condition_variable returned_;
    bool ready_ = false,
         cold_ = false;  // cold: weights come from memory in each call, for no cache holds them
};

}  // namespace raceline::net
