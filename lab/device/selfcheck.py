"""Does MindSpore compute right on this device? Asked before anything but a CPU trains.

A tiny network is trained and tested on the device; NumPy and the oracle do the same in float64. How
far the two may part is not guessed: NumPy does the same once more in float32, and how far that
moves is what rounding does to these very numbers. A device adds in another order, which a factor of
32 covers, where products with the 11 bits of TF32 or float16 would be off by 2^13 as much.
"""

import math
from typing import NamedTuple

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

import oracle_np as oracle
from lab.device import numpy_network
from lab.shell.errors import InputError

U = 2.0**-24  # the largest relative rounding error of float32
CFG = fpl.Config(
    classes=3, clients=(4, 0, 0, 0), width=2, size=16, batch_size=4, local_epochs=2, tau=0.3,
    lr=0.05, weight_decay=0.01,
)  # fmt: skip
NUMBERS = CFG.lr, CFG.momentum, CFG.weight_decay


class Check(NamedTuple):
    """How far a device is off in one thing, and how far it may be."""

    name: str
    off: float
    room: float

    @property
    def right(self):
        return self.off <= self.room  # not for NaN


class Case(NamedTuple):
    """What everybody computes with: float32, drawn once for all."""

    state: fpl.ServerState
    velocity: np.ndarray  # [P]
    client: fpl.Client  # of six images: a batch of four, and one of two
    z: np.ndarray  # [6,d]


def drawn():
    """The Case. Weights are larger than the first ones of a run, so that every layer matters."""
    rng = np.random.default_rng(0)
    state = fpl.init_state(CFG)
    params = state.params.asnumpy() + np.float32(0.2) * normal(rng, state.params.shape)
    clusters = np.abs(normal(rng, state.prototypes.clusters.shape))
    mask = np.array([[True, True], [True, False], [True, True]])
    clusters[~mask] = 0
    prototypes = fpl.Prototypes(clusters, mask, fpl.unbiased_prototypes(clusters, mask))
    images = rng.integers(0, 256, (6, CFG.size, CFG.size, 3), np.uint8)
    client = fpl.Client(images, np.array([0, 1, 2, 0, 1, 2], np.int32), "drawn")
    # running statistics near the batch's own, or no feature would be alive in evaluation
    p = named(params, fpl.param_shapes(CFG.width, CFG.classes), np.float64)
    met = numpy_network.forward(p, None, fpl.network_input(images).asnumpy().astype(np.float64))[3]
    stats = vector(met, dict(fpl.stat_shapes(CFG.width))) * rng.uniform(0.8, 1.2, state.stats.shape)
    return Case(
        fpl.ServerState(1, Tensor(params), Tensor(stats.astype(np.float32)), prototypes),
        normal(rng, params.shape),
        client,
        np.abs(normal(rng, (6, 8 * CFG.width))),
    )


def normal(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------- what the device says


def answers(case):
    """All that the device computes -> {what it is: its array}."""
    state, client = case.state, case.client
    x, labels = fpl.network_input(client.images), Tensor(client.labels)
    received = fpl.tensors(*state.prototypes, CFG.tau, 1.0, 1.0)
    step = fpl.sgd_step(fpl.local_loss, CFG.width, CFG.classes, "mean")

    def made(velocity, numbers, x=x):
        numbers = fpl.tensors(*numbers)
        parts = step(state.params, velocity, state.stats, x, labels, *numbers, *received)
        return [part.asnumpy() for part in parts]

    bare = made(ops.zeros_like(state.params), (1.0, 0.0, 0.0))
    moved = made(Tensor(case.velocity), NUMBERS)
    damaged = x.asnumpy().copy()
    damaged[0, 0, 0, 0] = np.nan
    logits, z = fpl.predict(state.params, state.stats, client.images)
    update = fpl.client_update(state, client, np.random.default_rng(0), CFG)
    return {
        "the loss": bare[3],
        "features in training": bare[4],
        "the gradient": bare[1],
        **of_statistics("in a step", bare[2]),
        "SGD's velocity": moved[1],
        "SGD's weights": moved[0],
        "the ReLU of a NaN, -1 and 2": ops.relu(Tensor(np.float32([np.nan, -1, 2]))).asnumpy(),
        "after a NaN": np.concatenate(made(Tensor(case.velocity), NUMBERS, Tensor(damaged))[:3]),
        **losses(case),
        "logits in evaluation": logits,
        "features in evaluation": z,
        "a client's weights": update.params.asnumpy(),
        **of_statistics("of a client", update.stats.asnumpy()),
        "a client's class means": update.class_means,
    }


def losses(case):
    """CPCL and UPCR with their gradients by z."""
    z, labels = Tensor(case.z), Tensor(case.client.labels)
    clusters, mask, unbiased = map(Tensor, case.state.prototypes)

    def cpcl(z):
        return fpl.cpcl_loss(z, labels, clusters, mask, Tensor(CFG.tau, ms.float32))

    def upcr(z):
        return fpl.upcr_loss(z, labels, unbiased, mask.any(1), "mean")

    found = {}
    for name, loss in ("CPCL", cpcl), ("UPCR", upcr):
        value, gradient = ms.value_and_grad(loss, 0)(z)
        found |= {name: value.asnumpy(), f"{name}'s gradient": gradient.asnumpy()}
    return found


def of_statistics(when, stats):
    """A vector of running statistics, as means and as variances."""
    return by_kind(when, named(stats, fpl.stat_shapes(CFG.width), np.float32))


def by_kind(when, stats):
    """Running statistics by name, as the vector of all means and that of all variances."""
    return {
        f"batch norm's running {kind} {when}": np.concatenate(
            [value for name, value in stats.items() if name.endswith(kind)]
        )
        for kind in ("mean", "variance")
    }


# ---------------------------------------------------------------- what is right


def expected(case):
    """What NumPy and the oracle say -> {what it is: (its array in float64, the room around it)}."""
    wide, narrow = by_numpy(case, np.float64), by_numpy(case, np.float32)
    found = {}
    for name, right in wide.items():
        rounding = np.abs(narrow[name] - right).max()
        found[name] = right, 32 * rounding + 8 * U * np.abs(right).max()
    # As on the CPU, where a diverged client is found by what it sends.
    found["the ReLU of a NaN, -1 and 2"] = np.array([0.0, 0.0, 2.0]), 0.0
    return {**found, **expected_losses(case)}


def by_numpy(case, kind):
    """The answers that hang on the network, in float32 or float64."""
    state, client = case.state, case.client
    shapes = fpl.param_shapes(CFG.width, CFG.classes)
    p = named(state.params.asnumpy(), shapes, kind)
    s = named(state.stats.asnumpy(), fpl.stat_shapes(CFG.width), kind)
    velocity = named(case.velocity, shapes, kind)
    lr, momentum, decay = (kind(number) for number in map(np.float32, NUMBERS))
    tau, ragged = float(np.float32(CFG.tau)), ragged_prototypes(case)

    def scaled(images):
        return fpl.network_input(images).asnumpy().astype(kind)

    x = scaled(client.images)
    made = numpy_network.step(p, x, client.labels, ragged, tau)
    moved = {n: momentum * velocity[n] + (made.gradient[n] + decay * p[n]) for n in p}
    batch = {n: kind(0.9) * s[n] + kind(0.1) * made.stats[n] for n in s}
    logits, z, _, _ = numpy_network.forward(p, s, x)
    drawn_batches = [
        (scaled(images), labels)
        for rng in [np.random.default_rng(0)]
        for _ in range(CFG.local_epochs)
        for images, labels in fpl.batches(client, CFG, rng)
    ]
    trained, running = numpy_network.turn(p, s, drawn_batches, ragged, tau, (lr, momentum, decay))
    features = numpy_network.forward(trained, running, x)[1]
    means, _ = oracle.class_prototypes(features, client.labels, CFG.classes)
    return {
        "the loss": made.loss,
        "features in training": made.z,
        "the gradient": vector(made.gradient, p),
        **by_kind("in a step", batch),
        "SGD's velocity": vector(moved, p),
        "SGD's weights": vector({n: p[n] - lr * moved[n] for n in p}, p),
        "logits in evaluation": logits,
        "features in evaluation": z,
        "a client's weights": vector(trained, p),
        **by_kind("of a client", running),
        "a client's class means": np.stack([means[k] for k in range(CFG.classes)]),
    }


def expected_losses(case):
    """Of CPCL and UPCR, whose features are given and exact.

    A cosine of d numbers is off by (d + 4) U at most, its exponent by that over tau, and so is each
    share e^s / sum e^s, of itself; the gradient of a sample is a mean of vectors of a length of at
    most 2 / (tau |z|). A square of UPCR has three roundings, a sum of n numbers n - 1.
    """
    z, labels, ragged = case.z.astype(np.float64), case.client.labels, ragged_prototypes(case)
    unbiased, tau, d = oracle.unbiased_prototypes(ragged), float(np.float32(CFG.tau)), z.shape[1]
    cosine, shortest = (d + 4) * U, np.sqrt((z**2).sum(1)).min()
    cpcl = oracle.cpcl_loss(z, labels, ragged, tau)
    upcr = oracle.upcr_loss(z, labels, unbiased, "mean")
    largest = np.abs(z).max() + max(np.abs(value).max() for value in unbiased.values())
    slope = 2 / (tau * shortest) * (2 * cosine / tau + 3 * cosine) / len(z)
    return {
        "CPCL": (cpcl, 2 * cosine / tau + 8 * U * (1 + cpcl)),
        "CPCL's gradient": (oracle.cpcl_grad(z, labels, ragged, tau), slope),
        "UPCR": (upcr, (d + len(z) + 8) * U * (upcr + largest**2 / d)),
        "UPCR's gradient": (
            oracle.upcr_grad(z, labels, unbiased, "mean"),
            16 * U * largest / (len(z) * d),
        ),
    }


def named(vector, shapes, kind):
    """fpl.views of a NumPy array, in another type: nothing here may hang on the device."""
    ends = np.cumsum([math.prod(shape) for _, shape in shapes])
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(shape).astype(kind) for (name, shape), part in zip(shapes, parts)}


def vector(values, order):
    return np.concatenate([values[name].ravel() for name in order])


def ragged_prototypes(case):
    """The prototypes as the oracle has them: {class: [cluster prototype, ...]}."""
    clusters, mask, _ = case.state.prototypes
    return {k: list(clusters[k][mask[k]].astype(np.float64)) for k in range(CFG.classes)}


# ---------------------------------------------------------------- the verdict


def checks(found, right):
    """Each answer beside what is right. found, right: from `answers`, `expected` -> [Check]"""
    hidden = np.isfinite(found["after a NaN"]).all()  # a kernel that makes it 0 hides a divergence
    nan = Check("a NaN in an image reaches what is sent (0: yes)", float(hidden), 0.0)
    return [
        Check(name, float(np.abs(found[name] - want).max()), float(room))
        for name, (want, room) in right.items()
    ] + [nan]


def run(device):
    """All Checks of the device, which MindSpore has been given. Raises InputError if it fails."""
    case = drawn()
    try:
        found = answers(case)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line[:1].isalnum()]
        said = lines[0][:200] if lines else "it says nothing"
        raise InputError(
            f"--device is {device}, on which MindSpore fails: {said}; see docs/machines.md for "
            "what it needs, or leave the flag away"
        ) from error
    return checks(found, expected(case))


def demand(device):
    """Refuse a device that computes wrong. Raises InputError, which names what is off."""
    wrong = [check for check in run(device) if not check.right]
    if wrong:
        parts = [f"{check.name} by {check.off:.2g} (at most {check.room:.2g})" for check in wrong]
        raise InputError(
            f"--device is {device}, which computes wrong here; off are {', '.join(parts)}; nothing "
            "was trained: leave the flag away"
        )
