"""Steps with places become a net of the kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from raceline import _native
from raceline.engines.native.fuse import fused
from raceline.engines.native.narrow import narrowed
from raceline.engines.native.operators import Shape, Step
from raceline.engines.native.places import Layout

ARENA, INPUT, OUTPUT = range(3)
_FEW_CHANNELS = 8  # pictures of fewer are read as they come: blocks of 16 would be mostly empty
_LINEAR = {"linear", "int8_linear"}
_IN_ROWS = {*_LINEAR, "norm", "attention", "rounded"}
_MOST_S = 0.3  # for measuring the ways of computing one linear layer


def build(
    steps: Sequence[Step],
    shapes: Mapping[str, Shape],
    inputs: Sequence[str],
    outputs: Collection[str],
    *,
    threads: int,
    streams: int,
    kernels: str,
    choosing_s: float = 0.0,
) -> _native.Net:
    """A net of these steps, not prepared yet.

    Args:
        steps: in order.
        shapes: of all values, as pictures.
        inputs: values from elsewhere, as `Net.run` will get them.
        outputs: values for elsewhere, as it will give them.
        threads: that share one call.
        streams: calls side by side.
        kernels: a name of `_native.net_kernels`; empty for the best.
        choosing_s: for measuring the ways of computing each linear layer; none, and products stay exact.
    """
    narrow = narrowed(fused(list(steps), outputs), shapes, outputs)
    merged, shapes = narrow.steps, narrow.shapes
    in_rows = all(step.kind in _IN_ROWS for step in merged)  # they read and write matrices as they come
    plain = {name for name in inputs if in_rows or _reads_plain(name, merged, shapes, outputs)}
    packs = [Step("pack", [], [name]) for name in inputs if name not in plain]
    layout = Layout([*packs, *merged], shapes, plain, outputs, narrow.bytes)
    net = _native.Net(threads, streams, kernels, layout.size_floats)
    writing = _Writing(net, shapes, layout, _each_s(merged, choosing_s))
    for name in inputs:
        writing.take(name, plain=name in plain)
    for name in outputs if in_rows else ():
        writing.give_at_once(name)
    for step in merged:
        writing.step(step)
    for name in () if in_rows else outputs:
        writing.give(name)
    return writing.net


def _each_s(steps: Sequence[Step], choosing_s: float) -> float:
    """Seconds for each shape of linear layers: those of one shape share what was found."""
    linear = {(step.settings["weights"].shape, step.reads[0]) for step in steps if step.kind in _LINEAR}
    different = {shape for shape, _ in linear}
    return min(_MOST_S, choosing_s / max(1, len(different)))


def _reads_plain(
    name: str, steps: Sequence[Step], shapes: Mapping[str, Shape], outputs: Collection[str]
) -> bool:
    """Whether an input is read by convolutions alone, of one group, and has few channels."""
    readers = [step for step in steps if name in step.reads or name == step.residual]
    fits = all(
        step.kind == "quantise"
        or (step.kind == "convolution" and step.settings["groups"] == 1 and step.residual != name)
        for step in readers
    )
    return fits and shapes[name][1] < _FEW_CHANNELS and name not in outputs


class _Writing:
    """A net that grows step by step."""

    def __init__(self, net: _native.Net, shapes: Mapping[str, Shape], layout: Layout, each_s: float) -> None:
        self.net = net
        self._each_s = each_s
        self._shapes = shapes
        self._layout = layout
        self._numbers: dict[str, int] = {}

    def take(self, name: str, *, plain: bool) -> None:
        """An input: read where it is, or brought into blocks."""
        number = self.net.value(INPUT, 0, self._shapes[name], 0)
        if plain:
            self._numbers[name] = number
        else:
            self.net.pack(number, self._at(name))

    def give(self, name: str) -> None:
        """An output, out of its blocks."""
        self.net.unpack(self._at(name), self.net.value(OUTPUT, 0, self._shapes[name], 0))

    def give_at_once(self, name: str) -> None:
        """An output, to be written where it goes."""
        self._numbers[name] = self.net.value(OUTPUT, 0, self._shapes[name], 0)

    def step(self, step: Step) -> None:
        """Add the kernels that do one step."""
        {
            "convolution": self._convolution, "pool": self._pool, "concat": self._concat, "split": self._split,
            "affine": self._affine, "binary": self._binary, "average": self._average, "upsample": self._upsample,
            "apply": self._apply, "alias": self._alias, "linear": self._linear, "norm": self._norm,
            "attention": self._attention, "int8_linear": self._int8_linear,
            "int8_convolution": self._int8_convolution, "bytes_pool": self._bytes_pool,
            "quantise": self._quantise, "restore": self._restore, "rounded": self._rounded,
        }[step.kind](step)  # fmt: skip

    def _at(self, name: str) -> int:
        """The net's number of a value."""
        if name not in self._numbers:
            place = self._layout.place(name)
            self._numbers[name] = self.net.value(
                ARENA, place.offset, self._shapes[name], place.image_stride, self._layout.bytes.get(name)
            )
        return self._numbers[name]

    def _convolution(self, step: Step) -> None:
        s = step.settings
        residual = self._at(step.residual) if step.residual else -1
        self.net.convolution(
            self._at(step.reads[0]), self._at(step.writes[0]), s["weights"], s["bias"], s["strides"],
            s["dilations"], s["pads"][:2], s["groups"], step.first, residual, step.second,
        )  # fmt: skip

    def _int8_convolution(self, step: Step) -> None:
        s = step.settings
        residual = self._at(step.residual) if step.residual else -1
        self.net.int8_convolution(
            self._at(step.reads[0]), self._at(step.writes[0]), s["whole"].numbers, s["whole"].scale, s["bias"],
            s["strides"], s["dilations"], s["pads"][:2], s["groups"], step.first, residual, step.second,
        )  # fmt: skip

    def _bytes_pool(self, step: Step) -> None:
        s = step.settings
        x, y = self._at(step.reads[0]), self._at(step.writes[0])
        self.net.bytes_pool(x, y, s["kernel"], s["strides"], s["dilations"], s["pads"])

    def _quantise(self, step: Step) -> None:
        self.net.quantise(self._at(step.reads[0]), self._at(step.writes[0]))

    def _restore(self, step: Step) -> None:
        self.net.restore(self._at(step.reads[0]), self._at(step.writes[0]))

    def _pool(self, step: Step) -> None:
        s = step.settings
        x, y = self._at(step.reads[0]), self._at(step.writes[0])
        self.net.pool(
            x, y, s["is_max"], s["count_padding"], s["kernel"], s["strides"], s["dilations"], s["pads"]
        )

    def _concat(self, step: Step) -> None:
        start = 0
        for name, there in zip(step.reads, self._layout.joined(step), strict=True):
            channels = self._shapes[name][1]
            if not there:
                self.net.copy(self._at(name), 0, self._at(step.writes[0]), start, channels)
            start += channels

    def _split(self, step: Step) -> None:
        for place, (name, start) in enumerate(zip(step.writes, step.settings["starts"], strict=True)):
            if not self._layout.parted(step, place):
                self.net.copy(self._at(step.reads[0]), start, self._at(name), 0, self._shapes[name][1])

    def _affine(self, step: Step) -> None:
        scale, shift = step.settings["scale"], step.settings["shift"]
        self.net.affine(self._at(step.reads[0]), self._at(step.writes[0]), scale, shift, step.first)

    def _binary(self, step: Step) -> None:
        x, z = (self._at(name) for name in step.reads)
        s = step.settings
        self.net.binary(s["op"], x, z, s["swapped"], self._at(step.writes[0]), step.first)

    def _average(self, step: Step) -> None:
        self.net.average(self._at(step.reads[0]), self._at(step.writes[0]))

    def _upsample(self, step: Step) -> None:
        self.net.upsample(self._at(step.reads[0]), self._at(step.writes[0]))

    def _apply(self, step: Step) -> None:
        self.net.apply(self._at(step.reads[0]), self._at(step.writes[0]), step.first)

    def _alias(self, step: Step) -> None:
        """Nothing: the value has the place of the other."""

    def _linear(self, step: Step) -> None:
        s = step.settings
        residual = self._at(step.residual) if step.residual else -1
        self.net.linear(
            self._at(step.reads[0]), self._at(step.writes[0]), s["weights"], s["bias"],
            activation=s.get("activation", ""), residual=residual, before=s["before"], after=s["after"],
            exact=self._each_s == 0, seconds=self._each_s,
        )  # fmt: skip

    def _int8_linear(self, step: Step) -> None:
        s = step.settings
        residual = self._at(step.residual) if step.residual else -1
        self.net.int8_linear(
            self._at(step.reads[0]), self._at(step.writes[0]), s["whole"].numbers, s["whole"].scale, s["bias"],
            x_bytes=s["x_bytes"], activation=s.get("activation", ""), residual=residual, seconds=self._each_s,
        )  # fmt: skip

    def _rounded(self, step: Step) -> None:
        self.net.rounded(self._at(step.reads[0]), self._at(step.writes[0]), step.settings["bytes"])

    def _norm(self, step: Step) -> None:
        self.net.norm(self._at(step.reads[0]), self._at(step.writes[0]), step.settings["norm"])

    def _attention(self, step: Step) -> None:
        s = step.settings
        q, k, v = ((self._at(name), *place) for name, place in zip(step.reads[:3], s["places"], strict=True))
        masked = s["mask_shape"] is not None
        self.net.attention(
            q, k, v, self._at(step.writes[0]), batch=s["batch"], heads=s["heads"], depth=s["depth"],
            value_depth=s["value_depth"], scale=s["scale"], mask=self._at(step.reads[3]) if masked else -1,
            mask_shape=s["mask_shape"] if masked else (1, 1, 1),
        )  # fmt: skip
