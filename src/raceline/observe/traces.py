"""Spans in OpenTelemetry's format. Until tracing is configured a span is one comparison and nothing else."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

from raceline.core.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OpenSpan
    from opentelemetry.trace import Tracer

Attribute = str | bool | int | float


class Span(Protocol):
    """A piece of work under way."""

    def note(self, **attributes: Attribute) -> None:
        """Add what was learnt on the way."""


class _NoSpan:
    """What `span` gives while nobody traces."""

    __slots__ = ()

    def note(self, **attributes: Attribute) -> None:
        """Do nothing."""

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class _RealSpan:
    """A span on its way to the exporter."""

    __slots__ = ("_context", "_span")

    def __init__(self, context: "AbstractContextManager[OpenSpan]") -> None:
        self._context = context

    def __enter__(self) -> "Span":
        self._span = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)

    def note(self, **attributes: Attribute) -> None:
        """Add what was learnt on the way."""
        self._span.set_attributes(attributes)


_NO_SPAN = _NoSpan()
_tracer: "Tracer | None" = None
_current: "Tracing | None" = None


def span(name: str, /, **attributes: Attribute) -> AbstractContextManager[Span]:
    """Time a `with` block as a span; what the block learns goes to its `note`.

    Spans inside become its children. An exception that leaves the block is recorded, marks the span as failed
    and goes on. Nearly free until `configure_tracing` is called.

        with span("serve.infer", model=name) as work:
            work.note(batch=8)

    Args:
        name: room and verb, in lower case: `serve.infer`, `convert.read`.
        attributes: what is known at the start.
    """
    if _tracer is None:
        return _NO_SPAN
    return _RealSpan(_tracer.start_as_current_span(name, attributes=attributes))


def current_ids() -> dict[str, str]:
    """Trace and span id of the span the caller is in, in hexadecimal; empty outside of any."""
    if _tracer is None:
        return {}
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


class Tracing:
    """Tracing as `configure_tracing` set it up; stop it, or leave its `with` block."""

    def __init__(self, provider: "TracerProvider", file: IO[str] | None) -> None:
        self._provider, self._file = provider, file

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Hand every finished span to the exporter; False where that took too long."""
        return self._provider.force_flush(int(timeout_s * 1000))

    def stop(self) -> None:
        """Export what is finished and stop tracing; a second call does nothing."""
        global _tracer, _current
        if _current is not self:
            return
        _tracer = _current = None
        self._provider.shutdown()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Tracing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def configure_tracing(
    exporter: "Literal['console', 'file', 'otlp'] | SpanExporter",
    path: str | Path | None = None,
    endpoint: str | None = None,
    service: str = "raceline",
    sample_ratio: float = 1.0,
) -> Tracing:
    """Send spans away, in batches and from a thread of their own.

    Raceline's spans only; the host program's own OpenTelemetry set-up is left alone. A second call takes over
    from the first. What waits is exported at exit.

    Args:
        exporter: "console" (standard error), "file" (JSON lines appended to `path`), "otlp" (a collector at
            `endpoint`, or where OTEL_EXPORTER_OTLP_ENDPOINT says), or an exporter of OpenTelemetry's.
        path: for "file".
        endpoint: for "otlp", such as http://localhost:4318/v1/traces.
        service: what the spans' resource is called.
        sample_ratio: share of traces that are kept, 0 to 1; a trace is kept whole or not at all.

    Raises:
        ConfigError: an argument is impossible or the file cannot be opened.
        MissingDependencyError: "otlp" without its exporter.
    """
    global _tracer, _current
    if not 0 <= sample_ratio <= 1:
        raise ConfigError(f"the sample ratio is {sample_ratio}", "it must lie between 0 and 1")
    chosen, file = _exporter(exporter, path, endpoint)
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
    )
    provider.add_span_processor(BatchSpanProcessor(chosen))
    if _current is not None:
        _current.stop()
    _current, _tracer = Tracing(provider, file), provider.get_tracer("raceline")
    return _current


def _exporter(
    exporter: "str | SpanExporter", path: str | Path | None, endpoint: str | None
) -> "tuple[SpanExporter, IO[str] | None]":
    """The exporter asked for, and the file it writes, if it does."""
    if not isinstance(exporter, str):
        return exporter, None
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    match exporter:
        case "console":
            return ConsoleSpanExporter(out=sys.stderr, formatter=_json_line), None
        case "file":
            file = _open(path)
            return ConsoleSpanExporter(out=file, formatter=_json_line), file
        case "otlp":
            return _otlp(endpoint), None
    raise ConfigError(f"{exporter!r} is not a trace exporter", "console, file and otlp are")


def _json_line(one: "ReadableSpan") -> str:
    return f"{one.to_json(indent=None)}\n"


def _open(path: str | Path | None) -> IO[str]:
    if path is None:
        raise ConfigError("the file exporter needs a path")
    try:
        return Path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write spans to {path}", error.strerror or str(error)) from error


def _otlp(endpoint: str | None) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        package = "opentelemetry-exporter-otlp-proto-http"
        raise MissingDependencyError("the otlp exporter", package, f"pip install {package}") from error
    return OTLPSpanExporter(endpoint=endpoint)
