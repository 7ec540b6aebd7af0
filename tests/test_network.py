"""The network, one step and one round taken apart: each piece alone, with a stand-in for what is slow, against NumPy."""
import dataclasses
import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor

import fpl
import oracle_np as oracle

CFG = fpl.complete(fpl.Config(clients=(2, 1, 1, 1), width=1, batch_size=4, local_epochs=2, rounds=2, lr=0.05, tau=0.5))


def tensors(tree):
    return {name: Tensor(value) for name, value in tree.items()}


def drawn(shapes, seed):
    """name -> array float32; what is a variance or scales a channel stays away from 0."""
    rng = np.random.default_rng(seed)
    return {name: (rng.uniform(0.5, 2, shape) if name.endswith(("bn.weight", "variance")) else rng.normal(0, 0.5, shape))
            .astype(np.float32) for name, shape in shapes.items()}


# ---- the network -----------------------------------------------------------------------------------------------------

def convolved(x, kernel, stride):
    """Cross-correlation with zeros around, so that stride 1 keeps the size. x [B,c,h,w], kernel [o,c,k,k]."""
    k = kernel.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, kernel)


def reference(p, s, x, training):
    """ResNet-10 in float64, block by block. -> logits, z, {name of the statistic: value met}"""
    met = {}

    def layer(x, name, stride):
        y = convolved(x, p[f"{name}.conv"], stride)
        n = y.shape[0] * y.shape[2] * y.shape[3]
        if training:
            y, mean, variance = oracle.batch_norm(y, p[f"{name}.bn.weight"], p[f"{name}.bn.bias"], 1e-5)
            met[f"{name}.bn.mean"], met[f"{name}.bn.variance"] = mean, variance * n / (n - 1)
            return y
        by_channel = [np.asarray(s[f"{name}.bn.{kind}"], np.float64)[:, None, None] for kind in ("mean", "variance")]
        met[f"{name}.bn.mean"], met[f"{name}.bn.variance"] = (value.ravel() for value in by_channel)
        y = (y - by_channel[0]) / np.sqrt(by_channel[1] + 1e-5)
        return y * p[f"{name}.bn.weight"][:, None, None] + p[f"{name}.bn.bias"][:, None, None]

    x = np.maximum(layer(x, "stem", 1), 0)
    x = np.maximum(x + layer(np.maximum(layer(x, "stage1.a", 1), 0), "stage1.b", 1), 0)
    for name in ("stage2", "stage3", "stage4"):
        inner = layer(np.maximum(layer(x, f"{name}.a", 2), 0), f"{name}.b", 1)
        x = np.maximum(inner + layer(x, f"{name}.shortcut", 2), 0)
    z = x.mean(axis=(2, 3))
    return z @ p["linear.weight"].T + p["linear.bias"], z, met


SHAPES = {"stem.conv": (2, 3, 3, 3), "stem.bn.weight": (2,), "stem.bn.bias": (2,)}
for name, c_in, c_out in (("stage1", 2, 2), ("stage2", 2, 4), ("stage3", 4, 8), ("stage4", 8, 16)):
    for part, shape in (("a", (c_out, c_in, 3, 3)), ("b", (c_out, c_out, 3, 3)), ("shortcut", (c_out, c_in, 1, 1))):
        if (name, part) != ("stage1", "shortcut"):
            SHAPES |= {f"{name}.{part}.conv": shape, f"{name}.{part}.bn.weight": (c_out,), f"{name}.{part}.bn.bias": (c_out,)}
SHAPES |= {"linear.weight": (10, 16), "linear.bias": (10,)}


def test_the_networks_shapes_at_width_two_are_those_of_a_resnet_10():
    assert fpl.parameter_shapes(2) == SHAPES
    assert fpl.PARAMS == tuple(SHAPES)
    assert set(fpl.STATS) == {f"{name.removesuffix('.conv')}.bn.{kind}" for name in SHAPES if name.endswith(".conv")
                              for kind in ("mean", "variance")}


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_the_one_written_out_in_numpy(training):
    p = drawn(SHAPES, 1)
    s = drawn({name: SHAPES[name.rsplit(".", 1)[0] + ".weight"] for name in fpl.STATS}, 2)
    x = np.random.default_rng(3).normal(size=(3, 3, 10, 12)).astype(np.float32)  # 4 x 3, 2 x 2 at the end: not square
    logits, z, seen = fpl.network(tensors(p), tensors(s) if not training else {}, Tensor(x), training)
    want_logits, want_z, met = reference(p, s, x.astype(np.float64), training)
    # some thirty layers of float32 in a row; batch norm's division keeps the numbers around 1
    np.testing.assert_allclose(z.asnumpy(), want_z, rtol=0, atol=1e-4 * np.abs(want_z).max())
    np.testing.assert_allclose(logits.asnumpy(), want_logits, rtol=0, atol=1e-4 * np.abs(want_logits).max())
    for name, value in zip(fpl.STATS, seen, strict=True):
        np.testing.assert_allclose(value.asnumpy(), met[name], rtol=0, atol=1e-4 * np.abs(met[name]).max(), err_msg=name)


def test_input_is_scaled_to_one_and_normalised_by_imagenets_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images[0, 0, 0] = (0, 255, 128)
    got = fpl.network_input(images).asnumpy()
    assert got.shape == (2, 3, 32, 32) and got.dtype == np.float32
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        want = (images[..., channel] / 255 - mean) / std
        np.testing.assert_allclose(got[:, channel], want, rtol=0, atol=1e-6)  # three roundings of numbers below 3


def test_first_weights_are_uniform_within_one_over_the_root_of_the_fan_in_and_the_rest_is_neutral():
    state = fpl.init_state(dataclasses.replace(CFG, width=2))
    assert state.round == 0 and tuple(state.params) == fpl.PARAMS and tuple(state.stats) == fpl.STATS
    for name, shape in SHAPES.items():
        value = state.params[name].asnumpy()
        assert value.shape == shape and value.dtype == np.float32
        if ".bn." in name:
            assert (value == (1 if name.endswith("weight") else 0)).all()
        else:
            bound = 1 / math.sqrt(16 if name.startswith("linear") else math.prod(shape[1:]))
            assert np.abs(value).max() <= bound * (1 + 1e-6)
            if value.size >= 16:  # all of n numbers miss a quarter of the range with probability 0.75^n
                assert value.min() < -0.5 * bound and value.max() > 0.5 * bound
    for name, value in state.stats.items():
        assert value.shape == SHAPES[name.rsplit(".", 1)[0] + ".weight"]
        assert (value.asnumpy() == (1 if name.endswith("variance") else 0)).all()


def test_first_weights_of_the_linear_bias_fill_the_range_that_its_fan_in_gives():
    biases = [fpl.init_state(dataclasses.replace(CFG, width=2, seed=seed)).params["linear.bias"].asnumpy() for seed in range(20)]
    assert 0.97 < np.abs(biases).max() * math.sqrt(16) <= 1  # all of 200 numbers would be below 0.97 with probability 0.002


@pytest.mark.parametrize("clients, most", [((1, 0, 0, 0), 1), ((2, 1, 1, 1), 2), ((6, 4, 3, 7), 10)])
def test_the_first_prototypes_are_none_in_room_for_half_as_many_clusters_as_clients(clients, most):
    prototypes = fpl.init_state(dataclasses.replace(CFG, clients=clients, width=2)).prototypes
    assert [value.shape for value in prototypes] == [(10, most, 16), (10, most), (10, 16)]
    assert [value.dtype for value in prototypes] == [np.float32, bool, np.float32]
    assert not any(value.any() for value in prototypes)


@pytest.mark.parametrize("n", [1, 128, 130, 257])
def test_prediction_takes_128_images_at_a_time_and_gives_each_its_own_row(monkeypatch, n):
    shapes = []

    def stand_in(params, stats, x):
        shapes.append(x.shape)
        assert len(params) == len(fpl.PARAMS) and len(stats) == len(fpl.STATS)
        return x[:, 0, :10, 0], x[:, 1, 0, :8]

    monkeypatch.setattr(fpl, "predict_batch", stand_in)
    images = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8)
    state = fpl.init_state(CFG)
    logits, z = fpl.predict(state.params, state.stats, images)
    x = fpl.network_input(images).asnumpy()
    np.testing.assert_array_equal(logits, x[:, 0, :10, 0])
    np.testing.assert_array_equal(z, x[:, 1, 0, :8])
    assert shapes == [(min(128, n - start), 3, 32, 32) for start in range(0, n, 128)]


def test_accuracy_is_the_share_in_percent_of_images_whose_largest_score_is_their_class(monkeypatch):
    scores = np.eye(10)[[3, 1, 4, 1]] + 0.1 * np.arange(10)  # the largest is the one of the row, not the last
    monkeypatch.setattr(fpl, "predict", lambda params, stats, images: (scores[:len(images)], None))
    tests = {"a": (np.zeros((4, 1)), np.array([3, 1, 4, 5])), "b": (np.zeros((2, 1)), np.array([0, 1]))}
    assert fpl.evaluate(fpl.init_state(CFG), tests) == {"a": 75.0, "b": 50.0}


# ---- one step --------------------------------------------------------------------------------------------------------

def bowl(params, x, labels, target, steepness):
    """A loss whose gradient is known: steepness * |params - target|^2 / 2 over both; its statistics are fixed numbers."""
    a, b = params
    value = steepness * (((a - target) ** 2).sum() + ((b - 1.0) ** 2).sum()) / 2
    return value, x * a[0], (target + 3.0, target - 3.0)  # z depends on the weights, and must not have a part in the gradient


@pytest.mark.parametrize("lr, momentum, decay", [(0.5, 0.75, 0.25), (0.125, 0.0, 0.0)])
def test_a_step_on_a_quadratic_bowl_is_the_oracles_sgd(lr, momentum, decay):
    rng = np.random.default_rng(0)
    a, b, target, x, *velocity = (rng.normal(size=n).astype(np.float32) for n in (3, 2, 3, (2, 3, 32, 32), 3, 2))
    old = rng.normal(size=(2, 3)).astype(np.float32)
    step = fpl.step_on(bowl, 3)
    params, new_velocity, stats, value, z = step(
        ms.mutable((Tensor(a), Tensor(b))), ms.mutable(tuple(map(Tensor, velocity))), ms.mutable(tuple(map(Tensor, old))),
        Tensor(x), Tensor([1, 2], ms.int32), ms.mutable((Tensor(target),)), Tensor([lr, momentum, decay], ms.float32))
    for weight, v, goal, new, newer_v in zip((a, b), velocity, (target, np.ones(2)), params, new_velocity):
        want, want_v = oracle.sgd_step(weight, v, 3 * (weight.astype(np.float64) - goal), lr, momentum, decay)
        np.testing.assert_allclose(newer_v.asnumpy(), want_v, rtol=0, atol=1e-5)
        np.testing.assert_allclose(new.asnumpy(), want, rtol=0, atol=1e-5)
    for before, met, now in zip(old, (target + 3, target - 3), stats):
        np.testing.assert_allclose(now.asnumpy(), 0.9 * before + 0.1 * met, rtol=0, atol=1e-6)
    assert float(value) == pytest.approx(1.5 * (((a - target) ** 2).sum() + ((b - 1) ** 2).sum()), rel=1e-5)
    np.testing.assert_array_equal(z.asnumpy(), x * a[0])


@pytest.mark.parametrize("where", ["first weight", "last weight", "velocity", "first statistic", "last statistic", "target", None])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_gives_no_loss_where_what_it_leaves_is_not_finite(where, bad):
    a, b, v, w, first, last, target = (np.ones(3, np.float32) for _ in range(7))
    spoilt = {"first weight": a, "last weight": b, "velocity": w, "first statistic": first, "last statistic": last, "target": target}
    if where:
        spoilt[where][1] = bad
    outputs = fpl.step_on(bowl, 3)(
        ms.mutable((Tensor(a), Tensor(b))), ms.mutable((Tensor(v), Tensor(w))), ms.mutable((Tensor(first), Tensor(last))),
        Tensor(np.zeros((2, 3, 32, 32), np.float32)), Tensor([1, 2], ms.int32), ms.mutable((Tensor(target),)),
        Tensor([0.5, 0.5, 0.5], ms.float32))
    assert np.isfinite(float(outputs[3])) == (where is None)


def test_a_step_is_made_once_for_a_loss_and_its_constants():
    assert fpl.step_on(bowl, 3) is fpl.step_on(bowl, 3) is not fpl.step_on(bowl, 4)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("cpcl, upcr", [(0.0, 0.0), (1.0, 1.0), (0.3, 2.5)])
def test_the_local_loss_is_cross_entropy_and_the_two_terms_at_their_weights(monkeypatch, cpcl, upcr, reduce):
    rng = np.random.default_rng(5)
    logits, z = rng.normal(size=(4, 10)).astype(np.float32), rng.normal(size=(4, 8)).astype(np.float32)
    labels, x, seen = np.array([3, 1, 3, 9], np.int32), Tensor(np.zeros(1, np.float32)), (Tensor(1.0), Tensor(2.0))
    clusters, mask = rng.normal(size=(10, 2, 8)).astype(np.float32), np.ones((10, 2), bool)
    mask[9], mask[1, 1] = False, False
    unbiased = fpl.unbiased_prototypes(clusters, mask)

    def stand_in(p, s, given, training):
        assert tuple(p) == fpl.PARAMS and list(p.values()) == list(range(len(p))) and s == {} and given is x and training
        return Tensor(logits), Tensor(z), seen

    monkeypatch.setattr(fpl, "network", stand_in)
    numbers = (Tensor(value, ms.float32) for value in (CFG.tau, cpcl, upcr))
    loss, features, statistics = fpl.local_loss(
        tuple(range(len(fpl.PARAMS))), x, Tensor(labels), Tensor(clusters), Tensor(mask), Tensor(unbiased), *numbers, reduce)
    ragged = {k: list(clusters[k][mask[k]].astype(np.float64)) for k in range(10) if mask[k].any()}
    want = (np.mean([oracle.cross_entropy(row, k) for row, k in zip(logits, labels)])
            + cpcl * oracle.cpcl_loss(z, labels, ragged, CFG.tau)
            + upcr * oracle.upcr_loss(z, labels, {k: unbiased[k] for k in ragged}, reduce))
    assert float(loss) == pytest.approx(want, rel=1e-5)
    np.testing.assert_array_equal(features.asnumpy(), z)
    assert statistics is seen


# ---- one client ------------------------------------------------------------------------------------------------------

def some_client(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return fpl.Client(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n).astype(np.int32), "mnist")


@pytest.mark.parametrize("prototypes_from, augment", [("running", "none"), ("final", "none"), ("running", "crop-flip")])
def test_a_client_goes_through_its_batches_epoch_by_epoch_and_hands_on_what_each_step_returns(monkeypatch, prototypes_from, augment):
    cfg = dataclasses.replace(CFG, prototypes_from=prototypes_from, augment=augment, momentum=0.5, weight_decay=0.25)
    client, state, calls = some_client(), fpl.init_state(CFG), []

    def step(weights, velocity, running, x, labels, received, sgd):
        calls.append((x.asnumpy(), labels.asnumpy()))
        assert received == (7,) and sgd.asnumpy().tolist() == np.float32([0.05, 0.5, 0.25]).tolist()
        assert all((v.asnumpy() == len(calls) - 1).all() for v in velocity)  # zeros, then what the last step gave back
        z = Tensor(np.float32([[label + len(calls)] * 8 for label in labels.asnumpy()]))
        more = [tuple(Tensor(value.asnumpy() + by) for value in values) for values, by in ((weights, 1), (velocity, 1), (running, 2))]
        return *more, Tensor(float(len(calls))), z

    monkeypatch.setattr(fpl.ms, "mutable", lambda value: value)
    monkeypatch.setattr(fpl, "predict", lambda params, stats, images: (None, np.float32([[image[0, 0, 0]] * 8 for image in images])))
    update = fpl.local_training(step, (7,), state.params, state.stats, client, np.random.default_rng(3), cfg)
    rng, want = np.random.default_rng(3), []
    for _ in range(2):
        for batch in fpl.batches(6, 4, rng):
            images = client.images[batch] if augment == "none" else fpl.crop_flip(client.images[batch], rng)
            want.append((fpl.network_input(images).asnumpy(), client.labels[batch]))
    assert len(calls) == len(want) == 4
    for got, right in zip(calls, want):
        np.testing.assert_array_equal(got[0], right[0])
        np.testing.assert_array_equal(got[1], right[1])
    assert update.loss == 2.5  # the mean of 1, 2, 3, 4
    for name in fpl.PARAMS:
        np.testing.assert_allclose(update.params[name].asnumpy(), state.params[name].asnumpy() + 4, rtol=0, atol=1e-5)
    for name in fpl.STATS:
        np.testing.assert_array_equal(update.stats[name].asnumpy(), state.stats[name].asnumpy() + 8)
    if prototypes_from == "running":  # of the last epoch's two batches: calls 3 and 4
        labels = np.concatenate([labels for _, labels in calls[2:]])
        z = np.repeat(labels + [3, 3, 3, 3, 4, 4], 8).reshape(6, 8)
    else:
        labels, z = client.labels, np.repeat(client.images[:, 0, 0, 0], 8).reshape(6, 8)
    means, counts = fpl.class_prototypes(z, labels, 10)
    np.testing.assert_array_equal(update.class_means, means)
    np.testing.assert_array_equal(update.counts, counts)


def test_a_client_trains_on_what_the_server_sent_in_the_order_of_the_local_losss_arguments(monkeypatch):
    prototypes, client = fpl.Prototypes(*(np.float32([i]) for i in range(3))), some_client()
    seen = {}

    def stand_in(step, received, params, stats, client, rng, cfg):
        seen.update(step=step, received=[float(value.asnumpy().ravel()[0]) for value in received], rest=(params, stats, client, rng, cfg))
        return "update"

    monkeypatch.setattr(fpl, "local_training", stand_in)
    cfg = dataclasses.replace(CFG, tau=0.25, cpcl=3.0, upcr=5.0, upcr_reduce="sum")
    assert fpl.client_update(1, 2, prototypes, client, 4, cfg) == "update"
    assert seen["received"] == [0, 1, 2, 0.25, 3, 5] and seen["rest"] == (1, 2, client, 4, cfg)
    assert seen["step"] is fpl.step_on(fpl.local_loss, "sum")


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_the_first_loss_that_is_not_finite_is_named_by_its_epoch_and_its_batch(epochs, per_epoch, data):
    losses = [float(i) for i in range(epochs * per_epoch)]
    assert fpl.mean_loss(losses, epochs) == np.mean(losses)
    wrong = data.draw(st.lists(st.integers(0, len(losses) - 1), min_size=1, unique=True))
    for i in wrong:
        losses[i] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    first = min(wrong)
    where = f"local epoch {first // per_epoch + 1}, batch {first % per_epoch + 1}: the loss or a weight is not finite"
    with pytest.raises(FloatingPointError) as error:
        fpl.mean_loss(losses, epochs)
    assert str(error.value) == where


def test_images_are_cropped_from_the_padded_ones_at_nine_places_each_way_and_half_of_them_flipped():
    images = np.random.default_rng(0).integers(1, 256, (200, 32, 32, 3), np.uint8)
    got, places = fpl.crop_flip(images, np.random.default_rng(1)), []
    assert got.shape == images.shape and got.dtype == np.uint8
    for image, out in zip(images, got):
        black = np.zeros((40, 40, 3), np.uint8)
        black[4:36, 4:36] = image
        places += [(top, left, flip) for top in range(9) for left in range(9) for flip in (1, -1)
                   if np.array_equal(out[:, ::flip], black[top:top + 32, left:left + 32])]
    assert len(places) == 200  # every one is found, at one place
    tops, lefts, flips = map(np.array, zip(*places))
    assert set(tops) == set(lefts) == set(range(9))
    assert abs((flips == 1).sum() - 100) < 20  # a third of them would be 67


# ---- the split -------------------------------------------------------------------------------------------------------

def shared_out(images, clients, fraction, task="office"):
    """The sizes of the clients of the first domain, which has so many images; its labels are 0, 1, ... 9, 0, 1, ..."""
    train = {domain: (np.zeros((images, 32, 32, 3), np.uint8), np.arange(images, dtype=np.int32) % 10) for domain in fpl.TASKS[task].clients}
    cfg = fpl.complete(fpl.Config(task=task, clients=(clients, 0, 0, 1), fraction=fraction))
    return [len(client.labels) for client in fpl.split(train, cfg) if client.domain == next(iter(train))]


def test_clients_may_take_a_domain_to_its_last_image_and_one_image_is_enough():
    assert shared_out(12, 3, 1 / 3) == [4, 4, 4]
    assert shared_out(3, 2, 1 / 3) == [1, 1]
    assert shared_out(100, 1, 0.29) == [29]  # 0.29 * 100 is 28.999999999999996
    assert shared_out(100, 2, 0.299) == [29, 29]
    assert shared_out(1000, 1, 0.005, "digits") == [300]  # of MNIST's 60,000, however many are at hand


@pytest.mark.parametrize("images, clients, fraction", [(11, 2, 0.6), (2, 1, 0.4), (3, 4, 1 / 3)])
def test_clients_who_want_more_than_a_domain_has_or_nothing_are_refused(images, clients, fraction):
    with pytest.raises(fpl.InputError, match=f"caltech has {images} training images, but {clients} clients want"):
        shared_out(images, clients, fraction)


# ---- one round -------------------------------------------------------------------------------------------------------

def constant_update(state, value, means, loss, memory):
    fill = {name: Tensor(np.full(old.shape, value, np.float32)) for name, old in (state.params | state.stats).items()}
    return fpl.ClientUpdate({name: fill[name] for name in fpl.PARAMS}, {name: fill[name] for name in fpl.STATS},
                            np.full((10, 8), means, np.float32), np.full(10, 2), loss, memory)


def method_of(values, server_update, **wrong):
    """Client m sends a network of values[m] everywhere; m is told by the number of its images."""
    def client_update(state, memory, client, rng, cfg):
        m = len(client.labels) - 1
        kept = {"seen": Tensor(float(m))} if m % 2 else {}
        return constant_update(state, values[m], m + 1, 10.0 + m, kept)._replace(**wrong)
    return fpl.Method("stand-in", client_update, server_update, {})


CLIENTS = [some_client(n) for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("participation", [1.0, 0.6])
def test_a_round_averages_by_images_and_hands_the_server_what_the_chosen_sent(participation):
    cfg, before = dataclasses.replace(CFG, participation=participation), fpl.init_state(CFG)
    before = before._replace(round=4, memory={1: {"seen": "old"}, 9: {"seen": "stays"}})
    values, given = [1.0, 2.0, 4.0, 8.0, 16.0], {}

    def server_update(state, averaged, share, class_means, counts, cfg):
        given.update(state=state, share=share, class_means=class_means, counts=counts)
        return averaged

    after, diagnostics = fpl.server_round(before, CLIENTS, cfg, method=method_of(values, server_update))
    chosen = fpl.participants(cfg, 5, 5)
    assert len(chosen) == (5 if participation == 1 else 3)
    total = sum(m + 1 for m in chosen)
    mean = sum((m + 1) * values[m] for m in chosen) / total
    for name, value in (after.params | after.stats).items():
        np.testing.assert_allclose(value.asnumpy(), mean, rtol=1e-6, err_msg=name)
    assert tuple(after.params) == fpl.PARAMS and tuple(after.stats) == fpl.STATS
    assert after.round == 5 and after.prototypes is before.prototypes and given["state"] is before
    assert given["share"] == pytest.approx(total / 15)
    for m in range(5):
        assert (given["class_means"][m] == (m + 1 if m in chosen else 0)).all()
        assert (given["counts"][m] == (2 if m in chosen else 0)).all()
    assert diagnostics["losses"] == {m: 10.0 + m for m in chosen}
    assert diagnostics["class_means"] is given["class_means"] and diagnostics["counts"] is given["counts"]
    assert given["class_means"].shape == (5, 10, 8) and given["class_means"].dtype == np.float32
    kept = {1: "old", 9: "stays"} | {m: float(m) for m in chosen if m % 2}
    assert {m: value["seen"] if isinstance(value["seen"], str) else float(value["seen"]) for m, value in after.memory.items()} == kept
    assert before.memory == {1: {"seen": "old"}, 9: {"seen": "stays"}}


@pytest.mark.parametrize("wrong", [{"class_means": np.full((10, 8), np.nan, np.float32)},
                                   {"params": {"a": Tensor([1.0, np.inf], ms.float32)}}, {"stats": {"a": Tensor([np.nan], ms.float32)}}])
def test_a_client_that_sends_a_number_that_is_not_finite_is_named(wrong):
    method = method_of([1.0] * 5, lambda state, averaged, *rest: averaged, **wrong)
    with pytest.raises(FloatingPointError, match="round 1, client 0, after its last batch: not every number that it sends is finite"):
        fpl.server_round(fpl.init_state(CFG), CLIENTS, CFG, method=method)


def test_a_server_network_that_is_not_finite_stops_the_round():
    def server_update(state, averaged, *rest):
        return averaged._replace(params=averaged.params | {"linear.bias": Tensor([1.0, np.inf], ms.float32)})
    with pytest.raises(FloatingPointError, match="round 1: the server's network is not finite"):
        fpl.server_round(fpl.init_state(CFG), CLIENTS, CFG, method=method_of([1.0] * 5, server_update))


def test_the_share_that_takes_part_is_rounded_and_at_least_one():
    for share, clients, number in ((1.0, 7, 7), (0.01, 20, 1), (0.4, 20, 8), (0.5, 5, 2), (0.7, 5, 4), (0.26, 10, 3)):
        chosen = fpl.participants(dataclasses.replace(CFG, participation=share), clients, 1)
        assert len(chosen) == number and chosen == sorted(set(chosen)) and set(chosen) <= set(range(clients))


def test_fpls_server_takes_the_average_and_makes_new_prototypes_of_what_was_sent():
    rng = np.random.default_rng(0)
    averaged = fpl.init_state(CFG)
    class_means, counts = rng.normal(size=(5, 10, 8)).astype(np.float32), rng.integers(0, 2, (5, 10))
    state = fpl.prototypes_update(None, averaged, 1.0, class_means, counts, CFG)
    clusters, mask = fpl.cluster_prototypes(class_means, counts, "first")
    assert state._replace(prototypes=averaged.prototypes) == averaged
    for got, want in zip(state.prototypes, (clusters, mask, fpl.unbiased_prototypes(clusters, mask))):
        np.testing.assert_array_equal(got, want)
