"""Class means, cluster and unbiased prototypes and the weighted mean, against the oracle."""

import weakref

import numpy as np
import pytest
from draws import SCALES, SEEDS, Holders, holders, ragged
from hypothesis import assume, given
from hypothesis import strategies as st
from mindspore import Tensor

import fpl
import oracle_np as oracle

PARTITIONS = st.sampled_from(["first", "last"])
HALF_ULP = 0.5 + 1e-3  # one rounding to float32; the thousandth is for the float64 before it


def assert_rounded_once(got, want, largest):
    """got is want to half a unit in float32's last place.

    And to the float64 rounding of sums of numbers up to `largest`.
    """
    got = np.asarray(got)
    assert got.dtype == np.float32 and got.shape == np.shape(want)
    ulp = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    assert (np.abs(got - want) <= HALF_ULP * ulp + 2.0**-45 * largest).all()


# ---------------------------------------------------------------- Eq. 2


@given(SEEDS, st.sampled_from([0, 1, 7, 300]), st.sampled_from([1, 16, 512]), st.integers(1, 10))
def test_class_means_are_the_oracles(seed, n, d, classes):
    rng = np.random.default_rng(seed)
    z = (10.0 ** rng.uniform(-3, 3) * rng.standard_normal((n, d))).astype(np.float32)
    # the last classes are often missing
    labels = rng.integers(0, rng.integers(1, classes + 1), n).astype(np.int32)
    means, counts = fpl.class_prototypes(z, labels, classes)
    want, want_counts = oracle.class_prototypes(z, labels, classes)
    np.testing.assert_array_equal(counts, want_counts)
    table = np.array([want.get(k, np.zeros(d)) for k in range(classes)])
    assert_rounded_once(means, table, np.abs(z).max(initial=0))


# ---------------------------------------------------------------- Eq. 4-5


@given(holders(), PARTITIONS)
def test_the_members_of_clusters_are_the_oracles(sent, partition):
    """Label for label, in the order of the clients; -1 for who does not hold the class."""
    members = fpl.cluster_members(sent.class_means, sent.counts, partition)
    want = np.full(sent.counts.shape, -1)
    for k in range(sent.counts.shape[1]):
        holding = [m for m in range(len(sent.counts)) if sent.counts[m, k] > 0]
        if holding:
            rows = [sent.class_means[m, k].astype(np.float64) for m in holding]
            want[holding, k] = oracle.finch(rows)[{"first": 0, "last": -1}[partition]]
    np.testing.assert_array_equal(members, want)


@given(holders())
def test_members_are_the_holders_of_the_class(sent):
    members = fpl.cluster_members(sent.class_means, sent.counts, "first")
    np.testing.assert_array_equal(members >= 0, sent.counts > 0)


@given(holders(), PARTITIONS)
def test_only_a_sole_holder_is_a_cluster_alone(sent, partition):
    members = fpl.cluster_members(sent.class_means, sent.counts, partition)
    for column in members.T:
        held_by = column[column >= 0]
        assert len(held_by) == 1 or (np.bincount(held_by) >= 2).all()


@given(holders(), PARTITIONS)
def test_a_cluster_prototype_is_its_members_mean(sent, partition):
    members = fpl.cluster_members(sent.class_means, sent.counts, partition)
    clusters, mask = fpl.cluster_means(sent.class_means, members)
    for k, j in np.ndindex(mask.shape):
        rows = sent.class_means[members[:, k] == j, k].astype(np.float64)
        assert mask[k, j] == (len(rows) > 0)
        if len(rows):
            assert_rounded_once(clusters[k, j], oracle.mean_of(rows), np.abs(rows).max())


def test_clients_of_one_domain_share_a_cluster():
    """Clients 0, 2 and 4 point one way, 1 and 5 another; client 3 does not hold the class."""
    means = np.float32([[[1, 0]], [[0, 1]], [[1, 0.1]], [[0, 0]], [[1, 0.2]], [[0.1, 1]]])
    counts = np.array([[5], [1], [5], [0], [2], [7]])
    members = fpl.cluster_members(means, counts, "first")
    assert members.ravel().tolist() == [0, 1, 0, -1, 0, 1]


@given(holders(), PARTITIONS)
def test_cluster_prototypes_are_the_oracles_in_order(sent, partition):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    want = oracle.cluster_prototypes(sent.class_means.astype(np.float64), sent.counts, partition)
    assert set(want) == set(np.flatnonzero(mask.any(axis=1)))
    for k, rows in want.items():
        assert_rounded_once(clusters[k][mask[k]], np.array(rows), np.abs(sent.class_means).max())


@given(holders(), PARTITIONS)
def test_shapes_hang_on_the_clients_number_alone(sent, partition):
    """J is half the number of clients, whoever holds what; padding is zero."""
    clients, classes, d = sent.class_means.shape
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    most = max(1, clients // 2)
    assert (clusters.shape, clusters.dtype) == ((classes, most, d), np.float32)
    assert (mask.shape, mask.dtype) == ((classes, most), bool)
    assert not clusters[~mask].any()


@given(holders())
def test_a_class_of_one_holder_has_its_mean(sent):
    """And a class that nobody holds has no prototype."""
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    held_by = (sent.counts > 0).sum(axis=0)
    np.testing.assert_array_equal(mask.sum(axis=1)[held_by <= 1], held_by[held_by <= 1])
    for k in np.flatnonzero(held_by == 1):
        np.testing.assert_array_equal(
            clusters[k][mask[k]], sent.class_means[sent.counts[:, k] > 0, k]
        )


@given(holders(), st.sampled_from([np.nan, 1e30]))
def test_means_of_clients_without_the_class_are_ignored(sent, junk):
    filled = np.where(sent.counts[:, :, None] > 0, sent.class_means, np.float32(junk))
    for got, want in zip(
        fpl.cluster_prototypes(filled, sent.counts, "first"),
        fpl.cluster_prototypes(sent.class_means, sent.counts, "first"),
    ):
        np.testing.assert_array_equal(got, want)


@given(holders())
def test_the_number_of_images_does_not_matter(sent):
    """However many images stand behind a mean, it is one row."""
    ones = np.minimum(sent.counts, 1)
    np.testing.assert_array_equal(
        fpl.cluster_prototypes(sent.class_means, sent.counts, "first")[0],
        fpl.cluster_prototypes(sent.class_means, ones, "first")[0],
    )


@given(holders(), SEEDS)
def test_the_clients_order_decides_the_clusters_order_alone(sent, seed):
    """Clients in another order give the same prototypes in another order."""
    assume(sent.class_means.shape[2] > 1)  # for d = 1 cosines are +1 or -1, and ties go by order
    order = np.random.default_rng(seed).permutation(len(sent.counts))
    straight = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    turned = fpl.cluster_prototypes(sent.class_means[order], sent.counts[order], "first")
    np.testing.assert_array_equal(turned[1].sum(axis=1), straight[1].sum(axis=1))
    for k in range(len(straight[1])):
        some, others = (np.array(sorted(c[k][m[k]].tolist())) for c, m in (straight, turned))
        # The same rows added in another order, in float64:
        # one unit in the last place of float32 once rounded.
        atol = 2.0**-45 * np.abs(sent.class_means).max()
        np.testing.assert_allclose(some, others, rtol=2.0**-23, atol=atol)


def test_the_last_partition_may_be_coarser():
    degrees = np.radians([0, 2, 10, 12, 90, 92, 100, 102])
    means = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)[:, None].astype(np.float32)
    counts = np.ones((8, 1), int)
    assert fpl.cluster_prototypes(means, counts, "first")[1].sum() == 4
    assert fpl.cluster_prototypes(means, counts, "last")[1].sum() == 2


# ---------------------------------------------------------------- Eq. 6


@given(holders(), PARTITIONS)
def test_unbiased_prototypes_are_the_oracles(sent, partition):
    """They are zero where there is none."""
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    want = oracle.unbiased_prototypes(ragged(clusters, mask))
    table = np.array([want.get(k, np.zeros(clusters.shape[2])) for k in range(len(mask))])
    assert_rounded_once(fpl.unbiased_prototypes(clusters, mask), table, np.abs(clusters).max())


@given(holders(), st.sampled_from([np.nan, 1e30]))
def test_what_padding_holds_reaches_no_unbiased_prototype(sent, junk):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    filled = np.where(mask[:, :, None], clusters, np.float32(junk))
    np.testing.assert_array_equal(
        fpl.unbiased_prototypes(filled, mask), fpl.unbiased_prototypes(clusters, mask)
    )


def test_three_clients_weigh_as_much_as_two():
    """Two domains, at (1,0) and at (0,1), of three clients and of two.

    The mean over clusters is (1/2, 1/2), over clients (3/5, 2/5).
    """
    means = np.float32([[[1, 0]], [[1, 0]], [[1, 0]], [[0, 1]], [[0, 1]]])
    sent = Holders(means, np.full((5, 1), 9))
    clusters, mask = fpl.cluster_prototypes(*sent, "first")
    np.testing.assert_array_equal(clusters[0][mask[0]], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(fpl.unbiased_prototypes(clusters, mask), [[0.5, 0.5]])


# ---------------------------------------------------------------- the weighted mean of networks


def some_updates(seed, clients, scale=1.0):
    """Updates of networks of 7 weights and 3 statistics, and the numbers of their images."""
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        return np.float32(scale * rng.standard_normal(shape))

    updates = [
        fpl.ClientUpdate(
            Tensor(numbers(7)),
            Tensor(numbers(3)),
            numbers(4, 2),
            rng.integers(0, 9, 4),
            float(numbers()),
        )
        for _ in range(clients)
    ]
    return updates, rng.integers(1, 10_000, clients).tolist()


def mean_of(updates, sizes):
    """The average params and stats of clients who all take part, as one array."""
    params, stats, _ = fpl.weighted_mean(iter(updates), list(range(len(sizes))), sizes)
    return np.concatenate([params.asnumpy(), stats.asnumpy()])


@given(SEEDS, st.integers(1, 20), SCALES)
def test_the_weighted_mean_is_the_oracles_rounded_once(seed, clients, scale):
    updates, sizes = some_updates(seed, clients, scale)
    params, stats, _ = fpl.weighted_mean(updates, list(range(clients)), sizes)
    for got, sent in ((params, [u.params for u in updates]), (stats, [u.stats for u in updates])):
        vectors = [value.asnumpy() for value in sent]
        want = oracle.weighted_mean([{"vector": vector} for vector in vectors], sizes)["vector"]
        assert_rounded_once(got.asnumpy(), want, np.abs(vectors).max())


@given(SEEDS, st.integers(1, 20))
def test_only_the_ratio_of_the_weights_counts(seed, clients):
    updates, sizes = some_updates(seed, clients)
    eighths = [size / 8 for size in sizes]
    np.testing.assert_array_equal(mean_of(updates, eighths), mean_of(updates, sizes))


@given(SEEDS, st.integers(1, 20), SEEDS)
def test_the_clients_order_shows_in_the_last_place(seed, clients, order_seed):
    """And nowhere else."""
    updates, sizes = some_updates(seed, clients)
    order = np.random.default_rng(order_seed).permutation(clients)
    turned = mean_of([updates[i] for i in order], [sizes[i] for i in order])
    largest = max(
        np.abs(np.concatenate([u.params.asnumpy(), u.stats.asnumpy()])).max() for u in updates
    )
    np.testing.assert_allclose(
        turned, mean_of(updates, sizes), rtol=2.0**-23, atol=2.0**-45 * largest
    )


@given(SEEDS, st.integers(2, 5))
def test_a_client_without_weight_changes_nothing(seed, clients):
    updates, sizes = some_updates(seed, clients)
    without = mean_of(updates[1:], sizes[1:])
    np.testing.assert_array_equal(mean_of(updates, [0, *sizes[1:]]), without)


@given(SEEDS, st.integers(1, 9), st.data())
def test_absent_clients_leave_zeros_and_no_weight(seed, clients, data):
    """What the chosen ones send comes along, each at its own place."""
    updates, sizes = some_updates(seed, clients)
    chosen = sorted(data.draw(st.sets(st.integers(0, clients - 1), min_size=1)))
    params, stats, told = fpl.weighted_mean((updates[m] for m in chosen), chosen, sizes)
    alone = mean_of([updates[m] for m in chosen], [sizes[m] for m in chosen])
    np.testing.assert_array_equal(np.concatenate([params.asnumpy(), stats.asnumpy()]), alone)
    assert told["losses"] == {m: updates[m].loss for m in chosen}
    assert told["class_means"].dtype == np.float32
    for m, update in enumerate(updates):
        here = m in chosen
        np.testing.assert_array_equal(told["class_means"][m], update.class_means * here)
        np.testing.assert_array_equal(told["counts"][m], update.counts * here)


def test_updates_are_taken_one_at_a_time():
    """So that memory does not grow with the number of clients."""
    alive = []

    def sent():
        for m in range(6):
            update = some_updates(m, 1)[0][0]
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(update.params))
            yield update

    fpl.weighted_mean(sent(), list(range(6)), [1] * 6)
    assert len(alive) == 6


@pytest.mark.parametrize("number", [2, 4])
def test_another_number_of_updates_is_an_error(number):
    with pytest.raises(ValueError):
        fpl.weighted_mean(some_updates(0, number)[0], [0, 1, 2], [5, 6, 7])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["params", "stats", "class_means", "loss"])
def test_who_sends_a_number_not_finite_is_named(field, bad):
    """The first such client of those that take part, by its number among all."""
    updates, sizes = some_updates(0, 6)
    for m in (3, 5):
        value = np.array(getattr(updates[m], field), np.float32)
        value.flat[-1] = bad
        spoilt = Tensor(value) if field in ("params", "stats") else value
        updates[m] = updates[m]._replace(**{field: float(bad) if field == "loss" else spoilt})
    chosen = [1, 3, 4, 5]
    with pytest.raises(FloatingPointError, match="^client 3: not every number that it sends is fi"):
        fpl.weighted_mean((updates[m] for m in chosen), chosen, sizes)
