"""A property, the failure that it raises, and the comparisons that raise it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

U = 2.0**-24  # float32's unit rounding error


class Property(NamedTuple):
    """What must hold of one or more functions of the contract."""

    holds: Callable  # holds(implementation, case) raises Failure; its docstring is the sentence
    functions: tuple  # the names of the functions that it needs
    cases: (
        Callable  # cases(settings) -> strategies: small cases first, which shrink to a few digits
    )
    level: str = "equations"  # "strict": judged at that level alone
    cause: str = ""  # the usual cause where it does not hold
    gradient: str = ""  # the loss whose gradient it needs
    choices: tuple = ()  # the values of partition and reduce that it needs

    @property
    def name(self):
        return self.holds.__name__

    @property
    def sentence(self):
        """The first line of the docstring."""
        return self.holds.__doc__.strip().splitlines()[0]


class Failure(AssertionError):
    """An implementation gave something else than it must."""

    def __init__(self, what, got=None, want=None, off=None, room=None, why=""):
        super().__init__(what)
        self.what = what  # one sentence
        self.got, self.want = got, want  # numbers or arrays; None: there is nothing to show
        self.off, self.room = off, room  # numbers: how far off at the worst place, what is allowed
        self.why = why  # why so much is allowed
        self.calls = []  # the calls that led here

    def __str__(self):
        lines = [self.what]
        if self.got is not None:
            lines += [f"came out: {self.got}", f"wanted:   {self.want}"]
        if self.off is not None:
            lines += [f"off by {self.off:.3g}, allowed {self.room:.3g}: {self.why}"]
        return "\n".join(lines)


def expect(what, got, want, room=0.0, why="", largest=False):
    """Raise Failure unless got is within room of want, entry by entry.

    room: a number, or an array of the shape of want. what names the thing that is compared.
    largest: compare the norms of the differences instead of the entries; room is a number.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        raise Failure(f"{what} has the shape {got.shape}, wanted {want.shape}", got, want)
    if not got.size:
        return
    with np.errstate(all="ignore"):
        off = np.where(got == want, 0.0, np.abs(got - want))
    off = np.where(np.isnan(off), np.inf, off)
    if largest:
        off, room = np.atleast_1d(np.linalg.norm(off)), np.atleast_1d(float(room))
    else:
        off, room = np.atleast_1d(off), np.broadcast_to(room, np.atleast_1d(off).shape)
    if (off <= room).all():
        return
    worst = np.unravel_index(np.argmax(off - room), off.shape)
    reason = why or ("no rounding can make a difference here" if not room[worst] else "")
    finite = np.isfinite(got).all()
    trouble = "is off" if finite else "is not finite"
    raise Failure(f"{what} {trouble}", got, want, float(off[worst]), float(room[worst]), reason)


def demand(holds, what, got: Any = None, want: Any = None):
    """Raise Failure unless it holds. what: the sentence of what is wrong."""
    if not holds:
        raise Failure(what, got, want)


def mean_room(settings, want, largest, n):
    """How far rounding may move a mean of n numbers up to `largest`, entry by entry, and why.

    sums "float64": it is rounded to float32 once, at the end: half a unit in the last place, and
    a thousandth for the float64 before it. "float32": n additions and a division round as well.
    """
    want = np.asarray(want, np.float64)
    if settings.sums == "float64":
        ulp = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
        return (0.5 + 1e-3) * ulp + 2.0**-45 * largest, "one rounding to float32"
    return np.full(want.shape, (n + 2) * U * largest), "n additions and a division in float32"
