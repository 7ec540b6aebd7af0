"""One client, one round, one run: what moves, what must not, what is the same when done again."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from tiny import (
    TINY,
    arrays,
    difference,
    images_and_labels,
    no_prototypes,
    some_clients,
    some_prototypes,
)

import fpl
import oracle_np as oracle
from lab.data.office import one_of_each_class
from lab.data.tasks import TASKS


def update(cfg=TINY, prototypes=None, client=None, rng=0):
    state = fpl.init_state(cfg)._replace(prototypes=prototypes or no_prototypes(cfg))
    return fpl.client_update(state, client or some_clients()[0], np.random.default_rng(rng), cfg)


def received(prototypes, *tau_cpcl_upcr):
    return fpl.tensors(*prototypes, *tau_cpcl_upcr)


def loss_of(params, x, labels, *received):
    p = fpl.views(params, fpl.param_shapes(TINY.width, 10))
    return fpl.local_loss(p, x, labels, *received, "mean")


value_and_gradient = ms.jit(ms.value_and_grad(loss_of, 0, has_aux=True))


def one_step(prototypes, lr, momentum, decay, tau_cpcl_upcr, seed=3, batch=4):
    """A step from the initial state and a velocity that is not zero.

    -> params, velocity, stats before it, gradient, statistics met, and the step's outputs; NumPy.
    """
    state = fpl.init_state(TINY)
    images, labels = images_and_labels(batch, seed)
    x, labels = fpl.network_input(images), Tensor(labels)
    rng = np.random.default_rng(seed)
    velocity = Tensor(rng.normal(size=state.params.shape).astype(np.float32))
    others = received(prototypes, *tau_cpcl_upcr)
    (_, _, met), gradient = value_and_gradient(state.params, x, labels, *others)
    step = fpl.sgd_step(fpl.local_loss, TINY.width, 10, "mean")
    numbers = fpl.tensors(lr, momentum, decay)
    outputs = step(state.params, velocity, state.stats, x, labels, *numbers, *others)
    vectors = (state.params, velocity, state.stats, gradient, met, *outputs)
    return [value.asnumpy().astype(np.float64) for value in vectors]


# ---------------------------------------------------------------- one step


def test_a_step_is_sgd_with_momentum_and_decay():
    """For each weight, against the oracle's."""
    numbers = 0.05, 0.9, 0.01
    w, v, _, g, _, new, new_velocity, *_ = one_step(some_prototypes(TINY), *numbers, (0.1, 1, 1))
    want, want_velocity = oracle.sgd_step(w, v, g, *numbers)
    by_weight = [
        fpl.views(Tensor(vector, ms.float64), fpl.param_shapes(TINY.width, 10))
        for vector in (w, v, g, new - want, new_velocity - want_velocity)
    ]
    for name in by_weight[0]:
        w, v, g, off, off_velocity = (abs(named[name].asnumpy()) for named in by_weight)
        # at most seven roundings in each (three constants, four operations),
        # each half an ulp of a number below the sum of the absolute terms;
        # the gradient comes from another graph and may be rounded otherwise: 1e-4 of its largest
        bound = 8 * 2.0**-24 * (w + v + g).max() + 1e-4 * g.max()
        assert off_velocity.max() <= bound and off.max() <= bound, name


def test_running_statistics_take_a_tenth_a_step():
    """A tenth of what batch norm met in the batch, once a step."""
    _, _, old, _, met, _, _, new, *_ = one_step(no_prototypes(TINY), 0.05, 0.9, 0, (0.1, 1, 1))
    vectors = (Tensor(vector, ms.float64) for vector in (0.9 * old + 0.1 * met, new))
    want, got = (fpl.views(vector, fpl.stat_shapes(TINY.width)) for vector in vectors)
    for name in want:
        right = want[name].asnumpy()
        # three roundings, and the statistics of two graphs: 1e-5 of the largest
        atol = 1e-5 * np.abs(right).max()
        np.testing.assert_allclose(got[name].asnumpy(), right, rtol=1e-5, atol=atol, err_msg=name)


def test_both_prototype_losses_reach_the_gradient():
    """The released MindSpore version computes them outside of the graph.

    Its gradient is that of cross-entropy.
    """
    plain = update()
    for term in ({"upcr": 0.0}, {"cpcl": 0.0}):
        cfg = dataclasses.replace(TINY, **term)
        assert difference(plain, update(cfg, some_prototypes(cfg))) > 1e-5


def test_every_parameter_moves():
    cfg = dataclasses.replace(TINY, weight_decay=0.0)  # decay alone would move them all
    before, after = arrays(fpl.init_state(cfg)), arrays(update(cfg, some_prototypes(cfg)))
    for name in before:
        assert (after[name] != before[name]).any(), name


def test_the_gradient_agrees_with_a_finite_difference():
    """The whole loss, network and prototype terms, along the gradient itself.

    f(w + h g) - f(w - h g) = 2 h |g|^2 to the third order in h.
    """
    state, (images, labels) = fpl.init_state(TINY), images_and_labels(4, 1)
    rest = fpl.network_input(images), Tensor(labels), *received(some_prototypes(TINY), 0.5, 1, 1)
    _, gradient = value_and_gradient(state.params, *rest)
    square = float((gradient.asnumpy().astype(np.float64) ** 2).sum())
    h = 1e-2 / square**0.5
    up, down = (
        float(value_and_gradient(state.params + s * h * gradient, *rest)[0][0]) for s in (1, -1)
    )
    # the step is 0.01 long: the loss (about 5, so 3e-7 of rounding)
    # changes by about 0.02 |g| > 0.02; kinks of ReLU and the third
    # order make up the rest; a lost term changes it by more than 10 %
    assert (up - down) / (2 * h * square) == pytest.approx(1, abs=0.03)


# ---------------------------------------------------------------- one client


def test_without_prototypes_the_update_is_fedavg():
    """Bit for bit."""
    fedavg = dataclasses.replace(TINY, cpcl=0.0, upcr=0.0)
    ours, theirs = update(TINY, no_prototypes(TINY)), update(fedavg, some_prototypes(TINY))
    assert difference(ours, theirs) == 0


def test_weights_of_zero_switch_the_terms_off():
    """Exactly, even at a tiny temperature."""
    off = dataclasses.replace(TINY, cpcl=0.0, upcr=0.0, tau=0.005)
    some, others = (update(off, some_prototypes(TINY, seed)) for seed in (1, 2))
    assert difference(some, others) == 0


def test_inputs_are_never_modified():
    client = some_clients()[0]
    state = fpl.init_state(TINY)._replace(prototypes=some_prototypes(TINY))

    def everything():
        named = arrays(state).values()
        return [np.array(value) for value in (*named, *state.prototypes, *client[:2])]

    before = everything()
    fpl.client_update(state, client, np.random.default_rng(0), TINY)
    fpl.evaluate(state, {"mnist": client[:2]})
    for old, new in zip(before, everything()):
        np.testing.assert_array_equal(old, new)


def test_the_prototypes_are_the_trained_models_class_means():
    client = some_clients()[2]
    result = update(client=client)
    z = fpl.predict(result.params, result.stats, client.images)[1]
    means, counts = fpl.class_prototypes(z, client.labels, 10)
    np.testing.assert_array_equal(result.class_means, means)
    np.testing.assert_array_equal(result.counts, counts)
    np.testing.assert_array_equal(counts, np.bincount(client.labels, minlength=10))


def test_running_prototypes_are_another_choice():
    """With the same counts, of the same network."""
    client = some_clients()[2]
    final = update(client=client)
    running = update(dataclasses.replace(TINY, prototypes_from="running"), client=client)
    np.testing.assert_array_equal(final.counts, running.counts)
    assert difference(final, running) == 0
    assert (final.class_means != running.class_means).any()


@pytest.mark.parametrize("size", [1, 5])
def test_a_last_batch_of_one_trains_on(size):
    """Weights and statistics stay finite."""
    result = update(client=some_clients((size,))[0], prototypes=some_prototypes(TINY))
    assert all(np.isfinite(value).all() for value in arrays(result).values())


@pytest.mark.parametrize("known", [(3,), (4,), (0, 1, 2, 4, 5, 6, 7, 8, 9)])
def test_one_known_class_or_none_trains_on(known):
    """One known class, or none of those in the batch.

    Each of these crashes the released MindSpore version.
    """
    result = update(
        client=some_clients(classes=[3])[0], prototypes=some_prototypes(TINY, known=known)
    )
    assert np.isfinite(result.loss)
    assert result.counts.tolist() == [0, 0, 0, 6, 0, 0, 0, 0, 0, 0]


def numbered(n):
    """A Client whose images tell their numbers, as do their labels."""
    images = np.zeros((n, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return fpl.Client(images, np.arange(n, dtype=np.int32), "mnist")


def test_each_local_epoch_draws_another_order():
    rng, cfg = np.random.default_rng(0), dataclasses.replace(TINY, batch_size=6)
    first, second = (
        np.concatenate([labels for _, labels in fpl.batches(numbered(20), cfg, rng)])
        for _ in range(2)
    )
    assert sorted(first) == sorted(second) == list(range(20))
    assert (first != second).any()


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 9))
def test_an_epoch_holds_each_image_once(n, batch_size, seed):
    """In batches of the size asked for, each image with its label; the rest is a batch too."""
    cfg = dataclasses.replace(TINY, batch_size=batch_size)
    cut = list(fpl.batches(numbered(n), cfg, np.random.default_rng(seed)))
    labels = np.concatenate([labels for _, labels in cut])
    images = np.concatenate([images for images, _ in cut])
    assert sorted(labels) == list(range(n))
    np.testing.assert_array_equal(images[:, 0, 0, :2].astype(int) @ [1, 256], labels)
    full, rest = divmod(n, batch_size)
    assert [len(labels) for _, labels in cut] == [batch_size] * full + [rest] * (rest > 0)


def test_evaluation_does_not_depend_on_the_batch():
    """An image gives the same alone and among others."""
    state, (images, _) = fpl.init_state(TINY), images_and_labels(140, 0)
    together = fpl.predict(state.params, state.stats, images)
    alone = fpl.predict(state.params, state.stats, images[130:131])
    np.testing.assert_array_equal(together[1][130:131], alone[1])


def test_crop_flip_shifts_by_at_most_four():
    """Pixels; the shape stays."""
    images = np.zeros((50, 32, 32, 3), np.uint8)
    images[:, 16, 10] = 200
    out = fpl.crop_flip(images, np.random.default_rng(0))
    assert out.shape == images.shape
    _, rows, columns = np.nonzero(out[..., 0])
    assert len(rows) == 50  # the dot is never lost
    assert (abs(rows - 16) <= 4).all()
    assert ((abs(columns - 10) <= 4) | (abs(columns - 21) <= 4)).all()
    assert (columns > 15).any() and (columns < 16).any()
    assert len(set(rows)) > 4 and len(set(columns)) > 4


# ---------------------------------------------------------------- one round


def test_a_round_replayed_differs_by_exactly_zero():
    a, b = (fpl.server_round(fpl.init_state(TINY), some_clients(), TINY)[0] for _ in range(2))
    assert difference(a, b) == 0
    for x, y in zip(a.prototypes, b.prototypes):
        np.testing.assert_array_equal(x, y)


def test_the_order_of_training_changes_nothing():
    def backwards(function, items):
        done = [function(item) for item in reversed(items)]
        return reversed(done)

    a = fpl.server_round(fpl.init_state(TINY), some_clients(), TINY)[0]
    b = fpl.server_round(fpl.init_state(TINY), some_clients(), TINY, engine=backwards)[0]
    assert difference(a, b) == 0
    np.testing.assert_array_equal(a.prototypes.clusters, b.prototypes.clusters)


@pytest.mark.parametrize("share, number", [(0.01, 1), (0.4, 2), (0.6, 3), (1.0, 5)])
def test_participants_are_weighed_by_their_images(share, number):
    """By their share of the images of those that take part; batch norm's statistics too."""
    cfg = dataclasses.replace(TINY, participation=share)
    clients, state = some_clients(), fpl.init_state(TINY)
    chosen = fpl.participants(cfg, 5, 1)
    assert len(set(chosen)) == number
    new, told = fpl.server_round(state, clients, cfg)
    sizes = np.array([len(clients[m].labels) for m in chosen])
    updates = [
        fpl.client_update(state, clients[m], fpl.stream(cfg, "client", 1, m), cfg) for m in chosen
    ]
    for field in ("params", "stats"):
        sent = [getattr(u, field).asnumpy().astype(np.float64) for u in updates]
        want = sum(n / sizes.sum() * vector for n, vector in zip(sizes, sent))
        np.testing.assert_array_equal(getattr(new, field).asnumpy(), want.astype(np.float32))
    assert sorted(told["losses"]) == chosen
    assert (told["counts"].sum(axis=1) > 0).nonzero()[0].tolist() == chosen


def test_other_rounds_and_seeds_draw_other_participants():
    cfg = dataclasses.replace(TINY, participation=0.4)
    drawn = {
        tuple(fpl.participants(dataclasses.replace(cfg, seed=s), 20, r))
        for s in range(3)
        for r in range(1, 4)
    }
    assert len(drawn) > 6


def test_rare_classes_go_through_two_rounds():
    """A class that one client holds, and classes that nobody does."""
    clients = some_clients(classes=range(5))
    clients[0] = fpl.Client(clients[0].images, np.int32([7, 7, 1, 2, 3, 4]), "mnist")
    *_, (state, log) = fpl.run(clients, {"mnist": clients[1][:2]}, TINY)
    assert log["round"] == 2 and np.isfinite(log["loss"])
    assert log["clusters_per_class"][7] == 1
    assert log["clusters_per_class"][8:] == [0, 0]
    assert (state.prototypes.unbiased[8:] == 0).all()


def test_server_prototypes_are_the_oracles():
    """Of what the clients sent."""
    state, sent = fpl.server_round(fpl.init_state(TINY), some_clients(), TINY)
    means = sent["class_means"].astype(np.float64)
    ragged = oracle.cluster_prototypes(means, sent["counts"], "first")
    for k in range(10):
        ours = state.prototypes.clusters[k][state.prototypes.mask[k]]
        theirs = np.array(ragged.get(k, [])).reshape(-1, ours.shape[1])
        # float64 means of the same numbers, then rounded once to float32: one ulp
        np.testing.assert_allclose(ours, theirs, rtol=2.0**-23, atol=1e-30)


# ---------------------------------------------------------------- split and run


def domain_of(n, seed=0):
    """n images that tell their numbers, and labels at random."""
    images = np.zeros((n, 32, 32, 3), np.uint8)
    images += np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 4)[:, None, None, :3]
    return images, np.random.default_rng(seed).integers(0, 10, n).astype(np.int32)


def shared_out(train, task="digits", exchange=None, **settings):
    """fpl.split with the task's clients, fraction and published sizes."""
    task = TASKS[task]
    cfg = fpl.Config(clients=tuple(task.clients.values()), fraction=task.fraction, **settings)
    return fpl.split(train, cfg, task.published, exchange)


def none_twice(clients, domain):
    held = [image[0, 0].tobytes() for c in clients if c.domain == domain for image in c.images]
    return len(set(held)) == len(held)


def test_the_split_is_that_of_section_4_1():
    """By its sizes, and no two clients share an image."""
    sizes = {"mnist": 4000, "usps": 7291, "svhn": 4434, "syn": 2000}
    train = {domain: domain_of(n) for domain, n in sizes.items()}
    clients = shared_out(train)
    assert [(c.domain, len(c.labels)) for c in clients] == (
        [("mnist", 600)] * 6 + [("usps", 72)] * 4 + [("svhn", 732)] * 3 + [("syn", 100)] * 7
    )
    # the released MindSpore version gives all USPS clients the same rows
    assert all(none_twice(clients, domain) for domain in train)
    again, other = shared_out(train), shared_out(train, seed=1)
    assert all((a.images == b.images).all() for a, b in zip(clients, again))
    assert any((a.images != b.images).any() for a, b in zip(clients, other))


@given(
    st.integers(1, 4),
    st.integers(1, 15),
    st.lists(st.integers(0, 12), min_size=10, max_size=10),
    st.integers(0, 99),
)
def test_swapping_for_missing_classes_shares_no_image(clients, each, sizes, seed):
    """And loses none."""
    labels = np.repeat(np.arange(10), sizes)
    rest = np.random.default_rng(seed).permutation(len(labels))
    everything = []
    for _ in range(clients):
        drawn, rest = rest[:each], rest[each:]
        before = np.concatenate([drawn, rest])
        mine, left = one_of_each_class(drawn, rest, labels)
        # what it was given stays
        np.testing.assert_array_equal(before, np.concatenate([drawn, rest]))
        assert len(mine) == len(drawn)
        counts = np.bincount(labels[mine], minlength=10)
        for k in np.flatnonzero(counts == 0):
            # a class is missing only where none is left, or nothing is there twice
            assert k not in labels[left] or counts.max() <= 1
        assert set(labels[drawn]) <= set(labels[mine])  # no class is given away altogether
        # who gave an image was the most frequent just before
        lost = counts < np.bincount(labels[drawn], minlength=10)
        assert not lost.any() or counts[lost].min() + 1 >= counts.max()
        everything, rest = [*everything, *mine], left
    assert sorted([*everything, *rest]) == list(range(len(labels)))


def test_each_office_client_holds_every_class():
    """Random draws alone would miss some."""
    sizes = {"caltech": 899, "amazon": 768, "webcam": 237, "dslr": 127}
    train = {domain: domain_of(n) for domain, n in sizes.items()}
    clients = shared_out(train, "office", TASKS["office"].exchange)
    assert [len(c.labels) for c in clients] == [179] * 3 + [153] * 2 + [47] + [25] * 4
    assert all(len(set(c.labels)) == 10 for c in clients)
    assert all(none_twice(clients, domain) for domain in train)
    assert any(len(set(c.labels)) < 10 for c in shared_out(train, "office"))


def test_images_and_labels_stay_together():
    """In the split."""
    sizes = {"mnist": 4000, "usps": 300, "svhn": 2200, "syn": 700}
    train = {domain: domain_of(n) for domain, n in sizes.items()}
    for client in shared_out(train):
        index = client.images[:, 0, 0, :3].astype(int) @ [1, 256, 65536]
        np.testing.assert_array_equal(client.labels, train[client.domain][1][index])


def test_a_split_beyond_the_domain_is_refused():
    train = dict.fromkeys(("mnist", "usps", "svhn", "syn"), domain_of(100))
    message = "mnist has 100 training images, but 6 clients want 600 each"
    with pytest.raises(ValueError, match=message):
        shared_out(train)


def test_a_loss_not_finite_stops_the_run():
    """By the names of the round and of the client, with what to do."""
    cfg = dataclasses.replace(TINY, lr=1e30)
    message = "^round 1, client 0: not every number .* finite; the training diverges: try a smaller"
    with pytest.raises(FloatingPointError, match=message):
        next(fpl.run(some_clients(), {"mnist": some_clients()[1][:2]}, cfg))


def test_a_run_goes_on_from_a_state():
    """As if it had not stopped."""
    clients, tests = some_clients(), {"mnist": some_clients()[1][:2]}
    whole = [state for state, _ in fpl.run(clients, tests, TINY)]
    rest = [state for state, _ in fpl.run(clients, tests, TINY, state=whole[0])]
    assert len(whole) == 2 and len(rest) == 1
    assert difference(whole[1], rest[0]) == 0
