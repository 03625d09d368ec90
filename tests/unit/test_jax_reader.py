"""Functions of JAX against JAX itself, in memory and as a part of a file."""

import functools

import numpy as np
import pytest

from raceline import engines
from raceline.convert import IRTranslator, optimise
from raceline.convert.readers import jax as reader
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, RacelineError
from raceline.ir import Limits, run_reference

FILE = """import jax
import jax.numpy as jnp

def model(x, scale):
    return jax.nn.softmax(x * scale)

def broken(x):
    raise ValueError("no such layer")

print("chatty")
NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


def test_it_recognises_functions_of_files_that_import_jax(tmp_path, file):
    assert reader.recognises(tmp_path / "net.py:model")
    assert not reader.recognises(file)
    assert not reader.recognises(tmp_path / "net.py:absent")
    assert not reader.recognises(tmp_path / "other.py:model")
    (tmp_path / "plain.py").write_text("def model(x): return x  # import jax")
    assert not reader.recognises(tmp_path / "plain.py:model")


def test_what_is_no_function_is_told(tmp_path, file):
    with pytest.raises(BadModelError, match="names no function"):
        reader.read(file)
    with pytest.raises(ConfigError, match="name of a function"):
        reader.read(tmp_path / "net.py:a b")
    with pytest.raises(BadModelError, match=r"absent\.py"):
        reader.read(tmp_path / "absent.py:model")


def test_other_callables_are_not_taken():
    assert not reader.takes(len) and not reader.takes(lambda x: x) and not reader.takes(np.zeros(3))


jax = pytest.importorskip("jax")
pytest.importorskip("jax2onnx")
from jax import lax  # noqa: E402
from jax import numpy as jnp  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of frameworks about themselves
RANDOM = np.random.default_rng(0)


def weight(*shape):
    return jnp.asarray(RANDOM.normal(size=shape).astype(np.float32) / np.sqrt(shape[0]))


W1, W2, KERNEL, Q, K, V = (
    weight(8, 16), weight(16, 4), weight(3, 3, 3, 8), weight(16, 16), weight(16, 16), weight(16, 16),
)  # fmt: skip


def mlp(x):
    return jax.nn.softmax(jax.nn.gelu(x @ W1) @ W2)


def convolution(x):
    y = lax.conv_general_dilated(x, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(y).mean((1, 2))


def attention(x):
    scores = (x @ Q) @ jnp.swapaxes(x @ K, -1, -2) / 4.0
    return jax.nn.softmax(scores, axis=-1) @ (x @ V)


def layer_norm(x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-6)


def scanned(x):
    def step(state, row):
        state = jnp.tanh(state * 0.5 + row)
        return state, state * 2

    last, every = lax.scan(step, jnp.zeros(x.shape[1], x.dtype), x)
    return last, every


def gathered(table, index):
    return jnp.where(index[:, None] > 2, table[index], -1.0).sum(-1)


def branched(x):
    return lax.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, x)


CASES = {
    "mlp": (mlp, [("batch", 8)], None),
    "convolution": (convolution, [(2, 12, 12, 3)], None),
    "attention": (attention, [("batch", 5, 16)], None),
    "layer norm": (layer_norm, [("batch", 16)], None),
    "scan": (scanned, [(6, 4)], None),
    "gather": (gathered, [(7, 3), (5,)], ["float32", "int32"]),
    "branch": (branched, [(4,)], None),
}


def agrees(model, function, shapes, dtypes, seed=0):
    """The model gives what JAX gives, on the reference and optimised on ONNX Runtime."""
    random = np.random.default_rng(seed)
    arrays = []
    for shape, dtype in zip(shapes, dtypes or ["float32"] * len(shapes), strict=True):
        sizes = tuple(3 + seed if isinstance(dim, str) else dim for dim in shape)
        made = random.integers(0, 5, sizes) if dtype.startswith("int") else random.normal(size=sizes)
        arrays.append(made.astype(dtype))
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(function(*map(jnp.asarray, arrays)))]
    feeds = {spec.name: array for spec, array in zip(model.signature.inputs, arrays, strict=True)}
    session = engines.load("onnxruntime").load(optimise(model)[0], engines.Options())
    for found in (run_reference(model, feeds), session.run(feeds)):
        for spec, truth in zip(model.signature.outputs, expected, strict=True):
            assert found[spec.name].shape == truth.shape
            np.testing.assert_allclose(found[spec.name], truth, rtol=0, atol=1e-4 * np.abs(truth).max())


@pytest.mark.parametrize("name", CASES)
def test_functions_in_memory(name):
    function, shapes, dtypes = CASES[name]
    model = IRTranslator().parse(function, shapes=shapes, dtypes=dtypes)
    assert model.provenance.source_format == "jax"
    outputs = [spec.name for spec in model.signature.outputs]
    assert outputs == [f"out_{place}" for place in range(len(outputs))]
    for seed in range(2):
        agrees(model, function, shapes, dtypes, seed)


def test_flax_modules():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one = nnx.Linear(8, 16, rngs=rngs)
            self.norm = nnx.LayerNorm(16, rngs=rngs)
            self.two = nnx.Linear(16, 4, rngs=rngs)

        def __call__(self, x):
            return self.two(nnx.gelu(self.norm(self.one(x))))

    net = Net(nnx.Rngs(0))
    assert reader.takes(net)
    agrees(reader.read_object(net, shapes=[("batch", 8)]), net, [("batch", 8)], None)


def test_equinox_modules():
    equinox = pytest.importorskip("equinox")
    net = equinox.nn.MLP(8, 4, 16, 2, key=jax.random.key(0))
    batched = jax.vmap(net)
    assert reader.takes(net) and reader.takes(batched)
    agrees(reader.read_object(batched, shapes=[(5, 8)]), batched, [(5, 8)], None)


def test_functions_of_files(file):
    model = IRTranslator().parse(f"{file}:model", shapes={"x": ("batch", 4), "scale": [4]})
    assert [spec.name for spec in model.signature.inputs] == ["x", "scale"]
    assert model.provenance.source == "net.py:model"
    agrees(model, lambda x, scale: jax.nn.softmax(x * scale), [("batch", 4), (4,)], None)


@pytest.mark.parametrize(
    "function, shapes, message",
    [
        ("broken", [(2,)], "no such layer"),
        ("NUMBER", [(2,)], "no function 'NUMBER'"),
        ("model", None, "shapes of the arguments are unknown"),
        ("model", {"z": (2,)}, "arguments are x, scale"),
        ("model", [(2, 3), (5,)], "net.py:model cannot be exported"),
    ],
)
def test_what_fails_is_told(tmp_path, file, function, shapes, message):
    with pytest.raises(BadModelError, match=message):
        reader.read(tmp_path / f"net.py:{function}", shapes=shapes)


def test_a_file_that_ends_its_process_is_told(tmp_path):
    path = tmp_path / "rude.py"
    path.write_text("import jax, os\n\ndef model(x): return x\n\nos._exit(3)\n")
    with pytest.raises(BackendLostError, match=r"rude\.py.*status 3"):
        reader.read(tmp_path / "rude.py:model", shapes=[(2,)])


def test_limits_and_partial_functions():
    with pytest.raises(RacelineError, match="limit"):
        reader.read_object(mlp, shapes=[(2, 8)], limits=Limits(max_nodes=1))
    assert reader.takes(functools.partial(mlp)) and reader.takes(jax.jit(mlp))
