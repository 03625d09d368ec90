"""Find each layer's weights in the file: by path in archives, by order and name in old HDF5 files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from raceline.convert.formats.keras.hdf5 import Hdf5
from raceline.convert.formats.keras.layers import Layer
from raceline.convert.formats.keras.source import Source
from raceline.core.errors import BadModelError
from raceline.core.units import counted

Array = np.ndarray[Any, Any]

_DEPENDENCIES = "_layer_checkpoint_dependencies"  # what Keras 2.12 calls the layers of a model
_ALIASES = {"depthwise_kernel": "kernel", "kernel": "depthwise_kernel", "alpha": "alpha"}


class Wanted(NamedTuple):
    """A weight of a layer, and the names of the layers around it, outermost first."""

    layer: Layer
    name: str
    around: tuple[str, ...]


def assign(source: Source, model: Layer, *, allow_nan: bool = False) -> None:
    """Give the layers of a model their weights; where some are missing, `problem` says why.

    Raises:
        BadModelError: weights hold NaN.
    """
    if source.whole:
        _from_groups(source.weights, model)
    else:
        _from_paths(source.weights, model, "", set())
    if not allow_nan:
        _refuse_nan(source, model)


def _refuse_nan(source: Source, model: Layer) -> None:
    """Refuse weights that hold NaN, by the names that the file has for them."""
    for layer in model.everyone():
        for name, array in layer.weights.items():
            if array.dtype.kind == "f" and array.size and np.isnan(array.min()):
                raise BadModelError(
                    f"{source.name} is broken",
                    f"weight {name!r} of layer {layer.name!r} holds NaN",
                    "Train it again, or allow NaN (allow_nan).",
                )


def _from_paths(file: Hdf5, layer: Layer, path: str, seen: set[int]) -> None:
    """Weights of an archive: vars/0, vars/1 and so on in the group of each layer."""
    if id(layer) in seen:  # a layer that two models share is written once
        return
    seen.add(id(layer))
    _from_path(file, layer, path)
    for key, child in layer.children.items():
        _from_paths(file, child, f"{path}/{key}".lstrip("/"), seen)


def _from_path(file: Hdf5, layer: Layer, path: str) -> None:
    names = [name for group in layer.own for name in group]
    if not names:
        return
    group = _group(file, path)
    owner = file.text(group, "name")
    if owner is not None and owner != layer.name and not path.endswith("/cell"):
        layer.problem = f"group {group!r} belongs to a layer {owner!r}"
        return
    count = file.num_members(group) or 0
    if count != len(names):
        layer.problem = (
            f"group {group!r} has {counted(count, 'array')} and should have {len(names)}: {', '.join(names)}"
        )
        return
    for number, name in enumerate(names):
        array = file.array(f"{group}/{number}")
        if array is None:
            layer.problem = f"group {group!r} has no array {number}"
            return
        _enter(layer, name, array, file.text(f"{group}/{number}", "dtype"))


def _group(file: Hdf5, path: str) -> str:
    """The group of a layer's arrays, under any of the names that versions of Keras gave it."""
    before, _, last = path.rpartition("/")
    paths = [path, f"{before}/_{last}", path.replace("layers/", f"{_DEPENDENCIES}/")]
    return next((f"{p}/vars" for p in paths if file.num_members(f"{p}/vars")), f"{path}/vars")


def _from_groups(file: Hdf5, model: Layer) -> None:
    """Weights of an old file: a group for each layer of the model, that lists its arrays."""
    root = "model_weights" if file.num_members("model_weights") is not None else ""
    seen: set[int] = set()
    for layer in model.graph.layers.values() if model.graph else ():
        names = file.names(f"{root}/{layer.name}", "weight_names")
        wanted = list(_in_order(layer, (), seen))
        if not wanted:
            continue
        problem = ""
        if names is None:
            problem = f"the file has no group {layer.name!r} that lists weights"
        elif len(names) != len(wanted):
            problem = (
                f"group {layer.name!r} lists {counted(len(names), 'array')} and should list {len(wanted)}"
            )
        if problem or names is None:
            for member in layer.everyone():
                member.problem = problem
            continue
        for want, place in zip(wanted, _places(wanted, names), strict=True):
            array = file.array(f"{root}/{layer.name}/{names[place]}")
            if array is None:
                want.layer.problem = f"group {layer.name!r} has no array {names[place]!r}"
            elif not _agrees(want.name, names[place]):
                want.layer.problem = f"{names[place]!r} stands where {want.name!r} is expected"
            else:
                _enter(want.layer, want.name, array, None)


def _places(wanted: Sequence[Wanted], names: Sequence[str]) -> list[int]:
    """Where each weight stands in a list of names: by name where all are plain, else in Keras's order."""
    parts = [name.removesuffix(":0").split("/") for name in names]
    found = []
    for want in wanted:
        fits = [
            place
            for place, part in enumerate(parts)
            if part[-1] in {want.name, _ALIASES.get(want.name)} and want.around[-1] in part[:-1]
        ]
        if len(fits) > 1:
            fits = [place for place in fits if set(want.around) <= set(parts[place])]
        if len(fits) != 1:
            return list(range(len(wanted)))
        found += fits
    return found if len(set(found)) == len(found) else list(range(len(wanted)))


def _in_order(layer: Layer, around: tuple[str, ...], seen: set[int]) -> Iterator[Wanted]:
    """The weights below a layer in the order of old files: all trained ones, then all others."""
    if id(layer) in seen:
        return
    members = list(_everything(layer, around, True, seen))
    yield from (want for want, trained in members if trained)
    yield from (want for want, trained in members if not trained)


def _everything(
    layer: Layer, around: tuple[str, ...], trained: bool, seen: set[int]
) -> Iterator[tuple[Wanted, bool]]:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    trained = trained and layer.trainable
    here = around if around and around[-1] == layer.name else (*around, layer.name)
    for names, kind in zip(layer.own, (True, False), strict=True):
        for name in names:
            yield Wanted(layer, name, here), trained and kind
    for child in layer.children.values():
        yield from _everything(child, here, trained, seen)


def _agrees(wanted: str, written: str) -> bool:
    """Whether a name in the file may mean this weight; names that Keras numbered or users chose always may."""
    last = written.removesuffix(":0").rpartition("/")[2]
    return last not in _MEANINGS or last in {wanted, _ALIASES.get(wanted)}


_MEANINGS = frozenset(
    "kernel bias recurrent_kernel gamma beta moving_mean moving_variance embeddings alpha depthwise_kernel "
    "pointwise_kernel".split()
)


def _enter(layer: Layer, name: str, array: Array, dtype: str | None) -> None:
    """Keep an array; numbers of other precision become float32, whole numbers stay."""
    if dtype == "bfloat16" and array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    layer.weights[name] = (
        array.astype(np.float32) if array.dtype.kind == "f" and array.dtype != "<f4" else array
    )
