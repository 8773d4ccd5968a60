# SPDX-License-Identifier: MIT
"""How many threads the engine may have, and who can say so."""

import os

import pytest
from processes import output

import fastlstm as fl
from fastlstm.threads import cpu_quota

GROUPS = {
    "2, nested": ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "150000 100000\n"}, 1.5),
    "2, parent": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"},
        3,
    ),
    "2, root of a container": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "2, moved": ("0::/../../other\n", {"cpu.max": "200000 100000\n"}, 2),
    "1": (
        "3:memory:/m\n2:cpu,cpuacct:/a\n",
        {
            "cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
            "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "1, in a container": (
        "2:cpu:/docker/0123\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "1, none": (
        "2:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        float("inf"),
    ),
    "another controller": ("2:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, float("inf")),
    "none": ("", {}, float("inf")),
}


@pytest.mark.parametrize("name", GROUPS)
def test_threads_quota_of_the_control_group(tmp_path, name):
    groups, files, quota = GROUPS[name]
    proc, mount = tmp_path / "cgroup", tmp_path / "mount"
    proc.write_text(groups)
    for path, text in files.items():
        (mount / path).parent.mkdir(parents=True, exist_ok=True)
        (mount / path).write_text(text)
    assert cpu_quota(str(proc), str(mount)) == quota
    assert cpu_quota(str(tmp_path / "nowhere"), str(mount)) == float("inf")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_threads_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert output(code + "import fastlstm as fl; print(fl.get_num_threads())") == "1"


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_threads_set_num_threads_refuses(value):
    before = fl.get_num_threads()
    with pytest.raises((TypeError, ValueError), match="n must be"):
        fl.set_num_threads(value)
    assert fl.get_num_threads() == before


def test_threads_are_at_most_as_many_as_the_team_can_have(threads):
    for n in (257, 10**8, 2**70):
        threads(n)
        assert fl.get_num_threads() == 256
    code = "import fastlstm as fl; print(fl.get_num_threads())"
    assert output(code, FASTLSTM_NUM_THREADS=str(2**70)) == "256"


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_threads_environment_refuses(value):
    code = """
try:
    import fastlstm
except ValueError as fault:
    print(fault)
"""
    text = f"FASTLSTM_NUM_THREADS must be an int of at least 1, got {value!r}"
    assert output(code, FASTLSTM_NUM_THREADS=value) == text


def test_threads_are_seen_and_limited_by_threadpoolctl(threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    threads(3)
    (found,) = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "fastlstm"]
    assert found["num_threads"] == 3
    assert found["version"] == fl.__version__
    with threadpoolctl.threadpool_limits(1):
        assert fl.get_num_threads() == 1
    with threadpoolctl.threadpool_limits({"fastlstm": 2}):
        assert fl.get_num_threads() == 2
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert fl.get_num_threads() == 3
    assert fl.get_num_threads() == 3
