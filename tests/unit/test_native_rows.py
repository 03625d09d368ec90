"""Transformers run on the native engine however they are spelled, and what only resembles them stays right."""

import itertools
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raceline import _native, engines
from raceline.convert import differences
from raceline.convert.readers import onnx as reader
from raceline.engines import Options
from raceline.engines.native.plan import KERNELS_VARIABLE
from raceline.engines.native.rows import units_of
from raceline.engines.native.segments import settled
from raceline.ir import make_inputs, run_reference

ENGINE = engines.load("native")
BATCH, TOKENS, HEADS, DEPTH = 2, 7, 3, 5
WIDTH, WIDER = HEADS * DEPTH, 22


def assert_right(model, inputs, found):
    expected = run_reference(model, inputs)
    assert set(found) == set(expected)
    for difference in differences(expected, found, ENGINE.tolerance):
        assert difference.ok, difference


class Written:
    """A graph that is written node by node."""

    def __init__(self, **inputs):
        self.random = np.random.default_rng(0)
        self.nodes, self.weights = [], []
        self.inputs = inputs

    def do(self, op, *inputs, outputs=1, **attributes):
        inputs = [self.hold(value) if isinstance(value, np.ndarray | float) else value for value in inputs]
        names = [f"v{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def hold(self, array):
        name = f"w{len(self.weights)}"
        array = np.float32(array) if isinstance(array, float) else array
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def draw(self, *shape):
        return (self.random.standard_normal(shape) * 0.3).astype(np.float32)

    def model(self, folder, *outputs):
        def info(name, shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(self.nodes, "g", [info(*i) for i in self.inputs.items()],
                                  [info(name, None) for name in outputs], self.weights)  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        made = onnx.shape_inference.infer_shapes(made)
        onnx.save(made, folder / "model.onnx")
        return reader.read(folder / "model.onnx")

    # What transformers are made of

    def linear(self, x, k, n, *, gemm=False):
        if gemm:
            flat = self.do("Reshape", x, np.array([-1, k]))
            y = self.do("Gemm", flat, self.draw(n, k), self.draw(n), transB=1)
            return self.do("Reshape", y, np.array([BATCH, -1, n]))
        return self.do("Add", self.draw(n), self.do("MatMul", x, self.draw(k, n)))

    def norm(self, x, width=WIDTH):
        return self.do("LayerNormalization", x, self.draw(width) + 1, self.draw(width), axis=-1, epsilon=1e-6)

    def heads(self, x, *, turned=False):
        split = self.do("Reshape", x, np.array([0, 0, HEADS, DEPTH]))
        return self.do("Transpose", split, perm=[0, 2, 3, 1] if turned else [0, 2, 1, 3])

    def attend(self, q, k, v, *, mask="", scale="after"):
        """q (b, h, q, d), k (b, h, d, k), v (b, h, k, d)."""
        root = DEPTH**-0.25
        if scale == "before":
            q, k = self.do("Mul", q, root), self.do("Mul", root, k)
        scores = self.do("MatMul", q, k)
        if scale == "after":
            scores = self.do("Div", scores, math.sqrt(DEPTH))
        if mask:
            scores = self.do("Add", *((mask, scores) if scale == "before" else (scores, mask)))
        out = self.do("MatMul", self.do("Softmax", scores, axis=-1), v)
        return self.do("Reshape", self.do("Transpose", out, perm=[0, 2, 1, 3]), np.array([0, 0, WIDTH]))

    def gelu(self, x, how):
        if how == "op":
            return self.do("Gelu", x)
        if how == "op tanh":
            return self.do("Gelu", x, approximate="tanh")
        if how == "silu":
            return self.do("Mul", self.do("Sigmoid", x), x)
        if how == "relu":
            return self.do("Relu", x)
        if how == "tanh":
            cube = self.do("Mul", self.do("Pow", x, 3.0), 0.044715)
            inner = self.do("Mul", self.do("Add", x, cube), math.sqrt(2 / math.pi))
            return self.do("Mul", self.do("Mul", 0.5, x), self.do("Add", 1.0, self.do("Tanh", inner)))
        one = self.do("Add", self.do("Erf", self.do("Div", x, math.sqrt(2))), 1.0)
        if how == "erf":
            return self.do("Mul", x, self.do("Mul", 0.5, one))
        return self.do("Mul", self.do("Mul", x, one), 0.5)


def projected(g, x, how, *, gemm=False):
    """q, k turned, v by different spellings."""
    if how == "three":
        q, k, v = (g.linear(x, WIDTH, WIDTH, gemm=gemm) for _ in range(3))
        return g.heads(q), g.heads(k, turned=True), g.heads(v)
    joint = g.do("Reshape", g.linear(x, WIDTH, 3 * WIDTH), np.array([BATCH, TOKENS, 3, HEADS, DEPTH]))
    if how == "split":
        parts = g.do("Split", joint, np.array([1, 1, 1]), axis=2, outputs=3)
        q, k, v = (g.do("Transpose", g.do("Squeeze", p, np.array([2])), perm=[0, 2, 1, 3]) for p in parts)
    elif how == "slice":
        turned = g.do("Transpose", joint, perm=[2, 0, 3, 1, 4])
        cuts = [g.do("Slice", turned, np.array([i]), np.array([i + 1]), np.array([0])) for i in range(3)]
        q, k, v = (g.do("Squeeze", cut, np.array([0])) for cut in cuts)
    else:
        turned = g.do("Transpose", joint, perm=[2, 0, 3, 1, 4])
        q, k, v = (g.do("Gather", turned, np.array(i), axis=0) for i in range(3))
    return q, g.do("Transpose", k, perm=[0, 1, 3, 2]), v


def block(g, x, *, how="three", pre=True, mask="", scale="after", gelu="erf", gemm=False):
    """One layer of a transformer."""
    q, k, v = projected(g, g.norm(x) if pre else x, how, gemm=gemm)
    x = g.do("Add", x, g.linear(g.attend(q, k, v, mask=mask, scale=scale), WIDTH, WIDTH, gemm=gemm))
    if not pre:
        x = g.norm(x)
    y = g.gelu(g.linear(g.norm(x) if pre else x, WIDTH, WIDER, gemm=gemm), gelu)
    x = g.do("Add", g.linear(y, WIDER, WIDTH), x)
    return x if pre else g.norm(x)


def names(session):
    return [name.split()[0] for net in session.nets() for name in net.step_names()]


def loaded(model, threads=1, optimise=True):
    shapes = {s.name: tuple(s.shape) for s in model.signature.inputs}
    inputs = make_inputs(model.signature, shapes, seed=0)
    session = ENGINE.load(model, Options(shapes=shapes, threads=threads, optimise=optimise))
    return session, inputs


MASKS = {"none": None, "keys": (BATCH, 1, 1, TOKENS), "square": (1, 1, TOKENS, TOKENS),
         "all": (BATCH, HEADS, TOKENS, TOKENS)}  # fmt: skip
LAYERS = [
    *({"how": how, "pre": pre} for how in ("three", "split", "slice", "gather") for pre in (True, False)),
    *({"mask": mask, "scale": scale} for mask in MASKS if mask != "none" for scale in ("before", "after", "no")),
    *({"gelu": gelu} for gelu in ("erf", "erf outside", "tanh", "op", "op tanh", "silu", "relu")),
    {"gemm": True},
]  # fmt: skip


@pytest.mark.parametrize("kernels", _native.net_kernels())
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: " ".join(map(str, layer.values())))
def test_layers_however_they_are_spelled(layer, kernels, tmp_path, monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    mask = MASKS[layer.get("mask", "none")]
    given = {"x": (BATCH, TOKENS, WIDTH), **({"m": mask} if mask else {})}
    g = Written(**given)
    layer = dict(layer, mask="m" if mask else "")
    model = g.model(tmp_path, block(g, block(g, "x", **layer), **layer))
    session, inputs = loaded(model, threads=1 + (kernels == "plain"))
    assert_right(model, inputs, session.run(inputs))
    kinds = names(session)
    assert kinds.count("attention") == 2
    shared = layer.get("how", "three") == "three" and layer.get("pre", True)  # one norm, three readers
    assert set(kinds) == {"attention", "linear"} | ({"layer"} if shared else set())
    (plan,) = session._plans.values()
    assert len(plan.parts) == 1
    assert session.memory_bytes() > 0


@pytest.mark.parametrize("how", ["three", "split", "slice"])
@pytest.mark.parametrize("heads, tokens", [(1, TOKENS), (HEADS, 1), (1, 1)])
def test_turning_back_what_has_one_head_or_one_token_moves_nothing(heads, tokens, how, tmp_path, monkeypatch):
    """So what is joined is a view of the product too, which the kernels never write."""
    sizes = {"HEADS": heads, "DEPTH": WIDTH // heads, "TOKENS": tokens}
    for name, size in sizes.items():
        monkeypatch.setitem(globals(), name, size)
    g = Written(x=(BATCH, tokens, WIDTH))
    model = g.model(tmp_path, block(g, block(g, "x", how=how), how=how))
    session, inputs = loaded(model, optimise=False)
    assert_right(model, inputs, session.run(inputs))
    assert names(session).count("attention") == 2
    (plan,) = session._plans.values()
    assert len(plan.parts) == 1


def test_what_is_around_goes_to_the_other_engine(tmp_path):
    """A mask that is computed, an embedding before, and two readers of one view, one of each engine."""
    g = Written(x=(BATCH, TOKENS, WIDTH), m=(BATCH, TOKENS))
    mask = g.do("Unsqueeze", g.do("Mul", g.do("Sub", "m", 1.0), 100.0), np.array([1, 2]))
    x = g.do("Softplus", "x")
    joint = g.linear(g.norm(x), WIDTH, WIDTH)
    split = g.do("Reshape", joint, np.array([0, 0, HEADS, DEPTH]))
    q, v = g.do("Transpose", split, perm=[0, 2, 1, 3]), g.heads(x)
    y = g.linear(g.attend(q, g.heads(x, turned=True), v, mask=mask), WIDTH, WIDTH)
    seen = g.do("ReduceMax", split, np.array([2]))
    z = g.do("Softplus", g.norm(y))
    model = g.model(tmp_path, z, seen, y)
    session, inputs = loaded(model, optimise=False)  # or the other engine may be found faster
    assert_right(model, inputs, session.run(inputs))
    assert names(session).count("attention") == 1
    (plan,) = session._plans.values()
    assert [type(part).__name__ for part in plan.parts] == ["OtherPart", "NetPart", "OtherPart"]


def lookalikes():
    yield (
        "another axis",
        lambda g, x: g.do("Softmax", g.do("MatMul", g.heads(x), g.heads(x, turned=True)), axis=2),
    )
    yield "scores that are read again", lambda g, x: read_again(g, x)
    yield (
        "heads that stay apart",
        lambda g, x: g.do(
            "MatMul",
            g.do("Softmax", g.do("MatMul", g.heads(x), g.heads(x, turned=True)), axis=-1),
            g.heads(x),
        ),
    )
    yield (
        "a mask that is no mask",
        lambda g, x: g.attend(g.heads(x), g.heads(x, turned=True), g.heads(x), mask=g.hold(g.draw(TOKENS))),
    )
    yield (
        "a factor for each key",
        lambda g, x: g.attend(g.do("Mul", g.heads(x), g.draw(DEPTH)), g.heads(x, turned=True), g.heads(x)),
    )
    yield "heads across batches", lambda g, x: across(g, x)


def read_again(g, x):
    scores = g.do("MatMul", g.heads(x), g.heads(x, turned=True))
    out = g.do("MatMul", g.do("Softmax", scores, axis=-1), g.heads(x))
    return g.do("Add", out, g.do("ReduceSum", scores, np.array([3])))


def across(g, x):
    turned = g.do("Reshape", g.do("Transpose", x, perm=[1, 0, 2]), np.array([TOKENS, BATCH, HEADS, DEPTH]))
    q = g.do("Transpose", turned, perm=[1, 2, 0, 3])
    return g.attend(q, g.do("Transpose", q, perm=[0, 1, 3, 2]), q)


@pytest.mark.parametrize("name, body", list(lookalikes()), ids=[name for name, _ in lookalikes()])
def test_what_only_resembles_attention_stays_right(name, body, tmp_path):
    g = Written(x=(BATCH, TOKENS, WIDTH))
    model = g.model(tmp_path, body(g, block(g, "x")))
    session, inputs = loaded(model)
    assert_right(model, inputs, session.run(inputs))


def test_functions_that_are_none_of_the_known_are_left(tmp_path):
    g = Written(x=(4, WIDTH))
    y = g.do("MatMul", "x", g.draw(WIDTH, WIDTH))
    half = g.do("Mul", y, g.do("Add", g.do("Erf", g.do("Div", y, 2.0)), 1.0))
    model = g.model(tmp_path, half)
    whole, table = settled(model, {"x": (4, WIDTH)})
    floats = {name: info.shape for name, info in table.known.items()}
    (unit,), _ = units_of(list(whole.program.graph), floats)
    assert unit.step.kind == "linear"
    assert "activation" not in unit.step.settings


def test_nets_refuse_what_does_not_fit():
    net = _native.Net(1, 1, "", 4096)
    x, y = net.value(1, 0, (4, 8, 1, 1), 0), net.value(0, 0, (4, 16, 1, 1), 16)
    wide, picture = net.value(0, 64, (4, 24, 1, 1), 32), net.value(0, 0, (4, 8, 2, 1), 32)
    weights, ones = np.zeros((8, 16), np.float32), np.ones(16, np.float32)
    heads = {"batch": 2, "heads": 2, "depth": 8, "value_depth": 8, "scale": 1.0}
    refused = [
        lambda: net.linear(x, wide, weights, None),
        lambda: net.linear(x, y, weights[:7], None),
        lambda: net.linear(x, y, weights, ones[:8]),
        lambda: net.linear(picture, y, weights, None),
        lambda: net.linear(y, x, np.zeros((16, 8), np.float32), None),
        lambda: net.linear(x, y, weights, None, residual=wide),
        lambda: net.linear(x, y, weights, None, residual=99),
        lambda: net.linear(x, y, weights, None, activation="mish"),
        lambda: net.linear(x, y, weights, None, before=(ones, None, 1e-5)),
        lambda: net.norm(y, wide, (ones, None, 1e-5)),
        lambda: net.norm(y, y, (ones[:8], None, 1e-5)),
        lambda: net.attention((wide, 0, 8), (wide, 0, 8), (wide, 9, 8), y, **heads),
        lambda: net.attention((wide, -1, 8), (wide, 0, 8), (wide, 8, 8), y, **heads),
        lambda: net.attention((wide, 0, -8), (wide, 0, 8), (wide, 8, 8), y, **heads),
        lambda: net.attention((wide, 0, 8), (wide, 0, 8), (wide, 8, 8), y, **(heads | {"batch": 3})),
        lambda: net.attention((wide, 0, 8), (wide, 0, 8), (wide, 8, 8), y, **(heads | {"heads": 2**40})),
        lambda: net.attention((wide, 0, 8), (wide, 0, 8), (wide, 8, 8), y, **heads, mask=y, mask_shape=(1, 2, 2)),
        lambda: net.attention((wide, 0, 8), (wide, 0, 8), (wide, 8, 8), x, **heads),
    ]  # fmt: skip
    for call in refused:
        with pytest.raises((ValueError, TypeError)):
            call()


def test_strides_of_views(tmp_path):
    """Views are reckoned as NumPy reckons them."""
    g = Written(x=(2, 6, 4))
    turned = g.do("Transpose", g.do("Reshape", "x", np.array([2, 3, 2, 4])), perm=[2, 0, 1, 3])
    cut = g.do("Slice", turned, np.array([1]), np.array([2**62]), np.array([0]))
    model = g.model(tmp_path, g.do("Neg", cut))
    whole, table = settled(model, {"x": (2, 6, 4)})
    _, views = units_of(list(whole.program.graph), {n: i.shape for n, i in table.known.items()})
    (last,) = [node for node in whole.program.graph if node.op_type == "Neg"]
    view = views.of(last.inputs[0])
    assert (view.base, view.offset) == ("x", 4)
    whole = np.arange(48).reshape(2, 6, 4)
    expected = whole.reshape(2, 3, 2, 4).transpose(2, 0, 1, 3)[1:]
    places = itertools.product(*map(range, view.shape))
    assert view.shape == expected.shape
    for place in places:
        at = view.offset + sum(i * step for i, step in zip(place, view.strides, strict=True))
        assert at == expected[place]
