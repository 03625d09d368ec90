"""A frozen GraphDef: what goes in and out follows from the graph itself."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raceline.convert.files import content, sha256
from raceline.convert.formats.tensorflow.attributes import attributes_of
from raceline.convert.formats.tensorflow.context import Context
from raceline.convert.formats.tensorflow.graph import WRITES, Library
from raceline.convert.formats.tensorflow.messages import parse
from raceline.convert.formats.tensorflow.model import Port, told, translated
from raceline.convert.graph import Array
from raceline.convert.lower import SourceNode, UnsupportedError
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model, Provenance, wire

Given = Mapping[str, Sequence[int] | None] | Sequence[str] | None
"""Names of inputs, perhaps with their shapes."""

_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})
# Nodes that nobody reads and that are no results either.
_NO_RESULTS = WRITES | frozenset(
    """NoOp Const Placeholder PlaceholderV2 PlaceholderWithDefault Assert Print PrintV2 SaveV2 Save RestoreV2
    ScalarSummary HistogramSummary ImageSummary MergeSummary VarHandleOp VariableV2 InitializeTable
    InitializeTableV2 InitializeTableFromTextFileV2 LookupTableImportV2 VarIsInitializedOp
    IsVariableInitialized""".split()
)
_NODE, _NAME, _OP = 1, 1, 2  # fields of GraphDef and NodeDef
_NAMES = re.compile(rb"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_OPS = re.compile(rb"_?[A-Za-z][A-Za-z0-9_>]*")


def looks_like_graph_def(path: Path) -> bool:
    """Whether a file's first field is a node with a name and an operator."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _starts_with_node(data)
    except (OSError, ValueError):
        return False


def _starts_with_node(data: mmap.mmap) -> bool:
    first = next(wire.fields(data), None)
    if first is None or (first.number, first.kind) != (_NODE, 2) or first.stop > len(data):
        return False
    found: dict[int, bytes] = {}
    for _, field in zip(range(2), wire.fields(data, first.start, first.stop), strict=False):
        if field.kind != 2 or field.stop > first.stop or field.stop - field.start > 4096:
            return False
        found[field.number] = bytes(data[field.start : field.stop])
    name, op = found.get(_NAME, b""), found.get(_OP, b"")
    return bool(_NAMES.fullmatch(name) and _OPS.fullmatch(op))


def read_graph_def(
    path: Path,
    limits: Limits,
    inputs: Given,
    outputs: Sequence[str] | None,
) -> Model:
    """Read and check a model; see the reader."""
    with told(path.name):
        return _read(path, limits, inputs, outputs)


def _read(path: Path, limits: Limits, inputs: Given, outputs: Sequence[str] | None) -> Model:
    source = path.name
    graph = parse("GraphDef", content(path, limits), source, limits)
    if not graph.node:
        raise BadModelError(f"{source} is no GraphDef", "it holds no nodes", "Export it again.")
    library = Library(graph, source, limits)
    results = _outputs(library, outputs)
    given = _inputs(library, inputs, results, limits)
    provenance = Provenance(
        source=source, source_format="graph_def", source_sha256=sha256([path]), producer="TensorFlow"
    )
    return translated("main", library, given, results, Context(library, _no_variable), provenance, limits)


def _no_variable(node: SourceNode) -> Array:
    raise UnsupportedError("whose value is in a checkpoint; freeze the graph, or read the SavedModel")


def _outputs(library: Library, wanted: Sequence[str] | None) -> list[Port]:
    """What the caller names; else what no node reads."""
    if wanted is None:
        read = {ref.lstrip("^").split(":")[0] for node in library.main.values() for ref in node.input}
        wanted = [
            name for name, node in library.main.items() if name not in read and node.op not in _NO_RESULTS
        ]
        if not wanted:
            raise BadModelError(f"{library.source} has no outputs", "each node is read by another")
    return [Port(tensor.removesuffix(":0"), tensor) for tensor in map(str, wanted)]


def _inputs(
    library: Library,
    wanted: Given,
    outputs: Sequence[Port],
    limits: Limits,
) -> list[Port]:
    """What the caller names; else the placeholders that the outputs need."""
    if wanted is None:
        needed = library.reached([port.tensor.split(":")[0] for port in outputs])
        wanted = [name for name in library.main if name in needed and library.main[name].op in _PLACEHOLDERS]
    shapes = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    found = []
    for tensor, shape in shapes.items():
        node = library.main.get(tensor.split(":")[0])
        if node is None:
            raise BadModelError(f"{library.source} has no tensor {tensor!r}")
        attributes = attributes_of(node.attr, {}, limits)
        code = next(
            (attributes[key].code for key in ("dtype", "T", "DstT") if hasattr(attributes.get(key), "code")),
            1,
        )
        declared: Any = shape if shape is not None else attributes.get("shape")
        found.append(Port(tensor.removesuffix(":0"), tensor, code, declared))
    return found
