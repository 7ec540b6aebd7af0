"""Class means, cluster prototypes, unbiased prototypes and the weighted mean, against the oracle."""
import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from mindspore import Tensor

import fpl
import oracle_np as oracle
from draws import SCALES, SEEDS, Holders, holders

HALF_ULP = 0.5 + 1e-3  # float64 inside, one rounding to float32; the thousandth is for the float64 before it


def assert_rounded_once(got, want, largest):
    """got is want to half a unit in float32's last place, and to the float64 rounding of sums of numbers <= largest."""
    got = np.asarray(got)
    assert got.dtype == np.float32 and got.shape == np.shape(want)
    ulp = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    assert (np.abs(got - want) <= HALF_ULP * ulp + 2.0**-45 * largest).all()


def ragged(clusters, mask):
    return {k: list(clusters[k][mask[k]].astype(np.float64)) for k in range(len(mask)) if mask[k].any()}


# ---- Eq. 2 ---------------------------------------------------------------------------------------------------------

@given(SEEDS, st.sampled_from([0, 1, 7, 300]), st.sampled_from([1, 16, 512]), st.integers(1, 10), SCALES)
def test_a_class_mean_is_the_mean_of_the_features_of_that_class(seed, n, d, classes, scale):
    rng = np.random.default_rng(seed)
    z = (scale * rng.standard_normal((n, d))).astype(np.float32)
    labels = rng.integers(0, rng.integers(1, classes + 1), n).astype(np.int32)  # the last classes are often missing
    means, counts = fpl.class_prototypes(z, labels, classes)
    want, want_counts = oracle.class_prototypes(z, labels, classes)
    np.testing.assert_array_equal(counts, want_counts)
    table = np.array([want.get(k, np.zeros(d)) for k in range(classes)])
    assert_rounded_once(means, table, np.abs(z).max(initial=0))


# ---- Eq. 4-5 -------------------------------------------------------------------------------------------------------

@given(holders(), st.sampled_from(["first", "last"]))
def test_cluster_prototypes_are_the_oracles_in_the_oracles_order(sent, partition):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    want = oracle.cluster_prototypes(sent.class_means.astype(np.float64), sent.counts, partition)
    assert set(want) == set(np.flatnonzero(mask.any(axis=1)))
    for k, rows in want.items():
        assert_rounded_once(clusters[k][mask[k]], np.array(rows), np.abs(sent.class_means).max())


@given(holders(), st.sampled_from(["first", "last"]))
def test_shapes_hang_on_the_number_of_clients_alone_and_padding_is_zero(sent, partition):
    clients, classes, d = sent.class_means.shape
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    most = max(1, clients // 2)
    assert (clusters.shape, clusters.dtype) == ((classes, most, d), np.float32)
    assert (mask.shape, mask.dtype) == ((classes, most), bool)
    assert not clusters[~mask].any()


@given(holders())
def test_a_class_held_by_nobody_has_no_prototype_and_one_held_by_one_client_has_that_clients_mean(sent):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    held_by = (sent.counts > 0).sum(axis=0)
    np.testing.assert_array_equal(mask.sum(axis=1)[held_by <= 1], held_by[held_by <= 1])
    for k in np.flatnonzero(held_by == 1):
        np.testing.assert_array_equal(clusters[k][mask[k]], sent.class_means[sent.counts[:, k] > 0, k])


@given(holders(), st.sampled_from([np.nan, 1e30]))
def test_the_mean_of_a_client_that_does_not_hold_the_class_is_never_looked_at(sent, junk):
    filled = np.where(sent.counts[:, :, None] > 0, sent.class_means, np.float32(junk))
    for got, want in zip(fpl.cluster_prototypes(filled, sent.counts, "first"),
                         fpl.cluster_prototypes(sent.class_means, sent.counts, "first")):
        np.testing.assert_array_equal(got, want)


@given(holders())
def test_how_many_images_stand_behind_a_mean_does_not_matter(sent):
    ones = np.minimum(sent.counts, 1)
    np.testing.assert_array_equal(fpl.cluster_prototypes(sent.class_means, sent.counts, "first")[0],
                                  fpl.cluster_prototypes(sent.class_means, ones, "first")[0])


@given(holders(), SEEDS)
def test_clients_in_another_order_give_the_same_prototypes_in_another_order(sent, seed):
    assume(sent.class_means.shape[2] > 1)  # for d = 1 cosines are +1 or -1, and ties do go by order
    order = np.random.default_rng(seed).permutation(len(sent.counts))
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    turned, turned_mask = fpl.cluster_prototypes(sent.class_means[order], sent.counts[order], "first")
    np.testing.assert_array_equal(turned_mask.sum(axis=1), mask.sum(axis=1))
    for k in range(len(mask)):
        some, others = (np.array(sorted(c[k][m[k]].tolist())) for c, m in ((clusters, mask), (turned, turned_mask)))
        # The same rows added in another order, in float64: one unit in the last place of float32 once rounded.
        np.testing.assert_allclose(some, others, rtol=2.0**-23, atol=2.0**-45 * np.abs(sent.class_means).max())


def test_the_last_partition_may_be_coarser_than_the_first():
    degrees = np.radians([0, 2, 10, 12, 90, 92, 100, 102])
    means = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)[:, None].astype(np.float32)
    counts = np.ones((8, 1), int)
    assert fpl.cluster_prototypes(means, counts, "first")[1].sum() == 4
    assert fpl.cluster_prototypes(means, counts, "last")[1].sum() == 2


# ---- Eq. 6 ---------------------------------------------------------------------------------------------------------

@given(holders(), st.sampled_from(["first", "last"]))
def test_unbiased_prototypes_are_the_oracles_and_zero_where_there_is_none(sent, partition):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    want = oracle.unbiased_prototypes(ragged(clusters, mask))
    table = np.array([want.get(k, np.zeros(clusters.shape[2])) for k in range(len(mask))])
    assert_rounded_once(fpl.unbiased_prototypes(clusters, mask), table, np.abs(clusters).max())


@given(holders(), st.sampled_from([np.nan, 1e30]))
def test_what_padding_holds_does_not_reach_the_unbiased_prototype(sent, junk):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    filled = np.where(mask[:, :, None], clusters, np.float32(junk))
    np.testing.assert_array_equal(fpl.unbiased_prototypes(filled, mask), fpl.unbiased_prototypes(clusters, mask))


def test_a_domain_of_three_clients_and_one_of_two_weigh_the_same():
    """Two domains, at (1,0) and at (0,1): the mean over clusters is (1/2, 1/2), over clients (3/5, 2/5)."""
    sent = Holders(np.array([[[1, 0]], [[1, 0]], [[1, 0]], [[0, 1]], [[0, 1]]], np.float32), np.full((5, 1), 9))
    clusters, mask = fpl.cluster_prototypes(*sent, "first")
    np.testing.assert_array_equal(clusters[0][mask[0]], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(fpl.unbiased_prototypes(clusters, mask), [[0.5, 0.5]])


# ---- the weighted mean of networks ---------------------------------------------------------------------------------

def forest(seed, clients, scale):
    rng = np.random.default_rng(seed)
    shapes = {"weight": (3, 4), "bias": (5,), "number": ()}
    trees = [{name: np.float32(scale * rng.standard_normal(shape)) for name, shape in shapes.items()}
             for _ in range(clients)]
    return trees, rng.integers(1, 10_000, clients).tolist()


def tensors(trees):
    return [{name: Tensor(value) for name, value in tree.items()} for tree in trees]


def largest(trees):
    return max(np.abs(value).max() for tree in trees for value in tree.values())


@given(SEEDS, st.integers(1, 20), SCALES, st.sampled_from([tensors, list]))
def test_the_weighted_mean_is_the_oracles_rounded_once(seed, clients, scale, kind):
    trees, weights = forest(seed, clients, scale)
    got, want = fpl.weighted_mean(kind(trees), weights), oracle.weighted_mean(trees, weights)
    assert list(got) == list(want)
    for name in want:
        assert_rounded_once(got[name].asnumpy(), want[name], largest(trees))


@given(SEEDS, st.integers(1, 20))
def test_only_the_ratio_of_the_weights_counts(seed, clients):
    trees, weights = forest(seed, clients, 1.0)
    for name, value in fpl.weighted_mean(trees, [w / 8 for w in weights]).items():
        np.testing.assert_array_equal(value.asnumpy(), fpl.weighted_mean(trees, weights)[name].asnumpy())


@given(SEEDS, st.integers(1, 20), SEEDS)
def test_the_order_of_the_clients_shows_only_in_the_last_place(seed, clients, order_seed):
    trees, weights = forest(seed, clients, 1.0)
    order = np.random.default_rng(order_seed).permutation(clients)
    turned = fpl.weighted_mean([trees[i] for i in order], [weights[i] for i in order])
    for name, value in fpl.weighted_mean(trees, weights).items():
        np.testing.assert_allclose(turned[name].asnumpy(), value.asnumpy(), rtol=2.0**-23, atol=2.0**-45 * largest(trees))


@given(SEEDS, st.integers(2, 5))
def test_a_client_of_weight_zero_might_as_well_stay_away(seed, clients):
    trees, weights = forest(seed, clients, 1.0)
    without = fpl.weighted_mean(trees[1:], weights[1:])
    for name, value in fpl.weighted_mean(trees, [0, *weights[1:]]).items():
        np.testing.assert_array_equal(value.asnumpy(), without[name].asnumpy())


def test_more_trees_than_weights_is_an_error():
    trees, weights = forest(0, 3, 1.0)
    with pytest.raises(ValueError):
        fpl.weighted_mean(trees, weights[:2])
