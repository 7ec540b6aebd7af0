"""FINCH against the oracle, against its own definition, and against its authors' package."""
import importlib.metadata
import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

import finch as finch_module
import oracle_np as oracle
from draws import SEEDS, rows_to_cluster
from finch import finch


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(a, b) for a, b in zip(some, others))


@given(rows_to_cluster())
def test_every_partition_is_the_oracles_label_for_label(x):
    got, want = finch(x), oracle.finch(x)
    assert same(got, want), f"got {[p.tolist() for p in got]}, want {[p.tolist() for p in want]}"


def test_the_worked_example_joins_the_neighbours_in_angle():
    degrees = np.radians([0, 10, 90, 95])
    assert same(finch(np.stack([np.cos(degrees), np.sin(degrees)], axis=1)), [np.array([0, 0, 1, 1])])


def test_no_row_gives_no_partition_and_one_row_one_cluster():
    assert finch(np.zeros((0, 4))) == []
    assert same(finch(np.ones((1, 4))), [np.array([0])])


@given(rows_to_cluster(least=2, most=3))
def test_two_or_three_rows_are_one_cluster(x):
    assert same(finch(x), [np.zeros(len(x), int)])


@given(rows_to_cluster(least=2))
def test_no_cluster_has_fewer_than_two_rows(x):
    assert all(np.bincount(p).min() >= 2 for p in finch(x))


@given(rows_to_cluster(least=2))
def test_a_later_partition_is_coarser_and_never_splits_a_cluster(x):
    partitions = finch(x)
    for fine, coarse in zip(partitions, partitions[1:]):
        assert coarse.max() < fine.max()
        assert len(set(zip(fine, coarse))) == fine.max() + 1  # each fine cluster lies in one coarse cluster


@given(rows_to_cluster(least=4))
def test_it_ends_in_one_cluster_only_where_it_starts_there(x):
    assert all(p.max() > 0 for p in finch(x)[1:])


@given(rows_to_cluster(least=1))
def test_labels_count_up_in_the_order_of_first_appearance(x):
    for partition in finch(x):
        assert list(dict.fromkeys(partition.tolist())) == list(range(partition.max() + 1))


@given(rows_to_cluster(least=1), st.integers(-900, 990))
def test_scaling_by_a_power_of_two_changes_nothing(x, power):
    # Exact in floating point. The squares of such rows overflow or vanish, so lengths cannot be taken naively either.
    assert same(finch(x * 2.0**power), finch(x))


@given(SEEDS, st.integers(4, 30))
def test_each_row_may_have_its_own_length_since_only_angles_count(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5))
    # Powers of two: the scaled row has the very same direction. Later partitions are of means, where lengths do count.
    lengths = 2.0 ** rng.integers(-8, 9, (n, 1))
    np.testing.assert_array_equal(finch(x * lengths)[0], finch(x)[0])


@given(rows_to_cluster(least=1), st.integers(1, 200))
def test_the_size_of_a_block_does_not_show(x, entries):
    whole = finch(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finch_module, "BLOCK_ENTRIES", entries)
        assert same(finch(x), whole)


@given(rows_to_cluster())
def test_the_input_is_left_as_it_was(x):
    before = x.copy()
    finch(x)
    np.testing.assert_array_equal(x, before)


@given(rows_to_cluster(least=1))
def test_float32_rows_give_what_the_same_numbers_in_float64_give(x):
    assert same(finch(x.astype(np.float32)), finch(x.astype(np.float32).astype(np.float64)))


def test_of_equally_similar_neighbours_the_lowest_row_wins():
    # Row 2 is as similar to rows 0 and 1 (cosine 0.6 each): it goes to row 0. Rows 3 and 4 keep row 1 apart from row 0.
    x = np.array([[1, 0, 0.0], [0, 1, 0], [0.6, 0.6, 0.529150262212918], [0, 1, -0.1], [0, 1, -0.2]])
    np.testing.assert_array_equal(finch(x)[0], [0, 1, 0, 1, 1])


@pytest.mark.parametrize("x", [np.array([[1.0, np.nan]]), np.array([[np.inf, 1.0]]), np.ones(3)])
def test_rows_that_are_not_finite_and_shapes_that_are_not_a_table_are_refused(x):
    with pytest.raises(ValueError, match="finite"):
        finch(x)


@pytest.fixture(scope="module")
def authors_finch():
    """FINCH of the package finch-clust. It is imported as `finch` too, so it takes our module's place for a moment."""
    try:
        found = importlib.metadata.distribution("finch-clust").locate_file("finch/__init__.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the authors' package is not installed: pip install finch-clust scikit-learn")
    spec = importlib.util.spec_from_file_location("finch", found, submodule_search_locations=[str(found.parent)])
    ours, theirs = sys.modules["finch"], importlib.util.module_from_spec(spec)
    sys.modules["finch"] = theirs
    try:
        spec.loader.exec_module(theirs)
    finally:
        for name in [name for name in sys.modules if name.startswith("finch.")]:
            del sys.modules[name]
        sys.modules["finch"] = ours
    return theirs.FINCH


@pytest.mark.filterwarnings("ignore")
@given(seed=SEEDS, n=st.integers(4, 60), d=st.integers(2, 16))
def test_the_authors_package_finds_the_same_clusters(authors_finch, seed, n, d):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    ours = finch(x)
    # It crashes or counts wrongly on a single cluster, and keeps similarities in float32, whose spacing is 2^-24 near 1.
    assume(ours[0].max() > 0 and well_apart(x, ours))
    theirs, _, _ = authors_finch(x, ensure_early_exit=False, verbose=False)
    theirs = theirs.T
    assert len(theirs) == len(ours)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a[:, None] == a, b[:, None] == b)


def well_apart(x, partitions):
    """Whether float32 leaves no doubt about any first neighbour: best and second best differ by 16 spacings."""
    for rows in [x] + [np.array(oracle.cluster_means(x, p)) for p in partitions if p.max() > 0]:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        similarity = np.sort(unit.astype(np.float64) @ unit.T - 3 * np.eye(len(unit)), axis=1)
        if len(rows) > 2 and (similarity[:, -1] - similarity[:, -2]).min() < 16 * 2.0**-24:
            return False
    return True
