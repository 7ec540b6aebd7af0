"""`./run.sh bench`: what training costs, each figure a ratio of two things done in turn.

A ratio holds on another machine where seconds do not. A row of ROWS says what is measured over
what, and what the ratio must be. The two take turns in one process, or come out of one call; a
ratio is taken of each pair, and the row's figure is the median of them. Beside it stand the
quartiles, how busy other processes were meanwhile, and the verdict: met or missed; "close" where
the bound lies within the median's error; "noisy" where the error or the others' work is too large
to trust. A core that others keep busy slows MindSpore's threads many times over, so the machine
should do nothing else.

measures.py does what a row measures.
"""

import argparse
import csv
import functools
import importlib.util
import io
import os
import platform
import sys
import time
from pathlib import Path

from lab.proof import measures
from lab.proof.timing import BUSY, Row, clock, figures, met, others_since, verdict
from lab.run.folder import versions
from lab.shell import words
from lab.shell.cores import granted
from lab.shell.errors import InputError
from lab.shell.files import write_whole
from lab.shell.options import read_options
from lab.shell.program import guarded

# ---------------------------------------------------------------- the rows


def rows(*table):
    """Of each: name, first, second, side, bound, repeat, measure, its arguments, unit, flags.

    -> {name: Row}
    """
    return {row[0]: Row(*row[:6], functools.partial(row[6], **row[7]), *row[8:]) for row in table}


STEP, FINCH = "local step, width {}", "finch of {:,} x 64, a pair of rows"
ROUND = "round of digits, width {}: on all cores"
# fmt: off
ROWS = rows(
    ("losses-64", f"10 x {STEP.format(64)}: CE + CPCL + UPCR", "CE", "at most", 1.03,
     6, measures.both_losses_over_none, {"width": 64, "compiles": 3}),
    ("losses-16", f"10 x {STEP.format(16)}: CE + CPCL + UPCR", "CE", "at most", 1.08,
     25, measures.both_losses_over_none, {"width": 16, "compiles": 5}),
    ("loop", "CPCL + UPCR and gradient, image by image", "vectorised", "at least", 50,
     10, measures.loop_over_vectorised, {"d": 512}),
    ("eager-64", f"10 x {STEP.format(64)}: nn.Cell, nn.SGD", "compiled", "at least", 1.4,
     3, measures.eager_over_compiled, {"width": 64}),
    ("eager-16", f"10 x {STEP.format(16)}: nn.Cell, nn.SGD", "compiled", "at least", 1.4,
     8, measures.eager_over_compiled, {"width": 16}),
    ("server", "server's part: means, FINCH, prototypes", "round of 20 clients, 1 epoch, width 16",
     "at most", 0.01, 2, measures.server_over_round, {"width": 16, "sizes": measures.DIGITS}),
    ("images", "taking out and scaling the images", "client's turn, width 16", "at most", 0.02,
     5, measures.scaling_over_turn, {"width": 16, "images": 640}),
    ("start", "a run of one batch for each of two clients: its graphs kept", "its graphs new",
     "at most", 0.7, 2, measures.kept_over_compiled, {}),
    ("cores-8", ROUND.format(8), "in one process", "at most", 0.85,
     3, measures.processes_over_loop, {"width": 8}),
    ("cores-16", ROUND.format(16), "in one process", "at most", 0.85,
     2, measures.processes_over_loop, {"width": 16}),
    ("workers", ROUND.format(8), "on one core", "at most", 0.6,
     2, measures.all_workers_over_one, {"width": 8}),
    ("clients-40", "round of 40 clients, width 8, a client", "20 clients", "at most", 1.1,
     3, measures.round_by_clients, {"width": 8, "few": 20, "many": 40}),
    ("clients-80", "round of 80 clients, width 8, a client", "40 clients", "at most", 1.1,
     2, measures.round_by_clients, {"width": 8, "few": 40, "many": 80}),
    ("memory", "peak memory of a round, width 32: 200 clients", "20 clients", "at most", 1.2,
     2, measures.memory_by_clients, {"width": 32, "few": 20, "many": 200, "images": 8}, "MiB"),
    ("linear", "round of width 8, an image: 4 x 512 images", "4 x 128 images", "at most", 1.1,
     5, measures.round_by_images, {"width": 8, "images": 128, "times": 4}),
    ("steady", f"{STEP.format(16)}: from the 200th on", "from the 20th on", "at most", 1.05,
     20, measures.late_over_early, {"width": 16, "early": 20, "late": 200}),
    ("finch-3k", FINCH.format(3000), "1,000 x 64", "at most", 1.25,
     10, measures.finch_by_rows, {"few": 1000, "many": 3000}, "ns"),
    ("finch-10k", FINCH.format(10_000), "3,000 x 64", "at most", 1.25,
     5, measures.finch_by_rows, {"few": 3000, "many": 10_000}, "ns"),
    ("finch-30k", FINCH.format(30_000), "10,000 x 64", "at most", 1.25,
     3, measures.finch_by_rows, {"few": 10_000, "many": 30_000}, "ns", "large"),
    ("finch-100k", FINCH.format(100_000), "30,000 x 64", "at most", 1.25,
     2, measures.finch_by_rows, {"few": 30_000, "many": 100_000}, "ns", "large"),
    ("torch-64", f"10 x {STEP.format(64)}: compiled", "PyTorch, held to AVX2 too",
     "at most", 1.25, 3, measures.compiled_over_torch, {"width": 64}, "s", "torch"),
    ("torch-16", f"10 x {STEP.format(16)}: compiled", "PyTorch, held to AVX2 too",
     "at most", 1.6, 8, measures.compiled_over_torch, {"width": 16}, "s", "torch"),
    *(
        (f"predict-{width}", f"features of 1,024 images, width {width}", "PyTorch",
         "at most", 1.5, 5, measures.prediction_over_torch, {"width": width, "images": 1024},
         "s", "torch")
        for width in (8, 16, 64)
    ),
    *(
        (f"{name}-{width}", ROUND.format(width), f"PyTorch, losses {text}", "at most", bound,
         2, measures.round_over_torch, {"width": width, "losses": losses}, "s", flags)
        for width, flags in ((8, "torch"), (16, "torch"), (64, "torch large"))
        for name, text, losses, bound in (
            ("released", "image by image", "image_by_image", 0.9),
            ("round", "vectorised", "vectorised", 1.0),
        )
    ),
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
        help=f"only these: {', '.join(name for name in ROWS if not ROWS[name].flags)}",
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
        "--large",
        action="store_true",
        help="also FINCH of 30,000 and 100,000 rows and, with --torch, rounds of width 64",
    )
    parser.add_argument(
        "--torch",
        action="store_true",
        help="also against PyTorch, which must be installed beside this",
    )
    given = read_options(parser, argv)
    there = {
        name: row
        for name, row in ROWS.items()
        if all(getattr(given, flag) for flag in row.flags.split())
    }
    wanted = list(there)
    if given.rows is not None:
        wanted = [word.strip() for word in given.rows.split(",")]
    for word in wanted:
        if word not in there:
            more = ""
            if word in ROWS:
                flags = " ".join("--" + flag for flag in ROWS[word].flags.split())
                more = f", with {flags} {word} too"
            raise InputError(f"--rows names {word!r}; there are {', '.join(there)}{more}")
    if given.repeat is not None and given.repeat < 2:
        raise InputError(
            f"--repeat is {given.repeat}; it must be at least 2, or there is no spread"
        )
    chosen = [row for name, row in there.items() if name in wanted]
    if any("torch" in row.flags for row in chosen) and importlib.util.find_spec("torch") is None:
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
