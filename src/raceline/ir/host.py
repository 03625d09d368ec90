"""What the operating system says of this machine: cores, caches, memory, names. Measures nothing.

Every function takes the root of the file system, so that tests can describe other machines. Limits of the
control group (a container's share) count as the machine's own: no program here can use more.
"""

import os
import platform
from collections.abc import Collection
from pathlib import Path

from raceline.ir.platform import Cache

ROOT = Path("/")


def usable_cpus(allowed: Collection[int] | None = None, root: Path = ROOT) -> list[int]:
    """One logical CPU for each physical core this process may use, as many as its time quota pays for.

    Args:
        allowed: logical CPUs this process may run on; by default its affinity mask.
        root: of the file system.
    """
    allowed = os.sched_getaffinity(0) if allowed is None else allowed
    first_of_core: dict[str, int] = {}
    for cpu in sorted(allowed):
        siblings = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first_of_core.setdefault(siblings or str(cpu), cpu)
    cpus = sorted(first_of_core.values())
    quota = _cpu_quota(root)
    return cpus if quota is None else cpus[: max(1, int(quota))]


def _cpu_quota(root: Path) -> float | None:
    """Cores' worth of time the control group grants; None where it sets no limit."""
    text = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(text) == 2 and text[0].isdigit():
        return int(text[0]) / int(text[1])
    quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def memory_bytes(root: Path = ROOT) -> int | None:
    """Memory this process can ever use: the machine's, or its control group's where that is less."""
    limits = [
        int(text)
        for name in ("memory.max", "memory/memory.limit_in_bytes")
        if (text := _read(root / "sys/fs/cgroup" / name)).isdigit()
    ]
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    return min(limits, default=None)


def caches(cpu: int = 0, root: Path = ROOT) -> tuple[Cache, ...]:
    """The caches of one core, nearest first; empty where the system does not tell."""
    folders = sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"))
    return tuple(cache for folder in folders if (cache := _cache(folder)))


def _cache(folder: Path) -> Cache | None:
    size, level, kind = _read(folder / "size"), _read(folder / "level"), _read(folder / "type")
    if not (level.isdigit() and kind and size[:-1].isdigit() and size[-1] in "KM"):
        return None
    size_bytes = int(size[:-1]) * (1024 if size[-1] == "K" else 1024**2)
    return Cache(
        int(level), kind.lower(), size_bytes, max(1, len(cpu_list(_read(folder / "shared_cpu_list"))))
    )


def cpu_list(text: str) -> list[int]:
    """The numbers of a kernel list such as `0-3,8`."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        numbers.extend(range(int(low), int(high or low) + 1))
    return numbers


def model_name(root: Path = ROOT) -> str:
    """The CPU's model as the system knows it; on ARM, which has no name, its maker's and part numbers."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if "model name" in fields:
        return fields["model name"]
    if "CPU part" in fields:
        return f"ARM implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return ""


def architecture() -> str:
    """`x86_64` or `aarch64`, whatever the system calls it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _read(path: Path) -> str:
    """A small file's text; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
