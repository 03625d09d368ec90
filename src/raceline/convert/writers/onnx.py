"""Write ONNX for a named consumer: opset, IR version, functions kept or inlined, weights inside or beside."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert import placing, runtimes
from raceline.convert.consumers import Consumer
from raceline.convert.consumers import consumer as known_consumer
from raceline.convert.example import model_from_text
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError, ConfigError, UnsupportedOperatorError
from raceline.engines import Tolerance
from raceline.ir import Model, operators, weights, write_onnx

if TYPE_CHECKING:
    import onnx_ir as ir

description = "ONNX (.onnx), as new as its consumer takes it, weights inside or in one file beside it"
extension = ".onnx"
extra = "base"
exact_types = True

_EMBEDDED_BYTES = 1_500_000_000  # a message ends at 2 GiB; above this, weights go beside it
# What the file format learned late: element types, and the version that brought them.
_TYPES_SINCE = {"FLOAT8E4M3FN": 9, "FLOAT8E4M3FNUZ": 9, "FLOAT8E5M2": 9, "FLOAT8E5M2FNUZ": 9, "INT4": 10,
                "UINT4": 10, "FLOAT4E2M1": 11, "FLOAT8E8M0": 12, "INT2": 13, "UINT2": 13}  # fmt: skip


def write(
    model: Model,
    path: Path,
    *,
    consumer: str = "onnxruntime",
    opset: int | None = None,
    ir_version: int | None = None,
    keep_functions: bool = False,
    external_bytes: int | None = None,
) -> list[Path]:
    """Write the model as the consumer takes it.

    Args:
        model: stays as it is.
        path: the model file. External weights go beside it, into a file named after their content.
        consumer: who reads it, a name of `consumers`; it bounds opset and IR version from above.
        opset: this one instead of the model's own, or the consumer's newest where that is older.
        ir_version: this one instead of the oldest that the model needs.
        keep_functions: leave fused operators as model-local functions instead of inlining them.
        external_bytes: initializers of more bytes go into the weights file. None: only of models over 1.5 GB.

    Returns:
        the files written, the model first.

    Raises:
        UnsupportedOperatorError: nodes that the opset or the consumer does not know, all of them.
        ConfigError: options that exclude each other, or beyond the consumer.
    """
    reader = known_consumer(consumer)
    made = _at_opset(model, _opset(model, reader, opset, consumer), keep_functions)
    _refuse_domains(made, reader, consumer)
    made.program.ir_version = _ir_version(made, reader, ir_version, consumer)
    if external_bytes is None:
        external_bytes = None if weights.total_bytes(made.program) <= _EMBEDDED_BYTES else 1024
    with placing.workshop(path) as folder:
        files = write_onnx(
            made, folder / path.name, inline_functions=not keep_functions,
            external_threshold_bytes=external_bytes, ir_version_cap=made.program.ir_version,
        )  # fmt: skip
        if len(files) == 1:
            return [placing.place(files[0], path)]
        return _place_both(files[0], files[1], path)


def run(
    path: Path,
    cases: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    *,
    consumer: str = "onnxruntime",
    **_: Any,
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Run the file in its consumer where that is OpenVINO; in ONNX Runtime for every other."""
    return runtimes.run(path, cases, "openvino" if consumer == "openvino" else "onnxruntime")


def tolerance(**_: Any) -> Tolerance:
    """As of the engines that run it."""
    return Tolerance(1e-5, 1e-4)


def example() -> Model:
    """A linear layer with its activation."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        layer (float[n, 3] x, float[3, 2] w) => (float[n, 2] y) { h = MatMul(x, w) y = Relu(h) }""",
        w=(3, 2),
    )


def _opset(model: Model, reader: Consumer, asked: int | None, name: str) -> int:
    """The opset to write.

    Raises:
        ConfigError: the consumer does not take the one that was asked for.
    """
    if asked is not None:
        if asked > reader.opset:
            raise ConfigError(
                f"opset {asked}", f"{name} takes at most {reader.opset}", "Ask for an older one."
            )
        return asked
    own = model.program.opset_imports.get("", reader.oldest_opset)
    return max(min(own, reader.opset), reader.oldest_opset)


def _at_opset(model: Model, opset: int, keep_functions: bool) -> Model:
    if opset == model.program.opset_imports.get("", opset):
        return model.clone()
    if keep_functions and model.program.functions:
        raise ConfigError(
            f"the functions of {model.name} cannot be kept at opset {opset}",
            "their bodies are of another one, and bodies are converted only once inlined",
            "Leave keep_functions out, or write the model's own opset.",
        )
    return with_opset(model, opset)


def _refuse_domains(model: Model, reader: Consumer, name: str) -> None:
    """Refuse operators that the consumer has never heard of.

    Raises:
        UnsupportedOperatorError: with all of them.
    """
    known = {"", *reader.domains}
    own = {identifier[0] for identifier in model.program.functions}
    strange: dict[str, list[str]] = {}
    for graph in [*model.program.graphs(), *model.program.functions.values()]:
        for node in graph:
            domain = operators.normal_domain(node.domain)
            if domain not in known | own:
                strange.setdefault(f"{domain}.{node.op_type}", []).append(node.name or "unnamed")
    if strange:
        raise UnsupportedOperatorError(f"{model.name} for {name}", strange, "Choose another consumer.")


def _ir_version(model: Model, reader: Consumer, asked: int | None, name: str) -> int:
    """The version of the file format to claim: the oldest that has all that the model uses.

    Raises:
        BadModelError: the consumer's newest is older than that.
        ConfigError: the one that was asked for is.
    """
    needed = _oldest_ir_version(model.program)
    if asked is not None and not needed <= asked <= reader.ir_version:
        raise ConfigError(
            f"IR version {asked}", f"the model needs {needed}, and {name} takes at most {reader.ir_version}"
        )
    if needed > reader.ir_version:
        raise BadModelError(
            f"{model.name} is too new for {name}",
            f"it needs IR version {needed}, and {name} takes at most {reader.ir_version}",
            "Write an older opset, or choose another consumer.",
        )
    return asked or needed


def _oldest_ir_version(program: ir.Model) -> int:
    import onnx

    # The helper knows of ONNX's own domains; those of vendors need nothing newer.
    imports = [
        onnx.helper.make_opsetid(domain, version)
        for domain, version in program.opset_imports.items()
        if operators.normal_domain(domain) in {"", "ai.onnx.ml"}
    ]
    found = int(onnx.helper.find_min_ir_version_for(imports))
    types = {tensor.dtype.name for _, tensor in weights.named_tensors(program)}
    return max(8, found, *(_TYPES_SINCE.get(name, 0) for name in types), 0)


def _place_both(model_file: Path, data: Path, path: Path) -> list[Path]:
    """Give graph and weights their names.

    The weights' name holds a digest of them: an older model beside them keeps its own, so that whatever instant
    the process is killed at, the model that is there finds the weights that belong to it.
    """
    import onnx

    digest = hashlib.sha256()
    with data.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    name = f"{path.name}.{digest.hexdigest()[:12]}.data"
    proto = onnx.load(str(model_file), load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    model_file.write_bytes(proto.SerializeToString(deterministic=True))
    placed = placing.place(data, path.with_name(name))
    placing.place(model_file, path)
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{12}}\.data")
    for stale in path.parent.iterdir():
        if stale.name != name and ours.fullmatch(stale.name):
            stale.unlink()
    return [path, placed]
