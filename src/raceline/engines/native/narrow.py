"""Values of bytes: what 8-bit steps read and write among themselves, without floats between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from raceline.engines.native.constants import MOST_DEPTH, Bytes
from raceline.engines.native.operators import NOTHING, Shape, Step

_MOST_TAPS = 512  # of a depthwise convolution, whose sums are held in floats


@dataclass
class Narrowed:
    """Steps whose values are partly of bytes.

    Attributes:
        steps: in order.
        shapes: of all values, as pictures.
        bytes: what the values of bytes stand for, by name.
    """

    steps: list[Step]
    shapes: dict[str, Shape]
    bytes: dict[str, Bytes]


def narrowed(steps: Sequence[Step], shapes: Mapping[str, Shape], kept: Collection[str]) -> Narrowed:
    """The same in bytes wherever values are rounded to them and 8-bit steps can be told so.

    Args:
        steps: in order, fused.
        shapes: of all values, as pictures.
        kept: values that are read from outside, as floats.
    """
    if not any(step.kind == "quantise" for step in steps):
        return Narrowed(list(steps), dict(shapes), {})
    return _Narrowing(steps, shapes, kept).result()


class _Narrowing:
    def __init__(self, steps: Sequence[Step], shapes: Mapping[str, Shape], kept: Collection[str]) -> None:
        self._steps = [replace(step, settings=dict(step.settings)) for step in steps]
        self._shapes, self._kept = dict(shapes), kept
        self._bytes: dict[str, Bytes] = {
            step.writes[0]: step.settings["bytes"] for step in self._steps if step.kind == "quantise"
        }

    def result(self) -> Narrowed:
        self._read_bytes()
        for step in self._steps:
            if self._takes_bytes(step):
                step.kind = "int8_convolution"
        self._pool_bytes()
        self._write_bytes()
        self._restore()
        return Narrowed(self._steps, self._shapes, self._bytes)

    def _read_bytes(self) -> None:
        """Let everybody read the bytes themselves, whatever they were restored to."""
        called = {
            step.writes[0]: step.reads[0]
            for step in self._steps
            if step.kind == "alias" and step.reads[0] in self._bytes and step.writes[0] not in self._kept
        }
        self._steps = [
            step for step in self._steps if not (step.kind == "alias" and step.writes[0] in called)
        ]
        for step in self._steps:
            step.reads = [called.get(name, name) for name in step.reads]
            step.residual = called.get(step.residual, step.residual)

    def _takes_bytes(self, step: Step) -> bool:
        whole = step.settings.get("whole")
        if step.kind != "convolution" or whole is None or step.reads[0] not in self._bytes:
            return False
        outputs, inputs, h, w = whole.numbers.shape
        if step.settings["groups"] == 1:
            return bool(h * w * inputs <= MOST_DEPTH)
        return (
            bool(step.settings["groups"] == outputs == self._shapes[step.reads[0]][1]) and h * w <= _MOST_TAPS
        )

    def _pool_bytes(self) -> None:
        """The largest numbers are the largest bytes: pools of bytes, where they are rounded before or after."""
        for step in list(self._steps):
            if step.kind != "pool" or not step.settings["is_max"] or step.first != NOTHING:
                continue
            after = self._rounds_alone(step.writes[0])
            if after is None:
                continue
            name, bytes_ = step.reads[0], after.settings["bytes"]
            if name not in self._bytes and self._rounds_next(name, step) is not None:
                small = f"{name}.bytes"
                self._bytes[small], self._shapes[small] = bytes_, self._shapes[name]
                self._steps.insert(
                    self._steps.index(step), Step("quantise", [name], [small], {"bytes": bytes_})
                )
                name = small
            if self._bytes.get(name) == bytes_:
                step.kind, step.reads, step.writes = "bytes_pool", [name], after.writes
                self._steps.remove(after)

    def _rounds_alone(self, name: str) -> Step | None:
        """The step that rounds a value, if nobody else reads it."""
        users = [step for step in self._steps if name in _reads(step)]
        alone = len(users) == 1 and users[0].kind == "quantise" and name not in self._kept
        return users[0] if alone else None

    def _rounds_next(self, name: str, pool: Step) -> Step | None:
        """The 8-bit step that writes a value, if the pool alone reads it: it may as well write bytes."""
        writer = next((step for step in self._steps if name in step.writes), None)
        users = [step for step in self._steps if name in _reads(step)]
        fits = writer is not None and writer.kind == "int8_convolution" and name not in self._kept
        return writer if fits and users == [pool] else None

    def _write_bytes(self) -> None:
        """Let 8-bit steps round what they write, where nobody wants more of it."""
        uses = Counter(name for step in self._steps for name in _reads(step))
        writers = {name: step for step in self._steps for name in step.writes}
        for step in list(self._steps):
            source = writers.get(step.reads[0]) if step.kind == "quantise" else None
            if source is None or source.kind != "int8_convolution":
                continue
            if uses[step.reads[0]] == 1 and step.reads[0] not in self._kept:
                source.writes = step.writes
                self._steps.remove(step)

    def _restore(self) -> None:
        """Floats again for steps that know no bytes."""
        wide: dict[str, str] = {}
        steps: list[Step] = []
        for step in self._steps:
            if step.kind == "alias" and step.reads[0] in self._bytes:  # it is kept
                step.kind = "restore"
                wide[step.reads[0]] = step.writes[0]
            elif step.kind not in {"bytes_pool", "int8_convolution"}:
                for name in _reads(step):
                    if name in self._bytes and name not in wide:
                        wide[name] = f"{name}.floats"
                        self._shapes[wide[name]] = self._shapes[name]
                        steps.append(Step("restore", [name], [wide[name]]))
                step.reads = [wide.get(name, name) for name in step.reads]
                step.residual = wide.get(step.residual, step.residual)
            steps.append(step)
        self._steps = steps


def _reads(step: Step) -> list[str]:
    return [*step.reads, step.residual] if step.residual else step.reads
