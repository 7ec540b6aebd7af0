"""Where the tests find things, the cores that they use, and how many examples a property gets.

HYPOTHESIS_PROFILE is default (the same 60 examples each time), deep (10,000 new ones) or mutants.
deep leaves runs/deep.md: each property, the examples that it really ran, and its seconds.
"""

import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# tests/ for tiny.py and the like. The root comes before it, and before
# what is installed: the package finch-clust is imported as `finch` too.
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from lab.shell import environment  # noqa: E402

# What the packages would read goes; PYTEST_*, HYPOTHESIS_* and PYTHON* are run.sh's to remove.
environment.remove(*environment.OF_PACKAGES)
os.environ["MATPLOTLIBRC"] = os.devnull

# One thread is as fast as two on networks this small,
# and a busy neighbour does not make the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# fpl.py sets it too, but some test files import MindSpore before
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"

# Each of pytest-xdist's workers has a core of its own,
# and so has all that it starts: MindSpore's threads wait by spinning.
worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker and hasattr(os, "sched_setaffinity"):  # not on macOS
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# MindSpore prepares every operator for every new shape,
# so the first examples are slow: there is no deadline, and no complaint.
common = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
# Where CI is set hypothesis begins with a profile that derandomizes; ours do not begin with it.
common["parent"] = settings.get_profile("default")
settings.register_profile("default", max_examples=60, derandomize=True, **common)
settings.register_profile("deep", max_examples=10_000, derandomize=False, **common)
settings.register_profile(
    "mutants",
    max_examples=60,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,  # the first failure is enough, however large it is
    **common,
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
PROFILES = ("default", "deep", "mutants")
if PROFILE in PROFILES:
    settings.load_profile(PROFILE)


def pytest_configure(config):
    if PROFILE not in PROFILES:
        raise pytest.UsageError(
            f"HYPOTHESIS_PROFILE is {PROFILE}; it must be {', '.join(PROFILES)}, or not be set"
        )


DEEP_ROWS = pytest.StashKey()


def deep_row(name, statistics, outcome, seconds):
    """One line of runs/deep.md, from what hypothesis tells of a property.

    The number of examples is in it because a test may ask for fewer by itself.
    """
    counts = [
        map(int, found)
        for found in re.findall(r"(\d+) passing, (\d+) failing, and (\d+) invalid", statistics)
    ]
    passing, failing, invalid = (sum(column) for column in zip(*counts)) if counts else (0, 0, 0)
    why = statistics.rpartition("Stopped because ")[2].strip()
    return f"| {name} | {outcome} | {passing} | {failing} | {invalid} | {seconds:.1f} | {why} |"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Under deep, write the whole summary anew after each property: a stop loses nothing."""
    report = (yield).get_result()
    statistics = getattr(item, "hypothesis_statistics", "")
    if PROFILE == "deep" and call.when == "call" and statistics:
        rows = item.session.stash.setdefault(DEEP_ROWS, [])
        name = item.nodeid.replace("|", "\\|")
        rows.append(deep_row(name, statistics, report.outcome, call.duration))
        failed = sum("| failed |" in row for row in rows)
        path = item.config.rootpath / "runs" / "deep.md"
        path.parent.mkdir(exist_ok=True)
        head = [
            f"# {len(rows)} properties so far, {failed} failed",
            "",
            "| property | outcome | passing | failing | invalid | seconds | stopped because |",
            "|---|---|---:|---:|---:|---:|---|",
        ]
        path.write_text("\n".join([*head, *rows, ""]), encoding="utf-8")
