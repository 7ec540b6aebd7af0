"""The network, one step and one round taken apart.

Each piece alone, with a stand-in for what is slow, against NumPy.
"""

import dataclasses
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from tiny import images_and_labels

import fpl
import oracle_np as oracle
from lab.proof.properties.cases import ragged

CFG = fpl.Config(
    clients=(2, 1, 1, 1), width=1, batch_size=4, local_epochs=2, rounds=2, lr=0.05, tau=0.5
)


def tensors(tree):
    return {name: Tensor(value) for name, value in tree.items()}


def drawn(shapes, seed):
    """name -> array float32; what is a variance or scales a channel stays away from 0."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        away_from_0 = name.endswith(("bn.weight", "variance"))
        value = rng.uniform(0.5, 2, shape) if away_from_0 else rng.normal(0, 0.5, shape)
        arrays[name] = value.astype(np.float32)
    return arrays


def by_name(vector, shapes):
    return {name: value.asnumpy() for name, value in fpl.views(vector, shapes).items()}


# ---------------------------------------------------------------- the network


def convolved(x, kernel, stride):
    """Cross-correlation with zeros around, so that stride 1 keeps the size.

    x [B,c,h,w], kernel [o,c,k,k].
    """
    k = kernel.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], kernel)


def reference(p, s, x):
    """ResNet-10 in float64, block by block. -> logits, z, {name of the statistic: value met}"""
    met = {}

    def layer(x, name, stride):
        y = convolved(x, p[f"{name}.conv"], stride)
        weight, bias = p[f"{name}.bn.weight"], p[f"{name}.bn.bias"]
        n = y.shape[0] * y.shape[2] * y.shape[3]
        if s is None:
            y, mean, variance = oracle.batch_norm(y, weight, bias, 1e-5)
            met[f"{name}.bn.mean"], met[f"{name}.bn.variance"] = mean, variance * n / (n - 1)
            return y
        mean, variance = (
            s[f"{name}.bn.{kind}"].astype(np.float64) for kind in ("mean", "variance")
        )
        met[f"{name}.bn.mean"], met[f"{name}.bn.variance"] = mean, variance
        y = (y - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-5)
        return y * weight[:, None, None] + bias[:, None, None]

    x = np.maximum(layer(x, "stem", 1), 0)
    x = np.maximum(x + layer(np.maximum(layer(x, "stage1.a", 1), 0), "stage1.b", 1), 0)
    for name in ("stage2", "stage3", "stage4"):
        inner = layer(np.maximum(layer(x, f"{name}.a", 2), 0), f"{name}.b", 1)
        x = np.maximum(inner + layer(x, f"{name}.shortcut", 2), 0)
    z = x.mean(axis=(2, 3))
    return z @ p["linear.weight"].T + p["linear.bias"], z, met


def layer_shapes(name, c_out, c_in, size):
    return {
        f"{name}.conv": (c_out, c_in, size, size),
        f"{name}.bn.weight": (c_out,),
        f"{name}.bn.bias": (c_out,),
    }


SHAPES = layer_shapes("stem", 2, 3, 3)
SHAPES |= layer_shapes("stage1.a", 2, 2, 3) | layer_shapes("stage1.b", 2, 2, 3)
for stage, c_in, c_out in (("stage2", 2, 4), ("stage3", 4, 8), ("stage4", 8, 16)):
    SHAPES |= layer_shapes(f"{stage}.a", c_out, c_in, 3)
    SHAPES |= layer_shapes(f"{stage}.b", c_out, c_out, 3)
    SHAPES |= layer_shapes(f"{stage}.shortcut", c_out, c_in, 1)
SHAPES |= {"linear.weight": (10, 16), "linear.bias": (10,)}
LAYERS = [name.removesuffix(".conv") for name in SHAPES if name.endswith(".conv")]
STATS = {
    f"{layer}.bn.{kind}": SHAPES[f"{layer}.bn.weight"]
    for layer in LAYERS
    for kind in ("mean", "variance")
}


def test_the_shapes_are_those_of_a_resnet_10():
    """At width two, in this order, which is that of the vectors."""
    assert fpl.param_shapes(2, 10) == tuple(SHAPES.items())
    assert fpl.stat_shapes(2) == tuple(STATS.items())


@pytest.mark.parametrize("shapes", [SHAPES, STATS])
def test_views_of_joined_arrays_are_the_arrays(shapes):
    arrays = drawn(shapes, 0)
    vector = fpl.joined(arrays.values())
    assert vector.shape == (sum(value.size for value in arrays.values()),)
    named = by_name(vector, tuple(shapes.items()))
    assert list(named) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(named[name], value)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_written_out_in_numpy(training):
    p, s = drawn(SHAPES, 1), None if training else drawn(STATS, 2)
    # 4 x 3, 2 x 2 at the end: not square
    x = np.random.default_rng(3).normal(size=(3, 3, 10, 12)).astype(np.float32)
    logits, z, met = fpl.network(tensors(p), None if training else tensors(s), Tensor(x))
    want_logits, want_z, want_met = reference(p, s, x.astype(np.float64))
    # some thirty layers of float32 in a row; batch norm's division keeps the numbers around 1
    for got, want in ((z.asnumpy(), want_z), (logits.asnumpy(), want_logits)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    for name, value in by_name(met, fpl.stat_shapes(2)).items():
        want = want_met[name]
        atol = 1e-4 * np.abs(want).max()
        np.testing.assert_allclose(value, want, rtol=0, atol=atol, err_msg=name)


def test_input_has_imagenets_mean_and_deviation():
    """It is scaled to one, then normalised."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images[0, 0, 0] = (0, 255, 128)
    got = fpl.network_input(images).asnumpy()
    assert got.shape == (2, 3, 32, 32) and got.dtype == np.float32
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        want = (images[..., channel] / 255 - mean) / std
        # three roundings of numbers below 3
        np.testing.assert_allclose(got[:, channel], want, rtol=0, atol=1e-6)


def test_first_weights_are_uniform_within_their_fan_in():
    """Within one over its root; batch norm starts neutral."""
    state = fpl.init_state(dataclasses.replace(CFG, width=2))
    assert state.round == 0
    for name, value in by_name(state.params, tuple(SHAPES.items())).items():
        assert value.dtype == np.float32
        if ".bn." in name:
            assert (value == (1 if name.endswith("weight") else 0)).all()
        else:
            bound = 1 / math.sqrt(16 if name.startswith("linear") else math.prod(value.shape[1:]))
            assert np.abs(value).max() <= bound * (1 + 1e-6)
            if value.size >= 16:  # all of n numbers miss a quarter of the range: 0.75^n
                assert value.min() < -0.5 * bound and value.max() > 0.5 * bound
    for name, value in by_name(state.stats, tuple(STATS.items())).items():
        assert (value == (1 if name.endswith("variance") else 0)).all()


def test_first_weights_of_the_bias_fill_their_range():
    """The range that the fan-in of the linear layer gives."""
    biases = [
        fpl.init_state(dataclasses.replace(CFG, width=2, seed=seed)).params.asnumpy()[-10:]
        for seed in range(20)
    ]
    # all of 200 numbers would be below 0.97 with probability 0.002
    assert 0.97 < np.abs(biases).max() * math.sqrt(16) <= 1


@pytest.mark.parametrize(
    "clients, most", [((1, 0, 0, 0), 1), ((2, 1, 1, 1), 2), ((6, 4, 3, 7), 10)]
)
def test_first_prototypes_are_none(clients, most):
    """There is room for half as many clusters as clients."""
    prototypes = fpl.init_state(dataclasses.replace(CFG, clients=clients, width=2)).prototypes
    assert [value.shape for value in prototypes] == [(10, most, 16), (10, most), (10, 16)]
    assert [value.dtype for value in prototypes] == [np.float32, bool, np.float32]
    assert not any(value.any() for value in prototypes)


@pytest.mark.parametrize("width, num_classes", [(1, 2), (2, 10), (3, 1000), (64, 65)])
@pytest.mark.parametrize("n", [1, 128, 130, 257])
def test_prediction_takes_128_images_at_a_time(monkeypatch, n, width, num_classes):
    """Each image gets its own row; width and number of classes are read off the vectors."""
    shapes = []

    def stand_in(params, stats, x, *sizes):
        shapes.append(x.shape)
        assert params is state.params and stats is state.stats
        assert sizes == (width, num_classes)
        return x[:, 0, :10, 0], x[:, 1, 0, :8]

    monkeypatch.setattr(fpl, "predict_batch", stand_in)
    images = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8)
    state = fpl.init_state(dataclasses.replace(CFG, width=width, classes=num_classes))
    logits, z = fpl.predict(state.params, state.stats, images)
    x = fpl.network_input(images).asnumpy()
    np.testing.assert_array_equal(logits, x[:, 0, :10, 0])
    np.testing.assert_array_equal(z, x[:, 1, 0, :8])
    assert shapes == [(min(128, n - start), 3, 32, 32) for start in range(0, n, 128)]


def test_the_caller_sleeps_while_kernels_run():
    """MindSpore's caller spins over a queue of calls, on a core that the kernels could use.

    Its own work, the input's arithmetic, is a small part; where it spins, all time is its own.
    """
    client = fpl.Client(*images_and_labels(1280, seed=0), "a")
    state = fpl.init_state(dataclasses.replace(CFG, width=8))
    fpl.predict(state.params, state.stats, client.images)  # which compiles
    start, own = time.perf_counter(), time.thread_time()
    fpl.predict(state.params, state.stats, client.images)
    own, whole = time.thread_time() - own, time.perf_counter() - start
    assert own < whole / 2, f"of {whole:.2f} s the caller was busy for {own:.2f} s"


def test_accuracy_is_the_share_of_right_images(monkeypatch):
    """In percent; right is an image whose largest score is that of its class."""
    # the largest is the one of the row, not the last
    scores = np.eye(10)[[3, 1, 4, 1]] + 0.1 * np.arange(10)
    monkeypatch.setattr(fpl, "predict", lambda params, stats, images: (scores[: len(images)], None))
    tests = {
        "a": (np.zeros((4, 1)), np.array([3, 1, 4, 5])),
        "b": (np.zeros((2, 1)), np.array([0, 1])),
    }
    assert fpl.evaluate(fpl.init_state(CFG), tests) == {"a": 75.0, "b": 50.0}


def test_accuracy_counts_every_part_of_a_test_set(monkeypatch):
    """A test set is measured in parts; each image counts once, with its own label."""
    rng = np.random.default_rng(0)
    guesses, labels = rng.integers(0, 10, (2, 2500))

    def predict(params, stats, images):
        return np.eye(10)[images[:, 0]], None

    def backwards(function, items):
        """An engine whose parts finish in another order."""
        return [function(item) for item in items[::-1]][::-1]

    monkeypatch.setattr(fpl, "predict", predict)
    tests = {"a": (guesses[:, None], labels), "b": (labels[:1500, None], labels[:1500])}
    want = {"a": 100 * float((guesses == labels).mean()), "b": 100.0}
    state = fpl.init_state(CFG)
    for engine in (map, backwards):
        assert fpl.evaluate(state, tests, engine) == pytest.approx(want, rel=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_not_finite_has_no_accuracy(monkeypatch, bad):
    """It would count as class 0."""
    scores = np.eye(10)
    scores[9, 3] = bad
    monkeypatch.setattr(fpl, "predict", lambda params, stats, images: (scores, None))
    with pytest.raises(FloatingPointError, match="test set of usps: the network's output is not"):
        fpl.evaluate(fpl.init_state(CFG), {"usps": (np.zeros((10, 1)), np.arange(10))})


# ---------------------------------------------------------------- one step


def bowl(p, x, labels, target, steepness):
    """A loss whose gradient is known: steepness * |p - target|^2 / 2 over two of the weights.

    Its statistics are fixed numbers.
    z depends on the weights, and must have no part in the gradient.
    """
    a, b = p["linear.bias"], p["stem.bn.bias"]
    value = steepness * (((a - target) ** 2).sum() + ((b - 1.0) ** 2).sum()) / 2
    return value, x * a[0], fpl.ops.cat([target] * 9)  # 90 statistics


@pytest.mark.parametrize("lr, momentum, decay", [(0.5, 0.75, 0.25), (0.125, 0.0, 0.0)])
def test_a_step_on_a_bowl_is_the_oracles(lr, momentum, decay):
    """All outputs of a step whose loss is a quadratic bowl, against the oracle's SGD."""
    rng, shapes, state = np.random.default_rng(0), fpl.param_shapes(1, 10), fpl.init_state(CFG)
    weights, velocity = rng.normal(size=(2, len(state.params))).astype(np.float32)
    stats = rng.normal(size=len(state.stats)).astype(np.float32)
    target = rng.normal(size=10).astype(np.float32)
    x = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    vectors = Tensor(weights), Tensor(velocity), Tensor(stats)
    step = fpl.sgd_step(bowl, 1, 10, 3)
    numbers = fpl.tensors(lr, momentum, decay, target)
    labels = Tensor([1, 2], fpl.ms.int32)
    new, new_velocity, new_stats, loss, z = step(*vectors, Tensor(x), labels, *numbers)
    named, gradient = by_name(Tensor(weights), shapes), by_name(Tensor(0 * weights), shapes)
    a, b = named["linear.bias"].astype(np.float64), named["stem.bn.bias"].astype(np.float64)
    gradient["linear.bias"], gradient["stem.bn.bias"] = 3 * (a - target), 3 * (b - 1)
    slope = np.concatenate([value.ravel() for value in gradient.values()])
    want, want_velocity = oracle.sgd_step(weights, velocity, slope, lr, momentum, decay)
    np.testing.assert_allclose(new_velocity.asnumpy(), want_velocity, rtol=0, atol=1e-5)
    np.testing.assert_allclose(new.asnumpy(), want, rtol=0, atol=1e-5)
    want_stats = 0.9 * stats + 0.1 * np.tile(target, 9)
    np.testing.assert_allclose(new_stats.asnumpy(), want_stats, rtol=0, atol=1e-6)
    assert float(loss) == pytest.approx(
        1.5 * (((a - target) ** 2).sum() + ((b - 1) ** 2).sum()), 1e-5
    )
    np.testing.assert_array_equal(z.asnumpy(), x * named["linear.bias"][0])


def test_a_step_is_made_once_for_its_constants():
    """And for its loss and its width."""
    step = fpl.sgd_step(bowl, 1, 10, 3)
    assert step is fpl.sgd_step(bowl, 1, 10, 3)
    assert step is not fpl.sgd_step(bowl, 1, 10, 4) and step is not fpl.sgd_step(bowl, 2, 10, 3)


def test_tensors_keep_an_arrays_type_and_values():
    """A number becomes a float32."""
    arrays = np.zeros((2, 3), bool), np.arange(3, dtype=np.int32), np.float32([0.1])
    got = fpl.tensors(*arrays, 0.1, 3)
    for tensor, array in zip(got, arrays):
        assert tensor.asnumpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.asnumpy(), array)
    assert [value.dtype for value in got[3:]] == [fpl.ms.float32] * 2
    assert [float(value) for value in got[3:]] == [np.float32(0.1), 3]


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("cpcl, upcr", [(0.0, 0.0), (1.0, 1.0), (0.3, 2.5)])
def test_the_local_loss_is_the_weighted_sum(monkeypatch, cpcl, upcr, reduce):
    """Cross-entropy and the two terms at their weights (Eq. 12)."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4, 10)).astype(np.float32)
    z = rng.normal(size=(4, 8)).astype(np.float32)
    labels = np.array([3, 1, 3, 9], np.int32)
    clusters, mask = rng.normal(size=(10, 2, 8)).astype(np.float32), np.ones((10, 2), bool)
    mask[9], mask[1, 1], mask[3, 0] = False, False, False
    unbiased = fpl.unbiased_prototypes(clusters, mask)

    def stand_in(p, s, x):
        assert (p, s, x) == ("weights", None, "images")
        return Tensor(logits), Tensor(z), "met"

    monkeypatch.setattr(fpl, "network", stand_in)
    received = fpl.tensors(clusters, mask, unbiased, CFG.tau, cpcl, upcr)
    loss, features, met = fpl.local_loss("weights", "images", Tensor(labels), *received, reduce)
    kept = ragged(clusters, mask)
    cross_entropy = np.log(np.exp(logits.astype(np.float64)).sum(axis=1)) - logits[range(4), labels]
    want = (
        cross_entropy.mean()
        + cpcl * oracle.cpcl_loss(z, labels, kept, CFG.tau)
        + upcr * oracle.upcr_loss(z, labels, {k: unbiased[k] for k in kept}, reduce)
    )
    assert float(loss) == pytest.approx(want, rel=1e-5)
    np.testing.assert_array_equal(features.asnumpy(), z)
    assert met == "met"


# ---------------------------------------------------------------- one client


def some_client(n=6, seed=0):
    return fpl.Client(*images_and_labels(n, seed), "mnist")


WAYS = [("running", "none"), ("final", "none"), ("running", "crop-flip")]


@pytest.mark.parametrize("prototypes_from, augment", WAYS)
def test_a_client_goes_through_its_batches(monkeypatch, prototypes_from, augment):
    """Epoch by epoch; what each step returns is handed on to the next, and then to the server.

    The steps get what the server sent, in the order of the local loss's arguments.
    """
    cfg = dataclasses.replace(
        CFG,
        prototypes_from=prototypes_from,
        augment=augment,
        momentum=0.5,
        weight_decay=0.25,
        tau=0.125,
        cpcl=3.0,
        upcr=5.0,
        upcr_reduce="sum",
    )
    client, calls = some_client(), []
    first = fpl.init_state(cfg)
    prototypes = fpl.Prototypes(*(np.float32([i, 9]) for i in range(3)))
    state = fpl.ServerState(3, first.params + 1, first.stats + 3, prototypes)

    def step(params, velocity, stats, x, labels, *numbers):
        calls.append((x.asnumpy(), labels.asnumpy()))
        numbers = [value.asnumpy().ravel()[0] for value in numbers]
        assert numbers == np.float32([0.05, 0.5, 0.25, 0, 1, 2, 0.125, 3, 5]).tolist()
        assert velocity.shape == params.shape
        assert (velocity.asnumpy() == len(calls) - 1).all()  # zeros, then what a step gave back
        z = Tensor(np.float32([[label + len(calls)] * 8 for label in labels.asnumpy()]))
        return params + 1, velocity + 1, stats + 2, Tensor(float(len(calls))), z

    def sgd_step(*arguments):
        assert arguments == (fpl.local_loss, 1, 10, "sum")
        return step

    def predict(params, stats, images):
        np.testing.assert_array_equal(stats.asnumpy(), state.stats.asnumpy() + 8)
        return None, np.float32([[image[0, 0, 0]] * 8 for image in images])

    monkeypatch.setattr(fpl, "sgd_step", sgd_step)
    monkeypatch.setattr(fpl, "predict", predict)
    update = fpl.client_update(state, client, np.random.default_rng(3), cfg)
    rng = np.random.default_rng(3)
    want = [batch for _ in range(2) for batch in fpl.batches(client, cfg, rng)]
    assert len(calls) == len(want) == 4
    for got, (images, labels) in zip(calls, want):
        np.testing.assert_array_equal(got[0], fpl.network_input(images).asnumpy())
        np.testing.assert_array_equal(got[1], labels)
    assert update.loss == 2.5  # the mean of 1, 2, 3, 4
    np.testing.assert_allclose(
        update.params.asnumpy(), state.params.asnumpy() + 4, rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(update.stats.asnumpy(), state.stats.asnumpy() + 8)
    if prototypes_from == "running":  # of the last epoch's two batches: calls 3 and 4
        labels = np.concatenate([labels for _, labels in calls[2:]])
        z = np.repeat(labels + [3, 3, 3, 3, 4, 4], 8).reshape(6, 8)
    else:
        labels, z = client.labels, np.repeat(client.images[:, 0, 0, 0], 8).reshape(6, 8)
    means, counts = fpl.class_prototypes(z, labels, 10)
    np.testing.assert_array_equal(update.class_means, means)
    np.testing.assert_array_equal(update.counts, counts)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_batches_draw_an_order_and_augment_it(augment):
    """The order is the generator's next permutation; then it draws the crops of each batch."""
    cfg, client = dataclasses.replace(CFG, augment=augment), some_client()
    got = list(fpl.batches(client, cfg, np.random.default_rng(3)))
    rng = np.random.default_rng(3)
    order = rng.permutation(6)
    for (images, labels), batch in zip(got, (order[:4], order[4:]), strict=True):
        plain = client.images[batch]
        want = plain if augment == "none" else fpl.crop_flip(plain, rng)
        np.testing.assert_array_equal(images, want)
        np.testing.assert_array_equal(labels, client.labels[batch])


def test_images_are_cropped_from_the_padded_ones():
    """At nine places each way, and half of them are flipped."""
    images = np.random.default_rng(0).integers(1, 256, (200, 32, 32, 3), np.uint8)
    got, places = fpl.crop_flip(images, np.random.default_rng(1)), []
    assert got.shape == images.shape and got.dtype == np.uint8
    for image, out in zip(images, got):
        black = np.zeros((40, 40, 3), np.uint8)
        black[4:36, 4:36] = image
        places += [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (1, -1)
            if np.array_equal(out[:, ::flip], black[top : top + 32, left : left + 32])
        ]
    assert len(places) == 200  # every one is found, at one place
    tops, lefts, flips = map(np.array, zip(*places))
    assert set(tops) == set(lefts) == set(range(9))
    assert abs((flips == 1).sum() - 100) < 20  # a third of them would be 67


# ---------------------------------------------------------------- the split


def shared_out(images, clients, fraction, published=None):
    """The sizes of the clients of the first domain, which has so many images."""
    labels = np.arange(images, dtype=np.int32) % 10
    train = {domain: (np.zeros((images, 32, 32, 3), np.uint8), labels) for domain in "abcd"}
    cfg = fpl.Config(clients=(clients, 0, 0, 1), fraction=fraction)
    published = published and {"a": published}
    return [len(c.labels) for c in fpl.split(train, cfg, published) if c.domain == "a"]


def test_clients_may_take_a_domains_last_image():
    """And one image is enough."""
    assert shared_out(12, 3, 1 / 3) == [4, 4, 4]
    assert shared_out(3, 2, 1 / 3) == [1, 1]
    assert shared_out(100, 1, 0.29) == [29]  # 0.29 * 100 is 28.999999999999996
    assert shared_out(100, 2, 0.299) == [29, 29]
    # of MNIST's 60,000, however many are at hand
    assert shared_out(1000, 1, 0.005, published=60_000) == [300]


@pytest.mark.parametrize("images, clients, fraction", [(11, 2, 0.6), (2, 1, 0.4), (3, 4, 1 / 3)])
def test_clients_who_want_too_much_are_refused(images, clients, fraction):
    """More than a domain has, or nothing."""
    message = f"a has {images} training images, but {clients} clients want"
    with pytest.raises(ValueError, match=message):
        shared_out(images, clients, fraction)


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 9))
def test_an_exchange_decides_who_holds_what(seed, clients, each):
    """It is given what a client drew, what nobody has yet, and all labels."""
    n = 40
    labels = np.arange(n, dtype=np.int32) % 10
    images = np.zeros((n, 32, 32, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    seen = []

    def exchange(mine, rest, all_labels):
        seen.append((mine, rest))
        assert all_labels is labels and len(mine) == each
        return rest[: len(mine)], np.concatenate([mine, rest[len(mine) :]])

    cfg = fpl.Config(clients=(clients,), fraction=each / n, seed=seed)
    got = fpl.split({"a": (images, labels)}, cfg, exchange=exchange)
    for m, client in enumerate(got):
        mine, rest = seen[m]
        want = np.sort(rest[:each])
        np.testing.assert_array_equal(client.images[:, 0, 0, 0], want)
        np.testing.assert_array_equal(client.labels, labels[want])
        assert len(mine) + len(rest) == n - m * each


def test_each_domain_is_split_by_its_own_draw():
    """Two domains of the same size: their clients do not hold the same places."""
    labels = np.arange(40, dtype=np.int32)
    train = dict.fromkeys("ab", (np.zeros((40, 32, 32, 3), np.uint8), labels))
    a, b = fpl.split(train, fpl.Config(clients=(1, 1), fraction=0.5))
    assert set(a.labels) != set(b.labels)


# ---------------------------------------------------------------- one round


def test_no_two_streams_draw_alike():
    """Of another seed, purpose, round or client."""
    draws = {
        fpl.stream(dataclasses.replace(CFG, seed=seed), purpose, *which).random()
        for seed in (0, 1)
        for purpose in fpl.PURPOSES
        for which in ((), (1,), (2,), (1, 1), (1, 2), (2, 1))
    }
    assert len(draws) == 2 * len(fpl.PURPOSES) * 6


CLIENTS = [some_client(n) for n in range(1, 9)]
VALUES = [1.0, 2.0, 4.0, 8.0, 16.0, 3.0, 5.0, 7.0]
COUNTS = np.random.default_rng(0).integers(0, 9, (8, 10))
MEANS = np.random.default_rng(1).normal(size=(8, 10, 8)).astype(np.float32)
# of class 0: four pairs by the first partition, two clusters by the last
angles = np.radians([0, 2, 10, 12, 90, 92, 100, 102])
MEANS[:, 0], COUNTS[:, 0] = 0, 7
MEANS[:, 0, 0], MEANS[:, 0, 1] = np.cos(angles), np.sin(angles)
MEANS[COUNTS == 0] = 0


@pytest.fixture
def sent(monkeypatch):
    """Client m sends a network of VALUES[m] everywhere; m is told by the number of its images.

    -> the numbers of its generator and the state that each client was given.
    """
    given = {}

    def client_update(state, client, rng, cfg):
        m = len(client.labels) - 1
        given[m] = rng.random(), state
        vectors = (
            Tensor(np.full(v.shape, VALUES[m], np.float32)) for v in (state.params, state.stats)
        )
        return fpl.ClientUpdate(*vectors, MEANS[m], COUNTS[m], 10.0 + m)

    monkeypatch.setattr(fpl, "client_update", client_update)
    return given


@pytest.mark.parametrize("participation", [1.0, 0.6])
def test_a_round_averages_by_images(sent, participation):
    """And hands on what the chosen ones sent."""
    cfg = dataclasses.replace(CFG, participation=participation)
    before = fpl.init_state(CFG)._replace(round=4)
    after, told = fpl.server_round(before, CLIENTS, cfg)
    chosen = fpl.participants(cfg, 8, 5)
    assert len(chosen) == (8 if participation == 1 else 5)
    mean = sum((m + 1) * VALUES[m] for m in chosen) / sum(m + 1 for m in chosen)
    for old, new in ((before.params, after.params), (before.stats, after.stats)):
        assert new.shape == old.shape and new.dtype == fpl.ms.float32
        np.testing.assert_allclose(new.asnumpy(), mean, rtol=1e-6)
    assert after.round == 5
    here = np.isin(np.arange(8), chosen)
    np.testing.assert_array_equal(told["class_means"], MEANS * here[:, None, None])
    np.testing.assert_array_equal(told["counts"], COUNTS * here[:, None])
    assert told["class_means"].dtype == np.float32
    assert told["losses"] == {m: 10.0 + m for m in chosen}
    # each with the state of the server and with a generator of its own
    assert sorted(sent) == chosen
    for m, (number, state) in sent.items():
        assert state is before and number == fpl.stream(cfg, "client", 5, m).random()


@pytest.mark.parametrize("partition", ["first", "last"])
def test_a_rounds_prototypes_are_of_what_was_sent(sent, partition):
    """And the round tells who is in which cluster."""
    cfg = dataclasses.replace(CFG, partition=partition)
    after, told = fpl.server_round(fpl.init_state(CFG), CLIENTS, cfg)
    clusters, mask = fpl.cluster_prototypes(MEANS, COUNTS, partition)
    want = fpl.Prototypes(clusters, mask, fpl.unbiased_prototypes(clusters, mask))
    for got, right in zip(after.prototypes, want, strict=True):
        np.testing.assert_array_equal(got, right)
    members, others = (fpl.cluster_members(MEANS, COUNTS, name) for name in ("first", "last"))
    assert (members != others).any()  # or the test could not tell one from the other
    np.testing.assert_array_equal(told["members"], members if partition == "first" else others)


def test_a_round_maps_over_its_turns(sent):
    """An engine is given one function and plain tuples, one for each client of the round."""

    def engine(function, items):
        items = list(items)
        assert function is fpl.client_turn and all(type(item) is tuple for item in items)
        assert [item[1] for item in items] == CLIENTS
        return map(function, items)

    state, _ = fpl.server_round(fpl.init_state(CFG), CLIENTS, CFG, engine=engine)
    assert state.round == 1


def test_the_share_that_takes_part_is_rounded():
    """And at least one client takes part."""
    cases = ((1.0, 7, 7), (0.01, 20, 1), (0.4, 20, 8), (0.5, 5, 2), (0.7, 5, 4), (0.26, 10, 3))
    for share, clients, number in cases:
        chosen = fpl.participants(dataclasses.replace(CFG, participation=share), clients, 1)
        assert len(chosen) == number
        assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(clients))


# ---------------------------------------------------------------- the rounds


@pytest.fixture
def rounds():
    """A round that trains nothing: the loss of client m in round r is 10 m + r."""

    def server_round(state, clients, cfg, engine=map):
        number = state.round + 1
        losses = {m: 10.0 * m + number for m in range(len(clients))}
        mask = np.zeros((10, 2), bool)
        mask[3], mask[4, 0] = True, True
        prototypes = state.prototypes._replace(mask=mask)
        told = {"losses": losses, "engine": engine}
        return state._replace(round=number, prototypes=prototypes), told

    return server_round


def test_a_log_tells_what_its_round_did(rounds, monkeypatch):
    """With what the method's own round tells."""

    def evaluate(state, tests, engine):
        return {domain: 10.0 * state.round + 4 * i for i, domain in enumerate(tests)}

    monkeypatch.setattr(fpl, "evaluate", evaluate)
    tests = {"a": ([], []), "b": ([], [])}
    logs = [log for _, log in fpl.run(CLIENTS, tests, CFG, engine="mine", server_round=rounds)]
    assert [log["round"] for log in logs] == [1, 2]
    assert [log["loss"] for log in logs] == [36.0, 37.0]
    assert [log["accuracy"] for log in logs] == [{"a": 10.0, "b": 14.0}, {"a": 20.0, "b": 24.0}]
    assert [log["avg"] for log in logs] == [12.0, 22.0]
    for log in logs:
        assert log["clusters_per_class"] == [0, 0, 0, 2, 1, 0, 0, 0, 0, 0]
        assert log["engine"] == "mine" and log["losses"][4] == 40.0 + log["round"]
        assert log["seconds"] >= 0


def test_without_tests_there_is_no_average(rounds):
    log = next(fpl.run(CLIENTS, {}, CFG, server_round=rounds))[1]
    assert log["accuracy"] == {} and math.isnan(log["avg"])


def test_a_server_not_finite_stops_the_round(rounds, monkeypatch):
    """Its output is what shows it, on a test set."""
    logits = np.full((1, 10), np.inf)
    monkeypatch.setattr(fpl, "predict", lambda params, stats, images: (logits, None))
    tests = {"usps": CLIENTS[0][:2]}
    with pytest.raises(
        FloatingPointError, match="^round 1, test set of usps: .* is not finite; the"
    ):
        next(fpl.run(CLIENTS, tests, CFG, server_round=rounds))
