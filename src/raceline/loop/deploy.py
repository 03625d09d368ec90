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
from dataclasses import dataclass
from pathlib import Path

from raceline.core.errors import BackendLostError
from raceline.core.process import child
from raceline.core.progress import Progress, Silent
from raceline.ir import (
    Bundle,
    Cost,
    Model,
    PlatformProfile,
    Profile,
    Shapes,
    cost,
    make_inputs,
)
from raceline.ir.bundle import refuse_to_replace_others
from raceline.loop.deployment import Deployment, Plan, Served
from raceline.loop.preparing import Stages, check_writable, prepare
from raceline.loop.report import page_of
from raceline.serve import Evaluation, Load, Machine, evaluate

_logger = logging.getLogger(__name__)

_SHARED_LOAD = 0.7  # of what the untouched model can take: both sides then meet the same open load
_CONCURRENCY = 16
_START_LIMIT_S = 180.0
_PLAIN_ENGINES = ("onnxruntime", "openvino", "mnn")  # ONNX Runtime, as most people have it, if it can


def deploy(plan: Plan, *, progress: Progress | None = None) -> Deployment:
    """Take a model file to a proven, measured bundle and a report.

    Nothing is written to `plan.out` before the model has been read, tuned and proven.

    Raises:
        RequestError: the model, a shape or a setting is unusable; the message says what to change.
        BadModelError: no engine runs it, or none that does is equivalent.
        BackendLostError: the server died while it was measured.
    """
    name = bundle_name(plan.name or plan.model.stem)
    check_writable(plan.out)
    refuse_to_replace_others(plan.out / name)
    stages = Stages(progress or Silent())
    made = prepare(plan, stages)
    source, profile, equivalence = made.source, made.profile, made.equivalence
    translator, served = made.translator, made.served
    before, after = cost(source, made.sizes), cost(made.model, made.sizes)
    with stages("bundle"):
        translator.export(served, plan.out / name, profile=profile, equivalence=equivalence.to_json())
    with tempfile.TemporaryDirectory(prefix="raceline-") as scratch:
        untouched = Path(scratch, name)
        translator.export(source, untouched)
        machine_load = _machine(translator.platform, before, after)
        comparison = _Comparison(plan, source, made.shapes, machine_load, _plain_engine(profile), stages)
        ways = comparison.run(untouched, plan.out / name)
    result = Deployment(
        name=name,
        bundle=plan.out / name,
        report=plan.out / name / "report.html",
        source=source,
        model=made.model,
        profile=profile,
        shapes=made.shapes,
        platform=translator.platform,
        notes=(*translator.rewrites, *translator.refusals),
        precision_notes=made.reduced.notes,
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


def _plain_engine(profile: Profile) -> str:
    """The engine of the untouched model: the first of the usual ones that is not known to fail on that graph."""
    variants = {row.candidate.variant for row in profile.measurements}
    as_read = "source" if "source" in variants else "optimised"  # no pass changed anything
    rows = [row for row in profile.measurements if row.candidate.variant == as_read]
    able = {row.candidate.engine for row in rows if not row.failure or row.untried}
    return next((e for e in _PLAIN_ENGINES if e in able), min(able, default=_PLAIN_ENGINES[0]))


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
    stages: Stages

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
