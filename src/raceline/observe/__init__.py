"""What happened, in the field's formats: metrics, spans, logs. Decides nothing.

Recording is cheap everywhere: a metric is an append, a span nothing until tracing is on, a log event a queue
entry. Importing this room loads none of the libraries behind it.
"""

from raceline.observe.exposition import MetricsServer, render_metrics, serve_metrics
from raceline.observe.logs import Logs, configure_logs, get_logger
from raceline.observe.metrics import Counter, Gauge, Histogram, Registry
from raceline.observe.traces import Span, Tracing, configure_tracing, span

__all__ = [
    "Counter",
    "Gauge",
    "Histogram",
    "Logs",
    "MetricsServer",
    "Registry",
    "Span",
    "Tracing",
    "configure_logs",
    "configure_tracing",
    "get_logger",
    "render_metrics",
    "serve_metrics",
    "span",
]
