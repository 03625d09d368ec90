"""Each operator of torch against torch itself: traced, saved, read, and run by the reference."""

import json
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torchscript_cases import CASES  # noqa: E402

from raceline.convert.exporters import torchscript as exporter  # noqa: E402
from raceline.convert.formats.torchscript import program  # noqa: E402
from raceline.convert.formats.torchscript.translate import Given, translate  # noqa: E402
from raceline.ir import Limits, Provenance, run_reference  # noqa: E402


def read(path, folder, shapes=None, values=None, dtypes=None, method="forward"):
    """What the reader does, without a process for each case."""
    request = {"path": str(path), "method": method, "folder": str(folder)}
    answer = exporter.export(request)
    assert "torch" in answer, answer
    given = Given(shapes or {}, dtypes or {}, values or {})
    return translate(
        program.load(folder, path.name),
        given,
        Limits(),
        Provenance(source=path.name, source_format="torchscript"),
    )


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result.detach().numpy()]
    if isinstance(result, dict):
        result = list(result.values())
    return [array for part in result if part is not None for array in flat(part)]


def compare(model, module, inputs, names=None):
    names = names or [spec.name for spec in model.signature.inputs]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    with torch.no_grad():
        expected = flat(module(*(tensor.clone() for tensor in inputs)))
    found = list(run_reference(model, feeds).values())
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        scale = max(1.0, float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0))) if theirs.size else 1.0
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def traced(module, inputs, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, inputs, check_trace=False).save(str(path))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_computes_what_torch_does(case, tmp_path):
    path = tmp_path / "case.pt"
    traced(case.module, case.inputs, path)
    names = [name for name, _ in json_inputs(path, tmp_path)]
    types = {name: str(t.dtype).removeprefix("torch.") for name, t in zip(names, case.inputs, strict=True)}
    fixed = {name: tuple(t.shape) for name, t in zip(names, case.inputs, strict=True)}
    saved = torch.jit.load(str(path))
    compare(read(path, tmp_path, fixed, dtypes=types), saved, case.inputs, names)
    if not case.alike:
        return
    model = read(path, tmp_path, {name: ("n", *shape[1:]) for name, shape in fixed.items()}, dtypes=types)
    # another batch than was traced, made of the same numbers
    compare(model, saved, [torch.cat([t, t[:1]]) for t in case.inputs], names)


def json_inputs(path, folder):
    exporter.export({"path": str(path), "method": "forward", "folder": str(folder)})
    ports = json.loads((folder / "graph.json").read_text())["block"]["inputs"][1:]
    return [
        (name.rpartition(".")[0] if name.rpartition(".")[2].isdigit() else name, kind) for name, kind in ports
    ]
