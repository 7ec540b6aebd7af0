"""check sees each of 55 faults (--all takes half of them), and tells it from what is right.

Each fault stands in a right implementation, tests/adapters/numpy_vectorised.py.
"""

import sys
import types
from pathlib import Path

import pytest

from lab.proof.implementation import Implementation, Settings
from lab.proof.judge import FAILS, HOLDS, chosen, judge

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "adapters"))

import faults
import numpy_vectorised
from marks import DEEP

SOME = faults.FAULTS if DEEP else faults.FAULTS[::2]  # two seconds each


def label(fault):
    return f"{fault.function}-{fault.wrong.__name__}"


def verdicts_on(fault, level, examples):
    module = types.SimpleNamespace(**{**vars(numpy_vectorised), fault.function: fault.wrong})
    theirs = Implementation(module, Settings(level=level))
    return list(judge(theirs, chosen([fault.function]), examples))


@pytest.mark.slow
@pytest.mark.parametrize("fault", SOME, ids=label)
def test_a_fault_fails_its_properties_and_no_other(fault):
    """And where a property fails there is a call, and a usual cause."""
    verdicts = verdicts_on(fault, fault.level, 25)
    failing = [v for v in verdicts if v.outcome == FAILS]
    names = {v.name for v in failing}
    assert fault.fails <= names <= fault.fails | fault.may
    assert any(v.outcome == HOLDS for v in verdicts)
    assert all(v.cause and v.failure.calls for v in failing)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in SOME if f.level == "strict"], ids=label)
def test_what_only_strict_sees_passes_at_equations(fault):
    """An ordinary float32 implementation is not blamed."""
    verdicts = verdicts_on(fault, "equations", 100)
    assert [v.name for v in verdicts if v.outcome == FAILS] == []


def test_there_are_faults_of_every_function():
    assert len(faults.FAULTS) >= 55
    assert len({label(fault) for fault in faults.FAULTS}) == len(faults.FAULTS)
    assert {fault.function for fault in faults.FAULTS} == {p.functions[0] for p in chosen([])}
