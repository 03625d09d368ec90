"""Linear layers between Q and DQ multiply bytes on the native engine, exactly, however they are spelled."""

import numpy as np
import pytest
from engine_doubles import net as convolutions
from test_native_rows import BATCH, TOKENS, WIDTH, Written, block, loaded, names

from raceline import _native, engines
from raceline.convert import quantise, reduce
from raceline.convert.quantise.calibrate import observe
from raceline.engines import Options
from raceline.engines.native.plan import KERNELS_VARIABLE
from raceline.ir import make_inputs, run_reference, this_machine

STEP = 2.0**-5  # of activations: a power of two, so that dividing by it and multiplying by its inverse agree


class InBytes(Written):
    """A graph whose linear layers are written with Q and DQ, in one of several spellings."""

    def __init__(self, how, **inputs):
        super().__init__(**inputs)
        self.how = how

    def linear(self, x, k, n, *, gemm=False):
        self.inside += 1
        kind = np.int8 if self.how == "signed" else np.uint8
        zero = np.array({"signed": -3, "uint8": 130}.get(self.how, 117), kind)
        scale = np.float32(STEP) if self.how != "scales" else np.full(1, STEP, np.float32)
        x = self.do("DequantizeLinear", self.do("QuantizeLinear", x, scale, zero), scale, zero)
        turned = self.how in {"turned", "turned, no zero point"}
        weights = self.random.integers(-127, 128, (n, k) if turned else (k, n))
        steps = (self.random.random(n) * 0.004 + 0.001).astype(np.float32)
        if self.how == "one scale":
            steps = np.float32(0.003)
        if self.how == "uint8":
            held = [(weights + 128).astype(np.uint8), steps, np.full(n, 128, np.uint8)]
        elif self.how == "turned, no zero point":
            held = [weights.astype(np.int8), steps]
        else:
            held = [weights.astype(np.int8), steps, np.zeros(np.shape(steps), np.int8)]
        axis = {} if self.how == "one scale" else {"axis": 0 if turned else 1}
        wide = self.do("DequantizeLinear", *held, **axis)
        if not turned:
            return self.do("Add", self.draw(n), self.do("MatMul", x, wide))
        flat = self.do("Reshape", x, np.array([-1, k]))
        products = (steps * np.float32(STEP)).astype(np.float32)
        whole = self.random.integers(-9999, 9999, n).astype(np.int32)
        bias = self.do("DequantizeLinear", whole, products, np.zeros(n, np.int32), axis=0)
        return self.do("Reshape", self.do("Gemm", flat, wide, bias, transB=1), np.array([BATCH, -1, n]))

    inside = 0

    def hold(self, array):
        return super().hold(np.asarray(array) if isinstance(array, np.generic) else array)

    def do(self, op, *inputs, outputs=1, **attributes):
        inputs = [self.hold(v) if isinstance(v, np.ndarray | np.generic) else v for v in inputs]
        return super().do(op, *inputs, outputs=outputs, **attributes)


SPELLINGS = ["columns", "turned", "turned, no zero point", "one scale", "scales", "signed", "uint8"]


@pytest.mark.parametrize("kernels", _native.net_kernels())
@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("pre", [True, False])
def test_layers_in_bytes_however_they_are_spelled(how, pre, kernels, tmp_path, monkeypatch):
    monkeypatch.setenv(KERNELS_VARIABLE, kernels)
    g = InBytes(how, x=(BATCH, TOKENS, WIDTH))
    model = g.model(tmp_path, block(g, "x", pre=pre))
    session, inputs = loaded(model, threads=1 + (kernels == "plain"))
    kinds = [name for net in session.nets() for name in net.step_names()]
    assert sum(kind.startswith("int8 linear") for kind in kinds) == g.inside == 6
    assert not any(kind.startswith("linear") for kind in kinds)
    expected, found = run_reference(model, inputs), session.run(inputs)
    for name, array in expected.items():  # a number next to the middle between two steps may go to either
        off = np.abs(found[name] - array)
        assert np.median(off) < 1e-5 * np.abs(array).max() and off.max() < 0.05 * np.abs(array).max()


@pytest.mark.parametrize("kernels", _native.net_kernels())
@pytest.mark.parametrize("rows, k, n", [(1, 1, 1), (7, 33, 17), (64, 300, 130)])
def test_sums_are_exact(kernels, rows, k, n):
    """All bytes at their largest, where sums of 16 bits would saturate."""
    random = np.random.default_rng(rows)
    x = random.choice([0.0, 254.0, 255.0], (rows, k)).astype(np.float32)
    weights = random.choice([-128, -127, 127], (k, n)).astype(np.int8)
    scale, bias = np.full(n, 2.0**-10, np.float32), random.standard_normal(n).astype(np.float32)
    residual = random.standard_normal((rows, n)).astype(np.float32)
    made = _native.Net(1, 1, kernels, 16)
    given, other = made.value(1, 0, (rows, k, 1, 1), 0), made.value(1, 1, (rows, n, 1, 1), 0)
    made.int8_linear(given, made.value(2, 0, (rows, n, 1, 1), 0), weights, scale, bias, x_bytes=(1.0, 3),
                     activation="relu", residual=other, seconds=0.01)  # fmt: skip
    made.prepare(0.0, False)
    out = np.empty((rows, n), np.float32)
    made.run([x, residual], [out])
    whole = np.clip(np.rint(x) + 3, 0, 255).astype(np.int64) - 3
    expected = np.maximum(whole @ weights.astype(np.int64) * 2.0**-10 + bias, 0) + residual
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-4)


def unfit(how):
    """A layer that the kernels do not have."""
    g = Written(x=(BATCH, TOKENS, WIDTH))
    do, hold = g.do, g.hold
    scale, zero = hold(np.float32(STEP)), hold(np.array(117, np.uint8))
    columns = {}
    if how == "scales of columns of x":
        scale, zero = hold(np.full(WIDTH, STEP, np.float32)), hold(np.full(WIDTH, 117, np.uint8))
        columns = {"axis": 2}
    x = do("DequantizeLinear", do("QuantizeLinear", "x", scale, zero, **columns), scale, zero, **columns)
    if how == "another scale back":
        x = do("DequantizeLinear", do("QuantizeLinear", "x", scale, zero), hold(np.float32(0.5)), zero)
    weights = np.random.default_rng(0).integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    steps = np.full(WIDTH, 0.01, np.float32)
    if how == "scales of rows":
        wide = do("DequantizeLinear", hold(weights), hold(steps), hold(np.zeros(WIDTH, np.int8)), axis=0)
    elif how == "far zero points":
        wide = do("DequantizeLinear", hold(weights), hold(steps), hold(np.full(WIDTH, -100, np.int8)), axis=1)
    else:
        wide = do("DequantizeLinear", hold(weights), hold(steps), hold(np.zeros(WIDTH, np.int8)), axis=1)
    y = do("MatMul", x, wide)
    q, v = g.heads(y), g.heads("x")
    return g, do("Add", g.attend(q, g.heads(g.linear("x", WIDTH, WIDTH), turned=True), v), y)


@pytest.mark.parametrize(
    "how", ["scales of columns of x", "another scale back", "scales of rows", "far zero points"]
)
def test_what_the_kernels_lack_goes_to_the_other_engine(how, tmp_path):
    g, y = unfit(how)
    model = g.model(tmp_path, y)
    session, inputs = loaded(model, optimise=False)
    assert "int8" not in names(session)
    expected, found = run_reference(model, inputs), session.run(inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=2e-4 * np.abs(array).max())


def test_numbers_that_make_no_sense_are_refused():
    made = _native.Net(1, 1, "", 4096)
    x, y = made.value(1, 0, (4, 8, 1, 1), 0), made.value(0, 0, (4, 16, 1, 1), 16)
    weights, scale = np.zeros((8, 16), np.int8), np.ones(16, np.float32)
    for x_bytes in ((0.0, 0), (float("nan"), 0), (1.0, 256), (1.0, -1)):
        with pytest.raises(ValueError):
            made.int8_linear(x, y, weights, scale, None, x_bytes=x_bytes)
    with pytest.raises(ValueError):
        made.int8_linear(x, y, weights, scale, None, x_bytes=(1.0, 0), residual=x)
    for held, steps in ((weights[:7], scale), (weights, scale[:8])):
        with pytest.raises(ValueError):
            made.int8_linear(x, y, held, steps, None, x_bytes=(1.0, 0))


# ---------------------------------------------------------------- quantising for it


def test_products_of_two_computed_factors_stay_in_floats(tmp_path):
    g = Written(x=(BATCH, TOKENS, WIDTH))
    model = g.model(tmp_path, block(g, "x"))
    scheme = quantise.scheme_for("native", this_machine())
    planned = quantise.plan(model, scheme)
    assert scheme.weight_bits == 8 and len(planned.layers) == 6 and len(planned.refused) == 2
    assert set(planned.refused.values()) == {"this engine multiplies these computed factors in floats"}
    inputs = make_inputs(model.signature, {"x": (BATCH, TOKENS, WIDTH)}, seed=0)
    samples = quantise.Samples(
        {name: array[None] for name, array in inputs.items()}, "made up", stacked=False
    )
    made = quantise.quantise(planned, observe(planned.model, samples, planned.values), scheme)
    options = Options(precision="int8", optimise=False, shapes={"x": (BATCH, TOKENS, WIDTH)})
    session = engines.load("native").load(made, options)
    assert names(session).count("int8") == 6
    found = session.run(inputs)
    for name, array in run_reference(model, inputs).items():
        assert np.abs(found[name] - array).max() < 0.1 * np.abs(array).max()


def test_the_engine_competes_in_eight_bits(tmp_path):
    model = convolutions(tmp_path)
    arrays = {"x": np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)}
    found = reduce(
        model, quantise.from_arrays(model.signature, arrays), quantise.budget_of("fidelity", 0.5), this_machine(),
        shapes={"x": (1, 3, 8, 8)}, engine_names=["native", "onnxruntime"], precisions=("int8",),
    )  # fmt: skip
    assert {way.engine for way in found.ways} == {"native", "onnxruntime"}
