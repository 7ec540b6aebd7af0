"""FINCH: clustering by first neighbours, without any parameter.

After Sarfraz, Sharma, Stiefelhagen, "Efficient Parameter-free Clustering Using First Neighbor
Relations", CVPR 2019, and Eq. 4 of the FPL paper. Similarity is the cosine.

    >>> degrees = np.radians([0, 10, 90, 95])
    >>> finch(np.stack([np.cos(degrees), np.sin(degrees)], axis=1))
    [array([0, 0, 1, 1])]

It differs from the authors' package in four points: neighbours are exact (theirs are approximate
for large n), everything is float64 (theirs is float32), links are 0 or 1, and equal similarities
go to the lowest index, so that the same rows give the same clusters.
"""
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Rows taken at a time: the similarities of two blocks, 2 MiB, stay in the processor's cache.
BLOCK = 512


def unit_rows(x):
    """Rows scaled to length 1. x [n,d] float64 -> [n,d].

    A zero row stays zero, hence has similarity 0 to every row.
    """
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    # first by the largest entry: the squares can then neither overflow nor vanish
    x = x / np.where(largest > 0, largest, 1)
    length = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return x / np.where(length > 0, length, 1)


def blocks(n):
    """0..n-1 cut into slices of BLOCK."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def block_peaks(unit):
    """The highest similarity of each row to the other rows of each block.

    unit [n,d] -> [blocks,n] float64. Similarity is symmetric: two blocks are multiplied once, for
    the rows of both. Only the peaks are kept: 8 n^2 / BLOCK bytes, 156 MB for n = 100,000, where
    all similarities would be 80 GB.
    """
    peaks = np.empty((len(blocks(len(unit))), len(unit)))
    for i, rows in enumerate(blocks(len(unit))):
        for j, columns in enumerate(blocks(rows.stop)):
            similarity = unit[rows] @ unit[columns].T
            if i == j:
                np.fill_diagonal(similarity, -np.inf)  # no row is its own neighbour
            peaks[j, rows] = similarity.max(axis=1)
            peaks[i, columns] = similarity.max(axis=0)
    return peaks


def first_neighbours(x):
    """The most similar other row of each row, the lowest of several: v_m of Eq. 4.

    x [n,d], n >= 2 -> [n] int.
    """
    unit = unit_rows(x)
    n, d = unit.shape
    # A dot product of unit vectors is off by at most about d/2 ulps of 1; two rows that are equally
    # far are one such error apart on either side. Without this margin the order of additions would
    # decide between duplicates.
    tie = 4 * d * 2.0**-53
    peaks = block_peaks(unit)
    least = peaks.max(axis=0) - tie  # a similarity from here up counts as the best
    # The lowest row that reaches `least` lies in the first block whose peak does: that block has
    # such a row, no earlier one has any. So one block per row has to be looked at again, whatever
    # the number of ties.
    home = np.argmax(peaks >= least, axis=0)
    neighbours = np.empty(n, int)
    for j, columns in enumerate(blocks(n)):
        at_home = np.flatnonzero(home == j)
        for part in blocks(len(at_home)):
            rows = at_home[part]
            similarity = unit[rows] @ unit[columns].T
            similarity[rows[:, None] == np.arange(n)[columns]] = -np.inf
            # Another shape may be added up in another order: an ulp lower, the peak itself could
            # miss `least`.
            reached = similarity >= np.minimum(least[rows], similarity.max(axis=1))[:, None]
            # argmax: the first True, the lowest row
            neighbours[rows] = columns.start + np.argmax(reached, axis=1)
    return neighbours


def link(x):
    """One step of FINCH: rows joined to their first neighbours, directly or through others.

    x [n,d] -> labels [n], which count from 0 in the order of each cluster's lowest row. Eq. 4 also
    links m and n when v_m = v_n; both are then linked to that row, so the edges (m, v_m) suffice.
    """
    n = len(x)
    edges = coo_array((np.ones(n), (np.arange(n), first_neighbours(x))), shape=(n, n))
    _, labels = connected_components(edges, directed=False)
    _, first_row, labels = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_row))[labels]


def cluster_means(x, labels):
    """Mean of the rows of each cluster. x [n,d], labels [n] -> [clusters,d]."""
    n, clusters = len(x), labels.max() + 1
    membership = coo_array((np.ones(n), (labels, np.arange(n))), shape=(clusters, n)).tocsr()
    return (membership @ x) / np.bincount(labels)[:, None]


def finch(x):
    """All partitions of the rows of x, finest first: a list of label arrays [n].

    x [n,d] holds finite numbers. The first partition links rows, each further one links the
    cluster means of the one before. It ends when nothing merges or all would become one cluster;
    one cluster is an answer only where the first step gives it (n <= 3 always does). n = 0 gives
    no partition. Raises ValueError for another shape, or numbers that are not finite.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"finch wants a finite array [n,d], not one of shape {x.shape}; "
                         "look for NaN or infinity in it")
    if len(x) < 2:
        return [np.zeros(1, int)] if len(x) else []
    partitions = [link(x)]
    while partitions[-1].max() > 0:
        coarser = link(cluster_means(x, partitions[-1]))[partitions[-1]]
        if coarser.max() == 0:
            break
        partitions.append(coarser)
    return partitions
