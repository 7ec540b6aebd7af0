"""Hypothesis profiles: HYPOTHESIS_PROFILE=default (the same 60 examples each time), deep (10,000 new ones) or mutants.

deep leaves runs/deep.md: each property, the examples that it really ran, and its seconds.
"""
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# One thread is as fast as two on networks this small, and a busy neighbour does not make the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each of pytest-xdist's workers has a core of its own, and so has all that it starts: MindSpore's threads wait by spinning.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
# fpl.py sets it too, but some test files import MindSpore before
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# First, since the package finch-clust is imported as `finch` too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# MindSpore prepares every operator for every new shape, so the first examples are slow: no deadline, no complaint.
common = dict(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", max_examples=60, derandomize=True, **common)
settings.register_profile("deep", max_examples=10_000, **common)
settings.register_profile("mutants", max_examples=60, derandomize=True, phases=[Phase.explicit, Phase.generate],
                          report_multiple_bugs=False, **common)  # the first failure is enough, however large it is
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
settings.load_profile(PROFILE)


def deep_row(name, statistics, outcome, seconds):
    """One line of runs/deep.md, from what hypothesis tells of a property; a test may ask for fewer examples by itself."""
    counts = [map(int, found) for found in re.findall(r"(\d+) passing, (\d+) failing, and (\d+) invalid", statistics)]
    passing, failing, invalid = (sum(column) for column in zip(*counts)) if counts else (0, 0, 0)
    why = statistics.rpartition("Stopped because ")[2].strip()
    return f"| {name} | {outcome} | {passing} | {failing} | {invalid} | {seconds:.1f} | {why} |"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Under deep, write the whole summary anew after each property, so that a stop after hours loses nothing."""
    report = (yield).get_result()
    statistics = getattr(item, "hypothesis_statistics", "")
    if PROFILE == "deep" and call.when == "call" and statistics:
        rows = item.session.stash.setdefault(DEEP_ROWS, [])
        rows.append(deep_row(item.nodeid.replace("|", "\\|"), statistics, report.outcome, call.duration))
        failed = sum("| failed |" in row for row in rows)
        path = item.config.rootpath / "runs" / "deep.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([f"# {len(rows)} properties so far, {failed} failed", "",
                                   "| property | outcome | passing | failing | invalid | seconds | stopped because |",
                                   "|---|---|---:|---:|---:|---:|---|", *rows, ""]), encoding="utf-8")


DEEP_ROWS = pytest.StashKey()
