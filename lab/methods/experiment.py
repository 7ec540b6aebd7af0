"""Several variants on the same terms, for the commands `compare` and `ablate`.

A run is a variant and a seed. All runs of a seed have the same split,
the same initial weights and the same budget.

    runs/NAME/config.json             what the runs share: command, config (without the seed),
                                      sources, versions
    runs/NAME/<variant>/seed-<s>/     a finished run: what a single one leaves, its config.json with
                                      `variant` and `method`; diverged.txt says why one stopped
                                      early, its other files are of the rounds before
    runs/NAME/<variant>/seed-<s>.part a run that is under way, or was interrupted: the next call
                                      goes on with it

With --hold-out each there is such a folder for each domain, runs/NAME/without-<domain>, whose runs
do not train on it; the report on runs/NAME says how well they do on it.

The same command again goes on where the last one stopped.
In several terminals at once, each call takes the runs that no other has. On one machine that gains
nothing, since one call takes all cores.
"""

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fpl
from lab.data.load import load
from lab.device.target import use_device
from lab.many import engines
from lab.methods.baselines import Method
from lab.report import report
from lab.run import checkpoint, screen
from lab.run import folder as run_folder
from lab.run.clients import share_out
from lab.run.loop import rounds
from lab.run.settings import complete, hold_out, parse, reading, settings_parser
from lab.run.train import counting, progress
from lab.shell.errors import InputError
from lab.shell.files import locked
from lab.shell.words import plural


class Run(NamedTuple):
    """A variant with a seed: folder is where it ends, record its config.json."""

    variant: str
    method: Method
    cfg: fpl.Config
    folder: str
    record: dict


def read(command, table, description, argv):
    """The command line -> Config, Task, variants, seeds, folder, the options. Raises InputError.

    table(cfg) -> {variant: (Method, changes of Config)}, of which --methods chooses.
    """
    parser = settings_parser(
        f"./run.sh {command}",
        f"{description} Defaults are the paper's with --paper, else a quick preset.",
    )
    parser.add_argument("--methods", metavar="A,B", help="only these variants; default: all")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="seeds SEED to SEED + N - 1; default: 3"
    )
    cfg, task, given = parse(parser, argv)
    number, name = given.get("seeds", 3), given.get("name", f"{command}-{cfg.task}")
    if not 1 <= number <= 1000:
        raise InputError(f"--seeds is {number}; it must be at least 1 and at most 1000")
    run_folder.folder_name(name)
    complete(dataclasses.replace(cfg, seed=cfg.seed + number - 1), task)  # it may be too large
    variants = table(cfg)
    wanted = list(variants)
    if "methods" in given:
        wanted = [word.strip() for word in given["methods"].split(",")]
    for word in wanted:
        if word not in variants:
            raise InputError(f"--methods names {word!r}; there are {', '.join(variants)}")
    variants = {name: variants[name] for name in variants if name in wanted}  # the table's order
    seeds = range(cfg.seed, cfg.seed + number)
    return cfg, task, variants, seeds, f"runs/{name}", given


def plan(folder, cfg, variants, seeds, shared):
    """The runs, seed by seed, so that whole tables are there early.

    shared: what config.json of the folder says.
    """
    runs = []
    for seed in seeds:
        for name, (method, changes) in variants.items():
            own = dataclasses.replace(cfg, seed=seed, **changes)
            record = {
                "variant": name,
                "method": {"name": method.name, "numbers": method.numbers},
                **{field: shared[field] for field in shared if field != "command"},
                "config": dataclasses.asdict(own),
            }
            runs.append(Run(name, method, own, f"{folder}/{name}/seed-{seed}", record))
    return runs


# ---------------------------------------------------------------- the folder


def check_places(folder, runs):
    """Refuse what stands where a folder must be, before anything is trained. Raises InputError."""
    paths = [folder]
    for run in runs:
        paths += os.path.dirname(run.folder), run.folder, f"{run.folder}.part"
    for path in paths:
        if os.path.lexists(path) and not os.path.isdir(path):
            raise InputError(
                f"{path} is there and no folder; nothing was changed: move it away or give "
                "another --name"
            )


def check_all(folder, shared, runs):
    """Refuse what cannot stand side by side with what the folder holds. Raises InputError."""
    if not set(os.listdir(folder)) - {"config.json.part"}:
        return
    begun_with = checkpoint.check_same(folder, shared, "give another --name")
    checkpoint.warn_of_versions(folder, begun_with, shared["versions"])
    for run in runs:
        if os.path.isdir(run.folder):
            checkpoint.check_same(run.folder, run.record, "give another --name")


# ---------------------------------------------------------------- the runs


def train(run, part, data, task, engine):
    """One run, from where it stopped to the renamed folder.

    Returns the logs of its rounds, and why it stopped early or None.
    """
    why = None
    clients, tests = share_out(data, task, run.cfg)
    start, logs = checkpoint.resume(part, run.record)
    run_folder.write_clients(part, clients, task.classes)
    # of a call that was stopped right after it; that round is trained again
    Path(part, "diverged.txt").unlink(missing_ok=True)
    method = run.method.server_round
    try:
        for _, log in rounds(clients, tests, run.cfg, part, run.record, engine, method, start):
            logs.append(log)
    except FloatingPointError as error:
        why = str(error)
        Path(part, "diverged.txt").write_text(f"{why}\n", encoding="utf-8")
    if logs:
        run_folder.pictures(part, logs, [client.domain for client in clients], task.classes)
    os.rename(part, run.folder)
    return logs, why


def run_line(run, logs, why, seconds):
    """Accuracies in percent, means of the last five rounds; or why there are none."""
    head = f"{run.variant:<11}  seed {run.cfg.seed}"
    if why:
        return f"{head}  diverged in round {len(logs) + 1}, what it left is in {run.folder}: {why}"
    recent = logs[-run_folder.LAST :]
    means = {
        domain: np.mean([log["accuracy"][domain] for log in recent])
        for domain in recent[0]["accuracy"]
    }
    return (
        f"{head}  {'  '.join(f'{domain} {mean:5.2f}' for domain, mean in means.items())}  "
        f"AVG {np.mean([log['avg'] for log in recent]):5.2f}  {seconds:.0f} s"
    )


def budget(runs, rounds):
    """How many runs of what size, and how many of them are done."""
    variants = dict.fromkeys(run.variant for run in runs)
    seeds = dict.fromkeys(run.cfg.seed for run in runs)
    done = [run for run in runs if os.path.isdir(run.folder)]
    diverged = sum(os.path.exists(f"{run.folder}/diverged.txt") for run in done)
    last = min(run_folder.LAST, rounds)
    already = f"{len(done)}{f' ({diverged} of them diverged)' if diverged else ''}"
    return (
        f"{plural(len(runs), 'run')} of {plural(rounds, 'round')}: {', '.join(variants)}; "
        f"seeds {', '.join(map(str, seeds))}\n"
        f"done already: {already}; to do: {len(runs) - len(done)}; a line for "
        f"each: top-1 accuracy (%), mean of the last {plural(last, 'round')}"
    )


def train_all(runs, data, task, steps, engine):
    """Train what is not finished, with one progress bar. steps: turns of a client in a run."""
    todo = [run for run in runs if not os.path.isdir(run.folder)]
    with progress(len(todo) * steps) as bar:
        for number, run in enumerate(todo, 1):
            start, part = time.perf_counter(), f"{run.folder}.part"
            with locked(part, wait=False) as mine:
                if not mine or os.path.isdir(run.folder):  # another call is at it, or finished it
                    if mine:
                        with contextlib.suppress(OSError):
                            os.rmdir(part)  # made in vain by this call, if nothing is in it
                    bar.update(number * steps - bar.n)
                    continue
                logs, why = train(run, part, data, task, counting(bar, engine))
            bar.update(number * steps - bar.n)  # what a diverged run leaves out
            bar.write(run_line(run, logs, why, time.perf_counter() - start))
            sys.stdout.flush()


def run_all(command, table, description, argv):
    """What `main` of a command does when all goes well."""
    cfg, task, variants, seeds, folder, given = read(command, table, description, argv)
    use_device(cfg.device)
    read_as = reading(cfg, given)
    *data, sources = load(cfg.task, given.get("data"), **read_as)
    experiments = {folder: cfg}
    if given.get("hold_out") == "each":
        experiments = {
            f"{folder}/without-{domain}": hold_out(cfg, task, domain) for domain in task.clients
        }
    plans = []
    for place, own in experiments.items():
        shared = {"command": command, **run_folder.record_of(own, task, sources, read_as)}
        del shared["config"]["seed"]
        plans.append((place, own, shared, plan(place, own, variants, seeds, shared)))
        check_places(place, plans[-1][-1])
        if os.path.lexists(place):
            check_all(place, shared, plans[-1][-1])
    for place, own, shared, runs in plans:
        print(describe(data, sources, task, own, seeds), flush=True)
        if status := run_one(place, own, task, shared, runs, data, given.get("engine")):
            return status
    if len(plans) > 1:
        with locked(folder, wait=True):
            path = report.write_report(folder)
        print(f"\n{report.summary_text(folder, first=True)}\n\n{path}")
    return 0


def describe(data, sources, task, cfg, seeds):
    """What is shown before an experiment: as of a run, then what other seeds' splits lack."""
    clients, _ = share_out(data, task, cfg)
    lines = [screen.describe(sources, clients, task, cfg)]
    for seed in seeds[1:]:  # other draws of the same allocation
        clients, _ = share_out(data, task, dataclasses.replace(cfg, seed=seed))
        lines += [f"seed {seed}: {line}" for line in screen.lacking(clients, task)]
    return "\n".join(lines)


def run_one(folder, cfg, task, shared, runs, data, engine_name):
    """One experiment: the runs of a folder that are not finished, and its report. -> exit status"""
    turns = len(fpl.participants(cfg, sum(cfg.clients), 1))
    name, workers, line = engines.chosen(engine_name, turns, cfg)
    with engines.opened(name, workers) as engine:
        with locked(folder, wait=True):
            if not os.path.lexists(f"{folder}/config.json"):
                run_folder.write_config(folder, shared)
        print(f"{line}\n{budget(runs, cfg.rounds)}", flush=True)
        try:
            train_all(runs, data, task, turns * cfg.rounds, engine)
        except KeyboardInterrupt:
            done = sum(os.path.isdir(run.folder) for run in runs)
            print(
                f"\nStopped: {done} of {len(runs)} runs are finished in {folder}; the same command "
                "goes on with the rest.",
                file=sys.stderr,
            )
            return 130
    left = sum(not os.path.isdir(run.folder) for run in runs)
    if left < len(runs):
        with locked(folder, wait=True):
            path = report.write_report(folder)
        print(f"\n{report.summary_text(folder)}\n\n{path}")
    if left:
        print(
            f"{left} of {len(runs)} runs are still under way in another call, which writes the "
            "report at its end."
        )
    return 0
