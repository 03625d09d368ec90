"""Cost computed from the graph, held to the figures papers quote and to sums done by hand."""

import ir_models as m
import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper

from raceline.core.errors import ShapeError
from raceline.ir import Model, Signature, TensorSpec, cost, infer_shapes


class Builder:
    """A picture network, node by node; weights are empty promises, for only their shapes count."""

    def __init__(self, channels=3):
        self.nodes, self.weights, self.last, self.channels = [], [], "x", channels

    def weight(self, *shape):
        name = f"w{len(self.weights)}"
        zeros = np.broadcast_to(np.float32(0), shape)
        self.weights.append(onnx_ir.val(name, const_value=onnx_ir.Tensor(zeros, name=name)))
        return name

    def add(self, operator, *inputs, **attributes):
        out = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        self.last = out
        return out

    def conv(self, channels, kernel=1, stride=1, group=1, activation="Relu"):
        shape = (channels, self.channels // group, kernel, kernel)
        weights = self.weight(*shape), self.weight(channels)
        pad = kernel // 2
        self.add("Conv", self.last, *weights, strides=[stride] * 2, pads=[pad] * 4, group=group)
        self.channels = channels
        return self.add(activation, self.last) if activation else self.last

    def head(self, classes=1000):
        self.add("GlobalAveragePool", self.last)
        self.add("Flatten", self.last)
        self.add("Gemm", self.last, self.weight(classes, self.channels), self.weight(classes), transB=1)

    def model(self, size=224):
        ends = [m.info("x", ["n", 3, size, size])], [m.info(self.last, ["n", 1000])]
        program = onnx_ir.serde.deserialize_model(m.proto(self.nodes, *ends))
        for value in self.weights:
            uses = [
                (node, i)
                for node in program.graph
                for i, v in enumerate(node.inputs)
                if v and v.name == value.name
            ]
            program.graph.register_initializer(value)
            for node, i in uses:
                node.replace_input_with(i, value)
        specs = (
            TensorSpec("x", "float32", ("n", 3, size, size)),
            TensorSpec(self.last, "float32", ("n", 1000)),
        )
        return Model(program, Signature(specs[:1], specs[1:]))


def resnet50():
    net = Builder()
    net.conv(64, 7, 2)
    net.add("MaxPool", net.last, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(depth):
            stride = 2 if block == 0 and width > 64 else 1
            entry, channels = net.last, net.channels
            net.conv(width)
            net.conv(width, 3, stride)
            out = net.conv(4 * width, activation=None)
            if block == 0:
                net.last, net.channels = entry, channels
                entry = net.conv(4 * width, 1, stride, activation=None)
            net.add("Relu", net.add("Add", out, entry))
    net.head()
    return net.model()


def mobilenet_v2():
    net = Builder()
    net.conv(32, 3, 2, activation="Relu")
    rows = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for expand, channels, depth, first_stride in rows:
        for block in range(depth):
            stride, entry, hidden = first_stride if block == 0 else 1, net.last, net.channels * expand
            same = stride == 1 and net.channels == channels
            if expand > 1:
                net.conv(hidden)
            net.conv(hidden, 3, stride, group=hidden)
            net.conv(channels, activation=None)
            if same:
                net.add("Add", net.last, entry)
    net.conv(1280)
    net.head()
    return net.model()


def test_the_figures_of_well_known_networks_come_out():
    one = cost(resnet50(), {"n": 1})
    assert one.multiply_add_flops == pytest.approx(8.18e9, rel=0.002)
    assert one.flops == pytest.approx(8.18e9, rel=0.01)
    assert one.weight_bytes == pytest.approx(4 * 25.56e6, rel=0.005)  # without the norms' 53 k
    assert cost(mobilenet_v2(), {"n": 1}).multiply_add_flops == pytest.approx(0.60e9, rel=0.01)


def test_a_batch_costs_its_items_and_the_weights_once():
    one, eight = (cost(mobilenet_v2(), {"n": n}) for n in (1, 8))
    assert eight.flops == 8 * one.flops
    assert eight.intermediate_bytes == 8 * one.intermediate_bytes
    assert eight.weight_bytes == one.weight_bytes


def test_the_package_s_own_resnet_agrees():
    from importlib.util import find_spec
    from pathlib import Path

    from raceline.convert.readers import onnx as reader

    root = Path(find_spec("onnx").submodule_search_locations[0])
    model = reader.read(root / "backend/test/data/light/light_resnet50.onnx")
    assert cost(model, {}).multiply_add_flops == pytest.approx(8.18e9, rel=0.002)


# By hand ----------------------------------------------------------------------------------------------------


def rows_of(tmp_path, nodes, inputs, outputs, weights=(), sizes=None, **changes):
    model = m.read(m.proto(nodes, inputs, outputs, weights, **changes), tmp_path)
    return cost(model, sizes or {})


def test_traffic_by_hand(tmp_path):
    got = cost(m.read(m.perceptron(), tmp_path), {"batch": 10})
    assert [(r.operator, r.read_bytes, r.written_bytes, r.weight_bytes) for r in got.rows] == [
        ("MatMul", 160, 120, 48),
        ("Add", 120, 120, 12),
        ("Relu", 120, 120, 0),
    ]
    assert got.intermediate_bytes == 760
    assert got.weight_bytes == 60
    assert (got.multiply_add_flops, got.flops) == (240, 300)


def test_inside_a_fused_operator_nothing_moves_and_all_is_computed(tmp_path):
    plain, whole = (cost(m.read(build(), tmp_path), {"batch": 10}) for build in (m.perceptron, m.fused))
    assert [r.operator for r in whole.rows] == ["raceline.Layer"]
    assert whole.intermediate_bytes == 160 + 120
    assert whole.flops == plain.flops
    assert whole.weight_bytes == plain.weight_bytes


def test_renaming_and_shape_arithmetic_move_nothing(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1]),
    ]
    weights = [m.tensor("zero", [0], np.int64), m.tensor("rest", [2, -1], np.int64)]
    got = rows_of(tmp_path, nodes, [m.info("x", ["n", 8])], [m.info("y", ["n", 4, 2])], weights, {"n": 3})
    assert [r.moved_bytes for r in got.rows] == [0, 0, 0, 0, 2 * 3 * 8 * 4]
    assert got.flops == 0


def test_what_depends_on_weights_alone_costs_nothing(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Exp", ["t"], ["e"]),
        helper.make_node("MatMul", ["x", "e"], ["y"]),
    ]
    weights = [m.tensor("w", np.zeros((2000, 4)))]
    got = rows_of(tmp_path, nodes, [m.info("x", [3, 4])], [m.info("y", [3, 2000])], weights)
    assert [r.moved_bytes for r in got.rows] == [0, 0, 4 * (12 + 6000)]
    assert got.rows[2].weight_bytes == 4 * 8000
    assert got.flops == 2 * 3 * 4 * 2000


def test_a_slice_reads_what_it_writes_and_a_tensor_read_twice_moves_once(tmp_path):
    nodes = [
        helper.make_node("Slice", ["x", "a", "b"], ["s"]),
        helper.make_node("Mul", ["s", "s"], ["y"]),
    ]
    weights = [m.tensor("a", [0], np.int64), m.tensor("b", [2], np.int64)]
    got = rows_of(tmp_path, nodes, [m.info("x", [100])], [m.info("y", [2])], weights)
    assert [(r.read_bytes, r.written_bytes) for r in got.rows] == [(8, 8), (8, 8)]


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "expected"),
    [
        ("Conv", [(1, 4, 8, 8), (6, 2, 3, 3)], {"group": 2, "pads": [1] * 4}, 2 * 6 * 64 * 2 * 9),
        ("ConvTranspose", [(1, 4, 8, 8), (4, 3, 2, 2)], {"strides": [2, 2]}, 2 * 4 * 64 * 3 * 4),
        ("Gemm", [(5, 7), (5, 3)], {"transA": 1}, 2 * 7 * 3 * 5),
        ("MatMul", [(2, 3, 4, 5), (5, 6)], {}, 2 * 2 * 3 * 4 * 6 * 5),
        ("Einsum", [(2, 3, 4), (2, 4, 5)], {"equation": "bij,bjk->bik"}, 2 * 2 * 3 * 4 * 5),
        ("LSTM", [(7, 2, 3), (1, 16, 3), (1, 16, 4)], {"hidden_size": 4}, 2 * 7 * 2 * 16 * (3 + 4)),
        ("Attention", [(1, 2, 4, 8), (1, 2, 6, 8), (1, 2, 6, 8)], {}, 2 * (2 * 4 * 6 * 8 + 2 * 4 * 6 * 8)),
    ],
)
def test_multiply_adds_by_hand(tmp_path, operator, inputs, attributes, expected):
    names = [f"i{k}" for k in range(len(inputs))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    ends = [m.info(n, s) for n, s in zip(names, inputs, strict=True)]
    model = m.proto([node], ends, [onnx.ValueInfoProto(name="y", type=m.info("y", None).type)], opset=23)
    got = cost(m.read(model, tmp_path), {})
    assert got.multiply_add_flops == got.flops == expected


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "expected"),
    [
        ("Relu", (3, 4), {}, 12),
        ("Softmax", (3, 4), {}, 60),
        ("MaxPool", (1, 2, 8, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}, 2 * 16 * 4),
        ("GlobalAveragePool", (1, 2, 8, 8), {}, 128),
        ("ReduceMean", (3, 4), {"axes": [1]}, 12),
        ("Transpose", (3, 4), {}, 0),
        ("Flatten", (3, 4), {}, 0),
    ],
)
def test_other_arithmetic_by_hand(tmp_path, operator, shape, attributes, expected):
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    model = m.proto(
        [node], [m.info("x", shape)], [onnx.ValueInfoProto(name="y", type=m.info("y", None).type)]
    )
    got = cost(m.read(model, tmp_path), {})
    assert (got.multiply_add_flops, got.flops) == (0, expected)


def test_the_dearer_branch_counts(tmp_path):
    branches = [
        helper.make_graph([node], name, [], [m.info("o" + name, [4, 4])])
        for name, node in (
            ("cheap", helper.make_node("Relu", ["x"], ["ocheap"])),
            ("dear", helper.make_node("MatMul", ["x", "x"], ["odear"])),
        )
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    ends = [m.info("x", [4, 4]), m.info("c", [], TensorProto.BOOL)], [m.info("y", [4, 4])]
    got = rows_of(tmp_path, [node], *ends)
    assert got.flops == 2 * 64


def test_shapes_that_only_a_run_tells_are_run(tmp_path):
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Neg", ["i"], ["y"])]
    ends = [m.info("x", [50])], [m.info("y", [1, "k"], TensorProto.INT64)]
    got = rows_of(tmp_path, nodes, *ends)
    assert [r.written_bytes for r in got.rows] == [400, 400]  # N(0, 1) is never zero


def test_a_loop_is_named_as_uncounted(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["a"], ["b"])],
        "body",
        [m.info("i", [], TensorProto.INT64), m.info("go", [], TensorProto.BOOL), m.info("a", [3])],
        [m.info("on", [], TensorProto.BOOL), m.info("b", [3])],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body, name="around")
    ends = [m.info("x", [3])], [m.info("y", [3])]
    got = rows_of(tmp_path, [node], *ends, [m.tensor("n", 5, np.int64)])
    assert got.uncounted == ("around",)


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    with pytest.raises(ShapeError, match="'batch' is unknown"):
        cost(model, {})
    with pytest.raises(ShapeError, match="cannot have shape"):
        cost(model, {"batch": 0})
    matmul = helper.make_node("MatMul", ["x", "w"], ["y"], name="head")
    ends = [m.info("x", ["n", "k"])], [m.info("y", ["n", 3])]
    open_model = m.read(m.proto([matmul], *ends, [m.tensor("w", np.ones((4, 3)))]), tmp_path)
    with pytest.raises(ShapeError, match=r"node 'head' \(MatMul\) cannot take x \[2, 5\], w \[4, 3\]"):
        cost(open_model, {"n": 2, "k": 5})


@pytest.mark.parametrize("name", ["nudenet", "ocr-rec", "magika", "silero-16k"])
def test_all_shapes_of_real_models_follow_without_a_run(name):
    sizes = {"batch": 2, "height": 64, "width": 64, "p2o.DynamicDimension.0": 2, "p2o.DynamicDimension.1": 64,
             "unk__214": 2, "sequence": 576}  # fmt: skip
    model = m.read_real(name)
    if name == "ocr-rec":
        sizes["height"] = 48
    table = infer_shapes(model, model.signature.concrete(sizes))
    assert table.unknown == []
    assert {s.name for s in model.signature.outputs} <= table.known.keys()
