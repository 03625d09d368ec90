"""The compiled kernels compute what they claim, and the CPU is what the operating system says it is."""

import threading
from pathlib import Path

import pytest

from raceline import _native


@pytest.mark.parametrize(("precision", "instruction_set"), _native.kernels())
@pytest.mark.parametrize("iterations", [1, 1000])
def test_a_kernel_does_every_operation_that_it_is_credited_with(precision, instruction_set, iterations):
    total, expected = _native.kernel_totals(precision, instruction_set, iterations)
    assert total == expected > 0


@pytest.mark.parametrize(("precision", "instruction_set"), _native.kernels())
def test_no_rate_is_beyond_any_core(precision, instruction_set):
    """A loop that the compiler thinned out would seem to run at tens of gigahertz."""
    register_bytes = 16 if instruction_set in {"sse2", "neon", "dotprod", "i8mm", "bf16"} else 64
    lanes = register_bytes * 256 if instruction_set.startswith("amx") else register_bytes * 2
    most = lanes * 2 * 4 * 10e9  # four units, ten gigahertz
    assert 1e6 < _native.measure_ops_per_s(precision, instruction_set, []) < most


def test_a_kernel_that_this_cpu_lacks_is_refused():
    with pytest.raises(KeyError, match="fp32 abacus"):
        _native.kernel_totals("fp32", "abacus", 1)
    with pytest.raises(KeyError):
        _native.measure_ops_per_s("int8", "abacus", [])


def flags():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    pytest.skip("needs an x86 /proc/cpuinfo")


def test_the_operating_system_knows_the_same_instruction_sets():
    unnamed_by_older_kernels = {"amx_fp16", "avx_vnni_int8", "avx_vnni", "avx512_fp16"}
    assert set(_native.instruction_sets()) - unnamed_by_older_kernels <= flags()
    wanted = {"sse2", "avx", "fma", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"}
    assert wanted & flags() <= set(_native.instruction_sets())


def test_the_cpu_reports_the_caches_that_the_system_lists():
    from raceline.ir import host

    listed = {(c.level, c.kind): c.size_bytes for c in host.caches()}
    reported = {(level, kind): size for level, kind, size, _ in _native.caches()}
    for cache in set(listed) & set(reported):
        assert reported[cache] == listed[cache]


def test_the_interpreter_runs_on_while_measuring():
    worker = threading.Thread(target=_native.measure_triad_bytes_per_s, args=(96 << 20, []))
    worker.start()
    turns = 0
    while worker.is_alive():
        turns += 1
    assert turns > 1000  # with the lock held there would be a handful


def test_arrays_beyond_memory_are_refused():
    with pytest.raises(MemoryError):
        _native.measure_triad_bytes_per_s(1 << 60, [])


def test_small_arrays_and_several_threads_are_fine():
    assert _native.measure_triad_bytes_per_s(0, [0]) > 0
    assert _native.measure_triad_bytes_per_s(1000, [0, 0, 0]) > 0
