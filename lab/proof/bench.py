"""`./run.sh bench`: what training costs, each figure a ratio of two things done in turn.

A ratio holds on another machine where seconds do not. A row of ROWS says what is measured over
what, and what the ratio must be. The two take turns in one process, or come out of one call; a
ratio is taken of each pair, and the row's figure is the median of them. Beside it stand the
quartiles, how busy other processes were meanwhile, and the verdict: met or missed; "close" where
the bound lies within the median's error; "noisy" where the error or the others' work is too large
to trust. A core that others keep busy slows MindSpore's threads many times over, so the machine
should do nothing else.

Images are random: a step takes as long with any.
No file of images is read; a run reads them once, before its first round.
"""

import argparse
import csv
import dataclasses
import functools
import importlib.util
import io
import os
import platform
import subprocess
import sys
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
from lab.proof.timing import BUSY, Row, clock, figures, in_turn, met, others_since, seconds, verdict
from lab.run.folder import versions
from lab.shell import words
from lab.shell.cores import granted
from lab.shell.errors import InputError
from lab.shell.files import write_whole
from lab.shell.options import read_options
from lab.shell.program import guarded

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


def round_of(width):
    """Its 20 clients with two local epochs, from the second round on: there are prototypes."""
    cfg = dataclasses.replace(one_epoch(width), local_epochs=2)
    images = np.random.default_rng(2).integers(0, 256, (TEST_IMAGES, 32, 32, 3), np.uint8)
    state = fpl.init_state(cfg)._replace(round=1, prototypes=batch_of(width).prototypes)
    return Round(state, made_clients(DIGITS), {"mnist": (images, np.arange(len(images)) % 10)}, cfg)


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


def processes_over_loop(repeat, width):
    """A round by the default engine over the same round in this process."""
    work = round_of(width)
    with all_cores(work) as engine:
        return in_turn(by_engine(work, engine), by_engine(work, engines.loop), repeat, before=1)


def round_over_torch(repeat, width, losses):
    """A round by the default engine over PyTorch's, one client after another, all threads."""
    from lab.proof import in_torch  # which needs PyTorch

    work, losses = round_of(width), getattr(in_torch, losses)
    with all_cores(work) as engine:
        return in_turn(
            by_engine(work, engine), lambda: in_torch.whole_round(*work, losses), repeat, before=1
        )


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
    code = f"from lab.proof import bench; print(bench.peak_of_round(*{arguments}))"
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise InputError(
            f"the process that was to train {arguments[0]} clients ended with status "
            f"{done.returncode}: {said}; leave the row memory out by --rows"
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


# ---------------------------------------------------------------- the rows


def rows(*table):
    """Of each: name, first, second, side, bound, repeat, measure, its arguments, unit, flag.

    -> {name: Row}
    """
    return {row[0]: Row(*row[:6], functools.partial(row[6], **row[7]), *row[8:]) for row in table}


STEP, FINCH = "local step, width {}", "finch of {:,} x 64, a pair of rows"
ROUND = "round of digits, width {}: on all cores"
# fmt: off
ROWS = rows(
    ("losses-64", f"10 x {STEP.format(64)}: CE + CPCL + UPCR", "CE", "at most", 1.03,
     6, both_losses_over_none, {"width": 64, "compiles": 3}),
    ("losses-16", f"10 x {STEP.format(16)}: CE + CPCL + UPCR", "CE", "at most", 1.08,
     25, both_losses_over_none, {"width": 16, "compiles": 5}),
    ("loop", "CPCL + UPCR and gradient, image by image", "vectorised", "at least", 50,
     10, loop_over_vectorised, {"d": 512}),
    ("eager-64", f"10 x {STEP.format(64)}: nn.Cell, nn.SGD", "compiled", "at least", 1.4,
     3, eager_over_compiled, {"width": 64}),
    ("eager-16", f"10 x {STEP.format(16)}: nn.Cell, nn.SGD", "compiled", "at least", 1.4,
     8, eager_over_compiled, {"width": 16}),
    ("server", "server's part: means, FINCH, prototypes", "round of 20 clients, 1 epoch, width 16",
     "at most", 0.01, 2, server_over_round, {"width": 16, "sizes": DIGITS}),
    ("images", "taking out and scaling the images", "client's turn, width 16", "at most", 0.02,
     5, scaling_over_turn, {"width": 16, "images": 640}),
    ("cores-8", ROUND.format(8), "in one process", "at most", 0.85,
     3, processes_over_loop, {"width": 8}),
    ("cores-16", ROUND.format(16), "in one process", "at most", 0.85,
     3, processes_over_loop, {"width": 16}),
    ("memory", "peak memory of a round, width 32: 200 clients", "20 clients", "at most", 1.2,
     2, memory_by_clients, {"width": 32, "few": 20, "many": 200, "images": 8}, "MiB"),
    ("linear", "round of width 8, an image: 4 x 512 images", "4 x 128 images", "at most", 1.1,
     5, round_by_images, {"width": 8, "images": 128, "times": 4}),
    ("steady", f"{STEP.format(16)}: from the 200th on", "from the 20th on", "at most", 1.05,
     20, late_over_early, {"width": 16, "early": 20, "late": 200}),
    ("finch-3k", FINCH.format(3000), "1,000 x 64", "at most", 1.25,
     10, finch_by_rows, {"few": 1000, "many": 3000}, "ns"),
    ("finch-10k", FINCH.format(10_000), "3,000 x 64", "at most", 1.25,
     5, finch_by_rows, {"few": 3000, "many": 10_000}, "ns"),
    ("finch-30k", FINCH.format(30_000), "10,000 x 64", "at most", 1.25,
     3, finch_by_rows, {"few": 10_000, "many": 30_000}, "ns", "large"),
    ("finch-100k", FINCH.format(100_000), "30,000 x 64", "at most", 1.25,
     2, finch_by_rows, {"few": 30_000, "many": 100_000}, "ns", "large"),
    ("torch-64", f"10 x {STEP.format(64)}: compiled", "PyTorch, held to AVX2 too", "at most", 1.0,
     3, compiled_over_torch, {"width": 64}, "s", "torch"),
    ("torch-16", f"10 x {STEP.format(16)}: compiled", "PyTorch, held to AVX2 too", "at most", 1.0,
     8, compiled_over_torch, {"width": 16}, "s", "torch"),
    ("released-8", ROUND.format(8), "PyTorch, losses image by image", "at most", 0.9,
     3, round_over_torch, {"width": 8, "losses": "image_by_image"}, "s", "torch"),
    ("round-8", ROUND.format(8), "PyTorch, losses vectorised", "at most", 1.0,
     3, round_over_torch, {"width": 8, "losses": "vectorised"}, "s", "torch"),
    ("released-16", ROUND.format(16), "PyTorch, losses image by image", "at most", 0.9,
     3, round_over_torch, {"width": 16, "losses": "image_by_image"}, "s", "torch"),
    ("round-16", ROUND.format(16), "PyTorch, losses vectorised", "at most", 1.0,
     3, round_over_torch, {"width": 16, "losses": "vectorised"}, "s", "torch"),
)
# fmt: on


# ---------------------------------------------------------------- what is shown


def machine():
    """One line: processor, cores, versions, what steers the threads."""
    model = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    steered = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA")
    there = {**versions(), **{name: os.environ[name] for name in steered if name in os.environ}}
    facts = [f"{name} {value}" for name, value in there.items()]
    cores = words.plural(granted(), "core")
    return ", ".join([model[0] if model else platform.machine(), cores, *facts])


def digits(value):
    """Three significant digits without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 0.001 else f"{value:.5f}"


HEAD = ["row", "measured", "over", "median", "median over", "unit"]
HEAD += ["ratio", "quartiles", "n", "others", "bound", "verdict"]


def cells(result):
    """A Result as a row of texts, under HEAD."""
    row = result.row
    return [
        row.name,
        row.first,
        row.second,
        digits(result.first),
        digits(result.second),
        row.unit,
        digits(result.ratio),
        f"{digits(result.low)}-{digits(result.high)}",
        str(result.repeats),
        f"{result.others:.2f}",
        f"{row.side} {row.bound:g}",
        verdict(result),
    ]


def table(results):
    """The Results as aligned lines."""
    return "\n".join(words.table([HEAD, *map(cells, results)], left=(0, 1, 2, 5, 10, 11)))


def facts_of(result, where):
    """A Result as a row of the CSV file: {column: value}, with all digits."""
    row = result.row
    return {
        "row": row.name,
        "measured": row.first,
        "over": row.second,
        "unit": row.unit,
        "median": result.first,
        "median_over": result.second,
        "ratio": result.ratio,
        "quartile_1": result.low,
        "quartile_3": result.high,
        "repeats": result.repeats,
        "others": result.others,
        "side": row.side,
        "bound": row.bound,
        "verdict": verdict(result),
        "seconds": result.seconds,
        "machine": where,
    }


def csv_text(results, where):
    """A line for each Result, under the names of the columns. where: from `machine`."""
    lines = [facts_of(result, where) for result in results]
    file = io.StringIO()
    writer = csv.DictWriter(file, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


# ---------------------------------------------------------------- command line


def read(argv):
    """The command line -> ([Row], path of the CSV file). Raises InputError."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench",
        allow_abbrev=False,
        description="Measure what training costs, in ratios of two things in turn. "
        "Needs a machine that does nothing else.",
    )
    parser.add_argument(
        "--rows",
        metavar="A,B",
        help=f"only these: {', '.join(name for name in ROWS if not ROWS[name].flag)}",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        metavar="N",
        help="pairs for each row, at least 2; default: each row's own",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        default="runs/bench.csv",
        help="where the figures go (runs/bench.csv)",
    )
    parser.add_argument(
        "--large", action="store_true", help="also FINCH of 30,000 and 100,000 rows"
    )
    parser.add_argument(
        "--torch",
        action="store_true",
        help="also against PyTorch, which must be installed beside this",
    )
    given = read_options(parser, argv)
    there = {name: row for name, row in ROWS.items() if not row.flag or getattr(given, row.flag)}
    wanted = list(there)
    if given.rows is not None:
        wanted = [word.strip() for word in given.rows.split(",")]
    for word in wanted:
        if word not in there:
            more = f", with --{ROWS[word].flag} {word} too" if word in ROWS else ""
            raise InputError(f"--rows names {word!r}; there are {', '.join(there)}{more}")
    if given.repeat is not None and given.repeat < 2:
        raise InputError(
            f"--repeat is {given.repeat}; it must be at least 2, or there is no spread"
        )
    chosen = [row for name, row in there.items() if name in wanted]
    if any(row.flag == "torch" for row in chosen) and importlib.util.find_spec("torch") is None:
        raise InputError(
            f"--torch finds no PyTorch; {sys.executable} -m pip install torch brings it, "
            "or leave --torch away"
        )
    return [row._replace(repeat=given.repeat or row.repeat) for row in chosen], given.csv


def measured(row):
    """The Result of a row, measured now."""
    before, start = clock(), time.perf_counter()
    pairs = row.measure(row.repeat)
    return figures(row, pairs, others_since(before), time.perf_counter() - start)


def bench(argv):
    """What `main` does when all goes well. Exit status 0: every row is met, 1: some are missed."""
    chosen, path = read(argv)
    if not os.path.exists("/proc/stat"):
        raise InputError("bench reads from /proc what other processes do; call it on Linux")
    if os.path.isdir(path):
        raise InputError(f"--csv is {path}, a folder; it must be a file to write")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    where, results = machine(), []
    # May it be written to? What a call before left there stays until there is more.
    with open(path, "a", encoding="utf-8"):
        pass
    before = clock()
    time.sleep(1)
    others = others_since(before)
    print(f"{where}\nother processes use {others:.2f} cores{': quiet' * (others <= BUSY)}")
    if others > BUSY:
        print(
            "Warning: this is not a quiet machine; MindSpore waits for its slowest thread, so rows "
            "come out noisy."
        )
    print(flush=True)
    for row in chosen:
        results.append(measured(row))
        ratio, outcome = digits(results[-1].ratio), verdict(results[-1])
        print(f"{row.name:<10} {ratio:>8}  {outcome:<20} {results[-1].seconds:4.0f} s", flush=True)
        write_whole(
            path, lambda part: Path(part).write_text(csv_text(results, where), encoding="utf-8")
        )
    missed = [result.row.name for result in results if not met(result)]
    noisy = [result.row.name for result in results if "noisy" in verdict(result)]
    print(
        f"\n{table(results)}\n\n{path}: {len(results) - len(missed)} of {len(results)} met"
        + (f"; missed: {', '.join(missed)}" if missed else "")
        + (f"; noisy, measure again on a quiet machine: {', '.join(noisy)}" if noisy else "")
    )
    return 1 if missed else 0


def main(argv=None):
    """Exit status: 0 all rows met, 1 some missed, 2 bad input or unwritable file, 130 stopped."""
    return guarded(bench, argv, "Stopped; the same command begins again.")
