"""Write a network as ONNX, as torch's exporter leaves it but for its notes."""

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raceline.core.errors import ConfigError, MissingDependencyError
from raceline.ir.notes import forget_notes
from raceline.zoo import BATCH_AXIS, INSTALL, Entry
from raceline.zoo._weights import initialised, sample

# The exporter's own: it writes opset 18 and converts to any other. So it is what users have, and every engine
# here and onnx's ReferenceEvaluator read it (LayerNormalization is in it, GELU is still spelt out).
OPSET = 18
# The exporter would take the sizes 0 and 1 for constants.
EXAMPLE_BATCH = 2


def export(
    entry: Entry,
    path: str | os.PathLike[str],
    seed: int,
    batch: int | str,
    optimise: bool,
    model: nn.Module | None = None,
) -> Path:
    """See `raceline.zoo.export_onnx`."""
    size = _example_size(batch)
    target = _writable(Path(path))
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingDependencyError("exporting to ONNX", "onnxscript", INSTALL)
    model = (model or initialised(entry, seed)).eval()
    generator = torch.Generator().manual_seed(seed)
    example = tuple(sample(spec, size, generator) for spec in entry.inputs)
    program = _exported(entry, model, example, batch == "dynamic", optimise)
    return _save(program, target)


def _example_size(batch: int | str) -> int:
    if batch == "dynamic":
        return EXAMPLE_BATCH
    if not isinstance(batch, int) or batch < 1:
        raise ConfigError(f"batch {batch!r} is impossible", next_step='Give a positive number or "dynamic".')
    return batch


def _exported(entry: Entry, model: nn.Module, example: tuple[Any, ...], dynamic: bool, optimise: bool) -> Any:
    axis = torch.export.Dim(BATCH_AXIS)
    with _quiet():
        return torch.onnx.export(
            model,
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            optimize=optimise,
            input_names=[spec.name for spec in entry.inputs],
            output_names=[*entry.outputs],
            dynamic_shapes=tuple({0: axis} if dynamic else {} for _ in entry.inputs),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch says of itself: its own outdated calls, and that torchvision is absent."""
    log = logging.getLogger("torch.onnx")
    usual = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            # Several inputs share the axis on purpose.
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used")
            yield
    finally:
        log.setLevel(usual)


def _save(program: Any, path: Path) -> Path:
    """Write beside the target, then rename, so that no reader ever sees half a file."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            part = Path(folder) / path.name
            proto = program.model_proto
            forget_notes(proto)  # torch's: a stack trace with places of source files at every node
            part.write_bytes(proto.SerializeToString())
            part.replace(path)
    except OSError as error:
        raise _cannot_write(path, error.strerror) from error
    return path


def _writable(path: Path) -> Path:
    """Make the folder and refuse what cannot be written, before the slow part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error.strerror) from error
    if path.is_dir():
        raise _cannot_write(path, "it is a folder")
    return path


def _cannot_write(path: Path, why: str | None) -> ConfigError:
    return ConfigError(f"cannot write {path}", why or "", "Name a file in a folder that can be written.")
