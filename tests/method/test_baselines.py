"""The compared methods against the oracle:
their terms, one step of each, their servers, what is remembered.

A method's local gradient is checked as a whole: one SGD step without momentum and decay
moves a parameter by -lr times its gradient. The oracle gives the derivative of the loss
with respect to logits, features and parameters, the network alone hands the first
two back to its weights (`handed_back`), and the sum must be what the step was.
"""

import dataclasses
import functools

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

import fpl
import oracle_np as oracle
from lab.methods import baselines
from lab.methods import oracle as others
from lab.proof.properties.cases import SCALES, SEEDS, holders
from lab.run import checkpoint

U = 2.0**-24  # float32's unit rounding error
UU = 2.0**-53  # float64's

# Every batch has 4 images, so that each step compiles once; a client with 8 or 12 images
# makes 2 or 3 steps an epoch. No weight decay, which alone would move every parameter.
TINY = fpl.Config(
    clients=(2, 1, 1, 1),
    width=2,
    batch_size=4,
    local_epochs=1,
    rounds=3,
    lr=0.05,
    tau=0.1,
    weight_decay=0.0,
)
SIZES = (4, 8, 4, 12, 8)
NAMES = (
    "fedavg",
    "fedprox",
    "moon",
    "feddyn",
    "fedopt",
    "fedproc",
    "fedproto",
    "fpl",
)  # Table 2's order
EVERY = {
    **baselines.METHODS,
    "adam": baselines.fedopt(optimizer="adam"),
    "global": baselines.FPL_GLOBAL,
}


def some_clients():
    rng = np.random.default_rng(0)
    return [
        fpl.Client(
            rng.integers(0, 256, (n, 32, 32, 3), np.uint8),
            rng.integers(0, 10, n).astype(np.int32),
            "mnist",
        )
        for n in SIZES
    ]


@functools.cache
def shapes_of(size):
    """The table of a vector of so many numbers: of all weights or of all statistics."""
    tables = [fpl.param_shapes(width, 10) for width in (1, 2)]
    tables += [fpl.stat_shapes(width) for width in (1, 2)]
    return next(table for table in tables if sum(int(np.prod(s)) for _, s in table) == size)


def arrays(vector):
    """A vector of weights or statistics: name -> array in float64, a copy."""
    views = fpl.views(Tensor(np.asarray(vector)), shapes_of(len(vector)))
    return {name: np.array(np.asarray(value), np.float64) for name, value in views.items()}


def doubled(tree):
    """name -> array or Tensor to name -> array in float64."""
    return {name: np.array(np.asarray(value), np.float64) for name, value in tree.items()}


def everything(state):
    """All that a state holds, one dict of arrays."""
    held = {"params": state.params, "stats": state.stats, **state.prototypes._asdict()}
    for who, kept in getattr(state, "memory", {}).items():
        held |= {(who, name): value for name, value in kept.items()}
    return {key: np.array(np.asarray(value)) for key, value in held.items()}


def assert_same(a, b):
    """Two dicts of arrays are equal bit for bit."""
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(np.asarray(a[key]), np.asarray(b[key]), err_msg=str(key))


def network_of(state):
    return {"params": np.asarray(state.params), "stats": np.asarray(state.stats)}


@functools.cache
def cached_rounds(server_round, rounds, cfg):
    if rounds == 0:
        return fpl.init_state(cfg)
    return server_round(cached_rounds(server_round, rounds - 1, cfg), some_clients(), cfg)[0]


def after(method, rounds, cfg=TINY):
    """The state after so many rounds; trained once for each method of EVERY."""
    return cached_rounds(method.server_round, rounds, cfg)


def moves_apart(a, b):
    """Two networks differ somewhere."""
    return (np.asarray(a) != np.asarray(b)).any()


def drawn_network(rng, scale=1.0, width=1):
    """The vector of a network's weights."""
    shapes = fpl.param_shapes(width, 10)
    return fpl.joined([scale * rng.standard_normal(shape) for _, shape in shapes])


def largest(tree):
    return max(float(np.abs(value).max()) for value in tree.values())


# ------------------------------------------------ the oracle itself


def drawn_features(seed, rows, batch=3, d=4):
    """rows arrays [B,d] of lengths around 1: no zero row, so that one step size suits all."""
    return np.random.default_rng(seed).standard_normal((rows, batch, d)) + 0.5


@given(SEEDS, st.floats(0.2, 2))
@settings(max_examples=20)
def test_oracles_moon_gradient_is_its_terms_slope(seed, temperature):
    z, towards, away = drawn_features(seed, 3)
    slope = oracle.finite_difference(
        lambda y: others.moon_term(y, towards, away, temperature), z, 1e-5
    )
    # h^2 |L'''| / 6 with |L'''| of order (2 / (T |z|))^3,
    # |z| > 0.03 in nearly all draws: relative to the steepest row
    steep = (2 / (temperature * np.linalg.norm(z, axis=1).min())) ** 3
    np.testing.assert_allclose(
        others.moon_grad(z, towards, away, temperature), slope, rtol=0, atol=1e-10 * (1 + steep)
    )


@given(SEEDS, st.floats(0.1, 2))
@settings(max_examples=20)
def test_moons_term_is_cpcl_of_two_clusters(seed, temperature):
    """The server is the own cluster, and the past is the only other."""
    z, towards, away = drawn_features(seed, 3)
    want = [
        oracle.cpcl_of_one(row, 0, {0: [own], 1: [other]}, temperature)
        for row, own, other in zip(z, towards, away)
    ]
    assert others.moon_term(z, towards, away, temperature) == pytest.approx(
        np.mean(want), rel=1e-13
    )
    want = [
        oracle.cpcl_grad_of_one(row, 0, {0: [own], 1: [other]}, temperature) / len(z)
        for row, own, other in zip(z, towards, away)
    ]
    np.testing.assert_allclose(
        others.moon_grad(z, towards, away, temperature), want, rtol=0, atol=1e-11
    )


@given(SEEDS, st.floats(0, 2))
@settings(max_examples=20)
def test_oracles_quadratic_gradients_are_their_terms_slopes(seed, strength):
    w, start, h = np.random.default_rng(seed).standard_normal((3, 2, 3))
    # a central difference of a quadratic has no truncation error:
    # rounding of a term below 100 over 2e-3 is left
    for term, grad in (
        (
            lambda y: others.proximal_term({"a": y}, {"a": start}, strength),
            others.proximal_grad({"a": w}, {"a": start}, strength),
        ),
        (
            lambda y: others.dynamic_term({"a": y}, {"a": start}, {"a": h}, strength),
            others.dynamic_grad({"a": w}, {"a": start}, {"a": h}, strength),
        ),
    ):
        np.testing.assert_allclose(
            grad["a"], oracle.finite_difference(term, w, 1e-3), rtol=0, atol=100 * 64 * UU / 1e-3
        )


@given(SEEDS, st.floats(0.2, 2), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=20)
def test_oracles_fedproc_gradients_are_its_losss_slopes(seed, tau, a):
    rng = np.random.default_rng(seed)
    logits, z, labels = rng.standard_normal((3, 5)), drawn_features(seed, 1)[0], [0, 2, 4]
    prototypes = {k: rng.standard_normal(4) for k in (0, 1, 2, 3)}  # class 4 is unknown
    to_logits, to_z = others.fedproc_grad(logits, z, labels, prototypes, tau, a)
    slope = oracle.finite_difference(
        lambda y: others.fedproc_loss(y, z, labels, prototypes, tau, a), logits, 1e-5
    )
    np.testing.assert_allclose(to_logits, slope, rtol=0, atol=1e-9)  # h^2 / 6 and 2 * UU * 10 / h
    slope = oracle.finite_difference(
        lambda y: others.fedproc_loss(logits, y, labels, prototypes, tau, a), z, 1e-5
    )
    steep = (2 / (tau * np.linalg.norm(z, axis=1).min())) ** 3
    np.testing.assert_allclose(to_z, slope, rtol=0, atol=1e-10 * (1 + steep))


@given(SEEDS, st.floats(0.1, 2))
@settings(max_examples=20)
def test_fedprocs_contrast_is_cpcl_by_class(seed, tau):
    """It is CPCL with one cluster for each class."""
    rng = np.random.default_rng(seed)
    z, labels, prototypes = (
        drawn_features(seed, 1)[0],
        [0, 2, 1],
        {k: rng.standard_normal(4) for k in range(4)},
    )
    want = oracle.cpcl_loss(z, labels, {k: [row] for k, row in prototypes.items()}, tau)
    got = others.fedproc_loss(rng.standard_normal((3, 4)), z, labels, prototypes, tau, 1.0)
    assert got == pytest.approx(want, rel=1e-12)


def test_equal_scores_cost_log_k():
    """So says cross-entropy, and it survives large scores."""
    assert others.cross_entropy([7.0] * 10, 3) == pytest.approx(np.log(10), rel=1e-15)
    assert others.cross_entropy([1000.0, 0.0], 1) == 1000
    np.testing.assert_allclose(
        others.cross_entropy_grad([0.0, np.log(3)], 0), [-0.75, 0.75], rtol=1e-15
    )


@given(SEEDS, st.floats(0.01, 10), st.integers(1, 4))
@settings(max_examples=20)
def test_oracles_feddyn_sums_follow_the_papers_recursion(seed, alpha, rounds):
    rng = np.random.default_rng(seed)
    history, h, network = [], 0.0, rng.standard_normal(3)
    for _ in range(
        rounds
    ):  # Alg. 1: h <- h - alpha share (mean - network), network <- mean - h / alpha
        mean, share = rng.standard_normal(3), rng.random()
        history.append(({"a": mean}, {"a": network}, share))
        h, network = (
            h - alpha * share * (mean - network),
            mean - (h - alpha * share * (mean - network)) / alpha,
        )
    np.testing.assert_allclose(others.feddyn_server(history)["a"], network, rtol=1e-12, atol=1e-12)
    turns = [(mean, start) for mean, start, _ in history]
    h = np.zeros(3)
    for trained, start in turns:
        h = h - alpha * (trained["a"] - start["a"])
    np.testing.assert_allclose(
        others.feddyn_client_memory(turns, alpha)["a"], h, rtol=1e-12, atol=1e-12
    )


def test_the_oracles_server_optimisers_have_their_closed_forms():
    start, delta = {"a": np.array([1.0])}, {"a": np.array([2.0])}
    assert others.fedopt_server(start, [delta], 1.0, 0.0, "sgd")["a"][0] == 3.0
    assert others.fedopt_server(start, [delta] * 3, 0.5, 0.5, "sgd")["a"][0] == 1 + 2 * 0.5 * (
        1 + 1.5 + 1.75
    )
    v = 0.99e-6 + 0.04  # FedAdam's first step is 0.1 d / (sqrt(0.99 tau^2 + 0.01 d^2) + tau)
    first = 1 + 0.25 * 0.2 / (np.sqrt(v) + 1e-3)
    assert others.fedopt_server(start, [delta], 0.25, 0.9, "adam")["a"][0] == pytest.approx(
        first, rel=1e-14
    )
    still = {
        "a": np.zeros(1)
    }  # a round in which nobody moves: m = 0.9 * 0.2, v = 0.99 of what it was
    second = first + 0.25 * 0.18 / (np.sqrt(0.99 * v) + 1e-3)
    assert others.fedopt_server(start, [delta, still], 0.25, 0.9, "adam")["a"][0] == pytest.approx(
        second, rel=1e-14
    )


# ------------------------------------------------ terms

LENGTH = 218  # numbers in a vector: a term adds over any


def drawn_vectors(seed, how_many, scale):
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal(LENGTH)).astype(np.float32) for _ in range(how_many)]


def named(vector):
    return {"all": np.asarray(vector, np.float64)}


def dynamic_term(vector, start, h, alpha):
    """FedDyn's term of a network with one weight tensor."""
    return baselines.dynamic_term({"all": vector}, start, h, alpha)


proximal_and_grad = ms.jit(ms.value_and_grad(baselines.proximal_term, 0))
dynamic_and_grad = ms.jit(ms.value_and_grad(dynamic_term, 0))
moon_and_grad = ms.jit(ms.value_and_grad(baselines.moon_term, 0))
STRENGTHS = st.one_of(st.sampled_from([0.0, 0.01, 1.0]), st.floats(1e-4, 10)).map(
    lambda x: float(np.float32(x))
)


@given(SEEDS, SCALES, STRENGTHS)
@settings(max_examples=30)
def test_fedproxs_term_is_the_oracles(seed, scale, mu):
    """Its gradient holds mu once."""
    w, start = drawn_vectors(seed, 2, scale)
    value, grad = proximal_and_grad(Tensor(w), Tensor(start), Tensor(mu, ms.float32))
    # A sum of squares: one sign, 218 additions at most in a row,
    # four roundings of each square and of mu / 2.
    assert float(value) == pytest.approx(
        others.proximal_term(named(w), named(start), mu), rel=(218 + 8) * U, abs=1e-37
    )
    want = others.proximal_grad(named(w), named(start), mu)
    np.testing.assert_allclose(grad.asnumpy(), want["all"], rtol=8 * U, atol=1e-37)


@given(SEEDS, SCALES, SCALES, STRENGTHS)
@settings(max_examples=30)
def test_feddyns_term_and_gradient_are_the_oracles(seed, scale, scale_h, alpha):
    w, start = drawn_vectors(seed, 2, scale)
    h = drawn_vectors(seed + 1, 1, scale_h)[0]
    value, grad = dynamic_and_grad(Tensor(w), Tensor(start), Tensor(h), Tensor(alpha, ms.float32))
    w, start, h = named(w), named(start), named(h)
    # The products -h w have both signs: the error is relative to the sum of absolute terms.
    absolute = others.total(
        others.combined(lambda a, b, c: alpha / 2 * (a - b) ** 2 + abs(c * a), w, start, h)
    )
    bound = (218 + 8) * U * absolute + 1e-37
    assert float(value) == pytest.approx(others.dynamic_term(w, start, h, alpha), rel=0, abs=bound)
    want = others.dynamic_grad(w, start, h, alpha)
    floor = 8 * U * (alpha * np.abs(w["all"] - start["all"]) + np.abs(h["all"])) + 1e-37
    assert (np.abs(grad.asnumpy() - want["all"]) <= floor).all()


@st.composite
def moon_cases(draw):
    """z, z_global, z_previous [B,d] float32, temperature;
    rows may be zero, equal or nearly the same direction."""
    batch, d = draw(st.sampled_from([(1, 1), (4, 16), (5, 7)]))
    rng = np.random.default_rng(draw(SEEDS))
    common = rng.standard_normal(d) * draw(st.sampled_from([0.0, 1.0, 30.0]))
    rows = [(rng.standard_normal((batch, d)) + common) * draw(SCALES) for _ in range(3)]
    for row in rows:
        if draw(st.booleans()):
            row[rng.integers(batch)] = 0
    temperature = draw(st.one_of(st.sampled_from([0.1, 0.5, 1.0]), st.floats(0.05, 5)))
    return *(row.astype(np.float32) for row in rows), float(np.float32(temperature))


@given(moon_cases())
@settings(max_examples=40)
def test_moons_term_and_gradient_are_the_oracles(case):
    *rows, temperature = case
    value, grad = moon_and_grad(*map(Tensor, rows), Tensor(temperature, ms.float32))
    z, towards, away = (row.astype(np.float64) for row in rows)
    # A cosine is off by (sqrt(d) + 8) U as in test_losses; the two exponents by that over T;
    # the log of a sum, which is below 2 / T + log 2, is formed by a subtraction: a few U of it.
    cosine_error = (np.sqrt(z.shape[1]) + 8) * U
    assert float(value) == pytest.approx(
        others.moon_term(z, towards, away, temperature),
        rel=0,
        abs=2 * cosine_error / temperature + 8 * U * (4 / temperature + 1),
    )
    want = others.moon_grad(z, towards, away, temperature)
    for b, row in enumerate(z):
        # Four unit vectors, weighed by at most P / (G + P) <= 1,
        # whose sum may cancel while their errors do not; and the weight's own error,
        # that of two exponents, times a bracket of length 2 at most.
        size = np.linalg.norm(row)
        bound = (
            (8 * cosine_error + 4 * cosine_error / temperature) / (temperature * size * len(z))
            if size
            else 0
        )
        assert np.linalg.norm(grad.asnumpy()[b] - want[b]) <= bound


@given(moon_cases())
@settings(max_examples=20)
def test_moon_of_equal_references_costs_log_2(case):
    """MOON's gradient is zero where both references are the same."""
    z, towards, _, temperature = case
    value, grad = moon_and_grad(
        Tensor(z), Tensor(towards), Tensor(towards), Tensor(temperature, ms.float32)
    )
    # logsumexp of two numbers s minus s: s is below 1 / T
    assert float(value) == pytest.approx(np.log(2), rel=0, abs=8 * U * (1 / temperature + 1))
    for got, row in zip(grad.asnumpy(), z.astype(np.float64)):
        # half of what each reference gives, with opposite signs; a few U of it are left
        size = np.linalg.norm(row)
        assert np.linalg.norm(got) <= (8 * U / (temperature * size) if size else 0)


# ------------------------------------------------ one step of each method


def surrogate(params, x, to_logits, to_z, shapes):
    logits, z, met = fpl.network(fpl.views(params, shapes), None, x)
    return (logits * to_logits).sum() + (z * to_z).sum(), logits, z, met


surrogate_and_gradient = ms.value_and_grad(surrogate, 0, has_aux=True)


@ms.jit
def surrogate_step(params, x, to_logits, to_z, shapes):
    return surrogate_and_gradient(params, x, to_logits, to_z, shapes)


def handed_back(params, images, to_logits, to_z):
    """What derivatives with respect to logits and z are with respect to the weights, by name.

    Also logits, z and the vector of the batch norm statistics met.
    """
    (_, logits, z, met), gradient = surrogate_step(
        params,
        fpl.network_input(images),
        Tensor(to_logits.astype(np.float32)),
        Tensor(to_z.astype(np.float32)),
        fpl.param_shapes(STEP.width, 10),
    )
    logits, z = (value.asnumpy().astype(np.float64) for value in (logits, z))
    return arrays(gradient), logits, z, met


STEP = dataclasses.replace(TINY, momentum=0.0, cpcl=0.7, upcr=1.3)
KNOWN = (0, 1, 2, 3, 5, 6, 8)


NOTHING = np.zeros((4, 10)), np.zeros((4, 8 * STEP.width))


def drawn_weights(seed, noise):
    """Another network than the initial one,
    with statistics near those of four images. -> (params, stats)

    With statistics far from those it meets, a network
    in evaluation mode gives all images the same feature.
    """
    rng, start = np.random.default_rng(seed), fpl.init_state(STEP).params.asnumpy()
    params = Tensor(start + noise * rng.standard_normal(start.shape).astype(np.float32))
    met = handed_back(params, some_clients()[0].images, *NOTHING)[3].asnumpy()
    return params, Tensor((met * rng.uniform(0.8, 1.2, met.shape)).astype(np.float32))


@functools.cache
def drawn_state(number=1):
    """After round `number`: a drawn network, prototypes of some classes."""
    rng, empty = np.random.default_rng(5), fpl.init_state(STEP).prototypes
    mask, clusters = np.zeros_like(empty.mask), np.zeros_like(empty.clusters)
    mask[list(KNOWN), 0] = True
    means = np.where(mask[:, :1], rng.random((10, 8 * STEP.width)), 0).astype(np.float32)
    clusters[:, 0] = means
    return fpl.ServerState(number, *drawn_weights(5, 0.02), fpl.Prototypes(clusters, mask, means))


@functools.cache
def drawn_memory(name):
    """What a client of the method remembers from a turn before."""
    rng = np.random.default_rng(6)
    if name == "feddyn":
        size = drawn_state().params.shape
        return {"h": Tensor(0.1 * rng.standard_normal(size).astype(np.float32))}
    if name == "moon":
        params, stats = drawn_weights(7, 0.1)
        return {"params": params, "stats": stats}
    return {}


def one_client():
    """Four images, one of an unknown class."""
    images = np.random.default_rng(7).integers(0, 256, (4, 32, 32, 3), np.uint8)
    return fpl.Client(images, np.int32([0, 5, 8, 9]), "mnist")


def turn(method, epochs, state=None, memory=None):
    """The update after so many steps, each of all four images, in an order of its own."""
    memory = drawn_memory(method.name) if memory is None else memory
    state, cfg = state or drawn_state(), dataclasses.replace(STEP, local_epochs=epochs)
    if memory:
        state = baselines.MethodState(*state[:4], {0: memory})
    return updates_of(method, state, [one_client()], cfg, np.random.default_rng(0))[0]


def updates_of(method, state, clients, cfg, rng=None):
    """What the clients that take part send in a round, in their order; rng: instead of theirs."""
    sent = []

    def engine(function, items):
        for server, client, own, *rest in items:
            sent.append(function((server, client, rng or own, *rest)))
            yield sent[-1]

    method.server_round(state, clients, cfg, engine)
    return sent


def losses(steps):
    """Mean loss over 0, 1, 2 epochs -> the loss of each step."""
    return steps[1].loss, 2 * steps[2].loss - steps[1].loss


# Numbers at which each term weighs as much as CE:
# at its default a lost FedProx would hide behind CE's rounding.
STEPPED = {
    "fedavg": baselines.FEDAVG,
    "fedprox": baselines.fedprox(mu=10.0),
    "moon": baselines.moon(mu=40.0, temperature=0.2),
    "feddyn": baselines.feddyn(alpha=7.0),
    "fedopt": baselines.fedopt(),
    "fedproc": baselines.fedproc(tau=0.3),
    "fedproto": baselines.fedproto(weight=3.0),
    "fpl": baselines.FPL,
    "fpl-global": baselines.FPL_GLOBAL,
}


def oracles_loss_and_derivatives(method, w, logits, z, labels, images, state):
    """The oracle's loss at w and its derivatives with respect
    to logits [B,K], z [B,d] and w (name -> array)."""
    to_logits = np.array(
        [others.cross_entropy_grad(row, k) / len(z) for row, k in zip(logits, labels)]
    )
    loss = sum(others.cross_entropy(row, k) for row, k in zip(logits, labels)) / len(z)
    to_z, to_w = np.zeros(z.shape), dict.fromkeys(w, 0.0)
    prototypes = {k: state.prototypes.unbiased[k].astype(np.float64) for k in KNOWN}
    start, numbers, memory = arrays(state.params), method.numbers, drawn_memory(method.name)
    if method.name == "fedprox":
        loss += others.proximal_term(w, start, numbers["mu"])
        to_w = others.proximal_grad(w, start, numbers["mu"])
    elif method.name == "feddyn":
        h = arrays(memory["h"])
        loss += others.dynamic_term(w, start, h, numbers["alpha"])
        to_w = others.dynamic_grad(w, start, h, numbers["alpha"])
    elif method.name == "moon":
        # evaluation mode: fpl.predict, where no image sees another
        networks = (state.params, state.stats), (memory["params"], memory["stats"])
        references = [fpl.predict(*network, images)[1] for network in networks]
        assert all(
            np.ptp(features, axis=0).max() > 0.1 * features.max() for features in references
        )  # they see the images
        loss += numbers["mu"] * others.moon_term(z, *references, numbers["temperature"])
        to_z = numbers["mu"] * others.moon_grad(z, *references, numbers["temperature"])
    elif method.name == "fedproc":
        a = others.fedproc_weight(state.round + 1, STEP.rounds)
        loss = others.fedproc_loss(logits, z, labels, prototypes, numbers["tau"], a)
        to_logits, to_z = others.fedproc_grad(logits, z, labels, prototypes, numbers["tau"], a)
    elif method.name == "fedproto":
        loss += numbers["weight"] * oracle.upcr_loss(z, labels, prototypes, "mean")
        to_z = numbers["weight"] * oracle.upcr_grad(z, labels, prototypes, "mean")
    elif method.name in ("fpl", "fpl-global"):
        ragged = {k: [row] for k, row in prototypes.items()}
        loss += STEP.cpcl * oracle.cpcl_loss(
            z, labels, ragged, STEP.tau
        ) + STEP.upcr * oracle.upcr_loss(z, labels, prototypes, "mean")
        to_z = STEP.cpcl * oracle.cpcl_grad(
            z, labels, ragged, STEP.tau
        ) + STEP.upcr * oracle.upcr_grad(z, labels, prototypes, "mean")
    return loss, to_logits, to_z, to_w


@pytest.mark.parametrize(
    "name, number",
    [
        pytest.param(name, number, marks=[] if name in ("fpl", "fedavg") else pytest.mark.slow)
        for name, number in [(name, 1) for name in STEPPED] + [("fedproc", 0), ("fedproc", 2)]
    ],
)
def test_two_steps_follow_the_oracles_gradient(name, number):
    """Both move every parameter by lr times the oracle's gradient. The second step starts
    away from the server's network, where the terms of FedProx and FedDyn are not zero."""
    method, state, client = STEPPED[name], drawn_state(number), one_client()
    steps = [state, turn(method, 1, state), turn(method, 2, state)]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(4) for _ in range(2)]
    for before, now, order, loss in zip(steps, steps[1:], orders, losses(steps)):
        images, labels = client.images[order], client.labels[order]
        _, logits, z, _ = handed_back(before.params, images, *NOTHING)
        w, moved = arrays(before.params), arrays(now.params)
        want_loss, to_logits, to_z, to_w = oracles_loss_and_derivatives(
            method, w, logits, z, labels, images, state
        )
        want = handed_back(before.params, images, to_logits, to_z)[0]
        # cosines over tau = 0.1 lose 2 cosine_error / tau = 1.5e-5 of
        # an exponent; the rest are sums of float32
        assert loss == pytest.approx(want_loss, rel=1e-4)
        for key in want:
            full = want[key] + to_w[key]
            got = (w[key] - moved[key]) / STEP.lr
            # the new weight is rounded once, to U |w|;
            # the gradient passes ten layers twice over: 1e-4 of its largest
            bound = (
                2 * U * np.abs(w[key]).max() / STEP.lr
                + 1e-4 * np.abs(full).max()
                + 1e-5 * largest(want)
            )
            assert np.abs(got - full).max() <= bound, key


@pytest.mark.slow
def test_each_term_weighs_enough_to_be_missed():
    """The terms are those of the two steps. A lost term changes the first step
    by a hundred times what the comparison above allows; FedProx's is zero there."""
    fedavg, second = turn(baselines.FEDAVG, 1), turn(baselines.FEDAVG, 2)
    step = largest(
        {
            key: value - arrays(drawn_state().params)[key]
            for key, value in arrays(fedavg.params).items()
        }
    )
    for name in ("moon", "feddyn", "fedproc", "fedproto", "fpl"):
        method = STEPPED[name]
        changed = {
            key: value - arrays(fedavg.params)[key]
            for key, value in arrays(turn(method, 1).params).items()
        }
        assert largest(changed) > 0.01 * step, name
    prox = turn(STEPPED["fedprox"], 2)
    assert (
        largest(
            {key: value - arrays(second.params)[key] for key, value in arrays(prox.params).items()}
        )
        > 0.01 * step
    )


@pytest.mark.slow
def test_fedprox_pulls_back_once_in_the_second_step():
    """The released version adds the gradient of its term a second time by hand."""
    mu, start = 10.0, arrays(drawn_state().params)
    first, second = (arrays(turn(baselines.FEDAVG, n).params) for n in (1, 2))
    prox = [arrays(turn(baselines.fedprox(mu), n).params) for n in (1, 2)]
    assert_same(prox[0], first)  # at the server's network the term has gradient zero
    want = {name: -STEP.lr * grad for name, grad in others.proximal_grad(first, start, mu).items()}
    for name in want:
        # two weights rounded once each, and a gradient that is added before it is multiplied by lr
        floor = 8 * U * (np.abs(second[name]).max() + np.abs(first[name]).max())
        np.testing.assert_allclose(prox[1][name] - second[name], want[name], rtol=1e-4, atol=floor)


@pytest.mark.slow
def test_feddyns_second_round_starts_minus_h_from_fedavg():
    """Its first step of round two differs from FedAvg's by minus h.
    The released version regularises a network that is not trained: it makes FedAvg's step."""
    cfg = dataclasses.replace(STEP, local_epochs=1)
    state, client = after(STEPPED["feddyn"], 1), some_clients()[0]  # four images: one step
    h = arrays(state.memory[0]["h"])
    dyn, plain = (
        arrays(updates_of(method, state, [client], cfg, np.random.default_rng(0))[0].params)
        for method in (STEPPED["feddyn"], baselines.FEDAVG)
    )
    assert largest(h) > 0.1
    for name in h:
        floor = 8 * U * np.abs(dyn[name]).max()
        np.testing.assert_allclose(
            dyn[name] - plain[name], STEP.lr * h[name], rtol=1e-4, atol=floor + 1e-5 * STEP.lr
        )


def test_feddyns_first_turn_remembers_zeros():
    """It starts with a memory of zeros."""
    zeros = {"h": Tensor(np.zeros(drawn_state().params.shape, np.float32))}
    first, second = (turn(STEPPED["feddyn"], 2, memory=memory) for memory in ({}, zeros))
    assert_same(network_of(first), network_of(second))


def test_moons_references_ignore_the_batch():
    """They do not depend on what else is in the batch. References in training mode would:
    then replacing one image changes the features of the others."""
    images = some_clients()[3].images[:4]
    other = np.concatenate([images[:3], 255 - images[3:]])
    state = drawn_state()
    shapes = fpl.param_shapes(STEP.width, 10), fpl.stat_shapes(STEP.width)
    features = [
        baselines.reference_features(
            state.params, state.stats, fpl.network_input(x), *shapes
        ).asnumpy()
        for x in (images, other)
    ]
    np.testing.assert_array_equal(features[0][:3], features[1][:3])
    assert (features[0][3] != features[1][3]).any()
    # the same sums in another order, at most 144 products in each of ten layers
    want = fpl.predict(state.params, state.stats, images)[1]
    np.testing.assert_allclose(features[0], want, rtol=0, atol=1e-4 * np.abs(want).max())


# ------------------------------------------------ servers


@st.composite
def server_histories(draw):
    """What the clients' means are, round by round,
    drawn around the first network: width 1, 1 to 4 rounds."""
    rng, scales = (
        np.random.default_rng(draw(SEEDS)),
        draw(st.lists(st.sampled_from([0.01, 1.0]), min_size=1, max_size=4)),
    )
    return drawn_network(rng), [drawn_network(rng, scale) for scale in scales]


def cut(tree):
    """Some of the names, so that the oracle's loops are short:
    a kernel, a batch norm, the linear layer."""
    return {
        name: tree[name]
        for name in (
            "stem.conv",
            "stage3.a.bn.bias",
            "stage2.shortcut.bn.weight",
            "linear.weight",
            "linear.bias",
        )
    }


@given(
    server_histories(),
    st.sampled_from(["sgd", "adam"]),
    st.floats(0.1, 1),
    st.sampled_from([0.0, 0.5, 0.9]),
)
@settings(max_examples=20)
def test_fedopts_server_is_the_oracles_over_several_rounds(history, optimizer, lr, momentum):
    start, means = history
    params, memory, deltas = start, {}, []
    for mean in means:
        deltas.append(others.combined(lambda a, b: a - b, cut(arrays(mean)), cut(arrays(params))))
        params, memory = baselines.server_step(params, mean, memory, lr, momentum, optimizer)
    want = others.fedopt_server(cut(arrays(start)), deltas, lr, momentum, optimizer)
    begun, ended = arrays(start), arrays(params)
    for name in want:
        # the network is rounded to float32 each round,
        # and so may m and v be: some U of all that was added up
        size = np.abs(begun[name]) + lr * 10 * sum(np.abs(delta[name]) for delta in deltas)
        size += (
            lr * len(deltas) * 20 * (optimizer == "adam")
        )  # a step of Adam's is below sqrt(n) / sqrt(0.01) = 20
        assert (np.abs(ended[name] - want[name]) <= 16 * U * len(means) * size).all(), name


@given(server_histories(), st.floats(0.01, 10), st.data())
@settings(max_examples=10)
def test_feddyns_server_is_the_oracles_over_several_rounds(history, alpha, data):
    """Of unequal participation: client 0 alone takes part and holds a share of the images."""
    start, means = history
    cfg = dataclasses.replace(TINY, width=1, clients=(1, 1, 0, 0), participation=0.5)
    state, past = fpl.init_state(cfg)._replace(params=start), []
    for mean in means:
        sizes = data.draw(st.sampled_from([(1, 19), (3, 7), (5, 5)]))
        chosen = fpl.participants(cfg, 2, state.round + 1)[0]
        share = sizes[chosen] / sum(sizes)
        past.append((cut(arrays(mean)), cut(arrays(state.params)), share))
        clients = [
            fpl.Client(np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, np.int32), "mnist")
            for n in sizes
        ]
        nothing = np.zeros((10, 8), np.float32), np.zeros(10, int), 1.0
        update = fpl.ClientUpdate(mean, state.stats, *nothing)
        state = baselines.feddyn(alpha).server_round(
            state, clients, cfg, lambda function, items, sent=update: [sent]
        )[0]
    want, ended, h_ended = (
        others.feddyn_server(past),
        arrays(state.params),
        arrays(state.memory["server"]["h"]),
    )
    for name in want:
        # h is rounded each round, h / alpha and the network once: U of all that was added up
        size = sum(np.abs(mean[name]) + np.abs(mean[name] - begin[name]) for mean, begin, _ in past)
        assert (np.abs(ended[name] - want[name]) <= 8 * U * len(past) * size).all(), name
        h = alpha * (past[-1][0][name] - want[name])  # network = mean - h / alpha
        assert (np.abs(h_ended[name] - h) <= 8 * U * len(past) * size * alpha).all(), name
    assert state.round == len(means)


@given(holders(most_clients=7))
def test_the_global_prototype_is_the_only_cluster(sent):
    clients, classes, d = sent.class_means.shape
    slots = max(1, clients // 2)
    rng = np.random.default_rng(0)  # what the round before left is replaced, all of it
    old = fpl.Prototypes(
        rng.random((classes, slots, d)).astype(np.float32),
        np.ones((classes, slots), bool),
        rng.random((classes, d)).astype(np.float32),
    )
    state = fpl.ServerState(1, None, None, old)
    clusters, mask, unbiased = baselines.with_global_prototypes(
        state, None, None, {"class_means": sent.class_means, "counts": sent.counts}
    ).prototypes
    want = others.global_prototypes(sent.class_means.astype(np.float64), sent.counts)
    means, known = baselines.global_prototypes(*sent)
    assert means.dtype == np.float32 and known.dtype == bool
    assert np.flatnonzero(known).tolist() == sorted(want)
    assert (clusters.shape, mask.shape) == ((classes, slots, d), (classes, slots))
    np.testing.assert_array_equal(mask[:, 0], known)
    np.testing.assert_array_equal(clusters[:, 0], means)
    np.testing.assert_array_equal(unbiased, means)
    assert not mask[:, 1:].any() and not clusters[:, 1:].any()
    assert (clusters.dtype, mask.dtype, unbiased.dtype) == (np.float32, bool, np.float32)
    for k in range(classes):
        # float64 sums of at most 7 numbers, which may cancel; one rounding to float32
        floor = 16 * UU * np.abs(sent.class_means[:, k]).max()
        np.testing.assert_allclose(means[k], want.get(k, np.zeros(d)), rtol=U, atol=floor)


def test_a_client_counts_once_in_global_prototypes():
    """So does a client with many images of the class."""
    means, known = baselines.global_prototypes(
        np.float32([[[1], [9]], [[3], [9]], [[8], [9]]]), [[50, 0], [1, 0], [0, 0]]
    )
    assert means.tolist() == [[2], [0]] and known.tolist() == [True, False]


# ------------------------------------------------ reductions to FedAvg, bit for bit


@pytest.mark.parametrize(
    "method, cfg",
    [
        (baselines.fedprox(mu=0.0), TINY),
        (baselines.moon(mu=0.0), TINY),
        (baselines.feddyn(alpha=0.0), TINY),
        (baselines.fedopt(lr=1.0, momentum=0.0), TINY),
        (baselines.fedproto(weight=0.0), TINY),
        (baselines.fedproc(), dataclasses.replace(TINY, rounds=2)),
        (baselines.FPL, dataclasses.replace(TINY, cpcl=0.0, upcr=0.0)),
        (baselines.FPL_GLOBAL, dataclasses.replace(TINY, cpcl=0.0, upcr=0.0)),
    ],
    ids=[
        "fedprox",
        "moon",
        "feddyn",
        "fedopt",
        "fedproto",
        "fedproc of two rounds",
        "fpl",
        "fpl-global",
    ],
)
@pytest.mark.slow
def test_without_its_term_a_method_is_fedavg(method, cfg):
    """It is so bit for bit over two rounds.
    FedProc of two rounds has no prototypes in its first and a = 0 in its last."""
    assert_same(network_of(after(method, 2, cfg)), network_of(after(baselines.FEDAVG, 2)))


@given(server_histories())
@settings(max_examples=20)
def test_fedopts_plain_server_takes_the_mean(history):
    """With lr 1 and no momentum it does so bit for bit."""
    params, means = history
    for mean in means:
        params, memory = baselines.server_step(params, mean, {}, 1.0, 0.0, "sgd")
        np.testing.assert_array_equal(params.asnumpy(), mean.asnumpy())


@pytest.mark.parametrize("name", ["fedproc", "fedproto", "fpl", "global"])
def test_first_rounds_without_prototypes_are_fedavgs(name):
    """They are so bit for bit."""
    assert_same(network_of(after(EVERY[name], 1)), network_of(after(baselines.FEDAVG, 1)))


@pytest.mark.parametrize("name", ["moon", "feddyn", "fedopt", "adam", "fedprox"])
@pytest.mark.slow
def test_first_round_averages_batch_norm_as_fedavg(name):
    """It averages the statistics of batch norm as FedAvg does. No server optimises them.
    FedDyn, MOON and FedProx train other networks from the second step on."""
    ours, fedavg = arrays(after(EVERY[name], 1).stats), arrays(after(baselines.FEDAVG, 1).stats)
    if name in ("fedopt", "adam"):
        assert_same(ours, fedavg)
    # three steps at most, with terms that are small
    # in the first round: within a hundredth of the largest
    for key in fedavg:
        assert np.abs(ours[key] - fedavg[key]).max() <= 0.01 * np.abs(fedavg[key]).max()


def test_moons_first_turn_is_fedavgs():
    """Both references are the server's: log 2 a sample, and two gradients of opposite signs."""
    moon, fedavg = turn(baselines.moon(mu=5.0), 1, memory={}), turn(baselines.FEDAVG, 1)
    assert moon.loss - fedavg.loss == pytest.approx(5 * np.log(2), abs=32 * U * (5 + fedavg.loss))
    start = arrays(drawn_state().params)
    step = largest({name: value - start[name] for name, value in arrays(fedavg.params).items()})
    moved, plain = arrays(moon.params), arrays(fedavg.params)
    for name in start:
        # what is left of 5 * 0.5 / T times a unit vector twice over,
        # rounded: some U of a gradient like CE's
        floor = 2 * U * np.abs(start[name]).max() + 1e-4 * step
        np.testing.assert_allclose(moved[name], plain[name], rtol=0, atol=floor)


def test_fedproto_is_fpl_without_cpcl():
    """It is FPL with global prototypes, bit for bit."""
    cfg = dataclasses.replace(TINY, cpcl=0.0)
    ours, fpls = after(EVERY["fedproto"], 2), after(baselines.FPL_GLOBAL, 2, cfg)
    assert_same(network_of(ours), network_of(fpls))
    assert_same(ours.prototypes._asdict(), fpls.prototypes._asdict())
    assert moves_apart(ours.params, after(baselines.FEDAVG, 2).params)


# ------------------------------------------------ whole rounds


def test_methods_stand_in_table_2s_order():
    """They stand there under their names."""
    assert tuple(baselines.METHODS) == NAMES
    assert all(method.name == name for name, method in baselines.METHODS.items())
    assert {name: method.numbers for name, method in baselines.METHODS.items()} == {
        "fedavg": {},
        "fedprox": {"mu": 0.01},
        "moon": {"mu": 5.0, "temperature": 0.5},
        "feddyn": {"alpha": 0.1},
        "fedopt": {"lr": 0.25, "momentum": 0.9, "optimizer": "sgd"},
        "fedproc": {"tau": 1.0},
        "fedproto": {"weight": 1.0},
        "fpl": {},
    }
    assert baselines.fedopt(0.5, 0.1, "adam").numbers == {
        "lr": 0.5,
        "momentum": 0.1,
        "optimizer": "adam",
    }
    assert baselines.METHODS["fpl"] is baselines.FPL


@pytest.mark.parametrize("name", EVERY)
def test_two_rounds_are_finite_and_differ_from_fedavgs(name):
    state = after(EVERY[name], 2)
    assert state.round == 2
    assert all(np.isfinite(value).all() for value in everything(state).values())
    assert moves_apart(state.params, after(baselines.FEDAVG, 2).params) == (name != "fedavg")


@pytest.mark.parametrize("name", EVERY)
def test_two_rounds_in_reverse_order_change_no_bit(name):
    def backwards(function, items):
        done = [function(item) for item in reversed(list(items))]
        return reversed(done)

    state = fpl.init_state(TINY)
    for _ in range(2):
        before = everything(state)
        now = EVERY[name].server_round(state, some_clients(), TINY, backwards)[0]
        assert_same(everything(state), before)
        state = now
    assert_same(everything(state), everything(after(EVERY[name], 2)))


@pytest.mark.parametrize("name", EVERY)
def test_the_second_round_follows_the_saved_first(name, tmp_path):
    """It goes on from the saved first bit for bit."""
    record = {"config": {}, "sources": {}, "versions": {}}
    checkpoint.save(tmp_path, after(EVERY[name], 1), record)
    second = EVERY[name].server_round(checkpoint.load(tmp_path, record), some_clients(), TINY)[0]
    assert_same(everything(second), everything(after(EVERY[name], 2)))


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_moves(name):
    before, now = after(EVERY[name], 1), after(EVERY[name], 2)
    moved, still = arrays(now.params), arrays(before.params)
    for key in still:
        assert (moved[key] != still[key]).any(), key
    assert now.params.dtype == now.stats.dtype == ms.float32


@pytest.mark.parametrize("name", ["moon", "feddyn"])
def test_resting_clients_keep_their_memory(name):
    """A client that does not take part keeps it."""
    cfg = dataclasses.replace(TINY, participation=0.4)
    state = after(EVERY[name], 1)  # all five took part
    now = EVERY[name].server_round(state, some_clients(), cfg)[0]
    chosen = fpl.participants(cfg, 5, 2)
    assert len(chosen) == 2
    for m in range(5):
        same = [
            np.array_equal(np.asarray(now.memory[m][key]), np.asarray(state.memory[m][key]))
            for key in state.memory[m]
        ]
        assert all(same) == (m not in chosen)


@pytest.mark.parametrize("name", EVERY)
def test_only_those_who_took_part_remember(name):
    """Each remembers its own."""
    cfg = dataclasses.replace(TINY, participation=0.4)
    state, method = fpl.init_state(cfg), EVERY[name]
    chosen, clients = fpl.participants(cfg, 5, 1), some_clients()
    now = method.server_round(state, clients, cfg)[0]
    remembers = {
        "moon": chosen,
        "feddyn": ["server", *chosen],
        "fedopt": ["server"],
        "adam": ["server"],
    }.get(name, [])
    assert set(getattr(now, "memory", {})) == set(remembers)
    updates = dict(zip(chosen, updates_of(method, state, clients, cfg), strict=True))
    for m in set(chosen) & set(remembers):
        trained = updates[m]
        if name == "moon":
            assert_same(now.memory[m], network_of(trained))
        else:
            start, end = arrays(state.params), arrays(trained.params)
            want = others.feddyn_client_memory([(cut(end), cut(start))], 0.1)
            for key in want:  # three roundings, the first of a difference of float32 numbers
                got = arrays(now.memory[m]["h"])[key]
                np.testing.assert_allclose(got, want[key], rtol=8 * U, atol=1e-30)


def test_feddyns_clients_add_memory_turn_by_turn():
    states, clients = [after(EVERY["feddyn"], n) for n in (0, 1, 2)], some_clients()
    sent = [updates_of(EVERY["feddyn"], state, clients, TINY) for state in states[:2]]
    for m in range(5):
        turns = [
            (cut(arrays(updates[m].params)), cut(arrays(state.params)))
            for updates, state in zip(sent, states, strict=False)
        ]
        want, h = others.feddyn_client_memory(turns, 0.1), arrays(states[2].memory[m]["h"])
        for name in want:
            size = 0.1 * sum(np.abs(end[name] - start[name]) for end, start in turns)
            assert (np.abs(h[name] - want[name]) <= 8 * U * size).all()


def test_feddyn_corrects_by_share_of_images():
    """FedDyn's round corrects by the share of the images behind it. Two of five clients take part;
    what the server's network is follows from their networks alone."""
    cfg, clients = dataclasses.replace(TINY, participation=0.4), some_clients()
    state, method = fpl.init_state(cfg), EVERY["feddyn"]
    chosen = fpl.participants(cfg, 5, 1)
    updates = updates_of(method, state, clients, cfg)
    sizes = [SIZES[m] for m in chosen]
    share = sum(sizes) / sum(SIZES)
    assert share not in (1, len(chosen) / 5)
    now = method.server_round(state, clients, cfg)[0]
    want_stats = oracle.weighted_mean([arrays(update.stats) for update in updates], sizes)
    got_stats = arrays(now.stats)
    for name in want_stats:
        np.testing.assert_allclose(got_stats[name], want_stats[name], rtol=2 * U)
    mean = oracle.weighted_mean([cut(arrays(update.params)) for update in updates], sizes)
    want = others.feddyn_server([(mean, cut(arrays(state.params)), share)])
    for name in want:
        moved = np.abs(mean[name] - arrays(state.params)[name])
        # the mean is rounded to float32, then the network once more, h and h / alpha in between
        bound = 4 * U * np.abs(mean[name]) + 8 * U * moved
        assert (np.abs(arrays(now.params)[name] - want[name]) <= bound).all()


def test_fedopt_first_goes_a_quarter_of_fedavgs_way():
    """Its first round does."""
    start, mean = (
        cut(arrays(after(baselines.FEDAVG, 0).params)),
        cut(arrays(after(baselines.FEDAVG, 1).params)),
    )
    for method, optimizer in ((EVERY["fedopt"], "sgd"), (EVERY["adam"], "adam")):
        delta = {name: mean[name] - start[name] for name in start}
        want = others.fedopt_server(start, [delta], 0.25, 0.9, optimizer)
        for name in want:
            size = np.abs(start[name]) + 3 * np.abs(delta[name]) + 2 * (optimizer == "adam")
            assert (
                np.abs(arrays(after(method, 1).params)[name] - want[name]) <= 4 * U * size
            ).all()


@pytest.mark.parametrize("name", ["fedproc", "fedproto", "global"])
def test_a_rounds_prototypes_are_global_ones(name):
    """They are the global ones of what its clients sent."""
    state, sent = EVERY[name].server_round(after(EVERY[name], 1), some_clients(), TINY)
    means, known = baselines.global_prototypes(sent["class_means"], sent["counts"])
    np.testing.assert_array_equal(state.prototypes.unbiased, means)
    np.testing.assert_array_equal(state.prototypes.mask[:, 0], known)
