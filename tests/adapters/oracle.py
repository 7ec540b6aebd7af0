"""The oracle as an implementation to be judged: what it finds must be what it says."""

import numpy as np

import oracle_np

SETTINGS = {"level": "strict", "sums": "float64"}


def ragged(clusters, mask):
    """{class: [prototype, ...]} of those that there are."""
    there = {k: [c for c, m in zip(clusters[k], mask[k]) if m] for k in range(len(mask))}
    return {k: rows for k, rows in there.items() if rows}


def table(of_class, num_classes, d):
    """{class: [d]} as [K,d], zero where there is none."""
    return np.float32([of_class.get(k, np.zeros(d)) for k in range(num_classes)])


def class_prototypes(z, labels, num_classes):
    means, counts = oracle_np.class_prototypes(z, labels, num_classes)
    return table(means, num_classes, z.shape[1]), counts


def finch(x):
    return oracle_np.finch(x.astype(np.float64))


def cluster_prototypes(class_means, counts, partition):
    means = class_means.astype(np.float64)
    prototypes = oracle_np.cluster_prototypes(means, counts, partition)
    return {k: np.float32(rows) for k, rows in prototypes.items()}


def unbiased_prototypes(clusters, mask):
    unbiased = oracle_np.unbiased_prototypes(ragged(clusters, mask))
    return table(unbiased, len(mask), clusters.shape[2])


def cpcl(z, labels, clusters, mask, tau):
    given = z.astype(np.float64), labels, ragged(clusters.astype(np.float64), mask), tau
    return oracle_np.cpcl_loss(*given), oracle_np.cpcl_grad(*given)


def upcr(z, labels, unbiased, known, reduce):
    of_class = {int(k): unbiased[k].astype(np.float64) for k in np.flatnonzero(known)}
    given = z.astype(np.float64), labels, of_class, reduce
    return oracle_np.upcr_loss(*given), oracle_np.upcr_grad(*given)


def weighted_mean(trees, weights):
    return {k: np.float32(v) for k, v in oracle_np.weighted_mean(trees, weights).items()}


def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    return oracle_np.sgd_step(param, velocity, grad, lr, momentum, weight_decay)


def batch_norm(x, weight, bias, eps):
    return oracle_np.batch_norm(x, weight, bias, eps)
