"""Raceline's compiled kernels (sources: native/); use them through the rooms that own them."""

def instruction_sets() -> list[str]:
    """Those the CPU has and the operating system lets a program use: /proc/cpuinfo's names, ARM's words."""

def brand() -> str:
    """The CPU's own name; empty on ARM."""

def caches() -> list[tuple[int, str, int, int]]:
    """(level, kind, size_bytes, logical CPUs that share it) as the CPU reports them; empty on ARM."""

def kernels() -> list[tuple[str, str]]:
    """(precision, instruction set) of each multiply-add loop that this CPU can run."""

def kernel_totals(precision: str, instruction_set: str, iterations: int) -> tuple[float, float]:
    """What a loop's accumulators add up to, and what they must add up to if nothing was left out.

    Exact for up to 1000 iterations.

    Raises:
        KeyError: this CPU has no such kernel.
        RuntimeError: the operating system refuses AMX.
    """

def measure_clock_hz() -> float:
    """Cycles per second of a busy core."""

def measure_ops_per_s(precision: str, instruction_set: str, cpus: list[int]) -> float:
    """Operations per second (a multiply-add is two) on `cpus` at once; where empty, on the calling thread.

    Raises:
        KeyError: this CPU has no such kernel.
        RuntimeError: the operating system refuses AMX.
    """

def measure_triad_bytes_per_s(size_bytes: int, cpus: list[int]) -> float:
    """STREAM triad over three arrays of `size_bytes` in all, counted as two reads and one write.

    Raises:
        MemoryError: there is not enough memory.
    """
