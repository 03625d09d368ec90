"""What a process tree used, read from /proc (Linux)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """One look at a process and all its descendants.

    Attributes:
        cpu_s: user and system seconds so far, children that ended and were waited for included.
        rss_bytes: resident memory; pages that processes share count once for each.
        cores: CPU cores that the root may use.
    """

    cpu_s: float
    rss_bytes: int
    cores: int


def usage(pid: int) -> Usage | None:
    """The usage of the tree below `pid`; None where that process is not (any more) on this machine."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    members = dict(_tree(pid))
    if pid not in members:
        return None
    # Fields after the name, counted from the state as 0: 11-14 are the four times, 21 is the RSS in pages.
    cpu_s = sum(sum(map(int, fields[11:15])) for fields in members.values()) / ticks_per_s
    rss_bytes = sum(int(fields[21]) for fields in members.values()) * page_bytes
    try:
        cores = len(os.sched_getaffinity(pid))
    except OSError:
        return None
    return Usage(cpu_s, rss_bytes, cores)


def _tree(root: int) -> Iterator[tuple[int, list[str]]]:
    """(pid, fields of its stat) of the root and its descendants."""
    processes = dict(_processes())
    children: dict[int, list[int]] = {}
    for pid, fields in processes.items():
        children.setdefault(int(fields[1]), []).append(pid)
    todo = [root] if root in processes else []
    while todo:
        pid = todo.pop()
        yield pid, processes[pid]
        todo += children.get(pid, [])


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue  # it ended while we looked
            # The name stands in parentheses and may hold anything, parentheses and spaces included.
            yield int(entry.name), text.rpartition(")")[2].split()
