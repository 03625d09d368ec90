"""Read what torch.export makes: .pt2 archives, and modules in memory; torch's own exporter turns them into ONNX."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import files
from raceline.convert.exporters.torch_export import reason
from raceline.convert.exporting import exported, quiet_torch
from raceline.convert.formats.torch_export.archive import prefix_of, refuse_unsafe
from raceline.convert.onnx_file import read_onnx
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError
from raceline.ir import Limits, Model, Provenance

description = (
    "torch.export programs (.pt2) as torch.export.save writes them, and modules in memory; needs torch"
)
extensions = (".pt2",)
extra = "torch"

_FORMAT = "torch_export"
_INSTALL = "pip install 'raceline[torch]'"
_MOST_INSIDE_BYTES = 1_500_000_000


def recognises(path: Path) -> bool:
    """Whether the file is a zip archive marked as a .pt2."""
    return prefix_of(files.member_names(path)) is not None


def read(path: Path, *, limits: Limits | None = None, python: str | Path | None = None) -> Model:
    """Read a .pt2 archive; its open axes stay open.

    Args:
        path: the archive.
        limits: what the file may ask of this machine.
        python: interpreter of an environment that has torch and onnxscript; None: this one.

    Raises:
        MissingDependencyError: torch or onnxscript is not installed.
        BadModelError: the archive is broken, could run code when loaded, or torch cannot export it.
    """
    limits = limits or Limits()
    with files.Archive(path, limits) as archive:
        refuse_unsafe(archive, path.name)
    request = {"path": str(path.resolve())}
    with exported("torch_export", request, source=path.name, extra=extra, python=python) as (folder, answer):
        model = _read(folder / "model.onnx", limits)
    return _named(model, path.name, files.sha256([path]), f"torch {answer['torch']}, torch.onnx.export")


def takes(source: Any) -> bool:
    """Whether an object is a torch module (not a scripted one) or an exported program."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    exported_program = getattr(getattr(torch, "export", None), "ExportedProgram", ())
    is_module = isinstance(source, torch.nn.Module) and not isinstance(source, torch.jit.ScriptModule)
    return is_module or bool(exported_program and isinstance(source, exported_program))


def read_object(
    source: Any,
    *,
    limits: Limits | None = None,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Model:
    """Read a module or exported program of this process.

    A module is exported as for inference and left as it was.

    Args:
        source: a torch.nn.Module, or a torch.export.ExportedProgram.
        limits: what the model may ask of this machine.
        inputs: of a module: example arguments, in order or by name; tensors or arrays.
        dynamic_shapes: of a module: as torch.export.export takes it, such as ({0: torch.export.Dim("batch")},).
        input_names: instead of those of `forward`.
        output_names: instead of those that torch makes up.

    Raises:
        ConfigError: a module's inputs are not given.
        MissingDependencyError: onnxscript is not installed.
        BadModelError: torch cannot export it.
    """
    name = type(source).__name__
    options: dict[str, Any] = {"input_names": input_names, "output_names": output_names}
    if hasattr(source, "graph_signature"):  # an exported program carries all of it
        if inputs is not None or dynamic_shapes is not None:
            raise ConfigError(f"an {name} has its inputs", "inputs= and dynamic_shapes= are for modules")
        arguments: tuple[Any, ...] = ()
        frozen = _unchanged()
    else:
        arguments, by_name = _arguments(source, inputs)
        options |= {"dynamic_shapes": dynamic_shapes, "kwargs": by_name or None}
        frozen = _evaluating(source)
    options = {key: value for key, value in options.items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="raceline-export-") as place, frozen:
        path = Path(place, "model.onnx")
        _export(source, arguments, options, path, name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        model = _read(path, limits or Limits())
    import torch

    return _named(model, name, digest, f"torch {torch.__version__}, torch.onnx.export")


def _arguments(source: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example arguments as tensors, by place and by name."""
    import torch

    if inputs is None:
        raise ConfigError(
            f"a {type(source).__name__} does not say what its inputs are", "",
            "Give inputs=(example tensor, ...), and dynamic_shapes= for open axes.",
        )  # fmt: skip

    def tensor(item: Any) -> Any:
        return torch.from_numpy(item) if isinstance(item, np.ndarray) else item

    if isinstance(inputs, Mapping):
        return (), {key: tensor(item) for key, item in inputs.items()}
    items = inputs if isinstance(inputs, list | tuple) else (inputs,)
    return tuple(tensor(item) for item in items), {}


def _export(source: Any, arguments: tuple[Any, ...], options: dict[str, Any], path: Path, name: str) -> None:
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it and says so only by a traceback
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"reading a {name}", error.name or "torch", _INSTALL) from error
    parameters = source.state_dict() if callable(source.state_dict) else source.state_dict
    size = sum(tensor.numel() * tensor.element_size() for tensor in parameters.values())
    try:
        with quiet_torch():
            program = torch.onnx.export(source, arguments, dynamo=True, verbose=False, **options)
            program.save(str(path), external_data=size > _MOST_INSIDE_BYTES)
    except Exception as error:  # noqa: BLE001  torch's exporter raises what its many parts raise
        raise BadModelError(f"{name} cannot be exported by torch", reason(error)) from error


def _read(path: Path, limits: Limits) -> Model:
    """The exported model, with weights that outlive the folder."""
    model = read_onnx(path, limits=limits)
    for value in model.program.graph.initializers.values():
        if value.const_value is not None:
            value.const_value.numpy()  # maps a weight that lies beside the model while it is there
    return model


def _named(model: Model, source: str, digest: str, producer: str) -> Model:
    steps = model.provenance.steps
    return replace(
        model,
        provenance=Provenance(
            source=source, source_format=_FORMAT, source_sha256=digest, producer=producer, steps=steps
        ),
    )


@contextmanager
def _unchanged() -> Iterator[None]:
    yield


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """A module and its parts as for inference; each gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = relu(x w + b), for two items or more.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError("an example of torch.export", "torch", _INSTALL) from error

    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(_WEIGHT.T.copy()))
        layer.bias.copy_(torch.from_numpy(_BIAS))
    module = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
    path = folder / "example.pt2"
    with quiet_torch():
        program = torch.export.export(
            module, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, str(path))
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes; torch names outputs as it likes."""
    (x,) = inputs.values()
    return {name: np.maximum(x @ _WEIGHT + _BIAS, 0) for name in ("relu", "output", "output_0", "linear")}


_WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
_BIAS = np.array([0.5, -1], np.float32)
