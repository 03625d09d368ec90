"""Keeping the threads of a session on cores of their own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from raceline.core.errors import ConfigError
from raceline.engines import Options
from raceline.ir.host import usable_cpus


@contextmanager
def own_cores(options: Options) -> Iterator[None]:
    """Threads that begin inside keep to the cores that are left beside the caller's, if `options` want that.

    A thread inherits the affinity of the one that starts it, so this suits any engine that starts its threads
    while it loads. The caller's thread stays free: the scheduler gives it the core that is left.

    Raises:
        ConfigError: there are fewer cores than threads, so that some would have to share one.
    """
    if not options.pinned or options.threads == 1:
        yield
        return
    cpus = usable_cpus()
    if options.threads > len(cpus):
        raise ConfigError(
            f"{options.threads} threads cannot be pinned",
            f"this process may use {len(cpus)} physical core{'s' if len(cpus) > 1 else ''}",
            "Use fewer threads, or do not pin them.",
        )
    before = os.sched_getaffinity(0)  # of this thread alone
    os.sched_setaffinity(0, cpus[1 : options.threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
