"""Times of two things in turn, how busy others are meanwhile, and what a ratio is worth."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

BUSY = 0.1  # cores that others may use meanwhile
ERROR = 0.05  # of the median


class Row(NamedTuple):
    """What is measured: first over second, as often as repeat says.

    The median ratio must be at most or at least bound. measure(repeat) -> pairs [(first, second)]
    in `unit`; flags: the options that ask for it, "" for always.
    """

    name: str
    first: str
    second: str
    side: str  # at most | at least
    bound: float
    repeat: int
    measure: Callable
    unit: str = "s"
    flags: str = ""


class Result(NamedTuple):
    """A measured row."""

    row: Row
    repeats: int
    first: float  # median
    second: float  # median
    low: float  # quartiles of the ratio, of which `ratio` is the median
    ratio: float
    high: float
    others: float  # cores that other processes used
    seconds: float


# ---------------------------------------------------------------- time


def seconds(work):
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(first, second, repeat, before=2):
    """Seconds of the two, which take turns in going first: [(first, second)].

    Each is called twice or so before, to compile and to fill caches.
    """
    for work in (first, second):
        for _ in range(before):
            work()
    pairs = []
    for number in range(repeat):
        if number % 2:
            late = seconds(second)
            pairs.append((seconds(first), late))
        else:
            pairs.append((seconds(first), seconds(second)))
    return pairs


def clock():
    """(seconds, busy core-seconds, own core-seconds), each from some start.

    Busy are the cores that this process may use.
    """
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user, nice, system, idle, waiting for the disk,
    # two kinds of interrupts, stolen by other virtual machines
    ticks = sum(sum(map(int, line[1:4] + line[6:9])) for line in lines if line[0] in mine)
    return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def others_since(before):
    """Cores that other processes kept busy since `before`, on average. before: from `clock`."""
    now, busy, own = (b - a for a, b in zip(before, clock()))
    return max(0.0, busy - own) / now


# ---------------------------------------------------------------- figures and verdicts


def figures(row, pairs, others, took):
    """The Result of a row's pairs."""
    first, second = np.median(pairs, axis=0)
    low, ratio, high = np.percentile([a / b for a, b in pairs], [25, 50, 75])
    return Result(
        row,
        len(pairs),
        float(first),
        float(second),
        float(low),
        float(ratio),
        float(high),
        others,
        took,
    )


def error(result):
    """Half the width of the median's 95 % interval, where ratios are normal.

    It is 1.96 * 1.2533 sigma / sqrt(n), sigma = IQR / 1.349.
    """
    return 1.82 * (result.high - result.low) / result.repeats**0.5


def met(result):
    """Whether the ratio is on the right side of the bound."""
    if result.row.side == "at most":
        return result.ratio <= result.row.bound
    return result.ratio >= result.row.bound


def verdict(result):
    """met or missed; close: the bound is within the error; noisy: not to be trusted."""
    close = abs(result.ratio - result.row.bound) < error(result)
    noisy = result.others > BUSY or error(result) > ERROR * result.ratio
    return ("met" if met(result) else "missed") + ", close" * close + ", noisy" * noisy
