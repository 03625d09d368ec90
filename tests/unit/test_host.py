"""Machines as /proc and /sys describe them, built as folders."""

import pytest

from raceline.ir import host
from raceline.ir.platform import Cache


def describe(root, files):
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def hyperthreaded(num_cores):
    """Cores whose second threads are numbered after all first ones."""
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % num_cores},"
        f"{cpu % num_cores + num_cores}"
        for cpu in range(2 * num_cores)
    }


def test_two_threads_of_a_core_count_once(tmp_path):
    root = describe(tmp_path, hyperthreaded(4))
    assert host.usable_cpus(range(8), root) == [0, 1, 2, 3]
    assert host.usable_cpus([1, 5, 6], root) == [1, 6]


def test_cores_without_topology_count_each(tmp_path):
    assert host.usable_cpus([3, 1], tmp_path) == [1, 3]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        (
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_a_containers_time_quota_limits_the_cores(tmp_path, files, cores):
    assert len(host.usable_cpus(range(8), describe(tmp_path, hyperthreaded(4) | files))) == cores


def test_memory_is_the_least_of_machine_and_container(tmp_path):
    assert host.memory_bytes(tmp_path) is None
    describe(tmp_path, {"proc/meminfo": "MemTotal:       1024 kB\nMemFree: 1 kB"})
    assert host.memory_bytes(tmp_path) == 1024 * 1024
    describe(tmp_path, {"sys/fs/cgroup/memory.max": "max"})
    assert host.memory_bytes(tmp_path) == 1024 * 1024
    describe(tmp_path, {"sys/fs/cgroup/memory.max": "4096"})
    assert host.memory_bytes(tmp_path) == 4096


def test_caches_are_read_and_odd_entries_left_out(tmp_path):
    folder = "sys/devices/system/cpu/cpu2/cache"
    describe(
        tmp_path,
        {f"{folder}/index0/{k}": v for k, v in {"size": "32K", "level": "1", "type": "Data"}.items()}
        | {f"{folder}/index0/shared_cpu_list": "2,66"}
        | {f"{folder}/index3/{k}": v for k, v in {"size": "32M", "level": "3", "type": "Unified"}.items()}
        | {f"{folder}/index3/shared_cpu_list": "0-7,64-71"}
        | {f"{folder}/index4/{k}": v for k, v in {"size": "", "level": "4", "type": "Unified"}.items()},
    )
    assert host.caches(2, tmp_path) == (Cache(1, "data", 32 << 10, 2), Cache(3, "unified", 32 << 20, 16))
    assert host.caches(0, tmp_path) == ()


def test_the_model_has_a_name_even_on_arm(tmp_path):
    assert host.model_name(tmp_path) == ""
    describe(tmp_path, {"proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c"})
    assert host.model_name(tmp_path) == "ARM implementer 0x41 part 0xd0c"
    describe(tmp_path, {"proc/cpuinfo": "model name\t: AMD EPYC 7B13\nprocessor: 1\nmodel name: other"})
    assert host.model_name(tmp_path) == "AMD EPYC 7B13"


def test_kernel_lists():
    assert host.cpu_list("0-3,8,10-11") == [0, 1, 2, 3, 8, 10, 11]
    assert host.cpu_list("") == []
