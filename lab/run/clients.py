"""The images of a task as clients and test sets, and what of them would crash MindSpore."""

import numpy as np

import fpl
from lab.data.tasks import TASKS
from lab.shell.errors import InputError


def share_out(train, cfg):
    """The M Clients of cfg. train: {domain: (images [n,32,32,3] uint8, labels [n])}.

    Raises InputError where images or labels cannot be used, or a domain has too few of them.
    """
    task = TASKS[cfg.task]
    train = {domain: train[domain] for domain in task.clients}
    for domain, (images, labels) in train.items():
        check_images(domain, images, labels)
    try:
        return fpl.split(train, cfg, task.published, task.exchange)
    except ValueError as error:
        raise InputError(str(error)) from error


def test_sets(tests, cfg):
    """The test sets, each cut to at most cfg.test_images images that are drawn by seed.

    tests: {domain: (images, labels)} -> the same. Raises InputError.
    """
    check_tests(tests)
    cut = {}
    for index, (domain, (images, labels)) in enumerate(tests.items()):
        order = fpl.stream(cfg, "test", index).permutation(len(labels))
        chosen = np.sort(order[: cfg.test_images or None])
        cut[domain] = images[chosen], labels[chosen]
    return cut


test_sets.__test__ = False  # pytest takes it for a test where a test file imports it


def check_images(who, images, labels):
    """Refuse all but images [n,32,32,3] uint8 and labels [n] of whole numbers, n > 0.

    Raises InputError that names who.
    """
    shapes_fit = images.shape == (labels.size, 32, 32, 3) and labels.ndim == 1
    if not shapes_fit or labels.size == 0 or images.dtype != np.uint8:
        raise InputError(
            f"{who} has labels {labels.shape} and images {images.shape} "
            f"{images.dtype}; it needs labels (n,), one at least, and images "
            "(n, 32, 32, 3) uint8: look at its files"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{who} has labels of type {labels.dtype}; they must be whole numbers: "
            "look at its files"
        )
    # A label out of range is a segmentation fault inside MindSpore's cross-entropy.
    if labels.min() < 0 or labels.max() >= fpl.NUM_CLASSES:
        raise InputError(
            f"{who} has labels from {labels.min()} to {labels.max()}; they must be "
            f"0 to {fpl.NUM_CLASSES - 1}: look at its files"
        )


def check_clients(clients, cfg):
    """Refuse clients that would crash or mislead MindSpore later. Raises InputError."""
    if len(clients) != sum(cfg.clients):
        raise InputError(
            f"{len(clients)} clients were given, but --clients adds up to "
            f"{sum(cfg.clients)}; make them agree"
        )
    for m, client in enumerate(clients):
        check_images(f"client {m}", client.images, client.labels)


def check_tests(tests):
    """Refuse test sets that have no accuracy or a misleading one. Raises InputError."""
    if not tests:
        raise InputError("no test set was given; at least one domain must have one")
    for domain, test in tests.items():
        check_images(f"the test set of {domain}", *test)
