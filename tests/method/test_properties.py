"""The properties that `./run.sh check` judges by, on fpl.py, finch.py and on other implementations.

tests/adapters/ has each of them as a file that check could be given.
"""

import functools
import importlib.metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.proof import implementation
from lab.proof.judge import FAILS, HOLDS, UNUSABLE, chosen, judge
from lab.proof.properties.contract import FUNCTIONS, PROPERTIES

ADAPTERS = Path(__file__).resolve().parents[1] / "adapters"


@functools.cache
def adapter(name):
    """An implementation, at the level that its SETTINGS name."""
    module = implementation.load(ADAPTERS / f"{name}.py")
    return implementation.Implementation(module, implementation.settings_of(module, {}))


OURS = adapter("fpl_mindspore")


@pytest.mark.parametrize(
    "proposition", PROPERTIES, ids=[f"{p.functions[0]}-{p.name}" for p in PROPERTIES]
)
@given(data=st.data())
def test_of_fpl_it_holds_that(proposition, data):
    """In float32, at the level strict, with means that are rounded once."""
    assert (OURS.settings.level, OURS.settings.sums) == ("strict", "float64")
    proposition.holds(OURS, data.draw(st.one_of(proposition.cases(OURS.settings))))


@pytest.mark.parametrize(
    "name, package, level, functions",
    [
        ("oracle", "numpy", "strict", FUNCTIONS),
        ("numpy_vectorised", "numpy", "strict", FUNCTIONS),
        ("finch_clust", "finch-clust", "equations", ["finch"]),
        ("pytorch", "torch", "equations", FUNCTIONS),
        ("jax_numpy", "jax", "strict", FUNCTIONS),
    ],
)
def test_a_right_implementation_passes_at_its_level(name, package, level, functions):
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    theirs = adapter(name)
    assert theirs.settings.level == level
    verdicts = list(judge(theirs, chosen([]), examples=20))
    wrong = [v for v in verdicts if v.outcome in (FAILS, UNUSABLE)]
    assert not wrong, "\n\n".join(f"{v.name}: {v.failure or v.note}" for v in wrong)
    held = {f for v in verdicts if v.outcome == HOLDS for f in v.functions}
    assert held == set(functions)
