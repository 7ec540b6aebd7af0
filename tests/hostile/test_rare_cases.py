"""Rare cases as a table: what is given -> what must come.

A case more is a line more in one of the four tables.

WELL: it trains, `hold` compares every round with the oracle, and the case's own claim holds.
REFUSED, FLAGS: one line that has this part, from the records or from the command line.
DIVERGES: the run stops by name, the rounds before it stay.
The networks are of two channels and the batches of one to four images.
"""

import dataclasses
import functools
import os
from typing import NamedTuple

import numpy as np
import pytest
from mindspore import Tensor
from tiny import TINY, arrays, difference, images_and_labels, some_clients, tiny

import fpl
import oracle_np as oracle
from lab.data.tasks import TASKS
from lab.run import train
from lab.run.clients import check_clients, check_tests, share_out
from lab.shell.errors import InputError

TESTS = {"mnist": images_and_labels(10, 100), "usps": images_and_labels(3, 101)}


class Case(NamedTuple):
    clients: list
    tests: dict = TESTS
    cfg: fpl.Config = TINY


class Round(NamedTuple):
    """One round of a run: the state after it, its log, the updates by client."""

    state: fpl.ServerState
    log: dict
    updates: dict


def with_cfg(**changes):
    return dataclasses.replace(TINY, **changes)


def of_labels(*labels):
    """Clients with these labels each; their images are random."""
    return [
        fpl.Client(images_and_labels(len(own), m)[0], np.int32(own), "mnist")
        for m, own in enumerate(labels)
    ]


def with_images(change, clients=None, who=range(5)):
    clients = clients or some_clients()
    return [
        client._replace(images=change(client.images)) if m in who else client
        for m, client in enumerate(clients)
    ]


def typed(*kinds):
    return [
        client._replace(labels=client.labels.astype(kind))
        for client, kind in zip(some_clients(), kinds)
    ]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def every_other(array):
    """The same array as a view that leaves out every
    other entry of a larger one, backwards in memory.
    """
    return np.repeat(array, 2, axis=0)[::-1].copy()[::-2]


def strided(client):
    assert not every_other(client.images).flags.c_contiguous
    return client._replace(images=every_other(client.images), labels=every_other(client.labels))


def trained(case):
    """All rounds of a case. -> [Round]"""
    rounds, updates = [], {}

    def recording(function, items):
        number = len(rounds) + 1
        if function is fpl.count_right:
            yield from map(function, items)
            return
        for m, item in zip(fpl.participants(case.cfg, len(case.clients), number), items):
            updates[m] = function(item)
            yield updates[m]

    for state, log in fpl.run(case.clients, case.tests, case.cfg, engine=recording):
        rounds.append(Round(state, log, dict(updates)))
        updates.clear()
    return rounds


def finite(*values):
    return all(np.isfinite(value).all() for value in values)


def hold(case, rounds):
    """What is true of every round of every run, by the oracle."""
    cfg, clients = case.cfg, case.clients
    assert [r.state.round for r in rounds] == list(range(1, cfg.rounds + 1))
    for state, log, updates in rounds:
        network = arrays(state, cfg.width)
        assert finite(*network.values(), *state.prototypes, log["loss"], log["avg"])
        assert (
            sorted(updates)
            == fpl.participants(cfg, len(clients), state.round)
            == sorted(log["losses"])
        )
        assert log["loss"] == np.mean([update.loss for update in updates.values()])
        for m in range(len(clients)):
            there = m in updates
            want = (
                np.bincount(clients[m].labels.astype(int), minlength=10) if there else np.zeros(10)
            )
            np.testing.assert_array_equal(log["counts"][m], want)
            assert there or not log["class_means"][m].any()
        for m, update in list(updates.items())[:5]:
            if cfg.prototypes_from == "final":
                z = fpl.predict(update.params, update.stats, clients[m].images)[1].astype(
                    np.float64
                )
                for k, mean in oracle.class_prototypes(z, clients[m].labels, 10)[0].items():
                    np.testing.assert_allclose(
                        log["class_means"][m, k], mean, rtol=2.0**-23, atol=1e-30
                    )
        ragged = oracle.cluster_prototypes(
            log["class_means"].astype(np.float64), log["counts"], cfg.partition
        )
        unbiased = oracle.unbiased_prototypes(ragged)
        for k in range(10):
            ours = state.prototypes.clusters[k][state.prototypes.mask[k]]
            assert len(ours) == len(ragged.get(k, [])) == log["clusters_per_class"][k]
            # rounded to float32 once, after the float64 mean:
            # one ulp; unbiased from those roundings: two
            np.testing.assert_allclose(
                ours, np.reshape(ragged.get(k, []), ours.shape), rtol=2.0**-23, atol=1e-30
            )
            np.testing.assert_allclose(
                state.prototypes.unbiased[k], unbiased.get(k, 0), rtol=2.0**-22, atol=1e-30
            )
        sizes = [len(clients[m].labels) for m in updates]
        some = ("linear.bias", "stem.bn.variance", "stage4.b.bn.mean")
        sent = [arrays(update, cfg.width) for update in updates.values()]
        want = oracle.weighted_mean([{name: tree[name] for name in some} for tree in sent], sizes)
        for name in some:
            np.testing.assert_allclose(network[name], want[name], rtol=2.0**-23, atol=1e-30)
        for domain, (images, labels) in case.tests.items():
            right = sum(
                int(
                    fpl.predict(state.params, state.stats, images[i : i + 1])[0].argmax()
                    == labels[i]
                )
                for i in range(min(3, len(labels)))
            )
            assert len(labels) > 3 or log["accuracy"][domain] == pytest.approx(
                100 * right / len(labels)
            )


# ---------------------------------------------------------------- it trains


def clusters(*expected):
    """The claim that each round has these clusters per class."""
    return lambda case, rounds: all(r.log["clusters_per_class"] == list(expected) for r in rounds)


@functools.cache
def usual(**changes):
    return trained(Case(some_clients(), cfg=with_cfg(**changes)))


def as_if(clients=None, **changes):
    """The claim that the same comes as of these clients and settings, bit for bit."""

    def claim(case, rounds):
        other = trained(Case(clients, cfg=with_cfg(**changes))) if clients else usual(**changes)
        return (
            difference(rounds[-1].state, other[-1].state) == 0
            and rounds[-1].log["loss"] == other[-1].log["loss"]
            and all(
                (a == b).all()
                for a, b in zip(rounds[-1].state.prototypes, other[-1].state.prototypes)
            )
        )

    return claim


def is_the_only_one(case, rounds):
    """The next network is that of the client that took part,
    and its class means are the prototypes.
    """
    for state, log, updates in rounds:
        ((m, update),) = updates.items()
        if (
            difference(state, update)
            or not (
                state.prototypes.unbiased[log["counts"][m] > 0]
                == log["class_means"][m][log["counts"][m] > 0]
            ).all()
        ):
            return False
    return True


def resting(cfg):
    """A client that takes part in round 1 and not in round 2."""
    return next(m for m in fpl.participants(cfg, 5, 1) if m not in fpl.participants(cfg, 5, 2))


SHARE = with_cfg(participation=0.4, seed=1)
RARE = of_labels(*([9, 1, 2, 3] if m == resting(SHARE) else [0, 1, 2, 3] for m in range(5)))


def forgets(case, rounds):
    """Class 9, whose only holder rests in round 2,
    has a prototype after round 1 and none after round 2.
    """
    return [bool(r.state.prototypes.mask[9].any()) for r in rounds] == [True, False]


def other_than_seed_0(case, rounds):
    return difference(fpl.init_state(case.cfg), fpl.init_state(TINY)) > 0


def everyone_the_same_mean(case, rounds):
    """Of one image under all labels, every class mean of a client is its one feature."""
    return all(
        np.ptp(means[counts > 0], axis=0).max() == 0
        for r in rounds
        for means, counts in zip(r.log["class_means"], r.log["counts"])
    )


def anything(case, rounds):
    return True


ALL_TEN = [list(range(k, k + 4)) for k in (0, 3, 6)]
BLACK, WHITE, FIRST = (
    np.zeros_like,
    lambda images: np.full_like(images, 255),
    lambda images: np.repeat(images[:1], len(images), 0),
)
ONE = {"width": 1, "clients": (1, 0, 0, 0)}  # J = 1, as for two and three clients
WELL = {  # what is given, what must come beside `hold`
    "one client has one image": (Case(some_clients((1, 5, 8, 4, 7))), anything),
    "every client has one image": (Case(some_clients((1, 1, 1, 1, 1))), anything),
    "one image, running prototypes, crops": (
        Case(
            some_clients((1, 1, 1, 1, 1)),
            cfg=with_cfg(prototypes_from="running", augment="crop-flip"),
        ),
        anything,
    ),
    "the last batch is of one image": (Case(some_clients((5, 5, 5, 5, 5))), anything),
    "every batch is of one image": (
        Case(some_clients((3, 2, 4, 1, 2)), cfg=with_cfg(batch_size=1)),
        anything,
    ),
    "a batch is larger than all data": (
        Case(some_clients((4, 3, 2, 1, 4)), cfg=with_cfg(batch_size=10**9)),
        as_if(some_clients((4, 3, 2, 1, 4))),
    ),
    "one class in all": (
        Case(some_clients(classes=[3])),
        lambda case, rounds: all(
            r.state.prototypes.mask.any(1).tolist() == [k == 3 for k in range(10)] for r in rounds
        ),
    ),
    "each client has a class of its own": (
        Case(of_labels([0] * 4, [2] * 4, [4] * 4, [6] * 4, [9] * 4)),
        clusters(1, 0, 1, 0, 1, 0, 1, 0, 0, 1),
    ),
    "one client alone holds a class": (
        Case(of_labels([7, 0, 1, 2], *[[0, 1, 2, 3]] * 4)),
        lambda case, rounds: all(
            (r.state.prototypes.unbiased[7] == r.log["class_means"][0, 7]).all() for r in rounds
        ),
    ),
    "all but one client hold a class": (Case(of_labels([1] * 4, *[[0, 1, 2, 3]] * 4)), anything),
    "nobody holds a class": (
        Case(some_clients(classes=range(9))),
        lambda case, rounds: all(r.log["clusters_per_class"][9] == 0 for r in rounds),
    ),
    "two clients with the same images": (
        Case([some_clients()[0]] * 2 + some_clients()[2:]),
        anything,
    ),
    "one client's images are black": (Case(with_images(BLACK, who=[1])), anything),
    "all images are black": (Case(with_images(BLACK)), everyone_the_same_mean),
    "all images are white": (Case(with_images(WHITE)), everyone_the_same_mean),
    "each client has one image many times": (Case(with_images(FIRST)), everyone_the_same_mean),
    "test images are black": (
        Case(some_clients(), {"mnist": (BLACK(TESTS["mnist"][0]), TESTS["mnist"][1])}),
        anything,
    ),
    "the test set is one image": (
        Case(some_clients(), {"mnist": images_and_labels(1, 5)}),
        lambda case, rounds: all(r.log["accuracy"]["mnist"] in (0, 100) for r in rounds),
    ),
    "a test set has more images than a batch": (
        Case(some_clients(), {"mnist": images_and_labels(129, 5)}),
        anything,
    ),
    "a domain has no client": (
        Case(some_clients()[:4], cfg=with_cfg(clients=(2, 0, 1, 1))),
        anything,
    ),
    "one client trains in a round": (
        Case(some_clients(), cfg=with_cfg(participation=1e-9)),
        is_the_only_one,
    ),
    "the only holder of a class rests": (Case(RARE, cfg=SHARE), forgets),
    "a seed of 2**300": (Case(some_clients(), cfg=with_cfg(seed=2**300)), other_than_seed_0),
    "each client has labels of another type": (
        Case(typed(np.int64, np.uint8, np.uint64, np.int8, ">i2")),
        as_if(),
    ),
    "arrays are read-only": (
        Case(
            [
                client._replace(images=read_only(client.images), labels=read_only(client.labels))
                for client in some_clients()
            ]
        ),
        as_if(),
    ),
    "arrays are views with gaps or in Fortran's order": (
        Case([*map(strided, some_clients()[:3]), *with_images(np.asfortranarray)[3:]]),
        as_if(),
    ),
    "the temperature is huge": (Case(some_clients(), cfg=with_cfg(tau=3e38)), anything),
    "a tiny temperature without CPCL": (
        Case(some_clients(), cfg=with_cfg(tau=1e-30, cpcl=0.0)),
        as_if(cpcl=0.0),
    ),
    "both terms are off": (Case(some_clients(), cfg=with_cfg(cpcl=0.0, upcr=0.0)), anything),
    "the learning rate is next to nothing": (
        Case(some_clients(), cfg=with_cfg(lr=1e-37)),
        lambda case, rounds: all(
            (arrays(rounds[-1].state)[name] == value).all()
            or name.endswith(("bias", "mean", "variance"))
            for name, value in arrays(fpl.init_state(TINY)).items()
        ),
    ),
    "FINCH's coarsest partition": (Case(some_clients(), cfg=with_cfg(partition="last")), anything),
    "one client of one channel": (
        Case(of_labels([0, 1, 2, 3]), cfg=with_cfg(**ONE)),
        is_the_only_one,
    ),
    "two clients": (
        Case(of_labels(*ALL_TEN[:2]), cfg=with_cfg(**{**ONE, "clients": (1, 0, 0, 1)})),
        clusters(*[1] * 7, 0, 0, 0),
    ),
    "three clients": (
        Case(of_labels(*ALL_TEN), cfg=with_cfg(**{**ONE, "clients": (0, 3, 0, 0)})),
        clusters(*[1] * 10),
    ),
    "200 clients, 20 in a round": (
        Case(
            of_labels(*([m % 10] for m in range(200))),
            cfg=with_cfg(clients=(60, 40, 30, 70), local_epochs=1, participation=0.1),
        ),
        anything,
    ),
}


def engine_of(turn):
    """An engine with turn(function, item) in place of function(item)."""
    return lambda function, items: (turn(function, item) for item in items)


def test_means_of_200_clients_cluster_as_the_oracles():
    """The means of 200 clients are clustered as the oracle does it."""

    def turn(function, item):
        state, client, rng, cfg = item
        means = rng.normal(size=(10, 8 * cfg.width)).astype(np.float32) + np.float32(3)
        counts = np.bincount(client.labels, minlength=10)
        return fpl.ClientUpdate(
            state.params, state.stats, means * (counts > 0)[:, None], counts, 1.0
        )

    cfg = with_cfg(clients=(60, 40, 30, 70), rounds=1)
    clients = of_labels(
        *([m % 10, 3] for m in range(200))
    )  # 20 holders of most classes, 200 of one
    state, sent = fpl.server_round(fpl.init_state(cfg), clients, cfg, engine_of(turn))
    ragged = oracle.cluster_prototypes(
        sent["class_means"].astype(np.float64), sent["counts"], "first"
    )
    assert state.prototypes.clusters.shape == (10, 100, 16)
    for k in range(10):
        np.testing.assert_allclose(
            state.prototypes.clusters[k][state.prototypes.mask[k]], ragged[k], rtol=2.0**-23
        )
    assert (
        difference(state, fpl.init_state(cfg)) <= 2.0**-24
    )  # the mean of 200 equal networks, each at most 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith("200 clients") else name
        for name in WELL
    ],
)
def test_rare_cases_train_and_agree_with_the_oracle(name):
    """A rare case trains and gives what the oracle says."""
    case, claim = WELL[name]
    rounds = trained(case)
    hold(case, rounds)
    assert claim(case, rounds)


def test_a_split_leaves_out_a_domain_without_clients():
    train = {
        domain: images_and_labels(40, i)
        for i, domain in enumerate(("mnist", "usps", "svhn", "syn"))
    }
    cfg = fpl.Config(clients=(0, 1, 0, 3), fraction=0.0005)
    clients, _ = share_out((train, train), TASKS["digits"], cfg)
    clients = [(client.domain, len(client.labels)) for client in clients]
    assert clients == [("usps", 3)] + [("syn", 5)] * 3


# ---------------------------------------------------------------- it is refused

ONE_OF = images_and_labels(6, 0)


def instead(images=ONE_OF[0], labels=ONE_OF[1]):
    """Five clients, the third of which has these images and labels."""
    clients = some_clients()
    clients[2] = fpl.Client(images, labels, "usps")
    return clients


def instead_test(images=ONE_OF[0], labels=ONE_OF[1]):
    return Case(some_clients(), {"mnist": TESTS["mnist"], "syn": (images, labels)})


SHAPE, WHOLE = (
    "it needs labels (n,), one at least, and images (n, 32, 32, 3) uint8",
    "they must be whole numbers",
)
REFUSED = {  # what is given, a part of the line
    "no client": (Case([]), "0 clients were given, but --clients adds up to 5"),
    "a client too few": (
        Case(some_clients()[:4]),
        "4 clients were given, but --clients adds up to 5",
    ),
    "a client too many": (Case(some_clients() * 2), "10 clients were given"),
    "a client without images": (
        Case(instead(ONE_OF[0][:0], ONE_OF[1][:0])),
        "client 2 has labels (0,) and images (0, 32, 32, 3)",
    ),
    "an image without a label": (
        Case(instead(labels=ONE_OF[1][:5])),
        "client 2 has labels (5,) and images (6, 32, 32, 3)",
    ),
    "labels in a column": (Case(instead(labels=ONE_OF[1][:, None])), "client 2 has labels (6, 1)"),
    "one-hot labels": (
        Case(instead(labels=np.eye(10, dtype=np.int32)[ONE_OF[1]])),
        "client 2 has labels (6, 10)",
    ),
    "a label as a number": (Case(instead(ONE_OF[0][:1], np.int32(3))), "client 2 has labels ()"),
    "grey images": (Case(instead(ONE_OF[0][..., 0])), SHAPE),
    "channels first": (Case(instead(ONE_OF[0].transpose(0, 3, 1, 2))), SHAPE),
    "images of 28 x 28": (Case(instead(ONE_OF[0][:, 2:30, 2:30])), SHAPE),
    "images scaled already": (
        Case(instead(np.float32(ONE_OF[0]) / 255)),
        "images (6, 32, 32, 3) float32",
    ),
    "signed images": (Case(instead(ONE_OF[0].view(np.int8))), "images (6, 32, 32, 3) int8"),
    "label 10": (
        Case(instead(labels=np.int32([0, 1, 2, 3, 4, 10]))),
        "client 2 has labels from 0 to 10; they must be 0 to 9",
    ),
    "label -1": (
        Case(instead(labels=np.int32([0, 1, 2, 3, 4, -1]))),
        "client 2 has labels from -1 to 4",
    ),
    "labels with a fraction": (Case(instead(labels=np.float32(ONE_OF[1]))), WHOLE),
    "labels are truth values": (Case(instead(labels=ONE_OF[1] > 4)), WHOLE),
    "labels are text": (Case(instead(labels=ONE_OF[1].astype(str))), WHOLE),
    "no test set": (
        Case(some_clients(), {}),
        "no test set was given; at least one domain must have one",
    ),
    "a test set without images": (
        instead_test(ONE_OF[0][:0], ONE_OF[1][:0]),
        "the test set of syn has labels (0,)",
    ),
    "a test image without a label": (
        instead_test(labels=ONE_OF[1][:5]),
        "the test set of syn has labels (5,)",
    ),
    "test labels in a column": (
        instead_test(labels=ONE_OF[1][:, None]),
        "the test set of syn has labels (6, 1)",
    ),
    "test images scaled already": (
        instead_test(np.float32(ONE_OF[0]) / 255),
        "(6, 32, 32, 3) float32",
    ),
    "test label 10": (instead_test(labels=ONE_OF[1] + np.int32(10)), "they must be 0 to 9"),
    "test label -1": (instead_test(labels=-1 - ONE_OF[1]), "the test set of syn has labels from -"),
    "test labels with a fraction": (instead_test(labels=ONE_OF[1] / 3), WHOLE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_one_line(name):
    """It is refused in that line."""
    case, part = REFUSED[name]
    with pytest.raises(InputError) as refused:
        check_clients(case.clients, case.cfg)
        check_tests(case.tests, case.cfg)
    assert part in str(refused.value) and "\n" not in str(refused.value)


RANGE = "it must be a finite number, 0 or as float32 holds it, 1.2e-38 to 3.4e+38"
FLAGS = {  # flags -> a part of the line
    "--tau 1e-50": f"--tau is 1e-50; {RANGE}",
    "--tau 1e39": f"--tau is 1e+39; {RANGE}",
    "--lr 1e-45": f"--lr is 1e-45; {RANGE}",
    "--lr 0": "--lr is 0.0; it must be more than 0",
    "--lr nan": f"--lr is nan; {RANGE}",
    "--momentum 1.1": "--momentum is 1.1; it must be at most 1",
    "--weight-decay -1": "--weight-decay is -1.0; it must be at least 0",
    "--cpcl inf": f"--cpcl is inf; {RANGE}",
    "--upcr=-inf": f"--upcr is -inf; {RANGE}",
    "--seed 1.5": "invalid int value: '1.5'",
    "--batch-size 0": "--batch-size is 0; it must be at least 1",
    "--local-epochs 0": "--local-epochs is 0; it must be at least 1",
    "--width 0": "--width is 0; it must be at least 1",
    "--width 513": "--width is 513; it must be at most 512",
    "--clients=-1,1,1,1": "'-1,1,1,1' is not whole numbers with commas",
    "--fraction 1e-9": "clients want 0 each; change --clients or --fraction",
    "--clients 200,0,0,0": (
        "mnist has 40 training images, but 200 clients want 600 each; change --clients or "
        "--fraction"
    ),
}


@pytest.mark.parametrize("flags", FLAGS)
def test_settings_that_no_run_can_have_are_refused(flags, tmp_path, monkeypatch, capsys):
    """They are one line and status 2, and leave nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load", tiny)
    assert train.main(["digits", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert FLAGS[flags] in err and err.startswith("fpl: ") and err.count("\n") == 1 and out == ""
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- it diverges


def spoiled(part, name, value):
    """The first state with one number of the server's network, or of its statistics, replaced."""
    state = fpl.init_state(TINY)
    named = arrays(state)
    named[name].flat[0] = value
    shapes = fpl.param_shapes(TINY.width, 10) if part == "params" else fpl.stat_shapes(TINY.width)
    return state._replace(**{part: fpl.joined([named[each] for each, _ in shapes])})


# settings, the state to start from, rounds that come to their end, the words that name the place
DIVERGES = {
    "a huge learning rate": (with_cfg(lr=1e38), None, 0, "round 1, client 0"),
    "a huge decay of the weights": (with_cfg(weight_decay=1e38), None, 0, "round 1, client 0"),
    "a weight that ReLU hides": (
        TINY,
        ("params", "stage1.a.bn.bias", np.nan),
        0,
        "round 1, client 0",
    ),
    "a tiny temperature": (with_cfg(tau=2e-38), None, 1, "round 2, client 0"),
    "a huge weight of UPCR": (with_cfg(upcr=1e38), None, 1, "round 2, client 0"),
    "a network that is not finite": (
        TINY,
        ("params", "linear.bias", np.nan),
        0,
        "round 1, client 0",
    ),
    "statistics that are not finite": (
        TINY,
        ("stats", "stem.bn.mean", np.inf),
        0,
        "round 1, client 0",
    ),
}


NOT_FINITE = "not every number that it sends is finite"
TRY = "the training diverges: try a smaller --lr or a larger --tau"


@pytest.mark.parametrize("name", DIVERGES)
def test_what_diverges_stops_and_keeps_earlier_rounds(name):
    """It stops with its place and with what to try, and the rounds before it stay."""
    cfg, spoil, whole, place = DIVERGES[name]
    rounds, kept = fpl.run(some_clients(), TESTS, cfg, spoil and spoiled(*spoil)), []
    with pytest.raises(FloatingPointError, match=f"^{place}: {NOT_FINITE}; {TRY}$"):
        for state, _ in rounds:
            kept.append(state)
    assert [state.round for state in kept] == list(range(1, whole + 1))
    assert all(finite(*arrays(state).values()) for state in kept)


def sent_back(change):
    """An engine whose clients train nothing and send back what they got, client 3's changed."""

    def turn(function, item):
        state, client, rng, cfg = item
        counts = np.bincount(client.labels, minlength=10)
        means = np.ones((10, 8 * cfg.width), np.float32)
        update = fpl.ClientUpdate(state.params, state.stats, means, counts, 1.0)
        return change(update) if client.domain == "svhn" else update

    return engine_of(turn)


def last_is(vector, value):
    """The vector with its last number replaced."""
    array = vector.asnumpy().copy()
    array[-1] = value
    return Tensor(array)


BAD_UPDATES = {
    "a weight": lambda u: u._replace(params=last_is(u.params, np.nan)),
    "a statistic": lambda u: u._replace(stats=last_is(u.stats, np.inf)),
    "a class mean": lambda u: u._replace(class_means=u.class_means * np.inf),
    "the loss": lambda u: u._replace(loss=np.nan),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_a_client_sending_a_nonfinite_number_is_named(name):
    """One client that sends a number that is not finite is enough."""
    rounds = fpl.run(some_clients(), TESTS, TINY, engine=sent_back(BAD_UPDATES[name]))
    with pytest.raises(FloatingPointError, match=f"^round 1, client 3: {NOT_FINITE}; {TRY}$"):
        next(rounds)


def test_the_mean_of_largest_numbers_does_not_overflow():
    most = np.finfo(np.float32).max
    state = fpl.init_state(TINY)
    state = state._replace(params=last_is(state.params, most))
    state, _ = fpl.server_round(state, some_clients(), TINY, sent_back(lambda update: update))
    assert state.params.asnumpy()[-1] == most


def test_overflow_in_the_evaluation_alone_is_named():
    """A network that overflows in the evaluation alone is named with the domain.
    All its numbers are finite; NaN and inf would count as class 0."""
    state = fpl.init_state(TINY)
    huge = arrays(state)
    huge["linear.weight"][:] = huge["stage4.b.bn.weight"][:] = 3e38
    params = fpl.joined([huge[name] for name, _ in fpl.param_shapes(TINY.width, 10)])
    what = "test set of mnist: the network's output is not finite"
    with pytest.raises(FloatingPointError, match=f"^{what}$"):
        fpl.evaluate(state._replace(params=params), TESTS)

    def server_round(state, clients, cfg, engine):
        return state._replace(round=state.round + 1, params=params), {"losses": {0: 1.0}}

    rounds = fpl.run(
        some_clients(), TESTS, TINY, state._replace(round=1), server_round=server_round
    )
    with pytest.raises(FloatingPointError, match=f"^round 2, {what}; {TRY}$"):
        next(rounds)
