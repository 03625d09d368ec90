// Linear layers whose inputs are rounded to 8 bits on the way and whose weights have 8 bits.
#include <cmath>
#include <cstring>

#include "int8.hpp"
#include "net_rows_parts.hpp"

namespace raceline::net {
namespace {

// The widest set of 8-bit kernels among those that need no more than the net's: a set's name begins with what it
// is built on.
const Int8Kernels& int8_like(const Kernels& kernels) {
    for (const Int8Kernels* set : int8_kernels()) {
        const bool same = std::strncmp(set->name, kernels.name, std::strlen(kernels.name)) == 0;
        const bool beside = !std::strcmp(kernels.name, "avx2") && !std::strcmp(set->name, "avx_vnni");
        if (same || beside) return *set;
    }
    return *int8_kernels().back();
}

class Int8Linear : public Step {
  public:
    Int8Linear(const Int8LinearSpec& s, const Kernels& kernels)
        : x_(s.x), y_(s.y), residual_(s.residual), has_residual_(s.has_residual), x_scale_(s.x_scale),
          x_zero_(s.x_zero), activation_(s.activation), gemm_(make(s, int8_like(kernels))),
          kernels_(kernels_like(kernels)) {
        if (s.after) after_ = HeldNorm(*s.after, s.y.c);
    }
    std::string name() const override {
        const Int8Plan& plan = gemm_.plan();
        return "int8 linear " + std::to_string(plan.vectors) + "x" + std::to_string(plan.block_rows) +
               (plan.wide ? " wide" : "");
    }
    std::int64_t weight_bytes() const override { return gemm_.size_bytes(); }
    void run(const Call& call) const override {
        Int8Call product{call.at(x_, 0), Number::f32,      x_.image_stride, x_.n, x_scale_, x_zero_,
                         call.at(y_, 0), Number::f32, y_.image_stride};
        if (has_residual_) product.residual = call.at(residual_, 0), product.residual_stride = residual_.image_stride;
        product.activation = activation_;
        OnPool parallel(call.pool);
        gemm_.run(product, parallel);
        if (after_.there()) normalise(call, after_, y_, y_, kernels_);
    }

  private:
    static Int8Gemm make(const Int8LinearSpec& s, const Int8Kernels& kernels) {
        require_rows(s.x), require_rows(s.y);
        require_result(s.y);
        require(s.x.n == s.y.n, "a product keeps the rows");
        require(s.x.c <= Int8Gemm::most_k, "too many columns for sums of 32 bits");
        require(std::isfinite(s.x_scale) && s.x_scale > 0 && std::isfinite(1 / s.x_scale),
                "a scale must be positive and finite");
        require(s.x_zero >= 0 && s.x_zero <= 255, "a zero point must lie within its type");
        if (s.has_residual) {
            require_rows(s.residual);
            require(s.residual.n == s.y.n && s.residual.c == s.y.c, "a residual does not fit");
        }
        const std::int64_t k = s.x.c, n = s.y.c;
        const double split = share_to_split(kernels, s.weights, n, k, n);
        return Int8Gemm(kernels, find_int8_plan(kernels, s.x.n, k, n, split, s.seconds), s.weights, n, k, n, s.scale,
                        s.bias);
    }
    Value x_, y_, residual_;
    bool has_residual_;
    float x_scale_;
    int x_zero_;
    raceline::Activation activation_;
    Int8Gemm gemm_;
    const DenseKernels& kernels_;
    HeldNorm after_;
};

}  // namespace

std::unique_ptr<Step> make_int8_linear(const Int8LinearSpec& spec, const Kernels& kernels) {
    return std::make_unique<Int8Linear>(spec, kernels);
}

}  // namespace raceline::net
