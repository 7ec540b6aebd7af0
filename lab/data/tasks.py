"""The sets of domains to train on, and how each is shared out among clients.

digits and office are the two of Sec. 4.1; folder is what lies in a folder of the user's own.
"""

from collections.abc import Callable
from typing import NamedTuple

from lab.data import domains
from lab.data.office import OBJECTS, one_of_each_class


class Task(NamedTuple):
    """A set of domains with the same classes."""

    clients: dict  # domain -> clients
    classes: tuple  # their names, in the order of their numbers
    fraction: float  # of a domain's training images, for each client; 0: shared out whole
    published: dict  # domain -> size of the published training set, which the fraction is of, even
    #                  if a subset is at hand; empty: the fraction is of what is at hand
    checksums: dict  # domain -> sha256 of the published images, as `lab.data.load.digest` gives it
    exchange: Callable | None  # swaps a client's images for those that nobody has yet
    notes: tuple = ()  # lines to show, about what was found


TASKS = {
    "digits": Task(
        {"mnist": 6, "usps": 4, "svhn": 3, "syn": 7},
        tuple("0123456789"),
        0.01,
        {"mnist": 60000, "usps": 7291, "svhn": 73257, "syn": 10000},
        {
            "mnist": "06897e71a08dd4d71016defedb0edc17a4800a3e3ad27343e73165e6fd0cbdb8",
            "usps": "46f4a8b2b53733e23ca6759b903151186e5a68e96e4bd01c7ddc493f54e3f488",
        },
        None,
    ),
    "office": Task(
        {"caltech": 3, "amazon": 2, "webcam": 1, "dslr": 4},
        tuple(names.split("|")[0] for names in OBJECTS),
        0.20,
        {},
        {},
        one_of_each_class,
    ),
}
NAMES = (*TASKS, "folder")


def find(name, folder=None):
    """The Task of this name; that of "folder" is made by a look at what the folder holds.

    Raises InputError.
    """
    if name != "folder":
        return TASKS[name]
    listing = domains.look(folder)
    return own(listing.train, listing.classes, listing.notes)


def own(names, classes, notes=()):
    """The Task of domains that are the user's own: two clients each, every image at work."""
    return Task(dict.fromkeys(names, 2), tuple(classes), 0.0, {}, {}, None, tuple(notes))
