// Convolutions of bytes: sums over rows that are gathered pixel by pixel, of one group.
#include <algorithm>
#include <cstring>
#include <limits>

#include "net_int8.hpp"
#include "net_parallel.hpp"

namespace raceline::net {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

bool is_depthwise(const ConvSpec& s) { return s.groups > 1; }

std::int64_t depth_of(const ConvSpec& s) { return s.kernel_h * s.kernel_w * s.x.c; }

// Weights as a matrix, (kernel_h, kernel_w, channels) by outputs: in the order in which pixels give bytes.
std::vector<std::int8_t> as_matrix(const ConvSpec& s, const std::int8_t* weights) {
    const std::int64_t taps = s.kernel_h * s.kernel_w, outputs = s.y.c;
    std::vector<std::int8_t> matrix(taps * s.x.c * outputs);
    for (std::int64_t o = 0; o < outputs; ++o)
        for (std::int64_t c = 0; c < s.x.c; ++c)
            for (std::int64_t t = 0; t < taps; ++t)
                matrix[(t * s.x.c + c) * outputs + o] = weights[(o * s.x.c + c) * taps + t];
    return matrix;
}

class Int8Conv : public Step {
  public:
    Int8Conv(const ConvSpec& spec, const Method& method, const Kernels& kernels, const std::int8_t* weights,
             const float* scale, const float* bias)
        : s_(spec), ending_(ending_of(spec.epilogue)), kernels_(kernels), int8_(int8_kernels_like(kernels)),
          name_("conv " + method.text()),
          gemm_(int8_, {method.blocks, method.pixels, method.channels_outside}, as_matrix(spec, weights).data(),
                spec.y.c, depth_of(spec), spec.y.c, scale, bias) {
        in_place_ = s_.kernel_h == 1 && s_.kernel_w == 1 && s_.stride_h == 1 && s_.stride_w == 1 &&
                    s_.y.h == s_.x.h && s_.y.w == s_.x.w && !s_.pad_top && !s_.pad_left;
    }
    std::string name() const override { return name_; }
    std::int64_t weight_bytes() const override { return gemm_.size_bytes(); }
    Memory weights() const override { return {gemm_.packed(), gemm_.packed_bytes()}; }
    void run(const Call& call) const override {
        OnPool parallel(call.pool);
        for (std::int64_t n = 0; n < s_.y.n; ++n) {
            const Pixels pixels(s_, call.bytes_at(s_.x, n));
            const Results results(*this, call, n);
            Int8Call product{};
            product.a = call.bytes_at(s_.x, n), product.a_type = Number::u8, product.lda = s_.x.c;
            product.a_scale = s_.x.bytes.scale, product.a_zero = s_.x.bytes.zero;
            product.rows = s_.y.pixels();
            product.from = in_place_ ? nullptr : &pixels;
            product.into = &results;
            gemm_.run(product, parallel);
        }
    }

  private:
    // What each pixel of y sees, tap by tap; the zero point where it looks beyond the picture.
    class Pixels final : public Int8Rows {
      public:
        Pixels(const ConvSpec& s, const std::uint8_t* x) : s_(s), x_(x), row_(s.kernel_w * s.x.c) {}
        void get(std::int64_t pixel, std::int64_t pixels, std::uint8_t* to) const override {
            std::int64_t y = pixel / s_.y.w, x = pixel % s_.y.w;
            for (; pixels > 0; --pixels, to += s_.kernel_h * row_) {
                window(y * s_.stride_h - s_.pad_top, x * s_.stride_w - s_.pad_left, to);
                if (++x == s_.y.w) x = 0, ++y;
            }
        }

      private:
        void window(std::int64_t top, std::int64_t left, std::uint8_t* to) const {
            const bool inside = left >= 0 && left + s_.kernel_w <= s_.x.w && s_.dilation_w == 1;
            for (std::int64_t i = 0; i < s_.kernel_h; ++i, to += row_) {
                const std::int64_t y = top + i * s_.dilation_h;
                if (y < 0 || y >= s_.x.h)
                    std::memset(to, s_.x.bytes.zero, std::size_t(row_));
                else if (inside)
                    std::memcpy(to, x_ + (y * s_.x.w + left) * s_.x.c, std::size_t(row_));
                else
                    taps(y, left, to);
            }
        }
        void taps(std::int64_t y, std::int64_t left, std::uint8_t* to) const {
            for (std::int64_t j = 0; j < s_.kernel_w; ++j, to += s_.x.c) {
                const std::int64_t x = left + j * s_.dilation_w;
                if (x < 0 || x >= s_.x.w)
                    std::memset(to, s_.x.bytes.zero, std::size_t(s_.x.c));
                else
                    std::memcpy(to, x_ + (y * s_.x.w + x) * s_.x.c, std::size_t(s_.x.c));
            }
        }
        const ConvSpec& s_;
        const std::uint8_t* x_;
        std::int64_t row_;
    };

    // Sums to an image of y.
    class Results final : public Int8Sums {
      public:
        Results(const Int8Conv& conv, const Call& call, std::int64_t n)
            : c_(conv), y_(call.at(conv.s_.y, n)),
              residual_(conv.s_.epilogue.has_residual ? call.at(conv.s_.epilogue.residual, n) : nullptr) {}
        void take(Int8Finish sums, std::int64_t row, std::int64_t column) const override {
            sums.first = column % block;
            if (!c_.ending_.whole) return by_steps(sums, row, column);
            const Value &y = c_.s_.y, &residual = c_.s_.epilogue.residual;
            sums.activation = c_.ending_.activation, sums.low = c_.ending_.low, sums.high = c_.ending_.high;
            sums.type = y.is_bytes ? Number::u8 : Number::f32;
            sums.step = y.bytes.scale, sums.zero = y.bytes.zero;
            sums.to = place(y, y_, row, column, sums.to_stride, sums.to_block_stride);
            if (residual_) {
                sums.residual = place(residual, residual_, row, column, sums.residual_stride,
                                      sums.residual_block_stride);
                sums.residual_type = residual.is_bytes ? Number::u8 : Number::f32;
                sums.residual_scale = residual.bytes.scale, sums.residual_zero = residual.bytes.zero;
            }
            c_.int8_.finish(sums);
        }

      private:
        // The block of 16 channels that a column is of, at a pixel.
        static void* place(const Value& v, float* image, std::int64_t row, std::int64_t column,
                           std::int64_t& stride, std::int64_t& block_stride) {
            stride = v.is_bytes ? v.c : block;
            block_stride = v.is_bytes ? std::int64_t(block) : v.plane();
            const std::int64_t at = row * stride + column / block * block_stride;
            return v.is_bytes ? static_cast<void*>(reinterpret_cast<std::uint8_t*>(image) + at) : image + at;
        }

        // Floats first, then whatever functions there are, then y: each tile in the nearest cache.
        void by_steps(Int8Finish sums, std::int64_t row, std::int64_t column) const {
            constexpr std::int64_t most_columns = (most_int8_vectors + 1) * block;
            alignas(64) float tile[most_int8_rows * most_columns], added[most_int8_rows * block];
            const std::int64_t of_block = sums.rows * block;
            sums.activation = raceline::Activation::none, sums.low = -infinity, sums.high = infinity;
            sums.type = Number::f32, sums.to = tile, sums.to_stride = block, sums.to_block_stride = of_block;
            std::fill_n(tile, of_block * ((sums.first + sums.columns + block - 1) / block), 0.0f);
            c_.int8_.finish(sums);
            const Epilogue& e = c_.s_.epilogue;
            for (std::int64_t from = sums.first, end = from + sums.columns; from < end;
                 from = (from / block + 1) * block) {
                float* const part = tile + from / block * of_block;
                const std::int64_t at = column - sums.first + from / block * block;  // the block's first channel
                const int count = int(std::min<std::int64_t>(end - from, block - from % block));
                if (residual_) fetch(row, sums.rows, at, added);
                c_.kernels_.apply(part, residual_ ? added : nullptr, part, of_block, e.first, e.second);
                put(part + from % block, row, sums.rows, at + from % block, count);
            }
        }
        void fetch(std::int64_t row, std::int64_t rows, std::int64_t channel, float* to) const {
            const Value& r = c_.s_.epilogue.residual;
            std::int64_t stride, block_stride;
            const void* from = place(r, residual_, row, channel, stride, block_stride);
            const int count = int(std::min<std::int64_t>(block, r.c - channel));
            if (r.is_bytes)
                c_.int8_.restore_block(static_cast<const std::uint8_t*>(from), stride, rows, count, r.bytes.scale,
                                       r.bytes.zero, to);
            else
                std::memcpy(to, from, sizeof(float) * std::size_t(rows * block));
        }
        void put(const float* from, std::int64_t row, std::int64_t rows, std::int64_t channel, int count) const {
            const Value& y = c_.s_.y;
            std::int64_t stride, block_stride;
            void* to = place(y, y_, row, channel, stride, block_stride);
            const std::int64_t within = channel % block;
            if (y.is_bytes)
                return c_.int8_.quantise_block(from, rows, count, y.bytes.scale, y.bytes.zero,
                                               static_cast<std::uint8_t*>(to) + within, stride);
            for (std::int64_t i = 0; i < rows; ++i)
                std::memcpy(static_cast<float*>(to) + i * block + within, from + i * block,
                            sizeof(float) * std::size_t(count));
        }
        const Int8Conv& c_;
        float *y_, *residual_;
    };

    ConvSpec s_;
    Ending ending_;
    const Kernels& kernels_;
    const Int8Kernels& int8_;
    std::string name_;
    Int8Gemm gemm_;
    bool in_place_ = false;
};

// A convolution in floats between bytes, which are brought aside and back.
class Aside : public Step {
  public:
    Aside(const ConvSpec& given, const Method& method, const Kernels& kernels, const std::int8_t* weights,
          const float* scale, const float* bias, std::int64_t at) {
        ConvSpec s = given;
        const std::int64_t each = s.kernel_h * s.kernel_w * s.x.c;
        std::vector<float> floats(std::size_t(each * s.y.c));
        for (std::int64_t i = 0; i < each * s.y.c; ++i) floats[i] = float(weights[i]) * scale[i / each];
        s.x = floats_of(s.x, at);
        steps_.push_back(make_restore(given.x, s.x, kernels));
        if (s.epilogue.has_residual && s.epilogue.residual.is_bytes) {
            s.epilogue.residual = floats_of(s.epilogue.residual, at);
            steps_.push_back(make_restore(given.epilogue.residual, s.epilogue.residual, kernels));
        }
        if (s.y.is_bytes) s.y = floats_of(s.y, at);
        steps_.push_back(make_convolution(s, method, kernels, floats.data(), bias));
        conv_ = steps_.back().get();
        if (given.y.is_bytes) steps_.push_back(make_quantise(s.y, given.y, kernels));
    }
    static Value floats_of(Value v, std::int64_t& at) {
        v.is_bytes = false, v.offset = at, v.image_stride = v.blocks() * v.plane();
        at += v.n * v.image_stride;
        return v;
    }
    void run(const Call& call) const override {
        for (const auto& step : steps_) step->run(call);
    }
    std::int64_t scratch_floats(int threads) const override { return conv_->scratch_floats(threads); }
    std::int64_t weight_bytes() const override { return conv_->weight_bytes(); }
    Memory weights() const override { return conv_->weights(); }
    std::string name() const override { return conv_->name() + " of bytes"; }

  private:
    std::vector<std::unique_ptr<Step>> steps_;
    const Step* conv_ = nullptr;
};

}  // namespace

Ending ending_of(const Epilogue& e) {
    Ending ending{true, raceline::Activation::none, -infinity, infinity};
    const auto hold = [&](const Function& f) { ending.low = f.a, ending.high = f.b; };
    if (e.first.kind == Activation::silu)
        ending.activation = raceline::Activation::silu;
    else if (e.first.kind == Activation::clip && e.has_residual && e.first.a == 0 && e.first.b == infinity)
        ending.activation = raceline::Activation::relu;
    else if (e.first.kind == Activation::clip && !e.has_residual && e.second.kind == Activation::none)
        hold(e.first);
    else if (e.first.kind != Activation::none)
        ending.whole = false;
    if (e.second.kind == Activation::clip)
        hold(e.second);
    else if (e.second.kind != Activation::none)
        ending.whole = false;
    return ending;
}

void check_int8_convolution(const ConvSpec& s) {
    check_convolution(s);
    const bool depthwise = s.groups == s.x.c && s.groups == s.y.c;
    if (!s.x.is_bytes) throw BadNet("an 8-bit convolution reads bytes");
    if (s.groups != 1 && !depthwise) throw BadNet("groups of 8-bit convolutions have one channel, or all");
    // Of a depthwise one, sums are held in floats, which are exact up to 2^24.
    if ((depthwise ? 64 : 1) * s.kernel_h * s.kernel_w * (depthwise ? 1 : s.x.c) > Int8Gemm::most_k)
        throw BadNet("sums of so many products might not be exact");
}

std::vector<Method> int8_methods_for(const ConvSpec& s, const Kernels& kernels, bool winograd) {
    if (is_depthwise(s)) return {Method{Method::depthwise}};
    const Int8Kernels& set = int8_kernels_like(kernels);
    std::vector<Method> found;
    for (const bool wide : {false, true}) {
        if (!(wide ? set.wide : set.narrow)) continue;
        for (const int pixels : {112, 336})
            for (int vectors = set.vectors; vectors >= 1; --vectors) {
                const bool needless = vectors > 1 && (vectors - 1) * set.lanes >= s.y.c;
                const bool slow = vectors == 1 && s.y.c > set.lanes, same = pixels > 112 && s.y.pixels() <= 112;
                if (!needless && !slow && !same) found.push_back({Method::int8, vectors, pixels, wide, 0, 0});
            }
    }
    if (!winograd || !takes_winograd(s)) return found;
    ConvSpec floats = s;
    floats.x.is_bytes = floats.y.is_bytes = floats.epilogue.residual.is_bytes = false;
    for (const Method& method : methods_for(floats, kernels, true))
        if (method.kind == Method::winograd) found.push_back(method);
    return found;
}

std::unique_ptr<Step> make_int8_convolution(const ConvSpec& s, const Method& method, const Kernels& kernels,
                                            const std::int8_t* weights, const float* scale, const float* bias,
                                            std::int64_t aside) {
    if (is_depthwise(s)) return make_int8_depthwise(s, kernels, weights, scale, bias);
    if (method.kind == Method::int8) return std::make_unique<Int8Conv>(s, method, kernels, weights, scale, bias);
    return std::make_unique<Aside>(s, method, kernels, weights, scale, bias, aside);
}

std::int64_t floats_aside(const ConvSpec& s) {
    if (!takes_winograd(s)) return 0;
    std::int64_t floats = s.x.n * s.x.blocks() * s.x.plane();
    for (const Value* v : {&s.y, &s.epilogue.residual})
        if (v->is_bytes) floats += v->n * v->blocks() * v->plane();
    return floats;
}

}  // namespace raceline::net
