// Dense kernels as Python sees them, for tests, benchmarks and the engine; src/raceline/_native.pyi has the types.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "attention.hpp"
#include "bind_arrays.hpp"
#include "gemm.hpp"

namespace raceline {
namespace {

using Norm = std::tuple<In, std::optional<In>, float>;

const DenseKernels& kernels_of(const std::string& name) {
    try {
        return dense_kernels(name);
    } catch (const std::invalid_argument& error) {
        throw nb::key_error(error.what());
    }
}

std::vector<std::string> kernel_sets() {
    std::vector<std::string> names;
    for (const DenseKernels* set : dense_kernels()) names.emplace_back(set->name);
    return names;
}

std::optional<Normalise> norm_of(const std::optional<Norm>& norm, std::int64_t columns) {
    if (!norm) return std::nullopt;
    const float* scale = vector_of(std::get<0>(*norm), columns, "the norm's scale has another length");
    const float* shift = vector_of(std::get<1>(*norm), columns, "the norm's shift has another length");
    return Normalise{columns, scale, shift, std::get<2>(*norm)};
}

class Linear {
public:
    Linear(const In& weight, const std::optional<In>& bias, std::int64_t rows, const std::string& kernels, bool exact,
           const std::optional<std::tuple<int, std::int64_t, bool>>& plan, double seconds)
        : gemm_(make(weight, bias, rows, kernels_of(kernels), exact, plan, seconds)) {}

    void run(const In& x, const Out& out, const std::optional<In>& residual, const std::string& activation,
             const std::optional<Norm>& before, const std::optional<Norm>& after, int threads) const {
        need_matrix(x, gemm_.k(), "x must be (rows, k)");
        need_matrix(out, gemm_.n(), "out must be (rows, n)");
        need(x.shape(0) == out.shape(0), "x and out must have the same rows");
        GemmCall call{x.data(), row_stride(x), std::int64_t(x.shape(0)), out.data(), row_stride(out)};
        if (residual) {
            need_matrix(*residual, gemm_.n(), "residual must be (rows, n)");
            need(residual->shape(0) == x.shape(0), "residual and x must have the same rows");
            call.residual = residual->data();
            call.residual_stride = row_stride(*residual);
        }
        call.activation = activation_of(activation);
        const auto first = norm_of(before, gemm_.k()), last = norm_of(after, gemm_.n());
        call.before = first ? &*first : nullptr;
        call.after = last ? &*last : nullptr;
        Fresh team(threads);
        nb::gil_scoped_release quiet;
        gemm_.run(call, team);
    }

    std::tuple<int, std::int64_t, bool> plan() const {
        const GemmPlan& plan = gemm_.plan();
        return {plan.vectors, plan.block_rows, plan.strassen};
    }
    std::int64_t size_bytes() const { return gemm_.size_bytes(); }

private:
    static Gemm make(const In& weight, const std::optional<In>& bias, std::int64_t rows, const DenseKernels& kernels,
                     bool exact, const std::optional<std::tuple<int, std::int64_t, bool>>& plan, double seconds) {
        need(weight.ndim() == 2, "weight must be (k, n)");
        const std::int64_t k = weight.shape(0), n = weight.shape(1);
        need_matrix(weight, n, "weight must be (k, n)");
        const float* b = vector_of(bias, n, "bias must be (n)");
        nb::gil_scoped_release quiet;
        GemmPlan chosen;
        if (plan)
            std::tie(chosen.vectors, chosen.block_rows, chosen.strassen) = *plan;
        else
            chosen = find_plan(kernels, rows, k, n, exact, seconds);
        return Gemm(kernels, chosen, weight.data(), row_stride(weight), k, n, b);
    }

    Gemm gemm_;
};

template <typename Float, typename Array>
Heads<Float> heads_of(const Array& x, std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t depth) {
    need(x.ndim() == 4 && std::int64_t(x.shape(0)) == batch && std::int64_t(x.shape(1)) == heads &&
             std::int64_t(x.shape(2)) == rows && std::int64_t(x.shape(3)) == depth,
         "q (b, h, q, d), k (b, h, k, d), v (b, h, k, e) and out (b, h, q, e) do not fit each other");
    if (x.size() > 0) need_contiguous_last(4, depth, x.stride(3));
    return {x.data(), x.stride(0), x.stride(1), x.stride(2)};
}

Heads<const float> mask_of(const std::optional<In>& mask, const AttentionCall& call) {
    if (!mask) return {nullptr, 0, 0, 0};
    const auto fits = [&](int axis, std::int64_t size) {
        return std::int64_t(mask->shape(axis)) == size || mask->shape(axis) == 1;
    };
    need(mask->ndim() == 4 && fits(0, call.batch) && fits(1, call.heads) && fits(2, call.queries) &&
             std::int64_t(mask->shape(3)) == call.keys,
         "mask must be (b or 1, h or 1, q or 1, k)");
    if (mask->size() > 0) need_contiguous_last(4, call.keys, mask->stride(3));
    const auto stride = [&](int axis) { return mask->shape(axis) == 1 ? 0 : mask->stride(axis); };
    return {mask->data(), stride(0), stride(1), stride(2)};
}

void run_attention(const In& q, const In& k, const In& v, const Out& out, const std::optional<In>& mask, float scale,
                   int threads, const std::string& kernels) {
    need(q.ndim() == 4 && k.ndim() == 4 && v.ndim() == 4, "q, k and v must have four axes");
    AttentionCall call{};
    call.batch = q.shape(0), call.heads = q.shape(1), call.queries = q.shape(2), call.depth = q.shape(3);
    call.keys = k.shape(2), call.value_depth = v.shape(3), call.scale = scale;
    call.q = heads_of<const float>(q, call.batch, call.heads, call.queries, call.depth);
    call.k = heads_of<const float>(k, call.batch, call.heads, call.keys, call.depth);
    call.v = heads_of<const float>(v, call.batch, call.heads, call.keys, call.value_depth);
    call.out = heads_of<float>(out, call.batch, call.heads, call.queries, call.value_depth);
    call.mask = mask_of(mask, call);
    const DenseKernels& set = kernels_of(kernels);
    Fresh team(threads);
    nb::gil_scoped_release quiet;
    attention(set, call, team);
}

void layer_norm(const In& x, const Out& out, const In& scale, const std::optional<In>& shift, float epsilon,
                const std::string& kernels) {
    need(x.ndim() == 2, "x must be (rows, columns)");
    const std::int64_t columns = x.shape(1);
    need_matrix(x, columns, "x must be (rows, columns)");
    need_matrix(out, columns, "out must be as x");
    need(x.shape(0) == out.shape(0), "out must be as x");
    const auto norm = norm_of(Norm{scale, shift, epsilon}, columns);
    const DenseKernels& set = kernels_of(kernels);
    nb::gil_scoped_release quiet;
    set.normalise(*norm, x.data(), row_stride(x), std::int64_t(x.shape(0)), out.data(), row_stride(out));
}

void apply(const std::string& function, const In& x, const Out& out, const std::string& kernels) {
    need(x.ndim() == 1 && out.ndim() == 1 && x.shape(0) == out.shape(0), "x and out must be vectors of one length");
    const std::int64_t count = x.shape(0);
    need(count <= 1 || (x.stride(0) == 1 && out.stride(0) == 1), "x and out must be contiguous");
    const DenseKernels& set = kernels_of(kernels);
    if (function == "exp") return set.exp(x.data(), out.data(), count);
    if (function == "erf") return set.erf(x.data(), out.data(), count);
    if (function == "tanh") return set.tanh(x.data(), out.data(), count);
    set.activate(activation_of(function), x.data(), out.data(), count);
}

}  // namespace

void bind_dense(nb::module_& module) {
    using nb::arg;
    module.def("dense_kernels", &kernel_sets);
    nb::class_<Linear>(module, "Linear")
        .def(nb::init<const In&, const std::optional<In>&, std::int64_t, const std::string&, bool,
                      const std::optional<std::tuple<int, std::int64_t, bool>>&, double>(),
             arg("weight"), arg("bias").none() = nb::none(), nb::kw_only(), arg("rows"), arg("kernels") = "",
             arg("exact") = false, arg("plan").none() = nb::none(), arg("seconds") = 0.1)
        .def("run", &Linear::run, arg("x").noconvert(), arg("out").noconvert(), nb::kw_only(),
             arg("residual").noconvert().none() = nb::none(), arg("activation") = "",
             arg("before").none() = nb::none(), arg("after").none() = nb::none(), arg("threads") = 1)
        .def_prop_ro("plan", &Linear::plan)
        .def_prop_ro("size_bytes", &Linear::size_bytes);
    module.def("attention", &run_attention, arg("q").noconvert(), arg("k").noconvert(), arg("v").noconvert(),
               arg("out").noconvert(), arg("mask").noconvert().none() = nb::none(), nb::kw_only(), arg("scale"),
               arg("threads") = 1, arg("kernels") = "");
    module.def("layer_norm", &layer_norm, arg("x").noconvert(), arg("out").noconvert(), arg("scale").noconvert(),
               arg("shift").noconvert().none() = nb::none(), nb::kw_only(), arg("epsilon"), arg("kernels") = "");
    module.def("apply", &apply, arg("function"), arg("x").noconvert(), arg("out").noconvert(), nb::kw_only(),
               arg("kernels") = "");
}

}  // namespace raceline
