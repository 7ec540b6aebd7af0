"""The images of a task as clients and test sets, and what of them would crash MindSpore.

*data, sources = load(cfg.task, folder)
clients, tests = share_out(data, tasks.find(cfg.task, folder), cfg)
"""

import numpy as np

import fpl
from lab.data.load import share_to_test
from lab.shell.errors import InputError


def share_out(data, task, cfg):
    """(the M Clients of cfg, the test sets). data: (train, tests), from `lab.data.load.load`.

    train, tests: {domain: (images [n,s,s,3] uint8, labels [n])}. Raises InputError where images or
    labels cannot be used, or a domain has too few of them.
    """
    train, tests = hold_back(*data, cfg)
    train = {domain: train[domain] for domain in task.clients}
    for domain, (images, labels) in train.items():
        check_images(domain, images, labels, cfg)
    try:
        clients = fpl.split(train, cfg, task.published, task.exchange)
    except ValueError as error:
        raise InputError(str(error)) from error
    return skewed(clients, cfg) if cfg.alpha else clients, test_sets(tests, cfg)


def hold_back(train, tests, cfg):
    """(train, tests) where a domain without test images has got a fifth of its others, by seed.

    The fifth is drawn class by class, as evenly as whole images can be.
    """
    train, tests = dict(train), dict(tests)
    for index, (domain, (images, labels)) in enumerate(train.items()):
        if not len(tests[domain][1]):
            number = share_to_test(len(labels))
            order = fpl.stream(cfg, "test", index, 1).permutation(len(labels))
            by_class = order[np.argsort(labels[order], kind="stable")]
            is_test = np.zeros(len(labels), bool)
            is_test[by_class[(2 * np.arange(number) + 1) * len(labels) // (2 * number)]] = True
            train[domain] = images[~is_test], labels[~is_test]
            tests[domain] = images[is_test], labels[is_test]
    return train, tests


def skewed(clients, cfg):
    """The images of each domain's clients, shared out among them anew by Dirichlet(cfg.alpha).

    For each class of a domain the clients' shares are drawn once: alike for a large alpha, nearly
    all with one client for a small one (Hsu, Qi, Brown 2019). Nobody is left without an image.
    """
    shared = []
    for index, domain in enumerate(dict.fromkeys(client.domain for client in clients)):
        own = [client for client in clients if client.domain == domain]
        images = np.concatenate([client.images for client in own])
        labels = np.concatenate([client.labels for client in own])
        rng, holder = fpl.stream(cfg, "split", index, 1), np.zeros(len(labels), int)
        for k in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == k))
            # Beyond 1e300 the sum that NumPy divides by is infinite.
            ends = np.cumsum(rng.dirichlet(np.full(len(own), min(cfg.alpha, 1e300))))[:-1]
            for m, part in enumerate(np.split(members, np.round(ends * len(members)).astype(int))):
                holder[part] = m
        for m in range(len(own)):
            if not (holder == m).any():
                richest = np.bincount(holder).argmax()
                holder[np.flatnonzero(holder == richest)[0]] = m
        shared += [
            fpl.Client(images[holder == m], labels[holder == m], domain) for m in range(len(own))
        ]
    return shared


def images_by_class(clients, num_classes):
    """How many images of each class each client holds [M,K]."""
    return np.stack([np.bincount(client.labels, minlength=num_classes) for client in clients])


def test_sets(tests, cfg):
    """The test sets, each cut to at most cfg.test_images images that are drawn by seed.

    tests: {domain: (images, labels)} -> the same. Raises InputError.
    """
    check_tests(tests, cfg)
    cut = {}
    for index, (domain, (images, labels)) in enumerate(tests.items()):
        order = fpl.stream(cfg, "test", index).permutation(len(labels))
        chosen = np.sort(order[: cfg.test_images or None])
        cut[domain] = images[chosen], labels[chosen]
    return cut


test_sets.__test__ = False  # pytest takes it for a test where a test file imports it


def check_images(who, images, labels, cfg):
    """Refuse all but images [n,s,s,3] uint8 and labels [n] of whole numbers below K, n > 0.

    s is cfg.size. Raises InputError that names who.
    """
    side = cfg.size
    shapes_fit = images.shape == (labels.size, side, side, 3) and labels.ndim == 1
    if not shapes_fit or labels.size == 0 or images.dtype != np.uint8:
        raise InputError(
            f"{who} has labels {labels.shape} and images {images.shape} "
            f"{images.dtype}; it needs labels (n,), one at least, and images "
            f"(n, {side}, {side}, 3) uint8: look at its files"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{who} has labels of type {labels.dtype}; they must be whole numbers: "
            "look at its files"
        )
    # A label out of range is a segmentation fault inside MindSpore's cross-entropy.
    if labels.min() < 0 or labels.max() >= cfg.classes:
        raise InputError(
            f"{who} has labels from {labels.min()} to {labels.max()}; they must be "
            f"0 to {cfg.classes - 1}: look at its files"
        )


def check_clients(clients, cfg):
    """Refuse clients that would crash or mislead MindSpore later. Raises InputError."""
    if len(clients) != sum(cfg.clients):
        raise InputError(
            f"{len(clients)} clients were given, but --clients adds up to "
            f"{sum(cfg.clients)}; make them agree"
        )
    for m, client in enumerate(clients):
        check_images(f"client {m}", client.images, client.labels, cfg)


def check_tests(tests, cfg):
    """Refuse test sets that have no accuracy or a misleading one. Raises InputError."""
    if not tests:
        raise InputError("no test set was given; at least one domain must have one")
    for domain, test in tests.items():
        check_images(f"the test set of {domain}", *test, cfg)
