"""What is finch.py's own in FINCH: its blocks, its ties, its memory, what it refuses.

That the partitions are right, test_properties.py holds.
"""

import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import finch as finch_module
import oracle_np as oracle
from finch import finch
from lab.proof.properties.cases import SEEDS, rows_to_cluster


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(a, b) for a, b in zip(some, others))


@contextmanager
def blocks_of(rows):
    """finch takes so many rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finch_module, "BLOCK", rows)
        yield


def neighbours_of(unit, change=lambda product: product):
    """First neighbours of rows taken as of length 1; each product of theirs is `change`d."""

    class Changed(np.ndarray):
        def __matmul__(self, other):
            return change(np.asarray(self) @ np.asarray(other))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finch_module, "unit_rows", lambda x: unit.view(Changed))
        return finch_module.first_neighbours(unit)


def rows_below_the_best(margins):
    """Row 0, and rows whose similarities to it are 0.5 less so many tie margins.

    -> unit rows [1 + margins, 2].
    """
    # exact: the spacing of float64 is 2^-54 below 0.5
    cosines = 0.5 - 4 * 2 * 2.0**-53 * np.array(margins)
    return np.vstack([[1, 0], np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)])


@given(rows_to_cluster(), st.integers(1, 70))
def test_the_size_of_a_block_does_not_show(x, rows):
    with blocks_of(rows):
        got = finch(x)
    assert same(got, finch(x)) and same(got, oracle.finch(x))


@pytest.mark.parametrize("rows", range(1, 42))
def test_blocks_of_every_size_give_the_same_labels(rows):
    # 40 rows: 20 different ones, each of them twice, four of them zero;
    # the blocks end before, in and after any pair.
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((20, 6)), 2, axis=0)
    x[:4] = 0
    x = rng.permutation(x)
    with blocks_of(rows):
        assert same(finch(x), oracle.finch(x))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 512])
def test_the_tie_margin_is_counted_from_the_best(rows):
    """It is not counted from a best so far."""
    # To row 0, row 1 is within the margin of row 2, and row 2 within that of row 3, the best;
    # row 1 is not within that. A running choice that meets them one after
    # the other stays with row 1 or goes on to row 3: the answer is row 2.
    with blocks_of(rows):
        assert neighbours_of(rows_below_the_best([1.125, 0.875, 0, 0.875]))[0] == 2


@given(SEEDS)
def test_an_ulp_less_does_not_lose_the_neighbour(seed):
    """A product taken a second time may be an ulp lower than the first time."""
    # Row 2 is exactly as far below row 3, the best,
    # as the margin goes, so that an ulp decides; either is an answer.
    unit, rng = rows_below_the_best([1000, 1, 0]), np.random.default_rng(seed)
    with blocks_of(3):
        neighbours = neighbours_of(
            unit, lambda product: product + rng.integers(-1, 2, product.shape) * 2.0**-53
        )
    assert neighbours[0] in (2, 3)


@given(SEEDS, st.integers(1, 30), st.integers(1, 8), st.integers(1, 12))
def test_equal_rows_go_to_the_first_other_one(seed, different, copies, rows):
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(different), copies + 1))
    x = rng.standard_normal((different, 8))[which] * 2.0 ** rng.integers(-3, 4, (len(which), 1))
    with blocks_of(rows):
        neighbours = finch_module.first_neighbours(x)
    for m, n in enumerate(neighbours):
        assert n == min(k for k in range(len(which)) if which[k] == which[m] and k != m)


def test_two_rows_are_multiplied_once():
    """But for one block per row, which is looked at again."""
    n, rows = 1000, 50
    x, sizes = np.random.default_rng(0).standard_normal((n, 4)), []

    def counted(product):
        sizes.append(product.size)
        return product

    with blocks_of(rows):
        neighbours_of(finch_module.unit_rows(x), counted)
    # Blocks on and below the diagonal hold n (n + rows) / 2 similarities;
    # then each row is held against one block.
    assert sum(sizes) == n * (n + rows) / 2 + n * rows


@pytest.mark.parametrize("kind", ["random", "equal", "zero"])
def test_memory_grows_as_rows_times_blocks(kind):
    """A few copies of x, and one number per row and block."""
    n, d, rows = 8192, 16, 256
    random = np.random.default_rng(0).standard_normal((n, d))
    x = {"random": random, "equal": np.ones((n, d)), "zero": np.zeros((n, d))}[kind]
    with blocks_of(rows):
        tracemalloc.start()
        finch_module.first_neighbours(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Three copies of x while its rows are scaled; a peak (8 bytes) and whether
    # it is high enough (1) per row and block; the similarities of two blocks,
    # those of the two before until they are let go, comparisons; ten numbers per row.
    few = 3 * x.nbytes + 9 * n * n / rows + 3 * 8 * rows**2 + 10 * 8 * n
    assert peak < few < 8 * n * n / 50  # and all similarities would be 537 MB


@pytest.mark.parametrize(
    "x", [np.array([[1.0, np.nan]]), np.array([[np.inf, 1.0]]), np.ones(3), np.ones((4, 2, 2))]
)
def test_rows_that_are_no_finite_table_are_refused(x):
    """Numbers have to be finite, and the shape [n,d]."""
    with pytest.raises(ValueError, match="finite"):
        finch(x)


def test_a_clusters_mean_is_over_its_rows():
    x = np.array([[1.0, 2.0], [7.0, 8.0], [3.0, 4.0]])
    means = finch_module.cluster_means(x, np.array([0, 1, 0]))
    np.testing.assert_array_equal(means, [[2, 3], [7, 8]])
