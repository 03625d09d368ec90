// Steps over matrices: values of one pixel, whose images are rows. Transformers are made of them.
#include <cmath>

#include "attention.hpp"
#include "gemm.hpp"
#include "net_parallel.hpp"
#include "net_rows.hpp"

namespace raceline::net {
namespace {

void require(bool fits, const char* what) {
    if (!fits) throw BadNet(what);
}

void require_result(const Value& y) { require(y.place != Place::input, "an input is not written"); }
void require_rows(const Value& v) { require(v.h == 1 && v.w == 1 && v.n > 0 && v.c > 0, "a matrix has one pixel"); }

const DenseKernels& kernels_like(const Kernels& kernels) {
    const DenseKernels* narrowest = nullptr;
    for (const DenseKernels* set : dense_kernels()) {
        if (std::string(set->name) == kernels.name) return *set;
        narrowest = set;
    }
    return *narrowest;
}

// A layer norm and the numbers that it holds.
class HeldNorm {
  public:
    HeldNorm() = default;
    HeldNorm(const NormSpec& spec, std::int64_t columns)
        : scale_(spec.scale, spec.scale + columns), shift_(columns, 0.0f), epsilon_(spec.epsilon) {
        if (spec.shift) shift_.assign(spec.shift, spec.shift + columns);
    }
    bool there() const { return !scale_.empty(); }
    Normalise get() const { return {std::int64_t(scale_.size()), scale_.data(), shift_.data(), epsilon_}; }

  private:
    std::vector<float> scale_, shift_;
    float epsilon_ = 0;
};

class Linear : public Step {
  public:
    Linear(const LinearSpec& s, const Kernels& kernels)
        : x_(s.x), y_(s.y), residual_(s.residual), has_residual_(s.has_residual), activation_(s.activation),
          gemm_(make(s, kernels_like(kernels))) {
        if (s.before) before_ = HeldNorm(*s.before, s.x.c);
        if (s.after) after_ = HeldNorm(*s.after, s.y.c);
    }
    std::string name() const override {
        const GemmPlan& plan = gemm_.plan();
        return "linear " + std::to_string(plan.vectors) + "x" + std::to_string(plan.block_rows) +
               (plan.strassen ? " strassen" : "");
    }
    std::int64_t weight_bytes() const override { return gemm_.size_bytes(); }
    void run(const Call& call) const override {
        const Normalise before = before_.get(), after = after_.get();
        GemmCall gemm{call.at(x_, 0), x_.image_stride, x_.n, call.at(y_, 0), y_.image_stride};
        if (has_residual_) gemm.residual = call.at(residual_, 0), gemm.residual_stride = residual_.image_stride;
        gemm.activation = activation_;
        if (before_.there()) gemm.before = &before;
        if (after_.there()) gemm.after = &after;
        OnPool parallel(call.pool);
        gemm_.run(gemm, parallel);
    }

  private:
    static Gemm make(const LinearSpec& s, const DenseKernels& kernels) {
        require_rows(s.x), require_rows(s.y);
        require_result(s.y);
        require(s.x.n == s.y.n, "a product keeps the rows");
        if (s.has_residual) {
            require_rows(s.residual);
            require(s.residual.n == s.y.n && s.residual.c == s.y.c, "a residual does not fit");
        }
        const GemmPlan plan = find_plan(kernels, s.x.n, s.x.c, s.y.c, s.exact, s.seconds);
        return Gemm(kernels, plan, s.weights, s.y.c, s.x.c, s.y.c, s.bias);
    }
    Value x_, y_, residual_;
    bool has_residual_;
    raceline::Activation activation_;
    Gemm gemm_;
    HeldNorm before_, after_;
};

class Norm : public Step {
  public:
    Norm(const Value& x, const Value& y, const NormSpec& spec, const Kernels& kernels)
        : x_(x), y_(y), norm_(spec, x.c), kernels_(kernels_like(kernels)) {
        require_rows(x), require_rows(y);
        require_result(y);
        require(x.n == y.n && x.c == y.c, "a norm keeps the shape");
    }
    std::string name() const override { return "layer norm"; }
    void run(const Call& call) const override {
        constexpr std::int64_t together = 32;
        const Normalise norm = norm_.get();
        call.pool.run((x_.n + together - 1) / together, [&](std::int64_t part, int) {
            const std::int64_t row = part * together, rows = std::min(together, x_.n - row);
            kernels_.normalise(norm, call.at(x_, row), x_.image_stride, rows, call.at(y_, row), y_.image_stride);
        });
    }

  private:
    Value x_, y_;
    HeldNorm norm_;
    const DenseKernels& kernels_;
};

class Attend : public Step {
  public:
    Attend(const AttentionSpec& s, const Kernels& kernels) : s_(s), kernels_(kernels_like(kernels)) {
        check(s.q, s.queries, s.depth), check(s.k, s.keys, s.depth), check(s.v, s.keys, s.value_depth);
        check({s.y, 0, s.value_depth}, s.queries, s.value_depth);
        require_result(s.y);
        if (!s.has_mask) return;
        require_rows(s.mask);
        for (const auto& [size, whole] : {std::pair{s.mask_batch, s.batch}, {s.mask_heads, s.heads},
                                          {s.mask_queries, s.queries}})
            require(size == 1 || size == whole, "a mask does not fit");
        require(s.mask.n == s.mask_batch * s.mask_heads * s.mask_queries && s.mask.c == s.keys,
                "a mask does not fit");
    }
    std::string name() const override { return "attention"; }
    void run(const Call& call) const override {
        AttentionCall a{};
        a.batch = s_.batch, a.heads = s_.heads, a.queries = s_.queries, a.keys = s_.keys;
        a.depth = s_.depth, a.value_depth = s_.value_depth, a.scale = s_.scale;
        a.q = heads<const float>(call, s_.q, s_.queries);
        a.k = heads<const float>(call, s_.k, s_.keys);
        a.v = heads<const float>(call, s_.v, s_.keys);
        a.out = heads<float>(call, {s_.y, 0, s_.value_depth}, s_.queries);
        if (s_.has_mask) {
            const std::int64_t row = s_.mask.image_stride;
            a.mask = {call.at(s_.mask, 0), s_.mask_batch > 1 ? s_.mask_heads * s_.mask_queries * row : 0,
                      s_.mask_heads > 1 ? s_.mask_queries * row : 0, s_.mask_queries > 1 ? row : 0};
        }
        OnPool parallel(call.pool);
        attention(kernels_, a, parallel);
    }

  private:
    void check(const HeadsSpec& h, std::int64_t rows, std::int64_t depth) const {
        require_rows(h.value);
        require(s_.batch > 0 && s_.heads > 0 && rows > 0 && depth > 0 && h.value.n % s_.batch == 0 &&
                    h.value.n / s_.batch == rows && h.column >= 0 && h.head_stride >= 0 &&
                    h.head_stride <= h.value.c && s_.heads <= h.value.c &&
                    h.column + (s_.heads - 1) * h.head_stride + depth <= h.value.c,
                "heads do not fit");
    }
    template <typename Float>
    static Heads<Float> heads(const Call& call, const HeadsSpec& h, std::int64_t rows) {
        return {call.at(h.value, 0) + h.column, rows * h.value.image_stride, h.head_stride, h.value.image_stride};
    }
    AttentionSpec s_;
    const DenseKernels& kernels_;
};

}  // namespace

std::unique_ptr<Step> make_linear(const LinearSpec& spec, const Kernels& kernels) {
    return std::make_unique<Linear>(spec, kernels);
}
std::unique_ptr<Step> make_norm(const Value& x, const Value& y, const NormSpec& spec, const Kernels& kernels) {
    return std::make_unique<Norm>(x, y, spec, kernels);
}
std::unique_ptr<Step> make_attention(const AttentionSpec& spec, const Kernels& kernels) {
    return std::make_unique<Attend>(spec, kernels);
}

}  // namespace raceline::net
