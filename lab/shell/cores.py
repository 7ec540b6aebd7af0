"""What of the machine a process may use: its cores and its memory, as a container grants them."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def granted():
    """How many cores: those that the process may run on, at most as many as its quota allows."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS
        cores = os.cpu_count() or 1
    quotas = [number(CGROUP / "cpu/cpu.cfs_quota_us"), number(CGROUP / "cpu/cpu.cfs_period_us")]
    # "200000 100000", or "max 100000" without a quota
    quotas = [quotas, *(text_of(folder / "cpu.max").split() for folder in groups())]
    for quota, period in (words for words in quotas if len(words) == 2):
        if period and quota not in (None, "max") and int(quota) > 0:
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def memory():
    """How many bytes are free for this process; None where the system does not say."""
    lines = dict(line.split(":", 1) for line in text_of(Path("/proc/meminfo")).splitlines())
    if "MemAvailable" not in lines:  # macOS
        return None
    free = 1024 * int(lines["MemAvailable"].split()[0])
    bounds = [(folder / "memory.max", folder / "memory.current") for folder in groups()]
    old = CGROUP / "memory"
    bounds.append((old / "memory.limit_in_bytes", old / "memory.usage_in_bytes"))
    for limit, used in bounds:
        if number(limit) is not None:  # without a limit: "max", or a number beyond all memory
            free = min(free, max(0, number(limit) - (number(used) or 0)))
    return free


def groups():
    """The folders of this process's control group and of those around it, whose limits hold too."""
    path = next((x[3:] for x in text_of(OWN_GROUP).splitlines() if x.startswith("0::")), "/")
    names = Path(path.lstrip("/")).parts
    return [CGROUP.joinpath(*names[:depth]) for depth in range(len(names) + 1)]


def number(path):
    """The whole number that a file begins with, or None."""
    words = text_of(path).split()
    return int(words[0]) if words and words[0].lstrip("-").isdigit() else None


def text_of(path):
    try:
        return path.read_text()
    except OSError:
        return ""
