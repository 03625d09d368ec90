"""A small net, and a folder of engines that misbehave on purpose."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from raceline import engines
from raceline.convert.measure import Timing
from raceline.convert.readers import onnx as reader
from raceline.convert.tune import tune
from raceline.core.clock import ManualClock
from raceline.ir import PlatformProfile, make_inputs, with_batch_axis
from raceline.ir.reference import Reference

FOLDER = Path(__file__).parent / "engine_plugins"
"""Each file is an engine, as in raceline/engines."""

SHAPES = {"x": (1, 3, 8, 8)}

MACHINE = PlatformProfile(
    name="test", kind="cpu", model="test", architecture="x86_64", cores=2, engines=(), measured=False,
    source="made up", date="2026-01-01",
)  # fmt: skip


def add_engines(monkeypatch):
    """Let the engines in FOLDER be found beside the real ones, in this process and in workers."""
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(FOLDER)])


def net(folder):
    """Two convolutions and a dense layer on 8 by 8 pictures, with a batch axis."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c2"], ["s2"], "sigmoid2"),
        helper.make_node("Flatten", ["s2"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w3"], ["y"], "dense"),
    ]
    weights = [_weight("w1", 8, 3, 3, 3), _weight("w2", 4, 8, 3, 3), _weight("w3", 256, 5)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 5])],
        weights,
    )
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return with_batch_axis(reader.read(path), "batch")


def _weight(name, *shape):
    values = np.random.default_rng(len(shape)).standard_normal(shape) / np.prod(shape[1:]) ** 0.5
    return numpy_helper.from_array(values.astype(np.float32), name)


class Track:
    """A bench whose candidates take the time that `seconds(candidate)` says; nothing is really loaded."""

    def __init__(self, seconds, noise=0.0):
        self.seconds = seconds
        self.clock = ManualClock()
        self.rng = np.random.default_rng(0)
        self.noise = noise
        self.loaded, self.timed, self.answered, self.opened = [], [], [], 0

    @contextmanager
    def __call__(self, models, shapes):
        self.models, self.shapes, self.opened = models, shapes, self.opened + 1
        self.references = {name: Reference(model) for name, model in models.items()}
        yield self
        assert not self.loaded, "what was loaded is dropped again"

    def load(self, candidate):
        self.seconds(candidate)  # may raise
        if candidate not in self.loaded:
            self.loaded.append(candidate)
        return 1 << 20

    def compute(self, candidate, *, seed):
        model = self.models[candidate.variant]
        full = engines.batched(model.signature, self.shapes, candidate.batch)
        return self.references[candidate.variant].run(make_inputs(model.signature, full, seed=seed))

    def cut(self, variant, start, stop):
        return f"{variant}[{start}:{stop}]"

    def _seconds(self, candidate):
        """Those of a part: its share of the nodes."""
        variant, part, places = candidate.variant.partition("[")
        if not part:
            return self.seconds(candidate)
        start, stop = map(int, places.rstrip("]").split(":"))
        share = (stop - start) / len(list(self.models[variant].program.graph))
        return self.seconds(replace(candidate, variant=variant)) * share

    def answer(self, candidate, calls):
        self.answered.append(candidate)
        return [self.references[candidate.variant].run(call) for call in calls]

    def time(self, candidate, calls, *, warm=True):
        self.timed.append(candidate)
        seconds = self._seconds(candidate) * np.exp(self.rng.normal(0, self.noise, calls))
        self.clock.sleep_s(float(seconds.sum()))
        return Timing(tuple(seconds), (False,) * calls)

    def drop(self, candidate):
        if candidate in self.loaded:
            self.loaded.remove(candidate)

    def tune(self, source, model, **kwargs):
        settings = {"shapes": SHAPES, "threads": (1, 2), "engine_names": ["honest", "lying"], "cache": False}
        return tune(source, model, MACHINE, open_bench=self, clock=self.clock, **{**settings, **kwargs})
