"""A run that is as small as can be: its settings, clients, prototypes and images."""

import numpy as np

import fpl

TINY = fpl.Config(
    clients=(2, 1, 1, 1), width=2, batch_size=4, local_epochs=2, rounds=2, lr=0.05, tau=0.1
)
DOMAINS = {
    "digits": ("mnist", "usps", "svhn", "syn"),
    "office": ("caltech", "amazon", "webcam", "dslr"),
}


def images_and_labels(n, seed, classes=range(10)):
    """images [n,32,32,3] uint8, labels [n] int32 out of the classes, at random."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
    return images, rng.choice(list(classes), n).astype(np.int32)


def some_clients(sizes=(6, 5, 8, 4, 7), classes=range(10)):
    """Five clients of four domains, or as many as there are sizes."""
    domains = ("mnist", "mnist", "usps", "svhn", "syn")
    return [
        fpl.Client(*images_and_labels(n, m, classes), domain)
        for m, (n, domain) in enumerate(zip(sizes, domains))
    ]


def some_prototypes(cfg, seed=0, known=range(10)):
    """Two clusters for each known class, and none for the others."""
    rng = np.random.default_rng(seed)
    clusters = rng.random((10, 2, 8 * cfg.width)).astype(np.float32)
    mask = np.zeros((10, 2), bool)
    mask[list(known)] = True
    return fpl.Prototypes(clusters, mask, fpl.unbiased_prototypes(clusters, mask))


def no_prototypes(cfg):
    """What the clients receive in round 1."""
    return some_prototypes(cfg, known=())


def arrays(network, width=TINY.width):
    """Weights and statistics by name, as NumPy. network: a ServerState or a ClientUpdate."""
    weights = fpl.views(network.params, fpl.param_shapes(width, 10))
    statistics = fpl.views(network.stats, fpl.stat_shapes(width))
    return {name: value.asnumpy().copy() for name, value in {**weights, **statistics}.items()}


def difference(a, b):
    """The largest difference between two networks, statistics included."""
    return max(
        float(np.abs(x.asnumpy() - y.asnumpy()).max())
        for x, y in ((a.params, b.params), (a.stats, b.stats))
    )


def tiny(task, folder=None):
    """In place of lab.data.load.load: 40 training and 10 test images a domain."""

    def some(n, seed):
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        return images, rng.integers(0, 10, n).astype(np.int32)

    train, tests = (
        {domain: some(n, (n, i)) for i, domain in enumerate(DOMAINS[task])} for n in (40, 10)
    )
    sources = {
        domain: {"kind": "files", "what": "tiny", "train": 40, "test": 10, "sha256": f"{domain} 1"}
        for domain in DOMAINS[task]
    }
    return train, tests, sources
