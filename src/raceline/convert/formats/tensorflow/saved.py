"""A SavedModel's folder: which graph, which signature, which checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raceline.convert.files import content, inside, sha256
from raceline.convert.formats.tensorflow.checkpoint import Checkpoint
from raceline.convert.formats.tensorflow.context import Context
from raceline.convert.formats.tensorflow.graph import Library
from raceline.convert.formats.tensorflow.messages import parse
from raceline.convert.formats.tensorflow.model import ports, told, translated
from raceline.convert.formats.tensorflow.variables import Variables
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model, Provenance, wire

_FILE = "saved_model.pb"
_INIT = "__saved_model_init_op"
_HEAD_BYTES = 64


def looks_like_saved_model(path: Path) -> bool:
    """Whether a folder holds a file that begins as a SavedModel does: a version, then a graph."""
    file = path if path.name == _FILE else path / _FILE
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        first = [field for _, field in zip(range(2), wire.fields(head), strict=False)]
    except (OSError, ValueError):
        return False
    kinds = [(field.number, field.kind) for field in first]
    return kinds[:2] == [(1, 0), (2, 2)] or kinds[:1] == [(2, 2)]


def read_saved_model(path: Path, limits: Limits, signature: str, tags: Sequence[str]) -> Model:
    """Read and check a model; see the reader."""
    with told(path.name):
        return _read(path, limits, signature, tags)


def _read(path: Path, limits: Limits, signature: str, tags: Sequence[str]) -> Model:
    folder = path.parent if path.name == _FILE else path
    if not folder.is_dir():
        raise BadModelError(
            f"{path.name} is no SavedModel", "it is no folder", "Name the folder that holds saved_model.pb."
        )
    source = path.name
    file = inside(folder, _FILE)
    saved = parse("SavedModel", content(file, limits), source, limits)
    meta = _meta_graph(saved, source, tags)
    name, chosen = _signature(meta, source, signature)
    library = Library(meta.graph_def, source, limits)
    checkpoint = None
    if (folder / "variables").is_dir() and any((folder / "variables").glob("*.index")):
        checkpoint = Checkpoint(folder / "variables", "variables", limits)
    variables = Variables(library, meta.saver_def.restore_op_name, checkpoint, limits)
    inputs, outputs = ports(chosen.inputs, source), ports(chosen.outputs, source)
    if not outputs:
        raise BadModelError(f"{source} is broken", f"its signature {name!r} has no outputs")
    version = meta.meta_info_def.tensorflow_version
    provenance = Provenance(
        source=source,
        source_format="saved_model",
        source_sha256=sha256([file, *(_files(folder, checkpoint))]),
        producer=f"TensorFlow {version}" if version else "TensorFlow",
    )
    return translated(name, library, inputs, outputs, Context(library, variables.load), provenance, limits)


def _files(folder: Path, checkpoint: Checkpoint | None) -> list[Path]:
    """The checkpoint's files."""
    if checkpoint is None:
        return []
    names = [p.name for p in (folder / "variables").glob("variables.*") if p.is_file()]
    return [inside(folder / "variables", name) for name in sorted(names)]


def _meta_graph(saved: Any, source: str, tags: Sequence[str]) -> Any:
    """The graph with some tags; the only one there is, whatever its tags."""
    graphs = list(saved.meta_graphs)
    if not graphs:
        raise BadModelError(f"{source} is no SavedModel", "it holds no graph", "Export it again.")
    fitting = [graph for graph in graphs if set(graph.meta_info_def.tags) == set(tags)]
    fitting = fitting or [graph for graph in graphs if set(tags) <= set(graph.meta_info_def.tags)]
    if fitting:
        return fitting[0]
    if len(graphs) == 1 and tuple(tags) == ("serve",):
        return graphs[0]
    there = "; ".join(", ".join(graph.meta_info_def.tags) or "none" for graph in graphs)
    raise BadModelError(
        f"{source} has no graph tagged {', '.join(tags)}", f"there are: {there[:500]}", "Give other tags."
    )


def _signature(meta: Any, source: str, wanted: str) -> tuple[str, Any]:
    """A signature by name; by default the serving one, or the only one."""
    known = {key: item for key, item in meta.signature_def.items() if key != _INIT}
    if wanted:
        names = [wanted]
    else:
        names = ["serving_default", "default", *(sorted(known) if len(known) == 1 else [])]
    for name in names:
        if name in known:
            return name, known[name]
    if not known:
        raise BadModelError(
            f"{source} has no signature",
            "nothing says what goes in and out",
            "Save it with tf.saved_model.save(model, path, signatures=model.function.get_concrete_function(...)).",
        )
    what = f"{source} has no signature {wanted!r}" if wanted else f"{source} has several signatures"
    raise BadModelError(
        what,
        f"there are: {', '.join(sorted(known))[:500]}",
        "Give signature=NAME (on the command line: --read signature=NAME).",
    )
