// Convolutional nets as Python sees them; src/raceline/_native.pyi says the same in types.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "net_int8.hpp"

namespace nb = nanobind;

namespace raceline {
void bind_net_rows(nb::class_<net::Net>& net);

namespace {

using namespace net;
using Weights = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Int8Weights = nb::ndarray<const std::int8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using In = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Pair = std::array<std::int64_t, 2>;
using Four = std::array<std::int64_t, 4>;
using FunctionRow = std::tuple<int, float, float>;
using BytesRow = std::tuple<float, int>;  // scale, zero point

Function function_of(const FunctionRow& row) {
    const int kind = std::get<0>(row);
    if (kind < 0 || kind > int(net::Activation::linear)) throw BadNet("there is no such activation");
    return {net::Activation(kind), std::get<1>(row), std::get<2>(row)};
}

int add_value(Net& net, int place, std::int64_t offset, const Four& shape, std::int64_t image_stride,
              const std::optional<BytesRow>& bytes) {
    if (place < 0 || place > int(Place::output)) throw BadNet("there is no such place");
    Value value{Place(place), offset, shape[0], shape[1], shape[2], shape[3], image_stride, bytes.has_value(), {}};
    if (bytes) value.bytes = {std::get<0>(*bytes), std::get<1>(*bytes)};
    return net.add_value(value);
}

template <typename Numbers>
ConvSpec spec_of(const Value& x, const Value& y, const Numbers& weights, const std::optional<Vector>& bias,
                 const Pair& strides, const Pair& dilations, const Pair& pads, std::int64_t groups,
                 const FunctionRow& first, const Value* residual, const FunctionRow& second) {
    ConvSpec s;
    s.x = x, s.y = y;
    s.kernel_h = std::int64_t(weights.shape(2)), s.kernel_w = std::int64_t(weights.shape(3));
    s.stride_h = strides[0], s.stride_w = strides[1];
    s.dilation_h = dilations[0], s.dilation_w = dilations[1];
    s.pad_top = pads[0], s.pad_left = pads[1], s.groups = groups;
    s.epilogue.first = function_of(first), s.epilogue.second = function_of(second);
    s.epilogue.has_residual = residual != nullptr;
    if (residual) s.epilogue.residual = *residual;
    if (groups < 1 || std::int64_t(weights.shape(0)) != s.y.c ||
        std::int64_t(weights.shape(1)) * groups != s.x.c)
        throw BadNet("weights do not fit");
    if (bias && std::int64_t(bias->shape(0)) != s.y.c) throw BadNet("a bias does not fit");
    return s;
}

void add_convolution(Net& net, int x, int y, const Weights& weights, const std::optional<Vector>& bias,
                     const Pair& strides, const Pair& dilations, const Pair& pads, std::int64_t groups,
                     const FunctionRow& first, int residual, const FunctionRow& second) {
    const ConvSpec s = spec_of(net.value(x), net.value(y), weights, bias, strides, dilations, pads, groups, first,
                               residual < 0 ? nullptr : &net.value(residual), second);
    net.add_convolution(s, weights.data(), bias ? bias->data() : nullptr);
}

void add_int8_convolution(Net& net, int x, int y, const Int8Weights& weights, const Vector& scale,
                          const std::optional<Vector>& bias, const Pair& strides, const Pair& dilations,
                          const Pair& pads, std::int64_t groups, const FunctionRow& first, int residual,
                          const FunctionRow& second) {
    const ConvSpec s = spec_of(net.any_value(x), net.any_value(y), weights, bias, strides, dilations, pads, groups,
                               first, residual < 0 ? nullptr : &net.any_value(residual), second);
    if (std::int64_t(scale.shape(0)) != s.y.c) throw BadNet("a scale does not fit");
    net.add_int8_convolution(s, weights.data(), scale.data(), bias ? bias->data() : nullptr);
}

void add_pool(Net& net, int x, int y, bool is_max, bool count_padding, const Pair& kernel,
              const Pair& strides, const Pair& dilations, const Four& pads) {
    net.add(make_pool({net.value(x), net.value(y), kernel[0], kernel[1], strides[0], strides[1], dilations[0],
                       dilations[1], pads[0], pads[1], pads[2], pads[3], is_max, count_padding},
                      net.kernels()));
}

void add_bytes_pool(Net& net, int x, int y, const Pair& kernel, const Pair& strides, const Pair& dilations,
                    const Four& pads) {
    net.add(make_bytes_pool({net.any_value(x), net.any_value(y), kernel[0], kernel[1], strides[0], strides[1],
                             dilations[0], dilations[1], pads[0], pads[1], pads[2], pads[3], true, false}));
}

void add_binary(Net& net, int op, int x, int z, bool swapped, int y, const FunctionRow& f) {
    if (op < 0 || op > int(Binary::div)) throw BadNet("there is no such operator");
    net.add(make_binary(Binary(op), net.value(x), net.value(z), swapped, net.value(y), function_of(f),
                        net.kernels()));
}

void add_affine(Net& net, int x, int y, const Vector& scale, const Vector& shift, const FunctionRow& f) {
    const std::int64_t channels = net.value(x).c;
    if (std::int64_t(scale.shape(0)) != channels || std::int64_t(shift.shape(0)) != channels)
        throw BadNet("a scale does not fit");
    net.add(
        make_affine(net.value(x), net.value(y), scale.data(), shift.data(), function_of(f), net.kernels()));
}

// The arrays' memory, once each has as many numbers as the net expects.
template <typename Array, typename Pointer>
std::vector<Pointer> pointers(const std::vector<Array>& arrays, const std::vector<Value>& values) {
    if (arrays.size() != values.size()) throw BadNet("there are too few or too many arrays");
    std::vector<Pointer> found;
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        if (std::int64_t(arrays[i].size()) != values[i].n * values[i].image_stride)
            throw BadNet("an array does not fit");
        found.push_back(arrays[i].data());
    }
    return found;
}

void run(Net& net, const std::vector<In>& inputs, const std::vector<Out>& outputs) {
    const auto in = pointers<In, const float*>(inputs, net.inputs());
    const auto out = pointers<Out, float*>(outputs, net.outputs());
    nb::gil_scoped_release release;
    net.run(in.data(), out.data());
}

std::vector<std::pair<std::string, double>> time_steps(Net& net, const std::vector<In>& inputs,
                                                       const std::vector<Out>& outputs, int repeats) {
    const auto in = pointers<In, const float*>(inputs, net.inputs());
    const auto out = pointers<Out, float*>(outputs, net.outputs());
    std::vector<double> times;
    {
        nb::gil_scoped_release release;
        times = net.time_steps(in.data(), out.data(), repeats);
    }
    std::vector<std::pair<std::string, double>> rows;
    const auto names = net.step_names();
    for (std::size_t i = 0; i < names.size(); ++i) rows.emplace_back(names[i], times[i]);
    return rows;
}

using MethodRow = std::tuple<int, int, int, bool, int, int>;

std::map<std::string, MethodRow> known() {
    std::map<std::string, MethodRow> rows;
    for (const auto& [key, m] : known_methods())
        rows.emplace(key, MethodRow{m.kind, m.blocks, m.pixels, m.channels_outside, m.side, m.chunk});
    return rows;
}

void learn(const std::map<std::string, MethodRow>& rows) {
    std::map<std::string, Method> found;
    for (const auto& [key, row] : rows) {
        const auto [kind, blocks, pixels, channels_outside, side, chunk] = row;
        found.emplace(key, Method{Method::Kind(kind), blocks, pixels, channels_outside, side, chunk});
    }
    learn_methods(found);
}

std::vector<std::string> kernel_sets() {
    std::vector<std::string> names;
    for (const char* name : {"avx512", "avx2", "plain"})
        if (kernels_named(name)) names.push_back(name);
    return names;
}

}  // namespace

void bind_net(nb::module_& module) {
    using nb::arg;
    module.def("net_kernels", &kernel_sets);
    module.def("net_methods", &known);
    module.def("learn_net_methods", &learn, arg("methods"));
    nb::class_<Net> net(module, "Net");
    net.def(nb::init<int, int, const std::string&, std::int64_t>(), arg("threads"), arg("streams"),
             arg("kernels"), arg("arena_floats"))
        .def("value", &add_value, arg("place"), arg("offset"), arg("shape"), arg("image_stride"),
             arg("bytes").none() = nb::none())
        .def("convolution", &add_convolution, arg("x"), arg("y"), arg("weights").noconvert(), arg("bias").none().noconvert(),
             arg("strides"), arg("dilations"), arg("pads"), arg("groups"), arg("first"), arg("residual"),
             arg("second"))
        .def("int8_convolution", &add_int8_convolution, arg("x"), arg("y"), arg("weights").noconvert(),
             arg("scale").noconvert(), arg("bias").none().noconvert(), arg("strides"), arg("dilations"), arg("pads"),
             arg("groups"), arg("first"), arg("residual"), arg("second"))
        .def("bytes_pool", &add_bytes_pool, arg("x"), arg("y"), arg("kernel"), arg("strides"), arg("dilations"),
             arg("pads"))
        .def(
            "quantise",
            [](Net& net, int x, int y) {
                net.add(make_quantise(net.any_value(x), net.any_value(y), net.kernels()));
            },
            arg("x"), arg("y"))
        .def(
            "restore",
            [](Net& net, int x, int y) {
                net.add(make_restore(net.any_value(x), net.any_value(y), net.kernels()));
            },
            arg("x"), arg("y"))
        .def("pool", &add_pool, arg("x"), arg("y"), arg("is_max"), arg("count_padding"), arg("kernel"),
             arg("strides"), arg("dilations"), arg("pads"))
        .def(
            "average",
            [](Net& net, int x, int y) { net.add(make_average(net.value(x), net.value(y), net.kernels())); },
            arg("x"), arg("y"))
        .def(
            "apply",
            [](Net& net, int x, int y, const FunctionRow& f) {
                net.add(make_apply(net.value(x), net.value(y), function_of(f), net.kernels()));
            },
            arg("x"), arg("y"), arg("function"))
        .def("binary", &add_binary, arg("op"), arg("x"), arg("z"), arg("swapped"), arg("y"), arg("function"))
        .def("affine", &add_affine, arg("x"), arg("y"), arg("scale").noconvert(), arg("shift").noconvert(), arg("function"))
        .def(
            "copy",
            [](Net& net, int x, std::int64_t from, int y, std::int64_t to, std::int64_t channels) {
                net.add(make_copy(net.value(x), from, net.value(y), to, channels));
            },
            arg("x"), arg("from_channel"), arg("y"), arg("to_channel"), arg("channels"))
        .def(
            "upsample", [](Net& net, int x, int y) { net.add(make_upsample(net.value(x), net.value(y))); },
            arg("x"), arg("y"))
        .def(
            "pack", [](Net& net, int x, int y) { net.add(make_pack(net.value(x), net.value(y), net.kernels())); },
            arg("x"), arg("y"))
        .def(
            "unpack", [](Net& net, int x, int y) { net.add(make_unpack(net.value(x), net.value(y), net.kernels())); },
            arg("x"), arg("y"))
        .def("prepare", &Net::prepare, arg("budget_s"), arg("winograd"), arg("choice") = -1,
             nb::call_guard<nb::gil_scoped_release>())
        .def("run", &run, arg("inputs").noconvert(), arg("outputs").noconvert())
        .def("time_steps", &time_steps, arg("inputs").noconvert(), arg("outputs").noconvert(), arg("repeats"))
        .def("memory_bytes", &Net::memory_bytes)
        .def("step_names", &Net::step_names);
    bind_net_rows(net);
}

}  // namespace raceline
