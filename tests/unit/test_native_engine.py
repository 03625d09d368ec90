"""The native engine plans nets of any make, keeps their meaning, and says what is not for it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raceline import _native, engines, zoo
from raceline.convert import differences
from raceline.convert.example import model_from_text
from raceline.convert.readers import onnx as reader
from raceline.core.clock import ManualClock
from raceline.core.errors import BadModelError, ConfigError
from raceline.engines import Options
from raceline.engines.native import plan
from raceline.engines.native.operators import Step
from raceline.engines.native.places import Layout
from raceline.engines.native.plan import KERNELS_VARIABLE
from raceline.ir import make_inputs, run_reference, with_batch_axis

ENGINE = engines.load("native")


def assert_right(model, inputs, found):
    expected = run_reference(model, inputs)
    assert set(found) == set(expected)
    for difference in differences(expected, found, ENGINE.tolerance):
        assert difference.ok, difference
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


class Drawn:
    """A random net: operators that the kernels have, and some that they lack, joined at random."""

    def __init__(self, seed, batch):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights, self.values = [], [], [("x", (batch, 3, 12, 10))]
        self.fixed = batch
        for _ in range(14):
            self.grow()
        shape = self.values[-1][1]
        self.conv(*self.values[-1], shape[1] + 5, 1, 1, 1)  # so that there is one

    def name(self):
        return f"v{len(self.nodes)}"

    def add(self, op, inputs, shape, **attributes):
        name = self.name()
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.values.append((name, shape))
        return name

    def hold(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def conv(self, x, shape, channels, kernel, stride, groups):
        pad = kernel // 2
        weights = self.random.standard_normal((channels, shape[1] // groups, kernel, kernel))
        weights /= np.sqrt(shape[1] // groups * kernel * kernel)
        h, w = ((size + 2 * pad - kernel) // stride + 1 for size in shape[2:])
        inputs = [x, self.hold(weights.astype(np.float32))]
        if self.random.random() < 0.7:
            inputs.append(self.hold(self.random.standard_normal(channels).astype(np.float32)))
        self.add(
            "Conv", inputs, (shape[0], channels, h, w), pads=[pad] * 4, strides=[stride] * 2, group=groups
        )

    def grow(self):
        x, shape = self.values[self.random.integers(max(0, len(self.values) - 4), len(self.values))]
        kind = self.random.choice(
            "conv conv conv depthwise relu silu add add concat concat split pool mean norm up hidden gate "
            "swish lab".split()
        )
        getattr(self, f"draw_{kind}")(x, shape)

    def draw_conv(self, x, shape):
        channels = int(self.random.choice([8, 16, 24, 32, 33]))
        self.conv(
            x, shape, channels, int(self.random.choice([1, 3, 3, 5])), int(self.random.choice([1, 1, 2])), 1
        )

    def draw_depthwise(self, x, shape):
        self.conv(x, shape, shape[1], 3, 1, shape[1])

    def draw_relu(self, x, shape):
        self.add(str(self.random.choice(["Relu", "HardSwish", "Sigmoid", "LeakyRelu", "Tanh"])), [x], shape)

    def draw_silu(self, x, shape):
        gate = self.add("Sigmoid", [x], shape)
        self.add("Mul", [x, gate][:: int(self.random.choice([1, -1]))], shape)

    def draw_swish(self, x, shape):
        """Hard swish as some exporters spell it, perhaps with other bounds."""
        three, zero, six = (self.hold(np.float32(n)) for n in (3, 0, 6 if self.random.random() < 0.7 else 5))
        sum_ = self.add("Add", [x, three], shape)
        gate = self.add("Clip", [sum_, zero, six], shape)
        product = self.add("Mul", [x, gate][:: int(self.random.choice([1, -1]))], shape)
        self.draw_lab(self.add("Div", [product, self.hold(np.float32(6))], shape), shape)

    def draw_lab(self, x, shape):
        """A learned scale and shift of everything."""
        scaled = self.add("Mul", [x, self.hold(np.float32([0.75]))], shape)
        self.add("Add", [scaled, self.hold(np.float32([-0.5]))], shape)

    def draw_add(self, x, shape):
        alike = [name for name, other in self.values if other == shape]
        self.add(
            str(self.random.choice(["Add", "Add", "Sub", "Mul"])), [x, str(self.random.choice(alike))], shape
        )

    def draw_concat(self, x, shape):
        alike = [(name, s) for name, s in self.values if s[2:] == shape[2:]]
        chosen = [(x, shape)] + [
            alike[i] for i in self.random.integers(0, len(alike), self.random.integers(1, 3))
        ]
        self.random.shuffle(chosen)
        channels = sum(int(s[1]) for _, s in chosen)
        if channels <= 128:
            self.add("Concat", [str(n) for n, _ in chosen], (shape[0], channels, *shape[2:]), axis=1)

    def draw_split(self, x, shape):
        if shape[1] < 2:
            return
        first = 16 if shape[1] > 16 and self.random.random() < 0.6 else int(self.random.integers(1, shape[1]))
        sizes = self.hold(np.array([first, shape[1] - first], np.int64))
        names = [self.name() + "a", self.name() + "b"]
        self.nodes.append(helper.make_node("Split", [x, sizes], names, axis=1))
        self.values += [
            (n, (shape[0], s, *shape[2:])) for n, s in zip(names, (first, shape[1] - first), strict=True)
        ]

    def draw_pool(self, x, shape):
        op = str(self.random.choice(["MaxPool", "AveragePool"]))
        self.add(op, [x], shape, kernel_shape=[3, 3], pads=[1] * 4)

    def draw_mean(self, x, shape):
        mean = self.add("GlobalAveragePool", [x], (*shape[:2], 1, 1))
        self.add(
            str(self.random.choice(["Mul", "Add"])), [mean, x][:: int(self.random.choice([1, -1]))], shape
        )

    def draw_norm(self, x, shape):
        numbers = [self.random.uniform(0.5, 1.5, shape[1]).astype(np.float32) for _ in range(4)]
        self.add("BatchNormalization", [x, *map(self.hold, numbers)], shape)

    def draw_up(self, x, shape):
        if shape[2] > 24:
            return
        scales = self.hold(np.float32([1, 1, 2, 2]))
        self.add("Resize", [x, "", scales], (*shape[:2], 2 * shape[2], 2 * shape[3]), mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip

    def draw_hidden(self, x, shape):
        """Something that the kernels lack."""
        self.add("Softplus", [x], shape)

    def draw_gate(self, x, shape):
        scale = self.hold(self.random.uniform(0.5, 1.5, (1, shape[1], 1, 1)).astype(np.float32))
        self.add(str(self.random.choice(["Mul", "Add", "Div", "Sub"])), [x, scale], shape)

    def model(self, path, dynamic):
        chosen = {self.values[i][0] for i in self.random.integers(1, len(self.values), 3)} | {
            self.values[-1][0]
        }
        batch = "batch" if dynamic else self.fixed
        infos = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, (batch, *s[1:]))
            for n, s in self.values
            if n in chosen
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 3, 12, 10))
        graph = helper.make_graph(self.nodes, "drawn", [x], infos, self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return reader.read(path)


@pytest.mark.parametrize("seed", range(24))
def test_random_nets(seed, tmp_path):
    model = Drawn(seed, 2).model(tmp_path / "m.onnx", dynamic=False)
    inputs = make_inputs(model.signature, {"x": (2, 3, 12, 10)}, seed=seed)
    shapes = {"x": (2, 3, 12, 10)} if seed % 2 else {}
    options = Options(shapes=shapes, threads=1 + seed % 3 // 2, optimise=seed % 3 > 0)
    session = ENGINE.load(model, options)
    for _ in range(2):  # what a run leaves in the buffers does not reach the next one
        assert_right(model, inputs, session.run(inputs))
    assert session.has_steps()
    session.close()


@pytest.mark.parametrize("kernels", _native.net_kernels())
def test_kernels_can_be_chosen(kernels, tmp_path, monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    model = Drawn(3, 1).model(tmp_path / "m.onnx", dynamic=True)
    session = ENGINE.load(model, Options())
    inputs = make_inputs(model.signature, {"x": (1, 3, 12, 10)}, seed=0)
    assert_right(model, inputs, session.run(inputs))


def test_kernels_that_are_not_here_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, "abacus")
    model = Drawn(3, 1).model(tmp_path / "m.onnx", dynamic=False)
    with pytest.raises(ConfigError, match="abacus.*plain"):
        ENGINE.load(model, Options(shapes={"x": (1, 3, 12, 10)}))


CONV = """<ir_version: 8, opset_import: ["": 17]>
    main (float[N, 3, H, W] x, float[5, 3, 3, 3] w) => (float[N, 5, P, Q] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w)
        y = Relu(c)
    }"""


def test_shapes_are_planned_as_they_come_and_the_oldest_goes():
    model = model_from_text(CONV, w=(5, 3, 3, 3))
    session = ENGINE.load(model, Options())
    for size in (4, 5, 6, 7, 8, 4, 9):
        inputs = make_inputs(model.signature, {"x": (1, 3, size, size + 1)}, seed=size)
        assert_right(model, inputs, session.run(inputs))
    assert len(session.nets()) == 4
    empty = {"x": np.zeros((0, 3, 4, 4), np.float32)}
    assert session.run(empty)["y"].shape == (0, 5, 4, 4)


def test_batches_of_any_size_need_one_plan():
    text = CONV.replace("3, H, W", "3, 6, 7")
    model = with_batch_axis(model_from_text(text, w=(5, 3, 3, 3)), "N")
    session = ENGINE.load(model, Options())
    assert len(session.nets()) == 1  # before the first call
    for batch in (3, 1, 8, 2):
        inputs = make_inputs(model.signature, {"x": (batch, 3, 6, 7)}, seed=batch)
        assert_right(model, inputs, session.run(inputs))
    assert len(session.nets()) == 1
    assert session.run({"x": np.zeros((0, 3, 6, 7), np.float32)})["y"].shape == (0, 5, 6, 7)


def test_calls_from_many_threads_with_threads_of_their_own():
    model = model_from_text(CONV, w=(5, 3, 3, 3))
    session = ENGINE.load(model, Options(streams=2, threads=2))
    questions = [make_inputs(model.signature, {"x": (1 + i % 2, 3, 30, 31)}, seed=i) for i in range(16)]
    start = threading.Barrier(4)

    def ask(part):
        start.wait()
        return [session.run(inputs) for inputs in part]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [questions[i::4] for i in range(4)]))
    for i, part in enumerate(answers):
        for inputs, outputs in zip(questions[i::4], part, strict=True):
            assert_right(model, inputs, outputs)


def read_text(body, opset=17, **weights):
    return model_from_text(f'<ir_version: 8, opset_import: ["": {opset}]> main {body}', **weights)


NETS = {
    "a signal": read_text(
        """(float[2, 3, 40] x, float[8, 3, 5] w, float[8] b) => (float[2, 8, A] y) {
            c = Conv<pads = [2, 1], strides = [2]>(x, w, b) r = Relu(c) y = MaxPool<kernel_shape = [3]>(r) }""",
        w=(8, 3, 5), b=(8,),
    ),
    "padding left to the operator": read_text(
        """(float[1, 3, 9, 8] x, float[8, 3, 4, 4] w) => (float[1, 8, A, B] y, float[1, 8, C, D] z) {
            y = Conv<auto_pad = "SAME_UPPER", strides = [2, 3]>(x, w)
            z = Conv<auto_pad = "SAME_LOWER">(x, w) }""",
        w=(8, 3, 4, 4),
    ),
    "pools that reach over the edge": read_text(
        """(float[1, 3, 10, 9] x, float[4, 3, 1, 1] w)
            => (float[1, 4, A, B] y, float[1, 4, C, D] z, float[1, 4, E, F] t) {
            c = Conv(x, w)
            y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(c)
            z = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, pads = [1, 1, 1, 1]>(c)
            t = AveragePool<kernel_shape = [3, 2], pads = [1, 0, 1, 1], count_include_pad = 1>(c) }""",
        w=(4, 3, 1, 1),
    ),
    "a head of matrices": read_text(
        """(float[3, 3, 6, 6] x, float[20, 3, 3, 3] w, float[20, 30] m, float[30] b,
            float[7, 30] g) => (float[3, 7] y, float[3, 30] h) {
            c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p) q = MatMul(f, m) h = Add(q, b)
            r = Relu(h) y = Gemm<transB = 1>(r, g) }""",
        w=(20, 3, 3, 3), m=(20, 30), b=(30,), g=(7, 30),
    ),
    "shapes computed from shapes": read_text(
        """(float[N, 3, 8, 8] x, float[16, 3, 3, 3] w) => (float[N, C] y) {
            c = Conv(x, w) s = Shape(c)
            zero = Constant<value = int64[1] {0}>() one = Constant<value = int64[1] {-1}>()
            n = Gather(s, zero) t = Concat<axis = 0>(n, one) r = Relu(c) y = Reshape(r, t) }""",
        w=(16, 3, 3, 3),
    ),
    "weights that are computed": read_text(
        """(float[1, 3, 8, 8] x, float[16, 3, 3, 3] v, float[16, 3, 3, 3] w) => (float[1, 16, 6, 6] y) {
            e = Exp(v) c = Conv(x, e) d = Conv(x, w) y = Add(c, d) }""",
        v=(16, 3, 3, 3), w=(16, 3, 3, 3),
    ),
    "swishes and scales around convolutions": read_text(
        """(float[1, 3, 8, 8] x, float[16, 3, 3, 3] w, float[16, 16, 1, 1] v)
            => (float[1, 16, 6, 6] y, float[1, 16, 6, 6] z) {
            three = Constant<value = float {3.0}>() zero = Constant<value = float {0.0}>()
            six = Constant<value = float {6.0}>() a = Constant<value = float {0.7}>()
            b = Constant<value = float {-0.4}>()
            c = Conv(x, w) s = Add(c, three) t = Clip(s, zero, six) u = Mul(c, t) h = Div(u, six)
            p = Mul(h, a) q = Add(p, b) d = Conv(q, v) k = Relu(d) l = Mul(k, a) y = Add(l, b)
            m = Conv(q, v) n = Mul(m, a) o = Relu(n) r = Mul(o, b) z = Add(r, q) }""",
        w=(16, 3, 3, 3), v=(16, 16, 1, 1),
    ),
    "a larger picture, with an empty region of interest": read_text(
        """(float[1, 3, 8, 8] x, float[16, 3, 3, 3] w) => (float[1, 16, 12, 18] y) {
            roi = Constant<value = float[0] {}>() scales = Constant<value = float[4] {1.0, 1.0, 2.0, 3.0}>()
            c = Conv(x, w)
            y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
                (c, roi, scales) }""",
        w=(16, 3, 3, 3),
    ),
    "a signal as a column": read_text(
        """(float[2, 20, 50, 1] x, float[24, 20, 5, 1] w, float[24, 24, 3, 1] v)
            => (float[2, 24, 46, 1] y, float[2, 24, 44, 1] z) {
            y = Conv(x, w) r = Relu(y) z = Conv(r, v) }""",
        w=(24, 20, 5, 1), v=(24, 24, 3, 1),
    ),
    "the same value joined twice": read_text(
        """(float[1, 3, 8, 8] x, float[16, 3, 3, 3] w) => (float[1, 48, 6, 6] y, float[1, 32, 6, 6] z) {
            c = Conv(x, w) r = Relu(c) y = Concat<axis = 1>(r, c, r) z = Concat<axis = -3>(c, r) }""",
        w=(16, 3, 3, 3),
    ),
    "an output that is read on": read_text(
        """(float[1, 3, 8, 8] x, float[16, 3, 3, 3] w)
            => (float[1, 16, 6, 6] c, float[1, 16, 6, 6] y, float[1, 16, 6, 6] s) {
            c = Conv(x, w) y = Relu(c) s = Add(c, y) }""",
        w=(16, 3, 3, 3),
    ),
    "sums of two convolutions": read_text(
        """(float[1, 3, 8, 8] x, float[16, 3, 3, 3] w, float[16, 3, 3, 3] v) => (float[1, 16, 6, 6] y) {
            c = Conv(x, w) d = Conv(x, v) e = Relu(d) s = Add(c, e) t = Relu(s) y = Mul(t, c) }""",
        w=(16, 3, 3, 3), v=(16, 3, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_nets(name):
    model = NETS[name]
    shapes = {s.name: tuple(d if isinstance(d, int) else 2 for d in s.shape) for s in model.signature.inputs}
    inputs = make_inputs(model.signature, shapes, seed=0)
    session = ENGINE.load(model, Options(shapes=shapes))
    assert_right(model, inputs, session.run(inputs))
    assert session.memory_bytes() > 0


@pytest.mark.parametrize(
    "body, weights, why",
    [
        ("(float[N, 4] x, float[4, 4] w) => (float[N, 4] y) { y = MatMul(x, w) }", {"w": (4, 4)}, "no convolution"),
        ("(float[1, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[A, B, C, D] y) { y = Conv(x, w) }",
         {}, "no convolution"),
        ("(float[1, 3, 4, 8, 8] x, float[4, 3, 3, 3, 3] w) => (float[A, B, C, D, E] y) { y = Conv(x, w) }",
         {"w": (4, 3, 3, 3, 3)}, "no convolution"),
        ("""(float[1, 3, 8, 8] x, bool b, float[4, 3, 3, 3] w) => (float[A, B, C, D] y) { c = Conv(x, w)
            y = If (b) <then_branch = p () => (float[A, B, C, D] s) { s = Relu(c) },
                        else_branch = q () => (float[A, B, C, D] t) { t = Neg(c) }> }""",
         {"w": (4, 3, 3, 3)}, "branches"),
    ],
    ids=["none", "weights that are inputs", "volumes", "a branch"],
)  # fmt: skip
def test_models_that_are_not_for_it_are_refused(body, weights, why):
    model = read_text(body, **weights)
    shapes = {s.name: tuple(d if isinstance(d, int) else 1 for d in s.shape) for s in model.signature.inputs}
    with pytest.raises(BadModelError, match=why):
        ENGINE.load(model, Options(shapes=shapes))


def test_few_crossings():
    """What the kernels lack, and a convolution too small to return for, run together on the other engine."""
    model = read_text(
        """(float[1, 3, 32, 32] x, float[64, 3, 3, 3] w, float[64, 64, 3, 3] v, float[1, 64, 1, 1] u)
            => (float[1, 1, 28, 28] y, float[1, 64, 28, 28] z) {
            c = Conv(x, w) d = Conv(c, v) e = Softplus(d) y = Conv(e, u) z = Relu(d) }""",
        w=(64, 3, 3, 3), v=(64, 64, 3, 3), u=(1, 64, 1, 1),
    )  # fmt: skip
    session = ENGINE.load(model, Options(shapes={"x": (1, 3, 32, 32)}, optimise=False))
    (planned,) = session._plans.values()
    assert [type(part).__name__ for part in planned.parts] == ["NetPart", "OtherPart"]


TWO_NETS = read_text(
    """(float[1, 3, 16, 16] x, float[32, 3, 3, 3] w, float[32, 32, 3, 3] v) => (float[1, 32, 12, 12] y) {
        c = Conv(x, w) s = Softplus(c) y = Conv(s, v) }""",
    w=(32, 3, 3, 3), v=(32, 32, 3, 3),
)  # fmt: skip


@pytest.mark.parametrize(
    "measured, kept",
    [
        ([(1, 2), (1, 2), (1, 2)], ["NetPart", "OtherPart", "NetPart"]),
        ([(2, 1), (1, 2), (1, 2)], ["OtherPart", "NetPart"]),
        ([(1, 2), (2, 1), (1, 2)], ["NetPart", "OtherPart"]),
        ([(1, 2), (1, 2), (2, 1)], ["OtherPart"]),
        ([(2, 1), (2, 1), (1, 1)], ["OtherPart"]),
    ],
)
def test_nets_that_do_not_pay_are_left_to_the_other_engine(measured, kept, monkeypatch):
    """Measured part by part, and then the whole."""
    left = iter(measured)
    monkeypatch.setattr(plan._Making, "_compared", lambda self, *runs: next(left))
    session = ENGINE.load(TWO_NETS, Options(shapes={"x": (1, 3, 16, 16)}))
    (chosen,) = session._plans.values()
    assert [type(part).__name__ for part in chosen.parts] == kept
    inputs = make_inputs(TWO_NETS.signature, {"x": (1, 3, 16, 16)}, seed=0)
    assert_right(TWO_NETS, inputs, session.run(inputs))


@pytest.mark.parametrize(("theirs_s", "rounds"), [(1.1, 5), (2.0, 2), (0.5, 2)])
def test_who_is_faster_is_measured_no_longer_than_there_is_doubt(theirs_s, rounds, monkeypatch):
    clock, ran = ManualClock(), []

    def take(seconds):
        ran.append(seconds)
        clock.sleep_s(seconds)

    monkeypatch.setattr(plan.time, "thread_time", clock.now_s)
    making = plan._Making(TWO_NETS, TWO_NETS, None, Options(), 0.0)
    found = making._compared(lambda: take(1.0), lambda: take(theirs_s))
    assert found == pytest.approx((1.0, theirs_s)) and len(ran) == 2 * rounds


def test_swishes_and_scales_cost_no_step():
    model = NETS["swishes and scales around convolutions"]
    session = ENGINE.load(model, Options(shapes={"x": (1, 3, 8, 8)}))
    (net,) = session.nets()
    kinds = [name.split()[0] for name in net.step_names()]
    assert kinds == ["direct"] * 3 + ["element-wise"] + ["unpack"] * 2


def test_values_that_live_together_lie_apart():
    """Joined and parted values share a buffer; what is read later is not written over."""
    shapes = {name: (1, c, 4, 4) for name, c in dict(x=32, a=16, b=16, c=16, j=48, k=48, d=48).items()}
    steps = [
        Step("split", ["x"], ["a", "b"], {"starts": [0, 16]}),
        Step("apply", ["b"], ["c"]),
        Step("concat", ["a", "b", "c"], ["j"]),
        Step("apply", ["j"], ["k"]),
        Step("binary", ["k", "j"], ["d"]),
    ]
    layout = Layout([Step("pack", [], ["x"]), *steps], shapes, set(), {"d"})
    assert layout.joined(steps[2]) == [True, True, True]
    places = {name: layout.place(name).offset for name in shapes}
    assert [places[name] - places["j"] for name in "xabc"] == [0, 0, 16 * 16, 32 * 16]
    assert layout.size_floats == 3 * 48 * 16
    assert len({places[name] for name in "jkd"}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "yolov8n"])
def test_zoo(name, tmp_path):
    """Whole nets in one part, or two where a detector's tail is left, as near to double precision as others are."""
    import torch

    model = reader.read(zoo.export_onnx(name, tmp_path / f"{name}.onnx"))
    (spec,) = model.signature.inputs
    shapes = {spec.name: (2, *spec.shape[1:])}
    inputs = make_inputs(model.signature, shapes, seed=0)
    with torch.no_grad():
        truth = zoo.get(name).double()(torch.tensor(inputs[spec.name]).double()).numpy()
    session = ENGINE.load(model, Options(shapes=shapes, threads=2))
    (planned,) = session._plans.values()
    assert [type(part).__name__ for part in planned.parts] == ["NetPart", "OtherPart"][
        : 1 + (name == "yolov8n")
    ]
    (found,) = session.run(inputs).values()
    (other,) = engines.load("onnxruntime").load(model, Options(shapes=shapes)).run(inputs).values()
    scale = np.abs(truth).max()
    assert np.abs(found - truth).max() / scale <= max(2e-5, 3 * np.abs(other - truth).max() / scale)
