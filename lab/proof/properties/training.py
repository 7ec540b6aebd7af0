"""The weighted mean of networks, a step of SGD and batch norm, against the oracle."""

import numpy as np
from hypothesis import strategies as st

import oracle_np as oracle
from lab.proof.properties.cases import SCALES, SEEDS, whole_numbers
from lab.proof.properties.failure import Property, U, expect, mean_room

EPS = 1e-5  # batch norm's, PyTorch's default

# ---------------------------------------------------------------- what is drawn


@st.composite
def small_networks(draw):
    """(trees, weights): up to three networks of a matrix and a single number."""
    clients = draw(st.integers(1, 3))
    trees = [
        {"matrix": draw(whole_numbers((1, 2))), "number": draw(whole_numbers(()))}
        for _ in range(clients)
    ]
    return trees, draw(st.lists(st.integers(1, 4), min_size=clients, max_size=clients))


@st.composite
def large_networks(draw):
    """(trees, weights): up to twenty networks, and the numbers of their images."""
    clients, scale, rng = draw(st.integers(1, 20)), draw(SCALES), draw(SEEDS)
    rng = np.random.default_rng(rng)
    trees = [
        {
            "matrix": np.float32(scale * rng.standard_normal((2, 3))),
            "number": np.float32(scale * rng.standard_normal(())),
        }
        for _ in range(clients)
    ]
    return [{**tree, "number": np.array(tree["number"])} for tree in trees], [
        int(n) for n in rng.integers(1, 10_000, clients)
    ]


def networks(settings):
    return [small_networks(), large_networks()]


def two_networks_or_more(settings):
    return [some.filter(lambda drawn: len(drawn[1]) > 1) for some in networks(settings)]


def networks_in_another_order(settings):
    return [st.tuples(some, st.integers(0, 20)) for some in networks(settings)]


HYPERPARAMETERS = st.sampled_from(
    [(0.5, 0.5, 0.25), (0.1, 0.9, 0.01), (0.01, 0.9, 1e-5), (0.1, 0.0, 0.0)]
)


def steps(settings):
    """(param, velocity, grad, (lr, momentum, weight_decay))."""
    small = st.tuples(*[whole_numbers((2,))] * 3, HYPERPARAMETERS)
    large = st.tuples(SEEDS, SCALES, HYPERPARAMETERS).map(
        lambda drawn: (
            *np.float32(drawn[1] * np.random.default_rng(drawn[0]).standard_normal((3, 3, 5))),
            drawn[2],
        )
    )
    return [small, large]


@st.composite
def large_images(draw):
    """(x [N,C,H,W], weight [C], bias [C])."""
    batch, channels, side = (
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
        draw(st.integers(2, 5)),
    )
    rng = np.random.default_rng(draw(SEEDS))
    scale = 10.0 ** draw(st.floats(-2, 2))
    x = (scale * rng.normal(size=(batch, channels, side, side))).astype(np.float32)
    weight, bias = rng.normal(size=(2, channels)).astype(np.float32)
    return x, weight, bias


def images(settings):
    small = st.tuples(whole_numbers((1, 1, 2, 2)), whole_numbers((1,), 1, 2), whole_numbers((1,)))
    return [small, large_images()]


def once(settings):
    return [st.none()]


# ---------------------------------------------------------------- Algorithm 1: the server's mean


def largest(trees):
    return max(float(np.abs(value).max()) for tree in trees for value in tree.values())


def expect_network(impl, what, got, want, trees, rounding=None):
    for name in want:
        room = rounding or mean_room(impl.settings, want[name], largest(trees), len(trees))
        expect(f"{what}, {name}", got[name], want[name], *room)


def the_weighted_mean_is_the_oracles(impl, case):
    """The server's network is the mean of the clients', weighted by their numbers of images."""
    want = oracle.weighted_mean(*case)
    expect_network(impl, "the mean", impl.weighted_mean(*case), want, case[0])


def only_the_ratio_of_the_weights_counts(impl, case):
    """Weights that are all divided by eight give the same network."""
    trees, weights = case
    got, want = impl.weighted_mean(trees, [w / 8 for w in weights]), impl.weighted_mean(*case)
    rounding = None if impl.settings.sums == "float32" else (0.0, "")
    expect_network(impl, "the mean by weights / 8", got, want, trees, rounding)


def a_client_without_weight_changes_nothing(impl, case):
    """A client with the weight 0 changes nothing."""
    trees, weights = case
    got = impl.weighted_mean(trees, [0, *weights[1:]])
    want = impl.weighted_mean(trees[1:], weights[1:])
    rounding = None if impl.settings.sums == "float32" else (0.0, "")
    expect_network(impl, "the mean with a weight 0", got, want, trees, rounding)


def the_clients_order_shows_in_the_last_place(impl, drawn):
    """Clients in another order give the same network but for rounding."""
    (trees, weights), seed = drawn
    order = np.random.default_rng(seed).permutation(len(trees))
    got = impl.weighted_mean([trees[i] for i in order], [weights[i] for i in order])
    want = impl.weighted_mean(trees, weights)
    for name in want:
        room, why = mean_room(impl.settings, want[name], largest(trees), len(trees))
        expect(f"the mean in another order, {name}", got[name], want[name], 2 * room, why)


# ---------------------------------------------------------------- SGD


def step_room(param, velocity, grad, hyperparameters, settings):
    """Seven roundings of numbers below the sum of the absolute terms."""
    return 8 * U * (abs(param) + abs(velocity) + abs(grad)).max(), "seven roundings in float32"


def an_sgd_step_is_the_oracles(impl, case):
    """A step of SGD is g + wd p, then momentum v + g, then p - lr v."""
    param, velocity, grad, numbers = case
    got = impl.sgd_step(param, velocity, grad, *numbers)
    want = oracle.sgd_step(param, velocity, grad, *numbers)
    room = step_room(*case, impl.settings)
    expect("the velocity", got[1], want[1], *room)
    expect("the parameter", got[0], want[0], *room)


def weight_decay_alone_shrinks_by_lr_times_decay(impl, _):
    """Without gradient and velocity, a step shrinks a parameter by lr times the decay."""
    zero = np.zeros(1, np.float32)
    param, velocity = impl.sgd_step(np.float32([4]), zero, zero, 0.5, 0.5, 0.25)
    expect("the parameter", param, [3.5])
    expect("the velocity", velocity, [1.0])


def constant_gradients_move_sgd_by_geometric_series(impl, _):
    """Under a constant gradient the velocity grows as the series of the momentum."""
    param, velocity = np.zeros(1, np.float32), np.zeros(1, np.float32)
    for want in (1.0, 1.5, 1.75):
        param, velocity = impl.sgd_step(param, velocity, np.float32([1]), 0.5, 0.5, 0.0)
        expect("the velocity", velocity, [want])
        param, velocity = np.float32(param), np.float32(velocity)
    expect("the parameter", param, [-0.5 * (1 + 1.5 + 1.75)])


# ---------------------------------------------------------------- batch norm


def norm_bound(x):
    """n additions in float32 leave n 2^-24 of the largest summand at worst."""
    return 4 * (x.size / x.shape[1]) * U


def batch_norm_agrees_with_the_oracle(impl, case):
    """Batch norm is weight (x - mean) / sqrt(variance + eps) + bias, channel by channel."""
    x, weight, bias = case
    y, mean, _ = impl.batch_norm(*case, EPS)
    want, want_mean, want_variance = oracle.batch_norm(x.astype(np.float64), weight, bias, EPS)
    bound, most = norm_bound(x), np.abs(x).max()
    why = "4 n 2^-24 of the largest summand, for n additions in float32"
    expect("the mean", mean, want_mean, bound * most + 1e-37, why)
    # the normalised value divides by the deviation, so the errors count relative to it
    deviation = np.sqrt(want_variance + EPS).min()
    room = (
        np.abs(weight).max() * 8 * bound * (1 + most / deviation) ** 3 + 2 * U * np.abs(bias).max()
    )
    expect("y", y, want, room, f"{why}, relative to the deviation")


def the_variance_of_batch_norm_is_biased(impl, case):
    """The variance that batch norm returns is over n, not n - 1."""
    x, weight, bias = case
    _, _, variance = impl.batch_norm(*case, EPS)
    want = oracle.batch_norm(x.astype(np.float64), weight, bias, EPS)[2]
    bound, most = norm_bound(x), np.abs(x).max()
    room = (2 * bound + 1e-6) * want + bound * most**2 + 1e-37
    expect("the variance", variance, want, room, "4 n 2^-24 of the largest square")


# ---------------------------------------------------------------- usual causes

WEIGHTED = (
    "Weights are the numbers of images of the clients that take part, divided by their sum, each "
    "at its own client."
)
SGD = (
    "PyTorch's order: decay is added to the gradient, the velocity takes the gradient in full (no "
    "dampening, lr outside of it), and the step is lr times the new velocity (no Nesterov)."
)
NORM = "eps stands inside the root; statistics are those of the channel over batch, height, width."
VARIANCE = "The unbiased variance belongs into the running one alone: n / (n - 1) comes after this."


def mean(holds, cases):
    return Property(holds, ("weighted_mean",), cases, cause=WEIGHTED)


def sgd(holds, cases):
    return Property(holds, ("sgd_step",), cases, cause=SGD)


PROPERTIES = [
    mean(the_weighted_mean_is_the_oracles, networks),
    mean(only_the_ratio_of_the_weights_counts, networks),
    mean(a_client_without_weight_changes_nothing, two_networks_or_more),
    mean(the_clients_order_shows_in_the_last_place, networks_in_another_order),
    sgd(an_sgd_step_is_the_oracles, steps),
    sgd(weight_decay_alone_shrinks_by_lr_times_decay, once),
    sgd(constant_gradients_move_sgd_by_geometric_series, once),
    Property(batch_norm_agrees_with_the_oracle, ("batch_norm",), images, cause=NORM),
    Property(the_variance_of_batch_norm_is_biased, ("batch_norm",), images, cause=VARIANCE),
]
