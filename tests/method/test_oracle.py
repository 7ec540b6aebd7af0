"""The oracle against closed forms and against its own finite differences."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle_np as oracle
from lab.methods import oracle as methods
from lab.proof.properties.cases import SEEDS, SHAPES, loss_cases

U = 2.0**-53


def test_its_docstring_holds():
    assert doctest.testmod(oracle).failed == 0


def test_equal_similarity_costs_log_of_clusters():
    """A sample equally similar to one own and n other clusters costs log(n + 1)."""
    ragged = {k: [np.array([1.0, 2.0])] for k in range(5)}
    assert oracle.cpcl_loss(np.array([[3.0, 1.0]]), [0], ragged, tau=0.07) == pytest.approx(
        math.log(5), rel=1e-14
    )


def test_opposite_clusters_cost_softplus():
    """They cost softplus of minus 2 / tau."""
    ragged = {0: [np.array([1.0, 0.0])], 1: [np.array([-1.0, 0.0])]}
    got = oracle.cpcl_loss(np.array([[5.0, 0.0]]), [0], ragged, tau=0.5)
    assert got == pytest.approx(math.log1p(math.exp(-4)), rel=1e-14)


def test_on_the_circle_cpcls_gradient_is_known():
    """It has a closed form. One own cluster at angle 0, one other at angle pi:
    L(a) = log(1 + e^(-2 cos a)), dL/da = 2 sin a / (1 + e^(2 cos a))."""
    a, radius = 0.7, 3.0
    z = radius * np.array([[math.cos(a), math.sin(a)]])
    ragged = {0: [np.array([1.0, 0.0])], 1: [np.array([-1.0, 0.0])]}
    along = 2 * math.sin(a) / (1 + math.exp(2 * math.cos(a))) / radius
    np.testing.assert_allclose(
        oracle.cpcl_grad(z, [0], ragged, 1.0),
        [[-math.sin(a) * along, math.cos(a) * along]],
        rtol=1e-13,
    )


@given(loss_cases(shapes=SHAPES[:3], taus=st.floats(0.1, 10), zero_rows=False))
def test_cpcls_gradient_is_its_losss_slope(case):
    z, ragged = case.z.astype(np.float64), case.ragged()
    z /= np.linalg.norm(z, axis=1, keepdims=True)  # length 1, so that one step size suits every row
    h = 1e-5
    slope = oracle.finite_difference(
        lambda y: oracle.cpcl_loss(y, case.labels, ragged, case.tau), z, h
    )
    # Truncation h^2 |L'''| / 6, |L'''| of order (2/tau)^3;
    # rounding of L, itself below 2/tau + log(1 + KJ) < 25, over h.
    atol = 10 * h**2 * (2 / case.tau) ** 3 / 6 + 25 * 64 * U / h
    np.testing.assert_allclose(
        oracle.cpcl_grad(z, case.labels, ragged, case.tau), slope, rtol=0, atol=atol
    )


@given(loss_cases(shapes=SHAPES[:3], zero_rows=False), st.sampled_from(["mean", "sum"]))
def test_upcrs_gradient_is_its_losss_slope(case, reduce):
    z, unbiased = case.z.astype(np.float64), oracle.unbiased_prototypes(case.ragged())
    h = np.abs(z).max() * 1e-3
    slope = oracle.finite_difference(
        lambda y: oracle.upcr_loss(y, case.labels, unbiased, reduce), z, h
    )
    # A central difference of a quadratic has no truncation error.
    # What is left is the rounding of the loss, over h, and that of z + h and z - h,
    # some |z| U each, which a loss of curvature 2 or less turns into as much of the slope.
    atol = 64 * U * (oracle.upcr_loss(z, case.labels, unbiased, reduce) / h + np.abs(z).max())
    np.testing.assert_allclose(
        oracle.upcr_grad(z, case.labels, unbiased, reduce), slope, rtol=1e-9, atol=atol
    )


def test_cpcls_gradient_is_orthogonal_to_z():
    """It is so because only the direction of z counts."""
    rng = np.random.default_rng(0)
    z, ragged = (
        rng.standard_normal((4, 6)),
        {k: list(rng.standard_normal((2, 6))) for k in range(3)},
    )
    grad = oracle.cpcl_grad(z, [0, 1, 2, 0], ragged, 0.3)
    assert np.abs((z * grad).sum(axis=1)).max() < 100 * U


def test_constant_gradients_move_sgd_by_geometric_series():
    """The series is that of its momentum."""
    param, velocity = np.zeros(2), np.zeros(2)
    for _ in range(5):
        param, velocity = oracle.sgd_step(
            param, velocity, np.array([1.0, -2.0]), lr=0.1, momentum=0.5, weight_decay=0.0
        )
    np.testing.assert_allclose(velocity, [1.9375, -3.875])
    np.testing.assert_allclose(param, -0.1 * np.array([1, -2]) * (1 + 1.5 + 1.75 + 1.875 + 1.9375))


def test_weight_decay_alone_shrinks_by_lr_times_decay():
    """It shrinks a parameter."""
    param, _ = oracle.sgd_step(
        np.array([4.0]), np.zeros(1), np.zeros(1), lr=0.5, momentum=0.9, weight_decay=0.25
    )
    assert param[0] == 4.0 * (1 - 0.5 * 0.25)


def test_batch_norm_of_two_values_is_affine():
    """Batch norm of plus and minus one is the affine map of it."""
    x = np.array([1.0, -1.0, 1.0, -1.0]).reshape(2, 1, 1, 2)
    y, mean, var = oracle.batch_norm(x, weight=[2.0], bias=[3.0], eps=0.0)
    np.testing.assert_array_equal(y, 2 * x + 3)
    assert (mean[0], var[0]) == (0.0, 1.0)


def test_running_statistics_take_a_tenth():
    """It is a tenth of the new, and the variance is over n - 1."""
    mean, var = oracle.running_statistics([1.0], [1.0], [11.0], [3.0], n=4)
    np.testing.assert_allclose((mean[0], var[0]), (0.9 + 1.1, 0.9 + 0.4))


@given(SEEDS, st.integers(2, 20))
def test_both_searches_find_the_same_components(seed, n):
    """They are breadth-first search and powers of the matrix."""
    rows = np.random.default_rng(seed).standard_normal((n, 3))
    linked = oracle.adjacency(rows)
    reach = np.linalg.matrix_power(np.array(linked, float) + np.eye(n), n) > 0
    labels = np.array(oracle.components(linked))
    np.testing.assert_array_equal(labels[:, None] == labels, reach)


def test_weighted_mean_of_one_tree_is_that_tree():
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(5.0)}
    mean = oracle.weighted_mean([tree], [7])
    assert all(
        (mean[name] == tree[name]).all() and mean[name].shape == tree[name].shape for name in tree
    )


# ---- each function at numbers that can be worked out by hand


def test_normalised_vectors_have_length_one_or_zero():
    """A vector divided by its length has length one, and a zero vector stays zero."""
    assert (
        oracle.dot([1, 2, 3], [4, -5, 6]),
        oracle.length([3, 4]),
        oracle.length([1e200, 0]),
    ) == (12, 5, 1e200)
    np.testing.assert_array_equal(oracle.unit([3.0, 0.0, -4.0]), [0.6, 0.0, -0.8])
    np.testing.assert_array_equal(oracle.unit([0.0, 0.0]), [0.0, 0.0])
    assert (oracle.cosine([3, 4], [4, 3]), oracle.cosine([0, 0], [4, 3])) == (
        pytest.approx(0.96, rel=1e-15),
        0,
    )


def test_class_means_use_their_own_rows_alone():
    """A class mean is taken over the rows of the class alone."""
    means, counts = oracle.class_prototypes([[1, 2], [3, 6], [10, 20]], [2, 2, 0], 4)
    assert counts == [1, 0, 2, 0] and {k: row.tolist() for k, row in means.items()} == {
        0: [10, 20],
        2: [2, 4],
    }


FOUR_PAIRS = np.radians([0, 2, 10, 12, 90, 92, 100, 102])


def test_four_pairs_become_four_clusters_then_two():
    """The pairs lie on the circle."""
    rows = np.stack([np.cos(FOUR_PAIRS), np.sin(FOUR_PAIRS)], axis=1)
    order = [
        0,
        4,
        2,
        6,
        1,
        5,
        3,
        7,
    ]  # labels count up by the lowest row, wherever its partner stands
    assert [p.tolist() for p in oracle.finch(rows)] == [
        [0, 0, 1, 1, 2, 2, 3, 3],
        [0, 0, 0, 0, 1, 1, 1, 1],
    ]
    assert [p.tolist() for p in oracle.finch(rows[order])] == [
        [0, 1, 2, 3, 0, 1, 2, 3],
        [0, 1, 0, 1, 0, 1, 0, 1],
    ]
    assert oracle.finch([]) == [] and [p.tolist() for p in oracle.finch([[1.0]])] == [[0]]
    assert [p.tolist() for p in oracle.finch([[1.0, 0], [0, 1.0]])] == [[0, 0]]


def test_of_equal_neighbours_the_lowest_is_taken():
    """So it is, too, where rounding tells them apart."""
    one, tied, apart = (
        np.array([1.0, 0.0]),
        np.array([1 - 8 * U, 0.0]),
        np.array([1 - 9 * U, 0.0]),
    )  # 4 d U = 8 U
    assert [oracle.first_neighbour(m, [one, one, one]) for m in range(3)] == [1, 0, 0]
    assert oracle.first_neighbour(2, [tied, one, one]) == 0
    assert oracle.first_neighbour(2, [apart, one, one]) == 1


def test_adjacency_is_neighbour_or_shared_neighbour():
    """Rows are adjacent if one is the other's neighbour or both have the same."""
    rows = [
        [1, 0.0],
        [1, 0.1],
        [1, 0.3],
        [-1, 0.0],
        [-1, 0.1],
    ]  # 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 4, 4 -> 3
    linked = {
        (0, 1),
        (1, 0),
        (2, 1),
        (1, 2),
        (0, 2),
        (2, 0),
        (3, 4),
        (4, 3),
        *((m, m) for m in range(5)),
    }
    assert {
        (m, n)
        for m, row in enumerate(oracle.adjacency(rows))
        for n, is_linked in enumerate(row)
        if is_linked
    } == linked
    assert oracle.components(oracle.adjacency(rows)) == [0, 0, 0, 1, 1]


def test_prototypes_are_holders_clusters_and_mean():
    """A class's prototypes are its holders' clusters, and the unbiased one is their mean."""
    means = np.zeros((9, 3, 2))
    means[:8, 1] = np.stack([np.cos(FOUR_PAIRS), np.sin(FOUR_PAIRS)], axis=1)
    means[8, 2] = (5, 6)
    counts = [[0, 1, 0]] * 8 + [[0, 0, 3]]
    first, last = (oracle.cluster_prototypes(means, counts, which) for which in ("first", "last"))
    assert {k: len(rows) for k, rows in first.items()} == {1: 4, 2: 1}
    assert {k: len(rows) for k, rows in last.items()} == {1: 2, 2: 1}
    np.testing.assert_allclose(first[1][3], (means[6, 1] + means[7, 1]) / 2, rtol=1e-15)
    np.testing.assert_allclose(last[1][1], means[4:8, 1].sum(axis=0) / 4, rtol=1e-15)
    np.testing.assert_allclose(
        oracle.unbiased_prototypes(last)[1], (last[1][0] + last[1][1]) / 2, rtol=1e-15
    )
    np.testing.assert_array_equal(oracle.unbiased_prototypes(first)[2], [5, 6])


def test_global_prototypes_are_plain_means_of_holders():
    means = np.arange(12.0).reshape(3, 2, 2)
    held = methods.global_prototypes(means, [[1, 0], [7, 0], [0, 0]])
    assert {k: row.tolist() for k, row in held.items()} == {0: [2, 3]}


def test_unknown_classes_cost_nothing_and_are_counted():
    """An unknown class costs nothing and counts in every mean."""
    ragged, z, labels = (
        {0: [np.array([1.0, 0.0])], 1: [np.array([-1.0, 0.0])]},
        np.array([[2.0, 0.0], [1.0, 5.0], [0.0, 0.0]]),
        [0, 7, 0],
    )
    want = (math.log1p(math.exp(-2 / 0.5)) + 0 + math.log(2)) / 3
    assert oracle.cpcl_loss(z, labels, ragged, 0.5) == pytest.approx(want, rel=1e-15)
    assert not oracle.cpcl_grad(
        z, labels, ragged, 0.5
    ).any()  # along z it cannot fall, and a zero row has no direction
    unbiased = {0: np.array([1.0, 1.0])}
    assert oracle.upcr_loss(z, labels, unbiased, "sum") == (1 + 1 + 0 + 1 + 1) / 3
    assert oracle.upcr_loss(z, labels, unbiased, "mean") == (1 + 1 + 0 + 1 + 1) / 3 / 2
    np.testing.assert_allclose(
        oracle.upcr_grad(z, labels, unbiased, "sum"),
        np.array([[2, -2], [0, 0], [-2, -2]]) / 3,
        rtol=1e-15,
    )
    np.testing.assert_allclose(
        oracle.upcr_grad(z, labels, unbiased, "mean"),
        np.array([[1, -1], [0, 0], [-1, -1]]) / 3,
        rtol=1e-15,
    )


@pytest.mark.parametrize("tau", [1e-3, 1e-5])
def test_cpcl_is_right_at_any_temperature(tau):
    """A class opposite to the nearest prototype is e^(-2 / tau) away from it: 0 even in float64."""
    ragged = {0: [np.array([1.0, 0.0])], 1: [np.array([-1.0, 0.0])]}
    z = [[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]]
    assert oracle.cpcl_loss(z[:1], [0], ragged, tau) == 0
    assert oracle.cpcl_loss(z[1:2], [0], ragged, tau) == pytest.approx(2 / tau, rel=1e-15)
    grad = oracle.cpcl_grad(z[2:], [1], ragged, tau)  # cos 0.6 and -0.6: N / (P + N) is 1
    np.testing.assert_allclose(grad, [[2 * 0.64 / tau, -2 * 0.48 / tau]], rtol=1e-12)


def test_cpcl_at_tiny_temperatures_divides_exponents_out():
    """It divides the largest one out."""
    ragged = {0: [np.array([1.0, 0.0])], 1: [np.array([0.6, 0.8]), np.array([0.0, 1.0])]}
    assert oracle.cpcl_loss([[1.0, 0.0]], [0], ragged, 0.005) == pytest.approx(
        math.exp(-80), rel=1e-12
    )
    assert oracle.cpcl_loss([[0.0, 1.0]], [0], ragged, 0.005) == pytest.approx(200, rel=1e-12)


def test_own_prototypes_are_of_one_class():
    """They are those of the class alone, and all classes beside it are others."""
    ragged = {
        0: [[1.0, 0.0]],
        1: [[0.0, 1.0], [1.0, 1.0]],
        2: [[-1.0, 0.0], [0.0, -1.0], [1.0, -1.0]],
    }
    for k, (own, other) in {0: (1, 5), 1: (2, 4), 2: (3, 3)}.items():
        counts = tuple(
            len(part) for part in oracle.similarities(np.array([1.0, 2.0]), k, ragged, 1.0)
        )
        assert counts == (own, other)


def test_fedprocs_gradient_is_its_losss_slope():
    """It is so for a short feature, too."""
    logits, z, prototypes = [[0.5, -1.0]], [[0.3, 0.4]], {0: [1.0, 0.0], 1: [1.0, 2.0]}
    _, to_z = methods.fedproc_grad(logits, z, [1], prototypes, 0.5, 0.75)
    slope = oracle.finite_difference(
        lambda x: methods.fedproc_loss(logits, x, [1], prototypes, 0.5, 0.75), z, 1e-5
    )
    # a difference is off by h^2 / 6 times the third derivative,
    # which is below 1e3 at |z| = tau = 0.5: 2e-8
    np.testing.assert_allclose(to_z, slope, rtol=0, atol=1e-7)
    assert np.abs(to_z).max() > 0.1


def test_a_weighted_mean_weighs():
    mean = oracle.weighted_mean(
        [
            {"a": np.array([[1.0, 2.0]]), "b": np.array(4.0)},
            {"a": np.array([[5.0, 10.0]]), "b": np.array(8.0)},
        ],
        [1, 3],
    )
    assert mean["a"].tolist() == [[4.0, 8.0]] and mean["b"].shape == () and mean["b"] == 7.0


def test_sgd_is_decay_then_momentum_then_lr():
    """A step of SGD ends with lr, the learning rate."""
    param, velocity = oracle.sgd_step(
        np.array([[2.0], [4.0]]),
        np.array([[8.0], [16.0]]),
        np.array([[1.0], [3.0]]),
        0.5,
        0.25,
        0.125,
    )
    assert velocity.tolist() == [[3.25], [7.5]] and param.tolist() == [[0.375], [0.25]]


def test_batch_norm_takes_each_channel_by_itself():
    rng = np.random.default_rng(0)
    x, weight, bias = (
        rng.standard_normal((4, 3, 2, 5)),
        np.array([1.0, 2.0, 3.0]),
        np.array([0.5, -1.0, 4.0]),
    )
    y, mean, var = oracle.batch_norm(x, weight, bias, 0.25)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(var, x.var(axis=(0, 2, 3)), rtol=1e-12)
    by_channel = (value[:, None, None] for value in (mean, np.sqrt(var + 0.25), weight, bias))
    mean, deviation, weight, bias = by_channel
    np.testing.assert_allclose(y, weight * (x - mean) / deviation + bias, rtol=1e-12)


def test_running_statistics_take_the_share_told():
    """They take the share that they are told."""
    mean, var = oracle.running_statistics(
        [2.0, 4.0], [3.0, 5.0], [10.0, 20.0], [8.0, 16.0], n=5, momentum=0.25
    )
    assert mean.tolist() == [4.0, 8.0] and var.tolist() == [4.75, 8.75]


def test_a_quadratics_central_difference_is_its_slope():
    x = np.array([[1.0, -2.0], [3.0, 0.5]])
    slope = oracle.finite_difference(
        lambda y: (y * y * [[1, 2], [3, 4]]).sum() + y[0, 0] * y[1, 1], x, 0.25
    )
    np.testing.assert_allclose(slope, [[2.5, -8.0], [18.0, 5.0]], rtol=1e-14)
    assert x.tolist() == [[1.0, -2.0], [3.0, 0.5]]


# ---- the compared methods, likewise

W = {"a": np.array([[1.0, 2.0]]), "b": np.array(3.0)}
START = {"a": np.array([[3.0, 1.0]]), "b": np.array(1.0)}  # apart by -2, 1, 2
H = {"a": np.array([[1.0, -1.0]]), "b": np.array(5.0)}  # <H, W> = 14


def plain(tree):
    return {name: value.tolist() for name, value in tree.items()}


def test_quadratic_terms_and_gradients_have_closed_forms():
    assert methods.total(W) == 6 and plain(methods.combined(lambda a, b: 10 * a + b, W, START)) == {
        "a": [[13, 21]],
        "b": 31,
    }
    assert methods.proximal_term(W, START, 0.5) == 0.25 * 9
    assert plain(methods.proximal_grad(W, START, 0.5)) == {"a": [[-1, 0.5]], "b": 1}
    assert methods.dynamic_term(W, START, H, 0.5) == 0.25 * 9 - 14
    assert plain(methods.dynamic_grad(W, START, H, 0.5)) == {"a": [[-2, 1.5]], "b": -4}


def test_feddyns_sums_have_their_closed_forms():
    assert plain(methods.feddyn_client_memory([(W, START), (START, H)], 0.5)) == {
        "a": [[0, -1.5]],
        "b": 1,
    }
    rounds = [(W, START, 0.5), (H, W, 0.25)]  # moves 0.5 (W - START) and 0.25 (H - W) on top of H
    assert plain(methods.feddyn_server(rounds)) == {"a": [[0, -1.25]], "b": 6.5}


def test_moons_term_and_gradient_have_their_closed_forms():
    z, towards, away = [[2.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 3.0]]
    assert methods.moon_of_one(z[0], towards[0], away[0], 0.5) == pytest.approx(
        math.log1p(math.exp(-2)), rel=1e-15
    )
    assert methods.moon_term(z, towards, away, 0.5) == pytest.approx(
        (math.log1p(math.exp(-2)) + math.log(2)) / 2, rel=1e-15
    )
    share = math.exp(-2) / (1 + math.exp(-2))  # P / (G + P)
    want = [[0, share / 2 / 0.5 / 2], [0, 0]]  # share times d(cos to away)/dz = (0, 1/2), by T, B
    np.testing.assert_allclose(methods.moon_grad(z, towards, away, 0.5), want, rtol=1e-14)


def test_moon_is_right_at_any_temperature():
    """e^(1 / T) leaves float64 below T = 1/709; log P - log G does not."""
    near, far = [1.0, 0.0], [-1.0, 0.0]
    assert methods.moon_of_one(near, near, far, 1e-4) == 0
    assert methods.moon_of_one(near, far, near, 1e-4) == pytest.approx(2e4, rel=1e-15)
    grad = methods.moon_grad([[0.6, 0.8]], [far], [near], 1e-4)  # cos 0.6 away, -0.6 towards
    np.testing.assert_allclose(grad, [[2 * 0.64e4, -2 * 0.48e4]], rtol=1e-12)


def test_fedprocs_loss_ends_in_cross_entropy():
    """It starts from contrast. For an unknown class it is cross-entropy alone."""
    assert [methods.fedproc_weight(number, 4) for number in (1, 2, 4)] == [0.75, 0.5, 0]
    scores, z = [[0.0, math.log(3)], [math.log(3), 0.0]], [[2.0, 0.0], [0.0, 2.0]]
    prototypes = {0: np.array([1.0, 0.0]), 3: np.array([0.0, 5.0])}  # class 1 is unknown
    gpc = math.log(1 + math.exp(-2))  # cos 1 and 0 at tau = 0.5
    want = (0.25 * gpc + 0.75 * math.log(4) + math.log(4)) / 2
    assert methods.fedproc_loss(scores, z, [0, 1], prototypes, 0.5, 0.25) == pytest.approx(
        want, rel=1e-15
    )
    to_logits, to_z = methods.fedproc_grad(scores, z, [0, 1], prototypes, 0.5, 0.25)
    np.testing.assert_allclose(
        to_logits, [[0.75 * -0.75 / 2, 0.75 * 0.75 / 2], [0.75 / 2, -0.75 / 2]], rtol=1e-14
    )
    share = math.exp(-2) / (1 + math.exp(-2))
    np.testing.assert_allclose(to_z, [[0, 0.25 * share / (0.5 * 2 * 2)], [0, 0]], rtol=1e-14)
    _, at_zero = methods.fedproc_grad(scores[:1], [[0.0, 0.0]], [0], prototypes, 0.5, 0.25)
    assert not at_zero.any()


def test_the_server_optimisers_have_their_closed_forms():
    start, deltas = {"a": np.array([1.0])}, [{"a": np.array([delta])} for delta in (2.0, 4.0)]
    assert methods.fedopt_server(start, deltas, 0.5, 0.25, "sgd")["a"][0] == 1 + 0.5 * 2 + 0.5 * (
        0.25 * 2 + 4
    )
    m, v = (
        (0.75 * 2, 0.75 * (0.25 * 2 + 4)),
        (0.99e-6 + 0.04, 0.99**2 * 1e-6 + 0.01 * (0.99 * 4 + 16)),
    )
    want = 1 + sum(0.5 * a / (math.sqrt(b) + 1e-3) for a, b in zip(m, v))
    assert methods.fedopt_server(start, deltas, 0.5, 0.25, "adam")["a"][0] == pytest.approx(
        want, rel=1e-14
    )
