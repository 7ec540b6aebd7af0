"""`./run.sh bench`: what training costs, each figure a ratio of two things that this machine does in turn.

A ratio holds on another machine where seconds do not. A row of ROWS says what is measured over what, and what the ratio
must be. The two take turns in one process, or come out of one call; a ratio is taken of each pair, and the row's figure is
the median of them. Beside it stand the quartiles, how busy other processes were meanwhile, and the verdict: met or missed;
"close" where the bound lies within the median's error; "noisy" where the error or the others' work is too large to trust.
A core that others keep busy slows MindSpore's threads many times over, so the machine should do nothing else.

Images are random: a step takes as long with any. No file of images is read; a run reads them once, before its first round.
"""
if __name__ == "__main__":
    from lab import starting  # noqa: F401  (one line instead of an abort while the packages load)

import argparse
import csv
import functools
import importlib.util
import io
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

import fpl  # trap: before mindspore, because it sets what oneDNN reads when it is loaded
from finch import finch
from lab import baselines, cli, report

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64  # Sec. 4.1


class Row(NamedTuple):
    """What is measured: first over second, as often as repeat says; the median ratio must be at most or at least bound.

    measure(repeat) -> pairs [(first, second)] in `unit`; flag: the option that asks for it, "" for always.
    """
    name: str
    first: str
    second: str
    side: str  # at most | at least
    bound: float
    repeat: int
    measure: Callable
    unit: str = "s"
    flag: str = ""


class Result(NamedTuple):
    """A measured row. first, second: medians; low, ratio, high: quartiles of the ratio; others: cores that they used."""
    row: Row
    repeats: int
    first: float
    second: float
    low: float
    ratio: float
    high: float
    others: float
    seconds: float


# ---------------------------------------------------------------- time

def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(first, second, repeat):
    """Seconds of the two, which take turns in going first. Each is called twice before, to compile and to fill caches."""
    for work in (first, first, second, second):
        work()
    pairs = []
    for number in range(repeat):
        if number % 2:
            late = seconds(second)
            pairs.append((seconds(first), late))
        else:
            pairs.append((seconds(first), seconds(second)))
    return pairs


# ---------------------------------------------------------------- what is measured: the local step

class Batch(NamedTuple):
    """A batch and the prototypes it meets: M = 20 clients, so J = 10 for each of K = 10 classes, every slot filled."""
    cfg: fpl.Config
    state: fpl.ServerState
    images: np.ndarray    # [B,32,32,3] uint8
    labels: np.ndarray    # [B]
    clusters: np.ndarray  # [K,J,d]
    mask: np.ndarray      # [K,J]
    unbiased: np.ndarray  # [K,d]


def batch_of(width):
    rng, cfg = np.random.default_rng(0), fpl.complete(fpl.Config(width=width))
    state = fpl.init_state(cfg)
    clusters = rng.random(state.prototypes.clusters.shape, np.float32)
    mask = np.ones(clusters.shape[:2], bool)
    return Batch(cfg, state, rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8), rng.integers(0, 10, BATCH).astype(np.int32),
                 clusters, mask, fpl.unbiased_prototypes(clusters, mask))


def fpl_received(batch):
    """What fpl.local_loss is given beside the batch."""
    numbers = (Tensor(number, ms.float32) for number in (batch.cfg.tau, batch.cfg.cpcl, batch.cfg.upcr))
    return (Tensor(batch.clusters), Tensor(batch.mask), Tensor(batch.unbiased), *numbers)


def compiled_step(batch, step, received):
    """A call that makes one more step with a step from fpl.step_on -> the loss, not waited for."""
    weights, running = fpl.flat(batch.state.params, fpl.PARAMS), fpl.flat(batch.state.stats, fpl.STATS)
    velocity = tuple(ops.zeros_like(weight) for weight in weights)
    x, labels = fpl.network_input(batch.images), Tensor(batch.labels)
    sgd = Tensor([batch.cfg.lr, batch.cfg.momentum, batch.cfg.weight_decay], ms.float32)

    def once():
        nonlocal weights, velocity, running
        weights, velocity, running, loss, _ = step(ms.mutable(weights), ms.mutable(velocity), ms.mutable(running), x, labels,
                                                   ms.mutable(received), sgd)
        return loss
    return once


STEPS = 10


def steps(once):
    """Ten steps, as in training: nothing waits between them. Waiting after each made a step of width 16 take twice as long."""
    def several():
        for _ in range(STEPS):
            loss = once()
        return float(loss)
    return several


def fpl_step(batch):
    return compiled_step(batch, fpl.step_on(fpl.local_loss, batch.cfg.upcr_reduce), fpl_received(batch))


def cross_entropy_step(batch):
    return compiled_step(batch, fpl.step_on(baselines.fedavg_loss), (baselines.number(0.0),))


def both_losses_over_none(repeat, width, compiles):
    """The pairs come from several compiles of the two: MindSpore cuts tensors up as its clock says is fastest in a graph's first
    runs, and lives with what it found, so that a single compile may favour either side by a tenth."""
    batch, pairs = batch_of(width), []
    for share in np.bincount(np.arange(repeat) % compiles):
        fpl.step_on.cache_clear()
        pairs += in_turn(steps(fpl_step(batch)), steps(cross_entropy_step(batch)), share)
    return pairs


# ---------------------------------------------------------------- the two losses alone

@ms.jit
def losses_and_gradient(z, labels, clusters, mask, unbiased, tau):
    """CPCL + UPCR (mean) and its gradient with respect to z."""
    def total(z):
        return (fpl.cpcl_loss(z, labels, clusters, mask, tau) +
                fpl.upcr_loss(z, labels, unbiased, mask.any(1), "mean"))
    return ms.value_and_grad(total, 0)(z)


def loop_losses(z, labels, clusters, unbiased, tau):
    """The same as the released code writes it: image by image, the prototypes gathered anew for each. clusters: K x [J,d]."""
    total = 0.0
    for i, label in enumerate(labels):
        feature, k = z[i].expand_dims(0), int(label)
        others = ops.cat([rows for j, rows in enumerate(clusters) if j != k])
        # trap: ops.cosine_similarity leaves the calling thread without subnormal numbers
        similarity = (fpl.unit(ops.cat((clusters[k], others))) * fpl.unit(feature)).sum(1) / tau
        own = Tensor([1.0] * len(clusters[k]) + [0.0] * len(others))
        exponentials = ops.exp(similarity)
        contrast = -ops.log((exponentials * own).sum() / exponentials.sum())
        total = total + contrast + ops.mse_loss(feature, unbiased[k].expand_dims(0))
    return total / len(labels)


def loss_functions(d):
    """(vectorised, loop): each a call that gives (loss, its gradient [B,d]) of B = 64, K = 10, J = 10."""
    batch = batch_of(d // 8)
    z = Tensor(np.random.default_rng(1).random((BATCH, d), np.float32))
    labels, tau = Tensor(batch.labels), Tensor(batch.cfg.tau, ms.float32)
    arrays = Tensor(batch.clusters), Tensor(batch.mask), Tensor(batch.unbiased)
    ragged, means = [Tensor(rows) for rows in batch.clusters], [Tensor(mean) for mean in batch.unbiased]
    loop = ms.value_and_grad(lambda z: loop_losses(z, labels, ragged, means, batch.cfg.tau), 0)

    def finished(outputs):
        return float(outputs[0]), outputs[1].asnumpy()
    return lambda: finished(losses_and_gradient(z, labels, *arrays, tau)), lambda: finished(loop(z))


def loop_over_vectorised(repeat, d):
    vectorised, loop = loss_functions(d)
    return in_turn(loop, vectorised, repeat)


# ---------------------------------------------------------------- the usual way to write it: nn.Cell, nn.SGD, no compiling

def layer(c_in, c_out, size, stride):
    return nn.SequentialCell([nn.Conv2d(c_in, c_out, size, stride, pad_mode="pad", padding=size // 2, has_bias=False),
                              nn.BatchNorm2d(c_out, fpl.BN_EPS, 1 - fpl.BN_MOMENTUM)])  # MindSpore's share is of the old


class Block(nn.Cell):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.a, self.b = layer(c_in, c_out, 3, stride), layer(c_out, c_out, 3, 1)
        self.shortcut = layer(c_in, c_out, 1, stride) if stride != 1 else nn.Identity()

    def construct(self, x):
        return ops.relu(self.b(ops.relu(self.a(x))) + self.shortcut(x))


class ResNet10(nn.Cell):
    """fpl.network as a cell; its parameters come in PARAMS' order."""
    def __init__(self, width):
        super().__init__()
        self.stem = layer(3, width, 3, 1)
        self.stages = nn.SequentialCell([Block(c_in * width, c_out * width, stride) for _, c_in, c_out, stride in fpl.STAGES])
        self.linear = nn.Dense(8 * width, fpl.NUM_CLASSES)

    def construct(self, x):
        z = self.stages(ops.relu(self.stem(x))).mean((2, 3))
        return self.linear(z), z


def eager_step(batch):
    """A call that makes one more step of the cell: same batch, loss and first weights, operator by operator -> the loss."""
    cell = ResNet10(batch.cfg.width).set_train()
    for parameter, name in zip(cell.trainable_params(), fpl.PARAMS, strict=True):
        parameter.set_data(batch.state.params[name].copy())  # trap: set_data shares memory, and the optimizer writes to it
    x, labels, (clusters, mask, unbiased, tau, cpcl, upcr) = (fpl.network_input(batch.images), Tensor(batch.labels),
                                                              fpl_received(batch))

    def loss(x, labels):
        logits, z = cell(x)
        return (ops.cross_entropy(logits, labels) + cpcl * fpl.cpcl_loss(z, labels, clusters, mask, tau) +
                upcr * fpl.upcr_loss(z, labels, unbiased, mask.any(1), batch.cfg.upcr_reduce))
    optimizer = nn.SGD(cell.trainable_params(), batch.cfg.lr, batch.cfg.momentum, weight_decay=batch.cfg.weight_decay)
    loss_and_gradient = ms.value_and_grad(loss, None, optimizer.parameters)

    def once():
        value, gradient = loss_and_gradient(x, labels)
        optimizer(gradient)
        return value
    return once


def eager_over_compiled(repeat, width):
    batch = batch_of(width)
    return in_turn(steps(eager_step(batch)), steps(fpl_step(batch)), repeat)


# ---------------------------------------------------------------- PyTorch, which the project does not need

def torch_step(batch):
    """A call that makes one more step of the same network and loss from the same weights in PyTorch -> the loss."""
    import torch
    from torch.nn import functional as F

    p = {name: torch.tensor(value.asnumpy(), requires_grad=True) for name, value in batch.state.params.items()}
    s = {name: torch.tensor(value.asnumpy()) for name, value in batch.state.stats.items()}
    x = torch.tensor(fpl.network_input(batch.images).asnumpy())
    labels = torch.tensor(batch.labels.astype(np.int64))
    clusters, mask, unbiased = map(torch.tensor, (batch.clusters, batch.mask, batch.unbiased))
    optimizer = torch.optim.SGD(p.values(), batch.cfg.lr, batch.cfg.momentum, weight_decay=batch.cfg.weight_decay)

    def conv_bn(x, name, stride):
        x = F.conv2d(x, p[name + ".conv"], stride=stride, padding=p[name + ".conv"].shape[2] // 2)
        return F.batch_norm(x, s[name + ".bn.mean"], s[name + ".bn.variance"], p[name + ".bn.weight"], p[name + ".bn.bias"],
                            True, fpl.BN_MOMENTUM, fpl.BN_EPS)

    def loss():
        y = F.relu(conv_bn(x, "stem", 1))
        for stage, _, _, stride in fpl.STAGES:
            z = conv_bn(F.relu(conv_bn(y, stage + ".a", stride)), stage + ".b", 1)
            y = F.relu(z + (conv_bn(y, stage + ".shortcut", stride) if stride != 1 else y))
        z = y.mean((2, 3))
        there = mask.reshape(-1)
        similarity = F.normalize(z) @ F.normalize(clusters.reshape(len(there), -1)).T / batch.cfg.tau
        own = labels[:, None] == torch.arange(len(there)) // mask.shape[1]
        log_p, log_n = (similarity.masked_fill(~(which & there), -1e30).logsumexp(1) for which in (own, ~own))
        return (F.cross_entropy(F.linear(z, p["linear.weight"], p["linear.bias"]), labels) +
                batch.cfg.cpcl * F.softplus(log_n - log_p).mean() + batch.cfg.upcr * F.mse_loss(z, unbiased[labels]))

    def once():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()
    return once


def compiled_over_torch(repeat, width):
    batch = batch_of(width)
    return in_turn(steps(fpl_step(batch)), steps(torch_step(batch)), repeat)


# ---------------------------------------------------------------- a client's turn, a round

def made_clients(sizes):
    """A client of random images for each size."""
    rng = np.random.default_rng(0)
    return [fpl.Client(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n).astype(np.int32), "mnist")
            for n in sizes]


def turn(state, client, cfg):
    """A client's turn of a round."""
    return fpl.client_update(state.params, state.stats, state.prototypes, client, np.random.default_rng(0), cfg)


def server_over_round(repeat, width, sizes):
    """All of a round that happens outside of the clients: checking, averaging, FINCH, prototypes. One local epoch."""
    cfg = fpl.complete(fpl.Config(width=width, local_epochs=1, batch_size=BATCH, clients=sizes_as_clients(sizes)))
    clients, spent = made_clients(sizes), []

    def engine(train, chosen):
        for m in chosen:
            start = time.perf_counter()
            update = train(m)
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


def sizes_as_clients(sizes):
    """--clients that adds up to their number."""
    return (len(sizes), 0, 0, 0)


def scaling_over_turn(repeat, width, images):
    """Taking out and scaling every batch that a client's turn trains on and looks at, over the whole turn."""
    cfg = fpl.complete(fpl.Config(width=width, local_epochs=1, batch_size=BATCH))
    client, state, rng = made_clients([images])[0], fpl.init_state(cfg), np.random.default_rng(0)

    def scaling():
        for batch in fpl.batches(len(client.labels), cfg.batch_size, rng):
            fpl.network_input(client.images[batch])
        for start in range(0, len(client.labels), fpl.PREDICT_BATCH):
            fpl.network_input(client.images[start:start + fpl.PREDICT_BATCH])
    return in_turn(scaling, lambda: turn(state, client, cfg), repeat)


def round_by_images(repeat, width, images, times):
    """Seconds for each image of a round of four clients: clients that hold `times` as many images over clients that hold images."""
    cfg = fpl.complete(fpl.Config(width=width, local_epochs=1, batch_size=BATCH, clients=(1, 1, 1, 1)))
    state = fpl.init_state(cfg)
    few, many = made_clients([images] * 4), made_clients([times * images] * 4)
    pairs = in_turn(lambda: fpl.server_round(state, many, cfg), lambda: fpl.server_round(state, few, cfg), repeat)
    return [(first / (4 * times * images), second / (4 * images)) for first, second in pairs]


def late_over_early(repeat, width, early, late):
    """Steps of one client's turn: those from step number `late` on over those from step number `early` on."""
    steps = late + repeat
    cfg = fpl.complete(fpl.Config(width=width, local_epochs=-(-steps // 10), batch_size=BATCH))
    batch, taken = batch_of(width), []
    compiled = fpl.step_on(fpl.local_loss, cfg.upcr_reduce)

    def step(*arguments):
        start = time.perf_counter()
        outputs = compiled(*arguments)
        outputs[3].asnumpy()  # waits for the step to end
        taken.append(time.perf_counter() - start)
        return outputs
    fpl.local_training(step, fpl_received(batch), batch.state.params, batch.state.stats, made_clients([10 * BATCH])[0],
                       np.random.default_rng(0), cfg)
    return list(zip(taken[late:late + repeat], taken[early:early + repeat]))


# ---------------------------------------------------------------- memory

def peak_memory():
    """The most that this process ever held, in MiB."""
    # trap: resource's ru_maxrss takes over the parent's peak when a process starts; VmHWM begins anew
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def peak_of_round(clients, width, images):
    """Train one round of that many clients in this process -> its peak memory in MiB.

    Prototypes "running": the features of training are used, so that a turn takes one short step and no prediction.
    """
    cfg = fpl.complete(fpl.Config(width=width, local_epochs=1, batch_size=images, prototypes_from="running",
                                  clients=sizes_as_clients(range(clients))))
    fpl.server_round(fpl.init_state(cfg), made_clients([images] * clients), cfg)
    return peak_memory()


def peak_elsewhere(*arguments):
    """peak_of_round in a fresh process."""
    code = f"from lab import bench; print(bench.peak_of_round(*{arguments}))"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    if done.returncode:
        raise fpl.InputError(f"the process that was to train {arguments[0]} clients ended with status {done.returncode}: "
                             f"{(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}; leave the row memory out by --rows")
    return float(done.stdout.split()[-1])


def memory_by_clients(repeat, width, few, many, images):
    return [(peak_elsewhere(many, width, images), peak_elsewhere(few, width, images)) for _ in range(repeat)]


# ---------------------------------------------------------------- FINCH

def finch_by_rows(repeat, few, many):
    """Seconds for each pair of rows, in nanoseconds: many random rows of width 64 over few. 1: the time grows with n^2."""
    rng = np.random.default_rng(0)
    small, large = rng.standard_normal((few, 64)), rng.standard_normal((many, 64))
    pairs = in_turn(lambda: finch(large), lambda: finch(small), repeat)
    return [(1e9 * first / many ** 2, 1e9 * second / few ** 2) for first, second in pairs]


# ---------------------------------------------------------------- the rows

def rows(*table):
    """(name, first, second, side, bound, repeat, measure, its arguments, unit, flag) -> {name: Row}."""
    return {row[0]: Row(*row[:6], functools.partial(row[6], **row[7]), *row[8:]) for row in table}


STEP, FINCH = "local step, width {}", "finch of {:,} x 64, a pair of rows"
DIGITS = (640,) * 6 + (64,) * 4 + (704,) * 3 + (128,) * 7  # Sec. 4.1's 600, 72, 732, 100 in whole batches
ROWS = rows(
    ("losses-64", f"10 x {STEP.format(64)}: CE + CPCL + UPCR", "CE", "at most", 1.03, 6, both_losses_over_none,
     {"width": 64, "compiles": 3}),
    ("losses-16", f"10 x {STEP.format(16)}: CE + CPCL + UPCR", "CE", "at most", 1.08, 25, both_losses_over_none,
     {"width": 16, "compiles": 5}),
    ("loop", "CPCL + UPCR and gradient, image by image", "vectorised", "at least", 50, 10, loop_over_vectorised, {"d": 512}),
    ("eager-64", f"10 x {STEP.format(64)}: nn.Cell, nn.SGD", "compiled", "at least", 1.4, 3, eager_over_compiled, {"width": 64}),
    ("eager-16", f"10 x {STEP.format(16)}: nn.Cell, nn.SGD", "compiled", "at least", 1.4, 8, eager_over_compiled, {"width": 16}),
    ("server", "server's part: means, FINCH, prototypes", "round of 20 clients, 1 epoch, width 16", "at most", 0.01, 2,
     server_over_round, {"width": 16, "sizes": DIGITS}),
    ("images", "taking out and scaling the images", "client's turn, width 16", "at most", 0.02, 5, scaling_over_turn,
     {"width": 16, "images": 640}),
    ("memory", "peak memory of a round, width 32: 200 clients", "20 clients", "at most", 1.2, 2, memory_by_clients,
     {"width": 32, "few": 20, "many": 200, "images": 8}, "MiB"),
    ("linear", "round of width 8, an image: 4 x 512 images", "4 x 128 images", "at most", 1.1, 5, round_by_images,
     {"width": 8, "images": 128, "times": 4}),
    ("steady", f"{STEP.format(16)}: from the 200th on", "from the 20th on", "at most", 1.05, 20, late_over_early,
     {"width": 16, "early": 20, "late": 200}),
    ("finch-3k", FINCH.format(3000), "1,000 x 64", "at most", 1.25, 10, finch_by_rows, {"few": 1000, "many": 3000}, "ns"),
    ("finch-10k", FINCH.format(10_000), "3,000 x 64", "at most", 1.25, 5, finch_by_rows, {"few": 3000, "many": 10_000}, "ns"),
    ("finch-30k", FINCH.format(30_000), "10,000 x 64", "at most", 1.25, 3, finch_by_rows, {"few": 10_000, "many": 30_000},
     "ns", "large"),
    ("finch-100k", FINCH.format(100_000), "30,000 x 64", "at most", 1.25, 2, finch_by_rows, {"few": 30_000, "many": 100_000},
     "ns", "large"),
    ("torch-64", f"10 x {STEP.format(64)}: compiled", "PyTorch, held to AVX2 too", "at most", 1.0, 3, compiled_over_torch, {"width": 64}, "s",
     "torch"),
    ("torch-16", f"10 x {STEP.format(16)}: compiled", "PyTorch, held to AVX2 too", "at most", 1.0, 8, compiled_over_torch, {"width": 16}, "s",
     "torch"),
)


# ---------------------------------------------------------------- the machine

BUSY = 0.1  # cores that others may use meanwhile
ERROR = 0.05  # of the median


def clock():
    """(seconds, busy core-seconds of the cores that this process may use, own core-seconds), each from some start."""
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user, nice, system, idle, waiting for the disk, two kinds of interrupts, stolen by other virtual machines
    ticks = sum(sum(map(int, line[1:4] + line[6:9])) for line in lines if line[0] in mine)
    return time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def others_since(before):
    """Cores that other processes kept busy since `before`, on average. before: from `clock`."""
    now, busy, own = (b - a for a, b in zip(before, clock()))
    return max(0.0, busy - own) / now


def machine():
    """One line: processor, cores, versions, what steers the threads."""
    model = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    there = {**report.versions(), **{name: os.environ[name] for name in ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA") if name in os.environ}}
    return ", ".join([model[0] if model else platform.machine(), f"{len(os.sched_getaffinity(0))} cores",
                      *(f"{name} {value}" for name, value in there.items())])


# ---------------------------------------------------------------- figures and verdicts

def figures(row, pairs, others, took):
    """The Result of a row's pairs."""
    first, second = np.median(pairs, axis=0)
    low, ratio, high = np.percentile([a / b for a, b in pairs], [25, 50, 75])
    return Result(row, len(pairs), float(first), float(second), float(low), float(ratio), float(high), others, took)


def error(result):
    """Half the width of the median's 95 % interval where ratios are normal: 1.96 * 1.2533 sigma / sqrt(n), sigma = IQR / 1.349."""
    return 1.82 * (result.high - result.low) / result.repeats ** 0.5


def met(result):
    return result.ratio <= result.row.bound if result.row.side == "at most" else result.ratio >= result.row.bound


def verdict(result):
    """met or missed; close: the bound lies within the error; noisy: the figure is not to be trusted."""
    close = abs(result.ratio - result.row.bound) < error(result)
    noisy = result.others > BUSY or error(result) > ERROR * result.ratio
    return ("met" if met(result) else "missed") + ", close" * close + ", noisy" * noisy


def digits(value):
    """Three significant digits without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.001 else f"{value:.5f}"


HEAD = ["row", "measured", "over", "median", "median over", "unit", "ratio", "quartiles", "n", "others", "bound", "verdict"]


def cells(result):
    row = result.row
    return [row.name, row.first, row.second, digits(result.first), digits(result.second), row.unit, digits(result.ratio),
            f"{digits(result.low)}-{digits(result.high)}", str(result.repeats), f"{result.others:.2f}", f"{row.side} {row.bound:g}",
            verdict(result)]


def table(results):
    return "\n".join(report.table([HEAD, *map(cells, results)], left=(0, 1, 2, 5, 10, 11)))


CSV_HEAD = ["row", "measured", "over", "unit", "median", "median_over", "ratio", "quartile_1", "quartile_3", "repeats", "others",
            "side", "bound", "verdict", "seconds", "machine"]


def csv_text(results, where):
    """All digits, a line for each row. where: from `machine`."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    writer.writerows([row.name, row.first, row.second, row.unit, r.first, r.second, r.ratio, r.low, r.high, r.repeats, r.others,
                      row.side, row.bound, verdict(r), r.seconds, where] for r in results for row in [r.row])
    return file.getvalue()


# ---------------------------------------------------------------- command line

def read(argv):
    """The command line -> ([Row], path of the CSV file). Raises InputError."""
    parser = argparse.ArgumentParser(prog="./run.sh bench", allow_abbrev=False, description=(
        "Measure what training costs, in ratios of two things in turn. Needs a machine that does nothing else."))
    parser.add_argument("--rows", metavar="A,B", help=f"only these: {', '.join(name for name in ROWS if not ROWS[name].flag)}")
    parser.add_argument("--repeat", type=int, metavar="N", help="pairs for each row, at least 2; default: each row's own")
    parser.add_argument("--csv", metavar="FILE", default="runs/bench.csv", help="where the figures go (runs/bench.csv)")
    parser.add_argument("--large", action="store_true", help="also FINCH of 30,000 and 100,000 rows")
    parser.add_argument("--torch", action="store_true", help="also against PyTorch, which must be installed beside this")
    given = cli.read_options(parser, argv)
    there = {name: row for name, row in ROWS.items() if not row.flag or getattr(given, row.flag)}
    wanted = [word.strip() for word in given.rows.split(",")] if given.rows is not None else list(there)
    for word in wanted:
        if word not in there:
            more = f", with --{ROWS[word].flag} {word} too" if word in ROWS else ""
            raise fpl.InputError(f"--rows names {word!r}; there are {', '.join(there)}{more}")
    if given.repeat is not None and given.repeat < 2:
        raise fpl.InputError(f"--repeat is {given.repeat}; it must be at least 2, or there is no spread")
    chosen = [row for name, row in there.items() if name in wanted]
    if any(row.flag == "torch" for row in chosen) and importlib.util.find_spec("torch") is None:
        raise fpl.InputError(f"--torch finds no PyTorch; {sys.executable} -m pip install torch brings it, or leave --torch away")
    return [row._replace(repeat=given.repeat or row.repeat) for row in chosen], given.csv


def measured(row):
    """The Result of a row, measured now."""
    before, start = clock(), time.perf_counter()
    pairs = row.measure(row.repeat)
    return figures(row, pairs, others_since(before), time.perf_counter() - start)


def bench(argv):
    """What `main` does when all goes well. Exit status 0: every row is met, 1: some are missed."""
    chosen, path = read(argv)
    if os.path.isdir(path):
        raise fpl.InputError(f"--csv is {path}, a folder; it must be a file to write")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    where, results = machine(), []
    with open(path, "a", encoding="utf-8"):  # may it be written to? What a call before left there stays until there is more
        pass
    before = clock()
    time.sleep(1)
    others = others_since(before)
    print(where)
    print(f"other processes use {others:.2f} cores" + (": quiet\n" if others <= BUSY else
          "\nWarning: this is not a quiet machine; MindSpore waits for its slowest thread, so rows come out noisy.\n"), flush=True)
    for row in chosen:
        results.append(measured(row))
        print(f"{row.name:<10} {digits(results[-1].ratio):>8}  {verdict(results[-1]):<20} {results[-1].seconds:4.0f} s", flush=True)
        report.write_whole(path, lambda part: Path(part).write_text(csv_text(results, where), encoding="utf-8"))
    missed = [result.row.name for result in results if not met(result)]
    noisy = [result.row.name for result in results if "noisy" in verdict(result)]
    print(f"\n{table(results)}\n\n{path}: {len(results) - len(missed)} of {len(results)} met"
          + (f"; missed: {', '.join(missed)}" if missed else "")
          + (f"; noisy, measure again on a quiet machine: {', '.join(noisy)}" if noisy else ""))
    return 1 if missed else 0


def main(argv=None):
    """Exit status: 0 every row met, 1 some missed, 2 bad input or a file that cannot be written, 130 interrupted."""
    return cli.guarded(bench, argv, "Stopped; the same command begins again.")


if __name__ == "__main__":
    cli.as_program(main)
