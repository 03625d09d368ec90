"""Random small graphs: whatever the passes make of them, they compute the same."""

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raceline.convert import Rewrite, optimise
from raceline.ir import Model, Provenance
from raceline.ir.axes import signature_of
from raceline.ir.reference import run_reference

C, S = 4, 5  # channels; height and width of every picture
PICTURE, MATRIX = ("N", C, S, S), ("N", C)


class Builder:
    """Grows a graph from two inputs; each step adds a node to random values and keeps its result."""

    def __init__(self, draw, opset):
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.values = {PICTURE: [], MATRIX: []}
        self.nodes, self.weights, self.opset = [], [], opset
        for name, shape in (("x", PICTURE), ("z", MATRIX)):
            self.values[shape].append(ir.val(name, ir.DataType.FLOAT, shape))
        self.inputs = [shaped[0] for shaped in self.values.values()]

    def pick(self, shape):
        """The latest value three times out of four, so that chains form; any value else."""
        latest = self.draw(st.integers(0, 3))
        return self.values[shape][-1] if latest else self.draw(st.sampled_from(self.values[shape]))

    def scalar(self, number):
        return self.numbers(np.float32(number), rank=0)

    def weight(self, *shape, low=None):
        array = self.rng.standard_normal(shape).astype(np.float32)
        array = array if low is None else (np.abs(array) + np.float32(low))
        tensor = ir.tensor(array, name=f"w{len(self.weights)}")
        self.weights.append(ir.val(tensor.name, ir.DataType.FLOAT, shape, const_value=tensor))
        return self.weights[-1]

    def numbers(self, *numbers, rank=1):
        array = np.array(numbers) if rank else np.array(*numbers)
        tensor = ir.tensor(array, name=f"w{len(self.weights)}")
        self.weights.append(ir.val(tensor.name, tensor.dtype, tensor.shape, const_value=tensor))
        return self.weights[-1]

    def add(self, op, inputs, shape, **attributes):
        node = ir.node(op, inputs, attributes, name=f"n{len(self.nodes)}")
        node.outputs[0].name = f"v{len(self.nodes)}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(node)
        if shape is not None:
            self.values[shape].append(node.outputs[0])
        return node.outputs[0]


def conv(b):
    groups = b.draw(st.sampled_from([1, 2, C]))
    bias = [b.weight(C)] if b.draw(st.booleans()) else []
    kernel = b.draw(st.sampled_from([1, 3]))
    inputs = [b.pick(PICTURE), b.weight(C, C // groups, kernel, kernel), *bias]
    b.add("Conv", inputs, PICTURE, group=groups, pads=[kernel // 2] * 4)


def conv_transpose(b):
    groups = b.draw(st.sampled_from([1, 2]))
    b.add("ConvTranspose", [b.pick(PICTURE), b.weight(C, C // groups, 1, 1)], PICTURE, group=groups)


def batch_norm(b):
    inputs = [b.pick(PICTURE), b.weight(C), b.weight(C), b.weight(C), b.weight(C, low=0.5)]
    b.add("BatchNormalization", inputs, PICTURE)


def affine(b):
    shape = b.draw(st.sampled_from([(1,), (C, 1, 1), (1, C, 1, 1), (), (S,)]))
    op = b.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
    operands = [b.pick(PICTURE), b.weight(*shape, low=0.5)]
    if op != "Div" and b.draw(st.booleans()):
        operands.reverse()
    b.add(op, operands, PICTURE)


def unary(b):
    shape = b.draw(st.sampled_from([PICTURE, MATRIX]))
    op = b.draw(
        st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "Identity", "Neg", "Abs"])
    )
    b.add(op, [b.pick(shape)], shape)


def binary(b):
    shape = b.draw(st.sampled_from([PICTURE, MATRIX]))
    b.add(b.draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), [b.pick(shape), b.pick(shape)], shape)


def silu(b):
    x = b.pick(PICTURE)
    b.add("Mul", [x, b.add("Sigmoid", [x], None)], PICTURE)


def hard_swish(b):
    x = b.pick(PICTURE)
    shifted = b.add("Add", [x, b.scalar(3)], None)
    gate = b.add("Clip", [shifted, b.scalar(0), b.scalar(6)], None)
    b.add("Div", [b.add("Mul", [x, gate], None), b.scalar(6)], PICTURE)


def gelu(b):
    x = b.pick(MATRIX)
    e = b.add("Erf", [b.add("Div", [x, b.scalar(2**0.5)], None)], None)
    b.add("Mul", [b.add("Mul", [x, b.add("Add", [e, b.scalar(1)], None)], None), b.scalar(0.5)], MATRIX)


def layer_norm(b):
    x = b.pick(MATRIX)
    centred = b.add("Sub", [x, b.add("ReduceMean", [x], None, axes=[-1])], None)
    variance = b.add("ReduceMean", [b.add("Pow", [centred, b.scalar(2)], None)], None, axes=[-1])
    deviation = b.add("Sqrt", [b.add("Add", [variance, b.scalar(1e-3)], None)], None)
    normal = b.add("Div", [centred, deviation], MATRIX)
    if b.draw(st.booleans()):
        b.add("Add", [b.add("Mul", [normal, b.weight(C)], None), b.weight(C)], MATRIX)


def dense(b):
    x = b.pick(MATRIX)
    if b.draw(st.booleans()):
        return b.add("Gemm", [x, b.weight(C, C), b.weight(C)], MATRIX, transB=b.draw(st.integers(0, 1)))
    return b.add("Add", [b.add("MatMul", [x, b.weight(C, C)], None), b.weight(C)], MATRIX)


def attention(b):
    q, k, v = b.pick(PICTURE), b.pick(PICTURE), b.pick(PICTURE)
    scores = b.add("MatMul", [q, b.add("Transpose", [k], None, perm=[0, 1, 3, 2])], None)
    scaled = b.add("Div", [scores, b.scalar(5**0.5)], None)
    b.add("MatMul", [b.add("Softmax", [scaled], None, axis=-1), v], PICTURE)


def turn_twice(b):
    perm = b.draw(st.permutations(range(4)))
    back = [list(perm).index(axis) for axis in range(4)]
    b.add("Transpose", [b.add("Transpose", [b.pick(PICTURE)], None, perm=list(perm))], PICTURE, perm=back)


def reshape_twice(b):
    x = b.pick(PICTURE)
    sizes = b.add("Concat", [b.add("Shape", [x], None, end=1), b.numbers(C, S, S)], None, axis=0)
    flat = b.add("Reshape", [x, b.numbers(-1, C * S * S)], None)
    b.add("Reshape", [flat, sizes], PICTURE)


def pool(b):
    picture = b.add("GlobalAveragePool", [b.pick(PICTURE)], None)
    b.add("Flatten", [picture], MATRIX)


def normalised(b):
    b.draw(st.sampled_from([conv, conv_transpose]))(b)
    b.draw(st.sampled_from([batch_norm, affine]))(b)


STEPS = [
    *[
        conv,
        normalised,
        normalised,
        conv_transpose,
        batch_norm,
        affine,
        unary,
        binary,
        silu,
        hard_swish,
        gelu,
    ],
    *[layer_norm, dense, attention, turn_twice, reshape_twice, pool],
]


@st.composite
def models(draw):
    b = Builder(draw, draw(st.sampled_from([13, 15, 17])))
    if b.opset < 15:
        steps = [step for step in STEPS if step is not reshape_twice]  # Shape takes `end` from opset 15 on
    else:
        steps = STEPS
    for step in draw(st.lists(st.sampled_from(steps), min_size=2, max_size=12)):
        step(b)
    every = [v for shaped in b.values.values() for v in shaped if v.producer() is not None]
    ends = [v for v in every if not v.uses()]
    also = draw(st.lists(st.sampled_from(every), max_size=2)) if every else []
    outputs = list(dict.fromkeys([*ends, *also]))
    for value in outputs:
        value.shape = ir.Shape(PICTURE if value in b.values[PICTURE] else MATRIX)
    graph = ir.Graph(
        b.inputs, outputs, nodes=b.nodes, initializers=b.weights, opset_imports={"": b.opset}, name="random"
    )
    program = ir.Model(graph, ir_version=8)
    return Model(program, signature_of(program), Provenance())


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(model=models(), seed=st.integers(0, 2**16))
def test_random_graphs_compute_the_same(model, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, C, S, S)).astype(np.float32)
    inputs = {"x": x, "z": rng.standard_normal((2, C)).astype(np.float32)}
    result, report = optimise(model)
    before, after = run_reference(model, inputs), run_reference(result, inputs)
    exact = not any(isinstance(r, Rewrite) and r.pass_name.startswith("fold_") for r in report)
    for name, value in before.items():
        if exact:
            np.testing.assert_array_equal(after[name], value)
        else:
            scale = max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(after[name], value, rtol=1e-3, atol=1e-4 * scale)
    assert not [r for r in optimise(result)[1] if isinstance(r, Rewrite)]
