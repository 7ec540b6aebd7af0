"""The same seed and files give the same bits, whatever went before, in whichever process, folder, order or number of threads.

MindSpore's CPU cuts an element-wise operator's tensor into 1, 2, 4, ... pieces in its first calls (five of each) and then
takes the count that the clock found fastest. A kernel that rounds otherwise in its vectorised part than in the rest of a
piece, as float32's log does, then gives other bits in its 6th call than in its 1st. Hence the repetitions.
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

import fpl
from test_training import TINY, images_and_labels, some_prototypes, what_it_receives

ROOT = Path(__file__).resolve().parent.parent
CALLS = 24  # five with each of 1, 2, 4 and 8 pieces, and some with the fastest
ODD = dataclasses.replace(TINY, width=3, batch_size=13, rounds=3, local_epochs=1)  # no size is a multiple of a vector's


@ms.jit
def compiled_cross_entropy(x, labels):
    return fpl.cross_entropy(x, labels)


@ms.jit
def compiled_logsumexp(x, labels):
    return fpl.logsumexp(x)


@ms.jit
def compiled_cpcl(x, labels):
    return fpl.cpcl_loss(x, labels, x[:6].reshape(3, 2, 3), ms.ops.ones((3, 2), ms.bool_), 0.05)


@pytest.mark.parametrize("function", [compiled_cross_entropy, compiled_logsumexp, compiled_cpcl])
def test_a_loss_gives_the_same_bits_in_each_call(function):
    rng = np.random.default_rng(0)
    x = Tensor((3 * rng.normal(size=(1021, 3))).astype(np.float32))  # 1021: prime, and enough rows that some are rounded otherwise
    labels = Tensor(rng.integers(0, 3, 1021).astype(np.int32))
    assert len({function(x, labels).asnumpy().tobytes() for _ in range(CALLS)}) == 1


def test_a_training_step_gives_the_same_bits_in_each_call():
    state, (images, labels), rng = fpl.init_state(ODD), images_and_labels(13, 5), np.random.default_rng(5)
    weights, stats = fpl.flat(state.params, fpl.PARAMS), fpl.flat(state.stats, fpl.STATS)
    velocity = tuple(Tensor(rng.normal(size=w.shape).astype(np.float32)) for w in weights)
    x, labels, sgd = fpl.network_input(images), Tensor(labels), Tensor([0.05, 0.9, 1e-5], ms.float32)
    received, seen = what_it_receives(some_prototypes(ODD), (0.05, 1, 1)), set()
    for _ in range(CALLS):
        *trees, loss, z = fpl.step_on(fpl.local_loss, "mean")(ms.mutable(weights), ms.mutable(velocity), ms.mutable(stats), x,
                                                              labels, received, sgd)
        seen.add(tuple(value.asnumpy().tobytes() for value in (*trees[0], *trees[1], *trees[2], loss, z)))
    assert len(seen) == 1


def test_the_evaluation_gives_the_same_bits_in_each_call():
    state, images = fpl.init_state(ODD), images_and_labels(130, 5)[0]
    assert len({tuple(part.tobytes() for part in fpl.predict(state.params, state.stats, images)) for _ in range(CALLS // 2)}) == 1


def digest(seed, engine=map):
    """sha256 over the states and logs, times apart, of a run of 5 clients and 3 rounds, whose batches are of 13 images."""
    clients = [fpl.Client(*images_and_labels(n, m), "mnist") for m, n in enumerate((26, 13, 13, 26, 13))]
    total = hashlib.sha256()
    for state, log in fpl.run(clients, {"mnist": clients[0][:2]}, dataclasses.replace(ODD, seed=seed), engine=engine):
        for tree in (state.params, state.stats):
            for name, value in tree.items():
                total.update(name.encode() + value.asnumpy().tobytes())
        for value in (*state.prototypes, log["class_means"], log["counts"]):
            total.update(value.tobytes())
        total.update(repr([log[name] for name in ("loss", "losses", "accuracy", "avg", "clusters_per_class")]).encode())
    return total.hexdigest()


def shuffled(function, items):
    """An engine that trains the clients in another order in each round."""
    done = {m: function(m) for m in np.random.default_rng().permutation(items).tolist()}
    return (done[m] for m in items)


PROGRAM = """
import sys
sys.path[:0] = {paths!r}
import test_identical
test_identical.digest(1)
print(test_identical.digest(0, test_identical.shuffled))
"""


def test_a_run_is_the_same_in_another_process_folder_and_order_with_other_threads_and_after_other_runs(tmp_path):
    program = PROGRAM.format(paths=[str(ROOT), str(ROOT / "tests")])
    there = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "2"},
                           capture_output=True, text=True, timeout=300)
    here = digest(0)
    assert there.stdout.split()[-1:] == [here], there.stderr
    assert digest(0) == here
    assert digest(1) != here
