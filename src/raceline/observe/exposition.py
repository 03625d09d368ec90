"""Metrics in Prometheus's text format: as a string, or served over HTTP."""

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raceline.core.errors import ConfigError
from raceline.observe.metrics import REGISTRY, Registry

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def render_metrics(registry: Registry = REGISTRY) -> str:
    """Everything that was recorded, in Prometheus's text format."""
    from prometheus_client import generate_latest

    return generate_latest(_as_prometheus(registry)).decode()


def _as_prometheus(registry: Registry) -> "CollectorRegistry":
    """`registry` and, beside the process's own metrics, what the system knows of the process."""
    from prometheus_client import CollectorRegistry, ProcessCollector

    both = CollectorRegistry(auto_describe=False)
    both.register(registry)
    if registry is REGISTRY:
        ProcessCollector(registry=both)
    return both


class MetricsServer:
    """A running exposition; stop it, or leave its `with` block."""

    def __init__(self, server: Any, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread
        self.host, self.port = server.server_address[:2]

    @property
    def url(self) -> str:
        """Where Prometheus scrapes."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def stop(self) -> None:
        """Close the port; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "MetricsServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve_metrics(port: int, host: str = "127.0.0.1", registry: Registry = REGISTRY) -> MetricsServer:
    """Answer scrapes at /metrics in a thread of its own.

    Args:
        port: 0 takes any free one; the server's `port` tells which.
        host: the address to listen on. Only this machine can reach the default; metrics are not encrypted and
            ask for no password.
        registry: what to show.

    Raises:
        ConfigError: the address cannot be had.
    """
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=_as_prometheus(registry))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot serve metrics on {host}:{port}",
            str(error),
            "Choose another port, or 0 for any free one.",
        ) from error
    return MetricsServer(server, thread)
