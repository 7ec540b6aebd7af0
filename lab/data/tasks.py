"""The two tasks of Sec. 4.1: their domains, and how they are shared out among clients."""

from collections.abc import Callable
from typing import NamedTuple

from lab.data.office import one_of_each_class

NUM_CLASSES = 10  # of both tasks


class Task(NamedTuple):
    """A set of domains with the same ten classes."""

    clients: dict  # domain -> clients
    fraction: float  # of a domain's training images, for each client
    published: dict  # domain -> size of the published training set, which the fraction is of, even
    #                  if a subset is at hand; empty: the fraction is of what is at hand
    checksums: dict  # domain -> sha256 of the published images, as `lab.data.load.digest` gives it
    exchange: Callable | None  # swaps a client's images for those that nobody has yet


TASKS = {
    "digits": Task(
        {"mnist": 6, "usps": 4, "svhn": 3, "syn": 7},
        0.01,
        {"mnist": 60000, "usps": 7291, "svhn": 73257, "syn": 10000},
        {
            "mnist": "06897e71a08dd4d71016defedb0edc17a4800a3e3ad27343e73165e6fd0cbdb8",
            "usps": "46f4a8b2b53733e23ca6759b903151186e5a68e96e4bd01c7ddc493f54e3f488",
        },
        None,
    ),
    "office": Task(
        {"caltech": 3, "amazon": 2, "webcam": 1, "dslr": 4}, 0.20, {}, {}, one_of_each_class
    ),
}
