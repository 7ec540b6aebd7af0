"""Each property on an implementation: it holds, it does not with the smallest case that shows it,
or it is not judged. Nothing here talks; check.py does."""

import time
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky, Unsatisfiable

from lab.proof.implementation import NotWritten, Unusable
from lab.proof.properties.contract import FUNCTIONS, PROPERTIES
from lab.proof.properties.failure import Failure

HOLDS, FAILS, NOT_JUDGED, UNUSABLE = "holds", "does not hold", "not judged", "cannot be used"


class Verdict(NamedTuple):
    """On one property."""

    name: str
    sentence: str
    functions: tuple
    outcome: str  # HOLDS, FAILS, NOT_JUDGED, UNUSABLE
    note: str = ""  # why it is not judged or cannot be used
    examples: int = 0  # how many were tried
    seconds: float = 0.0
    failure: Any = None  # a Failure
    cause: str = ""


def smallest_failure(implementation, proposition, cases, examples, number):
    """Draw cases, small ones first, until one fails; shrink it. -> (Failure or None, how many).

    Raises Unusable or NotWritten, from the smallest call that showed it.
    """
    tried, last = 0, None

    def run(case):
        nonlocal tried, last
        tried += 1
        implementation.calls = []
        try:
            proposition.holds(implementation, case)
        except Failure as failure:
            failure.calls = list(implementation.calls)
            last = failure
            raise

    for drawn in cases:
        try:
            search(run, drawn, examples, number)
        except Failure as failure:
            return failure, tried
        except Unsatisfiable:
            pass  # few examples were asked for, and none of them could be used
        except Flaky as flaky:
            if last is None:
                message = "its answers are of another kind each time"
                raise Unusable(message, proposition.functions[0]) from flaky
            last.what += "; called again with the same arguments, it answered otherwise"
            return last, tried
    return None, tried


def search(run, drawn, examples, number):
    """hypothesis, without a database and without words."""
    options = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(options(given(drawn)(lambda case: run(case))))()


def not_judged(implementation, proposition, gradients):
    """Why a property is not judged, or "": what it needs is there."""
    lacking = [name for name in proposition.functions if not implementation.has(name)]
    if lacking:
        return f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not in the file"
    has = implementation.settings.partitions + implementation.settings.reduces
    if not set(proposition.choices) <= set(has):
        return f"it needs {' and '.join(proposition.choices)}, the settings name another"
    if proposition.level == "strict" and implementation.settings.level != "strict":
        return "only at --level strict"
    if proposition.gradient and not gradients.get(proposition.gradient, True):
        return f"{proposition.gradient} returns no gradient"
    return ""


def gives_gradient(implementation, name):
    """Whether a loss returns a gradient beside its value; True where that cannot be told."""
    z, labels = np.ones((1, 2), np.float32), np.zeros(1, np.int32)
    last = {
        "cpcl": (np.ones((2, 1, 2), np.float32), np.ones((2, 1), bool), 1.0),
        "upcr": (
            np.zeros((2, 2), np.float32),
            np.ones(2, bool),
            implementation.settings.reduces[0],
        ),
    }[name]
    try:
        return getattr(implementation, name)(z, labels, *last)[1] is not None
    except (Failure, NotWritten, Unusable):
        return True


def chosen(only):
    """The properties of these names, which are of properties or functions; all for no name."""
    some = [p for p in PROPERTIES if not only or {p.name, *p.functions} & set(only)]
    return sorted(some, key=lambda p: list(FUNCTIONS).index(p.functions[0]))


def judge(implementation, properties, examples=100, number=0):
    """A Verdict on each property, one after another.

    A function that cannot be used, or is not written yet, is not called again.
    """
    losses = [n for n in ("cpcl", "upcr") if implementation.has(n)]
    gradients = {name: gives_gradient(implementation, name) for name in losses}
    given_up = {}
    for proposition in properties:
        verdict = Verdict(proposition.name, proposition.sentence, proposition.functions, NOT_JUDGED)
        note = not_judged(implementation, proposition, gradients)
        note = note or next((given_up[n] for n in proposition.functions if n in given_up), "")
        if note:
            yield verdict._replace(note=note)
            continue
        start = time.perf_counter()
        try:
            failure, tried = smallest_failure(
                implementation,
                proposition,
                proposition.cases(implementation.settings),
                examples,
                number,
            )
        except NotWritten as error:
            given_up[implementation.calls[-1].function] = str(error)
            yield verdict._replace(note=str(error))
            continue
        except Unusable as error:
            given_up[error.function] = f"{error.function} cannot be used, see above"
            yield verdict._replace(outcome=UNUSABLE, note=str(error))
            continue
        yield verdict._replace(
            outcome=FAILS if failure else HOLDS,
            examples=tried,
            seconds=time.perf_counter() - start,
            failure=failure,
            cause=proposition.cause if failure else "",
        )
