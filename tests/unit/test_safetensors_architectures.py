"""Each architecture against what transformers computed (tests/fixtures/safetensors)."""

import io
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from raceline.convert.formats.safetensors import file
from raceline.convert.readers import safetensors
from raceline.core.errors import BadModelError, UnknownNameError
from raceline.ir import Limits, run_reference

FIXTURE = Path(__file__).parent.parent / "fixtures/safetensors/checkpoints.npz.xz"
CASES: dict[str, dict] = {}
for key, array in np.load(io.BytesIO(lzma.decompress(FIXTURE.read_bytes()))).items():
    CASES.setdefault(key.partition("/")[0], {})[key.partition("/")[2]] = array


def written(name, folder, **changes):
    """The checkpoint of a case, with changed settings."""
    case = CASES[name]
    settings = json.loads(case["config"].tobytes()) | changes
    (folder / "config.json").write_text(json.dumps(settings))
    path = folder / "model.safetensors"
    path.write_bytes(case["weights"].tobytes())
    return path


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_transformers_computes(name, tmp_path):
    model = safetensors.read(written(name, tmp_path))
    inputs = {k.partition("/")[2]: a for k, a in CASES[name].items() if k.startswith("in/")}
    outputs = {k.partition("/")[2]: a for k, a in CASES[name].items() if k.startswith("out/")}
    assert {spec.name for spec in model.signature.inputs} == set(inputs)
    assert all(spec.shape[0] == "batch" for spec in model.signature.inputs)
    real = inputs.get("attention_mask", np.ones((2, 1))) > 0  # states of padding mean nothing
    results = run_reference(model, inputs)
    for key, expected in outputs.items():
        found = results.pop(key)
        assert found.shape == expected.shape
        if expected.ndim == 3 and "attention_mask" in inputs:
            found, expected = found[real], expected[real]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert set(results) <= {"pooler_output"}


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"num_hidden_layers": 3}, r"16 missing: encoder\.layer\.2"),
        ("bert", {"num_hidden_layers": 1}, r"16 unexpected: encoder\.layer\.1"),
        ("bert", {"intermediate_size": 25}, r"of another shape.*\[24, 16\], not \[25, 16\]"),
        ("bert", {"hidden_size": -4}, "hidden_size=-4"),
        ("bert", {"hidden_size": "x"}, "hidden_size=x"),
        ("bert", {"hidden_size": 10**6, "vocab_size": 10**6}, "of another shape"),
        ("bert", {"num_hidden_layers": 1000}, "missing"),
        ("bert", {"hidden_act": "strange"}, "strange"),
        ("bert", {"num_attention_heads": 3}, "3 heads"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, "architectures"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 3}, "use_sliding_window"),
        ("vit", {"patch_size": 5}, "of another shape"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(name, changes, message, tmp_path):
    with pytest.raises(BadModelError, match=rf"model\.safetensors.*({message})"):
        safetensors.read(written(name, tmp_path, **changes))


def test_the_architecture_may_be_named(tmp_path):
    path = written("bert", tmp_path, model_type="mystery")
    with pytest.raises(UnknownNameError, match=r"mystery.*bert.*llama.*silero_vad"):
        safetensors.read(path)
    assert safetensors.read(path, architecture="bert").signature.outputs
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadModelError, match=r"architecture=.*bert"):
        safetensors.read(path)


def test_other_float_types_are_widened(tmp_path):
    import ml_dtypes

    path = written("gpt2", tmp_path)
    arrays = file.tensors(path, Limits())
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    path.write_bytes(file.serialised(narrow))
    model = safetensors.read(path)
    assert "bfloat16" in " ".join(model.provenance.steps)
    ids = {k.partition("/")[2]: a for k, a in CASES["gpt2"].items() if k.startswith("in/")}
    path.write_bytes(file.serialised({name: a.astype(np.float32) for name, a in narrow.items()}))
    expected = run_reference(safetensors.read(path), ids)["logits"]
    np.testing.assert_array_equal(run_reference(model, ids)["logits"], expected)


def test_sharded_checkpoints_are_joined(tmp_path):
    path = written("bert", tmp_path)
    whole = safetensors.read(path)
    arrays = file.tensors(path, Limits())
    path.unlink()
    parts = {"a.safetensors": dict(list(arrays.items())[:9]), "b.safetensors": dict(list(arrays.items())[9:])}
    for name, some in parts.items():
        (tmp_path / name).write_bytes(file.serialised(some))
    table = {tensor: name for name, some in parts.items() for tensor in some}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    assert safetensors.recognises(index) and safetensors.recognises(tmp_path)
    inputs = {k.partition("/")[2]: a for k, a in CASES["bert"].items() if k.startswith("in/")}
    expected = run_reference(whole, inputs)
    for name, found in run_reference(safetensors.read(tmp_path), inputs).items():
        np.testing.assert_array_equal(found, expected[name])
    index.write_text(json.dumps({"weight_map": table | {"embeddings.LayerNorm.bias": "../a.safetensors"}}))
    with pytest.raises(BadModelError, match="outside"):
        safetensors.read(index)
    index.write_text(json.dumps({"weight_map": table | {"extra": "a.safetensors"}}))
    with pytest.raises(BadModelError, match="disagree on extra"):
        safetensors.read(index)
