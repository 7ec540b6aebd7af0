"""CPCL and UPCR (Eq. 7-10), values and gradients, against the oracle.

U = 2^-24 is float32's unit rounding error. A cosine of two float32 vectors is off by
`cosine_error(d)`, about (sqrt(d) + 8) U. Divided by tau it is an absolute error of the exponent,
and N / P has two exponents, so N / P is off by the factor e^(2 cosine_error / tau). log(1 + r)
never magnifies a relative error of r, and a batch adds terms of one sign, so this is the relative
error of the loss. At tau = 0.02 and d = 512 it is 1.8e-4, at d = 64 1e-4, in the worst case; what
is asked for at tau >= 0.02 is 1e-4.

That is the level `strict`. An ordinary implementation takes the difference of two logarithms, each
of which may be as large as 1 / tau + log(K J) and is rounded by itself: the level `equations`
allows that absolute error. It also allows exponentials that are not shifted. The smallest of
them, e^-50 over e^50 at tau = 0.02, has one in 27 of float32's last places: 0.02 of a loss of 100.
"""

import numpy as np
from hypothesis import strategies as st

import oracle_np as oracle
from lab.proof.properties.cases import (
    SEEDS,
    LossCase,
    cosine_error,
    loss_cases,
    small_loss_cases,
)
from lab.proof.properties.failure import Property, U, demand, expect

# Below it float32 has only subnormal numbers, which may be taken as 0. Of one sample's loss.
SMALLEST = 1e-37
TAUS = st.one_of(st.sampled_from([1.0, 0.02]), st.floats(np.log(0.02), np.log(10)).map(np.exp))
SCALES = st.floats(-1, 1).map(lambda power: 10.0**power)  # no feature shorter than an epsilon

# Own clusters (1,0) and (0,1), one other (-1,0), z on the first: the example worked by hand.
WORKED = LossCase(
    np.array([[1, 0]], np.float32),
    np.array([0], np.int32),
    np.array([[[1, 0], [0, 1]], [[-1, 0], [0, 0]]], np.float32),
    np.array([[True, True], [True, False]]),
    1.0,
)


# ---------------------------------------------------------------- what is drawn


def some_losses(settings):
    """Batches and prototypes: at `equations` no zero rows, no tau below the paper's 0.02."""
    if settings.level == "strict":
        return [small_loss_cases(), loss_cases()]
    large = loss_cases(taus=TAUS, zero_rows=False, scales=SCALES)
    return [small_loss_cases(zero_rows=False, taus=(1.0, 0.5, 0.02)), large]


def with_reduce(settings):
    """(LossCase, "mean" | "sum"), as far as the implementation has both."""
    return [st.tuples(c, st.sampled_from(settings.reduces)) for c in some_losses(settings)]


def with_junk(settings):
    """(LossCase, what stands where no cluster is)."""
    junk = [7.0, -3.0] + ([1e30, np.inf, np.nan] if settings.level == "strict" else [])
    return [st.tuples(case, st.sampled_from(junk)) for case in some_losses(settings)]


def with_junk_and_reduce(settings):
    """(LossCase, what stands where no class is known, "mean" | "sum")."""
    return [
        st.tuples(pair, st.sampled_from(settings.reduces)).map(lambda drawn: (*drawn[0], drawn[1]))
        for pair in with_junk(settings)
    ]


def with_power(settings):
    """(LossCase, a power of two to scale by)."""
    most = 8 if settings.level == "strict" else 2
    return [st.tuples(case, st.integers(-most, most)) for case in some_losses(settings)]


def with_order(settings):
    """(LossCase, seed of an order)."""
    return [st.tuples(case, st.integers(0, 20)) for case in some_losses(settings)]


def only_worked(settings):
    return [st.just(WORKED)]


def tiny_losses(settings):
    """How far apart the logarithms of P and N are."""
    return [st.sampled_from([10, 20, 40, 80])]


def at_tau_0_005(settings):
    return [small_loss_cases(taus=(0.005,)), loss_cases(taus=st.just(0.005))]


def vectors(settings):
    """(seed, d)."""
    return [st.tuples(SEEDS, st.sampled_from([1, 7, 512]))]


# ---------------------------------------------------------------- what is allowed


def oracles_cpcl(case):
    z = case.z.astype(np.float64)
    return oracle.cpcl_loss(z, case.labels, case.ragged(), case.tau)


def cancellation(case, level):
    """What two logarithms that are subtracted leave, of one sample's loss; 0 if strict."""
    if level == "strict":
        return SMALLEST
    return 8 * U * (1 / case.tau + np.log(case.mask.size) + 1)


def cpcl_room(case, want, level):
    """How far rounding may move CPCL, and why."""
    d = case.z.shape[1]
    if level == "strict":
        derived = np.expm1(2 * cosine_error(d) / case.tau)
        relative = 1e-4 if case.tau >= 0.02 else derived
        why = f"{relative:.1e} of the loss: two cosines, each off by (sqrt(d) + 8) 2^-24, over tau"
        return relative * abs(want) + SMALLEST, why
    why = "1e-3 of the loss, and 8 * 2^-24 (1 / tau + log(K J) + 1) for logarithms that cancel"
    return 1e-3 * abs(want) + cancellation(case, level), why


def gradient_floor(case, level):
    """How far rounding alone may move the gradient, as a norm over the batch.

    A sample's gradient is sum_j w_j (unit c_j - cos_j unit z) / (tau |z|) with
    sum_j |w_j| = 2 N / (P + N). The brackets may cancel (they are all 0 for d = 1), the errors of
    their terms do not: each is off by cosine_error, twice over. At `equations` a weight may also be
    the difference of two quotients, each rounded by itself.
    """
    z, ragged = case.z.astype(np.float64), case.ragged()
    floors = [0.0]
    for row, k in zip(z, case.labels):
        if np.any(row):
            share = -np.expm1(-oracle.cpcl_loss([row], [k], ragged, case.tau))  # N / (P + N)
            error = 2 * (share * 2 * cosine_error(len(row)) + cancellation(case, level))
            floors.append(error / (case.tau * np.linalg.norm(row)))
    return np.linalg.norm(floors) / len(z)


def same_room(case, value, level):
    """What two values that are equal but for the order of additions may differ by, and why."""
    if level == "equations":
        return cpcl_room(case, value, level)
    relative = np.expm1(2 * cosine_error(case.z.shape[1]) / case.tau)
    return relative * abs(value) + SMALLEST, "the exponents may be added up in another order"


def exact_room(case, value, level):
    """What two values of the same operations on the same numbers may differ by, and why."""
    return (0.0, "") if level == "strict" else cpcl_room(case, value, level)


def expect_nothing(impl, what, value, grad, room):
    """A loss of 0 and, where there is one, a gradient of 0."""
    room = 0.0 if impl.settings.level == "strict" else room
    why = "" if not room else "8 * 2^-24 (1 / tau + log(K J) + 1) for logarithms that cancel"
    expect(what, value, 0.0, room, why)
    if grad is not None and impl.settings.level == "strict":
        expect(f"the gradient of {what}", grad, np.zeros(grad.shape))
    elif grad is not None:
        demand(np.isfinite(grad).all(), f"the gradient of {what} is not finite", grad, 0.0)


# ---------------------------------------------------------------- CPCL


def cpcl_of_the_worked_example_is_0_0943(impl, case):
    """CPCL of the worked example is ln(1 + e^-1 / (e + 1)) = 0.0943."""
    value, grad = impl.cpcl(*case)
    want = np.log(1 + np.exp(-1) / (np.e + 1))
    expect("CPCL", value, want, 1e-6, "a few roundings of numbers around 1, 16 * 2^-24")
    if grad is not None and impl.settings.level == "strict":
        # By hand: only cos of (0,1) changes with z_2; dL/dcos = -N / (P (P + N)) = -0.02421.
        slope = -np.exp(-1) / ((np.e + 1) * (np.e + 1 + np.exp(-1)))
        expect("its gradient", grad, [[0, slope]], 3e-7, "1e-5 of -0.0242")


def tau_divides_every_similarity(impl, case):
    """tau divides every cosine: at tau = 0.5 the worked example is ln(1 + e^-2 / (e^2 + 1))."""
    value, want = impl.cpcl(*case._replace(tau=0.5))[0], np.log(1 + np.exp(-2) / (np.exp(2) + 1))
    expect("CPCL at tau = 0.5", value, want, 1e-6, "a few roundings of numbers around 1")


def cpcl_is_the_oracles(impl, case):
    """CPCL is the mean of -log(P / (P + N)) over the batch (Eq. 8-9)."""
    want = oracles_cpcl(case)
    expect("CPCL", impl.cpcl(*case)[0], want, *cpcl_room(case, want, impl.settings.level))


def the_gradient_of_cpcl_is_the_oracles(impl, case):
    """The gradient of CPCL with respect to z is the one derived by hand."""
    level, z = impl.settings.level, case.z.astype(np.float64)
    want = oracle.cpcl_grad(z, case.labels, case.ragged(), case.tau)
    # A weight w_j has its own exponent, those of P and of P + N,
    # and a factor N / P: four exponents instead of two.
    relative = max(1e-3, np.expm1(4 * cosine_error(z.shape[1]) / case.tau))
    room = relative * np.linalg.norm(want) + gradient_floor(case, level)
    why = f"{relative:.1e} of its norm, and what rounding leaves where its terms cancel"
    expect("the gradient of CPCL", impl.cpcl(*case)[1], want, room, why, largest=True)


def every_positive_counts_not_only_the_first(impl, case):
    """Cluster prototypes in other slots change nothing: every positive counts."""
    turned = case._replace(clusters=case.clusters[:, ::-1].copy(), mask=case.mask[:, ::-1].copy())
    value = impl.cpcl(*case)[0]
    room = same_room(case, value, impl.settings.level)
    expect("CPCL with the slots turned round", impl.cpcl(*turned)[0], value, *room)


def a_second_positive_lowers_the_loss(impl, case):
    """A second prototype of the own class lowers the loss, however far it is."""
    alone = case._replace(mask=np.array([[True, False], [True, False]]))
    first, both = impl.cpcl(*alone)[0], impl.cpcl(*case)[0]
    # 0.1269: what the first alone costs
    why = "a few roundings of numbers around 1"
    expect("CPCL with one positive", first, np.log(1 + np.exp(-2)), 1e-6, why)
    demand(both < 0.75 * first, "CPCL with both positives is not lower", both, 0.0943)


def what_padding_holds_does_not_reach_cpcl(impl, drawn):
    """What stands in a slot without a cluster reaches neither CPCL nor its gradient."""
    case, junk = drawn
    filled = case._replace(
        clusters=np.where(case.mask[:, :, None], case.clusters, np.float32(junk))
    )
    (value, grad), (value_filled, grad_filled) = impl.cpcl(*case), impl.cpcl(*filled)
    level = impl.settings.level
    what = f"CPCL with {junk} in the padding"
    expect(what, value_filled, value, *exact_room(case, value, level))
    if grad is not None:
        room = 0.0 if level == "strict" else 2e-3 * np.linalg.norm(grad)
        room += 2 * gradient_floor(case, level) if level != "strict" else 0.0
        why = "" if level == "strict" else "twice what the gradient itself may be off by"
        expect(f"the gradient with {junk} in the padding", grad_filled, grad, room, why, True)


def cpcl_sees_only_the_angle_of_z(impl, drawn):
    """The length of z changes nothing, for similarity is the cosine (Eq. 7)."""
    case, power = drawn
    value, grad = impl.cpcl(*case)
    value_scaled, grad_scaled = impl.cpcl(*case._replace(z=case.z * np.float32(2.0**power)))
    # Exact: squares, root and quotient of scaled numbers are the scaled results, bit for bit.
    room = exact_room(case, value, impl.settings.level)
    expect(f"CPCL with z times 2^{power}", value_scaled, value, *room)
    if grad is not None:
        # The gradient scales the other way. Where it meets subnormal numbers, or is them, it may
        # differ by one of them.
        room = 1e-30 + 1e-5 * np.abs(grad) + 1e-5 * np.abs(grad).max()
        if impl.settings.level != "strict":
            room = room + 2 * gradient_floor(case, impl.settings.level)
        what = f"the gradient with z times 2^{power}, scaled back"
        expect(what, grad_scaled * 2.0**power, grad, room, "1e-5 of the largest entry")


def the_length_of_a_prototype_changes_no_cpcl(impl, drawn):
    """The length of a cluster prototype changes nothing, for similarity is the cosine (Eq. 7)."""
    case, power = drawn
    value = impl.cpcl(*case)[0]
    longer = case.clusters.copy()
    longer[:, 0] *= np.float32(2.0**power)
    room = exact_room(case, value, impl.settings.level)
    what = f"CPCL with every first prototype times 2^{power}"
    expect(what, impl.cpcl(*case._replace(clusters=longer))[0], value, *room)


def the_numbering_of_the_classes_is_free(impl, drawn):
    """Classes numbered otherwise, with labels to match, cost the same."""
    case, seed = drawn
    number = np.random.default_rng(seed).permutation(len(case.mask))  # new number -> old number
    renamed = case._replace(
        labels=np.argsort(number)[case.labels].astype(np.int32),
        clusters=case.clusters[number],
        mask=case.mask[number],
    )
    value = impl.cpcl(*case)[0]
    room = same_room(case, value, impl.settings.level)
    expect("CPCL with the classes renumbered", impl.cpcl(*renamed)[0], value, *room)


def a_batch_twice_over_costs_the_same_cpcl(impl, case):
    """CPCL is a mean over the batch: each sample twice costs the same."""
    twice = case._replace(z=np.repeat(case.z, 2, axis=0), labels=np.repeat(case.labels, 2))
    value = impl.cpcl(*case)[0]
    room, _ = same_room(case, value, impl.settings.level)
    room += 2 * len(case.z) * U * abs(value)
    expect("CPCL of the batch twice over", impl.cpcl(*twice)[0], value, room, "more additions")


def a_mask_without_any_cluster_costs_no_cpcl(impl, case):
    """Without any prototype, as in round 1, CPCL and its gradient are exactly zero."""
    value, grad = impl.cpcl(*case._replace(mask=np.zeros_like(case.mask)))
    expect_nothing(impl, "CPCL without any prototype", value, grad, 1e-6)


def a_single_known_class_costs_no_cpcl(impl, case):
    """With a single known class there is nothing to be kept apart from: CPCL is zero."""
    mask = np.zeros_like(case.mask)
    mask[case.labels[0]] = True
    case = case._replace(mask=mask)
    if impl.settings.level != "strict":  # what was padding is a prototype now
        fill = np.float32(case.clusters.any(axis=2, keepdims=True) == 0)
        case = case._replace(clusters=case.clusters + fill)
    room = cancellation(case, impl.settings.level)
    expect_nothing(impl, "CPCL with one known class", *impl.cpcl(*case), room)


def a_batch_of_unknown_classes_costs_no_cpcl(impl, case):
    """A batch whose classes have no prototype costs no CPCL."""
    mask = case.mask.copy()
    mask[np.unique(case.labels)] = False
    value, grad = impl.cpcl(*case._replace(mask=mask))
    expect_nothing(impl, "CPCL of unknown classes", value, grad, 1e-6)


def samples_of_an_unknown_class_count_as_0(impl, case):
    """A sample whose class has no prototype adds 0 to CPCL and counts in the mean."""
    padded = case._replace(
        z=np.repeat(case.z, 2, axis=0),
        labels=np.array([0, 2], np.int32),  # nobody holds class 2
        clusters=np.pad(case.clusters, [(0, 1), (0, 0), (0, 0)]),
        mask=np.pad(case.mask, [(0, 1), (0, 0)]),
    )
    alone = impl.cpcl(*case)[0]
    value, grad = impl.cpcl(*padded)
    expect("CPCL of a known and an unknown sample", value, alone / 2, 8 * U * alone, "one division")
    if grad is not None:
        demand(not grad[1].any(), "the unknown sample has a gradient", grad[1], 0.0)


def at_tau_0_005_nothing_overflows(impl, case):
    """At tau = 0.005, where e^(1/tau) is beyond float32, all stays finite and bounded."""
    value, grad = impl.cpcl(*case)
    most = 2 / 0.005 + np.log(1 + case.mask.size)
    demand(np.isfinite(value) and value <= 1.001 * most, "CPCL is too large", value, most)
    if grad is not None:
        demand(np.isfinite(grad).all(), "the gradient is not finite", grad)


def a_zero_feature_has_gradient_zero(impl, case):
    """A feature that is zero has no direction: its gradient is zero."""
    z = case.z.copy()
    z[0] = 0
    _, grad = impl.cpcl(*case._replace(z=z))
    demand(np.isfinite(grad).all(), "the gradient is not finite", grad)
    expect("the gradient of a zero row", grad[0], np.zeros(grad[0].shape))


def a_tiny_loss_keeps_its_digits(impl, gap):
    """A loss of e^-10 to e^-80 keeps its digits, and so does its gradient."""
    # log(1 + N/P) = e^-gap to first order, which float32 loses where 1 + N/P is formed, or
    # log(P + N) - log(P). Sixteen samples: for fewer than eight MindSpore's functions are the
    # accurate scalar ones.
    case = WORKED._replace(
        z=np.float32([[1, 0.1]] * 16),
        labels=np.zeros(16, np.int32),
        mask=np.array([[True, False], [True, False]]),
        tau=float(np.float32(2 / gap)),  # own cosine 1, other -1
    )
    value, grad = impl.cpcl(*case)
    want, why = oracles_cpcl(case), "1e-4 of it"
    expect(f"CPCL of about e^-{gap}", value, want, 1e-4 * want, why)
    if grad is not None:
        want = oracle.cpcl_grad(case.z.astype(np.float64), case.labels, case.ragged(), case.tau)
        expect("its gradient", grad, want, 1e-3 * np.linalg.norm(want), "1e-3 of its norm", True)


# ---------------------------------------------------------------- UPCR


def unbiased_of(case):
    """The case's unbiased prototypes: float32 [K,d], known [K], and the dict of the oracle."""
    known = case.mask.any(axis=1)
    unbiased = np.zeros((len(known), case.z.shape[1]), np.float32)
    for k, prototype in oracle.unbiased_prototypes(case.ragged()).items():
        unbiased[k] = prototype
    return unbiased, known, {k: unbiased[k].astype(np.float64) for k in np.flatnonzero(known)}


def upcr_room(case, want):
    """How far rounding may move UPCR, and why.

    Three roundings a square, d + B additions of terms of one sign, a division: a worst case that
    cannot be exceeded.
    """
    relative = (case.z.shape[1] + len(case.z) + 8) * U
    return relative * np.abs(want) + SMALLEST, "(d + B + 8) 2^-24 of it: each operation rounds once"


def upcr_of_the_worked_example_is_0_25(impl, case):
    """UPCR of the worked example is 0.25 as a mean over the two dimensions, 0.5 as a sum."""
    unbiased, known, _ = unbiased_of(case)
    for reduce in impl.settings.reduces:
        value = impl.upcr(case.z, case.labels, unbiased, known, reduce)[0]
        expect(f"UPCR ({reduce})", value, {"mean": 0.25, "sum": 0.5}[reduce])


def upcr_is_the_oracles(impl, drawn):
    """UPCR is the squared distance to the unbiased prototype of the class (Eq. 10)."""
    case, reduce = drawn
    unbiased, known, oracles = unbiased_of(case)
    want = oracle.upcr_loss(case.z.astype(np.float64), case.labels, oracles, reduce)
    value = impl.upcr(case.z, case.labels, unbiased, known, reduce)[0]
    expect(f"UPCR ({reduce})", value, want, *upcr_room(case, want))


def the_gradient_of_upcr_is_the_oracles(impl, drawn):
    """The gradient of UPCR with respect to z is the one derived by hand."""
    case, reduce = drawn
    unbiased, known, oracles = unbiased_of(case)
    want = oracle.upcr_grad(case.z.astype(np.float64), case.labels, oracles, reduce)
    grad = impl.upcr(case.z, case.labels, unbiased, known, reduce)[1]
    # Entry by entry: the subtraction, the factor 2, the divisions by d and by B round once each.
    room = 8 * U * np.abs(want) + SMALLEST
    expect(f"the gradient of UPCR ({reduce})", grad, want, room, "four roundings, 8 * 2^-24 of it")


def what_an_unknown_class_holds_never_reaches_upcr(impl, drawn):
    """What stands at a class that is not known reaches neither UPCR nor its gradient."""
    case, junk, reduce = drawn
    unbiased, known, _ = unbiased_of(case)
    filled = np.where(known[:, None], unbiased, np.float32(junk))
    value, grad = impl.upcr(case.z, case.labels, unbiased, known, reduce)
    value_filled, grad_filled = impl.upcr(case.z, case.labels, filled, known, reduce)
    expect(f"UPCR with {junk} at unknown classes", value_filled, value)
    if grad is not None:
        expect(f"the gradient with {junk} at unknown classes", grad_filled, grad)


def with_no_class_known_upcr_is_exactly_zero(impl, drawn):
    """With no class known, as in round 1, UPCR and its gradient are exactly zero."""
    case, reduce = drawn
    unbiased, known, _ = unbiased_of(case)
    value, grad = impl.upcr(case.z, case.labels, unbiased, np.zeros_like(known), reduce)
    expect_nothing(impl, "UPCR with no class known", value, grad, 0.0)


def an_unknown_sample_counts_in_the_mean_of_upcr(impl, case):
    """A sample whose class is not known adds 0 to UPCR and counts in the mean."""
    unbiased, _, _ = unbiased_of(case)
    z, labels = np.repeat(case.z, 2, axis=0), np.array([0, 1], np.int32)
    known = np.array([True, False])
    for reduce in impl.settings.reduces:
        value, grad = impl.upcr(z, labels, unbiased, known, reduce)
        expect(f"UPCR ({reduce})", value, {"mean": 0.125, "sum": 0.25}[reduce])
        if grad is not None:
            demand(not grad[1].any(), "the unknown sample has a gradient", grad[1], 0.0)


def a_batch_twice_over_costs_the_same_upcr(impl, drawn):
    """UPCR is a mean over the batch: each sample twice costs the same."""
    case, reduce = drawn
    unbiased, known, _ = unbiased_of(case)
    value = impl.upcr(case.z, case.labels, unbiased, known, reduce)[0]
    z, labels = np.repeat(case.z, 2, axis=0), np.repeat(case.labels, 2)
    twice = impl.upcr(z, labels, unbiased, known, reduce)[0]
    room, why = upcr_room(case, value)
    expect(f"UPCR ({reduce}) of the batch twice over", twice, value, 2 * room, why)


def the_sum_is_d_times_the_mean(impl, drawn):
    """UPCR with reduce "sum" is d times that with "mean"."""
    seed, d = drawn
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((5, d)).astype(np.float32)
    unbiased = rng.standard_normal((3, d)).astype(np.float32)
    args = z, rng.integers(0, 3, 5).astype(np.int32), unbiased, np.ones(3, bool)
    want = d * impl.upcr(*args, "mean")[0]
    room = (d + 16) * U * want
    expect("the sum", impl.upcr(*args, "sum")[0], want, room, "(d + 16) 2^-24 of it")


# ---------------------------------------------------------------- usual causes

ONE_LOG = (
    "All positives must stand inside one log: -log(sum of e^s over the own class / sum of e^s over "
    "all), not the mean of a log for each, nor the first alone."
)
TEMPERATURE = (
    "Positives and negatives are divided by tau alike. Eq. 7 is printed as a product; the paper's "
    "prose and the released code divide."
)
GRADIENT = (
    "The loss is computed outside of what is differentiated, through NumPy or a detached copy, or "
    "the gradient is not divided by tau, by |z| or by the number of samples."
)
PADDING = "Slots without a cluster enter a sum; take them out with the mask, by a `where`."
COSINE = "Similarity is the cosine over tau: both z and the prototypes are scaled to length 1."
ABSENT = (
    "Without positives or negatives a logarithm of 0, or a quotient 0 / 0, is taken; a loss of 0 "
    "has to be put in its place, before the gradient is taken."
)
IN_THE_MEAN = "The mean is over all samples of the batch; those without a prototype count as 0."
TINY = (
    "1 + N/P, or log(P + N) - log(P), has no digits left for N much smaller than P; "
    "log1p(e^(log N - log P)) has."
)
OVERFLOW = "Exponentials are taken before the largest exponent is subtracted (log-sum-exp)."
ZERO = "A zero row is divided by its length 0; scale by max(length, tiny), or put 0 in its place."
UPCR = (
    "Eq. 10 is the squared distance to the class's own unbiased prototype, summed over d or, as "
    "the released code has it, averaged over d; then the mean over the batch."
)


def cpcl(holds, cases, cause, **more):
    return Property(holds, ("cpcl",), cases, cause=cause, **more)


def upcr(holds, cases, cause, **more):
    return Property(holds, ("upcr",), cases, cause=cause, **more)


PROPERTIES = [
    cpcl(cpcl_of_the_worked_example_is_0_0943, only_worked, ONE_LOG),
    cpcl(tau_divides_every_similarity, only_worked, TEMPERATURE),
    cpcl(cpcl_is_the_oracles, some_losses, f"{ONE_LOG} {COSINE} {IN_THE_MEAN}"),
    cpcl(the_gradient_of_cpcl_is_the_oracles, some_losses, GRADIENT, gradient="cpcl"),
    cpcl(every_positive_counts_not_only_the_first, some_losses, ONE_LOG),
    cpcl(a_second_positive_lowers_the_loss, only_worked, ONE_LOG),
    cpcl(what_padding_holds_does_not_reach_cpcl, with_junk, PADDING),
    cpcl(cpcl_sees_only_the_angle_of_z, with_power, COSINE),
    cpcl(the_length_of_a_prototype_changes_no_cpcl, with_power, COSINE),
    cpcl(
        the_numbering_of_the_classes_is_free,
        with_order,
        "Rows of the table of prototypes are taken for another class than their own.",
    ),
    cpcl(a_batch_twice_over_costs_the_same_cpcl, some_losses, IN_THE_MEAN),
    cpcl(a_mask_without_any_cluster_costs_no_cpcl, some_losses, ABSENT),
    cpcl(a_single_known_class_costs_no_cpcl, some_losses, ABSENT),
    cpcl(a_batch_of_unknown_classes_costs_no_cpcl, some_losses, ABSENT),
    cpcl(samples_of_an_unknown_class_count_as_0, only_worked, IN_THE_MEAN),
    cpcl(at_tau_0_005_nothing_overflows, at_tau_0_005, OVERFLOW, level="strict"),
    cpcl(a_zero_feature_has_gradient_zero, some_losses, ZERO, level="strict", gradient="cpcl"),
    cpcl(a_tiny_loss_keeps_its_digits, tiny_losses, TINY, level="strict"),
    upcr(upcr_of_the_worked_example_is_0_25, only_worked, UPCR),
    upcr(upcr_is_the_oracles, with_reduce, UPCR),
    upcr(the_gradient_of_upcr_is_the_oracles, with_reduce, GRADIENT, gradient="upcr"),
    upcr(what_an_unknown_class_holds_never_reaches_upcr, with_junk_and_reduce, PADDING),
    upcr(with_no_class_known_upcr_is_exactly_zero, with_reduce, ABSENT),
    upcr(an_unknown_sample_counts_in_the_mean_of_upcr, only_worked, IN_THE_MEAN),
    upcr(a_batch_twice_over_costs_the_same_upcr, with_reduce, IN_THE_MEAN),
    upcr(the_sum_is_d_times_the_mean, vectors, UPCR, choices=("mean", "sum")),
]
