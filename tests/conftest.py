"""Hypothesis profiles: HYPOTHESIS_PROFILE=default (the same 60 examples each time) or deep (10,000 new ones)."""
import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# One thread is as fast as two on networks this small, and a busy neighbour does not make the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# First, since the package finch-clust is imported as `finch` too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# MindSpore prepares every operator for every new shape, so the first examples are slow: no deadline, no complaint.
common = dict(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", max_examples=60, derandomize=True, **common)
settings.register_profile("deep", max_examples=10_000, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
