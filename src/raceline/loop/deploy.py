"""One model's journey: read, optimise, tune, prove, bundle, serve, measure, report."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from raceline.convert import IRTranslator, settle, tune, verify
from raceline.core.errors import BackendLostError, BadModelError
from raceline.core.progress import Progress, Silent, Step
from raceline.ir import (
    Candidate,
    Cost,
    Limits,
    Model,
    PlatformProfile,
    Profile,
    Shapes,
    cost,
    make_inputs,
    structural_sha256,
)
from raceline.loop.deployment import Deployment, Plan, Served
from raceline.loop.report import write_report
from raceline.serve import Evaluation, Load, Machine, Settings, choose, evaluate

_SHARED_LOAD = 0.7  # of what the untouched model can take: both sides then meet the same open load
_CONCURRENCY = 16


class _Stages:
    """Times the named stages and tells progress of them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[Step]:
        began_s = time.perf_counter()
        with self.progress.step(name) as step:
            yield step
        self.seconds[name] = time.perf_counter() - began_s


def deploy(plan: Plan, *, progress: Progress | None = None) -> Deployment:
    """Take a model file to a proven, measured bundle and a report.

    Nothing is written to `plan.out` before the model has been read, tuned and proven.

    Raises:
        RequestError: the model, a shape or a setting is unusable; the message says what to change.
        BadModelError: no engine runs it, or the fastest that does is not equivalent.
        BackendLostError: the server died while it was measured.
    """
    stages = _Stages(progress or Silent())
    translator = IRTranslator()
    with stages("read"):
        source, sizes = _read(translator, plan)
        shapes = source.signature.concrete(sizes)
    with stages("optimise"):
        model = translator.optimize(source)
        before, after = cost(source, sizes), cost(model, sizes)
    with stages("tune"):
        machine, budget_s = translator.platform, plan.budget_s
        profile = tune(source, model, machine, shapes=shapes, budget_s=budget_s, progress=stages.progress)
        if profile.best().candidate.variant == "source":  # no rewrite helps the engine that is fastest here
            model = source
            profile = replace(profile, variant="source", model_sha256=structural_sha256(source))
    with stages("prove"):
        served = _as_served(model, profile, translator.platform.cores)
        equivalence = verify(source, model, served, _cases(source, sizes), progress=stages.progress)
        if not equivalence.ok:
            why = str(equivalence.divergence)
            raise BadModelError(f"{served} does not compute what {plan.model.name} means", why)
    name = bundle_name(plan.name or plan.model.stem)
    with stages("bundle"):
        translator.export(model, plan.out / name, profile=profile, equivalence=equivalence.to_json())
    with tempfile.TemporaryDirectory(prefix="raceline-") as scratch:
        untouched = Path(scratch, name)
        translator.export(source, untouched)
        comparison = _Comparison(plan, model, shapes, _machine(translator.platform, after), stages)
        ways = comparison.run(untouched, plan.out / name)
    result = Deployment(
        name=name,
        bundle=plan.out / name,
        report=plan.out / name / "report.html",
        source=source,
        model=model,
        shapes=shapes,
        platform=translator.platform,
        notes=(*translator.rewrites, *translator.refusals),
        cost_before=before,
        cost_after=after,
        profile=profile,
        equivalence=equivalence,
        before=ways[0],
        after=ways[1],
        stage_s=stages.seconds,
    )
    write_report(result)
    return result


def bundle_name(text: str) -> str:
    """A folder name like `text`, with anything unusual made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"


def _read(translator: IRTranslator, plan: Plan) -> tuple[Model, dict[str, int]]:
    """The model, ready to be generated inputs for; and the sizes of its dynamic axes at batch 1."""
    limits = Limits() if plan.memory_limit_bytes is None else Limits(max_model_bytes=plan.memory_limit_bytes)
    model = translator.parse(plan.model, limits=limits)
    return settle(model, shapes=plan.shapes, values=plan.values)


def _as_served(model: Model, profile: Profile, cores: int) -> Candidate:
    """The way in which a server will run the bundle."""
    choice = choose(profile, Settings(), batched=model.signature.batch_axis is not None, cores=cores)
    return Candidate(
        choice.engine,
        precision=choice.precision,
        threads=choice.threads,
        batch=choice.max_batch * choice.workers if model.signature.batch_axis else 1,
        streams=choice.workers if model.signature.batch_axis else 1,
        variant=profile.variant,
    )


def _cases(model: Model, sizes: dict[str, int]) -> list[dict[str, int]]:
    """Sizes to prove equivalence at: one item and an odd batch."""
    axis = model.signature.batch_axis
    return [sizes] if axis is None else [{**sizes, axis: 1}, {**sizes, axis: 3}]


def _machine(platform: PlatformProfile, of_item: Cost) -> Machine | None:
    """What efficiency is measured against; None where the machine's peak is unknown."""
    peak = platform.peak_ops_per_s("fp32")
    return Machine(of_item.flops, peak) if peak else None


@dataclass
class _Comparison:
    """Serves a model in two ways, one after the other, and puts the same load on both."""

    plan: Plan
    model: Model
    shapes: Shapes
    machine: Machine | None
    stages: _Stages

    def run(self, untouched: Path, tuned: Path) -> tuple[Served, Served]:
        """Both ways, measured; the shared load is a share of what the untouched model can take."""
        plain = ("--engine", "onnxruntime", "--max-batch", "1", "--workers", "1")
        with self.stages("serve untouched"), _serving(untouched, plain) as server:
            saturated = self._load(server, Load(concurrency=_CONCURRENCY, duration_s=self.plan.load_s))
            rate = max(0.5, _SHARED_LOAD * saturated.requests_per_s)
            shared = Load(rate_per_s=rate, duration_s=self._long_enough_s(rate))
            before = Served(server.setup, server.start_s, saturated, self._load(server, shared))
        with self.stages("serve tuned"), _serving(tuned, ()) as server:
            saturated = self._load(server, Load(concurrency=_CONCURRENCY, duration_s=self.plan.load_s))
            after = Served(server.setup, server.start_s, saturated, self._load(server, shared))
        return before, after

    def _load(self, server: "_Server", load: Load) -> Evaluation:
        inputs = make_inputs(self.model.signature, self.shapes, seed=0)
        return evaluate(
            server.address, server.name, load, inputs, server_pid=server.pid, machine=self.machine
        )

    def _long_enough_s(self, rate: float) -> float:
        """Time for a hundred requests, so that a P99 means something; at most six times the plan's."""
        return min(max(self.plan.load_s, 100 / rate), 6 * self.plan.load_s)


@dataclass(frozen=True)
class _Server:
    """A server process of ours.

    Attributes:
        name: the model it serves.
        setup: how it serves it, in words.
        start_s: from starting the process until it could answer.
    """

    pid: int
    address: str
    name: str
    setup: str
    start_s: float


@contextmanager
def _serving(bundle: Path, options: tuple[str, ...]) -> Iterator[_Server]:
    """Serve one bundle from a process of its own while the block runs."""
    command = [sys.executable, "-m", "raceline", "serve", str(bundle), "--port", "0", "--json", *options]
    began_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BackendLostError(
                    "the server ended before it was ready", next_step="Its error is above."
                )
            ready = json.loads(line)
            ((name, setup),) = ready["models"].items()
            yield _Server(process.pid, ready["address"], name, setup, time.perf_counter() - began_s)
        finally:
            process.terminate()
            process.wait(timeout=60)
