"""Who will read an ONNX file, and how new it may be for that reader."""

from __future__ import annotations

from dataclasses import dataclass

from raceline.core.errors import UnknownNameError
from raceline.ir import IR_VERSION_CAP, OPSET_CAP


@dataclass(frozen=True)
class Consumer:
    """A program that reads ONNX.

    Attributes:
        opset: newest opset of ONNX's own domain that it takes.
        ir_version: newest version of the file format.
        domains: further operator domains that it knows, the model's own functions aside.
        oldest_opset: older models are raised to it.
    """

    opset: int
    ir_version: int
    domains: tuple[str, ...] = ()
    oldest_opset: int = 7


_ML, _ORT = "ai.onnx.ml", "com.microsoft"


def _onnxruntime(opset: int, ir_version: int) -> Consumer:
    return Consumer(opset, ir_version, (_ML, _ORT))


# ONNX Runtime: its compatibility page. TensorRT: its opset guide, and the operators page of onnx-tensorrt for each
# release. Where a source leaves it open, the smaller number stands: an older file is read by newer readers too.
_CONSUMERS = {
    "onnxruntime": _onnxruntime(OPSET_CAP, IR_VERSION_CAP),
    "onnxruntime-1.12": _onnxruntime(17, 8),
    "onnxruntime-1.13": _onnxruntime(17, 8),
    "onnxruntime-1.14": _onnxruntime(18, 8),
    "onnxruntime-1.15": _onnxruntime(18, 8),
    "onnxruntime-1.16": _onnxruntime(19, 9),
    "onnxruntime-1.17": _onnxruntime(20, 9),
    "onnxruntime-1.18": _onnxruntime(21, 10),
    "onnxruntime-1.19": _onnxruntime(21, 10),
    "onnxruntime-1.20": _onnxruntime(21, 10),
    "onnxruntime-1.21": _onnxruntime(22, 10),
    "onnxruntime-1.22": _onnxruntime(22, 10),
    "onnxruntime-1.23": _onnxruntime(23, 11),
    "openvino": Consumer(OPSET_CAP, IR_VERSION_CAP, (_ORT,)),
    "mnn": Consumer(OPSET_CAP, IR_VERSION_CAP),
    "tensorrt-8": Consumer(13, 8, oldest_opset=9),
    "tensorrt-10": Consumer(20, 9, oldest_opset=9),
    "tensorrt-11": Consumer(25, 10, oldest_opset=9),
    "qnn": Consumer(21, 10),
}


def names() -> list[str]:
    """All consumers that are known."""
    return sorted(_CONSUMERS)


def consumer(name: str) -> Consumer:
    """The consumer of that name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    if name not in _CONSUMERS:
        raise UnknownNameError("consumer of ONNX", name, names())
    return _CONSUMERS[name]
