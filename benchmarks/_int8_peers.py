"""What others make of a model in 8 bits: ONNX Runtime's own quantiser and NNCF, on the same calibration data.

Both are given their own advice: preprocessing, per-channel weights, seven bits where products would saturate,
and whichever of two ways of calibration comes out more accurate.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_CHILD_LIMIT_S = 900.0
_PER_CHANNEL_OPSET = 13


@dataclass(frozen=True)
class Made:
    """Files that one peer made of a model.

    Attributes:
        files: way of calibration -> file.
        why: what it refused, by way.
    """

    files: dict[str, Path]
    why: dict[str, str]


def onnxruntime(path: Path, data: Sequence[dict[str, Array]], folder: Path, *, exact: bool) -> Made:
    """`quantize_static`, QDQ, by MinMax and by percentiles.

    Args:
        path: the ONNX file as it is.
        data: one batch of inputs each.
        folder: where files go.
        exact: whether the CPU adds 8-bit products without saturation.
    """
    return _made("onnxruntime", path, data, folder, ("minmax", "percentile"), exact)


def nncf(path: Path, data: Sequence[dict[str, Array]], folder: Path) -> Made:
    """`nncf.quantize` with both of its presets, bias correction included."""
    return _made("nncf", path, data, folder, ("performance", "mixed"), True)


def _made(
    tool: str, path: Path, data: Sequence[dict[str, Array]], folder: Path, ways: Sequence[str], exact: bool
) -> Made:
    """Run the tool in a child process: it patches what it imports, and may crash."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = folder / "calibration.npz"
    names = list(data[0])
    np.savez(inputs, *[batch[name] for batch in data for name in names])
    files, why = {}, {}
    for way in ways:
        target = folder / f"{tool}-{way}.{'xml' if tool == 'nncf' else 'onnx'}"
        request = {"tool": tool, "path": str(path), "inputs": str(inputs), "names": names, "way": way,
                   "target": str(target), "exact": exact}  # fmt: skip
        command = [sys.executable, "-m", "benchmarks._int8_peers", json.dumps(request)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_LIMIT_S, check=False)
        if ended.returncode:
            why[way] = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1][:300]
        else:
            files[way] = target
    return Made(files, why)


def _batches(request: dict[str, Any]) -> list[dict[str, Array]]:
    names = request["names"]
    with np.load(request["inputs"], allow_pickle=False) as arrays:
        loaded = [arrays[member] for member in arrays.files]
    rows = [loaded[start : start + len(names)] for start in range(0, len(loaded), len(names))]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _by_onnxruntime(request: dict[str, Any]) -> None:
    import onnx
    import onnx.version_converter
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(_batches(request))

        def get_next(self) -> dict[str, Array] | None:
            return next(self.rows, None)

    plain = Path(request["target"]).with_suffix(".plain.onnx")
    quant_pre_process(request["path"], plain, skip_symbolic_shape=True)
    model = onnx.load(plain)
    if model.opset_import[0].version < _PER_CHANNEL_OPSET:  # as its documentation asks for
        onnx.save(onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET), plain)
    methods = {"minmax": "MinMax", "percentile": "Percentile"}
    quantization.quantize_static(
        plain,
        request["target"],
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=not request["exact"],
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod[methods[request["way"]]],
    )


def _by_nncf(request: dict[str, Any]) -> None:
    import nncf
    import openvino

    rows = _batches(request)
    network = openvino.Core().read_model(request["path"])
    kinds = [op.get_type_name() for op in network.get_ops()]
    transformer = kinds.count("MatMul") > kinds.count("Convolution")
    presets = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
    small = nncf.quantize(
        network,
        nncf.Dataset(rows),
        preset=presets[request["way"]],
        subset_size=len(rows),
        fast_bias_correction=True,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    openvino.save_model(small, request["target"], compress_to_fp16=False)


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    {"onnxruntime": _by_onnxruntime, "nncf": _by_nncf}[order["tool"]](order)
