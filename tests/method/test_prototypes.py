"""What is fpl.py's own in prototypes and in the mean of networks: members, shapes, one at a time.

That the numbers are right, test_properties.py holds.
"""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor

import fpl
import oracle_np as oracle
from lab.proof.properties.cases import SEEDS, holders

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


# ---------------------------------------------------------------- prototypes


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
def test_shapes_hang_on_the_clients_number_alone(sent, partition):
    """J is half the number of clients, whoever holds what; padding is zero."""
    clients, classes, d = sent.class_means.shape
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, partition)
    most = max(1, clients // 2)
    assert (clusters.shape, clusters.dtype) == ((classes, most, d), np.float32)
    assert (mask.shape, mask.dtype) == ((classes, most), bool)
    assert not clusters[~mask].any()


@given(holders())
def test_all_that_travels_is_float32(sent):
    clusters, mask = fpl.cluster_prototypes(sent.class_means, sent.counts, "first")
    means, _ = fpl.class_prototypes(np.float64([[1, 2]]), [0], 3)
    assert (means.shape, means.dtype) == ((3, 2), np.float32)
    unbiased = fpl.unbiased_prototypes(clusters, mask)
    assert (unbiased.shape, unbiased.dtype) == (sent.class_means.shape[1:], np.float32)


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
