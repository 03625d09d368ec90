"""How much a model file may ask of this machine before it is refused."""

from dataclasses import dataclass, field
from pathlib import Path

from raceline.core.units import GIB

_SHARE_OF_MEMORY = 0.8
_UNKNOWN_MEMORY_BYTES = 16 * GIB
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limits:
    """Bounds that a model must keep; a model beyond one is refused before it costs anything.

    Attributes:
        max_model_bytes: graph and weights together, and also any tensor computed while checking; by default
            80 % of the memory available now.
        max_nodes: nodes of all graphs and functions together, and of the graph once its functions are expanded.
        max_name_chars: characters of any name in the model.
        max_rank: axes of any tensor.
        allow_nan: accept weights that hold NaN; they are then recorded in the provenance.
    """

    max_model_bytes: int = field(default_factory=lambda: int(_SHARE_OF_MEMORY * available_memory_bytes()))
    max_nodes: int = 250_000
    max_name_chars: int = 4096
    max_rank: int = 64
    allow_nan: bool = False


def available_memory_bytes() -> int:
    """Memory this process could still use: what the kernel reports, or the container's rest if smaller.

    16 GiB where neither can be read.
    """
    known = [size for size in (_kernel_available_bytes(), _container_rest_bytes()) if size is not None]
    return min(known, default=_UNKNOWN_MEMORY_BYTES)


def _kernel_available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    rows = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(rows["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in rows else None


def _container_rest_bytes() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
