// Steps over bytes that multiply no matrices: depthwise convolutions, pools, and the ways to floats and back.
#include <algorithm>
#include <cstring>
#include <limits>

#include "net_int8.hpp"

namespace raceline::net {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

void require(bool fits, const char* what) {
    if (!fits) throw BadNet(what);
}
bool same_shape(const Value& x, const Value& y) { return x.n == y.n && x.c == y.c && x.h == y.h && x.w == y.w; }

// Channels of block `b` that are there.
int channels_of(const Value& v, std::int64_t b) { return int(std::min<std::int64_t>(block, v.c - b * block)); }

// Whole numbers as floats, which hold their sums exactly, on the kernels of floats: each strip of rows of a block of
// channels is brought near, and goes to bytes again from there.
class Int8Depthwise : public Step {
  public:
    Int8Depthwise(const ConvSpec& spec, const Kernels& kernels, const std::int8_t* weights, const float* scale,
                  const float* bias)
        : s_(spec), kernels_(kernels), int8_(int8_kernels_like(kernels)), bias_(padded_bias(spec, bias)),
          zeros_(block), scale_(spec.y.blocks() * block), weights_(spec.x.blocks() * taps() * block) {
        for (std::int64_t c = 0; c < s_.x.c; ++c) {
            scale_.data()[c] = s_.x.bytes.scale * scale[c];
            for (std::int64_t t = 0; t < taps(); ++t)
                weights_.data()[(c / block * taps() + t) * block + c % block] = float(weights[c * taps() + t]);
        }
        constexpr std::int64_t most_floats = 1 << 14;  // half of a small second-level cache
        const std::int64_t row = s_.x.w * block * s_.stride_h;
        strip_ = std::clamp<std::int64_t>(most_floats / row, 1, s_.y.h);
        rows_in_ = std::min(s_.x.h, (strip_ - 1) * s_.stride_h + reach());
    }
    std::string name() const override { return "int8 depthwise"; }
    std::int64_t weight_bytes() const override {
        return std::int64_t(sizeof(float)) * (weights_.size() + bias_.size() + scale_.size());
    }
    std::int64_t scratch_floats(int threads) const override { return threads * each_floats(); }
    void run(const Call& call) const override {
        const std::int64_t blocks = s_.x.blocks(), strips = (s_.y.h + strip_ - 1) / strip_;
        call.pool.run(s_.y.n * blocks * strips, [&](std::int64_t i, int thread) {
            const std::int64_t first = i % strips * strip_;
            strip(call, i / strips / blocks, i / strips % blocks, first, std::min(s_.y.h, first + strip_),
                  call.scratch + thread * each_floats());
        });
    }

  private:
    std::int64_t taps() const { return s_.kernel_h * s_.kernel_w; }
    std::int64_t reach() const { return (s_.kernel_h - 1) * s_.dilation_h + 1; }
    std::int64_t each_floats() const { return (rows_in_ * s_.x.w + 2 * s_.y.w) * block; }

    void strip(const Call& call, std::int64_t n, std::int64_t b, std::int64_t begin, std::int64_t end,
               float* scratch) const {
        const std::int64_t top = std::max<std::int64_t>(0, begin * s_.stride_h - s_.pad_top);
        const std::int64_t bottom = std::min(s_.x.h, (end - 1) * s_.stride_h - s_.pad_top + reach());
        const std::int64_t rows = std::max<std::int64_t>(0, bottom - top);
        const std::uint8_t* x = call.bytes_at(s_.x, n) + top * s_.x.w * s_.x.c + b * block;
        int8_.restore_block(x, s_.x.c, rows * s_.x.w, channels_of(s_.x, b), 1.0f, s_.x.bytes.zero, scratch);
        float* const out = scratch + rows_in_ * s_.x.w * block;
        for (std::int64_t y = begin; y < end; ++y) {
            DepthwiseRow d;
            d.in = scratch, d.row_stride = s_.x.w * block;
            d.height = int(rows), d.width = int(s_.x.w), d.out_width = int(s_.y.w);
            d.kernel_h = int(s_.kernel_h), d.kernel_w = int(s_.kernel_w), d.stride_w = int(s_.stride_w);
            d.dilation_h = int(s_.dilation_h), d.dilation_w = int(s_.dilation_w), d.pad_left = int(s_.pad_left);
            d.first_y = int(y * s_.stride_h - s_.pad_top - top);
            d.weights = weights_.data() + b * taps() * block, d.bias = zeros_.data();
            d.out = out, d.low = -infinity, d.high = infinity;
            kernels_.depthwise(d);
            finish(call, n, b, y, out);
        }
    }

    void finish(const Call& call, std::int64_t n, std::int64_t b, std::int64_t y, float* row) const {
        const std::int64_t count = s_.y.w * block;
        const Epilogue& e = s_.epilogue;
        float* const floats =
            s_.y.is_bytes ? row : call.at(s_.y, n) + b * s_.y.plane() + y * s_.y.w * block;
        kernels_.affine(row, scale_.data() + b * block, bias_.data() + b * block, floats, count, e.first);
        if (e.has_residual || e.second.kind != Activation::none)
            kernels_.apply(floats, e.has_residual ? residual(call, n, b, y, row + count) : nullptr, floats, count,
                           {}, e.second);
        if (s_.y.is_bytes)
            int8_.quantise_block(row, s_.y.w, channels_of(s_.y, b), s_.y.bytes.scale, s_.y.bytes.zero,
                                 call.bytes_at(s_.y, n) + y * s_.y.w * s_.y.c + b * block, s_.y.c);
    }
    const float* residual(const Call& call, std::int64_t n, std::int64_t b, std::int64_t y, float* room) const {
        const Value& r = s_.epilogue.residual;
        if (!r.is_bytes) return call.at(r, n) + b * r.plane() + y * r.w * block;
        int8_.restore_block(call.bytes_at(r, n) + y * r.w * r.c + b * block, r.c, r.w, channels_of(r, b),
                            r.bytes.scale, r.bytes.zero, room);
        return room;
    }

    ConvSpec s_;
    const Kernels& kernels_;
    const Int8Kernels& int8_;
    Floats bias_, zeros_, scale_, weights_;
    std::int64_t strip_ = 1, rows_in_ = 1;
};

class Quantise : public Step {
  public:
    Quantise(const Value& x, const Value& y, const Kernels& kernels)
        : x_(x), y_(y), int8_(int8_kernels_like(kernels)) {}
    std::string name() const override { return "quantise"; }
    void run(const Call& call) const override {
        call.pool.run(x_.n * x_.h, [&](std::int64_t i, int) {
            const std::int64_t n = i / x_.h, row = i % x_.h;
            std::uint8_t* to = call.bytes_at(y_, n) + row * y_.w * y_.c;
            const float* from = call.at(x_, n);
            if (x_.plain())
                planes(from + row * x_.w, to);
            else
                for (std::int64_t b = 0; b < x_.blocks(); ++b)
                    int8_.quantise_block(from + b * x_.plane() + row * x_.w * block, x_.w, channels_of(x_, b),
                                         y_.bytes.scale, y_.bytes.zero, to + b * block, y_.c);
        });
    }

  private:
    void planes(const float* from, std::uint8_t* to) const {
        constexpr std::int64_t most = 512;
        std::uint8_t row[most];
        for (std::int64_t c = 0; c < x_.c; ++c)
            for (std::int64_t at = 0; at < x_.w; at += most) {
                const std::int64_t count = std::min(most, x_.w - at);
                int8_.quantise(from + c * x_.pixels() + at, count, y_.bytes.scale, y_.bytes.zero, Number::u8, row);
                for (std::int64_t i = 0; i < count; ++i) to[(at + i) * x_.c + c] = row[i];
            }
    }
    Value x_, y_;
    const Int8Kernels& int8_;
};

class Restore : public Step {
  public:
    Restore(const Value& x, const Value& y, const Kernels& kernels)
        : x_(x), y_(y), int8_(int8_kernels_like(kernels)) {}
    std::string name() const override { return "restore"; }
    void run(const Call& call) const override {
        call.pool.run(x_.n * x_.h, [&](std::int64_t i, int) {
            const std::int64_t n = i / x_.h, row = i % x_.h;
            for (std::int64_t b = 0; b < x_.blocks(); ++b)
                int8_.restore_block(call.bytes_at(x_, n) + row * x_.w * x_.c + b * block, x_.c, x_.w,
                                    channels_of(x_, b), x_.bytes.scale, x_.bytes.zero,
                                    call.at(y_, n) + b * y_.plane() + row * y_.w * block);
        });
    }

  private:
    Value x_, y_;
    const Int8Kernels& int8_;
};

class BytesPool : public Step {
  public:
    explicit BytesPool(const PoolSpec& spec) : s_(spec) {}
    std::string name() const override { return "max pool of bytes"; }
    void run(const Call& call) const override {
        call.pool.run(s_.y.n * s_.y.h, [&](std::int64_t i, int) {
            const std::int64_t n = i / s_.y.h, y = i % s_.y.h;
            std::uint8_t* to = call.bytes_at(s_.y, n) + y * s_.y.w * s_.y.c;
            for (std::int64_t x = 0; x < s_.y.w; ++x, to += s_.y.c) pixel(call.bytes_at(s_.x, n), y, x, to);
        });
    }

  private:
    void pixel(const std::uint8_t* from, std::int64_t y, std::int64_t x, std::uint8_t* to) const {
        const std::int64_t channels = s_.y.c;
        std::memset(to, 0, std::size_t(channels));  // no byte is less
        for (std::int64_t i = 0; i < s_.kernel_h; ++i) {
            const std::int64_t row = y * s_.stride_h - s_.pad_top + i * s_.dilation_h;
            if (row < 0 || row >= s_.x.h) continue;
            for (std::int64_t j = 0; j < s_.kernel_w; ++j) {
                const std::int64_t column = x * s_.stride_w - s_.pad_left + j * s_.dilation_w;
                if (column < 0 || column >= s_.x.w) continue;
                const std::uint8_t* seen = from + (row * s_.x.w + column) * channels;
                for (std::int64_t c = 0; c < channels; ++c) to[c] = to[c] < seen[c] ? seen[c] : to[c];
            }
        }
    }
    PoolSpec s_;
};

}  // namespace

std::unique_ptr<Step> make_int8_depthwise(const ConvSpec& spec, const Kernels& kernels, const std::int8_t* weights,
                                          const float* scale, const float* bias) {
    return std::make_unique<Int8Depthwise>(spec, kernels, weights, scale, bias);
}

std::unique_ptr<Step> make_quantise(const Value& x, const Value& y, const Kernels& kernels) {
    require(!x.is_bytes && x.place != Place::output && y.is_bytes && same_shape(x, y),
            "what is quantised does not fit");
    return std::make_unique<Quantise>(x, y, kernels);
}

std::unique_ptr<Step> make_restore(const Value& x, const Value& y, const Kernels& kernels) {
    require(x.is_bytes && !y.is_bytes && !y.plain() && same_shape(x, y), "what is restored does not fit");
    return std::make_unique<Restore>(x, y, kernels);
}

std::unique_ptr<Step> make_bytes_pool(const PoolSpec& s) {
    check_pool(s);
    require(s.is_max && s.x.is_bytes && s.y.is_bytes && s.x.bytes.scale == s.y.bytes.scale &&
                s.x.bytes.zero == s.y.bytes.zero,
            "a pool of bytes gives some of those it gets");
    return std::make_unique<BytesPool>(s);
}

}  // namespace raceline::net
