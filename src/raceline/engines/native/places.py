"""Where values lie: some share a buffer, and buffers share memory, one after another.

Channels lie in blocks of 16, so values can share a buffer where they start at a multiple of 16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raceline.engines.native.constants import Bytes
from raceline.engines.native.operators import Shape, Step

BLOCK = 16
_LINE_FLOATS, _LINE_BYTES = 16, 64  # of a cache line


@dataclass(frozen=True)
class Place:
    """Where a value starts in the arena, and the distance of its images, in floats."""

    offset: int
    image_stride: int


@dataclass(frozen=True)
class Within:
    """A value's place in another: from which channel on."""

    value: str
    channel: int


class Layout:
    """Places for all values of some steps.

    Args:
        steps: in order.
        shapes: of all values, as pictures.
        outside: values that come from elsewhere in another layout and take no place.
        kept: values that must last until the end.
        bytes: values that are kept as bytes, and what these stand for.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        shapes: Mapping[str, Shape],
        outside: Collection[str],
        kept: Collection[str],
        bytes: Mapping[str, Bytes] | None = None,
    ) -> None:
        self.bytes = bytes or {}
        self._shapes = shapes
        self._within: dict[str, Within] = {}
        self._outside = outside
        for step in steps:
            self._alias(step)
        for step in steps:
            if step.kind == "concat":
                self._join(step)
        self.size_floats = 0
        self._place(steps, kept)

    def joined(self, step: Step) -> list[bool]:
        """For each value that a concat reads, whether it is in its place already."""
        ends = [self._shapes[name][1] for name in step.reads]
        starts = [sum(ends[:place]) for place in range(len(ends))]
        root, base = self._root(step.writes[0])
        return [
            self._root(name) == (root, base + start) and name not in step.reads[:place]
            for place, (name, start) in enumerate(zip(step.reads, starts, strict=True))
        ]

    def parted(self, step: Step, place: int) -> bool:
        """Whether an output of a split is a part of its input already."""
        root, base = self._root(step.reads[0])
        return self._root(step.writes[place]) == (root, base + step.settings["starts"][place])

    def place(self, name: str) -> Place:
        """Where a value lies."""
        root, channel = self._root(name)
        _, _, h, w = self._shapes[name]
        return Place(self._offsets[root] + channel * h * w, self._image_floats(root))

    def _alias(self, step: Step) -> None:
        """Parts of a split that start at a block, and values that are others under another name."""
        if step.kind == "alias" and step.reads[0] not in self._outside:
            self._within[step.writes[0]] = Within(step.reads[0], 0)
        if step.kind == "split" and step.reads[0] not in self._outside:
            for name, start in zip(step.writes, step.settings["starts"], strict=True):
                if start % BLOCK == 0:
                    self._within[name] = Within(step.reads[0], start)

    def _join(self, step: Step) -> None:
        """Put what a concat joins into its buffer from the start, root by root."""
        pieces: dict[str, list[tuple[int, int, int]]] = defaultdict(
            list
        )  # root: where, from, how many channels
        start = 0
        for name in step.reads:
            root, channel = self._root(name)
            channels = self._shapes[name][1]
            pieces[root].append((start, channel, channels))
            start += channels
        for root, parts in pieces.items():
            base = parts[0][0] - parts[0][1]
            whole = sum(channels for _, _, channels in parts) == self._shapes[root][1]
            straight = all(at - channel == base for at, channel, _ in parts)
            if (
                whole
                and straight
                and base % BLOCK == 0
                and root not in self._outside
                and root != step.writes[0]
            ):
                self._within[root] = Within(step.writes[0], base)

    def _root(self, name: str) -> tuple[str, int]:
        channel = 0
        while name in self._within:
            channel += self._within[name].channel
            name = self._within[name].value
        return name, channel

    def _image_floats(self, name: str) -> int:
        _, c, h, w = self._shapes[name]
        if name in self.bytes:
            return -(-c * h * w // _LINE_BYTES) * _LINE_FLOATS
        return -(-c // BLOCK) * BLOCK * h * w

    def _place(self, steps: Sequence[Step], kept: Collection[str]) -> None:
        """Largest buffers first, each as low as those that live with it allow."""
        lives = self._lives(steps, kept)
        sizes = {name: self._shapes[name][0] * self._image_floats(name) for name in lives}
        self._offsets: dict[str, int] = {}
        for name in sorted(lives, key=lambda name: (-sizes[name], lives[name])):
            first, last = lives[name]
            taken = sorted(
                (offset, offset + sizes[other])
                for other, offset in self._offsets.items()
                if lives[other][0] <= last and first <= lives[other][1]
            )
            at = 0
            for start, end in taken:
                if at + sizes[name] <= start:
                    break
                at = max(at, -(-end // _LINE_FLOATS) * _LINE_FLOATS)
            self._offsets[name] = at
            self.size_floats = max(self.size_floats, at + sizes[name])

    def _lives(self, steps: Sequence[Step], kept: Collection[str]) -> dict[str, tuple[int, int]]:
        """First and last step that touches each buffer."""
        lives: dict[str, tuple[int, int]] = {}
        for place, step in enumerate(steps):
            for name in [*step.reads, *step.writes, *filter(None, [step.residual])]:
                if name not in self._outside:
                    root, _ = self._root(name)
                    lives[root] = (lives.get(root, (place, place))[0], place)
        for name in kept:
            if name not in self._outside:
                root, _ = self._root(name)
                lives[root] = (lives[root][0], len(steps))
        return lives
