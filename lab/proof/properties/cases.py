"""What the properties draw.

Each kind of case comes in two ways. Small cases have a handful of whole numbers drawn one by one,
so that a counterexample shrinks to something that can be read. Of large cases hypothesis draws the
structure; the many numbers come from a generator whose seed it draws. The shapes are few, because
a compiling framework prepares its operators anew for each: the smallest, odd ones, the d of the
paper.
"""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

import oracle_np as oracle

SMALL_SHAPES = ((1, 2, 1, 2), (1, 2, 2, 2), (3, 3, 2, 2))  # B, K, J, d
SHAPES = ((1, 2, 1, 1), (5, 3, 4, 2), (5, 3, 4, 7), (8, 5, 2, 64), (16, 4, 3, 512))
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(-3, 3).map(lambda power: 10.0**power)
TAUS = st.one_of(
    st.sampled_from([0.005, 0.02, 1.0]), st.floats(np.log(0.005), np.log(10)).map(np.exp)
)


class LossCase(NamedTuple):
    """One batch and the prototypes that it meets."""

    z: np.ndarray  # [B,d] float32
    labels: np.ndarray  # [B] int32
    clusters: np.ndarray  # [K,J,d] float32
    mask: np.ndarray  # [K,J] bool
    tau: float  # exactly a float32, so that both sides use the same number

    def ragged(self):
        """The same clusters as the oracle keeps them, in float64."""
        return ragged(self.clusters, self.mask)


def ragged(clusters, mask):
    """The clusters that there are: {class: [prototype, ...]}, in float64."""
    kept = ((k, list(clusters[k][mask[k]].astype(np.float64))) for k in range(len(mask)))
    return {k: rows for k, rows in kept if rows}


def whole_numbers(shape, least=-2, most=2):
    """Arrays of small whole numbers, float32, each drawn by itself; they shrink towards zero."""
    size = int(np.prod(shape))
    numbers = st.lists(st.integers(least, most), min_size=size, max_size=size)
    return numbers.map(lambda drawn: np.array(drawn, np.float32).reshape(shape))


def without_zero_rows(x):
    """The zero rows of x [...,d] replaced by (1, 0, ...)."""
    x = x.copy()
    x[~x.any(axis=-1), 0] = 1
    return x


@st.composite
def small_loss_cases(draw, zero_rows=True, taus=(1.0, 0.5, 0.02, 0.005)):
    """A LossCase of a few whole numbers."""
    batch, classes, most, d = draw(st.sampled_from(SMALL_SHAPES))
    z, clusters = draw(whole_numbers((batch, d))), draw(whole_numbers((classes, most, d)))
    if not zero_rows:
        z, clusters = without_zero_rows(z), without_zero_rows(clusters)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch))
    absent = draw(st.lists(st.booleans(), min_size=classes * most, max_size=classes * most))
    mask = ~np.array(absent).reshape(classes, most)
    return LossCase(
        z,
        np.array(labels, np.int32),
        np.where(mask[:, :, None], clusters, np.float32(0)),
        mask,
        float(np.float32(draw(st.sampled_from(taus)))),
    )


@st.composite
def loss_cases(draw, shapes=SHAPES, taus=TAUS, zero_rows=True, scales=SCALES):
    """A LossCase."""
    batch, classes, most, d = draw(st.sampled_from(shapes))
    # 0 clusters: a class that nobody holds
    counts = draw(st.lists(st.integers(0, most), min_size=classes, max_size=classes))
    rng = np.random.default_rng(draw(SEEDS))
    # A common direction makes every cosine nearly 1, as ReLU features do; 0 leaves them around 0.
    common = rng.standard_normal(d) * draw(st.sampled_from([0.0, 1.0, 30.0]))
    clusters = (rng.standard_normal((classes, most, d)) + common) * draw(scales)
    z = (rng.standard_normal((batch, d)) + common) * draw(scales)
    labels = rng.integers(0, classes, batch)
    if draw(st.booleans()):  # a sample that lies on a prototype of its class: the loss is nearly 0
        z[0] = clusters[labels[0], 0]
    if zero_rows and draw(st.booleans()):
        z[rng.integers(batch)] = 0
    if zero_rows and draw(st.booleans()):
        clusters[rng.integers(classes), rng.integers(most)] = 0
    mask = np.arange(most) < np.array(counts)[:, None]
    mask = rng.permuted(mask, axis=1)  # nothing may hang on the valid slots being the first
    clusters = np.where(mask[:, :, None], clusters, 0)
    return LossCase(
        z.astype(np.float32),
        labels.astype(np.int32),
        clusters.astype(np.float32),
        mask,
        float(np.float32(draw(taus))),
    )


class Holders(NamedTuple):
    """What the clients send. A count of 0 has a zero mean."""

    class_means: np.ndarray  # [M,K,d] float32
    counts: np.ndarray  # [M,K]


@st.composite
def small_holders(draw, least_d=1):
    """Holders of a few whole numbers: up to five clients, one or two classes."""
    clients, classes = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    d = draw(st.integers(max(least_d, 2), 2))
    means = without_zero_rows(draw(whole_numbers((clients, classes, d), -3, 3)))
    counts = st.lists(st.integers(0, 2), min_size=clients * classes, max_size=clients * classes)
    counts = np.array(draw(counts), np.int64).reshape(clients, classes)
    return Holders(np.where(counts[:, :, None] > 0, means, np.float32(0)), counts)


@st.composite
def holders(draw, most_clients=24, widths=(1, 3, 16)):
    """M clients, each class held by its own number of them: by all, some, one or none."""
    clients, classes = draw(st.integers(1, most_clients)), draw(st.integers(1, 4))
    d = draw(st.sampled_from(widths))
    held_by = draw(st.lists(st.integers(0, clients), min_size=classes, max_size=classes))
    rng = np.random.default_rng(draw(SEEDS))
    counts = np.zeros((clients, classes), np.int64)
    for k, n in enumerate(held_by):
        counts[rng.permutation(clients)[:n], k] = rng.integers(1, 50, n)
    means = rng.standard_normal((clients, classes, d)) * draw(SCALES)
    return Holders(np.where(counts[:, :, None] > 0, means, 0).astype(np.float32), counts)


@st.composite
def small_rows(draw, least=0, most=6):
    """x [n,2] float64 of small whole numbers."""
    n = draw(st.integers(least, max(least, min(most, 6))))
    return draw(whole_numbers((n, 2), -3, 3)).astype(np.float64)


@st.composite
def rows_to_cluster(draw, least=0, most=60):
    """x [n,d] float64: random rows, repeated rows, rows on a coarse grid (many ties), zero rows."""
    n, d = draw(st.integers(least, most)), draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(SEEDS))
    kind = draw(st.sampled_from(["random", "repeated", "grid"]))
    if kind == "grid":
        x = rng.integers(-2, 3, (n, d)).astype(np.float64)
    else:
        x = rng.standard_normal((n, d)) * draw(SCALES)
    if kind == "repeated" and n:
        x = x[rng.integers(0, max(1, n // 3), n)]
    if n and draw(st.booleans()):
        x[rng.integers(0, n, 1 + n // 5)] = 0
    return x


def cosine_error(d):
    """How far rounding in float32 may move a cosine of two vectors with d entries.

    Its sum of d products carries about sqrt(d) U from the additions; the two lengths, the division
    and the product with 1 / tau add a few U.
    """
    return (np.sqrt(d) + 8) * 2.0**-24


def well_apart(x):
    """Whether float32 leaves no doubt about any first neighbour, in any partition of the rows.

    The best and the second best similarity differ by more than both may be off.
    """
    for rows in [x, *(oracle.cluster_means(x, p) for p in oracle.finch(x) if max(p) > 0)]:
        units = np.array([oracle.unit(row) for row in rows])
        similarity = np.sort(units @ units.T - 3 * np.eye(len(units)), axis=1)
        if len(units) > 2 and (similarity[:, -1] - similarity[:, -2]).min() < 4 * cosine_error(
            units.shape[1]
        ):
            return False
    return True
