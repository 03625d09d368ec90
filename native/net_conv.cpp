// Convolutions as sums over tiles: direct, 1 x 1, grouped without im2col, and depthwise.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "net.hpp"

namespace raceline::net {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::int64_t last_index(std::int64_t out, std::int64_t stride, std::int64_t kernel, std::int64_t dilation) {
    return (out - 1) * stride + (kernel - 1) * dilation;
}

// The input of a direct convolution, as its tiles see it: with its padding written out where there is any.
struct Source {
    bool padded;
    std::int64_t height, width;      // rows and columns that the windows reach
    std::int64_t pixel, row, block;  // floats between pixels, rows, and blocks of channels (plain: channels)

    explicit Source(const ConvSpec& s) {
        height = last_index(s.y.h, s.stride_h, s.kernel_h, s.dilation_h) + 1;
        width = last_index(s.y.w, s.stride_w, s.kernel_w, s.dilation_w) + 1;
        padded = s.pad_top || s.pad_left || height > s.x.h || width > s.x.w;
        if (!padded) height = s.x.h, width = s.x.w;
        pixel = s.x.plain() ? 1 : net::block;
        row = width * pixel;
        block = height * row;
    }
    std::int64_t planes(const ConvSpec& s) const { return s.x.plain() ? s.x.c : s.x.blocks(); }
};

class Direct : public Step {
  public:
    Direct(const ConvSpec& spec, const Method& method, const Kernels& kernels, const float* weights,
           const float* bias)
        : s_(spec), method_(method), kernels_(kernels), source_(spec), bias_(padded_bias(spec, bias)) {
        in_kernel_ = s_.epilogue.within_kernel(low_, high_);
        const bool is_pointwise =
            s_.kernel_h == 1 && s_.kernel_w == 1 && s_.stride_h == 1 && s_.stride_w == 1;
        over_images_ = s_.y.pixels() == 1 && s_.x.pixels() == 1 && !source_.padded;
        flat_ = is_pointwise && !source_.padded;
        in_stride_ = over_images_ ? s_.x.image_stride : s_.stride_w * source_.pixel;
        out_stride_ = over_images_ ? s_.y.image_stride : block;
        stride_ = in_stride_ == block ? dense : in_stride_ == 2 * block ? second : any_stride;
        // (A deliberate order: images of one pixel are rows of a matrix; flat pictures are one long row.)
        row_pixels_ = over_images_ ? s_.y.n : flat_ ? s_.y.pixels() : s_.y.w;
        rows_ = over_images_ || flat_ ? 1 : s_.y.h;
        strips_ = (row_pixels_ + method_.pixels - 1) / method_.pixels;
        pack(weights);
    }

    void run(const Call& call) const override {
        const std::int64_t images = over_images_ ? 1 : s_.y.n;
        for (std::int64_t n = 0; n < images; ++n) {
            const float* in = source_.padded ? pad(call, n) : call.at(s_.x, n);
            const std::int64_t all = groups() * rows_ * strips_;
            const std::int64_t parts =
                call.pool.threads() == 1 ? 1 : std::min<std::int64_t>(all, 4 * call.pool.threads());
            call.pool.run(parts, [&](std::int64_t part, int) {
                for (std::int64_t i = all * part / parts; i < all * (part + 1) / parts; ++i)
                    compute(call, n, in, i);
            });
        }
    }

    std::int64_t scratch_floats(int) const override {
        return source_.padded ? source_.planes(s_) * source_.block : 0;
    }
    std::int64_t weight_bytes() const override {
        return std::int64_t(sizeof(float)) * (weights_.size() + bias_.size()) +
               std::int64_t(sizeof(std::int32_t) * table_.size());
    }
    Memory weights() const override {
        return {weights_.data(), std::int64_t(sizeof(float)) * weights_.size()};
    }
    std::string name() const override { return method_.text(); }

  private:
    struct Group {
        std::int64_t first_block;
        int blocks;
        std::size_t table;  // where its pairs start
        int pairs;
        std::int64_t weights;  // where its weights start
    };

    std::int64_t groups() const { return std::int64_t(groups_.size()); }

    // The input numbers that output channels [from, to) look at: (input channel, tap) of each run of them.
    template <class Each>
    void each_run(std::int64_t from, std::int64_t to, const Each& each) const {
        const std::int64_t per_out = s_.y.c / s_.groups, per_in = s_.x.c / s_.groups;
        const std::int64_t first = from / per_out * per_in, end = ((to - 1) / per_out + 1) * per_in;
        const std::int64_t step = s_.x.plain() ? 1 : block;
        for (std::int64_t c = first; c < end; c = std::min(end, (c / step + 1) * step)) {
            const std::int64_t count = std::min(end, (c / step + 1) * step) - c;
            for (std::int64_t i = 0; i < s_.kernel_h; ++i)
                for (std::int64_t j = 0; j < s_.kernel_w; ++j) each(c, count, i, j);
        }
    }

    std::int32_t offset(std::int64_t c, std::int64_t i, std::int64_t j) const {
        const std::int64_t plane = s_.x.plain() ? c : c / block, within = s_.x.plain() ? 0 : c % block;
        return std::int32_t(plane * source_.block + i * s_.dilation_h * source_.row +
                            j * s_.dilation_w * source_.pixel + within);
    }

    void pack(const float* weights) {
        std::int64_t total = 0;
        for (std::int64_t b = 0; b < s_.y.blocks(); b += method_.blocks) {
            Group group{b, int(std::min<std::int64_t>(method_.blocks, s_.y.blocks() - b)), table_.size(), 0,
                        total};
            std::int64_t count_all = 0;
            each_run(b * block, std::min(s_.y.c, (b + group.blocks) * block),
                     [&](std::int64_t c, std::int64_t count, std::int64_t i, std::int64_t j) {
                         table_.insert(table_.end(), {offset(c, i, j), std::int32_t(count)});
                         ++group.pairs;
                         count_all += count;
                     });
            total += count_all * group.blocks * block;
            groups_.push_back(group);
        }
        weights_ = Floats(total);
        for (const Group& group : groups_) pack_group(group, weights);
    }

    void pack_group(const Group& group, const float* weights) {
        const std::int64_t per_out = s_.y.c / s_.groups, per_in = s_.x.c / s_.groups;
        const std::int64_t from = group.first_block * block, width = group.blocks * block;
        const std::int64_t to = std::min(s_.y.c, from + width), taps = s_.kernel_h * s_.kernel_w;
        float* at = weights_.data() + group.weights;
        each_run(from, to, [&](std::int64_t c, std::int64_t count, std::int64_t i, std::int64_t j) {
            for (std::int64_t k = c; k < c + count; ++k, at += width)
                for (std::int64_t o = from; o < to; ++o) {
                    const std::int64_t within = k - o / per_out * per_in;  // of the channel's own group
                    if (within >= 0 && within < per_in)
                        at[o - from] = weights[(o * per_in + within) * taps + i * s_.kernel_w + j];
                }
        });
    }

    const float* pad(const Call& call, std::int64_t n) const {
        const float* in = call.at(s_.x, n);
        const std::int64_t left = s_.pad_left * source_.pixel;
        const std::int64_t inside =
            std::max<std::int64_t>(0, std::min(s_.x.w * source_.pixel, source_.row - left));
        call.pool.run(source_.planes(s_), [&](std::int64_t plane, int) {
            float* to = call.scratch + plane * source_.block;
            const float* from = in + plane * s_.x.pixels() * source_.pixel;
            for (std::int64_t y = 0; y < source_.height; ++y, to += source_.row) {
                const std::int64_t row = y - s_.pad_top;
                if (row < 0 || row >= s_.x.h || inside == 0) {
                    std::memset(to, 0, sizeof(float) * std::size_t(source_.row));
                    continue;
                }
                std::memset(to, 0, sizeof(float) * std::size_t(left));
                std::memcpy(to + left, from + row * s_.x.w * source_.pixel,
                            sizeof(float) * std::size_t(inside));
                std::memset(to + left + inside, 0, sizeof(float) * std::size_t(source_.row - left - inside));
            }
        });
        return call.scratch;
    }

    void compute(const Call& call, std::int64_t n, const float* in, std::int64_t index) const {
        const std::int64_t spots = rows_ * strips_;
        const Group& group =
            groups_[std::size_t(method_.channels_outside ? index / spots : index % groups())];
        const std::int64_t spot = method_.channels_outside ? index % spots : index / groups();
        const std::int64_t y = spot / strips_, strip = spot % strips_;
        const std::int64_t x = row_pixels_ * strip / strips_, end = row_pixels_ * (strip + 1) / strips_;
        const int pixels = int(end - x);
        const std::int64_t out = group.first_block * s_.y.plane() + y * s_.y.w * block + x * out_stride_;
        Tile tile;
        tile.in = in + y * s_.stride_h * source_.row + x * in_stride_;
        tile.groups = table_.data() + group.table;
        tile.num_groups = group.pairs;
        tile.in_stride = in_stride_;
        tile.weights = weights_.data() + group.weights;
        tile.bias = bias_.data() + group.first_block * block;
        tile.out = call.at(s_.y, n) + out;
        tile.out_stride = out_stride_;
        tile.out_block_stride = s_.y.plane();
        tile.low = low_;
        tile.high = high_;
        const float* residual = nullptr;
        if (s_.epilogue.has_residual) {
            const Value& r = s_.epilogue.residual;
            tile.residual_stride = over_images_ ? r.image_stride : block;
            tile.residual_block_stride = r.plane();
            residual =
                call.at(r, n) + group.first_block * r.plane() + y * r.w * block + x * tile.residual_stride;
        }
        tile.residual = in_kernel_ ? residual : nullptr;
        kernels_.tile[stride_][group.blocks][pixels](tile);
        if (!in_kernel_) finish_tile(tile, residual, group.blocks, pixels);
    }

    void finish_tile(const Tile& tile, const float* residual, int blocks, int pixels) const {
        for (int b = 0; b < blocks; ++b, residual += residual ? tile.residual_block_stride : 0) {
            float* out = tile.out + b * tile.out_block_stride;
            if (tile.out_stride == block && (!residual || tile.residual_stride == block)) {
                finish(kernels_, s_.epilogue, out, residual, pixels * block);
                continue;
            }
            for (int p = 0; p < pixels; ++p)
                finish(kernels_, s_.epilogue, out + p * tile.out_stride,
                       residual ? residual + p * tile.residual_stride : nullptr, block);
        }
    }

    ConvSpec s_;
    Method method_;
    const Kernels& kernels_;
    Source source_;
    Floats bias_, weights_;
    std::vector<std::int32_t> table_;
    std::vector<Group> groups_;
    bool in_kernel_ = false, over_images_ = false, flat_ = false;
    float low_ = -infinity, high_ = infinity;
    std::int64_t in_stride_ = 0, out_stride_ = 0, row_pixels_ = 0, rows_ = 0, strips_ = 0;
    TileStride stride_ = any_stride;
};

class Depthwise : public Step {
  public:
    Depthwise(const ConvSpec& spec, const Kernels& kernels, const float* weights, const float* bias)
        : s_(spec), kernels_(kernels), bias_(padded_bias(spec, bias)),
          weights_(spec.x.blocks() * spec.kernel_h * spec.kernel_w * block) {
        in_kernel_ = !s_.epilogue.has_residual && s_.epilogue.within_kernel(low_, high_);
        if (!in_kernel_) low_ = -infinity, high_ = infinity;
        const std::int64_t taps = s_.kernel_h * s_.kernel_w;
        for (std::int64_t c = 0; c < s_.x.c; ++c)
            for (std::int64_t t = 0; t < taps; ++t)
                weights_.data()[(c / block * taps + t) * block + c % block] = weights[c * taps + t];
    }

    void run(const Call& call) const override {
        const std::int64_t blocks = s_.x.blocks();
        const std::int64_t slices =
            std::clamp<std::int64_t>(2 * call.pool.threads() / (s_.y.n * blocks), 1, s_.y.h);
        call.pool.run(s_.y.n * blocks * slices, [&](std::int64_t i, int) {
            const std::int64_t slice = i % slices, b = i / slices % blocks, n = i / slices / blocks;
            for (std::int64_t y = s_.y.h * slice / slices; y < s_.y.h * (slice + 1) / slices; ++y)
                row(call, n, b, y);
        });
    }

    std::int64_t weight_bytes() const override {
        return std::int64_t(sizeof(float)) * (weights_.size() + bias_.size());
    }
    std::string name() const override { return "depthwise"; }

  private:
    void row(const Call& call, std::int64_t n, std::int64_t b, std::int64_t y) const {
        DepthwiseRow d;
        d.in = call.at(s_.x, n) + b * s_.x.plane();
        d.row_stride = s_.x.w * block;
        d.height = int(s_.x.h), d.width = int(s_.x.w), d.out_width = int(s_.y.w);
        d.kernel_h = int(s_.kernel_h), d.kernel_w = int(s_.kernel_w), d.stride_w = int(s_.stride_w);
        d.dilation_h = int(s_.dilation_h), d.dilation_w = int(s_.dilation_w), d.pad_left = int(s_.pad_left);
        d.first_y = int(y * s_.stride_h - s_.pad_top);
        d.weights = weights_.data() + b * s_.kernel_h * s_.kernel_w * block;
        d.bias = bias_.data() + b * block;
        d.out = call.at(s_.y, n) + b * s_.y.plane() + y * s_.y.w * block;
        d.low = low_, d.high = high_;
        kernels_.depthwise(d);
        if (in_kernel_) return;
        const Value& r = s_.epilogue.residual;
        const float* residual =
            s_.epilogue.has_residual ? call.at(r, n) + b * r.plane() + y * r.w * block : nullptr;
        finish(kernels_, s_.epilogue, d.out, residual, s_.y.w * block);
    }

    ConvSpec s_;
    const Kernels& kernels_;
    Floats bias_, weights_;
    bool in_kernel_ = false;
    float low_ = -infinity, high_ = infinity;
};

bool is_depthwise(const ConvSpec& s) {
    return s.groups > 1 && s.groups == s.x.c && s.x.c == s.y.c && !s.x.plain();
}

std::vector<std::pair<int, int>> tiles_of(const Kernels& kernels, std::int64_t blocks, TileStride stride) {
    std::vector<std::pair<int, int>> found;
    for (int b = 1; b <= std::min<std::int64_t>(most_blocks, blocks); ++b) {
        int most = 0;
        for (int p = 1; p <= most_pixels; ++p)
            if (kernels.tile[stride][b][p]) most = p;
        if (most) found.emplace_back(b, most);
    }
    // The largest tile first: it reads least for what it computes.
    std::stable_sort(found.begin(), found.end(),
                     [](auto p, auto q) { return p.first * p.second > q.first * q.second; });
    return found;
}

}  // namespace

bool takes_winograd(const ConvSpec& s) {
    return s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
           s.dilation_w == 1 && s.groups == 1 && !s.x.plain() && s.x.c >= block && s.y.c >= block;
}

bool Epilogue::within_kernel(float& low, float& high) const {
    low = -infinity, high = infinity;
    const Function& last = has_residual ? second : first;
    if (has_residual ? first.kind != Activation::none : second.kind != Activation::none) return false;
    if (last.kind == Activation::none) return true;
    if (last.kind != Activation::clip) return false;
    low = last.a, high = last.b;
    return true;
}

std::string Method::text() const {
    if (kind == depthwise) return "depthwise";
    if (kind == int8)
        return "int8 " + std::to_string(blocks) + "x" + std::to_string(pixels) + (channels_outside ? " wide" : "");
    std::string name = kind == direct ? "direct" : "winograd" + std::to_string(side);
    name += " " + std::to_string(blocks * block) + "x" + std::to_string(pixels);
    return name + (kind == winograd   ? " chunk " + std::to_string(chunk)
                   : channels_outside ? " channels"
                                      : " pixels");
}

Floats padded_bias(const ConvSpec& spec, const float* bias) {
    Floats padded(spec.y.blocks() * block);
    if (bias) std::copy_n(bias, spec.y.c, padded.data());
    return padded;
}

void finish(const Kernels& kernels, const Epilogue& epilogue, float* out, const float* residual,
            std::int64_t count) {
    kernels.apply(out, residual, out, count, epilogue.first, epilogue.second);
}

void check_convolution(const ConvSpec& s) {
    const auto positive = {s.kernel_h,   s.kernel_w,   s.stride_h, s.stride_w,
                           s.dilation_h, s.dilation_w, s.groups};
    constexpr std::int64_t most = 1 << 20;
    for (std::int64_t number : positive)
        if (number < 1 || number > most)
            throw BadNet("a convolution's size, stride, dilation or groups is off");
    if (s.pad_top < 0 || s.pad_left < 0 || s.pad_top > most || s.pad_left > most)
        throw BadNet("a convolution's padding is off");
    if (s.x.c % s.groups || s.y.c % s.groups) throw BadNet("groups do not divide the channels");
    if (s.x.n != s.y.n || s.y.plain()) throw BadNet("a convolution's output does not fit");
    if (s.x.plain() && s.groups != 1) throw BadNet("grouped convolutions need blocked inputs");
    const Value& r = s.epilogue.residual;
    if (s.epilogue.has_residual &&
        (r.plain() || r.n != s.y.n || r.c != s.y.c || r.h != s.y.h || r.w != s.y.w))
        throw BadNet("a residual does not fit");
    const std::int64_t height = last_index(s.y.h, s.stride_h, s.kernel_h, s.dilation_h) + 1;
    const std::int64_t width = last_index(s.y.w, s.stride_w, s.kernel_w, s.dilation_w) + 1;
    const std::int64_t limit = std::numeric_limits<std::int32_t>::max();
    if (height > limit || width > limit || height * width > limit / ((s.x.blocks() + 1) * block))
        throw BadNet("a picture with its padding has more than 2^31 numbers");
}

std::vector<Method> methods_for(const ConvSpec& s, const Kernels& kernels, bool winograd) {
    if (is_depthwise(s)) return {Method{Method::depthwise}};
    std::vector<Method> found;
    const std::int64_t reach = s.x.plain() ? s.stride_w : s.stride_w * block;
    const bool one_pixel = s.y.pixels() == 1 && s.x.pixels() == 1;
    const TileStride stride = one_pixel            ? any_stride
                              : reach == block     ? dense
                              : reach == 2 * block ? second
                                                   : any_stride;
    const bool whole_blocks = s.groups == 1 || (s.y.c / s.groups) % block == 0;
    const std::int64_t blocks = whole_blocks ? s.y.blocks() / (s.groups > 1 ? s.groups : 1) : 1;
    if (winograd && takes_winograd(s))
        for (int side : {4, 2}) {
            const std::int64_t tiles = s.y.n * ((s.y.h + side - 1) / side) * ((s.y.w + side - 1) / side);
            const auto shapes = tiles_of(kernels, s.y.blocks(), dense);
            for (std::size_t i = 0; i < std::min<std::size_t>(2, shapes.size()); ++i)
                for (std::int64_t chunk : {14, 28, 56}) {
                    if (chunk > 14 && chunk / 2 >= tiles) continue;  // no more than the smaller chunk holds
                    found.push_back({Method::winograd, shapes[i].first, shapes[i].second, true, side,
                                     int(std::min(chunk, tiles))});
                }
        }
    for (auto [b, p] : tiles_of(kernels, blocks, stride))
        for (bool outside : {true, false})
            if (blocks % b == 0 || s.groups == 1) found.push_back({Method::direct, b, p, outside, 0, 0});
    return found;
}

std::unique_ptr<Step> make_convolution(const ConvSpec& spec, const Method& method, const Kernels& kernels,
                                       const float* weights, const float* bias) {
    if (method.kind == Method::depthwise) return std::make_unique<Depthwise>(spec, kernels, weights, bias);
    if (method.kind == Method::winograd) return make_winograd(spec, method, kernels, weights, bias);
    return std::make_unique<Direct>(spec, method, kernels, weights, bias);
}

}  // namespace raceline::net
