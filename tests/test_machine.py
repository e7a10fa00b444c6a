"""What a process may use, read from trees of files as Linux has them under containers, systemd and batch systems."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wukong.backends import machine

GIB = 1 << 30
MEMINFO = f"MemTotal: {24 << 20} kB\nMemFree: 1 kB\nMemAvailable: {20 << 20} kB\n"
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "".join(
    f"3{n} 31 0:{n} / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
    for n, name in enumerate(("cpu,cpuacct", "memory", "pids"))
)
SYSTEMD = "0::/system.slice/run-7.scope\n"
SLURM = "".join(
    f"{n}:{name}:/slurm/uid_1000/job_7/step_0\n" for n, name in ((4, "memory"), (3, "cpu,cpuacct"), (2, "pids"))
)


@pytest.fixture
def tree(tmp_path):
    def write(cgroup, mountinfo, files):
        system = {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo}
        for name, text in {**system, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}")
        return str(tmp_path)

    return write


def v2(folder, **values):
    return {f"{folder}/{name.replace('_', '.', 1)}": value for name, value in values.items()}


def test_no_group_no_limit(tree):
    root = tree("0::/\n", V2, {})
    assert machine.memory(root) == (20 * GIB, 24 * GIB)
    assert machine.cores(root) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cgroup", "folder"),
    [("0::/\n", "."), (SYSTEMD, "system.slice/run-7.scope"), (SYSTEMD, "system.slice"), (SYSTEMD, ".")],
    ids=["root", "own", "parent", "top"],
)
def test_limits_of_version_2_count_at_every_level(tree, cgroup, folder):
    stat = f"anon 5\nfile 9\nshmem 100\ninactive_file {GIB // 4}\nactive_file {GIB // 4}\n"
    files = v2(folder, memory_max=GIB, memory_current=GIB * 3 // 4, memory_stat=stat, pids_max=100, pids_current=60)
    root = tree(cgroup, V2, {**files, **v2(folder, cpu_max="50000 100000\n")})
    assert machine.memory(root) == (GIB * 3 // 4, GIB)
    assert machine.cores(root) == 1
    assert machine.processes_left(root) == 40


def test_the_tightest_of_nested_limits_counts(tree):
    outer = v2("job", memory_max=GIB, memory_current=GIB - 7, memory_stat="", pids_max="max", pids_current=9)
    inner = v2("job/step", memory_max=2 * GIB, memory_high=GIB // 2, memory_current=5, memory_stat="", pids_max=10)
    root = tree("0::/job/step\n", V2, {**outer, **inner, **v2("job/step", pids_current=9)})
    assert machine.memory(root) == (7, GIB // 2)
    assert machine.processes_left(root) == 1


@pytest.mark.parametrize("level", ["slurm/uid_1000/job_7/step_0", "slurm/uid_1000/job_7", "slurm"])
def test_limits_of_version_1_count_at_every_level(tree, level):
    stat = f"cache 9\ninactive_file 1\ntotal_inactive_file {GIB // 4}\ntotal_active_file 0\n"
    files = {
        f"memory/{level}/memory.limit_in_bytes": GIB,
        f"memory/{level}/memory.usage_in_bytes": GIB // 2,
        f"memory/{level}/memory.stat": stat,
        f"cpu,cpuacct/{level}/cpu.cfs_quota_us": 30_000,
        f"cpu,cpuacct/{level}/cpu.cfs_period_us": 100_000,
        f"pids/{level}/pids.max": 100,
        f"pids/{level}/pids.current": 100,
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "cpu,cpuacct/cpu.cfs_quota_us": -1,
    }
    root = tree(SLURM, V1, files)
    assert machine.memory(root) == (GIB * 3 // 4, GIB)
    assert machine.cores(root) == 1
    assert machine.processes_left(root) == 0


def test_a_container_finds_its_own_group_at_the_top_of_what_is_mounted(tree):
    mounts = V1.replace(" / /sys", " /docker/4711 /sys")
    files = {"memory/memory.limit_in_bytes": GIB, "memory/memory.usage_in_bytes": 0, "memory/memory.stat": ""}
    for cgroup in ("4:memory:/docker/4711\n", "4:memory:/\n", "4:memory:/../other\n"):
        assert machine.memory(tree(cgroup, mounts, files)) == (GIB, GIB)


def test_a_limit_above_what_can_be_seen_counts_by_version_1(tree):
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/memory.usage_in_bytes": 0,
        "memory/memory.stat": f"hierarchical_memory_limit {GIB}\n",
    }
    assert machine.memory(tree("4:memory:/pod/a\n", V1.replace(" / /sys", " /pod/a /sys"), files)) == (GIB, GIB)


def test_mixed_versions_and_paths_with_spaces(tree):
    mounts = r"30 23 0:26 / /sys/fs/cgroup/my\040groups rw - cgroup2 cgroup2 rw" + "\n"
    root = tree("1:name=systemd:/x\n0::/a b\n", mounts, v2("my groups/a b", pids_max=7, pids_current=2))
    assert machine.processes_left(root) == 5


def test_what_is_damaged_or_missing_is_no_limit(tree):
    root = tree(
        "0::/a\n", V2, {**v2("a", memory_max="?", cpu_max="max 100000\n", pids_max="max"), "a/memory.stat": "x"}
    )
    assert machine.memory(root) == (20 * GIB, 24 * GIB)
    assert machine.processes_left(root) is None
    assert machine.memory(f"{root}/nothing") is None


LIMITED = """
import os, resource, threading
from wukong.backends import machine
if os.getuid() == 0:
    os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000))
ended = threading.Event()
before = machine.processes_left()
for _ in range(7):
    threading.Thread(target=ended.wait).start()
print(before, before - machine.processes_left())
ended.set()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as Linux counts them")
def test_a_users_limit_of_processes_counts_threads():
    seen = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True).stdout.split()
    assert 0 < int(seen[0]) < 4000
    if os.getuid() == 0:  # nobody else is that user
        assert seen == ["3999", "7"]


@pytest.mark.skipif(
    not os.access("/sys/fs/cgroup/memory/tasks", os.W_OK), reason="needs root and control groups of version 1"
)
def test_a_real_group_is_seen():
    own = next(
        line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line
    )
    group = Path(f"/sys/fs/cgroup/memory/{own}/wukong-test-{os.getpid()}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(f"{GIB}")
        enter = (
            f"open('{group}/tasks', 'w').write('0'); from wukong.backends import machine; print(machine.memory()[1])"
        )
        seen = subprocess.run([sys.executable, "-c", enter], capture_output=True, text=True, check=True).stdout
        assert int(seen) == GIB
    finally:
        group.rmdir()
