"""How a task's images become clients and test sets: what is held back, how labels are skewed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpl
from lab.data.tasks import own
from lab.run.clients import hold_back, images_by_class, share_out, skewed
from lab.run.settings import complete, hold_out
from lab.shell.errors import InputError

CFG = fpl.Config(task="folder", clients=(3, 2), fraction=0.25, classes=4)
TASK = own(["a", "b"], "wxyz")
NONE = np.empty((0, 32, 32, 3), np.uint8), np.empty(0, np.int32)


def numbered(n, labels):
    """Images that hold their own number in the first two bytes."""
    images = np.zeros((n, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return images, np.int32(labels)


def numbers(images):
    return (images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1].astype(int)).tolist()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(0, 3))
def test_a_fifth_is_held_back_by_seed(labels, seed):
    """Class by class as evenly as whole images can be; every image is in one of the two."""
    n, cfg = len(labels), dataclasses.replace(CFG, seed=seed)
    data = numbered(n, labels)
    train, tests = hold_back({"a": data}, {"a": NONE}, cfg)
    test = numbers(tests["a"][0])
    assert len(test) == max(1, n // 5)
    assert sorted(numbers(train["a"][0]) + test) == list(range(n))
    for images, own_labels in (train["a"], tests["a"]):
        assert own_labels.tolist() == [labels[i] for i in numbers(images)]
    for k in range(4):
        share = labels.count(k) * len(test) / n
        assert abs(tests["a"][1].tolist().count(k) - share) < 1
    again = hold_back({"a": data}, {"a": NONE}, cfg)[1]["a"][0]
    assert numbers(again) == test


def test_seeds_and_domains_hold_back_others():
    data = numbered(100, [k % 4 for k in range(100)])
    drawn = set()
    for seed in range(3):
        cfg = dataclasses.replace(CFG, seed=seed)
        tests = hold_back({"a": data, "b": data}, {"a": NONE, "b": NONE}, cfg)[1]
        drawn |= {tuple(numbers(tests[domain][0])) for domain in "ab"}
    assert len(drawn) == 6


def test_each_class_gives_its_fifth():
    data = numbered(100, [k % 4 for k in range(100)])
    for seed in range(5):
        cfg = dataclasses.replace(CFG, seed=seed)
        labels = hold_back({"a": data}, {"a": NONE}, cfg)[1]["a"][1]
        assert np.bincount(labels).tolist() == [5, 5, 5, 5]


def test_test_images_of_its_own_stay():
    data, test = numbered(10, [0] * 10), numbered(3, [1, 2, 3])
    train, tests = hold_back({"a": data}, {"a": test}, CFG)
    assert train["a"] is data and tests["a"] is test


MOST = float(np.finfo(float).max)


def some_clients(sizes=(20, 30, 10, 25, 15), labels=4, seed=0):
    rng, start, clients = np.random.default_rng(seed), 0, []
    images, _ = numbered(sum(sizes), [0] * sum(sizes))
    for m, n in enumerate(sizes):
        own_labels = rng.integers(0, labels, n).astype(np.int32)
        clients.append(fpl.Client(images[start : start + n], own_labels, "ab"[m // 3]))
        start += n
    return clients


@given(st.sampled_from([5e-324, 1e-30, 0.01, 0.5, 1.0, 100.0, 1e30, MOST]), st.integers(0, 50))
def test_skewed_labels_lose_no_image(alpha, seed):
    """Nor does an image go to another domain, and nobody is left without one."""
    cfg, before = dataclasses.replace(CFG, alpha=alpha, seed=seed), some_clients()
    after = skewed(before, cfg)
    assert [client.domain for client in after] == list("aaabb")
    assert min(len(client.labels) for client in after) >= 1
    label_of = {i: k for c in before for i, k in zip(numbers(c.images), c.labels.tolist())}
    for domain in "ab":
        was, is_now = (
            sorted(i for c in clients if c.domain == domain for i in numbers(c.images))
            for clients in (before, after)
        )
        assert was == is_now
    for client in after:
        assert client.labels.tolist() == [label_of[i] for i in numbers(client.images)]
        assert client.images.dtype == np.uint8 and client.labels.dtype == np.int32
    again = skewed(before, cfg)
    assert [numbers(c.images) for c in again] == [numbers(c.images) for c in after]


def test_a_smaller_alpha_skews_more():
    """Of 400 images of a class, the mean of the largest client's share: a Dirichlet's of 4."""
    clients = [fpl.Client(*numbered(400, [k % 4 for k in range(400)]), "a") for _ in range(4)]
    largest = []
    for alpha in (0.05, 0.5, 5.0, 1e6):
        shares = []
        for seed in range(30):
            after = skewed(clients, dataclasses.replace(CFG, alpha=alpha, seed=seed))
            shares.append(images_by_class(after, 4).max(axis=0) / 400)
        largest.append(np.mean(shares))
    assert largest[0] > 0.8 > largest[1] > 0.5 > largest[2] > 0.3
    assert largest[3] == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("alpha", [1e30, MOST])
def test_the_largest_alpha_makes_all_alike(alpha):
    clients = [fpl.Client(*numbered(40, [k % 4 for k in range(40)]), "a") for _ in range(3)]
    after = skewed(clients, dataclasses.replace(CFG, alpha=alpha))
    assert images_by_class(after, 4).tolist() == [[10] * 4] * 3


@pytest.mark.parametrize("alpha", [5e-324, 1e-30])
def test_the_smallest_alpha_gives_classes_away_whole(alpha):
    """But for the one image that a client gets who would hold none."""
    clients = [fpl.Client(*numbered(40, [k % 4 for k in range(40)]), "a") for _ in range(3)]
    after = skewed(clients, dataclasses.replace(CFG, alpha=alpha))
    table = np.sort(images_by_class(after, 4), axis=0)
    assert (table[-1] >= 28).all() and table[:-1].sum() <= 2


def test_which_images_a_client_gets_is_drawn():
    """By seed, and not those that lay beside each other."""
    clients = [fpl.Client(*numbered(40, [0] * 40), "a"), fpl.Client(*numbered(0, []), "a")]
    drawn = set()
    for seed in range(3):
        after = skewed(clients, dataclasses.replace(CFG, alpha=1e30, seed=seed))
        drawn.add(tuple(numbers(after[0].images)))
        assert numbers(after[0].images) != list(range(20))
    assert len(drawn) == 3


def test_everyone_holds_an_image_when_each_has_one():
    images, labels = numbered(5, [2] * 5)
    clients = [fpl.Client(images[i : i + 1], labels[i : i + 1], "a") for i in range(5)]
    for seed in range(20):
        after = skewed(clients, dataclasses.replace(CFG, alpha=1e-30, seed=seed))
        assert [len(client.labels) for client in after] == [1] * 5


def test_images_by_class_counts_each_client():
    table = images_by_class(some_clients(), 5)
    assert table.shape == (5, 5) and (table[:, 4] == 0).all()
    assert table.sum(axis=1).tolist() == [20, 30, 10, 25, 15]
    assert table[1].tolist() == np.bincount(some_clients()[1].labels, minlength=5).tolist()


def data():
    train = {d: numbered(80, [k % 4 for k in range(80)]) for d in "ab"}
    return train, {d: numbered(8, [k % 4 for k in range(8)]) for d in "ab"}


def test_a_domain_held_out_is_tested_alone():
    cfg = hold_out(complete(CFG, TASK), TASK, "a")
    clients, tests = share_out(data(), TASK, cfg)
    assert cfg.clients == (0, 2) and {client.domain for client in clients} == {"b"}
    assert list(tests) == ["a", "b"] and len(tests["a"][1]) == 8


@pytest.mark.parametrize(
    "clients, domain, words",
    [
        ((3, 2), "c", "--hold-out is 'c'; it must be one of a, b"),
        ((3, 0), "a", "--hold-out is 'a'; of the others none has a client"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(clients, domain, words):
    with pytest.raises(InputError) as stop:
        hold_out(dataclasses.replace(CFG, clients=clients), TASK, domain)
    assert str(stop.value) == words


@pytest.mark.parametrize(
    "given_clients, clients, fraction",
    [((), (2, 2), 0.5), ((4,), (4, 4), 0.25), ((3, 1), (3, 1), 1 / 3)],
)
def test_own_domains_are_shared_out_whole(given_clients, clients, fraction):
    cfg = complete(fpl.Config(task="folder", clients=given_clients, fraction=0.0), TASK)
    assert (cfg.clients, cfg.fraction, cfg.classes) == (clients, fraction, 4)


def test_labels_beyond_the_classes_are_one_line():
    train, tests = data()
    train["b"][1][5] = 4
    with pytest.raises(InputError, match="b has labels from 0 to 4; they must be 0 to 3"):
        share_out((train, tests), TASK, CFG)
