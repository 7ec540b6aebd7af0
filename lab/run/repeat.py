"""`./run.sh repeat runs/NAME`: train a finished run again, from its config.json.

It says whether the same bytes come out.
"""

import argparse
import csv
import os
import shutil

import fpl
from lab.data.load import load
from lab.device.target import use_device
from lab.many import engines
from lab.methods.baselines import FPL_GLOBAL, METHODS
from lab.run import checkpoint
from lab.run import folder as run_folder
from lab.run.clients import share_out
from lab.run.loop import rounds
from lab.run.records import read_run
from lab.run.settings import reading
from lab.run.train import counting, progress
from lab.shell.errors import InputError
from lab.shell.files import alone_in
from lab.shell.options import read_options
from lab.shell.program import guarded
from lab.shell.words import one_line

FILES = ("rounds.csv", "clusters.csv", "model.safetensors", "prototypes.npz")  # but for the times


def main(argv=None):
    """-> 0 the same, 1 another result, else as `lab.shell.program.guarded` says."""
    return guarded(repeat, argv, "Stopped; the same command goes on.")


def repeat(argv):
    """What `main` does when all goes well. Where the result is another, its folder stays."""
    parser = argparse.ArgumentParser(
        prog="./run.sh repeat", allow_abbrev=False, description=__doc__
    )
    parser.add_argument("folder", metavar="runs/NAME")
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the files that the run was made from"
    )
    options = read_options(parser, argv)
    folder = options.folder.rstrip("/")
    record, cfg, task, method = read(folder)
    again = f"{folder}.repeat"
    if os.path.lexists(again):
        raise InputError(
            f"{again} is there already, where the run would be trained again; "
            "nothing was changed: move it away"
        )
    use_device(cfg.device)
    data = load(cfg.task, options.data, **reading(cfg, record.get("reading", {})))
    train_again(again, record, cfg, task, method, data, folder)
    other = [
        name
        for name in FILES
        if without_times(f"{folder}/{name}") != without_times(f"{again}/{name}")
    ]
    if other:
        print(f"another result: {', '.join(other)} of {again} differ from {folder}")
        return 1
    shutil.rmtree(again)
    print(
        f"the same result: {', '.join(FILES)} (times apart) of {folder} came out again, "
        "byte for byte"
    )
    return 0


def read(folder):
    """A finished run's (record, Config, Task, Method). Raises InputError."""
    if not os.path.isfile(f"{folder}/config.json"):
        raise InputError(
            f"{folder} is not the folder of a run, it has no config.json; "
            "give one such as runs/digits-1"
        )
    record, _, _ = checkpoint.read_record(folder, "give the folder of another run")
    run = read_run(folder)
    try:
        cfg = fpl.Config(**{**run.config, "clients": tuple(run.config["clients"])})
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{folder}/config.json has settings of another version ({error}); it cannot be repeated"
        ) from error
    if len(run.rounds) < cfg.rounds:
        raise InputError(
            f"{folder} has {len(run.rounds)} of {cfg.rounds} rounds; finish it first, with --resume"
        )
    method = method_of(folder, record.get("method", {"name": "fpl", "numbers": {}}))
    if missing := [name for name in FILES if not os.path.isfile(f"{folder}/{name}")]:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}, so that nothing can be compared; "
            "it cannot be repeated"
        )
    return record, cfg, run.task, method


def method_of(folder, wanted):
    """The Method with the name and the numbers that a record wants. Raises InputError."""
    for method in (*METHODS.values(), FPL_GLOBAL):
        if wanted == {"name": method.name, "numbers": method.numbers}:
            return method
    named = wanted if isinstance(wanted, dict) else {}
    raise InputError(
        one_line(
            f"{folder} was trained by {named.get('name')} with {named.get('numbers')}, which "
            "lab/methods/baselines.py does not have; it cannot be repeated"
        )
    )


def train_again(again, record, cfg, task, method, data, folder):
    """The run of a record in the folder `again`, whose name ends in .part until it is finished.

    data: from `load`. Raises InputError where they are not those of the record.
    """
    *data, sources = data
    now = {**record, "sources": sources}
    checkpoint.refuse_other(
        folder,
        checkpoint.facts(record),
        checkpoint.facts(now),
        "give the --data that it was made from",
    )
    checkpoint.warn_of_versions(folder, record["versions"], run_folder.versions())
    now["command"] = "repeat"  # so that only a folder of this command is gone on with
    (clients, tests), part = share_out(data, task, cfg), f"{again}.part"
    turns = len(fpl.participants(cfg, len(clients), 1))
    name, workers, line = engines.chosen(None, turns, cfg)
    print(line, flush=True)
    with alone_in(part), engines.opened(name, workers) as engine:
        start, logs = checkpoint.resume(part, now)
        with progress(cfg.rounds * turns, len(logs) * turns) as bar:
            engine = counting(bar, engine)
            for _, log in rounds(
                clients, tests, cfg, part, now, engine, method.server_round, start
            ):
                logs.append(log)
        run_folder.write_clients(part, clients, task.classes)
        run_folder.pictures(part, logs, [client.domain for client in clients], task.classes)
        os.rename(part, again)


def without_times(path):
    """The bytes of a file; of rounds.csv the rows without the seconds."""
    if not path.endswith("rounds.csv"):
        with open(path, "rb") as file:
            return file.read()
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]
