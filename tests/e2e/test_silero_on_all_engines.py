"""Silero's ONNX files branch by sample rate and by size; once both are given, every engine takes them."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from raceline import engines
from raceline.convert import IRTranslator, optimise, settle
from raceline.core.errors import ShapeError
from raceline.ir import Candidate

SAMPLES = {16000: 576, 8000: 288}
FILES = ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_half.onnx", "silero_vad_op18_ifless.onnx"]
BOTH = ["silero_vad.onnx", "silero_vad_op18_ifless.onnx"]  # the others are for 16 kHz alone


def path_of(name):
    spec = find_spec("silero_vad")
    if spec is None:
        pytest.skip("needs silero-vad: pip install --no-deps -r benchmarks/real-models.txt")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def as_it_came(path, feeds):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


@pytest.mark.parametrize("name, rate", [*((name, 16000) for name in FILES), *((name, 8000) for name in BOTH)])
def test_branches_are_settled_and_all_engines_agree_with_the_file(name, rate):
    path = path_of(name)
    model = IRTranslator().parse(path)
    takes_rate = "sr" in [spec.name for spec in model.signature.inputs]
    shapes = {"input": (1, SAMPLES[rate]), "state": (2, 1, 128)}
    model, sizes = settle(model, shapes=shapes, values={"sr": rate} if takes_rate else None)
    result, _ = optimise(model)
    assert not {"If", "Loop"} & {node.op_type for node in result.program.graph.all_nodes()}
    rng = np.random.default_rng(rate)
    feeds = {n: rng.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()}
    expected = as_it_came(path, feeds | ({"sr": np.array(rate)} if takes_rate else {}))
    for engine in ("reference", "onnxruntime", "openvino", "mnn"):
        session = engines.prepare(result, Candidate(engine), model.signature.concrete(sizes))
        found = session.run(feeds)
        session.close()
        for output, value in expected.items():
            np.testing.assert_allclose(found[output], value, atol=2e-3, err_msg=engine)


def test_without_sizes_it_says_which_to_give():
    path = path_of("silero_vad.onnx")
    with pytest.raises(ShapeError, match="--shape input="):
        settle(IRTranslator().parse(path), values={"sr": 16000})
