"""Metrics: exact under many threads, bounded, named by the rules, and read back by Prometheus's parser."""

import gc
import math
import os
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raceline.core.clock import ManualClock
from raceline.core.errors import ConfigError
from raceline.observe import Counter, Gauge, Histogram, Registry, metrics, render_metrics, serve_metrics


@pytest.fixture
def registry():
    return Registry()


def scrape(registry):
    """{(sample name, labels as sorted pairs): value} as Prometheus's parser reads the exposition."""
    families = text_string_to_metric_families(render_metrics(registry))
    return {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}


def in_threads(count, work):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_threads_and_a_scraper_lose_and_double_nothing(registry):
    counter = Counter("work_total", "Work.", ["worker"], registry)
    histogram = Histogram("time_seconds", "Time.", buckets=[1, 2, 3], registry=registry)
    gauge = Gauge("level_items", "Level.", registry=registry)
    done, seen = threading.Event(), []

    def scraper():
        while not done.is_set():
            seen.append(scrape(registry))

    def work(index):
        series = counter.labels(worker=str(index % 2))
        for i in range(20_000):
            series.add(0.5)
            histogram.observe(i % 4 + 0.5)
            gauge.add(1 if i % 2 else -1)

    watcher = threading.Thread(target=scraper)
    watcher.start()
    in_threads(8, work)
    done.set()
    watcher.join()
    final = scrape(registry)
    assert final["work_total", ("worker", "0")] == final["work_total", ("worker", "1")] == 40_000
    assert [final["time_seconds_bucket", ("le", le)] for le in ("1.0", "2.0", "3.0", "+Inf")] == [
        40_000,
        80_000,
        120_000,
        160_000,
    ]
    assert final[("time_seconds_count",)] == 160_000
    assert final[("time_seconds_sum",)] == 160_000 * 2
    assert final[("level_items",)] == 0
    for one in seen:  # each scrape agrees in itself
        assert one["time_seconds_bucket", ("le", "+Inf")] == one[("time_seconds_count",)]
        whole = one[("time_seconds_sum",)] >= 0.5 * one[("time_seconds_count",)]
        assert whole


def test_memory_stays_bounded_though_nobody_scrapes(registry):
    counter = Counter("work_total", "Work.", registry=registry)
    in_threads(4, lambda _: [counter.add() for _ in range(20_000)])
    waiting = len(counter.labels()._pending)
    assert waiting <= metrics.MAX_PENDING + metrics._CHUNK * 4
    assert scrape(registry)[("work_total",)] == 80_000
    assert len(counter.labels()._pending) == 0


def test_a_recording_while_the_own_thread_folds_does_not_hang(registry):
    """A finaliser may run anywhere, and may record."""
    counter = Counter("work_total", "Work.", registry=registry)
    series = counter.labels()
    with series._lock:
        for _ in range(metrics.MAX_PENDING + 10):
            series.add()
        series._pending.extend([1.0] * (16 * metrics.MAX_PENDING))
        series.add()
    total = 17 * metrics.MAX_PENDING + 11
    assert scrape(registry)[("work_total",)] == total


def test_a_gauge_keeps_the_order_of_set_and_add(registry):
    gauge = Gauge("level_items", "Level.", ["lane"], registry)
    gauge.labels(lane="a").add(5)
    gauge.labels(lane="a").set(2)
    gauge.labels(lane="a").add(-3)
    gauge.labels(lane="b").watch(lambda: 7)
    gauge.labels(lane="c").watch(lambda: 1 / 0)
    seen = scrape(registry)
    assert seen["level_items", ("lane", "a")] == -1
    assert seen["level_items", ("lane", "b")] == 7
    assert math.isnan(seen["level_items", ("lane", "c")])


def test_a_value_on_a_bound_belongs_to_its_bucket(registry):
    histogram = Histogram("load_ratio", "Load.", buckets=[0.5, 1], registry=registry)
    for value in (0.5, 1.0, 1.0000001):
        histogram.observe(value)
    seen = scrape(registry)
    assert [seen["load_ratio_bucket", ("le", le)] for le in ("0.5", "1.0", "+Inf")] == [1, 2, 3]


def test_a_timed_block_counts_even_if_it_raises(registry):
    histogram = Histogram("time_seconds", "Time.", registry=registry)
    clock = ManualClock()
    with pytest.raises(ZeroDivisionError), histogram.labels().time(clock):
        clock.sleep_s(3)
        raise ZeroDivisionError
    assert scrape(registry)[("time_seconds_sum",)] == 3


def test_metrics_without_recordings_are_shown_at_zero(registry):
    Counter("work_total", "Work.", registry=registry)
    Counter("labelled_total", "Work.", ["a"], registry)
    assert scrape(registry) == {("work_total",): 0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: Counter("work", "", registry=r), "must end in _total"),
        (lambda r: Gauge("work_total", "", registry=r), "must not end in _total"),
        (lambda r: Histogram("latency_ms", "", registry=r), "end in its unit"),
        (lambda r: Counter("Work_total", "", registry=r), "cannot name a metric"),
        (lambda r: Counter("wörk_total", "", registry=r), "cannot name a metric"),
        (lambda r: Counter("work_total", "", ["le"], r), "cannot name a label"),
        (lambda r: Counter("work_total", "", ["a-b"], r), "cannot name a label"),
        (lambda r: Counter("work_total", "", ["a", "a"], r), "twice"),
        (lambda r: Histogram("t_seconds", "", buckets=[], registry=r), "rise"),
        (lambda r: Histogram("t_seconds", "", buckets=[1, 1], registry=r), "rise"),
        (lambda r: Histogram("t_seconds", "", buckets=[2, 1], registry=r), "rise"),
        (lambda r: Histogram("t_seconds", "", buckets=[1, math.inf], registry=r), "rise"),
    ],
)
def test_names_that_prometheus_would_not_take_are_refused(registry, make, message):
    with pytest.raises(ConfigError, match=message):
        make(registry)
    assert scrape(registry) == {}


def test_a_name_is_given_once(registry):
    Counter("work_total", "Work.", registry=registry)
    with pytest.raises(ConfigError, match="already"):
        Counter("work_total", "Other.", registry=registry)


@pytest.mark.parametrize(
    "labels", [{}, {"model": "a"}, {"model": "a", "status": "b", "x": "c"}, {"x": "a", "status": "b"}]
)
def test_label_sets_must_be_exact(registry, labels):
    counter = Counter("work_total", "Work.", ["model", "status"], registry)
    with pytest.raises(ConfigError, match="model, status"):
        counter.labels(**labels)


def test_labels_are_text_and_unlabelled_use_of_labelled_metrics_is_refused(registry):
    counter = Counter("work_total", "Work.", ["code"], registry)
    with pytest.raises(ConfigError, match="labels are text"):
        counter.labels(code=200)
    with pytest.raises(ConfigError, match="has the labels code"):
        counter.add()


@pytest.mark.parametrize("amount", [-1, float("nan")])
def test_a_counter_never_goes_down(registry, amount):
    with pytest.raises(ConfigError, match="cannot go up by"):
        Counter("work_total", "Work.", registry=registry).add(amount)


def test_what_is_not_a_number_is_refused_where_it_is_recorded(registry):
    with pytest.raises(ConfigError, match="not a number"):
        Histogram("t_seconds", "", registry=registry).observe(float("nan"))
    with pytest.raises(ValueError, match="abc"):
        Gauge("g_items", "", registry=registry).set("abc")


def test_endless_label_values_are_counted_together(registry, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_SERIES", 3)
    counter = Counter("work_total", "Work.", ["model"], registry)
    for i in range(10):
        counter.labels(model=f"m{i}").add()
    seen = scrape(registry)
    assert len(seen) == 4
    assert seen["work_total", ("model", metrics.OTHER)] == 7
    assert sum(seen.values()) == 10


def test_odd_label_values_and_descriptions_survive_the_text_format(registry):
    odd = 'a"b\\c\nd{},=é'
    Counter("work_total", "Line one\nline two \\ end", ["model"], registry).labels(model=odd).add()
    assert scrape(registry)["work_total", ("model", odd)] == 1


def test_every_metric_of_the_house_keeps_the_conventions():
    import raceline.observe.logs  # noqa: F401 - registers its own

    families = list(text_string_to_metric_families(render_metrics()))
    assert any(f.name.startswith("raceline_") for f in families)
    for family in families:
        assert family.documentation
        if family.name.startswith("raceline_"):
            units = {"counter": ("",), "histogram": tuple(metrics.UNITS)}.get(family.type, ("",))
            assert family.name.endswith(units)
            suffixes = {"counter": {"_total"}, "gauge": {""}}.get(family.type)
            if suffixes:
                assert {s.name.removeprefix(family.name) for s in family.samples} <= suffixes


def test_metrics_are_served_on_loopback_until_stopped(registry):
    counter = Counter("work_total", "Work.", registry=registry)
    with serve_metrics(0, registry=registry) as server:
        assert server.host == "127.0.0.1"
        counter.add(3)
        with urllib.request.urlopen(server.url, timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert "work_total 3.0" in answer.read().decode()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{server.port}"):
            serve_metrics(server.port, registry=registry)
    server.stop()  # a second stop is fine
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url, timeout=5)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_an_impossible_port_is_refused(port):
    with pytest.raises(ConfigError, match=str(port)):
        serve_metrics(port)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_counts_from_zero(registry):
    counter = Counter("work_total", "Work.", registry=registry)
    counter.add(5)
    counter.labels()._lock.acquire()  # a thread that the fork loses might hold it
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        counter.add()
        os.write(writer, str(scrape(registry)[("work_total",)]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    counter.labels()._lock.release()
    assert os.read(reader, 100) == b"1.0"
    os.close(reader)
    os.close(writer)
    assert scrape(registry)[("work_total",)] == 5


def test_a_forgotten_registry_goes_away():
    Counter("work_total", "Work.", registry=Registry())
    before = len(metrics._registries)
    gc.collect()
    assert len(metrics._registries) <= before
