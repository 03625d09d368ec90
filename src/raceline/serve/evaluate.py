"""Measure a server under load: latency, throughput, and how much of the machine it makes use of.

The load comes from a process of its own (_load.py). Percentiles are exact: nearest rank over every latency.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import BackendLostError, ConfigError, NotReadyError
from raceline.core.progress import Progress, Silent
from raceline.serve._load import Plan, Report
from raceline.serve.messages import SERVICE, message
from raceline.serve.tensors import numpy_dtype, to_raw, wire_of

Array = np.ndarray[Any, Any]

CURVE = tuple(i / 100 for i in range(100)) + (0.995, 0.999, 1.0)
"""The quantiles kept for plots."""

_LIMITED = 0.9  # of one core: the generator's interpreter cannot send more
_LONGEST_S = 3600.0


@dataclass(frozen=True)
class Machine:
    """What efficiency is measured against.

    Attributes:
        flops_per_item: floating-point operations of one item.
        peak_flops_per_s: of the cores that the server may use, as the probe measured them.
    """

    flops_per_item: float
    peak_flops_per_s: float


@dataclass(frozen=True)
class Load:
    """How to load a server; give either `concurrency` (closed loop) or `rate_per_s` (open loop, Poisson).

    Attributes:
        concurrency: requests under way at all times.
        rate_per_s: mean requests per second, whether or not answers come.
        duration_s: the measured part, at most an hour.
        warm_up_s: sent before, not measured.
        timeout_s: a request without an answer for so long has failed.
        connections: TCP connections.
        seed: of the arrivals.
        cpus: cores for the generator, to keep it off the server's; empty: any.
    """

    concurrency: int = 0
    rate_per_s: float = 0.0
    duration_s: float = 5.0
    warm_up_s: float = 1.0
    timeout_s: float = 30.0
    connections: int = 1
    seed: int = 0
    cpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.concurrency > 0) == (self.rate_per_s > 0):
            raise ConfigError(
                f"concurrency is {self.concurrency} and the rate {self.rate_per_s}",
                next_step="Give one of them: a concurrency (closed loop) or a rate (open loop).",
            )
        if not (0 < self.duration_s <= _LONGEST_S and 0 <= self.warm_up_s <= _LONGEST_S):
            raise ConfigError(
                f"duration {self.duration_s} s, warm-up {self.warm_up_s} s", "0 to 3600 are possible"
            )
        if self.timeout_s <= 0 or self.connections < 1:
            raise ConfigError(
                f"timeout {self.timeout_s} s, {self.connections} connections", "both must be positive"
            )


@dataclass(frozen=True)
class Evaluation:
    """What a server did under one load. All figures are of the measured window.

    Attributes:
        model, address, load: what was asked.
        items_per_request: rows in each request.
        requests: how many were sent (open loop: were due).
        requests_per_s, items_per_s: answered without error.
        latency_s: "mean", "p50", "p90", "p99", "p99.9", "max" of the answered ones; empty if none was.
        latency_curve: (quantile, seconds) for plots.
        errors: gRPC status -> requests.
        server_cpu_s_per_request: CPU of the server's process tree for one answer.
        server_cores_busy: CPU seconds of that tree per second.
        cpu_utilisation: the same over the cores that it may use.
        server_rss_bytes: its resident memory at the end.
        gflop_per_s: useful arithmetic: FLOPs of the model times items per second.
        resource_efficiency: the same over the peak of the machine.
        generator_cores_busy: CPU of the generator per second; near 1 it could not send more.
        send_lag_s: open loop: 99th percentile of how late requests left; part of their latency.
        generator_limited: the figures show the generator's limit rather than the server's.
    """

    model: str
    address: str
    load: Load
    items_per_request: int
    requests: int
    requests_per_s: float
    items_per_s: float
    latency_s: dict[str, float]
    latency_curve: tuple[tuple[float, float], ...]
    errors: dict[str, int]
    generator_cores_busy: float
    generator_limited: bool
    send_lag_s: float
    server_cpu_s_per_request: float | None = None
    server_cores_busy: float | None = None
    cpu_utilisation: float | None = None
    server_rss_bytes: int | None = None
    gflop_per_s: float | None = None
    resource_efficiency: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def evaluate(
    address: str,
    model: str,
    load: Load,
    inputs: Mapping[str, Array] | None = None,
    *,
    items: int = 1,
    server_pid: int | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Load one model of a server and measure.

    Args:
        address: host:port of its gRPC front (any KServe v2 server).
        model: the model's name.
        load: how hard and how long.
        inputs: sent with every request; None: made from the server's metadata, dynamic axes at 1 but for the
            first, which is `items`.
        items: how many a request holds.
        server_pid: root of the server's process tree on this machine, for CPU and memory figures.
        machine: for efficiency figures.
        progress: told while the load runs.

    Raises:
        NotReadyError: the server does not answer, or has no such model.
        BackendLostError: the load generator failed; the message carries what it wrote.
    """
    inputs = dict(inputs) if inputs is not None else inputs_from_metadata(address, model, items)
    total_s = load.warm_up_s + load.duration_s
    with (
        tempfile.TemporaryDirectory() as folder,
        (progress or Silent()).step(f"load {model}", total_s) as step,
    ):
        body_file, latency_file = Path(folder, "body"), Path(folder, "latencies")
        body_file.write_bytes(request_body(model, inputs))
        plan = Plan(
            address=address,
            path=f"/{SERVICE}/ModelInfer",
            body_file=str(body_file),
            latency_file=str(latency_file),
            server_pid=server_pid or 0,
            **{**asdict(load), "cpus": list(load.cpus)},
        )
        report = _generate(plan, step.advance)
        latencies_s = np.sort(np.fromfile(latency_file, np.float64))
    return _evaluation(model, address, load, items, report, latencies_s, machine)


def saturate(
    address: str,
    model: str,
    inputs: Mapping[str, Array] | None = None,
    *,
    load: Load | None = None,
    items: int = 1,
    most: int = 128,
    gain: float = 0.05,
    server_pid: int | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Double the concurrency from 1 until throughput stops rising; the runs in order of concurrency.

    Two runs in a row that are not better than the best before by the share `gain` end the search, as does the
    concurrency `most`. `load` gives the durations and so on of each run, its concurrency is replaced; the
    other arguments are those of `evaluate`.
    """
    runs: list[Evaluation] = []
    concurrency, flat, best = 1, 0, 0.0
    while concurrency <= most and flat < 2:
        at = replace(load or Load(concurrency=1), concurrency=concurrency, rate_per_s=0.0)
        run = evaluate(
            address,
            model,
            at,
            inputs,
            items=items,
            server_pid=server_pid,
            machine=machine,
            progress=progress,
        )
        runs.append(run)
        flat = 0 if run.requests_per_s > best * (1 + gain) else flat + 1
        best = max(best, run.requests_per_s)
        concurrency *= 2
    return runs


def request_body(model: str, inputs: Mapping[str, Array], **fields: str) -> bytes:
    """The bytes of a ModelInferRequest with raw contents; `fields` are further ones, such as `id`."""
    request = message("ModelInferRequest")(model_name=model, **fields)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=wire_of(array.dtype), shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    return bytes(request.SerializeToString())


def inputs_from_metadata(address: str, model: str, items: int = 1, seed: int = 0) -> dict[str, Array]:
    """Inputs that fit what a server says of a model: floats in [0, 1), all else zero; dynamic axes are 1.

    Args:
        address: host:port of the server.
        model: the model's name.
        items: size of the first axis where it is dynamic.
        seed: of the floats.

    Raises:
        NotReadyError: the server does not answer, or has no such model.
    """
    chance = np.random.default_rng(seed)
    metadata = _ask(address, "ModelMetadata", name=model)
    inputs = {}
    for tensor in metadata.inputs:
        dynamic = [items if index == 0 else 1 for index in range(len(tensor.shape))]
        shape = [size if size > 0 else free for size, free in zip(tensor.shape, dynamic, strict=True)]
        dtype = numpy_dtype(tensor.datatype)
        if tensor.datatype == "BYTES":
            inputs[tensor.name] = np.full(shape, "", dtype=object)
        elif dtype.kind == "f" or tensor.datatype == "BF16":
            inputs[tensor.name] = chance.random(shape).astype(dtype)
        else:
            inputs[tensor.name] = np.zeros(shape, dtype)
    return inputs


def _ask(address: str, rpc: str, **fields: str) -> Any:
    """One call of a running server."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{rpc}")
        body = message(f"{rpc}Request")(**fields).SerializeToString()
        try:
            return message(f"{rpc}Response").FromString(call(body, timeout=10.0))
        except grpc.RpcError as error:
            raise NotReadyError(
                f"{address} did not answer {rpc}",
                str(error.details()),
                "Check the address and the model's name.",
            ) from error


def _generate(plan: Plan, advance: Any) -> Report:
    """Run the generator to its end, telling progress meanwhile."""
    limit_s = plan.warm_up_s + plan.duration_s + 2 * plan.timeout_s + 30
    command = [sys.executable, "-m", "raceline.serve._load", str(os.getpid())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        began_s, told_s, written = time.perf_counter(), 0.0, json.dumps(asdict(plan))
        while True:
            try:
                out, err = process.communicate(written, timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                written = None  # type: ignore[assignment]  # already on its way
                elapsed_s = time.perf_counter() - began_s
                advance(elapsed_s - told_s)
                told_s = elapsed_s
                if elapsed_s > limit_s:
                    process.kill()
    if process.returncode:
        raise BackendLostError("the load generator failed", err.strip()[-2000:])
    return Report(**json.loads(out))


def percentile(sorted_s: Sequence[float] | Array, quantile: float) -> float:
    """The smallest value that at least this share of all values does not exceed (nearest rank).

    Args:
        sorted_s: ascending, not empty.
        quantile: 0 to 1.
    """
    rank = max(1, math.ceil(round(quantile * len(sorted_s), 9)))
    return float(sorted_s[rank - 1])


def _latency(sorted_s: Array) -> dict[str, float]:
    if not len(sorted_s):
        return {}
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {"mean": float(sorted_s.mean()), **{k: percentile(sorted_s, q) for k, q in quantiles.items()}}


def _evaluation(
    model: str,
    address: str,
    load: Load,
    items: int,
    report: Report,
    sorted_s: Array,
    machine: Machine | None,
) -> Evaluation:
    per_s = report.completed / report.window_s
    generator = report.generator_cpu_s / report.window_s
    latency_s = _latency(sorted_s)
    late = bool(latency_s) and report.send_lag_s > 0.5 * latency_s["p50"]
    result = Evaluation(
        model=model,
        address=address,
        load=load,
        items_per_request=items,
        requests=report.sent,
        requests_per_s=per_s,
        items_per_s=per_s * items,
        latency_s=latency_s,
        latency_curve=tuple((q, percentile(sorted_s, q)) for q in CURVE) if latency_s else (),
        errors={status: count for status, count in report.statuses.items() if status != "OK"},
        generator_cores_busy=generator,
        generator_limited=generator > _LIMITED or late,
        send_lag_s=report.send_lag_s,
        server_rss_bytes=report.server_rss_bytes,
    )
    return _with_efficiency(_with_server(result, report), machine)


def _with_server(result: Evaluation, report: Report) -> Evaluation:
    if report.server_cpu_s is None or report.server_cores is None:
        return result
    busy = report.server_cpu_s / report.window_s
    return replace(
        result,
        server_cpu_s_per_request=report.server_cpu_s / report.completed if report.completed else None,
        server_cores_busy=busy,
        cpu_utilisation=busy / report.server_cores,
    )


def _with_efficiency(result: Evaluation, machine: Machine | None) -> Evaluation:
    if machine is None:
        return result
    flops_per_s = machine.flops_per_item * result.items_per_s
    return replace(
        result,
        gflop_per_s=flops_per_s * 1e-9,
        resource_efficiency=flops_per_s / machine.peak_flops_per_s,
    )
