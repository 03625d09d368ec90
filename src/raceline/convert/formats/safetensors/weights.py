"""Weights by name, taken one after another by the network that they are for; what does not fit is told at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
_MOST_LISTED = 8
_MOST_WRONG = 500


class Weights:
    """A checkpoint while a network is built from it.

    Every floating-point type is widened to float32, or narrowed to it from float64.

    Attributes:
        left_out: names that the network knows and does not use.
    """

    def __init__(self, b: Builder, arrays: Mapping[str, Array], prefix: str = "") -> None:
        self._b = b
        self._arrays = arrays
        self._prefix = prefix
        self._taken: dict[str, ir.Value] = {}
        self._missing: list[str] = []
        self._misshaped: list[str] = []
        self._ignored: set[str] = set()
        self.left_out: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self._arrays

    def names(self) -> Collection[str]:
        """All names of the checkpoint, as they are there."""
        return self._arrays.keys()

    def under(self, *prefixes: str) -> None:
        """Look for names behind the first of these prefixes that the checkpoint has, as well as without one."""
        found = [p for p in prefixes if any(name.startswith(p) for name in self._arrays)]
        self._prefix = found[0] if found else ""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight; empty where it is missing, which is then told at the end."""
        full = self._full(name)
        if full not in self._arrays:
            self._missing.append(full)
            return ()
        return tuple(self._arrays[full].shape)

    def array(self, name: str, *shape: int) -> Array:
        """A weight of this shape; where it is missing or has another, something in its place until `finish`."""
        full = self._full(name)
        found = self._arrays.get(full)
        self._ignored.add(full)
        if found is None:
            self._missing.append(full)
        elif found.shape != shape:
            self._misshaped.append(f"{full} is {list(found.shape)}, not {list(shape)}")
        if len(self._missing) + len(self._misshaped) > _MOST_WRONG:  # there is no use in going on
            self.finish("the checkpoint", "that was asked for", whole=False)
        if found is None or found.shape != shape:
            return np.broadcast_to(np.float32(0), shape)
        if found.dtype.kind not in "fV" and not np.issubdtype(found.dtype, np.floating):
            raise BadModelError(
                f"weight {full!r} holds {found.dtype} elements", "numbers with a fraction fit"
            )
        return found if found.dtype == np.float32 else found.astype(np.float32)

    def take(self, name: str, *shape: int) -> ir.Value:
        """As `array`, as a constant of the graph; the same one however often it is taken."""
        full = self._full(name)
        if full not in self._taken:
            array = self.array(name, *shape)
            # What only stands in for a weight needs no memory: nothing of its size is ever written.
            self._taken[full] = self._b.constant(array, full)
        return self._taken[full]

    def linear(self, x: ir.Value, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Any:
        """Compute x W^T + b, with W as torch keeps it: (outputs, inputs)."""
        weight = self._b.transpose(self.take(f"{name}.weight", outputs, inputs), [1, 0])
        y = self._b.op("MatMul", x, weight)
        return self._b.op("Add", y, self.take(f"{name}.bias", outputs)) if bias else y

    def layer_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> Any:
        """Normalise the last axis."""
        scale, bias = self.take(f"{name}.weight", size), self.take(f"{name}.bias", size)
        return self._b.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def ignore(self, *endings: str) -> None:
        """Tensors that change nothing, by the ending of their names: counters and tables that follow."""
        self._ignored.update(name for name in self._arrays if name.endswith(endings))

    def leave_out(self, *beginnings: str) -> None:
        """Weights of a part that is not built, by the beginning of their names; the provenance tells it."""
        found = [name for name in self._arrays if name.startswith(beginnings) and name not in self._ignored]
        self.left_out += found
        self._ignored.update(found)

    def finish(self, source: str, architecture: str, *, whole: bool = True) -> None:
        """Refuse what does not fit.

        Args:
            source: the file's name.
            architecture: its name.
            whole: whether the network took all that it needs, so that the rest is unexpected.

        Raises:
            BadModelError: weights are missing, unexpected or of another shape; all of them.
        """
        unexpected = sorted(set(self._arrays) - self._ignored) if whole else []
        parts = [
            ("missing", self._missing),
            ("of another shape", self._misshaped),
            ("unexpected", unexpected),
        ]
        told = [f"{len(names)} {what}: {_some(names)}" for what, names in parts if names]
        if told:
            raise BadModelError(
                f"{source} does not fit the architecture {architecture!r}", "; ".join(told),
                "Check the architecture's name and the config.json beside the file.",
            )  # fmt: skip

    def _full(self, name: str) -> str:
        prefixed = self._prefix + name
        return name if prefixed not in self._arrays and name in self._arrays else prefixed


def _some(names: Collection[str]) -> str:
    listed = list(dict.fromkeys(names))
    rest = len(listed) - _MOST_LISTED
    return ", ".join(name[:200] for name in listed[:_MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")


class Config:
    """A config.json, asked setting by setting so that nonsense is told with its name."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def get(self, name: str, default: Any = None) -> Any:
        """A setting; the default where it is absent or null."""
        found = self._settings.get(name)
        return default if found is None else found

    def size(self, name: str, default: int = 0, most: int = 1_000_000) -> int:
        """A count or a size: whole and positive."""
        found = self.get(name, default)
        if type(found) is not int or not 0 < found <= most:
            raise BadModelError(
                f"config.json says {name}={str(found)[:80]}", f"it takes a whole number from 1 to {most}"
            )
        return found

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        found = self.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise BadModelError(f"config.json says {name}={str(found)[:80]}", "it takes a number")
        return float(found)

    def need(self, name: str, *wanted: Any) -> None:
        """Refuse a setting other than these, or absent."""
        found = self.get(name)
        if found is not None and found not in wanted:
            raise BadModelError(f"config.json says {name}={str(found)[:80]}", f"only {wanted[0]!r} is built")

    def architecture(self) -> str:
        """The class that the weights were saved from; empty where it is not told."""
        listed = self.get("architectures")
        return str(listed[0]) if isinstance(listed, list) and listed else ""
