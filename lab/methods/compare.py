"""Several methods, or several variants of FPL, on the same terms: `compare` is Table 2, `ablate` Tables 1 and 3, Fig. 4-5.

A run is a variant and a seed. All runs of a seed have the same split, the same initial weights and the same budget.

    runs/NAME/config.json             what the runs share: command, config (without the seed), sources, versions
    runs/NAME/<variant>/seed-<s>/     a finished run: what fpl.py leaves, its config.json with `variant` and `method`;
                                      diverged.txt says why one stopped early, its other files are of the rounds before
    runs/NAME/<variant>/seed-<s>.part a run that is under way, or was interrupted: the next call goes on with it

The same command again goes on where the last one stopped. In several terminals at once, each call takes the runs that no
other has; that gains nothing unless each has OMP_NUM_THREADS=1 and a core of its own (taskset).
"""
if __name__ == "__main__":
    from lab import starting  # noqa: F401  (one line instead of an abort while the packages load)

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import fpl
from lab import baselines, checkpoint, cli, data, engines, page, report
from lab.pictures import plural


class Run(NamedTuple):
    """A variant with a seed: folder is where it ends, record its config.json."""
    variant: str
    method: fpl.Method
    cfg: fpl.Config
    folder: str
    record: dict


# ---------------------------------------------------------------- what is compared

TAUS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # Fig. 4


def methods(cfg):
    """Table 2: variant -> (Method, changes of Config)."""
    return {name: (method, {}) for name, method in baselines.METHODS.items()}


def parts(cfg):
    """Tables 1 and 3, Fig. 4 and 5: variant -> (Method, changes of Config). `both` stands for cfg's own tau in Fig. 4."""
    if not (cfg.cpcl and cfg.upcr):
        raise fpl.InputError(f"--cpcl is {cfg.cpcl}, --upcr is {cfg.upcr}; ablate switches them off itself and needs both "
                             "more than 0: leave the flag away")
    cpcl, upcr = {"upcr": 0.0}, {"cpcl": 0.0}
    return {
        "neither": (fpl.FPL, cpcl | upcr),
        "cpcl": (fpl.FPL, cpcl),
        "upcr": (fpl.FPL, upcr),
        "both": (fpl.FPL, {}),
        "upcr-global": (baselines.FPL_GLOBAL, upcr),  # Table 3: beside upcr
        "cpcl-global": (baselines.FPL_GLOBAL, cpcl),  # Fig. 5: beside cpcl
        **{f"tau-{tau:g}": (fpl.FPL, {"tau": tau}) for tau in TAUS if tau != cfg.tau},
    }


COMMANDS = {"compare": (methods, "Train all methods of Table 2 on the same terms."),
            "ablate": (parts, "Train FPL with its parts taken out or exchanged (Tables 1 and 3, Fig. 4 and 5).")}


def read(argv):
    """The command line -> (command, Config, variants asked for, seeds, folder, --data, --engine). Raises InputError."""
    if not argv or argv[0] not in COMMANDS:
        raise fpl.InputError(f"the command is {argv[0] if argv else 'missing'}; it must be {' or '.join(COMMANDS)}")
    command, (table, description) = argv[0], COMMANDS[argv[0]]
    parser = cli.settings_parser(f"./run.sh {command}", f"{description} Defaults are the paper's with --paper, else a quick "
                                                        "preset.")
    parser.add_argument("--methods", metavar="A,B", help="only these variants; default: all")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds SEED to SEED + N - 1; default: 3")
    cfg, given = cli.parse(parser, argv[1:])
    number, name = given.get("seeds", 3), given.get("name", f"{command}-{cfg.task}")
    if not 1 <= number <= 1000:
        raise fpl.InputError(f"--seeds is {number}; it must be at least 1 and at most 1000")
    report.folder_name(name)
    fpl.complete(dataclasses.replace(cfg, seed=cfg.seed + number - 1))  # the last one may be too large
    variants = table(cfg)
    wanted = [word.strip() for word in given["methods"].split(",")] if "methods" in given else list(variants)
    for word in wanted:
        if word not in variants:
            raise fpl.InputError(f"--methods names {word!r}; there are {', '.join(variants)}")
    variants = {name: variant for name, variant in variants.items() if name in wanted}  # in the table's order
    return command, cfg, variants, range(cfg.seed, cfg.seed + number), f"runs/{name}", given.get("data"), given.get("engine", "loop")


def plan(folder, cfg, variants, seeds, made_of):
    """The runs, seed by seed, so that whole tables are there early. made_of: sources and versions."""
    runs = []
    for seed in seeds:
        for name, (method, changes) in variants.items():
            own = dataclasses.replace(cfg, seed=seed, **changes)
            record = {"variant": name, "method": {"name": method.name, "numbers": method.numbers},
                      "config": dataclasses.asdict(own), **made_of}
            runs.append(Run(name, method, own, f"{folder}/{name}/seed-{seed}", record))
    return runs


# ---------------------------------------------------------------- the folder

def check_places(folder, runs):
    """Refuse what stands where a folder must be, before anything is trained. Raises InputError."""
    for path in [folder, *(path for run in runs for path in (os.path.dirname(run.folder), run.folder, f"{run.folder}.part"))]:
        if os.path.lexists(path) and not os.path.isdir(path):
            raise fpl.InputError(f"{path} is there and no folder; nothing was changed: move it away or give another --name")


def check_all(folder, shared, runs):
    """Refuse what cannot stand side by side with what the folder holds. Raises InputError."""
    if not set(os.listdir(folder)) - {"config.json.part"}:
        return
    checkpoint.warn_of_versions(folder, checkpoint.check_same(folder, shared, "give another --name"), shared["versions"])
    for run in runs:
        if os.path.isdir(run.folder):
            checkpoint.check_same(run.folder, run.record, "give another --name")


# ---------------------------------------------------------------- the runs

def train(run, part, data_sets, engine):
    """One run, from where it stopped to the renamed folder. -> (logs of its rounds, why it stopped early or None)."""
    why = None
    clients, tests = fpl.split(data_sets[0], run.cfg), fpl.test_sets(data_sets[1], run.cfg)
    domains = [client.domain for client in clients]
    start, logs = checkpoint.resume(part, run.record)
    Path(part, "diverged.txt").unlink(missing_ok=True)  # of a call that was stopped right after it; that round is trained again
    try:
        for state, log in fpl.run(clients, tests, run.cfg, start, engine, run.method):
            report.write_round(part, state, log, domains, run.cfg.partition)
            checkpoint.save(part, state, run.record)
            logs.append(log)
    except FloatingPointError as error:
        why = str(error)
        Path(part, "diverged.txt").write_text(f"{why}\n", encoding="utf-8")
    if logs:
        report.pictures(part, logs, domains)
    os.rename(part, run.folder)
    return logs, why


def run_line(run, logs, why, seconds):
    """Accuracies in percent, means of the last five rounds; or why there are none."""
    head = f"{run.variant:<11}  seed {run.cfg.seed}"
    if why:
        return f"{head}  diverged in round {len(logs) + 1}, what it left is in {run.folder}: {why}"
    recent = logs[-report.LAST:]
    means = {domain: np.mean([log["accuracy"][domain] for log in recent]) for domain in recent[0]["accuracy"]}
    return (f"{head}  {'  '.join(f'{domain} {mean:5.2f}' for domain, mean in means.items())}  "
            f"AVG {np.mean([log['avg'] for log in recent]):5.2f}  {seconds:.0f} s")


def budget(runs, variants, seeds, rounds):
    """How many runs of what size, and how many of them are done."""
    done = [run for run in runs if os.path.isdir(run.folder)]
    diverged = sum(os.path.exists(f"{run.folder}/diverged.txt") for run in done)
    already = f"{len(done)}{f' ({diverged} of them diverged)' if diverged else ''}"
    return (f"{plural(len(runs), 'run')} of {plural(rounds, 'round')}: {', '.join(variants)}; "
            f"seeds {', '.join(map(str, seeds))}\n"
            f"done already: {already}; to do: {len(runs) - len(done)}; a line for each: top-1 accuracy (%), "
            f"mean of the last {plural(min(report.LAST, rounds), 'round')}")


def train_all(runs, data_sets, steps, engine):
    """Train what is not finished, with one progress bar. steps: turns of a client in a run."""
    todo = [run for run in runs if not os.path.isdir(run.folder)]
    with tqdm(total=len(todo) * steps, unit="client", disable=None) as bar:
        for number, run in enumerate(todo, 1):
            start, part = time.perf_counter(), f"{run.folder}.part"
            with checkpoint.locked(part, wait=False) as mine:
                if not mine or os.path.isdir(run.folder):  # another call is at it, or has just finished it
                    if mine:
                        with contextlib.suppress(OSError):
                            os.rmdir(part)  # made in vain by this call; a folder with files in it stays
                    bar.update(number * steps - bar.n)
                    continue
                logs, why = train(run, part, data_sets, cli.counting(bar, engine))
            bar.update(number * steps - bar.n)  # what a diverged run leaves out
            bar.write(run_line(run, logs, why, time.perf_counter() - start))
            sys.stdout.flush()


def compare(argv):
    """What `main` does when all goes well."""
    command, cfg, variants, seeds, folder, data_folder, engine_name = read(argv)
    cli.use_device(cfg.device)
    *data_sets, sources = data.load(cfg.task, data_folder)
    clients = fpl.split(data_sets[0], cfg)
    made_of = {"sources": sources, "versions": report.versions()}
    shared = {"command": command, "config": dataclasses.asdict(cfg), **made_of}
    del shared["config"]["seed"]
    runs = plan(folder, cfg, variants, seeds, made_of)
    check_places(folder, runs)
    if os.path.lexists(folder):
        check_all(folder, shared, runs)
    print(report.describe(sources, clients, cfg), flush=True)
    for seed in seeds[1:]:  # other draws of the same allocation
        for line in report.lacking(fpl.split(data_sets[0], dataclasses.replace(cfg, seed=seed))):
            print(f"seed {seed}: {line}")
    steps = cfg.rounds * len(fpl.participants(cfg, len(clients), 1))
    with engines.opened(engine_name) as engine:
        with checkpoint.locked(folder, wait=True):
            if not os.path.lexists(f"{folder}/config.json"):
                report.write_config(folder, shared)
        print(budget(runs, variants, seeds, cfg.rounds), flush=True)
        try:
            train_all(runs, data_sets, steps, engine)
        except KeyboardInterrupt:
            done = sum(os.path.isdir(run.folder) for run in runs)
            print(f"\nStopped: {done} of {len(runs)} runs are finished in {folder}; the same command goes on with the rest.",
                  file=sys.stderr)
            return 130
    left = sum(not os.path.isdir(run.folder) for run in runs)
    if left < len(runs):
        with checkpoint.locked(folder, wait=True):
            path = page.write_report(folder)
        print(f"\n{page.summary_text(folder)}\n\n{path}")
    if left:
        print(f"{left} of {len(runs)} runs are still under way in another call, which writes the report at its end.")
    return 0


def main(argv=None):
    """Exit status: 0 done (diverged runs included), 2 bad input or a file that cannot be written, 130 interrupted."""
    return cli.guarded(compare, argv, "Stopped; the same command goes on.")


if __name__ == "__main__":
    cli.as_program(main)
