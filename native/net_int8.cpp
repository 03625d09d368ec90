#include "net_int8.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "net_parallel.hpp"

namespace raceline::net {
namespace {

void require(bool fits, const char* what) {
    if (!fits) throw BadNet(what);
}

bool is_matrix(const Value& v) { return v.h == 1 && v.w == 1 && v.n > 0 && v.c > 0; }

class Int8Linear : public Step {
  public:
    Int8Linear(const Int8LinearSpec& s, const Kernels& kernels)
        : x_(s.x), y_(s.y), residual_(s.residual), bytes_(s.x_bytes), has_residual_(s.has_residual),
          activation_(s.activation), gemm_(make(s, int8_kernels_like(kernels))) {}
    std::string name() const override {
        const Int8Plan& plan = gemm_.plan();
        return "int8 linear " + std::to_string(plan.vectors) + "x" + std::to_string(plan.block_rows) +
               (plan.wide ? " wide" : "");
    }
    std::int64_t weight_bytes() const override { return gemm_.size_bytes(); }
    void run(const Call& call) const override {
        Int8Call gemm{call.at(x_, 0), Number::f32,    x_.image_stride, x_.n, bytes_.scale, bytes_.zero,
                      call.at(y_, 0), Number::f32, y_.image_stride};
        if (has_residual_) gemm.residual = call.at(residual_, 0), gemm.residual_stride = residual_.image_stride;
        gemm.activation = activation_;
        OnPool parallel(call.pool);
        gemm_.run(gemm, parallel);
    }

  private:
    static Int8Gemm make(const Int8LinearSpec& s, const Int8Kernels& kernels) {
        require(is_matrix(s.x) && is_matrix(s.y) && s.x.n == s.y.n, "a product keeps the rows");
        require(s.y.place != Place::input, "an input is not written");
        require(s.x.c <= Int8Gemm::most_k, "sums of so many products might not fit 32 bits");
        if (s.has_residual)
            require(is_matrix(s.residual) && s.residual.n == s.y.n && s.residual.c == s.y.c,
                    "a residual does not fit");
        check_bytes(s.x_bytes);
        const double split = share_to_split(kernels, s.weights, s.y.c, s.x.c, s.y.c);
        const Int8Plan plan = find_int8_plan(kernels, s.x.n, s.x.c, s.y.c, split, s.seconds);
        return Int8Gemm(kernels, plan, s.weights, s.y.c, s.x.c, s.y.c, s.scale, s.bias);
    }
    Value x_, y_, residual_;
    Bytes bytes_;
    bool has_residual_;
    raceline::Activation activation_;
    Int8Gemm gemm_;
};

class Rounded : public Step {
  public:
    Rounded(const Value& x, const Value& y, const Bytes& bytes, const Kernels& kernels)
        : x_(x), y_(y), bytes_(bytes), int8_(int8_kernels_like(kernels)) {
        require(is_matrix(x) && is_matrix(y) && x.n == y.n && x.c == y.c, "what is rounded keeps its shape");
        require(y.place != Place::input, "an input is not written");
        check_bytes(bytes);
    }
    std::string name() const override { return "rounded to bytes"; }
    void run(const Call& call) const override {
        constexpr std::int64_t rows = 32;
        call.pool.run((x_.n + rows - 1) / rows, [&](std::int64_t part, int) {
            for (std::int64_t row = part * rows; row < std::min(x_.n, (part + 1) * rows); ++row)
                int8_.round(call.at(x_, row), x_.c, bytes_.scale, bytes_.zero, call.at(y_, row));
        });
    }

  private:
    Value x_, y_;
    Bytes bytes_;
    const Int8Kernels& int8_;
};

}  // namespace

std::unique_ptr<Step> make_rounded(const Value& x, const Value& y, const Bytes& bytes, const Kernels& kernels) {
    return std::make_unique<Rounded>(x, y, bytes, kernels);
}

const Int8Kernels& int8_kernels_like(const Kernels& kernels) {
    const std::string name = kernels.name;
    const std::vector<const Int8Kernels*>& sets = int8_kernels();
    if (name == "plain") return *sets.back();
    for (const Int8Kernels* set : sets) {
        const bool wider = std::string(set->name).rfind("avx512", 0) == 0;
        if (name == "avx512" || !wider) return *set;
    }
    return *sets.back();
}

void check_bytes(const Bytes& bytes) {
    require(std::isfinite(bytes.scale) && bytes.scale > 0 && std::isfinite(1 / bytes.scale),
            "a scale must be positive and finite");
    require(bytes.zero >= 0 && bytes.zero <= 255, "a zero point must be a byte");
}

std::unique_ptr<Step> make_int8_linear(const Int8LinearSpec& spec, const Kernels& kernels) {
    return std::make_unique<Int8Linear>(spec, kernels);
}

}  // namespace raceline::net
