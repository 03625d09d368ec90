"""One model's journey: read, optimise, tune, prove, bundle, serve, measure, report."""

import json
import logging
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from raceline.convert import (
    Equivalence,
    Hints,
    IRTranslator,
    Reduced,
    open_model,
    quantise,
    reduce,
    tune,
    verify,
    verify_accuracy,
)
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, RacelineError
from raceline.core.process import child
from raceline.core.progress import Progress, Silent, Step
from raceline.ir import (
    FULL,
    Bundle,
    Candidate,
    Cost,
    Limits,
    Model,
    PlatformProfile,
    Profile,
    Shapes,
    cost,
    make_inputs,
    run_reference,
    structural_sha256,
)
from raceline.ir.bundle import refuse_to_replace_others
from raceline.loop.deployment import Deployment, Plan, Served
from raceline.loop.report import page_of
from raceline.serve import Evaluation, Load, Machine, Settings, choose, cores_here, evaluate, open_session

_logger = logging.getLogger(__name__)

_SHARED_LOAD = 0.7  # of what the untouched model can take: both sides then meet the same open load
_CONCURRENCY = 16
_START_LIMIT_S = 180.0
_PLAIN_ENGINE = "onnxruntime"
_LEAST_SEARCH_S = 30.0  # for quantised graphs that keep the accuracy budget


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
        BadModelError: no engine runs it, or none that does is equivalent.
        BackendLostError: the server died while it was measured.
    """
    name = bundle_name(plan.name or plan.model.stem)
    _check_writable(plan.out)
    refuse_to_replace_others(plan.out / name)
    stages = _Stages(progress or Silent())
    translator = IRTranslator()
    with stages("read"):
        source, sizes = _read(plan)
        shapes = source.signature.concrete(sizes)
    with stages("optimise"):
        model = translator.optimize(source)
        before, after = cost(source, sizes), cost(model, sizes)
    reduced = _reduced(plan, source, model, translator.platform, shapes, stages)
    with stages("tune"):
        profile = tune(
            source, model, translator.platform, shapes=shapes, reduced=reduced, budget_s=plan.budget_s,
            progress=stages.progress,
        )  # fmt: skip
    if plan.precision == "int8":
        profile = _only(profile, "int8", reduced)
    with stages("prove"):
        served, profile, equivalence = _proven(source, model, reduced, profile, sizes, stages.progress)
    with stages("bundle"):
        translator.export(served, plan.out / name, profile=profile, equivalence=equivalence.to_json())
    with tempfile.TemporaryDirectory(prefix="raceline-") as scratch:
        untouched = Path(scratch, name)
        translator.export(source, untouched)
        machine_load = _machine(translator.platform, before, after)
        comparison = _Comparison(plan, source, shapes, machine_load, _plain_engine(profile), stages)
        ways = comparison.run(untouched, plan.out / name)
    result = Deployment(
        name=name,
        bundle=plan.out / name,
        report=plan.out / name / "report.html",
        source=source,
        model=model,
        profile=profile,
        shapes=shapes,
        platform=translator.platform,
        notes=(*translator.rewrites, *translator.refusals),
        precision_notes=reduced.notes,
        cost_before=before,
        cost_after=after,
        equivalence=equivalence,
        before=ways[0],
        after=ways[1],
        stage_s=stages.seconds,
    )
    with stages("report"):
        # The report is part of the bundle, hashed like the rest; a deploy that comes later replaces both.
        page = {"report.html": page_of(result).encode()}
        Bundle.write(
            result.bundle, served, profile=profile, equivalence=equivalence.to_json(), attachments=page
        )
    return result


def bundle_name(text: str) -> str:
    """A folder name like `text`, with anything unusual made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"


def _check_writable(folder: Path) -> None:
    """Refuse early what would fail after minutes of work.

    Raises:
        ConfigError: nothing can be written there.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(
            f"nothing can be written to {folder}", f"{existing} is a file", "Give another --out."
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"nothing can be written to {folder}", error.strerror or str(error), "Give another --out."
        ) from error


def _read(plan: Plan) -> tuple[Model, dict[str, int]]:
    """The model, ready to be generated inputs for; and the sizes of its dynamic axes at batch 1."""
    limits = Limits() if plan.memory_limit_bytes is None else Limits(max_model_bytes=plan.memory_limit_bytes)
    hints = Hints(plan.shapes, plan.values, plan.options)
    return open_model(plan.model, limits=limits, hints=hints).settled()


def _reduced(
    plan: Plan, source: Model, model: Model, platform: PlatformProfile, shapes: Shapes, stages: _Stages
) -> Reduced:
    """The ways of computing with fewer bits that the plan lets compete; none without data."""
    if plan.precision == "fp32":
        return Reduced()
    if not plan.data:
        return Reduced(notes=("fewer bits did not compete: that needs calibration data (--data FILE)",))
    with stages("quantise"):
        samples = quantise.samples_for(source.signature, plan.data, shapes, plan.labels)
        return reduce(
            model, samples, quantise.budget_of(plan.metric, plan.accuracy_drop), platform, shapes=shapes,
            precisions=("int8",) if plan.precision == "int8" else ("int8", "bf16"),
            deadline_s=max(_LEAST_SEARCH_S, plan.budget_s), progress=stages.progress,
        )  # fmt: skip


def _only(profile: Profile, precision: str, reduced: Reduced) -> Profile:
    """The profile of one precision alone.

    Raises:
        BadModelError: nothing of it is within the accuracy budget.
    """
    rows = tuple(row for row in profile.measurements if row.candidate.precision == precision)
    if all(row.failure for row in rows):
        reasons = [*reduced.notes, *(f"{row.candidate}: {row.failure}" for row in rows)]
        raise BadModelError(
            f"nothing computes this model at {precision} within the accuracy budget",
            "; ".join(reasons),
            "Allow a larger --accuracy-drop, or take --precision auto, which keeps full precision then.",
        )
    return replace(profile, measurements=rows)


def _proven(
    source: Model,
    model: Model,
    reduced: Reduced,
    profile: Profile,
    sizes: dict[str, int],
    progress: Progress,
) -> tuple[Model, Profile, Equivalence]:
    """The graph to serve, its profile, and the proof of the session that a server will open for it.

    Where the fastest engine computes something else at the sizes of a server, which was not tuned for one shape,
    or too much is lost there, the next one gets its turn.

    Raises:
        BadModelError: none is left; says where each began to differ.
    """
    graphs = {way.variant: way.model for way in reduced.ways} | {"source": source, "optimised": model}
    while True:
        variant = (
            profile.best().candidate.variant
        )  # "source" where no rewrite helps the engine that is fastest here
        served = graphs[variant]
        chosen = replace(profile, variant=variant, model_sha256=structural_sha256(served))
        candidate, proof, why = _prove(source, served, reduced, chosen, sizes, progress)
        if proof is not None and proof.ok:
            return served, chosen, proof
        _logger.warning("%s does not compute what %s means: %s", candidate, source.provenance.source, why)
        only = "" if candidate.precision == FULL else candidate.precision
        rest = profile.without(candidate.engine, candidate.variant, f"not equivalent: {why}", precision=only)
        if rest == profile:  # a server would take an engine that was never measured
            raise BadModelError(f"{candidate} does not compute what {source.provenance.source} means", why)
        profile = rest


def _prove(
    source: Model,
    model: Model,
    reduced: Reduced,
    profile: Profile,
    sizes: dict[str, int],
    progress: Progress,
) -> tuple[Candidate, Equivalence | None, str]:
    """Hold the session that a server will open for the bundle against the reference run of the source.

    One with fewer bits is held against the accuracy budget.
    """
    batched = model.signature.batch_axis is not None
    choice = choose(profile, Settings(), batched=batched, cores=cores_here())
    candidate = Candidate(
        choice.engine,
        precision=choice.precision,
        threads=choice.threads,
        batch=choice.max_batch,
        variant=profile.variant,
    )
    cases = _cases(source, sizes)
    try:
        session = open_session(model, choice, profile)
        if choice.precision != FULL and reduced.judge is not None:
            proof = verify_accuracy(reduced.judge, candidate, session)
            return candidate, proof, "" if proof.ok else str(proof)
        proof = verify(source, model, candidate, cases, seeds=(0, 1), session=session, progress=progress)
    except (BadModelError, BackendLostError) as error:
        return candidate, None, str(error)
    return candidate, proof, "" if proof.ok else str(proof.divergence)


def _cases(model: Model, sizes: dict[str, int]) -> list[dict[str, int]]:
    """Sizes to prove equivalence at: those given, an odd batch, and other sizes of the open axes that work."""
    axis = model.signature.batch_axis
    cases = [sizes] if axis is None else [{**sizes, axis: 1}, {**sizes, axis: 3}]
    others = {name: size + 32 for name, size in sizes.items() if name != axis}
    if not others:
        return cases
    larger = {**sizes, **others}
    inputs = make_inputs(model.signature, model.signature.concrete(larger), seed=0)
    try:
        run_reference(model, inputs)
    except RacelineError:
        return cases  # sizes that the model does not take
    return [*cases, larger]


def _plain_engine(profile: Profile) -> str:
    """The engine of the untouched model: ONNX Runtime, as most people have it, if it runs that graph rightly."""
    rows = [row for row in profile.measurements if not row.failure]
    variants = {row.candidate.variant for row in profile.measurements}
    as_read = "source" if "source" in variants else "optimised"  # no pass changed anything
    able = [row.candidate.engine for row in rows if row.candidate.variant == as_read]
    return _PLAIN_ENGINE if _PLAIN_ENGINE in able or not able else able[0]


def _machine(platform: PlatformProfile, *graphs: Cost) -> Machine | None:
    """What efficiency is measured against; None where the machine's peak is unknown.

    The work of an item is that of the graph which does it with less: what passes add to fill the vector
    registers, or take away, is not efficiency.
    """
    peak = platform.peak_ops_per_s("fp32")
    return Machine(min(graph.flops for graph in graphs), peak) if peak else None


@dataclass
class _Comparison:
    """Serves a model in two ways, one after the other, and puts the same load on both."""

    plan: Plan
    model: Model
    shapes: Shapes
    machine: Machine | None
    plain_engine: str
    stages: _Stages

    def run(self, untouched: Path, tuned: Path) -> tuple[Served, Served]:
        """Both ways, measured; the shared load is a share of what the untouched model can take."""
        plain = ("--engine", self.plain_engine, "--max-batch", "1", "--workers", "1")
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
        pid = server.process.pid
        try:
            return evaluate(server.address, server.name, load, inputs, server_pid=pid, machine=self.machine)
        finally:
            if (code := server.process.poll()) is not None:
                raise BackendLostError("the server died while it was measured", f"exit code {code}")

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

    process: "subprocess.Popen[str]"
    address: str
    name: str
    setup: str
    start_s: float


@contextmanager
def _serving(bundle: Path, options: tuple[str, ...]) -> Iterator[_Server]:
    """Serve one bundle from a process of its own while the block runs; it ends when this process does."""
    command = [sys.executable, "-m", "raceline", "serve", str(bundle), "--port", "0", "--json"]
    began_s = time.perf_counter()
    with child([*command, "--parent", str(os.getpid()), *options]) as process:
        line = _first_line(process, _START_LIMIT_S)
        if not line:
            raise BackendLostError("the server did not become ready", next_step="What it said is above.")
        ready = json.loads(line)
        ((name, setup),) = ready["models"].items()
        yield _Server(process, ready["address"], name, setup, time.perf_counter() - began_s)


def _first_line(process: "subprocess.Popen[str]", timeout_s: float) -> str:
    """What a child prints first; empty where it ends, or prints nothing in that time."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], timeout_s)
    return process.stdout.readline() if readable else ""
