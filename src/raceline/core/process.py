"""What this process holds, prints and leaves behind: memory, a gag for chatty libraries, children."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/status")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_gag = threading.RLock()


def resident_bytes() -> int:
    """Memory of this process that only it can give back: resident anonymous and shared pages.

    File-backed pages (program text, memory-mapped weights) are left out: the kernel drops them at will.
    Freed heap is returned to the system first, so that the figure is what is really held. Zero where the
    system does not tell (no /proc).
    """
    _trim_heap()
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in fields)


class Growth:
    """Resident memory that some blocks of work added and kept.

    Attributes:
        size_bytes: the sum over the blocks so far. Exact where nothing else in the process allocates
            meanwhile.
    """

    size_bytes: int = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Add what the block leaves behind."""
        before = resident_bytes()
        yield
        self.size_bytes += max(0, resident_bytes() - before)


def _trim_heap() -> None:
    """Give freed heap back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Overheard:
    """What was printed while gagged; `text` is filled when the block ends."""

    text: str = ""


@contextmanager
def silenced() -> Iterator[Overheard]:
    """Keep everything written to stdout and stderr, by native code too, away from the terminal.

    The two file descriptors belong to the whole process: what other threads print meanwhile is caught as
    well, so keep the block short. Blocks of several threads take turns.
    """
    heard = Overheard()
    with _gag, tempfile.TemporaryFile() as sink:
        _flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield heard
        finally:
            _flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            sink.seek(0)
            heard.text = sink.read().decode(errors="replace")


def _flush() -> None:
    """Push out what Python and C have buffered, so that it lands on the right side of the gag."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def die_with(parent: int) -> None:
    """End this process at once when `parent` does, however that ends; call it early in a child.

    Where the system cannot promise that, nothing happens later; a parent that is gone already is noticed.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before that


@contextmanager
def child(command: Sequence[str], *, grace_s: float = 15.0) -> Iterator["subprocess.Popen[str]"]:
    """Run a command while the block runs; its standard output is a pipe.

    When the block ends, the child is asked to stop (SIGTERM) and killed where it has not after `grace_s`.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
