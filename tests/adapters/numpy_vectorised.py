"""An ordinary implementation: NumPy without loops over samples, float32, gradients by hand."""

import numpy as np

SETTINGS = {"level": "strict"}
TIE = 2.0**-40  # similarities nearer than this are a tie, which the lowest row wins


def unit(x):
    """x scaled to length 1 along its last axis; a zero row stays zero."""
    x = np.asarray(x)
    largest = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    x = x / np.where(largest > 0, largest, 1)
    return x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), 0.5)


def class_prototypes(z, labels, num_classes):
    member = labels[None] == np.arange(num_classes)[:, None]
    counts = member.sum(axis=1)
    return member.astype(np.float32) @ z / np.maximum(counts, 1)[:, None], counts


def link(x):
    """One step of FINCH."""
    similarity = unit(x) @ unit(x).T
    np.fill_diagonal(similarity, -np.inf)
    best = similarity >= similarity.max(axis=1, keepdims=True) - TIE
    links = np.eye(len(x), dtype=int)
    links[np.arange(len(x)), best.argmax(axis=1)] = 1
    reach = links | links.T
    while True:
        further = (reach @ reach > 0).astype(int)
        if (further == reach).all():
            break
        reach = further
    return np.unique(reach.argmax(axis=1), return_inverse=True)[1]


def finch(x):
    x = np.asarray(x, np.float64)
    if len(x) < 2:
        return [np.zeros(1, int)] * len(x)
    partitions = [link(x)]
    while partitions[-1].max() > 0:
        fine = partitions[-1]
        means = np.stack([x[fine == j].mean(axis=0) for j in range(fine.max() + 1)])
        coarse = link(means)[fine]
        if coarse.max() == 0:
            break
        partitions.append(coarse)
    return partitions


def cluster_prototypes(class_means, counts, partition):
    num_clients, num_classes, d = class_means.shape
    clusters = np.zeros((num_classes, max(1, num_clients // 2), d), np.float32)
    mask = np.zeros(clusters.shape[:2], bool)
    for k in range(num_classes):
        rows = class_means[counts[:, k] > 0, k]
        if len(rows):
            labels = finch(rows)[0 if partition == "first" else -1]
            for j in range(labels.max() + 1):
                clusters[k, j], mask[k, j] = rows[labels == j].mean(axis=0), True
    return clusters, mask


def unbiased_prototypes(clusters, mask):
    sums = np.where(mask[:, :, None], clusters, 0).sum(axis=1)
    return sums / np.maximum(mask.sum(axis=1), 1)[:, None]


def log_sum_exp(s, where):
    """Over the last two axes; -inf where there is nothing."""
    s = np.where(where, s, -np.inf)
    largest = s.max(axis=(1, 2), keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    return (np.log(np.exp(s - largest).sum(axis=(1, 2), keepdims=True)) + largest)[:, 0, 0]


def cpcl(z, labels, clusters, mask, tau):
    tau, size = np.float32(tau), len(z)
    u = unit(np.where(mask[:, :, None], clusters, 0))
    v = unit(z)
    cos = np.einsum("bd,kjd->bkj", v, u)
    s = cos / tau
    own = (labels[:, None] == np.arange(len(mask)))[:, :, None] & mask
    other = ~(labels[:, None] == np.arange(len(mask)))[:, :, None] & mask
    some = own.any(axis=(1, 2))
    log_p, log_n = log_sum_exp(s, own), log_sum_exp(s, other)
    gap = np.where(some, log_n - np.where(some, log_p, 0), -np.inf)
    losses = np.maximum(gap, 0) + np.log1p(np.exp(-np.abs(gap)))
    share = np.where(gap > 0, 1, np.exp(np.minimum(gap, 0))) / (1 + np.exp(-np.abs(gap)))
    finite_n = np.where(np.isfinite(log_n), log_n, 0)
    weight = np.where(other, np.exp(s - finite_n[:, None, None]), 0)
    weight = weight - np.where(own, np.exp(s - np.where(some, log_p, 0)[:, None, None]), 0)
    weight = weight * share[:, None, None]
    towards = np.einsum("bkj,kjd->bd", weight, u) - (weight * cos).sum(axis=(1, 2))[:, None] * v
    length = np.sqrt((z * z).sum(axis=1, keepdims=True))
    gradient = np.where(length > 0, towards / np.where(length > 0, length, 1), 0) / (tau * size)
    return losses.mean(), gradient


def upcr(z, labels, unbiased, known, reduce):
    here = known[labels][:, None]
    off = np.where(here, z - np.where(known[:, None], unbiased, 0)[labels], 0)
    scale = len(z) * (z.shape[1] if reduce == "mean" else 1)
    return (off * off).sum() / scale, 2 * off / scale


def weighted_mean(trees, weights):
    shares = np.float32(np.array(weights) / np.sum(weights))
    return {name: sum(w * tree[name] for w, tree in zip(shares, trees)) for name in trees[0]}


def sgd_step(param, velocity, grad, lr, momentum, weight_decay):
    velocity = momentum * velocity + (grad + weight_decay * param)
    return param - lr * velocity, velocity


def batch_norm(x, weight, bias, eps):
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    scale = (weight / np.sqrt(variance + eps))[:, None, None]
    return scale * (x - mean[:, None, None]) + bias[:, None, None], mean, variance
