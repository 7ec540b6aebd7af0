"""What the rows of `./run.sh bench` measure: each function takes pairs of two things in turn.

measure(repeat, ...) -> [(first, second)], in seconds if nothing else is said. Images are random: a
step takes as long with any.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import fpl  # first: it sets what MindSpore reads while it is loaded

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from finch import finch
from lab.many import engines
from lab.methods import baselines
from lab.proof import rivals
from lab.proof.timing import in_turn, seconds
from lab.shell.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BATCH = 64  # Sec. 4.1
STEPS = 10


# ---------------------------------------------------------------- the local step


class Batch(NamedTuple):
    """A batch and the prototypes that it meets."""

    cfg: fpl.Config
    state: fpl.ServerState
    images: np.ndarray  # [B,32,32,3] uint8
    labels: np.ndarray  # [B]
    prototypes: fpl.Prototypes

    def received(self):
        """What fpl.local_loss is given beside the batch."""
        return fpl.tensors(*self.prototypes, self.cfg.tau, self.cfg.cpcl, self.cfg.upcr)


def batch_of(width):
    """M = 20 clients, so J = 10 for each of K = 10 classes, and every slot is filled."""
    rng, cfg = np.random.default_rng(0), fpl.Config(width=width)
    state = fpl.init_state(cfg)
    clusters = rng.random(state.prototypes.clusters.shape, np.float32)
    mask = np.ones(clusters.shape[:2], bool)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, BATCH).astype(np.int32)
    prototypes = fpl.Prototypes(clusters, mask, fpl.unbiased_prototypes(clusters, mask))
    return Batch(cfg, state, images, labels, prototypes)


def compiled_step(batch, step, received):
    """A call that makes one more step of fpl.sgd_step -> all that the step gives."""
    params, stats, velocity = *batch.state[1:3], ops.zeros_like(batch.state.params)
    x, labels = fpl.network_input(batch.images), Tensor(batch.labels)
    sgd = fpl.tensors(batch.cfg.lr, batch.cfg.momentum, batch.cfg.weight_decay)

    def once():
        nonlocal params, velocity, stats
        made = step(params, velocity, stats, x, labels, *sgd, *received)
        params, velocity, stats = made[:3]
        return made

    return once


def wait(made):
    """Until what a step made is there; what PyTorch returns is there.

    For the weights MindSpore sleeps. For the loss it spins, on a core that the kernels could use:
    on one core a step of width 8 then took 1.7 s instead of 0.1.
    """
    first = made[0] if isinstance(made, tuple) else made
    if isinstance(first, Tensor):
        first.asnumpy()


def steps(once):
    """Ten steps, as in training: nothing waits between them."""

    def several():
        for _ in range(STEPS):
            made = once()
        wait(made)

    return several


def fpl_step(batch):
    """A step on CE + CPCL + UPCR."""
    step = fpl.sgd_step(fpl.local_loss, batch.cfg.width, batch.cfg.classes, batch.cfg.upcr_reduce)
    return compiled_step(batch, step, batch.received())


def cross_entropy_step(batch):
    """A step on CE."""
    step = fpl.sgd_step(baselines.fedavg_loss, batch.cfg.width, batch.cfg.classes)
    return compiled_step(batch, step, ())


def both_losses_over_none(repeat, width, compiles):
    """The pairs come from several compiles of the two.

    MindSpore cuts tensors up as its clock says is fastest in a graph's first runs, and lives with
    what it found, so that a single compile may favour either side by a tenth.
    """
    batch, pairs = batch_of(width), []
    for share in np.bincount(np.arange(repeat) % compiles):
        fpl.sgd_step.cache_clear()
        pairs += in_turn(steps(fpl_step(batch)), steps(cross_entropy_step(batch)), share)
    return pairs


def eager_over_compiled(repeat, width):
    """A step of the cell, operator by operator, over ours."""
    batch = batch_of(width)
    return in_turn(steps(rivals.eager_step(batch)), steps(fpl_step(batch)), repeat)


def compiled_over_torch(repeat, width):
    """Our step over PyTorch's."""
    from lab.proof import in_torch  # which needs PyTorch

    batch = batch_of(width)
    return in_turn(steps(fpl_step(batch)), steps(in_torch.step(batch)), repeat)


def prediction_over_torch(repeat, width, images):
    """The features of that many images, in evaluation mode, over PyTorch's."""
    from lab.proof import in_torch  # which needs PyTorch

    batch, learned = batch_of(width), made_clients([images])[0].images
    learner = in_torch.Learner(batch.state, batch.cfg)
    return in_turn(
        lambda: fpl.predict(*batch.state[1:3], learned), lambda: learner.predict(learned), repeat
    )


def late_over_early(repeat, width, early, late):
    """Steps one after another: those from number `late` on over those from number `early` on."""
    once = fpl_step(batch_of(width))
    taken = [seconds(lambda: wait(once())) for _ in range(late + repeat)]
    return list(zip(taken[late : late + repeat], taken[early : early + repeat]))


# ---------------------------------------------------------------- the two losses alone


@ms.jit
def losses_and_gradient(z, labels, clusters, mask, unbiased, tau):
    """CPCL + UPCR (mean) and its gradient with respect to z."""

    def total(z):
        known = mask.any(1)
        cpcl = fpl.cpcl_loss(z, labels, clusters, mask, tau)
        return cpcl + fpl.upcr_loss(z, labels, unbiased, known, "mean")

    return ms.value_and_grad(total, 0)(z)


def loss_functions(d):
    """(vectorised, loop): each a call that gives (loss, its gradient [B,d]).

    B = 64, K = 10, J = 10.
    """
    batch = batch_of(d // 8)
    z = Tensor(np.random.default_rng(1).random((BATCH, d), np.float32))
    labels, (*arrays, tau) = Tensor(batch.labels), batch.received()[:4]
    clusters = [Tensor(rows) for rows in batch.prototypes.clusters]
    means = [Tensor(mean) for mean in batch.prototypes.unbiased]
    loop = ms.value_and_grad(
        lambda z: rivals.loop_losses(z, labels, clusters, means, batch.cfg.tau), 0
    )

    def finished(outputs):
        return float(outputs[0]), outputs[1].asnumpy()

    return (
        lambda: finished(losses_and_gradient(z, labels, *arrays, tau)),
        lambda: finished(loop(z)),
    )


def loop_over_vectorised(repeat, d):
    """The losses image by image over ours."""
    vectorised, loop = loss_functions(d)
    return in_turn(loop, vectorised, repeat)


# ---------------------------------------------------------------- a client's turn, a round


def made_clients(sizes):
    """A client of random images for each size."""
    rng = np.random.default_rng(0)
    return [
        fpl.Client(
            rng.integers(0, 256, (n, 32, 32, 3), np.uint8),
            rng.integers(0, 10, n).astype(np.int32),
            "mnist",
        )
        for n in sizes
    ]


def one_epoch(width, clients=20, **changes):
    """A Config of one local epoch."""
    return fpl.Config(
        width=width,
        local_epochs=1,
        **{"batch_size": BATCH, "clients": (clients, 0, 0, 0)} | changes,
    )


def turn(state, client, cfg):
    """A client's turn of a round."""
    return fpl.client_update(state, client, np.random.default_rng(0), cfg)


def server_over_round(repeat, width, sizes):
    """All of a round that happens outside of the clients: averaging, FINCH, prototypes."""
    cfg = one_epoch(width, len(sizes))
    clients, spent = made_clients(sizes), []

    def engine(function, items):
        for item in items:
            start = time.perf_counter()
            update = function(item)
            spent.append(time.perf_counter() - start)
            yield update

    turn(fpl.init_state(cfg), made_clients([BATCH])[0], cfg)  # compiles
    state, pairs = fpl.init_state(cfg), []
    for _ in range(repeat):
        spent.clear()
        start = time.perf_counter()
        state, _ = fpl.server_round(state, clients, cfg, engine)
        total = time.perf_counter() - start
        pairs.append((total - sum(spent), total))
    return pairs


def scaling_over_turn(repeat, width, images):
    """Taking out and scaling every batch of a client's turn, over the whole turn."""
    cfg, rng = one_epoch(width), np.random.default_rng(0)
    client, state = made_clients([images])[0], fpl.init_state(cfg)

    def scaling():
        for some, _ in fpl.batches(client, cfg, rng):  # trained on
            fpl.network_input(some)
        for start in range(0, images, 128):  # looked at, for the class means
            fpl.network_input(client.images[start : start + 128])

    return in_turn(scaling, lambda: turn(state, client, cfg), repeat)


def round_by_images(repeat, width, images, times):
    """Seconds for each image of a round of four clients.

    Clients that hold `times` as many images over clients that hold images.
    """
    cfg = one_epoch(width, 4)
    state = fpl.init_state(cfg)
    few, many = made_clients([images] * 4), made_clients([times * images] * 4)
    pairs = in_turn(
        lambda: fpl.server_round(state, many, cfg),
        lambda: fpl.server_round(state, few, cfg),
        repeat,
    )
    return [(first / (4 * times * images), second / (4 * images)) for first, second in pairs]


# ---------------------------------------------------------------- a whole round

# Sec. 4.1: images of a client of MNIST, USPS, SVHN, SYN
DIGITS = (600,) * 6 + (72,) * 4 + (732,) * 3 + (100,) * 7
TEST_IMAGES = 15_959  # of the files at hand when the first figures were taken


class Round(NamedTuple):
    """What a round of the digits begins with."""

    state: fpl.ServerState
    clients: list
    tests: dict
    cfg: fpl.Config


def round_of(width, sizes=DIGITS, tested=TEST_IMAGES):
    """A round of clients of those sizes with two local epochs, from the second round on: there are
    prototypes. Without sizes the 20 clients of the digits."""
    cfg = dataclasses.replace(one_epoch(width, len(sizes)), local_epochs=2)
    images = np.random.default_rng(2).integers(0, 256, (tested, 32, 32, 3), np.uint8)
    state = fpl.init_state(cfg)._replace(round=1, prototypes=batch_of(width).prototypes)
    return Round(state, made_clients(sizes), {"mnist": (images, np.arange(tested) % 10)}, cfg)


def small_round(width):
    """A round that compiles and warms: a batch of training for each of the 20 clients."""
    return round_of(width, (BATCH,) * len(DIGITS), BATCH)


def by_engine(work, engine):
    """A call that makes the round: train, class means, server, test."""

    def once():
        after, _ = fpl.server_round(work.state, work.clients, work.cfg, engine)
        return fpl.evaluate(after, work.tests, engine)

    return once


def all_cores(work):
    """The default engine of this machine, opened, for that round."""
    name, workers, _ = engines.chosen(None, len(work.clients), work.cfg)
    return engines.opened(name, workers, work.cfg)


def engine_over_engine(repeat, width, engine, other):
    """A round by one engine over the same round by another."""
    work, small = round_of(width), small_round(width)
    for warmed in (engine, other):
        by_engine(small, warmed)()
    return in_turn(by_engine(work, engine), by_engine(work, other), repeat, before=0)


def processes_over_loop(repeat, width):
    """A round by the default engine over the same round in this process."""
    with all_cores(small_round(width)) as engine:
        return engine_over_engine(repeat, width, engine, engines.loop)


def all_workers_over_one(repeat, width):
    """A round by the default engine over the same round by one worker, bound to one core."""
    work = small_round(width)
    with all_cores(work) as engine, engines.opened("processes", 1, work.cfg) as single:
        return engine_over_engine(repeat, width, engine, single)


def round_over_torch(repeat, width, losses):
    """A round by the default engine over PyTorch's, one client after another, all threads."""
    from lab.proof import in_torch  # which needs PyTorch

    work, small, losses = round_of(width), small_round(width), getattr(in_torch, losses)
    with all_cores(work) as engine:
        by_engine(small, engine)()
        in_torch.whole_round(*small, losses)
        return in_turn(
            by_engine(work, engine), lambda: in_torch.whole_round(*work, losses), repeat, before=0
        )


def round_by_clients(repeat, width, few, many):
    """Seconds for each client of a round by the default engine: many clients of 128 images over
    few. Without a test."""
    small, large = (round_of(width, (128,) * number, 0) for number in (few, many))
    with all_cores(small) as engine:
        pairs = in_turn(
            lambda: fpl.server_round(large.state, large.clients, large.cfg, engine),
            lambda: fpl.server_round(small.state, small.clients, small.cfg, engine),
            repeat,
        )
    return [(first / many, second / few) for first, second in pairs]


# ---------------------------------------------------------------- the start


def shortest_run(lr):
    """Run two clients of one batch for a round, as the command does, and test one image a domain.

    Raises InputError where it fails.
    """
    settings = "--clients 2,0,0,0 --fraction 0.001 --rounds 1 --local-epochs 1 --test-images 1"
    command = [sys.executable, "-I", str(ROOT / "lab" / "__main__.py"), "digits"]
    command += [*settings.split(), "--lr", lr]  # MindSpore keeps no graph where a folder is started
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise InputError(
            f"the shortest run ended with status {done.returncode}: {last_line(done.stderr)}; "
            "leave the row start out by --rows"
        )


def last_line(text):
    """What a process said last."""
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def kept_over_compiled(repeat):
    """The shortest run with settings that this machine has had before, over one with new ones."""
    pairs = []
    for _ in range(repeat):
        lr = f"0.01{time.time_ns()}"  # nobody has had it: what is compiled is kept by settings
        new = seconds(lambda lr=lr: shortest_run(lr))
        pairs.append((seconds(lambda lr=lr: shortest_run(lr)), new))
    return pairs


# ---------------------------------------------------------------- memory


def peak_memory():
    """The most that this process ever held, in MiB."""
    # resource's ru_maxrss takes over the parent's peak when a process starts; VmHWM begins anew.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def peak_of_round(clients, width, images):
    """Train one round of that many clients in this process -> its peak memory in MiB.

    Prototypes "running": the features of training are used,
    so that a turn takes one short step and no prediction.
    """
    cfg = one_epoch(width, clients, batch_size=images, prototypes_from="running")
    fpl.server_round(fpl.init_state(cfg), made_clients([images] * clients), cfg)
    return peak_memory()


def peak_elsewhere(*arguments):
    """peak_of_round in a fresh process."""
    code = f"from lab.proof import measures; print(measures.peak_of_round(*{arguments}))"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        raise InputError(
            f"the process that was to train {arguments[0]} clients ended with status "
            f"{done.returncode}: {last_line(done.stderr)}; leave the row memory out by --rows"
        )
    return float(done.stdout.split()[-1])


def memory_by_clients(repeat, width, few, many, images):
    """The peak of a round of many clients over that of few."""
    return [
        (peak_elsewhere(many, width, images), peak_elsewhere(few, width, images))
        for _ in range(repeat)
    ]


# ---------------------------------------------------------------- FINCH


def finch_by_rows(repeat, few, many):
    """Nanoseconds for each pair of rows: many random rows of width 64 over few.

    1: the time grows with n^2.
    """
    rng = np.random.default_rng(0)
    small, large = rng.standard_normal((few, 64)), rng.standard_normal((many, 64))
    pairs = in_turn(lambda: finch(large), lambda: finch(small), repeat)
    return [(1e9 * first / many**2, 1e9 * second / few**2) for first, second in pairs]
