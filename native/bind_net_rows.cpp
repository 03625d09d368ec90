// A net's steps over matrices as Python sees them; src/raceline/_native.pyi says the same in types.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "bind_arrays.hpp"
#include "net_int8.hpp"
#include "net_rows.hpp"

namespace raceline {
namespace {

using net::BadNet, net::Net;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Int8Matrix = nb::ndarray<const std::int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BytesRow = std::tuple<float, int>;  // scale, zero point
using NormRow = std::tuple<Vector, std::optional<Vector>, float>;
using HeadsRow = std::tuple<int, std::int64_t, std::int64_t>;  // value, column, stride of heads

const float* fitting(const std::optional<Vector>& vector, std::int64_t size) {
    if (!vector) return nullptr;
    if (std::int64_t(vector->shape(0)) != size) throw BadNet("a vector does not fit");
    return vector->data();
}

std::optional<net::NormSpec> norm_of(const std::optional<NormRow>& row, std::int64_t columns) {
    if (!row) return std::nullopt;
    return net::NormSpec{fitting(std::get<0>(*row), columns), fitting(std::get<1>(*row), columns),
                         std::get<2>(*row)};
}

void add_linear(Net& net, int x, int y, const Matrix& weights, const std::optional<Vector>& bias,
                const std::string& activation, int residual, const std::optional<NormRow>& before,
                const std::optional<NormRow>& after, bool exact, double seconds) {
    net::LinearSpec s;
    s.x = net.value(x), s.y = net.value(y);
    if (std::int64_t(weights.shape(0)) != s.x.c || std::int64_t(weights.shape(1)) != s.y.c)
        throw BadNet("weights do not fit");
    s.weights = weights.data(), s.bias = fitting(bias, s.y.c);
    s.activation = activation_of(activation);
    s.has_residual = residual >= 0;
    if (s.has_residual) s.residual = net.value(residual);
    const auto first = norm_of(before, s.x.c), last = norm_of(after, s.y.c);
    s.before = first ? &*first : nullptr, s.after = last ? &*last : nullptr;
    s.exact = exact, s.seconds = seconds;
    nb::gil_scoped_release release;
    net.add(net::make_linear(s, net.kernels()));
}

void add_int8_linear(Net& net, int x, int y, const Int8Matrix& weights, const Vector& scale,
                     const std::optional<Vector>& bias, const BytesRow& bytes, const std::string& activation,
                     int residual, double seconds) {
    net::Int8LinearSpec s;
    s.x = net.value(x), s.y = net.value(y);
    s.x_bytes = {std::get<0>(bytes), std::get<1>(bytes)};
    if (std::int64_t(weights.shape(0)) != s.x.c || std::int64_t(weights.shape(1)) != s.y.c)
        throw BadNet("weights do not fit");
    s.weights = weights.data(), s.scale = fitting(scale, s.y.c), s.bias = fitting(bias, s.y.c);
    s.activation = activation_of(activation);
    s.has_residual = residual >= 0;
    if (s.has_residual) s.residual = net.value(residual);
    s.seconds = seconds;
    nb::gil_scoped_release release;
    net.add(net::make_int8_linear(s, net.kernels()));
}

void add_norm(Net& net, int x, int y, const NormRow& row) {
    net.add(net::make_norm(net.value(x), net.value(y), *norm_of(row, net.value(x).c), net.kernels()));
}

void add_attention(Net& net, const HeadsRow& q, const HeadsRow& k, const HeadsRow& v, int y, std::int64_t batch,
                   std::int64_t heads, std::int64_t depth, std::int64_t value_depth, float scale, int mask,
                   const std::array<std::int64_t, 3>& mask_shape) {
    net::AttentionSpec s{};
    const auto at = [&](const HeadsRow& row) {
        return net::HeadsSpec{net.value(std::get<0>(row)), std::get<1>(row), std::get<2>(row)};
    };
    s.q = at(q), s.k = at(k), s.v = at(v), s.y = net.value(y);
    if (batch < 1) throw BadNet("there is no batch");
    s.batch = batch, s.heads = heads, s.queries = s.q.value.n / batch, s.keys = s.k.value.n / batch;
    s.depth = depth, s.value_depth = value_depth, s.scale = scale;
    s.has_mask = mask >= 0;
    if (s.has_mask) s.mask = net.value(mask);
    s.mask_batch = mask_shape[0], s.mask_heads = mask_shape[1], s.mask_queries = mask_shape[2];
    net.add(net::make_attention(s, net.kernels()));
}

}  // namespace

void bind_net_rows(nb::class_<Net>& net) {
    using nb::arg;
    net.def("linear", &add_linear, arg("x"), arg("y"), arg("weights").noconvert(), arg("bias").noconvert().none(),
            nb::kw_only(), arg("activation") = "", arg("residual") = -1, arg("before").none() = nb::none(),
            arg("after").none() = nb::none(), arg("exact") = false, arg("seconds") = 0.1)
        .def("int8_linear", &add_int8_linear, arg("x"), arg("y"), arg("weights").noconvert(), arg("scale").noconvert(),
             arg("bias").noconvert().none(), nb::kw_only(), arg("x_bytes"), arg("activation") = "",
             arg("residual") = -1, arg("seconds") = 0.1)
        .def(
            "rounded",
            [](Net& net, int x, int y, const BytesRow& bytes) {
                net.add(net::make_rounded(net.value(x), net.value(y), {std::get<0>(bytes), std::get<1>(bytes)},
                                          net.kernels()));
            },
            arg("x"), arg("y"), arg("bytes"))
        .def("norm", &add_norm, arg("x"), arg("y"), arg("norm"))
        .def("attention", &add_attention, arg("q"), arg("k"), arg("v"), arg("y"), nb::kw_only(), arg("batch"),
             arg("heads"), arg("depth"), arg("value_depth"), arg("scale"), arg("mask") = -1,
             arg("mask_shape") = std::array<std::int64_t, 3>{1, 1, 1});
}

}  // namespace raceline
