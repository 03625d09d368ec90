// The steps of a net that are no convolutions: pools, sums, element by element, and changes of layout.
#include <algorithm>
#include <cstring>

#include "net.hpp"

namespace raceline::net {
namespace {

void require(bool fits, const char* what) {
    if (!fits) throw BadNet(what);
}
bool same_shape(const Value& x, const Value& y) {
    return x.n == y.n && x.c == y.c && x.h == y.h && x.w == y.w;
}

// Work that is done for each block of each image: `each(n, block)`.
class Blockwise : public Step {
  public:
    explicit Blockwise(std::int64_t images, std::int64_t blocks) : images_(images), blocks_(blocks) {}
    void run(const Call& call) const override {
        call.pool.run(images_ * blocks_, [&](std::int64_t i, int) { each(call, i / blocks_, i % blocks_); });
    }

  private:
    virtual void each(const Call& call, std::int64_t n, std::int64_t b) const = 0;
    std::int64_t images_, blocks_;
};

class PoolStep : public Blockwise {
  public:
    PoolStep(const PoolSpec& spec, const Kernels& kernels)
        : Blockwise(spec.x.n, spec.x.blocks()), s_(spec), kernels_(kernels) {}
    std::string name() const override { return s_.is_max ? "max pool" : "average pool"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        PoolRow p;
        p.in = call.at(s_.x, n) + b * s_.x.plane();
        p.row_stride = s_.x.w * block;
        p.height = int(s_.x.h), p.width = int(s_.x.w), p.out_width = int(s_.y.w);
        p.kernel_h = int(s_.kernel_h), p.kernel_w = int(s_.kernel_w), p.stride_w = int(s_.stride_w);
        p.dilation_h = int(s_.dilation_h), p.dilation_w = int(s_.dilation_w), p.pad_left = int(s_.pad_left);
        p.is_max = s_.is_max, p.count_padding = s_.count_padding;
        p.padded_bottom = int(s_.x.h + s_.pad_bottom), p.padded_right = int(s_.x.w + s_.pad_right);
        for (std::int64_t y = 0; y < s_.y.h; ++y) {
            p.first_y = int(y * s_.stride_h - s_.pad_top);
            p.out = call.at(s_.y, n) + b * s_.y.plane() + y * s_.y.w * block;
            kernels_.pool(p);
        }
    }
    PoolSpec s_;
    const Kernels& kernels_;
};

class Average : public Blockwise {
  public:
    Average(const Value& x, const Value& y, const Kernels& kernels)
        : Blockwise(x.n, x.blocks()), x_(x), y_(y), kernels_(kernels) {}
    std::string name() const override { return "global average"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        kernels_.sum(call.at(x_, n) + b * x_.plane(), x_.pixels(), 1.0f / float(x_.pixels()),
                     call.at(y_, n) + b * block);
    }
    Value x_, y_;
    const Kernels& kernels_;
};

class Apply : public Blockwise {
  public:
    Apply(const Value& x, const Value& y, Function f, const Kernels& kernels)
        : Blockwise(x.n, x.blocks()), x_(x), y_(y), f_(f), kernels_(kernels) {}
    std::string name() const override { return "activation"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        const std::int64_t at = b * x_.plane();
        kernels_.apply(call.at(x_, n) + at, nullptr, call.at(y_, n) + at, x_.plane(), f_, {});
    }
    Value x_, y_;
    Function f_;
    const Kernels& kernels_;
};

class BinaryStep : public Blockwise {
  public:
    BinaryStep(Binary op, const Value& x, const Value& z, bool swapped, const Value& y, Function f,
               const Kernels& kernels)
        : Blockwise(x.n, x.blocks()), op_(op), x_(x), z_(z), y_(y), swapped_(swapped), f_(f),
          kernels_(kernels), is_pixel_(z.pixels() == 1) {}
    std::string name() const override { return "element-wise"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        kernels_.binary(op_, call.at(x_, n) + b * x_.plane(), call.at(z_, n) + b * z_.plane(), is_pixel_,
                        swapped_, call.at(y_, n) + b * y_.plane(), x_.plane(), f_);
    }
    Binary op_;
    Value x_, z_, y_;
    bool swapped_;
    Function f_;
    const Kernels& kernels_;
    bool is_pixel_;
};

class Affine : public Blockwise {
  public:
    Affine(const Value& x, const Value& y, const float* scale, const float* shift, Function f,
           const Kernels& kernels)
        : Blockwise(x.n, x.blocks()), x_(x), y_(y), scale_(x.blocks() * block), shift_(x.blocks() * block),
          f_(f), kernels_(kernels) {
        std::copy_n(scale, x.c, scale_.data());
        std::copy_n(shift, x.c, shift_.data());
    }
    std::string name() const override { return "affine"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        const std::int64_t at = b * x_.plane();
        kernels_.affine(call.at(x_, n) + at, scale_.data() + b * block, shift_.data() + b * block,
                        call.at(y_, n) + at, x_.plane(), f_);
    }
    Value x_, y_;
    Floats scale_, shift_;
    Function f_;
    const Kernels& kernels_;
};

// Blocks of channels where the shift is whole blocks, else channel by channel.
class Copy : public Step {
  public:
    Copy(const Value& x, std::int64_t from, const Value& y, std::int64_t to, std::int64_t channels)
        : x_(x), y_(y), from_(from), to_(to), channels_(channels) {}
    std::string name() const override { return "copy"; }
    void run(const Call& call) const override {
        // Channels of one block share cache lines, so an image's channels stay in one thread.
        call.pool.run(x_.n, [&](std::int64_t n, int) {
            for (std::int64_t c = 0, count; c < channels_; c += count) {
                const std::int64_t left = block - std::max((from_ + c) % block, (to_ + c) % block);
                count = std::min(left, channels_ - c);  // in one block of both
                copy(call, n, c, count);
            }
        });
    }

  private:
    void copy(const Call& call, std::int64_t n, std::int64_t c, std::int64_t count) const {
        const std::int64_t p = from_ + c, q = to_ + c;
        const float* from = call.at(x_, n) + p / block * x_.plane() + p % block;
        float* to = call.at(y_, n) + q / block * y_.plane() + q % block;
        if (count == block) {
            std::memcpy(to, from, sizeof(float) * std::size_t(x_.plane()));
            return;
        }
        if (count == block / 2)  // as often as the channels are a multiple of 8; a known size is copied at once
            for (std::int64_t i = 0; i < x_.plane(); i += block)
                std::memcpy(to + i, from + i, sizeof(float) * (block / 2));
        else
            for (std::int64_t i = 0; i < x_.plane(); i += block)
                std::memcpy(to + i, from + i, sizeof(float) * std::size_t(count));
    }
    Value x_, y_;
    std::int64_t from_, to_, channels_;
};

class Upsample : public Blockwise {
  public:
    Upsample(const Value& x, const Value& y) : Blockwise(x.n, x.blocks()), x_(x), y_(y) {}
    std::string name() const override { return "upsample"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        const float* in = call.at(x_, n) + b * x_.plane();
        float* out = call.at(y_, n) + b * y_.plane();
        const std::int64_t down = y_.h / x_.h, across = y_.w / x_.w;
        for (std::int64_t y = 0; y < y_.h; ++y) {
            const float* row = in + y / down * x_.w * block;
            for (std::int64_t x = 0; x < y_.w; ++x, out += block)
                std::memcpy(out, row + x / across * block, sizeof(float) * block);
        }
    }
    Value x_, y_;
};

// Between NCHW and blocks; `pack` fills the last block up with zeros.
class Repack : public Blockwise {
  public:
    Repack(const Value& plain, const Value& blocked, bool packs, const Kernels& kernels)
        : Blockwise(plain.n, plain.blocks()), plain_(plain), blocked_(blocked), packs_(packs),
          kernels_(kernels) {}
    std::string name() const override { return packs_ ? "pack" : "unpack"; }

  private:
    void each(const Call& call, std::int64_t n, std::int64_t b) const override {
        const std::int64_t pixels = plain_.pixels();
        const int count = int(std::min<std::int64_t>(block, plain_.c - b * block));
        float* plain = call.at(plain_, n) + b * block * pixels;
        float* blocked = call.at(blocked_, n) + b * blocked_.plane();
        if (packs_)
            kernels_.pack(plain, pixels, count, pixels, blocked);
        else
            kernels_.unpack(blocked, pixels, count, plain, pixels);
    }
    Value plain_, blocked_;
    bool packs_;
    const Kernels& kernels_;
};

}  // namespace

void check_pool(const PoolSpec& s) {
    constexpr std::int64_t most = 1 << 20;
    for (std::int64_t k : {s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.dilation_h, s.dilation_w})
        require(k >= 1 && k <= most, "a pool's size, stride or dilation is off");
    for (std::int64_t k : {s.pad_top, s.pad_left, s.pad_bottom, s.pad_right})
        require(k >= 0 && k <= most, "a pool's padding is off");
    require(!s.x.plain() && !s.y.plain() && s.x.n == s.y.n && s.x.c == s.y.c, "a pool's output does not fit");
    // The last window starts on the picture or on its padding before it; rows and columns fit an int.
    require((s.y.h - 1) * s.stride_h - s.pad_top < s.x.h && (s.y.w - 1) * s.stride_w - s.pad_left < s.x.w,
            "a pool's window lies outside");
    require(s.pad_top <= (s.kernel_h - 1) * s.dilation_h && s.pad_left <= (s.kernel_w - 1) * s.dilation_w,
            "a pool's window lies in the padding");
}

std::unique_ptr<Step> make_pool(const PoolSpec& s, const Kernels& kernels) {
    check_pool(s);
    return std::make_unique<PoolStep>(s, kernels);
}

std::unique_ptr<Step> make_average(const Value& x, const Value& y, const Kernels& kernels) {
    require(!x.plain() && !y.plain() && x.n == y.n && x.c == y.c && y.pixels() == 1,
            "an average does not fit");
    return std::make_unique<Average>(x, y, kernels);
}

std::unique_ptr<Step> make_apply(const Value& x, const Value& y, Function f, const Kernels& kernels) {
    require(!x.plain() && !y.plain() && same_shape(x, y), "an activation does not fit");
    return std::make_unique<Apply>(x, y, f, kernels);
}

std::unique_ptr<Step> make_binary(Binary op, const Value& x, const Value& z, bool swapped, const Value& y,
                                  Function f, const Kernels& kernels) {
    const bool fits = same_shape(x, z) || (z.n == x.n && z.c == x.c && z.pixels() == 1);
    require(!x.plain() && !y.plain() && !z.plain() && same_shape(x, y) && fits, "operands do not fit");
    return std::make_unique<BinaryStep>(op, x, z, swapped, y, f, kernels);
}

std::unique_ptr<Step> make_affine(const Value& x, const Value& y, const float* scale, const float* shift,
                                  Function f, const Kernels& kernels) {
    require(!x.plain() && !y.plain() && same_shape(x, y), "a scale does not fit");
    return std::make_unique<Affine>(x, y, scale, shift, f, kernels);
}

std::unique_ptr<Step> make_copy(const Value& x, std::int64_t from, const Value& y, std::int64_t to,
                                std::int64_t channels) {
    require(!x.plain() && !y.plain() && x.n == y.n && x.h == y.h && x.w == y.w, "a copy does not fit");
    require(from >= 0 && to >= 0 && channels >= 1 && channels <= x.c - from && channels <= y.c - to,
            "a copy's channels are off");
    return std::make_unique<Copy>(x, from, y, to, channels);
}

std::unique_ptr<Step> make_upsample(const Value& x, const Value& y) {
    require(!x.plain() && !y.plain() && x.n == y.n && x.c == y.c && y.h % x.h == 0 && y.w % x.w == 0,
            "a scaled picture does not fit");
    return std::make_unique<Upsample>(x, y);
}

std::unique_ptr<Step> make_pack(const Value& x, const Value& y, const Kernels& kernels) {
    require(x.place == Place::input && !y.plain() && same_shape(x, y), "an input does not fit");
    return std::make_unique<Repack>(x, y, true, kernels);
}

std::unique_ptr<Step> make_unpack(const Value& x, const Value& y, const Kernels& kernels) {
    require(!x.plain() && y.place == Place::output && same_shape(x, y), "an output does not fit");
    return std::make_unique<Repack>(y, x, false, kernels);
}

}  // namespace raceline::net
