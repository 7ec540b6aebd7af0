"""What of the machine a process may use: its cores and memory, as a container grants them."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def granted():
    """How many cores: those that the process may run on, at most as many as its quota allows."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS
        cores = os.cpu_count() or 1
    quota, period = number("cpu/cpu.cfs_quota_us"), number("cpu/cpu.cfs_period_us")
    words = words_of("cpu.max")  # "200000 100000", or "max 100000" without a quota
    if len(words) == 2 and words[0] != "max":
        quota, period = map(int, words)
    if quota and period and quota > 0:
        cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def memory():
    """How many bytes are free for this process; None where the system does not say."""
    lines = dict(line.split(":", 1) for line in text_of(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" not in lines:  # macOS
        return None
    free = 1024 * int(lines["MemAvailable"].split()[0])
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if number(limit) is not None:  # without a limit: "max", or a number beyond all memory
            free = min(free, max(0, number(limit) - (number(used) or 0)))
    return free


def number(name):
    """The whole number that a file of the cgroup begins with, or None."""
    words = words_of(name)
    return int(words[0]) if words and words[0].lstrip("-").isdigit() else None


def words_of(name):
    return text_of(CGROUP / name).split()


def text_of(path):
    try:
        return path.read_text()
    except OSError:
        return ""
