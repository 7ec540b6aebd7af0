"""CPCL and UPCR, values and gradients, against the oracle.

U = 2^-24 is float32's unit rounding error. A cosine of two float32 vectors is a sum of d products
and carries an error of about sqrt(d) U from the additions plus a few U from the two lengths, the
division and the product with 1/tau:
    cosine_error(d) = (sqrt(d) + 8) U.
Divided by tau it is an absolute error of the exponent, and N / P has two exponents, so N / P is off
by the factor e^(2 cosine_error / tau). log(1 + r) never magnifies a relative error of r, and a
batch adds terms of one sign, so this is the relative error of the loss. At tau = 0.02 and d = 512
it is 1.8e-4, at d = 64 1e-4, in the worst case; what is asked for at tau >= 0.02 is 1e-4.
"""

import mindspore as ms
import numpy as np
import pytest
from draws import SEEDS, LossCase, loss_cases
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor

import fpl
import oracle_np as oracle

U = 2.0**-24
# Below it float32 has only subnormal numbers, which may be taken as 0. Of one sample's loss.
SMALLEST = 1e-37


def cosine_error(d):
    return (np.sqrt(d) + 8) * U


# Compiled, as in training, and once for each shape: 2 ms a call, not 100 ms as one by one.
cpcl_and_grad = ms.jit(ms.value_and_grad(fpl.cpcl_loss, 0))
upcr_and_grad = ms.jit(ms.value_and_grad(fpl.upcr_loss, 0))


def cpcl(z, labels, clusters, mask, tau, function=cpcl_and_grad):
    """Value and gradient with respect to z, as NumPy."""
    value, grad = function(
        Tensor(z), Tensor(labels), Tensor(clusters), Tensor(mask), Tensor(tau, ms.float32)
    )
    return float(value.asnumpy()), grad.asnumpy()


def upcr(z, labels, unbiased, known, reduce, function=upcr_and_grad):
    """Value and gradient with respect to z, as NumPy."""
    value, grad = function(Tensor(z), Tensor(labels), Tensor(unbiased), Tensor(known), reduce)
    return float(value.asnumpy()), grad.asnumpy()


def oracles_cpcl(case):
    z, ragged = case.z.astype(np.float64), case.ragged()
    given = z, case.labels, ragged, case.tau
    return oracle.cpcl_loss(*given), oracle.cpcl_grad(*given)


def gradient_floor(case):
    """How far rounding alone may move the gradient, as a norm over the batch.

    A sample's gradient is sum_j w_j (unit c_j - cos_j unit z) / (tau |z|) with
    sum_j |w_j| = 2 N / (P + N). The brackets may cancel (they are all 0 for d = 1), the errors of
    their terms do not: each is off by cosine_error, twice over.
    """
    z, ragged = case.z.astype(np.float64), case.ragged()
    floors = [0.0]
    for row, k in zip(z, case.labels):
        if np.any(row):
            share = -np.expm1(-oracle.cpcl_loss([row], [k], ragged, case.tau))  # N / (P + N)
            error = 2 * (share * 2 * cosine_error(len(row)) + SMALLEST)
            floors.append(error / (case.tau * np.linalg.norm(row)))
    return np.linalg.norm(floors) / len(z)


def unbiased_of(case):
    """The case's unbiased prototypes.

    Float32 [K,d], known [K], and the dict that the oracle takes.
    """
    unbiased = fpl.unbiased_prototypes(case.clusters, case.mask)
    known = case.mask.any(axis=1)
    return unbiased, known, {k: unbiased[k].astype(np.float64) for k in np.flatnonzero(known)}


# Own clusters (1,0) and (0,1), one other (-1,0), z on the first: the example worked by hand.
WORKED = LossCase(
    np.array([[1, 0]], np.float32),
    np.array([0], np.int32),
    np.array([[[1, 0], [0, 1]], [[-1, 0], [0, 0]]], np.float32),
    np.array([[True, True], [True, False]]),
    1.0,
)


# ---------------------------------------------------------------- CPCL


@given(loss_cases())
def test_cpcl_is_the_oracles(case):
    want, _ = oracles_cpcl(case)
    rtol = 1e-4 if case.tau >= 0.02 else np.expm1(2 * cosine_error(case.z.shape[1]) / case.tau)
    assert cpcl(*case)[0] == pytest.approx(want, rel=rtol, abs=SMALLEST)


@given(loss_cases())
def test_the_gradient_of_cpcl_is_the_oracles(case):
    """The oracle's is derived by hand."""
    _, want = oracles_cpcl(case)
    # A weight w_j has its own exponent, those of P and of P + N,
    # and a factor N / P: four exponents instead of two.
    rtol = max(1e-3, np.expm1(4 * cosine_error(case.z.shape[1]) / case.tau))
    bound = rtol * np.linalg.norm(want) + gradient_floor(case)
    assert np.linalg.norm(cpcl(*case)[1] - want) <= bound


def test_cpcl_of_the_worked_example_is_0_0943():
    value, grad = cpcl(*WORKED)
    assert value == pytest.approx(np.log(1 + np.exp(-1) / (np.e + 1)), rel=1e-6)
    assert round(value, 4) == 0.0943
    # By hand: only cos of (0,1) changes with z_2; dL/dcos = -N / (P (P + N)) = -0.02421.
    np.testing.assert_allclose(
        grad, [[0, -np.exp(-1) / ((np.e + 1) * (np.e + 1 + np.exp(-1)))]], rtol=1e-5, atol=1e-7
    )


@given(loss_cases())
def test_every_positive_counts_not_only_the_first(case):
    """Moving the own clusters to other slots changes nothing but the order of additions."""
    turned = case._replace(clusters=case.clusters[:, ::-1].copy(), mask=case.mask[:, ::-1].copy())
    rtol = np.expm1(2 * cosine_error(case.z.shape[1]) / case.tau)
    assert cpcl(*turned)[0] == pytest.approx(cpcl(*case)[0], rel=rtol, abs=SMALLEST)


def test_a_second_positive_lowers_the_loss():
    first_only = WORKED._replace(mask=np.array([[True, False], [True, False]]))
    assert cpcl(*first_only)[0] == pytest.approx(
        np.log(1 + np.exp(-2)), rel=1e-6
    )  # 0.1269: what the first alone costs
    assert cpcl(*WORKED)[0] < 0.75 * cpcl(*first_only)[0]


@given(loss_cases(), st.sampled_from([np.nan, np.inf, 1e30, -3.0]))
def test_what_padding_holds_does_not_reach_cpcl(case, junk):
    """Neither its value nor its gradient."""
    filled = case._replace(
        clusters=np.where(case.mask[:, :, None], case.clusters, np.float32(junk))
    )
    value, grad = cpcl(*case)
    value_filled, grad_filled = cpcl(*filled)
    assert value_filled == value
    np.testing.assert_array_equal(grad_filled, grad)


@given(loss_cases(), st.integers(-8, 8))
def test_cpcl_sees_only_the_angle_of_z(case, power):
    """Scaling z by a power of two changes no bit of the value."""
    # Exact: squares, root and quotient of scaled numbers are the scaled results, bit for bit.
    value, grad = cpcl(*case)
    value_scaled, grad_scaled = cpcl(*case._replace(z=case.z * np.float32(2.0**power)))
    assert value_scaled == value
    # The gradient scales the other way.
    # Where it meets subnormal numbers, or is them, it may differ by one of them.
    np.testing.assert_allclose(
        grad_scaled * 2.0**power, grad, rtol=1e-5, atol=1e-30 + 1e-5 * np.abs(grad).max()
    )


@given(loss_cases())
def test_a_mask_without_any_cluster_gives_exactly_zero(case):
    value, grad = cpcl(*case._replace(mask=np.zeros_like(case.mask)))
    assert value == 0 and not grad.any()


@given(loss_cases())
def test_a_single_known_class_costs_no_cpcl(case):
    """There is nothing that its samples are to be kept apart from."""
    mask = np.zeros_like(case.mask)
    mask[case.labels[0]] = True
    value, grad = cpcl(*case._replace(mask=mask))
    assert value == 0 and not grad.any()


@given(loss_cases())
def test_a_batch_of_unknown_classes_costs_no_cpcl(case):
    """It costs exactly zero."""
    mask = case.mask.copy()
    mask[np.unique(case.labels)] = False
    value, grad = cpcl(*case._replace(mask=mask))
    assert value == 0 and not grad.any()


def test_samples_of_an_unknown_class_count_as_0():
    """They add nothing to the loss, and count in the mean over the batch."""
    case = WORKED._replace(
        z=np.repeat(WORKED.z, 2, axis=0),
        labels=np.array([0, 2], np.int32),  # nobody holds class 2
        clusters=np.pad(WORKED.clusters, [(0, 1), (0, 0), (0, 0)]),
        mask=np.pad(WORKED.mask, [(0, 1), (0, 0)]),
    )
    value, grad = cpcl(*case)
    assert value == pytest.approx(cpcl(*WORKED)[0] / 2, rel=4 * U)
    assert grad[0].any() and not grad[1].any()


@given(loss_cases(taus=st.just(0.005)))
def test_at_tau_0_005_nothing_overflows(case):
    """e^(1/tau) is more than float32 holds below tau = 0.0113."""
    value, grad = cpcl(*case)
    assert np.isfinite(grad).all()
    assert value <= 1.001 * (2 / 0.005 + np.log(1 + 9))


@given(loss_cases())
def test_a_zero_feature_has_gradient_zero(case):
    z = case.z.copy()
    z[0] = 0
    _, grad = cpcl(*case._replace(z=z))
    assert not grad[0].any() and np.isfinite(grad).all()


@pytest.mark.parametrize(
    "function", [cpcl_and_grad, ms.value_and_grad(fpl.cpcl_loss, 0)], ids=["compiled", "eager"]
)
@pytest.mark.parametrize("gap", [10, 20, 40, 80])
def test_a_tiny_loss_keeps_its_digits(gap, function):
    """log(1 + N/P) = e^-gap to first order.

    Float32 loses it where 1 + N/P is formed, or log(P + N) - log(P).
    """
    tau = float(np.float32(2 / gap))  # own cosine 1, other -1
    # Sixteen samples: for fewer than eight MindSpore's functions are the accurate scalar ones.
    case = WORKED._replace(
        z=np.float32([[1, 0.1]] * 16),
        labels=np.zeros(16, np.int32),
        mask=np.array([[True, False], [True, False]]),
        tau=tau,
    )
    value, grad = cpcl(*case, function)
    want, want_grad = oracles_cpcl(case)
    assert value == pytest.approx(want, rel=1e-4, abs=0)
    assert np.linalg.norm(grad - want_grad) < 1e-3 * np.linalg.norm(want_grad)


# ---------------------------------------------------------------- UPCR


@given(loss_cases(), st.sampled_from(["mean", "sum"]))
def test_upcr_is_the_oracles(case, reduce):
    unbiased, known, oracles = unbiased_of(case)
    want = oracle.upcr_loss(case.z.astype(np.float64), case.labels, oracles, reduce)
    # Three roundings a square, d + B additions of terms of one sign,
    # a division: a worst case that cannot be exceeded.
    rtol = (case.z.shape[1] + len(case.z) + 8) * U
    assert upcr(case.z, case.labels, unbiased, known, reduce)[0] == pytest.approx(
        want, rel=rtol, abs=SMALLEST
    )


@given(loss_cases(), st.sampled_from(["mean", "sum"]))
def test_the_gradient_of_upcr_is_the_oracles(case, reduce):
    """The oracle's is derived by hand."""
    unbiased, known, oracles = unbiased_of(case)
    want = oracle.upcr_grad(case.z.astype(np.float64), case.labels, oracles, reduce)
    # Entry by entry: the subtraction, the factor 2, the divisions by d and by B round once each.
    np.testing.assert_allclose(
        upcr(case.z, case.labels, unbiased, known, reduce)[1], want, rtol=8 * U, atol=SMALLEST
    )


def test_upcr_of_the_worked_example_is_0_25():
    """As a mean; as a sum it is 0.5."""
    unbiased, known, _ = unbiased_of(WORKED)
    np.testing.assert_array_equal(unbiased[0], [0.5, 0.5])
    assert upcr(WORKED.z, WORKED.labels, unbiased, known, "mean")[0] == 0.25
    assert upcr(WORKED.z, WORKED.labels, unbiased, known, "sum")[0] == 0.5


@given(loss_cases(), st.sampled_from([np.nan, np.inf, 1e30]), st.sampled_from(["mean", "sum"]))
def test_what_an_unknown_class_holds_never_reaches_upcr(case, junk, reduce):
    """Neither its value nor its gradient."""
    unbiased, known, _ = unbiased_of(case)
    value, grad = upcr(case.z, case.labels, unbiased, known, reduce)
    filled = np.where(known[:, None], unbiased, np.float32(junk))
    value_filled, grad_filled = upcr(case.z, case.labels, filled, known, reduce)
    assert value_filled == value
    np.testing.assert_array_equal(grad_filled, grad)


@given(loss_cases(), st.sampled_from(["mean", "sum"]))
def test_with_no_class_known_upcr_is_exactly_zero(case, reduce):
    unbiased, known, _ = unbiased_of(case)
    value, grad = upcr(case.z, case.labels, unbiased, np.zeros_like(known), reduce)
    assert value == 0 and not grad.any()


@given(SEEDS, st.sampled_from([1, 7, 512]))
def test_the_sum_is_d_times_the_mean(seed, d):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((5, d)).astype(np.float32)
    unbiased = rng.standard_normal((3, d)).astype(np.float32)
    args = z, rng.integers(0, 3, 5).astype(np.int32), unbiased, np.ones(3, bool)
    assert upcr(*args, "sum")[0] == pytest.approx(d * upcr(*args, "mean")[0], rel=(d + 16) * U)


# ---------------------------------------------------------------- both


def test_both_losses_reach_the_gradient():
    """A loss computed outside of what is differentiated has the right value and the gradient 0."""
    unbiased, known, _ = unbiased_of(WORKED)
    assert cpcl(*WORKED)[1].any()
    assert upcr(WORKED.z, WORKED.labels, unbiased, known, "mean")[1].any()


def test_eager_losses_are_the_compiled_ones():
    """Operator by operator they give the same up to rounding."""
    unbiased, known, _ = unbiased_of(WORKED)
    args = WORKED.z, WORKED.labels, unbiased, known, "mean"
    for eager, compiled in (
        (cpcl(*WORKED, ms.value_and_grad(fpl.cpcl_loss, 0)), cpcl(*WORKED)),
        (upcr(*args, ms.value_and_grad(fpl.upcr_loss, 0)), upcr(*args)),
    ):
        assert eager[0] == pytest.approx(compiled[0], rel=8 * U)
        np.testing.assert_allclose(eager[1], compiled[1], rtol=1e-5, atol=4 * U)


def test_the_gradient_of_softplus_is_the_sigmoid():
    """At zero too, where that of abs is 0."""
    x = np.array([-3.0, -1e-6, 0.0, 1e-6, 3.0], np.float32)
    slope = ms.grad(lambda x: fpl.softplus(x).sum())(Tensor(x)).asnumpy()
    # exp within 4 ulps and 8 operations after it, each off by half
    # an ulp (2^-24), with differences that at most triple that
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=48 * 2.0**-24)


@pytest.mark.parametrize("scale", [1, 30])
def test_logarithms_are_those_of_float64_rounded_once(scale):
    """Half a float32 ulp, and the part in a billion that float64 leaves open.

    MindSpore's float32 log rounds in two ways within one tensor; 1,021 rows, a prime, have both.
    """
    rng = np.random.default_rng(scale)
    x = rng.normal(0, scale, (1021, 10)).astype(np.float32)
    labels = rng.integers(0, 10, len(x)).astype(np.int32)
    exact = x.astype(np.float64)
    top = exact.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(exact - top).sum(axis=1)) + top[:, 0]
    shifted = log_sum - exact[np.arange(len(x)), labels]
    got = fpl.logsumexp(Tensor(x)), fpl.cross_entropy(Tensor(x), Tensor(labels))
    for rounded, want in zip(got, (log_sum, shifted)):
        half_an_ulp = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64) / 2
        # a sum of ten exponentials of float64 and its logarithm: 16 of its roundings, of the top
        open_to_float64 = 16 * 2.0**-53 * np.abs(exact).max()
        off = np.abs(rounded.asnumpy() - want)
        assert (off <= half_an_ulp + open_to_float64).all(), off.max()
