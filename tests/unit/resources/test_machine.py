"""Memory of a machine, a container, a batch job; GPUs."""

import pytest

from cryoet_core import backend
from cryoet_core.resources import machine


def place(tmp_path, meminfo="MemTotal:       24000000 kB\n", groups="0::/user/job\n", limits=None):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemFree: 1 kB\n" + meminfo)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in (limits or {}).items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return tmp_path / "proc", tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/user/job\n", {}, 24576),
        ("0::/user/job\n", {"user/job/memory.max": "max", "user/memory.max": "8000000000", "memory.max": "9000000000"}, 8000),
        ("0::/user/job\n", {"user/job/memory.max": "3000000000"}, 3000),
        ("0::/user/job\n", {"user/job/memory.max": "99000000000"}, 24576),
        ("0::/../..\n", {"memory.max": "5000000000"}, 5000),
        ("4:cpu:/a\n7:cpuset,memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000000000", "memory/memory.limit_in_bytes": "9223372036854771712"}, 2000),
        ("", {"memory.max": "1000"}, 24576),
    ],
    ids=["no limit", "around it", "own", "more than there is", "from within a container", "version 1", "no groups"],
)
def test_the_smallest_limit_counts(tmp_path, groups, limits, expected):
    assert machine.memory_mb(*place(tmp_path, groups=groups, limits=limits)) == expected


def test_without_proc_the_system_is_asked(tmp_path):
    assert machine.memory_mb(tmp_path / "none", tmp_path / "none") > 100


def test_jobs_get_less_than_the_machine_has():
    assert machine.memory_for_jobs_mb(128_000) == 120_600
    assert machine.memory_for_jobs_mb(24_000) == 21_800
    assert machine.memory_for_jobs_mb(1000) == 500  # a very small machine still runs something
    assert 0 < machine.memory_for_jobs_mb() < machine.memory_mb()


@pytest.mark.parametrize(("seen", "device", "expected"), [(4, "auto", 4), (4, "cuda", 4), (4, "cuda:2", 1), (4, "cpu", 0), (0, "auto", 0), (0, "cuda", 1)])
def test_all_gpus_are_used_unless_one_is_named(monkeypatch, seen, device, expected):
    monkeypatch.setattr(backend, "n_gpus", lambda: seen)
    assert machine.n_gpus(device) == expected
