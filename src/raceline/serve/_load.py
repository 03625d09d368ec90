"""The load generator: a process of its own, so that its CPU time is not the server's.

`python -m raceline.serve._load [PARENT_PID]` reads a Plan as JSON on stdin, sends its load, writes the
latencies to a file and a Report as JSON to stdout. evaluate.py runs it.

Closed loop: `concurrency` requests are always under way. Open loop: requests leave at moments drawn
beforehand (Poisson), whether or not answers came; latency counts from the intended moment, so a server that
stalls cannot hide the requests that it held up (coordinated omission), and a late generator hurts itself,
visibly.
"""

import json
import os
import random
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from raceline.core.process import die_with
from raceline.serve import proc

MAX_OUTSTANDING = 20_000
"""Open-loop requests under way at most; beyond, they are counted as NOT_SENT instead of eating memory."""

GIVE_UP_AFTER = 1000
"""Requests in a row that meet no server before the closed loop stops asking: it is gone."""


@dataclass(frozen=True)
class Plan:
    """What to send, and for how long.

    Attributes:
        address: host:port.
        path: the gRPC method's path.
        body_file: file with the request's bytes.
        latency_file: where to write the latencies of the answered requests, float64 seconds.
        concurrency: closed loop with that many requests under way; 0: open loop.
        rate_per_s: mean arrivals per second of the open loop.
        seed: of the arrivals.
        warm_up_s, duration_s: the second is measured, the first is not.
        timeout_s: a request without an answer for so long has failed.
        connections: TCP connections to spread the requests over.
        server_pid: root of the server's process tree, to read its CPU time; 0: unknown.
        cpus: cores this process may use; empty: all.
    """

    address: str
    path: str
    body_file: str
    latency_file: str
    concurrency: int = 0
    rate_per_s: float = 0.0
    seed: int = 0
    warm_up_s: float = 1.0
    duration_s: float = 5.0
    timeout_s: float = 30.0
    connections: int = 1
    server_pid: int = 0
    cpus: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What happened in the measured window.

    Attributes:
        sent: requests whose (intended) start lies in the window.
        statuses: gRPC status name -> how many of those ended so.
        completed: answers without error that came within the window, whenever they were asked for.
        window_s: its length as it really was.
        generator_cpu_s: this process's CPU seconds in the window.
        send_lag_s: open loop: 99th percentile of the seconds by which requests left late.
        server_cpu_s, server_rss_bytes, server_cores: None where the process cannot be seen.
    """

    sent: int
    statuses: dict[str, int]
    completed: int
    window_s: float
    generator_cpu_s: float
    send_lag_s: float
    server_cpu_s: float | None = None
    server_rss_bytes: int | None = None
    server_cores: int | None = None


def arrivals_s(rate_per_s: float, seed: int, length_s: float) -> Iterator[float]:
    """Poisson arrival moments below `length_s`, in seconds from 0."""
    chance = random.Random(seed)
    at_s = chance.expovariate(rate_per_s)
    while at_s < length_s:
        yield at_s
        at_s += chance.expovariate(rate_per_s)


@dataclass
class Sender:
    """Sends the same request again and again and keeps what became of each.

    Attributes:
        calls: one callable for each connection.
        records: (intended start, end, status name) of every request that ended.
        lags: (intended start, seconds late) of open-loop requests.
        stopping: no request follows another any more.
        lost_in_a_row: requests that met no server, since one last did.
    """

    calls: list[Any]
    body: bytes
    timeout_s: float
    records: list[tuple[float, float, str]] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    stopping: bool = False
    lost_in_a_row: int = 0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._outstanding = 0
        self._sent = 0

    def closed(self, concurrency: int) -> None:
        """Keep `concurrency` requests under way until `stopping`."""
        for _ in range(concurrency):
            self._send(time.perf_counter(), again=True)

    def open(self, start_s: float, moments_s: Iterator[float]) -> None:
        """Send one request at each moment after `start_s`."""
        for moment_s in moments_s:
            intended_s = start_s + moment_s
            time.sleep(max(0.0, intended_s - time.perf_counter()))
            self.lags.append((intended_s, time.perf_counter() - intended_s))
            if self._outstanding < MAX_OUTSTANDING:
                self._send(intended_s, again=False)
            else:
                self.records.append((intended_s, intended_s, "NOT_SENT"))

    def wait(self) -> None:
        """Until every request under way has ended; each ends by its own timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._outstanding == 0, self.timeout_s + 5)

    def _send(self, intended_s: float, *, again: bool) -> None:
        with self._changed:
            self._outstanding += 1
            self._sent += 1
            call = self.calls[self._sent % len(self.calls)]
        # The timeout counts from the intended moment too.
        left_s = max(1e-3, self.timeout_s - (time.perf_counter() - intended_s))
        future = call.future(self.body, timeout=left_s)

        def ended(future: Any) -> None:
            end_s = time.perf_counter()
            status = future.code().name
            self.records.append((intended_s, end_s, status))
            self.lost_in_a_row = self.lost_in_a_row + 1 if status == "UNAVAILABLE" else 0
            if again and not self.stopping and self.lost_in_a_row < GIVE_UP_AFTER:
                self._send(end_s, again=True)
            with self._changed:
                self._outstanding -= 1
                self._changed.notify_all()

        future.add_done_callback(ended)


def generate(plan: Plan, body: bytes) -> tuple[Report, "array[float]"]:
    """Send the plan's load; return the report and the latencies of the window's answered requests."""
    import grpc

    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),  # else all channels share one connection
    ]
    channels = [grpc.insecure_channel(plan.address, options) for _ in range(plan.connections)]
    sender = Sender([channel.unary_unary(plan.path) for channel in channels], body, plan.timeout_s)
    for channel in channels:
        try:
            grpc.channel_ready_future(channel).result(plan.timeout_s)
        except grpc.FutureTimeoutError:
            raise SystemExit(f"{plan.address} took no connection within {plan.timeout_s:g} s") from None
    start_s = time.perf_counter()
    begin = _start(plan, sender, start_s)
    try:
        marks = [_mark_at(start_s + plan.warm_up_s, plan.server_pid)]
        marks.append(_mark_at(start_s + plan.warm_up_s + plan.duration_s, plan.server_pid))
    finally:
        sender.stopping = True
        begin.join()
        sender.wait()
    for channel in channels:
        channel.close()
    return _report(sender, *marks)


def _start(plan: Plan, sender: Sender, start_s: float) -> threading.Thread:
    if plan.concurrency:
        target, args = sender.closed, (plan.concurrency,)
    else:
        moments_s = arrivals_s(plan.rate_per_s, plan.seed, plan.warm_up_s + plan.duration_s)
        target, args = sender.open, (start_s, moments_s)  # type: ignore[assignment]
    thread = threading.Thread(target=target, args=args)
    thread.start()
    return thread


@dataclass(frozen=True)
class _Mark:
    """An edge of the window: the moment and what had been used by then."""

    time_s: float
    own_cpu_s: float
    server: proc.Usage | None


def _mark_at(moment_s: float, server_pid: int) -> _Mark:
    time.sleep(max(0.0, moment_s - time.perf_counter()))
    return _Mark(time.perf_counter(), time.process_time(), proc.usage(server_pid) if server_pid else None)


def _report(sender: Sender, first: _Mark, last: _Mark) -> tuple[Report, "array[float]"]:
    begin_s, end_s = first.time_s, last.time_s
    window = [record for record in sender.records if begin_s <= record[0] < end_s]
    latencies = array("d", (end - intended for intended, end, status in window if status == "OK"))
    lags = sorted(lag_s for intended_s, lag_s in sender.lags if begin_s <= intended_s < end_s)
    server = {}
    if first.server and last.server:
        server = {
            "server_cpu_s": last.server.cpu_s - first.server.cpu_s,
            "server_rss_bytes": last.server.rss_bytes,
            "server_cores": last.server.cores,
        }
    report = Report(
        sent=len(window),
        statuses=dict(Counter(status for _, _, status in window)),
        completed=sum(begin_s <= end < end_s and status == "OK" for _, end, status in sender.records),
        window_s=end_s - begin_s,
        generator_cpu_s=last.own_cpu_s - first.own_cpu_s,
        send_lag_s=lags[int(0.99 * (len(lags) - 1))] if lags else 0.0,
        **server,  # type: ignore[arg-type]
    )
    return report, latencies


def main() -> None:
    """Read a plan, send it, write the report."""
    sys.setswitchinterval(5e-4)  # a request that is due must not wait long for the thread that takes answers
    if len(sys.argv) > 1:
        die_with(int(sys.argv[1]))
    plan = Plan(**json.load(sys.stdin))
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)
    with open(plan.body_file, "rb") as file:
        body = file.read()
    report, latencies = generate(plan, body)
    with open(plan.latency_file, "wb") as file:
        latencies.tofile(file)
    json.dump(asdict(report), sys.stdout)


if __name__ == "__main__":
    main()
