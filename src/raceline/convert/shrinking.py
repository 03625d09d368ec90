"""Quantise a model into a bundle, and say what that brought, every byte counted."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raceline import engines
from raceline.convert.equivalence import Equivalence
from raceline.convert.quantise import (
    RUNS_QDQ,
    Budget,
    Quantised,
    Runner,
    Samples,
    Stored,
    scheme_for,
    within_budget,
)
from raceline.core.errors import ConfigError
from raceline.core.progress import Progress
from raceline.ir import Bundle, Model, PlatformProfile
from raceline.ir.bundle import refuse_to_replace_others


@dataclass(frozen=True)
class Shrunk:
    """What quantising a model brought.

    Attributes:
        bundle: where it was written.
        engine: what it was made for and scored on.
        found: the model, its layers and its score.
        bytes_before, bytes_after: of the whole bundles, manifests included, in full precision and quantised.
        gain: how many times faster the engine runs it than full precision, one item at a time.
    """

    bundle: Path
    engine: str
    found: Quantised
    bytes_before: int
    bytes_after: int
    gain: float

    @property
    def reduction(self) -> float:
        """Share of the bytes that are saved."""
        return 1.0 - self.bytes_after / self.bytes_before

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the model left out."""
        found = self.found
        return {
            "bundle": str(self.bundle),
            "engine": self.engine,
            "met": found.met,
            "accuracy": {**asdict(found.score), "drop": found.score.drop},
            "scheme": asdict(found.scheme),
            "layers": found.layers,
            "kept": list(found.kept),
            "notes": found.notes,
            "refused": found.refused,
            "sensitivity": found.sensitivity,
            "stopped": found.stopped,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "size_reduction": self.reduction,
            "speedup": self.gain,
        }


def shrink(
    model: Model,
    samples: Samples,
    budget: Budget,
    platform: PlatformProfile,
    out: Path,
    *,
    engine: str = "onnxruntime",
    weights_only: int = 0,
    deadline_s: float = 120.0,
    progress: Progress | None = None,
) -> Shrunk:
    """Quantise as much as the accuracy budget allows and write the bundle; where none is met, the best found.

    Args:
        model: optimised.
        samples: one half is calibrated on, the other judges; all judge where weights alone are quantised.
        budget: how much may be lost.
        platform: whose instruction sets the numbers must suit.
        out: folder of the bundle; must be absent, empty or a bundle.
        engine: what will run it.
        weights_only: bits to store weights in, 8 or 4, while all arithmetic stays in floating point; 0: the
            layers compute in 8 bits.
        deadline_s: seconds after which nothing new is tried.
        progress: told of each step.

    Raises:
        BadModelError: nothing can be quantised, or the data makes the model compute NaN, or the engine refuses it.
        ConfigError: the engine runs no quantised graphs, there is too little data, or the folder holds other files.
        BackendLostError: the engine crashed on it.
    """
    refuse_to_replace_others(out)
    if weights_only:
        engines.load(engine)  # raises for a name that is none; all of them run it
    elif engine not in RUNS_QDQ:
        engines.load(engine)  # raises for a name that is none
        raise ConfigError(
            f"{engine} runs no quantised graphs", f"{', '.join(RUNS_QDQ)} do", "Name one of them."
        )
    scheme = Stored(weights_only) if weights_only else scheme_for(engine, platform)
    found = within_budget(
        model,
        samples,
        scheme,
        budget,
        engine=engine,
        deadline_s=deadline_s,
        progress=progress,
    )
    report = Equivalence(
        candidate=f"{engine} {scheme.precision}", atol=0.0, rtol=0.0, cases=(), seeds=(), outputs=(),
        accuracy=found.score, allowed_drop=budget.drop,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="raceline-") as scratch:
        full = Path(scratch, "full")
        Bundle.write(full, model)
        before = folder_bytes(full)
    Bundle.write(out, found.model, equivalence=report.to_json())
    with Runner(samples) as run:
        gain = run.gain(model, found.model, engine)
    return Shrunk(out, engine, found, before, folder_bytes(out), gain)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a bundle."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
