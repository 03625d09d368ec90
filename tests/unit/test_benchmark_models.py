"""The models that tests and benchmarks measure on are what their list says."""

import dataclasses

import numpy as np
import pytest
from benchmarks import _models as models

from raceline import zoo


def a_case(name):
    """A carried model, or a skip that names the package."""
    if name in models.missing():
        pytest.skip(f"needs {name}: {models.INSTALL}")
    return next(case for case in models.real_models() if case.name == name)


@pytest.mark.parametrize("name", [carried.name for carried in models.CARRIED])
def test_a_carried_model_takes_and_gives_what_is_listed(name):
    import onnxruntime

    case = a_case(name)
    session = onnxruntime.InferenceSession(str(case.path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [spec.name for spec in case.inputs]
    alone = session.run(None, case.tensors(1))
    assert all(np.isfinite(out).all() for out in alone)
    if case.batchable:
        several = session.run(None, case.tensors(3))
        assert [out.shape for out in several] == [(3, *out.shape[1:]) for out in alone]


def test_silero_takes_a_batch_that_cannot_be_stacked():
    case = a_case("silero_vad")
    assert case.sizes_freely and not case.batchable
    assert case.shapes(8) == {"input": (8, 576), "state": (2, 8, 128), "sr": ()}
    assert case.tensors(8)["sr"] == 16000


def test_a_model_of_fixed_shape_refuses_another_batch():
    case = a_case("silero_vad_static")
    assert case.shapes() == {"input": (1, 576), "state": (2, 1, 128)}
    with pytest.raises(ValueError, match="only at batch 1, not 8"):
        case.shapes(8)


def test_an_absent_package_is_listed_with_its_command(monkeypatch):
    absent = dataclasses.replace(models.CARRIED[0], name="gone", package="surely-not-installed")
    astray = dataclasses.replace(models.CARRIED[0], name="astray", package="pytest", file="none.onnx")
    monkeypatch.setattr(models, "CARRIED", (absent, astray))
    assert models.real_models() == []
    assert models.missing() == {"gone": models.INSTALL, "astray": models.INSTALL}


def test_tensors_keep_to_their_range_and_seed():
    spec = models.TensorSpec("ids", "int64", ("batch", 4096), models.Values(3, 5))
    case = models.Case("x", models.Path("x.onnx"), (spec,), "here")
    first, again, other = (case.tensors(2, seed)["ids"] for seed in (0, 0, 1))
    assert first.dtype == np.int64 and set(first.flat) == {3, 4, 5}
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_export_is_kept_until_its_code_changes(monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    made = []

    def export(name, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        made.append(path)

    monkeypatch.setattr(models, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(zoo, "export_onnx", export)
    first = models.zoo_models()
    assert [case.path for case in first] == made and len(made) == 7
    assert {case.name for case in first} == {e.name for e in zoo.list() if not e.name.endswith("_small")}
    assert all(case.batchable for case in first)
    text = next(case for case in first if case.name == "minilm_l6")
    assert text.tensors()["attention_mask"].all() and text.tensors()["input_ids"].std() > 0
    assert models.zoo_models() == first and len(made) == len(first)
    monkeypatch.setattr(models, "_key", lambda entry: "0" * 16)
    second = models.zoo_models()
    assert sorted((tmp_path / "zoo").iterdir()) == sorted(case.path for case in second)
