"""Spans: nothing until configured; then what OpenTelemetry's exporters receive."""

import json
import subprocess
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from raceline.core.errors import ConfigError, MissingDependencyError
from raceline.observe import configure_tracing, span


@pytest.fixture
def memory():
    """An exporter that keeps the spans; call it for those finished so far, by name."""
    exporter = InMemorySpanExporter()
    tracing = configure_tracing(exporter)

    def finished():
        assert tracing.flush()
        return {s.name: s for s in exporter.get_finished_spans()}

    yield finished
    tracing.stop()


def test_without_set_up_a_span_is_nothing_at_all():
    first, second = span("a", x=1), span("b")
    assert first is second
    with first as work:
        work.note(batch=3)
    with pytest.raises(KeyError), span("a"):
        raise KeyError


def test_spans_nest_and_carry_attributes(memory):
    with span("serve.infer", model="yolo", name="an attribute may be called name") as outer:
        with span("serve.batch", size=8):
            pass
        outer.note(status="ok", share=0.5)
    spans = memory()
    outer, inner = spans["serve.infer"], spans["serve.batch"]
    assert inner.parent.span_id == outer.context.span_id
    assert inner.context.trace_id == outer.context.trace_id
    assert dict(outer.attributes) == {
        "model": "yolo",
        "name": "an attribute may be called name",
        "status": "ok",
        "share": 0.5,
    }
    assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time
    assert outer.resource.attributes["service.name"] == "raceline"


def test_an_exception_is_recorded_and_goes_on(memory):
    with pytest.raises(ValueError, match="too wide"), span("convert.read"):
        raise ValueError("too wide")
    one = memory()["convert.read"]
    assert one.status.status_code is trace.StatusCode.ERROR
    (event,) = one.events
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "too wide"


def test_threads_have_their_own_spans(memory):
    def work():
        with span("inner"):
            pass

    with span("outer"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert memory()["inner"].parent is None


def test_no_trace_is_kept_at_ratio_zero():
    exporter = InMemorySpanExporter()
    with configure_tracing(exporter, sample_ratio=0), span("a") as work:
        work.note(x=1)
    assert exporter.get_finished_spans() == ()


def test_a_file_gets_one_json_line_a_span_and_is_appended_to(tmp_path):
    path = tmp_path / "spans.jsonl"
    for i in range(2):
        with configure_tracing("file", path, service="car"), span("step", i=i):
            pass
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["attributes"]["i"] for line in lines] == [0, 1]
    assert lines[0]["resource"]["attributes"]["service.name"] == "car"


def test_the_console_is_standard_error(capfd):
    with configure_tracing("console"), span("step"):
        pass
    out, err = capfd.readouterr()
    assert out == ""
    assert json.loads(err)["name"] == "step"


def test_the_last_set_up_wins_and_stops_once():
    first, second = InMemorySpanExporter(), InMemorySpanExporter()
    old = configure_tracing(first)
    new = configure_tracing(second)
    with span("a"):
        pass
    old.stop()  # already over: must not end the new one
    with span("b"):
        pass
    new.stop()
    new.stop()
    with span("c"):
        pass
    assert [s.name for s in second.get_finished_spans()] == ["a", "b"]
    assert first.get_finished_spans() == ()


def test_a_span_open_while_tracing_stops_ends_in_peace():
    tracing = configure_tracing(InMemorySpanExporter())
    with span("a") as work:
        tracing.stop()
        work.note(x=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exporter": "fax"}, "'fax' is not a trace exporter"),
        ({"exporter": "file"}, "needs a path"),
        ({"exporter": "file", "path": "/dev/null/x"}, "cannot write spans to /dev/null/x"),
        ({"exporter": "console", "sample_ratio": 1.5}, "between 0 and 1"),
        ({"exporter": "console", "sample_ratio": float("nan")}, "between 0 and 1"),
    ],
)
def test_impossible_set_ups_are_refused_and_change_nothing(arguments, message):
    with pytest.raises(ConfigError, match=message):
        configure_tracing(**arguments)
    assert span("a") is span("b")


def test_otlp_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingDependencyError, match="pip install opentelemetry-exporter-otlp-proto-http"):
        configure_tracing("otlp", endpoint="http://127.0.0.1:9/v1/traces")


def test_importing_the_room_loads_none_of_the_libraries_behind_it():
    heavy = "structlog prometheus_client opentelemetry numpy asyncio email http"
    code = f"import sys, raceline.observe; print(sorted(set({heavy!r}.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
