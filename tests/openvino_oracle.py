"""Models made with OpenVINO's own Python API, run by OpenVINO and by what the reader makes of their files."""

from __future__ import annotations

import numpy as np
import openvino as ov

from raceline import engines
from raceline.convert.readers import openvino as reader
from raceline.ir import Limits, run_reference

CORE = ov.Core()
# Its 8-bit products saturate without VNNI: what is rounded is multiplied in floats.
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "LP_TRANSFORMS_MODE": "NO",
}  # fmt: skip


def saved(folder, results, parameters, *, fp16=False):
    """The path of the model with these results and parameters."""
    flat = [
        output for node in results for output in (node.outputs() if isinstance(node, ov.Node) else [node])
    ]
    model = ov.Model(flat, parameters, "m")
    path = folder / "m.xml"
    if fp16:
        ov.save_model(model, path, compress_to_fp16=True)
    else:
        ov.serialize(model, path)
    return path


def answers(path, feeds):
    """What OpenVINO computes, in the order of the outputs."""
    compiled = CORE.compile_model(path, "CPU", EXACT)
    found = compiled(list(feeds))
    return [np.array(found[output]) for output in compiled.outputs]


def by_onnxruntime(model, feeds):
    """What ONNX Runtime computes, where the standard's own reference is known to be wrong."""
    session = engines.load("onnxruntime").load(model, engines.Options())
    return session.run(feeds).values()


def parameters_for(arrays, opened=False):
    """A Parameter for each array; with open sizes if asked."""
    from openvino import opset13 as ops

    return [
        ops.parameter([-1] * a.ndim if opened else list(a.shape), a.dtype, name=f"in{i}")
        for i, a in enumerate(arrays)
    ]


def compare(folder, build, *arrays, opened=False, tolerance=1e-5, fp16=False, ort=False):
    """Build, save, read, run both ways and compare all outputs; gives the model that was read."""
    parameters = parameters_for(arrays, opened)
    made = build(*parameters)
    path = saved(folder, made if isinstance(made, list | tuple) else [made], parameters, fp16=fp16)
    model = reader.read(path, limits=Limits())
    expected = answers(path, arrays)
    feeds = dict(zip((spec.name for spec in model.signature.inputs), arrays, strict=True))
    found = list(by_onnxruntime(model, feeds) if ort else run_reference(model, feeds).values())
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape, (
            got.dtype,
            got.shape,
            want.dtype,
            want.shape,
        )
        if want.dtype.kind == "f":
            finite = np.abs(want[np.isfinite(want)])
            scale = float(finite.max()) if finite.size else 1.0
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(scale, 1e-6))
        else:
            np.testing.assert_array_equal(got, want)
    return model
