"""`./run.sh repeat runs/NAME`: train a finished run again, from its config.json, and say whether the same bytes come out."""
if __name__ == "__main__":
    from lab import starting  # noqa: F401  (one line instead of an abort while the packages load)

import argparse
import csv
import os
import shutil

from tqdm import tqdm

import fpl
from lab import baselines, checkpoint, cli, compare, data, folders, report

FILES = ("rounds.csv", "clusters.csv", "model.safetensors", "prototypes.npz")  # the times in rounds.csv apart


def read(folder):
    """A finished run's (record, Config, Method). Raises InputError."""
    if not os.path.isfile(f"{folder}/config.json"):
        raise fpl.InputError(f"{folder} is not the folder of a run, it has no config.json; give one such as runs/digits-1")
    record, _, _ = checkpoint.read_record(folder, "give the folder of another run")
    run = folders.read_run(folder)
    try:
        cfg = fpl.complete(fpl.Config(**{**run.config, "clients": tuple(run.config["clients"])}))
    except (TypeError, KeyError) as error:
        raise fpl.InputError(f"{folder}/config.json has settings of another version ({error}); it cannot be repeated") from error
    if len(run.rounds) < cfg.rounds:
        raise fpl.InputError(f"{folder} has {len(run.rounds)} of {cfg.rounds} rounds; finish it first, with --resume")
    wanted = record.get("method", {"name": "fpl", "numbers": {}})
    methods = {**baselines.METHODS, "fpl-global": baselines.FPL_GLOBAL}.items()
    method = next((method for name, method in methods if wanted == {"name": name, "numbers": method.numbers}), None)
    if method is None:
        named = wanted if isinstance(wanted, dict) else {}
        raise fpl.InputError(cli.one_line(f"{folder} was trained by {named.get('name')} with {named.get('numbers')}, which "
                                          "lab/baselines.py does not have; it cannot be repeated"))
    missing = [name for name in FILES if not os.path.isfile(f"{folder}/{name}")]
    if missing:
        raise fpl.InputError(f"{folder} lacks {', '.join(missing)}, so that nothing can be compared; it cannot be repeated")
    return record, cfg, method


def without_times(path):
    """The bytes of a file; of rounds.csv the rows without the seconds."""
    if not path.endswith("rounds.csv"):
        with open(path, "rb") as file:
            return file.read()
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def repeat(argv):
    """What `main` does when all goes well. Exit status 0: the same, 1: another result, whose folder stays."""
    parser = argparse.ArgumentParser(prog="./run.sh repeat", allow_abbrev=False, description=__doc__)
    parser.add_argument("folder", metavar="runs/NAME")
    parser.add_argument("--data", metavar="DIR", help="folder of the files that the run was made from")
    options = cli.read_options(parser, argv)
    folder = options.folder.rstrip("/")
    record, cfg, method = read(folder)
    again = f"{folder}.repeat"
    if os.path.lexists(again):
        raise fpl.InputError(f"{again} is there already, where the run would be trained again; nothing was changed: move it away")
    cli.use_device(cfg.device)
    *data_sets, sources = data.load(cfg.task, options.data)
    now = {**record, "sources": sources}
    checkpoint.refuse_other(folder, checkpoint.facts(record), checkpoint.facts(now), "give the --data that it was made from")
    checkpoint.warn_of_versions(folder, record["versions"], report.versions())
    now["command"] = "repeat"  # so that only a folder of this command is gone on with
    turns = cfg.rounds * len(fpl.participants(cfg, sum(cfg.clients), 1))
    with tqdm(total=turns, unit="client", disable=None) as bar, checkpoint.alone_in(f"{again}.part"):
        compare.train(compare.Run("", method, cfg, again, now), f"{again}.part", data_sets, cli.counting(bar))
    other = [name for name in FILES if without_times(f"{folder}/{name}") != without_times(f"{again}/{name}")]
    if other:
        print(f"another result: {', '.join(other)} of {again} differ from {folder}")
        return 1
    shutil.rmtree(again)
    print(f"the same result: {', '.join(FILES)} (times apart) of {folder} came out again, byte for byte")
    return 0


def main(argv=None):
    """Exit status: 0 the same, 1 another result, 2 bad input or a file that cannot be written, 130 interrupted."""
    return cli.guarded(repeat, argv, "Stopped; the same command goes on.")


if __name__ == "__main__":
    cli.as_program(main)
