"""The child process that loads candidates and times them; an engine that crashes takes only this one down.

Started as `python -P -m raceline.convert._worker READ_FD WRITE_FD PARENT_PID [ENGINE_FOLDER ...]`: one JSON
object a line comes in, one goes out. Commands:

- load: id, bundle, part (empty, or two places between which the graph is cut out), candidate, shapes (batch 1),
  seed -> memory_bytes
- time: id, calls, warm -> times_s, disturbed
- compute: id, seed, path -> names; the outputs for other inputs go into an .npz file
- answer: id, names, inputs, path -> names, calls; so do the outputs of every call whose inputs an .npz file holds
- drop: id, forget (also the bundle it was loaded from)
"""

import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from raceline import engines
from raceline.core.clock import SystemClock
from raceline.core.errors import RacelineError
from raceline.core.process import die_with
from raceline.ir import Candidate, Model, Shapes
from raceline.ir.bundle import Bundle
from raceline.ir.inputs import make_inputs
from raceline.ir.segments import Segments


@dataclass
class Loaded:
    """A candidate that is ready to run."""

    bundle: str
    model: Model
    shapes: dict[str, tuple[int, ...]]
    session: engines.Session
    inputs: engines.Tensors


class Server:
    """Answers commands; holds what was loaded."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._segments: dict[tuple[str, int], Segments] = {}
        self._loaded: dict[int, Loaded] = {}
        self._clock = SystemClock()

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; what it raises on purpose becomes the answer's `error`."""
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "load": self.load, "time": self.time, "compute": self.compute, "answer": self.answer_calls,
            "drop": self.drop,
        }  # fmt: skip
        action = actions[command.pop("do")]
        try:
            return action(**command)
        except RacelineError as error:
            return {"error": str(error)}
        except MemoryError:
            return {"error": "out of memory", "hindered": True}

    def load(
        self,
        id: int,
        bundle: str,
        part: list[int],
        candidate: dict[str, Any],
        shapes: dict[str, list[int]],
        seed: int,
    ) -> dict[str, Any]:
        """Load a candidate and run it once."""
        chosen = Candidate(**candidate)
        if bundle not in self._models:
            self._models[bundle] = Bundle.open(Path(bundle), verify=False).model
        model = self._models[bundle]
        at_one = {name: tuple(shape) for name, shape in shapes.items()}
        if part:
            model = self._cut(
                bundle, engines.batched(model.signature, at_one, chosen.batch), chosen.batch, part
            )
            at_one, chosen = model.signature.concrete({}), replace(chosen, batch=1)
        full = engines.batched(model.signature, at_one, chosen.batch)
        inputs = make_inputs(model.signature, full, seed=seed)
        session = engines.prepare(model, chosen, at_one)
        session.run(inputs)
        self._loaded[id] = Loaded(bundle, model, full, session, inputs)
        return {"memory_bytes": session.memory_bytes()}

    def _cut(self, bundle: str, shapes: Shapes, batch: int, part: list[int]) -> Model:
        """A part of a model whose inputs have these shapes."""
        if (bundle, batch) not in self._segments:
            self._segments[bundle, batch] = Segments(self._models[bundle], shapes)
        return self._segments[bundle, batch].part(*part)

    def time(self, id: int, calls: int, warm: bool) -> dict[str, Any]:
        """Seconds of each call, and whether the scheduler took the CPU away meanwhile."""
        loaded, now_s = self._loaded[id], self._clock.now_s
        times_s, disturbed = [], []
        gc.disable()
        try:
            if warm:
                loaded.session.run(loaded.inputs)
            for _ in range(calls):
                switches, start_s = _involuntary_switches(), now_s()
                loaded.session.run(loaded.inputs)
                times_s.append(now_s() - start_s)
                disturbed.append(_involuntary_switches() > switches)
        finally:
            gc.enable()
        return {"times_s": times_s, "disturbed": disturbed}

    def compute(self, id: int, seed: int, path: str) -> dict[str, Any]:
        """Write the outputs; strings as Unicode, so that nothing needs pickling."""
        loaded = self._loaded[id]
        outputs = loaded.session.run(make_inputs(loaded.model.signature, loaded.shapes, seed=seed))
        # Names of outputs may hold what a zip member's may not, so members are numbered.
        np.savez(path, *map(_plain, outputs.values()))
        return {"names": list(outputs)}

    def answer_calls(self, id: int, names: list[str], inputs: str, path: str) -> dict[str, Any]:
        """Run call after call; inputs and outputs are numbered through, those of one call together."""
        session, calls = self._loaded[id].session, 0
        found: list[np.ndarray[Any, Any]] = []
        told: list[str] = []
        with np.load(inputs, allow_pickle=False) as arrays:
            for start in range(0, len(arrays.files), len(names)):
                members = arrays.files[start : start + len(names)]
                outputs = session.run({n: arrays[member] for n, member in zip(names, members, strict=True)})
                told, calls = list(outputs), calls + 1
                found += map(_plain, outputs.values())
        np.savez(path, *found)
        return {"names": told, "calls": calls}

    def drop(self, id: int, forget: bool = False) -> dict[str, Any]:
        """Close a session and give its memory back."""
        loaded = self._loaded.pop(id, None)
        if loaded is not None:
            loaded.session.close()
            if forget:
                self._models.pop(loaded.bundle, None)
        del loaded
        gc.collect()
        return {}


def _plain(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The array; strings as Unicode, so that nothing needs pickling."""
    return array.astype(str) if array.dtype.kind == "O" else array


def serve(commands: TextIO, answers: TextIO) -> None:
    """Answer until the other end closes."""
    server = Server()
    for line in commands:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


def _involuntary_switches() -> int:
    """How often another process was given this one's CPU, all threads together."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _be_first_out_of_memory() -> None:
    """If memory runs out, let the kernel end this process and not the one that waits for it."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main(arguments: list[str]) -> None:
    """Serve the parent whose pipe ends and process number the command line names."""
    reading, writing, parent, *folders = arguments
    die_with(int(parent))
    _be_first_out_of_memory()
    engines.__path__.extend(folder for folder in folders if folder not in engines.__path__)
    with (
        os.fdopen(int(reading)) as commands,
        os.fdopen(int(writing), "w") as answers,
        suppress(BrokenPipeError),
    ):
        serve(commands, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
