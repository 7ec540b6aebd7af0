"""The same seed and files give the same bits.

Whatever went before, in whichever process, folder, order or number of threads.

MindSpore's CPU cuts an element-wise operator's tensor into 1, 2, 4, ... pieces in its first calls
(five of each) and then takes the count that the clock found fastest. A kernel that rounds otherwise
in its vectorised part than in the rest of a piece, as float32's log does, then gives other bits in
its 6th call than in its 1st. Hence the repetitions.
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from tiny import TINY, images_and_labels, some_prototypes

import fpl

TESTS = Path(__file__).resolve().parent.parent
CALLS = 24  # five with each of 1, 2, 4 and 8 pieces, and some with the fastest
# no size is a multiple of a vector's
ODD = dataclasses.replace(TINY, width=3, batch_size=13, rounds=3, local_epochs=1)


@ms.jit
def compiled_cross_entropy(x, labels):
    return fpl.cross_entropy(x, labels)


@ms.jit
def compiled_logsumexp(x, labels):
    return fpl.logsumexp(x)


@ms.jit
def compiled_cpcl(x, labels):
    mask = ms.ops.ones((3, 2), ms.bool_)
    return fpl.cpcl_loss(x, labels, x[:6].reshape(3, 2, 3), mask, 0.05)


@pytest.mark.parametrize("function", [compiled_cross_entropy, compiled_logsumexp, compiled_cpcl])
def test_a_loss_has_the_same_bits_each_time(function):
    rng = np.random.default_rng(0)
    # 1021: prime, and enough rows that some are rounded otherwise
    x = Tensor((3 * rng.normal(size=(1021, 3))).astype(np.float32))
    labels = Tensor(rng.integers(0, 3, 1021).astype(np.int32))
    assert len({function(x, labels).asnumpy().tobytes() for _ in range(CALLS)}) == 1


def test_a_step_has_the_same_bits_each_time():
    state, (images, labels) = fpl.init_state(ODD), images_and_labels(13, 5)
    rng = np.random.default_rng(5)
    velocity = Tensor(rng.normal(size=state.params.shape).astype(np.float32))
    x, labels = fpl.network_input(images), Tensor(labels)
    numbers = fpl.tensors(0.05, 0.9, 1e-5, *some_prototypes(ODD), 0.05, 1, 1)
    step, seen = fpl.sgd_step(fpl.local_loss, ODD.width, 10, "mean"), set()
    for _ in range(CALLS):
        outputs = step(state.params, velocity, state.stats, x, labels, *numbers)
        seen.add(tuple(value.asnumpy().tobytes() for value in outputs))
    assert len(seen) == 1


def test_an_evaluation_has_the_same_bits_each_time():
    state, images = fpl.init_state(ODD), images_and_labels(130, 5)[0]
    seen = set()
    for _ in range(CALLS // 2):
        seen.add(tuple(part.tobytes() for part in fpl.predict(state.params, state.stats, images)))
    assert len(seen) == 1


def digest(seed, engine=map):
    """sha256 over the states and logs, times apart.

    Of a run of 5 clients and 3 rounds, whose batches are of 13 images.
    """
    sizes = (26, 13, 13, 26, 13)
    clients = [fpl.Client(*images_and_labels(n, m), "mnist") for m, n in enumerate(sizes)]
    tests, cfg = {"mnist": clients[0][:2]}, dataclasses.replace(ODD, seed=seed)
    total = hashlib.sha256()
    for state, log in fpl.run(clients, tests, cfg, engine=engine):
        for value in (state.params.asnumpy(), state.stats.asnumpy(), *state.prototypes):
            total.update(value.tobytes())
        for name in ("class_means", "counts", "members"):
            total.update(log[name].tobytes())
        told = ("loss", "losses", "accuracy", "avg", "clusters_per_class")
        total.update(repr([log[name] for name in told]).encode())
    return total.hexdigest()


def shuffled(function, items):
    """An engine that trains the clients in another order in each round."""
    order = np.random.default_rng().permutation(len(items)).tolist()
    done = {i: function(items[i]) for i in order}
    return (done[i] for i in range(len(items)))


PROGRAM = """
import sys
sys.path[:0] = {paths!r}
import test_identical
test_identical.digest(1)
print(test_identical.digest(0, test_identical.shuffled))
"""


def test_a_run_is_the_same_in_another_process(tmp_path):
    """In another folder and order, with other threads, and after other runs."""
    paths = [str(TESTS.parent), str(TESTS), str(TESTS / "method")]
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(paths=paths)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    here = digest(0)
    assert there.stdout.split()[-1:] == [here], there.stderr
    assert digest(0) == here
    assert digest(1) != here
