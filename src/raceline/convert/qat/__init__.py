"""Quantisation-aware training: a copy of a torch module that is trained as it will run, in few bits.

    student = qat.prepare(network, (pictures[:8],), Scheme())
    qat.calibrate(student, [pictures[:256]])
    qat.fit(student, pictures, labels, recipe=qat.Recipe(epochs=4), teacher=network)
    model = qat.to_onnx(student, name="network")     # QDQ, ready for Bundle.write and every engine

`fewer_bits`, between calibration and training, stores the least sensitive layers in 4 bits until the whole
bundle is as small as asked.

torch loads when a function here is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from raceline.convert.qat.recipe import History, Recipe
from raceline.convert.quantise import Scheme, scheme_for
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError
from raceline.core.progress import Progress
from raceline.ir import Model, this_machine

if TYPE_CHECKING:
    import torch

    from raceline.convert.qat.bits import Narrowed
    from raceline.convert.qat.tracing import FakeQuantised

__all__ = [
    "History",
    "Recipe",
    "Scheme",
    "accuracy",
    "bundle_bytes",
    "calibrate",
    "fewer_bits",
    "fit",
    "prepare",
    "scores",
    "to_onnx",
]

Array = np.ndarray[Any, Any]
_INSTALL = "pip install 'raceline[train]'"
_BATCH = "batch"


def prepare(
    module: torch.nn.Module, example: Sequence[torch.Tensor], scheme: Scheme | None = None
) -> FakeQuantised:
    """Copy a module and put quantisation into the copy: BatchNorm folded, weights and activations rounded.

    Nothing is rounded until `calibrate`: the copy answers as the module does. Which activations are rounded
    follows the scheme, as `raceline.convert.quantise` does it: what layers read, and for ONNX Runtime also what
    convolutions, residual sums, concatenations and means give.

    Args:
        module: stays as it is; its forward is traced, so it must not branch on values.
        example: inputs of forward, axis 0 counting items.
        scheme: bits, types, and how ranges are found; None: what suits ONNX Runtime on this machine. For another
            one take `scheme_for(engine, platform)`: without VNNI weights need 7 bits, or products saturate.

    Raises:
        BadModelError: it cannot be traced, has nothing to quantise, or computes something else once traced.
        ConfigError: it is no torch module.
        MissingDependencyError: torch is not installed.
    """
    scheme = scheme or scheme_for("onnxruntime", this_machine())
    return _part("tracing").prepared(module, example, scheme)  # type: ignore[no-any-return]


def calibrate(module: FakeQuantised, batches: Iterable[Array]) -> None:
    """Find the ranges of all activations on data, and begin to round.

    Args:
        module: from `prepare`, of one input.
        batches: inputs as forward takes them, each (items, ...).

    Raises:
        BadModelError: there is NaN or infinity in the data or in what the module makes of it.
        ConfigError: there is no data.
        ShapeError: the module does not take it.
    """
    training = _part("training")
    import torch

    held = [training.as_floats(batch) for batch in batches]
    if not any(len(batch) for batch in held):
        raise ConfigError("there is no data to calibrate on", "", "Give one batch at least.")
    mode = module.training
    module.eval()
    passes = ("watch",) if module.scheme.method == "minmax" else ("watch", "count")
    with torch.no_grad():
        for name in passes:
            module.set_mode(name, weights=False)
            for batch in held:
                with training.shapes_explained(module, batch):
                    module(batch)
    for quantiser in module.quantisers.values():
        quantiser.settle()
    module.set_mode("on", weights=True)
    module.train(mode)


def fit(
    module: torch.nn.Module,
    items: Array,
    labels: Array,
    *,
    recipe: Recipe | None = None,
    teacher: torch.nn.Module | None = None,
    validation: tuple[Array, Array] | None = None,
    loss: Any = None,
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    progress: Progress | None = None,
) -> History:
    """Train; the same seed, data, torch and number of threads give the same weights.

    Args:
        module: calibrated, or any other module of one input.
        items: (items, ...) as forward takes them.
        labels: (items,) classes, or what `loss` takes.
        recipe: how.
        teacher: gives the scores that the module should give too, usually the module in floating point.
        validation: items and labels by which the best epoch is chosen and kept; without them the last is.
        loss: (answer, labels) to a number; None: cross entropy.
        augment: what becomes of a batch's items before each step, of the same shape; draws from torch's generator,
            which is seeded by the recipe.
        progress: told of each step.

    Raises:
        BadModelError: the loss became NaN or infinity, or the data holds such numbers.
        ShapeError: items and labels differ in number, or there are none, or the module does not take them.
        ConfigError: the module is to be quantised and not calibrated.
    """
    if hasattr(module, "quantisers"):
        _calibrated(cast("FakeQuantised", module))
    return _part("training").trained(  # type: ignore[no-any-return]
        module, items, labels, recipe or Recipe(),
        teacher=teacher, validation=validation, loss=loss, augment=augment, progress=progress,
    )  # fmt: skip


def scores(module: torch.nn.Module, items: Array) -> Array:
    """What a module gives for all items in inference: (items, ...) to an array of as many rows."""
    return _part("training").scores(module, items)  # type: ignore[no-any-return]


def accuracy(module: torch.nn.Module, items: Array, labels: Array) -> float:
    """The share of items (items, ...) whose highest score is that of their class, labels (items,)."""
    return _part("training").accuracy(module, items, labels)  # type: ignore[no-any-return]


def bundle_bytes(model: Model) -> int:
    """Bytes of all files of a model's bundle together; it is written to find out."""
    return _part("bits").bundle_bytes(model)  # type: ignore[no-any-return]


def fewer_bits(
    module: FakeQuantised,
    items: Array,
    target_bytes: int,
    *,
    name: str = "model",
    progress: Progress | None = None,
) -> Narrowed:
    """Give 4-bit weights to the layers that suffer least per byte, until the bundle is as small as asked.

    The bundle is really written to know its size, with graph and manifest. Where even all layers at 4 bits do
    not reach the target, all have 4 bits, and the result says that it was not met.

    Args:
        module: calibrated; its layers change.
        items: what sensitivity is measured on, (items, ...): relative error of the outputs.
        target_bytes: of all files of the bundle together.
        name: of the model, which the manifest holds too.
        progress: told of each layer.

    Raises:
        ConfigError: the target is below one byte, or nothing is calibrated.
        BadModelError: the items have NaN or infinity in them.
    """
    _calibrated(module)
    if not np.isfinite(items).all():
        raise BadModelError("the items have NaN or infinity in them", next_step="Leave those items out.")
    return _part("bits").narrowed(module, items, target_bytes, name=name, progress=progress)  # type: ignore[no-any-return]


def to_onnx(
    module: FakeQuantised,
    *,
    name: str = "model",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batch_axis: str | None = _BATCH,
    pack: bool = True,
) -> Model:
    """The trained module as QDQ in standard ONNX, which computes what the module computes within rounding.

    Weights are int8 with a scale a channel, biases float32, activations as the scheme says.

    Args:
        module: calibrated; stays as it is.
        name: of the model.
        input_names: instead of the parameters of `forward`.
        output_names: instead of those that torch makes up.
        batch_axis: name of axis 0, which is proven to hold independent items before it is called a batch; None
            fixes the example's sizes.
        pack: store weights of 4 bits in 4 bits; engines widen them as they load.

    Raises:
        BadModelError: a weight is not finite, or torch cannot export the module.
        ConfigError: nothing is calibrated.
        MissingDependencyError: onnxscript is not installed.
    """
    _calibrated(module)
    return _part("export").exported(  # type: ignore[no-any-return]
        module,
        name=name,
        input_names=input_names,
        output_names=output_names,
        batch_axis=batch_axis,
        pack=pack,
    )


def _calibrated(module: FakeQuantised) -> None:
    modes = {quantiser.mode for quantiser in module.quantisers.values()}
    if modes - {"on"}:
        raise ConfigError("the module is not calibrated", "its ranges are unknown", "Call calibrate first.")


def _part(name: str) -> Any:
    """A module of this package, all of which need torch."""
    try:
        return importlib.import_module(f"raceline.convert.qat.{name}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError("quantisation-aware training", "torch", _INSTALL) from error
