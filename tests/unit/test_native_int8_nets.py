"""Nets of 8-bit numbers compute on the native engine what their graphs say, to the bit where floats are exact.

Scales are powers of two here, so that every float that the graph computes is exact: then there is one right answer,
whatever kernels, threads and ways of computing.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raceline import _native, engines
from raceline.convert.readers import onnx as reader
from raceline.engines import Options
from raceline.engines.native import assemble
from raceline.engines.native.build import build
from raceline.engines.native.plan import KERNELS_VARIABLE, exactly
from raceline.engines.native.segments import cut_up, settled
from raceline.ir import run_reference

ENGINE = engines.load("native")
# Of making sums: bytes as they are, and widened to 16 bits, of which CPUs with VNNI need but one.
WAYS = 2 if _native.int8_kernels()[0] in {"avx2", "avx512bw"} else 1


class Written:
    """A quantised graph that is written node by node; `values` are bytes with what they stand for."""

    def __init__(self, seed, *shape, opset=19):
        self.random = np.random.default_rng(seed)
        self.nodes, self.held, self.shape, self.opset = [], [], shape, opset
        self.shapes = {"x": shape}

    def do(self, op, *inputs, shape=None, **attributes):
        inputs = [
            self.hold(value) if isinstance(value, np.ndarray | np.generic) else value for value in inputs
        ]
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.shapes[name] = shape if shape is not None else self.shapes[inputs[0]]
        return name

    def hold(self, array):
        name = f"w{len(self.held)}"
        self.held.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def rounded(self, x, scale, zero=None):
        """x as bytes and back: uint8, or int8 where the zero point says so."""
        zero = np.uint8(self.random.integers(0, 256)) if zero is None else zero
        small = self.do("QuantizeLinear", x, np.float32(scale), zero)
        return self.do("DequantizeLinear", small, np.float32(scale), zero)

    def weights(self, *shape, axis=0, per_channel=True):
        numbers = self.random.integers(-128, 127, shape, np.int8, endpoint=True)
        scale = (
            np.float32(2.0 ** -self.random.integers(9, 12, shape[axis]))
            if per_channel
            else np.float32(2**-10)
        )
        self.scales = np.broadcast_to(scale, shape[axis])
        return self.do(
            "DequantizeLinear", numbers, scale, np.zeros_like(scale, np.int8), axis=axis, shape=shape
        )

    def bias(self, count, x_scale):
        numbers = self.random.integers(-(2**12), 2**12, count, np.int32)
        scale = np.float32(self.scales * x_scale)
        return self.do("DequantizeLinear", numbers, scale, np.zeros(count, np.int32), axis=0, shape=(count,))

    def conv(self, x, x_scale, outputs, kernel=3, stride=1, dilation=1, groups=1, bias=True, pad=None):
        n, c, *size = self.shapes[x]
        pad = kernel // 2 if pad is None else pad
        reach = (kernel - 1) * dilation + 1
        out = [(length + 2 * pad - reach) // stride + 1 for length in size]
        inputs = [x, self.weights(outputs, c // groups, kernel, kernel)]
        inputs += [self.bias(outputs, x_scale)] if bias else []
        return self.do(
            "Conv", *inputs, shape=(n, outputs, *out), pads=[pad] * 4, strides=[stride] * 2,
            dilations=[dilation] * 2, group=groups,
        )  # fmt: skip

    def model(self, folder, *outputs):
        def info(name, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes, "g", [info("x", self.shape)], [info(name, None) for name in outputs], self.held
        )
        opset = [helper.make_opsetid("", self.opset)]
        made = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opset, ir_version=9))
        onnx.save(made, folder / "model.onnx")
        return reader.read(folder / "model.onnx")

    def inputs(self):
        """Whole numbers of sixty-fourths: many are ties, once they are divided by a scale."""
        return {"x": self.random.integers(-512, 512, self.shape).astype(np.float32) / 64}


class Drawn(Written):
    """A random net of operators around 8-bit convolutions."""

    def __init__(self, seed):
        super().__init__(seed, int(seed % 2) + 1, 3 + seed % 4, 9, 11)
        self.values = [(self.rounded("x", 2**-4), 2**-4)]
        for _ in range(7):
            x, scale = self.values[self.random.integers(max(0, len(self.values) - 3), len(self.values))]
            getattr(
                self, f"draw_{self.random.choice('conv conv conv depthwise pool add join seen'.split())}"
            )(x, scale)

    def add_rounded(self, x, scale):
        self.values.append((self.rounded(x, scale), scale))

    def followed(self, x, scale):
        """Activation, residual, activation, each perhaps."""
        kind = self.random.choice(["", "relu", "clip", "add", "relu add", "add relu", "leaky"])
        for op in kind.split():
            alike = [v for v, _ in self.values if self.shapes[v] == self.shapes[x]]
            if op == "add" and alike:
                x = self.do("Add", *[x, str(self.random.choice(alike))][:: int(self.random.choice([1, -1]))])
            elif op != "add":
                x = {
                    "relu": lambda x: self.do("Relu", x),
                    "clip": lambda x: self.do("Clip", x, np.float32(-1), np.float32(6)),
                    "leaky": lambda x: self.do("LeakyRelu", x, alpha=0.25),
                }[op](x)
        if self.random.random() < 0.2:
            x = self.do("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        self.add_rounded(x, scale)

    def draw_conv(self, x, scale):
        kernel = int(self.random.choice([1, 1, 3, 3, 2]))
        stride, dilation = (int(self.random.choice([1, 1, 2])) for _ in range(2))
        if min(self.shapes[x][2:]) < 5 and stride * dilation > 1:
            return
        y = self.conv(x, scale, int(self.random.choice([5, 16, 24, 40])), kernel, stride, dilation)
        self.followed(y, 2.0 ** self.random.integers(-4, 0))

    def draw_depthwise(self, x, scale):
        channels = self.shapes[x][1]
        kernel, stride = int(self.random.choice([3, 5])), int(self.random.choice([1, 2]))
        y = self.conv(x, scale, channels, kernel, stride, groups=channels, bias=self.random.random() < 0.5)
        self.followed(y, 2.0 ** self.random.integers(-6, -3))

    def draw_pool(self, x, scale):
        y = self.do("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        zero = self.nodes_of(x).input[2]
        small = self.do("QuantizeLinear", y, np.float32(scale), zero)
        self.values.append((self.do("DequantizeLinear", small, np.float32(scale), zero), scale))

    def nodes_of(self, name):
        return next(node for node in self.nodes if name in node.output)

    def draw_add(self, x, scale):
        alike = [v for v, _ in self.values if self.shapes[v] == self.shapes[x]]
        self.add_rounded(self.do("Add", x, str(self.random.choice(alike))), 2 * scale)

    def draw_join(self, x, scale):
        n, c, h, w = self.shapes[x]
        if c < 64:
            self.add_rounded(self.do("Concat", x, x, shape=(n, 2 * c, h, w), axis=1), scale)

    def draw_seen(self, x, scale):
        """A value that somebody else reads, who knows no bytes."""
        self.values.append((self.rounded(self.do("Softplus", x), 2**-4), 2**-4))


def net_of(model, inputs, threads=1, winograd=False, choice=0):
    """The one net that a model becomes, computed in a way of its own."""
    whole, table = settled(model, {name: array.shape for name, array in inputs.items()})
    (segment,) = cut_up(whole, table)
    names = {name for step in segment.steps for name in (*step.reads, *step.writes, step.residual) if name}
    shapes = {name: segment.seen(table.known[name].shape) for name in names}
    outputs = {str(value.name): table.known[str(value.name)].shape for value in segment.outputs()}
    net = build(segment.steps, shapes, list(inputs), list(outputs), threads=threads, streams=1, kernels="")
    net.prepare(0, winograd, choice)
    made = {name: np.full(shape, np.nan, np.float32) for name, shape in outputs.items()}
    net.run(list(inputs.values()), list(made.values()))
    return net, made


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("seed", range(16))
def test_random_nets_are_right_to_the_bit_on_all_kernels(seed, tmp_path, monkeypatch):
    drawn = Drawn(seed)
    first = drawn.conv(*drawn.values[0], 20)  # so that there is one
    model = drawn.model(tmp_path, drawn.values[-1][0], drawn.values[len(drawn.values) // 2][0], first)
    inputs = drawn.inputs()
    expected = run_reference(model, inputs)
    for kernels in _native.net_kernels():
        monkeypatch.setenv(KERNELS_VARIABLE, kernels)
        options = Options(shapes={"x": drawn.shape}, threads=1 + seed % 3 // 2, optimise=False)
        session = ENGINE.load(model, options)
        for _ in range(2):  # what a run leaves in the buffers does not reach the next one
            assert_equal(session.run(inputs), expected)
        session.close()


CONVOLUTIONS = {
    "one by one": {"kernel": 1, "outputs": 40},
    "one by one, in steps": {"kernel": 1, "outputs": 24, "stride": 2},
    "three by three": {"outputs": 33},
    "few outputs": {"outputs": 3},
    "apart": {"outputs": 16, "dilation": 2, "pad": 2},
    "far beyond the picture": {"outputs": 16, "pad": 4},
    "seven by seven, in steps": {"kernel": 7, "outputs": 24, "stride": 2},
    "depthwise": {"outputs": 20, "groups": 20},
    "depthwise, five by five, in steps": {"kernel": 5, "outputs": 20, "groups": 20, "stride": 2},
    "depthwise, apart": {"outputs": 20, "groups": 20, "dilation": 2, "pad": 3},
}  # fmt: skip


@pytest.mark.parametrize("between", ["bytes", "floats", "a sum", "swish"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_in_every_way(name, between, tmp_path):
    g = Written(7, 1, 20, 13, 10)
    y = g.conv(g.rounded("x", 2**-4), 2**-4, **CONVOLUTIONS[name])
    if between == "a sum":
        y = g.do("Relu", g.do("Add", y, g.rounded(g.do("LeakyRelu", y), 2**-3)))
    if between == "swish":
        y = g.do("HardSwish", y)
    if between != "floats":
        y = g.rounded(y, 2**-3)
    model, inputs = g.model(tmp_path, y), g.inputs()
    expected = run_reference(model, inputs)[y]
    ways = set()
    for choice in range(6):
        net, found = net_of(model, inputs, 1 + choice % 3, choice=choice)
        ways.add(next(step for step in net.step_names() if "int8" in step))
        if between == "swish":  # its floats are rounded: at a tie the last bit decides
            assert (found[y] != expected).mean() < 0.002
            assert np.abs(found[y] - expected).max() <= 2**-3
        else:
            assert_equal(found, {y: expected})
    assert len(ways) >= (1 if "depthwise" in name else WAYS)


@pytest.mark.parametrize("size, way", [((15, 17), "winograd4"), ((5, 4), "winograd2")])
def test_a_convolution_of_bytes_may_be_computed_in_floats(size, way, tmp_path):
    """By Winograd's algorithm, whose last digits decide ties: so scales are no powers of two here."""
    g = Written(3, 1, 32, *size)
    small = g.rounded("x", 0.0371)
    y = g.do("Relu", g.do("Add", g.conv(small, 2**-4, 32), small))
    z = g.conv(g.rounded(y, 0.123), 2**-4, 48)
    model, inputs = g.model(tmp_path, z), g.inputs()
    inputs["x"] += g.random.uniform(-1, 1, g.shape).astype(np.float32)
    expected = run_reference(model, inputs)[z]
    ways = set()
    for choice in range(9):
        net, found = net_of(model, inputs, 1 + choice % 2, winograd=True, choice=choice)
        ways |= {name.split()[0] for name in net.step_names() if "bytes" in name or "int8" in name}
        assert np.abs(found[z] - expected).mean() <= 1e-3 * np.abs(expected).max()
        assert np.abs(found[z] - expected).max() <= 2e-2 * np.abs(expected).max()
    assert ways == {"conv", way}


def test_values_stay_bytes_between_convolutions(tmp_path):
    g = Written(1, 1, 3, 32, 32)
    y = g.do("Relu", g.conv(g.rounded("x", 2**-4), 2**-4, 16, 3, 2))
    y = g.rounded(g.do("MaxPool", y, shape=(1, 16, 8, 8), kernel_shape=[2, 2], strides=[2, 2]), 2**-2)
    z = g.conv(y, 2**-2, 16)
    z = g.conv(g.rounded(z, 2**-1), 2**-1, 16, groups=16)
    z = g.rounded(g.do("Clip", z, np.float32(0), np.float32(6)), 2**-4)
    z = g.do("Add", g.conv(z, 2**-4, 16, 1), y)
    model, inputs = g.model(tmp_path, z), g.inputs()
    net, found = net_of(model, inputs)
    kinds = [name.split()[0] for name in net.step_names()]
    assert kinds == ["quantise", "conv", "max", "conv", "int8", "conv", "unpack"]
    assert_equal(found, run_reference(model, inputs))


class Graphs:
    """Ways of writing 8-bit graphs, and what only resembles them."""

    @staticmethod
    def signed(g):
        x = g.rounded("x", 2**-4, np.int8(-7))
        return g.rounded(g.conv(x, 2**-4, 20), 2**-1, np.int8(3))

    @staticmethod
    def unsigned_weights(g):
        numbers = g.random.integers(0, 255, (20, 20, 3, 3), np.uint8, endpoint=True)
        w = g.do("DequantizeLinear", numbers, np.float32(2**-9), np.uint8(128), shape=numbers.shape)
        return g.do("Conv", g.rounded("x", 2**-4), w, shape=g.shape, pads=[1] * 4)

    @staticmethod
    def grouped(g):
        return g.conv(g.rounded("x", 2**-4), 2**-4, 20, groups=5)

    @staticmethod
    def scaled_after(g):
        y = g.conv(g.rounded("x", 2**-4), 2**-4, 20)
        factor = np.float32(2.0 ** g.random.integers(-2, 2, (1, 20, 1, 1)))
        return g.do(
            "Mul", y, factor * np.where(np.arange(20) % 2, 1, -1).astype(np.float32).reshape(1, 20, 1, 1)
        )

    @staticmethod
    def scales_along_the_wrong_axis(g):
        scale = np.float32(2.0 ** -g.random.integers(9, 12, 20))
        numbers = g.random.integers(-128, 127, (20, 20, 1, 1), np.int8)
        w = g.do("DequantizeLinear", numbers, scale, axis=1, shape=numbers.shape)
        return g.do("Conv", g.rounded("x", 2**-4), w)

    @staticmethod
    def only_weights(g):
        return g.conv("x", 2**-4, 20)

    @staticmethod
    def other_scales_back(g):
        small = g.do("QuantizeLinear", "x", np.float32(2**-4), np.uint8(9))
        y = g.conv(g.do("DequantizeLinear", small, np.float32(2**-3), np.uint8(9)), 2**-3, 20)
        return g.conv(g.rounded(y, 2**-2), 2**-2, 16, 1)

    @staticmethod
    def read_as_they_are(g):
        small = g.do("QuantizeLinear", "x", np.float32(2**-4), np.uint8(99))
        wide = g.do("DequantizeLinear", small, np.float32(2**-4), np.uint8(99))
        as_floats = g.do("Cast", small, to=TensorProto.FLOAT)
        return g.do("Add", g.conv(wide, 2**-4, 20), as_floats)

    @staticmethod
    def heads(g):
        flat = g.do("Flatten", g.do("MaxPool", "x", shape=(2, 20, 1, 1), kernel_shape=[7, 6]), shape=(2, 20))
        y = g.do(
            "Gemm", g.rounded(flat, 2**-4), g.weights(30, 20), g.bias(30, 2**-4), transB=1, shape=(2, 30)
        )
        z = g.do("MatMul", g.rounded(g.do("Relu", y), 2**-3), g.weights(30, 9, axis=1), shape=(2, 9))
        x = g.conv(g.rounded("x", 2**-4), 2**-4, 9)
        return g.do("Add", x, g.do("Reshape", z, np.array([2, 9, 1, 1]), shape=(2, 9, 1, 1)))

    @staticmethod
    def weights_of_two(g):
        """Two convolutions, one of each engine, that share weights."""
        w = g.weights(20, 20, 3, 3)
        y = g.do("Conv", g.rounded("x", 2**-4), w, pads=[1] * 4)
        computed = g.do("Abs", g.do("Mul", w, np.float32(1), shape=(20, 20, 3, 3)), shape=(20, 20, 3, 3))
        return g.do("Add", y, g.do("Conv", g.rounded("x", 2**-4), computed, pads=[1] * 4))


GRAPHS = {name: graph for name, graph in vars(Graphs).items() if isinstance(graph, staticmethod)}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("opset", [13, 21])
def test_graphs_of_all_kinds(name, opset, tmp_path):
    g = Written(5, 2, 20, 7, 6, opset=opset)
    y = GRAPHS[name](g)
    model, inputs = g.model(tmp_path, y), g.inputs()
    session = ENGINE.load(model, Options(shapes={"x": g.shape}, optimise=False))
    assert_equal(session.run(inputs), run_reference(model, inputs))


class Layers(Written):
    """What transformers are made of, with linear layers of 8 bits."""

    def linear(self, x, k, n, *, gemm=False, bias=True):
        """x is rounded already."""
        rows = self.shapes[x][:-1]
        if gemm:
            flat = self.do("Reshape", x, np.array([-1, k]), shape=(int(np.prod(rows)), k))
            flat = self.rounded(flat, 2**-4, np.uint8(128))
            b = self.bias_of(n)
            y = self.do("Gemm", flat, self.weights(n, k), b, transB=1, shape=(int(np.prod(rows)), n))
            return self.do("Reshape", y, np.array([*rows, n]), shape=(*rows, n))
        y = self.do("MatMul", x, self.weights(k, n, axis=1, per_channel=bias), shape=(*rows, n))
        return self.do("Add", y, self.bias_of(n)) if bias else y

    def bias_of(self, n):
        return self.random.standard_normal(n).astype(np.float32)

    def norm(self, x):
        width = self.shapes[x][-1]
        return self.do("LayerNormalization", x, self.bias_of(width) + 1, self.bias_of(width), axis=-1)

    def heads(self, x, perm):
        split = self.do("Reshape", x, np.array([0, 0, 2, 8]), shape=(2, 7, 2, 8))
        return self.do("Transpose", split, perm=perm, shape=tuple((2, 7, 2, 8)[axis] for axis in perm))

    def attend(self, x):
        q, k, v = (self.linear(x, 16, 16, bias=turn > 0) for turn in range(3))
        q, k, v = self.heads(q, [0, 2, 1, 3]), self.heads(k, [0, 2, 3, 1]), self.heads(v, [0, 2, 1, 3])
        scores = self.do("Softmax", self.do("MatMul", q, k, shape=(2, 2, 7, 7)), axis=-1)
        out = self.do("MatMul", scores, v, shape=(2, 2, 7, 8))
        out = self.do("Transpose", out, perm=[0, 2, 1, 3], shape=(2, 7, 2, 8))
        return self.do("Reshape", out, np.array([0, 0, 16]), shape=(2, 7, 16))


@pytest.mark.parametrize("first", [True, False], ids=["norms before", "norms after"])
@pytest.mark.parametrize("kernels", _native.net_kernels())
def test_transformers(kernels, first, tmp_path, monkeypatch):
    """Norms and attention are in floats, which differ in their last digits: few numbers become another byte."""
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    g = Layers(4, 2, 7, 16)
    x, middle = "x", np.uint8(128)
    for _ in range(2):
        start = g.rounded(g.norm(x), 0.031, middle)
        attended = g.linear(g.rounded(g.attend(start), 0.021, middle), 16, 16)
        x = g.do("Add", attended, x if first else start)
        start = g.norm(x) if first else g.rounded(g.norm(x), 0.029, middle)  # or the layer rounds it
        hidden = g.rounded(g.do("Gelu", g.linear(start, 16, 40, gemm=first)), 0.033, middle)
        x = g.do("Add", x if first else start, g.linear(hidden, 40, 16))
    g.opset = 20
    model, inputs = g.model(tmp_path, x), g.inputs()
    session = ENGINE.load(model, Options(shapes={"x": g.shape}, threads=1 + first, optimise=False))
    expected, found = run_reference(model, inputs)[x], session.run(inputs)[x]
    assert np.abs(found - expected).mean() <= 1e-3 * np.abs(expected).max()
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()
    (net,) = session.nets()
    kinds = [name.rsplit(" ", 1)[0] if "x" in name else name for name in net.step_names()]
    assert kinds.count("attention") == 2
    assert sum(kind.startswith("int8 linear") for kind in kinds) == 12
    assert ("rounded to bytes" in kinds) != first
    ((part,),) = (plan.parts for plan in session._plans.values())
    assert list(part.inputs) == ["x"]


def test_rows_refuse_what_does_not_fit():
    net = _native.Net(1, 1, "", 4096)
    x, y = net.value(1, 0, (4, 8, 1, 1), 0), net.value(0, 0, (4, 16, 1, 1), 16)
    small, wide = net.value(0, 0, (4, 8, 1, 1), 16, (0.5, 1)), net.value(0, 64, (4, 24, 1, 1), 32)
    weights, ones = np.zeros((8, 16), np.int8), np.ones(16, np.float32)
    given = {"x_bytes": (0.5, 3)}
    refused = [
        lambda: net.int8_linear(x, wide, weights, ones, None, **given),
        lambda: net.int8_linear(x, y, weights[:7], ones, None, **given),
        lambda: net.int8_linear(x, y, weights, ones[:8], None, **given),
        lambda: net.int8_linear(x, y, weights, ones, ones[:8], **given),
        lambda: net.int8_linear(x, y, weights, ones, None, x_bytes=(-1.0, 3)),
        lambda: net.int8_linear(x, y, weights, ones, None, x_bytes=(1.0, 300)),
        lambda: net.int8_linear(x, y, weights, ones, None, **given, residual=wide),
        lambda: net.int8_linear(x, y, weights, ones, None, **given, activation="mish"),
        lambda: net.int8_linear(small, y, weights, ones, None, **given),
        lambda: net.int8_linear(y, x, weights.T.copy(), ones[:8], None, **given),
        lambda: net.rounded(x, y, (0.5, 3)),
        lambda: net.rounded(y, x, (0.5, 3)),
        lambda: net.rounded(y, y, (0.0, 3)),
    ]  # fmt: skip
    for call in refused:
        with pytest.raises((ValueError, TypeError)):
            call()


def test_what_is_left_to_the_other_engine_is_exact_too(tmp_path):
    """Whose 8-bit sums would saturate on CPUs without VNNI: products of 127 with 255, in pairs."""
    g = Written(2, 1, 24, 8, 8)
    y = g.rounded(g.conv(g.rounded("x", 2**-4), 2**-4, 32, 1), 2**-3, np.uint8(0))
    rows = g.do("Reshape", y, np.array([4, 8, 64]), shape=(4, 8, 64))
    rows = g.rounded(rows, 2**-3, np.uint8(0))
    numbers = np.full((64, 40), 127, np.int8)
    numbers[:, ::2] = g.random.integers(-128, 127, (64, 20))
    w = g.do("DequantizeLinear", numbers, np.float32(2**-9), np.int8(0), shape=numbers.shape)
    z = g.do("MatMul", rows, w, shape=(4, 8, 40))
    model, inputs = g.model(tmp_path, z), g.inputs()
    inputs["x"] = np.abs(inputs["x"]) * 8
    expected = run_reference(model, inputs)
    session = assemble(model, Options(shapes={"x": g.shape}))
    assert_equal(session.run(inputs), expected)
    whole, table = settled(model, {"x": g.shape})
    assert [segment.steps is None for segment in cut_up(whole, table)] == [False, True]
    assert_equal(engines.load("onnxruntime").load(exactly(model), Options()).run(inputs), expected)


def test_steps_of_bytes_refuse_what_does_not_fit():
    net = _native.Net(1, 1, "", 1 << 16)
    scale = (0.5, 3)
    x, y = net.value(0, 0, (1, 8, 6, 6), 288, scale), net.value(0, 4096, (1, 16, 6, 6), 576, scale)
    floats, wide = net.value(0, 8192, (1, 8, 6, 6), 576), net.value(0, 8192, (1, 16, 6, 6), 576)
    weights, ones = np.zeros((16, 8, 3, 3), np.int8), np.ones(16, np.float32)
    deep, other = net.value(0, 0, (1, 4096, 3, 3), 9216, scale), net.value(0, 0, (1, 8, 6, 6), 288, (0.25, 3))
    none = (0, 0.0, 0.0)
    rest = ([1, 1], [1, 1], [1, 1], 1, none, -1, none)
    refused = [
        lambda: net.value(1, 0, (1, 8, 6, 6), 0, scale),
        lambda: net.value(0, 0, (1, 8, 6, 6), 71, scale),
        lambda: net.value(0, 0, (1, 8, 6, 6), 288, (0.0, 3)),
        lambda: net.value(0, 0, (1, 8, 6, 6), 288, (float("nan"), 3)),
        lambda: net.value(0, 0, (1, 8, 6, 6), 288, (0.5, 256)),
        lambda: net.convolution(x, wide, weights.astype(np.float32), None, *rest),
        lambda: net.apply(x, floats, none),
        lambda: net.int8_convolution(floats, y, weights, ones, None, *rest),
        lambda: net.int8_convolution(x, y, weights, ones[:8], None, *rest),
        lambda: net.int8_convolution(x, y, weights[:, :7], ones, None, *rest),
        lambda: net.int8_convolution(x, y, weights[:, :4], ones, None, *rest[:3], 2, *rest[4:]),
        lambda: net.int8_convolution(x, y, weights, ones, None, *rest[:5], x, none),
        lambda: net.int8_convolution(deep, y, np.zeros((16, 4096, 3, 3), np.int8), ones, None, *rest),
        lambda: net.quantise(x, y),
        lambda: net.quantise(floats, y),
        lambda: net.restore(floats, x),
        lambda: net.restore(x, wide),
        lambda: net.bytes_pool(x, other, [3, 3], [1, 1], [1, 1], [1] * 4),
        lambda: net.bytes_pool(floats, x, [3, 3], [1, 1], [1, 1], [1] * 4),
        lambda: net.bytes_pool(x, x, [3, 3], [1, 1], [1, 1], [9] * 4),
        lambda: net.int8_linear(x, y, weights[:, :, 0, 0], ones, None, x_bytes=scale),
    ]  # fmt: skip
    for call in refused:
        with pytest.raises((ValueError, TypeError)):
            call()
