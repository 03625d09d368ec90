"""Structured logs: events with fields, as JSON lines or for a console, written by a thread of their own.

A logger's call builds the event, hides secrets and puts it into a bounded queue. Formatting and writing
happen in the listener's thread, so a slow disk or a blocked pipe never delays the caller; when the queue is
full, events are dropped and counted, and the log says how many.
"""

import atexit
import copy
import logging
import logging.handlers
import os
import queue
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal

from raceline.core.errors import ConfigError
from raceline.observe.metrics import Counter
from raceline.observe.traces import current_ids

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

HIDDEN = "[hidden]"
# As whole words of a name: a token is a secret, tokens are what language models count.
_SECRET = re.compile(
    r"(^|_)(password|passwd|passphrase|secrets?|token|authorization|credentials?|cookie|"
    r"(api|access|private|secret|signing)_?key)(_|$)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DEEPEST = 8  # levels of nesting that are searched for secrets; what lies deeper is hidden whole

dropped = Counter(
    "raceline_observe_log_events_dropped_total", "Log events dropped because the queue was full."
)


def get_logger(name: str) -> "BoundLogger":
    """A logger whose calls take an event and fields: `log.info("model loaded", model=name, size_bytes=n)`.

    It writes where `configure_logs` says; before that, like any library, warnings go to standard error and
    the rest nowhere. Fields whose name speaks of a secret (password, auth_token, Authorization, apiKey, ...)
    are hidden, however deep they lie; secrets inside a text or under another name are not found.
    """
    import structlog

    return structlog.wrap_logger(  # type: ignore[no-any-return]
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _add_trace,
            _hide_secrets,
            _to_record,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


class _Event(dict[str, Any]):
    """An event with its fields as the message of a standard log record."""

    def __str__(self) -> str:
        """The event for handlers that know nothing of fields."""
        fields = " ".join(f"{k}={v!r}" for k, v in self.items() if k != "event")
        return f"{self.get('event', '')} {fields}".rstrip()


def _to_record(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any], dict[str, Any]]:
    """Hand the event to standard logging; what that needs itself goes beside it."""
    known = {key: event.pop(key) for key in ("exc_info", "stack_info", "stacklevel") if key in event}
    return (_Event(event),), known


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Tie the event to the span it happens in."""
    event.update(current_ids())
    return event


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    hidden: dict[str, Any] = _hide(dict(event))
    return hidden


def _hide(value: Any, depth: int = 0) -> Any:
    """`value` without secrets; a copy wherever there are fields, so that later changes do not show."""
    if not isinstance(value, Mapping | list | tuple):
        return value
    if depth >= _DEEPEST:
        return HIDDEN
    if isinstance(value, Mapping):
        return {k: HIDDEN if _is_secret(k) else _hide(v, depth + 1) for k, v in value.items()}
    if len(value) == 2 and isinstance(value[0], str) and _is_secret(value[0]):
        return [value[0], HIDDEN]  # one of gRPC's or HTTP's header pairs
    return [_hide(item, depth + 1) for item in value]


@lru_cache(1024)  # the same few names come again and again
def _is_secret(key: object) -> bool:
    words = _CAMEL.sub("_", str(key)).lower().replace("-", "_").replace(".", "_").replace(" ", "_")
    return _SECRET.search(words) is not None


class _Formatter(logging.Formatter):
    """A record, ours or any library's, as one JSON line or as console text."""

    def __init__(self, form: Literal["json", "console"], colours: bool) -> None:
        import structlog

        super().__init__()
        self._renderer: Any = (
            structlog.processors.JSONRenderer(default=repr)
            if form == "json"
            else structlog.dev.ConsoleRenderer(colors=colours)
        )

    def format(self, record: logging.LogRecord) -> str:
        """The record's fields, with time, level and logger."""
        event = dict(record.msg) if isinstance(record.msg, _Event) else {"event": record.getMessage()}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            event["exception"] = record.exc_text
        if record.stack_info:
            event["stack"] = record.stack_info
        event["timestamp"] = self.formatTime(record)
        event["level"] = record.levelname.lower()
        event["logger"] = record.name
        text: str = self._renderer(None, "", event)
        return text

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - stdlib's name
        """The moment in UTC, ISO 8601 with microseconds."""
        from datetime import UTC, datetime

        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")


class _Enqueue(logging.handlers.QueueHandler):
    """Puts records into the queue, or counts them as dropped where it is full. Never waits."""

    def __init__(self, waiting: "queue.SimpleQueue[Any]", limit: int) -> None:
        super().__init__(waiting)
        self._waiting, self._limit = waiting, limit
        self.lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record as it must look later, when arguments and the traceback have moved on."""
        record = copy.copy(record)  # other handlers still need theirs
        if not isinstance(record.msg, _Event):
            record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = record.exc_text or _plain.formatException(record.exc_info)
            record.exc_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue the record if there is room."""
        if self._waiting.qsize() >= self._limit:
            self.lost += 1
            dropped.add()
        else:
            self._waiting.put(record)


_plain = logging.Formatter()
_LAST = logging.makeLogRecord({"msg": "the last record of a queue; never written"})


class _Listener(logging.handlers.QueueListener):
    """Writes what the queue brings, and says what it did not bring."""

    def __init__(self, handler: _Enqueue, target: logging.Handler) -> None:
        super().__init__(handler.queue, target)
        self._handler, self._told = handler, 0

    def handle(self, record: logging.LogRecord) -> None:
        """Write a note of the records dropped since the last one, then the record."""
        lost = self._handler.lost - self._told
        if lost:
            self._told += lost
            note = _Event(event="log events were dropped: the queue was full", dropped=lost)
            super().handle(logging.LogRecord(__name__, logging.WARNING, __file__, 0, note, None, None))
        if record is not _LAST:
            super().handle(record)

    def finish(self, patience_s: float) -> None:
        """Write what waits, but for no longer than `patience_s`: a blocked pipe must not hold up an exit."""
        thread: threading.Thread | None = self._thread
        if thread is not None:
            self.queue.put_nowait(_LAST)
            self.enqueue_sentinel()
            thread.join(patience_s)
            self._thread = None


class Logs:
    """Logging as `configure_logs` set it up; stop it, or leave its `with` block."""

    def __init__(self, level: int, target: logging.Handler, queue_size: int) -> None:
        self._target, self._queue_size = target, queue_size
        self._root, self._old_level = logging.getLogger(), logging.getLogger().level
        self._root.setLevel(level)
        self._begin()

    def _begin(self) -> None:
        self._handler = _Enqueue(queue.SimpleQueue(), self._queue_size)
        self._listener = _Listener(self._handler, self._target)
        self._root.addHandler(self._handler)
        self._listener.start()

    @property
    def num_dropped(self) -> int:
        """Events dropped since the start because the queue was full."""
        return self._handler.lost

    def stop(self, patience_s: float = 5.0) -> None:
        """Write what waits, at most for `patience_s`, and put logging back; a second call does nothing."""
        global _current
        if _current is self:
            _current = None
        if self._handler not in self._root.handlers:
            return
        self._root.removeHandler(self._handler)
        self._root.setLevel(self._old_level)
        self._listener.finish(patience_s)
        if isinstance(self._target, logging.FileHandler):
            self._target.close()

    def restart_in_child(self) -> None:
        """Get a queue and a thread of one's own after a fork, which copies neither's state."""
        self._root.removeHandler(self._handler)
        self._begin()

    def __enter__(self) -> "Logs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


_current: Logs | None = None


def configure_logs(
    level: str = "info",
    form: Literal["json", "console"] = "console",
    target: str | Path | IO[str] | None = None,
    queue_size: int = 10_000,
) -> Logs:
    """Write all logs of this process, ours and every library's, from a thread of their own.

    A second call takes over from the first. What waits is written at exit.

    Args:
        level: the least that is written: debug, info, warning, error or critical.
        form: JSON lines for machines, or text for people.
        target: a file to append to or an open stream; by default standard error.
        queue_size: events that may wait; more are dropped, and counted.

    Raises:
        ConfigError: there is no such level or form, or the file cannot be opened.
    """
    global _current
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"{level!r} is not a log level", "debug, info, warning, error and critical are")
    if form not in {"json", "console"}:
        raise ConfigError(f"{form!r} is not a form of logs", "json and console are")
    handler = _target(target)
    colours = bool(getattr(getattr(handler, "stream", None), "isatty", lambda: False)())
    handler.setFormatter(_Formatter(form, colours))
    if _current is not None:
        _current.stop()
    _current = Logs(number, handler, queue_size)
    return _current


def _target(target: str | Path | IO[str] | None) -> logging.Handler:
    if target is None or not isinstance(target, str | Path):
        return logging.StreamHandler(target or sys.stderr)
    try:
        return logging.FileHandler(target, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write logs to {target}", error.strerror or str(error)) from error


def _stop_at_exit() -> None:
    if _current is not None:
        _current.stop()


def _restart_in_child() -> None:
    if _current is not None:
        _current.restart_in_child()


atexit.register(_stop_at_exit)
os.register_at_fork(after_in_child=_restart_in_child)
