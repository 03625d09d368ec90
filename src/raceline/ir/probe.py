"""Measure this machine once, and remember it."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import ModuleType

from raceline.core.errors import MissingDependencyError, RacelineError
from raceline.core.paths import recall, store
from raceline.core.units import MIB
from raceline.ir import host
from raceline.ir.engine_rules import suitable_engines
from raceline.ir.platform import Cache, PlatformProfile, Rate

PROBE_VERSION = 1
"""Changes whenever the same machine would get other figures, so that remembered ones are taken again."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_known: dict[str, PlatformProfile] = {}


def this_machine(refresh: bool = False) -> PlatformProfile:
    """The machine this process runs on, with what it can do.

    Measured on the first call ever (about two seconds, all cores), then remembered in the cache folder and in
    the process. Other work on the machine lowers the figures: where they matter, refresh when it is quiet.

    Args:
        refresh: measure again.

    Raises:
        MissingDependencyError: Raceline's native module was not built.
    """
    with _lock:
        described = describe()
        key = described.key
        known = None if refresh else _known.get(key) or _remembered(described)
        _known[key] = known or _measure_and_store(described)
        return _known[key]


def _remembered(described: PlatformProfile) -> PlatformProfile | None:
    """`described` with the stored figures; None where there are none, or they are damaged or outdated."""
    text = recall(_cache_name(described.key))
    if text is None:
        return None
    try:
        profile = PlatformProfile.loads(text)
    except RacelineError as error:
        _log.warning("the remembered probe of this machine is damaged, measuring again: %s", error)
        return None
    if profile.key != described.key or profile.probe_version != PROBE_VERSION:
        return None
    return replace(profile, name=described.name, engines=described.engines)  # the rules may have changed


def _measure_and_store(described: PlatformProfile) -> PlatformProfile:
    profile = measure(described)
    store(_cache_name(profile.key), json.dumps(profile.to_json(), indent=2))
    return profile


def _cache_name(key: str) -> str:
    return f"platforms/{key}.json"


def describe() -> PlatformProfile:
    """This machine without any measured figure; takes milliseconds.

    Raises:
        MissingDependencyError: Raceline's native module was not built.
    """
    native = _load_native()
    cpus = host.usable_cpus()
    model = host.model_name() or native.brand() or "unknown CPU"
    caches = host.caches(cpus[0]) or tuple(Cache(*row) for row in native.caches())
    return PlatformProfile(
        name=f"{model}, {len(cpus)} core{'s' if len(cpus) > 1 else ''}",
        kind="cpu",
        model=model,
        architecture=host.architecture(),
        cores=len(cpus),
        instruction_sets=tuple(native.instruction_sets()),
        caches=caches,
        memory_bytes=host.memory_bytes(),
        engines=suitable_engines(host.architecture(), native.instruction_sets()),
        measured=False,
        source="described by the operating system",
        date=datetime.now(UTC).date().isoformat(),
    )


def measure(described: PlatformProfile) -> PlatformProfile:
    """`described`, which must be this machine, with its peak rates, bandwidth and clock; about two seconds.

    All figures are the best of several short runs. The interpreter's lock is free meanwhile.
    """
    native = _load_native()
    cpus = host.usable_cpus()
    clock_hz = native.measure_clock_hz()  # first, for a resting core takes some tens of ms to reach its clock
    measured = [
        Rate(p, i, _attempt(partial(native.measure_ops_per_s, p, i, []))) for p, i in native.kernels()
    ]
    rates = [rate for rate in measured if rate.per_core]
    one, several = triad_sizes_bytes(described)
    alone = _attempt(partial(native.measure_triad_bytes_per_s, one, []))
    together = _attempt(partial(native.measure_triad_bytes_per_s, several, cpus))
    return replace(
        described,
        rates=tuple(_with_all_cores(native, rates, cpus)),
        clock_hz=max(clock_hz, native.measure_clock_hz()),
        memory_bytes_per_s_per_core=alone,
        memory_bytes_per_s=max(
            filter(None, (alone, together)), default=None
        ),  # all cores can do what one can
        measured=True,
        source=f"measured by Raceline's probe; memory by STREAM triad over {one // MIB} MiB, "
        f"{several // MIB} MiB on all cores",
        probe_version=PROBE_VERSION,
    )


def _with_all_cores(native: ModuleType, rates: list[Rate], cpus: list[int]) -> list[Rate]:
    """`rates`, with the fastest of each precision measured on all cores too."""
    fastest = {rate.precision: rate for rate in sorted(rates, key=lambda r: r.per_core or 0)}
    return [
        replace(r, all_cores=native.measure_ops_per_s(r.precision, r.instruction_set, cpus))
        if fastest[r.precision] is r
        else r
        for r in rates
    ]


def triad_sizes_bytes(machine: PlatformProfile) -> tuple[int, int]:
    """Bytes of the three triad arrays together, on one core and on all.

    STREAM asks for four times the last-level cache in each array. Virtual machines may claim a whole socket's
    cache of hundreds of megabytes, of which they get a slice, so there is an upper bound: 384 MiB on one
    core, and as much for every four cores on all; never more than an eighth of the memory.
    """
    last = max((c for c in machine.caches if c.kind != "instruction"), key=lambda c: c.level, default=None)
    last_bytes = last.size_bytes if last else 32 * MIB
    copies = -(-machine.cores // max(1, last.shared_by)) if last else 1
    bound = (machine.memory_bytes or 8192 * MIB) // 8
    one = min(max(12 * last_bytes, 96 * MIB), 384 * MIB, bound)
    several = min(max(12 * last_bytes * copies, 96 * MIB), 384 * MIB * -(-machine.cores // 4), bound)
    return one, several


def _attempt(measurement: Callable[[], float]) -> float | None:
    """A figure, or None with a warning where the system refuses what it takes (AMX, memory)."""
    try:
        return measurement()
    except (RuntimeError, MemoryError) as error:
        _log.warning("a measurement of the probe failed: %s", error)
        return None


def _load_native() -> ModuleType:
    try:
        from raceline import _native
    except ImportError as error:
        raise MissingDependencyError(
            "the machine probe",
            "raceline._native",
            "pip install . (in Raceline's folder, with a C++ compiler)",
        ) from error
    return _native
