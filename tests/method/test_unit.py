"""fpl.unit on rows of every length, and CPCL at every tau, against float64.

Some of MindSpore's threads take numbers below LEAST = 2^-126, float32's smallest normal one, as
zero, and others do not, and two of them may share a row. So the exact value is known only of rows
without such numbers; the others have a test of their own.
"""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor, ops

import fpl
import oracle_np as oracle
from lab.proof.properties.cases import SEEDS

U = 2.0**-24  # float32's unit rounding error
LEAST = 2.0**-126
# of a row's largest entry; unit scales below 2^-48 and above 2^56
POWERS = st.one_of(st.integers(-126, 127), st.sampled_from([-126, -49, -48, 55, 56]))
WIDTHS = st.sampled_from([2, 16, 512])


def value_and_gradient(x, towards):
    """unit(x), and the gradient of the sum of unit(x) * towards by x."""

    def weighted(x):
        y = fpl.unit(x)
        return (y * towards).sum(), y

    (_, y), gradient = ms.value_and_grad(weighted, 0, has_aux=True)(x)
    return y, gradient


compiled = ms.jit(value_and_gradient)


def rows(seed, power, d):
    """x [5,d], the largest entry of each row between 2^power and 2^(power + 1); towards [5,d]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, d))
    x *= rng.uniform(1, 1.99, (5, 1)) / np.abs(x).max(axis=1, keepdims=True)
    return np.float32(x * 2.0**power), np.float32(rng.standard_normal((5, d)))


def normal_rows(seed, power, d):
    x, towards = rows(seed, power, d)
    return np.where(np.abs(x) < LEAST, np.float32(0), x), towards


def by_hand(x, towards):
    """In float64: unit(x), its gradient (g - y <y, g>) / |x| and |g| / |x|; 0 for a zero row."""
    x, g = x.astype(np.float64), towards.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    length = np.where(length > 0, length, np.inf)
    y = x / length
    return y, (g - y * (y * g).sum(1, keepdims=True)) / length, np.linalg.norm(g, axis=1) / length.T


@given(SEEDS, POWERS, WIDTHS)
def test_a_row_of_any_length_becomes_one(seed, power, d):
    x, towards = normal_rows(seed, power, d)
    y, want = compiled(Tensor(x), Tensor(towards))[0].asnumpy(), by_hand(x, towards)[0]
    # d squares and additions of one sign, a root and a quotient; what is below LEAST may be zero.
    np.testing.assert_allclose(y, want, rtol=(d / 2 + 4) * U, atol=2.0**-54)


@given(SEEDS, POWERS, WIDTHS)
def test_the_gradient_is_right_at_any_length(seed, power, d):
    """As long as float32 holds |g| / |x|, of which the gradient is a part."""
    x, towards = normal_rows(seed, power, d)
    gradient = compiled(Tensor(x), Tensor(towards))[1].asnumpy()
    _, want, most = by_hand(x, towards)
    held = most[0] < 2.0**126
    # Of the two terms, of at most |g| / |x| each, <y, g> is a sum of d products. What is below
    # LEAST may be zero.
    bound = (2 * d + 16) * U * most.T + 2 * LEAST
    assert (np.abs(gradient - want) <= bound)[held].all()


@given(SEEDS, st.integers(-149, -118), WIDTHS)
def test_rows_with_subnormal_numbers_stay_finite(seed, power, d):
    x, towards = rows(seed, power, d)
    y, gradient = (part.asnumpy() for part in compiled(Tensor(x), Tensor(towards)))
    assert np.isfinite(y).all() and (y * x >= 0).all()
    assert np.isfinite(gradient[by_hand(x, towards)[2][0] < 2.0**126]).all()


def plain(x):
    return x / ops.sqrt((x * x).sum(-1, keepdims=True))


def among_others(unit):
    """The gradient of a sum of three uses of x, as CE, CPCL and UPCR are uses of z."""

    def gradient(x, towards):
        def total(x):
            return (x * towards).sum() + (unit(x) * towards).sum() + ((x - towards) ** 2).sum()

        return ms.grad(total)(x)

    return ms.jit(gradient)


ours_among_others, plain_among_others = among_others(fpl.unit), among_others(plain)


@given(SEEDS, WIDTHS)
def test_ordinary_rows_keep_their_bits(seed, d):
    """They are those of x / sqrt(sum of squares), with gradients that add up in its order."""
    x, towards = map(Tensor, rows(seed, 3, d))
    np.testing.assert_array_equal(fpl.unit(x).asnumpy(), plain(x).asnumpy())
    ours, wanted = (f(x, towards).asnumpy() for f in (ours_among_others, plain_among_others))
    np.testing.assert_array_equal(ours, wanted)


def test_a_zero_row_stays_zero_with_its_gradient():
    y, gradient = compiled(Tensor(np.zeros((5, 2), np.float32)), Tensor(np.ones((5, 2))))
    assert not y.asnumpy().any() and not gradient.asnumpy().any()


@pytest.mark.parametrize("length", [1e-30, 1e-25, 1e-19, 1e19, 1e25, 1e37])
def test_cpcl_sees_no_length(length):
    """Neither that of the features nor that of the prototypes."""
    rng = np.random.default_rng(0)
    z, clusters = rng.standard_normal((16, 8)), rng.standard_normal((3, 2, 8))
    labels, mask = rng.integers(0, 3, 16).astype(np.int32), np.ones((3, 2), bool)
    want = oracle.cpcl_loss(z, labels, {k: list(clusters[k]) for k in range(3)}, 0.5)
    for a, b in ((length, 1.0), (1.0, length), (length, length)):
        got = fpl.cpcl_loss(
            *map(Tensor, (np.float32(z * a), labels, np.float32(clusters * b), mask)),
            Tensor(0.5, ms.float32),
        )
        # the error of test_losses.py, twice: z and the clusters are rounded too
        bound = 2 * 2 * (np.sqrt(8) + 8) * U / 0.5
        assert float(got.asnumpy()) == pytest.approx(want, rel=bound)


@pytest.mark.parametrize("tau", [2e-38, 1e-33, 1e-10, 1e-3, 0.02, 1.0, 1e10, 1e37])
@pytest.mark.parametrize(
    "z, gap", [((1, 0), 1), ((0, 1), -1), ((1, 1), 0), ((0, -1), 1), ((-1, -1), 0)]
)
def test_cpcl_is_right_at_any_tau(tau, z, gap):
    """Own prototype (0,1), another (1,0): log(1 + e^(gap / tau)), in the oracle as well."""
    tau, z = float(np.float32(tau)), np.float32([z])
    clusters = np.float32([[[0, 1]], [[1, 0]]])
    case = z, [0], {k: list(clusters[k].astype(np.float64)) for k in range(2)}, tau
    want = np.logaddexp(0, gap / tau)
    assert oracle.cpcl_loss(*case) == pytest.approx(want, rel=1e-15)
    got, gradient = ms.value_and_grad(fpl.cpcl_loss, 0)(
        *map(Tensor, (z, np.int32([0]), clusters, np.ones((2, 1), bool))), Tensor(tau, ms.float32)
    )
    # 1 / tau is rounded, and a loss of e^(-1 / tau) magnifies that; the rest is softplus's error.
    rtol = (48 + (4 / tau if gap < 0 else 4)) * U
    assert float(got.asnumpy()) == pytest.approx(want, rel=rtol, abs=LEAST)
    slope = oracle.cpcl_grad(*case)
    np.testing.assert_allclose(gradient.asnumpy(), slope, rtol=2 * rtol, atol=4 * LEAST)
