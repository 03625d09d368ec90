"""Stand-ins for bundles and engines, so that the serve room is tested without any runtime.

A "bundle" here is a folder whose bundle.json names one of the models below. Run as a program, this file
serves such folders until SIGTERM, as `raceline serve` does.
"""

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from raceline.core.errors import BadModelError
from raceline.ir import Signature, TensorSpec, Values
from raceline.serve import Repository, Server, Settings
from raceline.serve.costs import MeasuredCosts
from raceline.serve.loading import Choice, Loaded
from raceline.serve.tensors import wire_name
from raceline.serve.worker import Runner, Worker

KINDS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
KINDS += ["float16", "bfloat16", "float32", "float64", "object"]


def spec(name, dtype, *shape, values=None):
    return TensorSpec(name, dtype, shape, values)


def scale(inputs, factor=2.0):
    """Row by row: y = factor * x + the sum of the row; so a mixed-up row shows."""
    x = inputs["x"]
    return {"y": factor * x + x.sum(axis=1, keepdims=True), "total": x.sum(axis=1)}


SIGNATURES = {
    "scale": Signature(
        (spec("x", "float32", "N", 4),), (spec("y", "float32", "N", 4), spec("total", "float32", "N")), "N"
    ),
    "ragged": Signature((spec("x", "float32", "N", "length"),), (spec("y", "float32", "N", "length"),), "N"),
    "single": Signature((spec("x", "float32", 4),), (spec("y", "float32", 4),)),
    "picky": Signature((spec("x", "float32", "N", 4),), (spec("y", "float32", "N", 4),), "N"),
    "index": Signature(
        (spec("x", "int64", "N", 2, values=Values(0, 9, source="graph")),), (spec("y", "int64", "N", 2),), "N"
    ),
    **{
        f"echo_{kind}": Signature((spec("x", kind, "N", 3),), (spec("y", kind, "N", 3),), "N")
        for kind in KINDS
    },
}


def picky(inputs):
    """Fails on negative numbers, like an engine on values that it cannot take."""
    if (inputs["x"] < 0).any():
        raise ValueError("negative numbers are not welcome")
    return {"y": inputs["x"] + 1}


FUNCTIONS = {
    "scale": scale,
    "ragged": lambda inputs: {"y": np.cumsum(inputs["x"], axis=1)},
    "single": lambda inputs: {"y": inputs["x"][::-1]},
    "picky": picky,
    "index": lambda inputs: {"y": inputs["x"]},
    **{f"echo_{kind}": lambda inputs: {"y": inputs["x"]} for kind in KINDS},
}


class DoubleSession:
    """Computes with NumPy, waits as long as told, and notes the sizes of its batches.

    `open_` is a gate: while it is cleared, calls wait inside.
    """

    def __init__(self, function, delay_s=0.0):
        self.function = function
        self.delay_s = delay_s
        self.open_ = threading.Event()
        self.open_.set()
        self.entered = threading.Semaphore(0)
        self.sizes = []
        self.closed = False

    def run(self, inputs):
        assert not self.closed
        self.sizes.append(len(next(iter(inputs.values()))))
        self.entered.release()
        assert self.open_.wait(60)
        if self.delay_s:
            time.sleep(self.delay_s)
        return self.function(inputs)

    def memory_bytes(self):
        return 12345

    def close(self):
        self.closed = True


def load_double(folder, settings, clock):
    """What `load_bundle` does, from a double's bundle.json."""
    plan = json.loads((folder / "bundle.json").read_text())
    if plan.get("broken"):
        raise BadModelError(f"{folder.name} is broken", "its weights are not those it was hashed with")
    time.sleep(plan.get("load_s", 0.0))
    signature = SIGNATURES[plan["model"]]
    function = FUNCTIONS[plan["model"]]
    if "factor" in plan:
        function = lambda inputs: scale(inputs, plan["factor"])  # noqa: E731
    session = DoubleSession(function, plan.get("delay_s", 0.0))
    batched = signature.batch_axis is not None
    max_batch = settings.max_batch or plan.get("max_batch", 8) if batched else 1
    choice = Choice("double", workers=settings.workers or 1, max_batch=max_batch)
    workers = [
        Worker(Runner(session, clock, batched=batched, max_batch=max_batch)) for _ in range(choice.workers)
    ]
    return Loaded(signature, choice, session, workers, MeasuredCosts({}), session.memory_bytes())


def write_double(root, name, model, **plan):
    """Write a double's bundle; return its folder."""
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps({"model": model, **plan}))
    return folder


def random_tensor(kind, shape, chance):
    """Values of any element type."""
    if kind == "object":
        texts = np.empty(int(np.prod(shape)), dtype=object)
        texts[:] = [f"é{n}" * (n % 3) for n in range(texts.size)]
        return texts.reshape(shape)
    if kind == "bool":
        return chance.integers(0, 2, shape).astype(bool)
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return chance.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
    return chance.standard_normal(shape).astype(dtype)


def sessions(repository):
    """The double sessions of a repository's live models, by name."""
    return {model.name: model.loaded.session for model in repository.live_models()}


def triton_input(name, array, module=None):
    """An input of the official client, of the array's own type."""
    import tritonclient.grpc as triton

    tensor = (module or triton).InferInput(name, list(array.shape), wire_name(array.dtype.name))
    tensor.set_data_from_numpy(array)
    return tensor


def wait_for(condition, timeout_s=20.0):
    """Until something holds that another thread brings about."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.002)


def say(text):
    """Tell the process that started this one."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main():
    """Serve the folders named on the command line; print the port once ready, and the totals at the end."""
    arguments = json.loads(sys.argv[1])
    settings = replace(Settings(), **arguments.get("settings", {}))
    repository = Repository(arguments["paths"], settings, load=load_double)
    server = Server(repository, drain_s=arguments.get("drain_s", 30.0))
    served = []

    def on_ready(server):
        served.extend(repository.live_models())
        say(server.port)

    answered_all = server.run(on_ready)
    totals = [model.statistics for model in served]
    admitted, success = sum(t.queue.count for t in totals), sum(t.success.count for t in totals)
    say(json.dumps({"admitted": admitted, "success": success}))
    sys.exit(0 if answered_all else 1)


if __name__ == "__main__":
    main()
