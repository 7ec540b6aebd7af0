"""Finds runs among folders, and sorts out which of them give numbers.

A run is what a training leaves in a folder; an experiment is a folder of <variant>/seed-<s>/, each
of them a run, as lab/methods/experiment.py leaves it.
"""

import glob
import os
import re
from collections import Counter

from lab.run.records import read_run
from lab.shell.errors import InputError


def seeds_in(folder, ending=""):
    """The folders of an experiment's runs; with the ending ".part", those of unfinished ones.

    `repeat` leaves others beside them.
    """
    return [
        path
        for path in sorted(glob.glob(f"{glob.escape(folder)}/*/seed-*{ending}"))
        if re.fullmatch(f"seed-[0-9]+{re.escape(ending)}", os.path.basename(path))
    ]


def find_runs(folder):
    """The runs of an experiment, or the run that the folder is, or None where it is neither."""
    found, unfinished = seeds_in(folder), seeds_in(folder, ".part")
    if not (found or unfinished) and os.path.exists(f"{folder}/config.json"):
        return [read_run(folder)]
    runs = [read_run(path) for path in found]
    seen = Counter((run.variant, run.seed) for run in runs)
    if len(seen) < len(runs):
        (variant, seed), _ = seen.most_common(1)[0]
        raise InputError(
            f"{folder} has two runs of {variant} with seed {seed}; move one of them away"
        )
    if len({tuple(run.rounds[0]["accuracy"]) for run in runs if run.rounds}) > 1:
        raise InputError(
            f"{folder} has runs of different domains; report them from folders of their own"
        )
    return runs if found or unfinished else None


def find_sections(folder):
    """The folder itself if it is a run or an experiment, else those right below: [(path, runs)]."""
    runs = find_runs(folder)
    below = (
        sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()) if runs is None else []
    )
    sections = (
        [(folder, runs)]
        if runs
        else [(path, found) for path in below if (found := find_runs(path))]
    )
    if not sections:
        raise InputError(
            f"{folder} holds no finished run; ./run.sh digits or ./run.sh compare makes some"
        )
    return sections


def finished(runs):
    """Those that give numbers."""
    return [run for run in runs if run.rounds and not run.diverged]


def domains_of(runs):
    """The domains that the runs were tested on, in their order."""
    return next(
        (list(run.rounds[0]["accuracy"]) for run in runs if run.rounds),
        list(runs[0].task.clients),
    )


def unseen(run):
    """The domains that a run was tested on and had no client of."""
    return [name for name, number in zip(run.task.clients, run.config["clients"]) if not number]
