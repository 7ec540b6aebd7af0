"""Cores and memory are those that a container grants: its files are made up here."""

import os
from pathlib import Path

import pytest

from lab.shell import cores


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """cgroup(**files): what the cgroup's folder holds; 8 cores may be run on."""
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)

    def fill(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return fill


@pytest.mark.parametrize(
    "files, wanted",
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": ""}, 8),
        ({"own": "0::/a/b\n", "a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ({"own": "1:cpu:/a\n0::/a\n", "a/cpu.max": "100000 100000\n"}, 1),
        ({"own": "0::/\n", "a/cpu.max": "100000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_cores_are_what_the_quota_grants(files, wanted, cgroup):
    cgroup(files)
    assert cores.granted() == wanted


def test_without_affinity_all_cores_count(cgroup, monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores.granted() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.granted() == 1


@pytest.mark.parametrize(
    "files, wanted",
    [
        ({}, 4_096_000),
        ({"memory.max": "max\n", "memory.current": "7\n"}, 4_096_000),
        ({"memory.max": "1000\n", "memory.current": "300\n"}, 700),
        ({"own": "0::/a/b\n", "a/memory.max": "900\n", "a/memory.current": "1\n"}, 899),
        ({"memory.max": "1000\n"}, 1000),
        ({"memory.max": "1000\n", "memory.current": "1300\n"}, 0),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4_096_000),
        (
            {
                "memory/memory.limit_in_bytes": "5000\n",
                "memory/memory.usage_in_bytes": "2000\n",
            },
            3000,
        ),
    ],
)
def test_memory_is_what_the_limit_leaves(files, wanted, cgroup, monkeypatch):
    cgroup(files)
    real = cores.text_of
    said = "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n"
    monkeypatch.setattr(
        cores, "text_of", lambda path: said if path == Path("/proc/meminfo") else real(path)
    )
    assert cores.memory() == wanted


def test_memory_unsaid_is_none(cgroup, monkeypatch):
    monkeypatch.setattr(cores, "text_of", lambda path: "")
    assert cores.memory() is None
