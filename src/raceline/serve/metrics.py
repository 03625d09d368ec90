"""What the serve room counts, for Prometheus."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from raceline.observe import Counter, Gauge, Histogram, serve_metrics

_ITEMS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 48, 64, 128)

_requests = Counter(
    "raceline_serve_requests_total",
    "Inference requests that ended, by how: ok, or the error's class. No model: it was unknown.",
    ("model", "status"),
)
_request_seconds = Histogram(
    "raceline_serve_request_seconds", "From a parsed request to its answer or refusal.", ("model",)
)
_batch_items = Histogram("raceline_serve_batch_items", "Items in each batch that ran.", ("model",), _ITEMS)
_run_seconds = Histogram("raceline_serve_run_seconds", "The engine's time for a batch.", ("model",))
_queue_items = Gauge("raceline_serve_queue_items", "Items that wait for a worker.", ("model",))


def answered(model: str, status: str, duration_s: float) -> None:
    """Count a request that ended, well or not."""
    _requests.labels(model=model, status=status).add()
    _request_seconds.labels(model=model).observe(duration_s)


def ran(model: str, items: int, run_s: float) -> None:
    """Count a batch that ran."""
    _batch_items.labels(model=model).observe(items)
    _run_seconds.labels(model=model).observe(run_s)


def watch_queue(model: str, items: Callable[[], int]) -> None:
    """Show what `items` says as the length of the model's queue."""
    _queue_items.labels(model=model).watch(items)


def exposed(port: int | None, host: str) -> AbstractContextManager[Any]:
    """Serve the metrics at `http://host:port/metrics` while the block runs; with None, do not.

    Raises:
        ConfigError: the address cannot be had.
    """
    return nullcontext() if port is None else serve_metrics(port, host)
