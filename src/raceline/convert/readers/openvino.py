"""Read OpenVINO IR: the .xml with its .bin beside it, versions 10 and 11, without OpenVINO."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.openvino.read import read_ir
from raceline.ir.limits import Limits
from raceline.ir.model import Model

description = "OpenVINO IR (.xml, with its .bin beside it), versions 10 and 11"
extensions = (".xml",)
extra = ""

_HEAD_BYTES = 4096
_NET = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*<net\s[^>]*\bversion=", re.DOTALL
)


def recognises(path: Path) -> bool:
    """Whether the file begins as an IR does: XML whose first element is a versioned `net`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return _NET.match(file.read(_HEAD_BYTES)) is not None
    except (OSError, ValueError):
        return False


def read(path: Path, *, limits: Limits | None = None) -> Model:
    """Read and check a model; variables of stateful models become inputs and outputs.

    Args:
        path: the .xml; its .bin is found beside it.
        limits: what the files may ask of this machine.

    Raises:
        BadModelError: a file is broken, hostile or beyond the limits.
        UnsupportedOperatorError: operations that cannot be translated, all of them.
    """
    return read_ir(path, limits or Limits())


def operators() -> list[str]:
    """Operations that have a rule."""
    from raceline.convert.formats.openvino.table import table

    return sorted(table())


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = Relu(x w), two items or more at once."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
    (folder / "example.bin").write_bytes(weight.tobytes())
    path = folder / "example.xml"
    path.write_text(_EXAMPLE, encoding="utf-8")
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
    return {"y": np.maximum(inputs["x"] @ weight, 0)}


def _layer(number: int, kind: str, data: str, inputs: int, names: str, *dims: int) -> str:
    """A layer's markup; ports are numbered as the format does, inputs first."""
    reads = "".join(f'<port id="{port}" precision="FP32"/>' for port in range(inputs))
    sizes = "".join(f"<dim>{dim}</dim>" for dim in dims)
    writes = f'<port id="{inputs}" precision="FP32" names="{names}">{sizes}</port>'
    sides = (f"<input>{reads}</input>" if inputs else "") + (f"<output>{writes}</output>" if dims else "")
    return f'<layer id="{number}" name="{kind}{number}" type="{kind}" version="opset1">{data}{sides}</layer>'


_EXAMPLE = "\n".join(
    [
        '<?xml version="1.0"?>',
        '<net name="example" version="11"><layers>',
        _layer(0, "Parameter", '<data shape="?,3" element_type="f32"/>', 0, "x", -1, 3),
        _layer(1, "Const", '<data element_type="f32" shape="3,2" offset="0" size="24"/>', 0, "w", 3, 2),
        _layer(2, "MatMul", '<data transpose_a="false" transpose_b="false"/>', 2, "h", -1, 2),
        _layer(3, "ReLU", "", 1, "y", -1, 2),
        _layer(4, "Result", "", 1, ""),
        "</layers><edges>",
        *(
            f'<edge from-layer="{a}" from-port="{p}" to-layer="{c}" to-port="{d}"/>'
            for a, p, c, d in ((0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0), (3, 1, 4, 0))
        ),
        "</edges></net>",
    ]
)
