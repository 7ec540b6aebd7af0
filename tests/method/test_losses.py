"""What is MindSpore's own in the losses: compiled or operator by operator, and its logarithms.

That CPCL and UPCR are right, test_properties.py holds.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import fpl
import oracle_np as oracle
from lab.proof.properties.losses import WORKED, unbiased_of

U = 2.0**-24  # float32's unit rounding error


def cpcl(function, case):
    """Value and gradient with respect to z, as NumPy."""
    *arrays, tau = case
    value, gradient = function(*map(Tensor, arrays), Tensor(tau, ms.float32))
    return float(value.asnumpy()), gradient.asnumpy()


def upcr(function, case, reduce):
    """Value and gradient with respect to z, as NumPy."""
    unbiased, known, _ = unbiased_of(case)
    given = map(Tensor, (case.z, case.labels, unbiased, known))
    value, gradient = function(*given, reduce)
    return float(value.asnumpy()), gradient.asnumpy()


def test_eager_losses_are_the_compiled_ones():
    """Operator by operator they give the same up to rounding."""
    cpcl_and_gradient = ms.value_and_grad(fpl.cpcl_loss, 0)
    upcr_and_gradient = ms.value_and_grad(fpl.upcr_loss, 0)
    for eager, compiled in (
        (cpcl(cpcl_and_gradient, WORKED), cpcl(ms.jit(cpcl_and_gradient), WORKED)),
        (upcr(upcr_and_gradient, WORKED, "mean"), upcr(ms.jit(upcr_and_gradient), WORKED, "mean")),
    ):
        assert eager[0] == pytest.approx(compiled[0], rel=8 * U)
        np.testing.assert_allclose(eager[1], compiled[1], rtol=1e-5, atol=4 * U)


@pytest.mark.parametrize("gap", [10, 20, 40, 80])
def test_a_tiny_eager_loss_keeps_its_digits(gap):
    """log(1 + N/P) = e^-gap to first order, as the property has it for the compiled loss."""
    # Sixteen samples: for fewer than eight MindSpore's functions are the accurate scalar ones.
    case = WORKED._replace(
        z=np.float32([[1, 0.1]] * 16),
        labels=np.zeros(16, np.int32),
        mask=np.array([[True, False], [True, False]]),
        tau=float(np.float32(2 / gap)),  # own cosine 1, other -1
    )
    value, gradient = cpcl(ms.value_and_grad(fpl.cpcl_loss, 0), case)
    given = case.z.astype(np.float64), case.labels, case.ragged(), case.tau
    want = oracle.cpcl_grad(*given)
    assert value == pytest.approx(oracle.cpcl_loss(*given), rel=1e-4, abs=0)
    assert np.linalg.norm(gradient - want) < 1e-3 * np.linalg.norm(want)


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
