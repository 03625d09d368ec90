// 8-bit kernels as Python sees them; src/raceline/_native.pyi has the types.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bind_arrays.hpp"
#include "int8.hpp"

namespace raceline {
namespace {

using Any = nb::ndarray<nb::ro, nb::device::cpu>;
using AnyOut = nb::ndarray<nb::device::cpu>;
using Weights = nb::ndarray<const std::int8_t, nb::device::cpu>;
using PlanTuple = std::tuple<int, std::int64_t, bool>;

const Int8Kernels& set_of(const std::string& name) {
    try {
        return int8_kernels(name);
    } catch (const std::invalid_argument& error) {
        throw nb::key_error(error.what());
    }
}

std::vector<std::string> set_names() {
    std::vector<std::string> names;
    for (const Int8Kernels* set : int8_kernels()) names.emplace_back(set->name);
    return names;
}

Number number_of(const nb::dlpack::dtype& type) {
    if (type == nb::dtype<float>()) return Number::f32;
    if (type == nb::dtype<std::uint8_t>()) return Number::u8;
    need(type == nb::dtype<std::int8_t>(), "arrays must be of float32, uint8 or int8");
    return Number::s8;
}

void need_step(float scale, int zero, Number type) {
    need(std::isfinite(scale) && scale > 0 && std::isfinite(1 / scale), "a scale must be positive and finite");
    const bool fits = type == Number::s8 ? zero >= -128 && zero <= 127 : zero >= 0 && zero <= 255;
    need(fits, "a zero point must lie within its type");
}

class Int8Linear {
public:
    Int8Linear(const Weights& weight, const In& scale, const std::optional<In>& bias, std::int64_t rows,
               const std::string& kernels, const std::optional<PlanTuple>& plan, double seconds)
        : gemm_(make(weight, scale, bias, rows, set_of(kernels), plan, seconds)) {}

    void run(const Any& x, const AnyOut& out, float scale, int zero_point, float out_scale, int out_zero_point,
             const std::optional<In>& residual, const std::string& activation, int threads) const {
        need_matrix(x, gemm_.k(), "x must be (rows, k)");
        need_matrix(out, gemm_.n(), "out must be (rows, n)");
        need(x.shape(0) == out.shape(0), "x and out must have the same rows");
        const Number from = number_of(x.dtype()), to = number_of(out.dtype());
        need_step(scale, zero_point, from);
        if (to != Number::f32) need_step(out_scale, out_zero_point, to);
        Int8Call call{x.data(),   from, row_stride(x),   std::int64_t(x.shape(0)), scale, zero_point,
                      out.data(), to,   row_stride(out), out_scale,                out_zero_point};
        if (residual) {
            need_matrix(*residual, gemm_.n(), "residual must be (rows, n)");
            need(residual->shape(0) == x.shape(0), "residual and x must have the same rows");
            call.residual = residual->data();
            call.residual_stride = row_stride(*residual);
        }
        call.activation = activation_of(activation);
        Fresh team(threads);
        nb::gil_scoped_release quiet;
        gemm_.run(call, team);
    }

    PlanTuple plan() const {
        const Int8Plan& plan = gemm_.plan();
        return {plan.vectors, plan.block_rows, plan.wide};
    }
    std::int64_t size_bytes() const { return gemm_.size_bytes(); }
    double split_share() const { return gemm_.split_share(); }

private:
    static Int8Gemm make(const Weights& weight, const In& scale, const std::optional<In>& bias, std::int64_t rows,
                         const Int8Kernels& kernels, const std::optional<PlanTuple>& plan, double seconds) {
        need(weight.ndim() == 2, "weight must be (k, n)");
        const std::int64_t k = weight.shape(0), n = weight.shape(1), ldb = row_stride(weight);
        need_matrix(weight, n, "weight must be (k, n)");
        need(k <= Int8Gemm::most_k, "k must not exceed 32768, or a sum might not fit 32 bits");
        const float* scales = vector_of(scale, n, "scale must be (n)");
        const float* b = vector_of(bias, n, "bias must be (n)");
        nb::gil_scoped_release quiet;
        Int8Plan chosen;
        if (plan)
            std::tie(chosen.vectors, chosen.block_rows, chosen.wide) = *plan;
        else
            chosen = find_int8_plan(kernels, rows, k, n, share_to_split(kernels, weight.data(), ldb, k, n), seconds);
        return Int8Gemm(kernels, chosen, weight.data(), ldb, k, n, scales, b);
    }

    Int8Gemm gemm_;
};

void quantise(const In& x, const AnyOut& out, float scale, int zero_point, const std::string& kernels) {
    need(x.ndim() == 1 && out.ndim() == 1 && x.shape(0) == out.shape(0), "x and out must be vectors of one length");
    const std::int64_t count = x.shape(0);
    need(count <= 1 || (x.stride(0) == 1 && out.stride(0) == 1), "x and out must be contiguous");
    const Number type = number_of(out.dtype());
    need(type != Number::f32, "out must be of uint8 or int8");
    need_step(scale, zero_point, type);
    set_of(kernels).quantise(x.data(), count, scale, zero_point, type, out.data());
}

}  // namespace

void bind_int8(nb::module_& module) {
    using nb::arg;
    module.def("int8_kernels", &set_names);
    nb::class_<Int8Linear>(module, "Int8Linear")
        .def(nb::init<const Weights&, const In&, const std::optional<In>&, std::int64_t, const std::string&,
                      const std::optional<PlanTuple>&, double>(),
             arg("weight").noconvert(), arg("scale"), arg("bias").none() = nb::none(), nb::kw_only(), arg("rows"),
             arg("kernels") = "", arg("plan").none() = nb::none(), arg("seconds") = 0.1)
        .def("run", &Int8Linear::run, arg("x").noconvert(), arg("out").noconvert(), nb::kw_only(), arg("scale"),
             arg("zero_point") = 0, arg("out_scale") = 1.0f, arg("out_zero_point") = 0,
             arg("residual").noconvert().none() = nb::none(), arg("activation") = "", arg("threads") = 1)
        .def_prop_ro("plan", &Int8Linear::plan)
        .def_prop_ro("size_bytes", &Int8Linear::size_bytes)
        .def_prop_ro("split_share", &Int8Linear::split_share);
    module.def("quantise", &quantise, arg("x").noconvert(), arg("out").noconvert(), nb::kw_only(), arg("scale"),
               arg("zero_point") = 0, arg("kernels") = "");
}

}  // namespace raceline
