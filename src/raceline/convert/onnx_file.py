"""Read an ONNX file that is not to be trusted; the ONNX reader's core, and that of readers that export to ONNX.

A weight file beside the model is never loaded: its tensors are mapped when they are used. Nothing is
converted on the way; the opset stays as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from raceline.convert.files import content
from raceline.core.units import counted
from raceline.ir import load, operators, scales, structure, weights
from raceline.ir.axes import signature_of
from raceline.ir.check import check
from raceline.ir.limits import Limits
from raceline.ir.model import Model
from raceline.ir.serialise import IR_VERSION_CAP, OPSET_CAP
from raceline.ir.signature import Provenance, Signature
from raceline.ir.values import infer_values

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_logger = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20


def read_onnx(path: Path, *, limits: Limits | None = None) -> Model:
    """Read and check a model.

    Args:
        path: the model file.
        limits: what the file may ask of this machine.

    Returns:
        the model; its provenance names everything unusual.

    Raises:
        BadModelError: the file is no whole ONNX model, hostile, or beyond the limits.
        UnsupportedOperatorError: operators that no standard and no function defines, all of them.
    """
    limits = limits or Limits()
    data = content(path, limits)
    proto = load.parse(data, path.name, limits)
    steps = _unusual(proto) + _once_imported(proto)
    files = load.ExternalFiles(path.parent)
    load.check_proto(proto, path.name, limits, files.size_bytes)
    program = load.build(proto, path.name, path.parent.resolve())
    steps += _settle_inputs(program) + _settle_outputs(program) + _settle_names(program)
    provenance = Provenance(
        source=path.name,
        source_format="onnx",
        source_sha256=_sha256(data, files),
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
    )
    del proto, data  # the program owns its weights now
    model = Model(program, Signature((), ()), provenance)
    model.signature = signature_of(program, infer_values(program))
    check(model, allow_nan=limits.allow_nan)
    scales.refuse(model)
    for step in steps + _infinities(program):
        model = model.with_step(step)
    return model


def _sha256(data: bytes, files: load.ExternalFiles) -> str:
    """Digest of the model file, and of its external files in order of name."""
    sha = hashlib.sha256(data)
    for location in sorted(files.used):
        with files.used[location].open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                sha.update(block)
    return sha.hexdigest()


def _unusual(proto: onnx.ModelProto) -> list[str]:
    """What a reader of the provenance should know; nodes are put in order on the way."""
    steps = []
    if structure.sort_nodes(proto.graph):
        steps.append("Put nodes in the order of their dependencies: the file had them otherwise.")
    if proto.ir_version > IR_VERSION_CAP:
        written = f"it is written as {IR_VERSION_CAP} for them"
        steps.append(f"IR version {proto.ir_version} is newer than engines take; {written}.")
    opset = structure.opsets(proto).get("", 0)
    if OPSET_CAP < opset <= operators.newest_opset():
        steps.append(f"Opset {opset} is newer than {OPSET_CAP}, the last that all engines promise to take.")
    if proto.training_info:
        steps.append("Left out the training graphs.")
    return steps + _zero_axes(proto)


def _once_imported(proto: onnx.ModelProto) -> list[str]:
    """Drop opset imports that say the same twice, as skl2onnx writes them."""
    seen = {(operators.normal_domain(one.domain), one.version) for one in proto.opset_import}
    if len(seen) == len(proto.opset_import):
        return []
    del proto.opset_import[:]
    for domain, version in sorted(seen):
        proto.opset_import.add(domain=domain, version=version)
    return ["Dropped opset imports that were there twice."]


def _zero_axes(proto: onnx.ModelProto) -> list[str]:
    """Inputs with an axis of size 0: some exporters mean "unknown" by it, so it is open, with a warning."""
    weights_too = {tensor.name for tensor in proto.graph.initializer}
    steps = []
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights_too and any(d.HasField("dim_value") and d.dim_value == 0 for d in dims):
            steps.append(
                f"Input {value.name!r} declares an axis of size 0; it is taken as an axis of open size."
            )
    for step in steps:
        _logger.warning("%s: %s", proto.graph.name, step)
    return steps


def _settle_inputs(program: ir.Model) -> list[str]:
    """Make every input that has a default value a constant: engines fold those, callers never set them."""
    graph = program.graph
    defaults = [value for value in graph.inputs if value.name in graph.initializers]
    for value in defaults:
        graph.inputs.remove(value)
    if not defaults or program.ir_version < 4:  # until then every weight had to be an input too
        return []
    names = ", ".join(str(value.name) for value in defaults[:5])
    return [f"Fixed {counted(len(defaults), 'input')} at the default value ({names})."]


def _settle_outputs(program: ir.Model) -> list[str]:
    """Let a node compute every output that is a weight, as engines expect; the weight takes another name."""
    import onnx_ir as ir

    graph = program.graph
    taken = {value.name for node in graph.all_nodes() for value in node.outputs} | set(graph.initializers)
    steps = []
    for place, weight in enumerate(graph.outputs):
        name = str(weight.name)
        if name not in graph.initializers:
            continue
        del graph.initializers[name]
        numbers = itertools.count(2)
        weight.name = f"{name}_weight"
        while weight.name in taken:
            weight.name = f"{name}_weight_{next(numbers)}"
        taken.add(weight.name)
        graph.register_initializer(weight)
        output = ir.Value(name=name, type=weight.type, shape=weight.shape)
        graph.append(ir.node("Identity", [weight], outputs=[output], name=f"{name}_copy"))
        graph.outputs[place] = output
        steps.append(f"Output {name!r} is a weight; a node copies it.")
    return steps


def _settle_names(program: ir.Model) -> list[str]:
    """Give nodes that share a name one each: some engines refuse them."""
    names = Counter(node.name for node in program.graph.all_nodes() if node.name)
    shared = {name for name, count in names.items() if count > 1}
    for node in program.graph.all_nodes():
        if node.name in shared:
            hint, numbers = node.name, itertools.count(1)
            while names[node.name]:
                node.name = f"{hint}_{next(numbers)}"
            names[node.name] = 1
    return [f"Renamed the nodes that shared a name ({', '.join(sorted(shared)[:5])})."] if shared else []


def _infinities(program: ir.Model) -> list[str]:
    """Record weights that are not finite; those with NaN are here only if the limits allow them.

    A single infinity is how exporters start a maximum or mask a score; it is no news.
    """
    steps = []
    for name, tensor in weights.numbers(program):
        num_nan, num_infinite = weights.non_finite(tensor)
        if tensor.size > 1 and (num_nan or num_infinite):
            steps.append(f"Weight {name!r} holds {num_nan} NaN and {num_infinite} infinite elements.")
    for step in steps:
        _logger.warning("%s: %s", program.graph.name, step)
    return steps
