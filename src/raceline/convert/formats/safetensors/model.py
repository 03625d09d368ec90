"""A whole checkpoint: find its files, learn its architecture, build the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from raceline.convert import files
from raceline.convert.build import Builder
from raceline.convert.formats.safetensors import architectures, file, pooling
from raceline.convert.formats.safetensors.weights import Config, Weights
from raceline.core import plugins
from raceline.core.errors import BadModelError, RacelineError, UnknownNameError
from raceline.core.units import counted
from raceline.ir import Limits, Model, Provenance, Values
from raceline.ir.load import PARSE_FAILURES, root_cause

_NAMES = ("model.safetensors", f"model{file.INDEX}")


def weights_of(path: Path) -> Path:
    """The weight file or index: the path itself, or the one in the folder that it names.

    Raises:
        BadModelError: the folder has none.
    """
    if not path.is_dir():
        return path
    found = [name for name in _NAMES if (path / name).is_file()]
    if not found:
        raise BadModelError(f"{path.name} is no safetensors checkpoint", f"it has no {_NAMES[0]}")
    return files.inside(path, found[0])


def read(path: Path, architecture: str | None, limits: Limits) -> Model:
    """Read a checkpoint and build its network.

    Raises:
        BadModelError: a file is damaged, or the weights do not fit the architecture.
        UnknownNameError: there is no such architecture; the message lists those there are.
    """
    where = weights_of(path)
    if where.name.endswith(file.INDEX):
        arrays, parts = file.sharded(where, limits)
    else:
        arrays, parts = file.tensors(where, limits), []
    folder = where.parent
    beside = folder / "config.json"
    settings = file.json_file(beside, limits) if beside.is_file() else {}
    name, network = _architecture(architecture, settings, arrays, where.name)
    used = [where, *parts, *([beside] if settings else [])]
    builder = Builder(where.name.partition(".")[0], limits=limits)
    weights = Weights(builder, arrays)
    outputs = _built(network, builder, weights, Config(settings), where.name)
    weights.finish(where.name, name)
    wanted = pooling.steps(folder, limits) if "last_hidden_state" in outputs else []
    if wanted:
        mask = next(v for v in builder.graph.inputs if v.name == "attention_mask")
        outputs["sentence_embedding"] = pooling.apply(builder, outputs["last_hidden_state"], mask, wanted)
    for output, value in outputs.items():
        builder.output(value, output)
    provenance = Provenance(
        source=path.name, source_format="safetensors", source_sha256=files.sha256(used), producer=name
    )
    return _told(builder.model(provenance), weights, arrays)


def _told(model: Model, weights: Weights, arrays: Mapping[str, Any]) -> Model:
    """The model with what a reader of its provenance should know, and the values that a mask takes."""
    signature = model.signature
    masked = tuple(
        replace(spec, values=Values(0, 1, choices=(0, 1), source="graph"))
        if spec.name == "attention_mask"
        else spec
        for spec in signature.inputs
    )
    model.signature = replace(signature, inputs=masked)
    kinds = sorted({str(a.dtype) for a in arrays.values() if a.dtype.kind not in "iub"} - {"float32"})
    if kinds:
        model = model.with_step(f"Converted weights from {', '.join(kinds)} to float32.")
    if weights.left_out:
        listed = ", ".join(weights.left_out[:5])
        model = model.with_step(
            f"Left out {counted(len(weights.left_out), 'weight')} of a head for training ({listed})."
        )
    return model


def _built(
    network: ModuleType, builder: Builder, weights: Weights, config: Config, source: str
) -> dict[str, Any]:
    """The outputs of the network; nonsense in its settings or shapes is told with the file."""
    name = network.__name__.rpartition(".")[2]
    try:
        found: dict[str, Any] = network.build(builder, weights, config)
    except BadModelError as error:
        weights.finish(source, name, whole=False)  # says more, where weights are missing
        raise BadModelError(f"{source}: {error.what}", error.why, error.next_step) from error
    except PARSE_FAILURES as error:
        if isinstance(error, RacelineError):
            raise
        weights.finish(source, name, whole=False)
        why = f"its settings and its weights make no network: {root_cause(error)}"
        raise BadModelError(f"{source} is broken", why, "Check the config.json beside it.") from error
    return found


def _architecture(
    wanted: str | None, settings: dict[str, Any], arrays: Mapping[str, Any], source: str
) -> tuple[str, ModuleType]:
    """The architecture by the caller's word, the config.json's or the weights' own names; `settings` follow it."""
    networks = {n: plugins.load(architectures, n, kind="architecture") for n in plugins.names(architectures)}
    types = {kind: name for name, network in networks.items() for kind in network.model_types}
    asked = wanted or settings.get("model_type") or _timm(settings.get("architecture"))
    if asked is None:
        fitting = [name for name, network in networks.items() if network.fits(arrays.keys())]
        if len(fitting) == 1:
            return fitting[0], networks[fitting[0]]
        why = "there is no config.json with a model_type beside it, and the weights' names do not tell"
        known = f"Give architecture=, one of {', '.join(sorted(types))}."
        raise BadModelError(f"the architecture of {source} is unknown", why, known)
    name = types.get(str(asked), str(asked))
    if name not in networks:
        raise UnknownNameError("architecture", str(asked)[:200], sorted({*networks, *types}))
    if wanted in types:
        settings["model_type"] = wanted
    return name, networks[name]


def _timm(name: Any) -> str | None:
    """The family of a name as timm's config.json has it."""
    families = ("resnet", "resnext", "wide_resnet")
    return "resnet" if isinstance(name, str) and name.startswith(families) else name


def example_arrays() -> dict[str, np.ndarray[Any, Any]]:
    """Weights of a very small ResNet, whose answer `example_answer` computes in plain NumPy."""
    generator = np.random.default_rng(0)
    found: dict[str, np.ndarray[Any, Any]] = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        found[f"{name}.weight"] = generator.normal(0, 0.3, (outputs, inputs, kernel, kernel)).astype(
            np.float32
        )
        for part, low in (("weight", 0.5), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 0.5)):
            found[f"{norm}.{part}"] = generator.uniform(low, low + 1, outputs).astype(np.float32)

    conv("conv1", "bn1", 2, 3, 7)
    for stage in range(1, 5):
        conv(f"layer{stage}.0.conv1", f"layer{stage}.0.bn1", 2, 2, 3)
        conv(f"layer{stage}.0.conv2", f"layer{stage}.0.bn2", 2, 2, 3)
        if stage > 1:
            conv(f"layer{stage}.0.downsample.0", f"layer{stage}.0.downsample.1", 2, 2, 1)
    found["fc.weight"] = generator.normal(0, 1, (3, 2)).astype(np.float32)
    found["fc.bias"] = generator.normal(0, 1, 3).astype(np.float32)
    return found


def example_answer(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the example computes."""
    w = example_arrays()
    y = np.maximum(_conv(x, w, "conv1", "bn1", 2), 0)
    wide = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    y = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))[:, :, ::2, ::2].max((-1, -2))
    for stage in range(1, 5):
        at, step = f"layer{stage}.0", 1 if stage == 1 else 2
        z = np.maximum(_conv(y, w, f"{at}.conv1", f"{at}.bn1", step), 0)
        z = _conv(z, w, f"{at}.conv2", f"{at}.bn2", 1)
        y = y if stage == 1 else _conv(y, w, f"{at}.downsample.0", f"{at}.downsample.1", step)
        y = np.maximum(z + y, 0)
    mean: np.ndarray[Any, Any] = y.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    return mean.astype(np.float32)


def _conv(
    x: np.ndarray[Any, Any], w: Mapping[str, np.ndarray[Any, Any]], name: str, norm: str, step: int
) -> np.ndarray[Any, Any]:
    kernel = w[f"{name}.weight"].astype(np.float64)
    size = kernel.shape[-1]
    half = size // 2
    wide = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    patches = np.lib.stride_tricks.sliding_window_view(wide, (size, size), (2, 3))[:, :, ::step, ::step]
    y = np.einsum("ncyxij,ocij->noyx", patches, kernel)
    scale, bias, mean, variance = (
        w[f"{norm}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    found: np.ndarray[Any, Any] = (y - mean) / np.sqrt(variance + 1e-5) * scale + bias
    return found
