"""Logs: structured, without secrets, and never in the caller's way."""

import io
import json
import logging
import os
import threading
from datetime import datetime

import pytest
import structlog

from raceline.core.errors import ConfigError
from raceline.observe import configure_logs, configure_tracing, get_logger, span
from raceline.observe.logs import HIDDEN


def written(stream):
    """The events in a JSON-lines stream."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def logged(call, level="debug"):
    """What `call(log)` makes the log say."""
    stream = io.StringIO()
    with configure_logs(level, "json", stream):
        call(get_logger("raceline.test"))
    return written(stream)


def test_an_event_has_fields_time_level_and_logger():
    (event,) = logged(lambda log: log.info("model loaded", model="yolo", size_bytes=12, shape=(1, 3)))
    assert datetime.fromisoformat(event.pop("timestamp")).utcoffset().total_seconds() == 0
    assert event == {
        "event": "model loaded",
        "model": "yolo",
        "size_bytes": 12,
        "shape": [1, 3],
        "level": "info",
        "logger": "raceline.test",
    }


def test_the_order_of_events_is_kept_and_all_are_written_at_stop():
    events = logged(lambda log: [log.info("step", i=i) for i in range(2000)])
    assert [e["i"] for e in events] == list(range(2000))


def test_events_below_the_level_are_left_out():
    events = logged(lambda log: (log.info("no"), log.warning("yes")), level="warning")
    assert [e["event"] for e in events] == ["yes"]


def test_other_libraries_logs_come_too():
    def call(_log):
        logging.getLogger("somebody").warning("%s of %d", "three", 4)

    (event,) = logged(call)
    assert (event["event"], event["logger"]) == ("three of 4", "somebody")


def test_an_exception_carries_its_traceback():
    def call(log):
        try:
            raise ValueError("too wide")
        except ValueError:
            log.exception("failed", part="wing")
            logging.getLogger("somebody").exception("also")

    ours, theirs = logged(call)
    for event in (ours, theirs):
        assert event["exception"].startswith("Traceback")
        assert "ValueError: too wide" in event["exception"]
    assert ours["part"] == "wing"


def test_fields_bound_to_the_context_are_in_every_event():
    with structlog.contextvars.bound_contextvars(request="r1"):
        (event,) = logged(lambda log: log.bind(model="m").info("hello"))
    assert (event["request"], event["model"]) == ("r1", "m")


def test_what_json_does_not_know_is_written_all_the_same():
    (event,) = logged(lambda log: log.info("odd", value={1}, data=b"\x00", deep={2: object}))
    assert event["value"] == "{1}"
    assert event["data"] == "b'\\x00'"


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "db_password", "token", "auth_token", "authToken", "Authorization", "x-api-key",
     "apiKey", "APIKEY", "client_secret", "secrets", "aws.secret.access.key", "private_key", "Set-Cookie",
     "credentials", "secretkey", "passphrase"],
)  # fmt: skip
def test_secrets_are_hidden_by_their_name(name):
    (event,) = logged(lambda log: log.info("x", **{name: "hunter2"}))
    assert event[name] == HIDDEN
    (event,) = logged(lambda log: log.info("x", request={"headers": [{name: "hunter2"}, (name, "hunter2")]}))
    assert event["request"] == {"headers": [{name: HIDDEN}, [name, HIDDEN]]}


@pytest.mark.parametrize(
    "name", ["tokens", "num_tokens", "tokenizer", "key", "keyboard", "secretary", "model"]
)
def test_ordinary_names_are_not_hidden(name):
    (event,) = logged(lambda log: log.info("x", **{name: "plain"}))
    assert event[name] == "plain"


def test_secrets_bound_to_the_logger_or_context_are_hidden_too():
    def call(log):
        with structlog.contextvars.bound_contextvars(token="hunter2"):
            log.bind(password="hunter2").info("x")

    stream = io.StringIO()
    with configure_logs("info", "console", stream):
        call(get_logger("t"))
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count(HIDDEN) == 2


def test_endless_nesting_is_cut_off():
    loop = {}
    loop["self"] = loop
    (event,) = logged(lambda log: log.info("x", loop=loop))
    assert HIDDEN in json.dumps(event)


def test_a_field_changed_after_the_call_is_written_as_it_was():
    def call(log):
        shape = {"batch": 1}
        log.info("x", shape=shape)
        shape["batch"] = 2

    assert logged(call)[0]["shape"] == {"batch": 1}


class Stuck(io.StringIO):
    """A pipe whose reader has stopped reading."""

    def __init__(self):
        super().__init__()
        self.entered, self.freed = threading.Event(), threading.Event()

    def write(self, text):
        self.entered.set()
        self.freed.wait()
        return super().write(text)


def test_a_full_queue_drops_and_counts_and_never_blocks():
    """Were the caller blocked, this test would never end: nobody frees the pipe before all calls are back."""
    stuck = Stuck()
    logs = configure_logs("info", "json", stuck, queue_size=100)
    log = get_logger("raceline.test")
    log.info("first")
    assert stuck.entered.wait(10)
    for i in range(500):
        log.info("more", i=i)
    assert logs.num_dropped == 400
    stuck.freed.set()
    logs.stop()
    events = written(stuck)
    notes = [e for e in events if "dropped" in e]
    assert sum(note["dropped"] for note in notes) == 400
    assert "the queue was full" in notes[0]["event"]
    assert [e["i"] for e in events if "i" in e] == list(range(100))


def test_a_pipe_that_stays_stuck_does_not_hold_up_the_stop():
    stuck = Stuck()
    logs = configure_logs("info", "json", stuck)
    get_logger("raceline.test").info("first")
    assert stuck.entered.wait(10)
    logs.stop(patience_s=0.05)
    stuck.freed.set()


def test_drops_are_told_even_if_nothing_follows():
    stream = io.StringIO()
    with configure_logs("info", "json", stream, queue_size=0):
        get_logger("raceline.test").info("lost")
    assert [e["dropped"] for e in written(stream)] == [1]


def test_files_are_appended_to_and_the_last_set_up_wins(tmp_path):
    path = tmp_path / "log.jsonl"
    for i in range(2):
        with configure_logs("info", "json", path):
            get_logger("t").info("run", i=i)
    first, second = io.StringIO(), io.StringIO()
    configure_logs("info", "json", first)
    with configure_logs("info", "json", second):
        get_logger("t").info("once")
    assert [json.loads(line)["i"] for line in path.read_text().splitlines()] == [0, 1]
    assert (written(first), len(written(second))) == ([], 1)


def test_after_stop_logging_is_as_before():
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    configure_logs("debug", "json", io.StringIO()).stop()
    assert (root.level, list(root.handlers)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "loud"}, "not a log level"),
        ({"form": "xml"}, "not a form"),
        ({"target": "/dev/null/log"}, "cannot write logs to /dev/null/log"),
    ],
)
def test_impossible_set_ups_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        configure_logs(**arguments)


def test_without_set_up_warnings_read_well(capsys):
    """As any library's: through whatever handlers the program has."""
    logger, stream = logging.getLogger("raceline.plain"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        get_logger("raceline.plain").warning("disk is slow", path="/x")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "disk is slow path='/x'\n"


def test_an_event_inside_a_span_names_it(tmp_path):
    with configure_tracing("file", tmp_path / "spans.jsonl"), span("serve.infer"):
        inside = logged(lambda log: log.info("x"))[0]
    outside = logged(lambda log: log.info("x"))[0]
    line = json.loads((tmp_path / "spans.jsonl").read_text())
    assert line["context"]["trace_id"] == "0x" + inside["trace_id"]
    assert line["context"]["span_id"] == "0x" + inside["span_id"]
    assert "trace_id" not in outside


def test_many_threads_log_without_loss():
    def call(log):
        threads = [threading.Thread(target=lambda: [log.info("x") for _ in range(200)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(logged(call)) == 1600


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_logs_too(tmp_path):
    path = tmp_path / "log.jsonl"
    with configure_logs("info", "json", path) as logs:
        get_logger("t").info("parent")
        child = os.fork()
        if child == 0:
            get_logger("t").info("child")
            logs.stop()
            os._exit(0)
        os.waitpid(child, 0)
    assert sorted(json.loads(line)["event"] for line in path.read_text().splitlines()) == ["child", "parent"]
