// Convolutions of 3 x 3 by Winograd's minimal filtering (Lavin and Gray 2016): tiles of the picture and the
// weights are transformed, multiplied point by point, summed over channels as matrices, and transformed back.
// F(2 x 2) needs 2.25 times fewer multiplications than the sum itself, F(4 x 4) four times fewer.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "net.hpp"

namespace raceline::net {
namespace {

constexpr int most_side = 6;

// Rows of G: a filter's three taps at each interpolation point.
std::vector<std::array<double, 3>> filter_rows(int side) {
    if (side == 2) return {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    const double a = winograd_inner, b = winograd_outer;
    const double at_zero = a * a * b * b, at_a = 2 * a * a * (a * a - b * b),
                 at_b = 2 * b * b * (b * b - a * a);
    return {{1 / at_zero, 0, 0},
            {1 / at_a, a / at_a, a * a / at_a},
            {1 / at_a, -a / at_a, a * a / at_a},
            {1 / at_b, b / at_b, b * b / at_b},
            {1 / at_b, -b / at_b, b * b / at_b},
            {0, 0, 1}};
}

class Winograd : public Step {
  public:
    Winograd(const ConvSpec& spec, const Method& method, const Kernels& kernels, const float* weights,
             const float* bias)
        : s_(spec), method_(method), kernels_(kernels), bias_(padded_bias(spec, bias)),
          side_(method.side + 2), points_(side_ * side_), across_((s_.y.w + method.side - 1) / method.side),
          down_((s_.y.h + method.side - 1) / method.side), tiles_(s_.y.n * across_ * down_) {
        in_point_ =
            s_.x.blocks() * method_.chunk * block + block;  // one more, or points would share cache sets
        out_point_ = s_.y.blocks() * method_.chunk * block + block;
        for (std::int64_t b = 0; b < s_.x.blocks(); ++b) {
            const std::int64_t count = std::min<std::int64_t>(block, s_.x.c - b * block);
            table_.insert(table_.end(), {std::int32_t(b * method_.chunk * block), std::int32_t(count)});
        }
        weights_ = Floats(points_ * s_.x.c * s_.y.blocks() * block);
        const auto rows = filter_rows(method_.side);
        for (std::int64_t o = 0; o < s_.y.c; ++o)
            for (std::int64_t c = 0; c < s_.x.c; ++c) pack(rows, o, c, weights + (o * s_.x.c + c) * 9);
    }

    void run(const Call& call) const override {
        const std::int64_t chunks = (tiles_ + method_.chunk - 1) / method_.chunk;
        const int threads = call.pool.threads();
        if (threads == 1 || chunks >= 2 * threads)  // chunks side by side, each in one thread
            return call.pool.run(chunks, [&](std::int64_t chunk, int thread) {
                const Part part(*this, call, chunk, thread);
                for (std::int64_t b = 0; b < s_.x.blocks(); ++b) part.transform_in(b, thread);
                for (std::int64_t i = 0; i < points_ * groups(); ++i) part.multiply(i);
                for (std::int64_t b = 0; b < s_.y.blocks(); ++b) part.transform_out(b, thread);
            });
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
            const Part part(*this, call, chunk, 0);
            call.pool.run(s_.x.blocks(), [&](std::int64_t b, int thread) { part.transform_in(b, thread); });
            call.pool.run(points_, [&](std::int64_t i, int) {
                for (std::int64_t g = 0; g < groups(); ++g) part.multiply(i * groups() + g);
            });
            call.pool.run(s_.y.blocks(), [&](std::int64_t b, int thread) { part.transform_out(b, thread); });
        }
    }

    std::int64_t scratch_floats(int threads) const override { return threads * per_thread(); }
    std::int64_t weight_bytes() const override {
        return std::int64_t(sizeof(float)) * (weights_.size() + bias_.size());
    }
    Memory weights() const override {
        return {weights_.data(), std::int64_t(sizeof(float)) * weights_.size()};
    }
    std::string name() const override { return method_.text(); }

  private:
    std::int64_t per_thread() const {
        return points_ * (in_point_ + out_point_) + 2 * most_side * most_side * block;
    }
    std::int64_t groups() const { return (s_.y.blocks() + method_.blocks - 1) / method_.blocks; }
    // Weights lie as [point][group of output blocks][input channel][channels of the group].
    std::int64_t weights_of(std::int64_t point, std::int64_t group) const {
        return (point * s_.y.blocks() + group * method_.blocks) * block * s_.x.c;
    }
    int blocks_in(std::int64_t group) const {
        return int(std::min<std::int64_t>(method_.blocks, s_.y.blocks() - group * method_.blocks));
    }

    void pack(const std::vector<std::array<double, 3>>& rows, std::int64_t o, std::int64_t c, const float* taps) {
        const std::int64_t group = o / (method_.blocks * block), width = blocks_in(group) * block;
        const std::int64_t point = s_.y.blocks() * block * s_.x.c;
        float* at = weights_.data() + weights_of(0, group) + c * width + o % (method_.blocks * block);
        double half[most_side][3];
        for (std::int64_t i = 0; i < side_; ++i)
            for (int q = 0; q < 3; ++q)
                half[i][q] = rows[i][0] * taps[q] + rows[i][1] * taps[3 + q] + rows[i][2] * taps[6 + q];
        for (std::int64_t i = 0; i < side_; ++i)
            for (std::int64_t j = 0; j < side_; ++j, at += point)
                *at = float(half[i][0] * rows[j][0] + half[i][1] * rows[j][1] + half[i][2] * rows[j][2]);
    }

    // The tiles of one chunk on their way through a thread's scratch.
    class Part {
      public:
        Part(const Winograd& w, const Call& call, std::int64_t chunk, int thread)
            : w_(w), call_(call), first_(chunk * w.method_.chunk),
              count_(std::min<std::int64_t>(w.method_.chunk, w.tiles_ - first_)) {
            in_ = call.scratch + thread * w.per_thread();
            out_ = in_ + w.points_ * w.in_point_;
        }

        void transform_in(std::int64_t b, int thread) const {
            for (std::int64_t t = 0; t < count_; ++t) {
                const Spot spot(w_, first_ + t);
                const Value& x = w_.s_.x;
                const std::int64_t y0 = spot.y - w_.s_.pad_top, x0 = spot.x - w_.s_.pad_left;
                const float* from = call_.at(x, spot.n) + b * x.plane();
                std::int64_t stride = x.w * block;
                if (y0 >= 0 && x0 >= 0 && y0 + w_.side_ <= x.h && x0 + w_.side_ <= x.w)
                    from += y0 * stride + x0 * block;
                else
                    from = gather(from, y0, x0, own(thread)), stride = w_.side_ * block;
                w_.kernels_.winograd_in(w_.method_.side, from, stride,
                                        in_ + (b * w_.method_.chunk + t) * block, w_.in_point_);
            }
        }

        void multiply(std::int64_t index) const {
            const std::int64_t point = index / w_.groups(), group = index % w_.groups();
            const int blocks = w_.blocks_in(group), most = w_.method_.pixels;
            Tile tile;
            tile.groups = w_.table_.data();
            tile.num_groups = int(w_.table_.size() / 2);
            tile.in_stride = tile.out_stride = block;
            tile.weights = w_.weights_.data() + w_.weights_of(point, group);
            tile.bias = zeros;
            tile.residual = nullptr;
            tile.residual_stride = tile.residual_block_stride = 0;
            tile.out_block_stride = w_.method_.chunk * block;
            tile.low = -std::numeric_limits<float>::infinity();
            tile.high = std::numeric_limits<float>::infinity();
            const float* in = in_ + point * w_.in_point_;
            float* out = out_ + point * w_.out_point_ + group * w_.method_.blocks * w_.method_.chunk * block;
            const std::int64_t strips = (count_ + most - 1) / most;
            for (std::int64_t s = 0; s < strips; ++s) {
                const std::int64_t from = count_ * s / strips, end = count_ * (s + 1) / strips;
                tile.in = in + from * block;
                tile.out = out + from * block;
                w_.kernels_.tile[dense][blocks][end - from](tile);
            }
        }

        void transform_out(std::int64_t b, int thread) const {
            float* pixels = own(thread) + most_side * most_side * block;
            for (std::int64_t t = 0; t < count_; ++t) {
                w_.kernels_.winograd_out(w_.method_.side, out_ + (b * w_.method_.chunk + t) * block,
                                         w_.out_point_, w_.bias_.data() + b * block, pixels);
                put(Spot(w_, first_ + t), b, pixels);
            }
        }

      private:
        struct Spot {
            std::int64_t n, y, x;
            Spot(const Winograd& w, std::int64_t tile)
                : n(tile / (w.across_ * w.down_)), y(tile / w.across_ % w.down_ * w.method_.side),
                  x(tile % w.across_ * w.method_.side) {}
        };

        // Room for one tile before and after its transform; where phases are shared, each thread's own.
        float* own(int thread) const {
            return call_.scratch + thread * w_.per_thread() + w_.points_ * (w_.in_point_ + w_.out_point_);
        }

        const float* gather(const float* from, std::int64_t y0, std::int64_t x0, float* to) const {
            const Value& x = w_.s_.x;
            const std::int64_t left = std::max<std::int64_t>(0, -x0), right = std::min(w_.side_, x.w - x0);
            std::memset(to, 0, sizeof(float) * std::size_t(w_.points_ * block));
            for (std::int64_t i = 0; i < w_.side_; ++i) {
                if (y0 + i < 0 || y0 + i >= x.h || right <= left) continue;
                std::memcpy(to + (i * w_.side_ + left) * block, from + ((y0 + i) * x.w + x0 + left) * block,
                            sizeof(float) * std::size_t((right - left) * block));
            }
            return to;
        }

        void put(const Spot& spot, std::int64_t b, const float* pixels) const {
            const Value& y = w_.s_.y;
            const Epilogue& e = w_.s_.epilogue;
            const std::int64_t m = w_.method_.side, width = std::min(m, y.w - spot.x);
            for (std::int64_t i = 0; i < std::min(m, y.h - spot.y); ++i) {
                const std::int64_t at = b * y.plane() + ((spot.y + i) * y.w + spot.x) * block;
                const float* residual = e.has_residual ? call_.at(e.residual, spot.n) + at : nullptr;
                float* to = call_.at(y, spot.n) + at;
                w_.kernels_.apply(pixels + i * m * block, residual, to, width * block, e.first, e.second);
            }
        }

        static inline const float zeros[most_blocks * block] = {};
        const Winograd& w_;
        const Call& call_;
        std::int64_t first_, count_;
        float *in_, *out_;
    };

    ConvSpec s_;
    Method method_;
    const Kernels& kernels_;
    Floats bias_, weights_;
    std::vector<std::int32_t> table_;
    std::int64_t side_, points_, across_, down_, tiles_, in_point_, out_point_;
};

}  // namespace

std::unique_ptr<Step> make_winograd(const ConvSpec& spec, const Method& method, const Kernels& kernels,
                                    const float* weights, const float* bias) {
    return std::make_unique<Winograd>(spec, method, kernels, weights, bias);
}

}  // namespace raceline::net
