"""The oracle against closed forms and against its own finite differences."""
import doctest
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

import oracle_np as oracle
from draws import SEEDS, SHAPES, loss_cases

U = 2.0**-53


def test_its_docstring_holds():
    assert doctest.testmod(oracle).failed == 0


def test_a_sample_equally_similar_to_one_own_and_n_other_clusters_costs_log_of_n_plus_one():
    ragged = {k: [np.array([1.0, 2.0])] for k in range(5)}
    assert oracle.cpcl_loss(np.array([[3.0, 1.0]]), [0], ragged, tau=0.07) == pytest.approx(math.log(5), rel=1e-14)


def test_opposite_clusters_cost_softplus_of_minus_two_over_tau():
    ragged = {0: [np.array([1.0, 0.0])], 1: [np.array([-1.0, 0.0])]}
    got = oracle.cpcl_loss(np.array([[5.0, 0.0]]), [0], ragged, tau=0.5)
    assert got == pytest.approx(math.log1p(math.exp(-4)), rel=1e-14)


def test_on_the_circle_the_gradient_of_cpcl_has_a_closed_form():
    """One own cluster at angle 0, one other at angle pi: L(a) = log(1 + e^(-2 cos a)), dL/da = 2 sin a / (1 + e^(2 cos a))."""
    a, radius = 0.7, 3.0
    z = radius * np.array([[math.cos(a), math.sin(a)]])
    ragged = {0: [np.array([1.0, 0.0])], 1: [np.array([-1.0, 0.0])]}
    along = 2 * math.sin(a) / (1 + math.exp(2 * math.cos(a))) / radius
    np.testing.assert_allclose(oracle.cpcl_grad(z, [0], ragged, 1.0), [[-math.sin(a) * along, math.cos(a) * along]], rtol=1e-13)


@given(loss_cases(shapes=SHAPES[:3], taus=st.floats(0.1, 10), zero_rows=False))
def test_the_cpcl_gradient_is_the_slope_of_the_cpcl_loss(case):
    z, ragged = case.z.astype(np.float64), case.ragged()
    z /= np.linalg.norm(z, axis=1, keepdims=True)  # length 1, so that one step size suits every row
    h = 1e-5
    slope = oracle.finite_difference(lambda y: oracle.cpcl_loss(y, case.labels, ragged, case.tau), z, h)
    # Truncation h^2 |L'''| / 6, |L'''| of order (2/tau)^3; rounding of L, itself below 2/tau + log(1 + KJ) < 25, over h.
    atol = 10 * h**2 * (2 / case.tau) ** 3 / 6 + 25 * 64 * U / h
    np.testing.assert_allclose(oracle.cpcl_grad(z, case.labels, ragged, case.tau), slope, rtol=0, atol=atol)


@given(loss_cases(shapes=SHAPES[:3], zero_rows=False), st.sampled_from(["mean", "sum"]))
def test_the_upcr_gradient_is_the_slope_of_the_upcr_loss(case, reduce):
    z, unbiased = case.z.astype(np.float64), oracle.unbiased_prototypes(case.ragged())
    h = np.abs(z).max() * 1e-3
    slope = oracle.finite_difference(lambda y: oracle.upcr_loss(y, case.labels, unbiased, reduce), z, h)
    # A central difference of a quadratic has no truncation error. What is left is the rounding of the loss, over h, and
    # that of z + h and z - h, some |z| U each, which a loss of curvature 2 or less turns into as much of the slope.
    atol = 64 * U * (oracle.upcr_loss(z, case.labels, unbiased, reduce) / h + np.abs(z).max())
    np.testing.assert_allclose(oracle.upcr_grad(z, case.labels, unbiased, reduce), slope, rtol=1e-9, atol=atol)


def test_the_cpcl_gradient_is_orthogonal_to_z_because_only_the_direction_of_z_counts():
    rng = np.random.default_rng(0)
    z, ragged = rng.standard_normal((4, 6)), {k: list(rng.standard_normal((2, 6))) for k in range(3)}
    grad = oracle.cpcl_grad(z, [0, 1, 2, 0], ragged, 0.3)
    assert np.abs((z * grad).sum(axis=1)).max() < 100 * U


def test_a_constant_gradient_moves_sgd_by_the_geometric_series_of_its_momentum():
    param, velocity = np.zeros(2), np.zeros(2)
    for _ in range(5):
        param, velocity = oracle.sgd_step(param, velocity, np.array([1.0, -2.0]), lr=0.1, momentum=0.5, weight_decay=0.0)
    np.testing.assert_allclose(velocity, [1.9375, -3.875])
    np.testing.assert_allclose(param, -0.1 * np.array([1, -2]) * (1 + 1.5 + 1.75 + 1.875 + 1.9375))


def test_weight_decay_alone_shrinks_a_parameter_by_lr_times_its_decay():
    param, _ = oracle.sgd_step(np.array([4.0]), np.zeros(1), np.zeros(1), lr=0.5, momentum=0.9, weight_decay=0.25)
    assert param[0] == 4.0 * (1 - 0.5 * 0.25)


def test_batch_norm_of_plus_and_minus_one_is_the_affine_map_of_it():
    x = np.array([1.0, -1.0, 1.0, -1.0]).reshape(2, 1, 1, 2)
    y, mean, var = oracle.batch_norm(x, weight=[2.0], bias=[3.0], eps=0.0)
    np.testing.assert_array_equal(y, 2 * x + 3)
    assert (mean[0], var[0]) == (0.0, 1.0)


def test_running_statistics_take_a_tenth_of_the_new_and_the_variance_over_n_minus_one():
    mean, var = oracle.running_statistics([1.0], [1.0], [11.0], [3.0], n=4)
    np.testing.assert_allclose((mean[0], var[0]), (0.9 + 1.1, 0.9 + 0.4))


@given(SEEDS, st.integers(2, 20))
def test_breadth_first_search_and_powers_of_the_matrix_find_the_same_components(seed, n):
    rows = np.random.default_rng(seed).standard_normal((n, 3))
    linked = oracle.adjacency(rows)
    reach = np.linalg.matrix_power(np.array(linked, float) + np.eye(n), n) > 0
    labels = np.array(oracle.components(linked))
    np.testing.assert_array_equal(labels[:, None] == labels, reach)


def test_weighted_mean_of_one_tree_is_that_tree():
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(5.0)}
    mean = oracle.weighted_mean([tree], [7])
    assert all((mean[name] == tree[name]).all() and mean[name].shape == tree[name].shape for name in tree)
