"""What a run shows and leaves: tables for the screen, and in its folder config.json, rounds.csv, clusters.csv,
model.safetensors, prototypes.npz (of some rounds a copy, prototypes-<round>.npz), accuracy.png, prototypes.png.
The functions for the screen return a text; the others write a file. lab/page.py makes one page of many such folders.

The same input gives the same bytes, pictures included. Whole files appear at once (written beside, then renamed), so
that an interrupted run leaves no half of one.
"""
import csv
import errno
import glob
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from finch import finch
from fpl import NUM_CLASSES, TASKS, InputError
from lab import pictures as draw
from lab.pictures import plural

ROOT = Path(__file__).resolve().parent.parent
CODE = ("fpl.py", "finch.py", "lab/baselines.py")
LAST = 5  # rounds in the number that Sec. 4.1 reports
LONGEST_NAME = 240  # bytes: file systems take 255, and `repeat` puts NAME.repeat.part beside NAME
SNAPSHOTS = (1, 5, 15, 50, 75)  # rounds whose prototypes stay: those of Fig. 7, and the first


# -- for the screen

def describe(sources, clients, cfg):
    """Before training: which files, how many images, who holds what, and what is not as in the paper."""
    lines = [f"{cfg.task}: {plural(len(clients), 'client')}, {plural(cfg.rounds, 'round')} of "
             f"{plural(cfg.local_epochs, 'local epoch')}, "
             f"feature width d = {8 * cfg.width}, seed {cfg.seed}", ""]
    lines += table([["domain", "train", "test", "sha256", "files"]] +
                   [[domain, f"{source['train']:,}", f"{source['test']:,}", source["sha256"][:12], source["what"]]
                    for domain, source in sources.items()], left=(0, 3, 4))
    held = {domain: [(m, len(client.labels)) for m, client in enumerate(clients) if client.domain == domain]
            for domain in sources}
    lines += [""] + table([["domain", "clients", "images", "client number: images"]] +
                          [[domain, str(len(rows)), f"{sum(n for _, n in rows):,}", shares(rows)]
                           for domain, rows in held.items()], left=(0, 3))
    notes = [f"Warning: {domain} has only one client; where other clients hold a class too, its prototype shares a "
             "cluster with theirs." for domain, rows in held.items() if len(rows) == 1]
    notes += [f"Warning: {domain} has no client; it is tested and never trained on."
              for domain, rows in held.items() if not rows]
    notes += lacking(clients)
    notes += [f"Warning: {domain} is tested with {source['repeated']:,} of {plural(source['test'], 'image')} that are among its "
              "training images too." for domain, source in sources.items() if source.get("repeated")]
    if any(source["kind"] == "stand-in" for source in sources.values()):
        notes.append("Warning: this is the built-in stand-in, not the paper's data: the accuracies are not the paper's "
                     "and cannot be compared with its tables.")
    else:
        published = TASKS[cfg.task].published
        notes += [f"Warning: {domain} has {source['train']:,} training images, the published set {published[domain]:,}; "
                  "its accuracy cannot be compared with the paper's." for domain, source in sources.items()
                  if source["train"] != published.get(domain, source["train"])]
    return "\n".join(lines + ([""] + notes if notes else []) + [""])


def lacking(clients):
    """A line for each client that does not hold every class."""
    missing = [sorted(set(range(NUM_CLASSES)) - set(client.labels.tolist())) for client in clients]
    return [f"Note: client {m} ({client.domain}) holds no image of class {', '.join(map(str, classes))}; it sends no prototype of "
            "that." for m, (client, classes) in enumerate(zip(clients, missing)) if classes]


def round_line(log):
    """One line: round, loss, accuracies, clusters of each class, seconds."""
    accuracies = "  ".join(f"{domain} {value:5.2f}" for domain, value in log["accuracy"].items())
    return (f"round {log['round']:3d}  loss {log['loss']:7.4f}  {accuracies}  AVG {log['avg']:5.2f}  "
            f"clusters {' '.join(map(str, log['clusters_per_class']))}  {log['seconds']:.1f} s")


def final_table(logs):
    """Top-1 accuracy in percent: the last round, and the mean of the last five (or fewer: it says how many)."""
    last, recent = logs[-1], logs[-LAST:]
    domains = list(last["accuracy"])
    mean = [np.mean([log["accuracy"][domain] for log in recent]) for domain in domains]
    rows = [["top-1 accuracy (%)", *domains, "AVG"],
            [f"round {last['round']}", *percents(last["accuracy"].values()), *percents([last["avg"]])],
            ["mean of the last " + (f"{len(recent)} rounds" if len(recent) > 1 else "round"),
             *percents(mean), *percents([np.mean([log["avg"] for log in recent])])]]
    return "\n".join(table(rows, left=(0,)))


def percents(values):
    return [f"{value:.2f}" for value in values]


def table(rows, left):
    """Rows of texts -> aligned lines; the columns numbered in left are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]


def shares(rows):
    """[(0, 600), (1, 600), (2, 72)] -> "0-1: 600 each, 2: 72"."""
    parts = []
    for (_, images), group in itertools.groupby(enumerate(rows), key=lambda item: (item[1][0] - item[0], item[1][1])):
        first, *rest = [m for _, (m, _) in group]
        parts.append(f"{first}-{rest[-1]}: {images:,} each" if rest else f"{first}: {images:,}")
    return ", ".join(parts) or "none"


# -- files

def versions():
    """What else the numbers depend on. code: the start of the sha256 of the files that compute them."""
    code = b"".join((ROOT / name).read_bytes() for name in CODE)
    return {"code": hashlib.sha256(code).hexdigest()[:12], "python": platform.python_version(), "platform": platform.platform(),
            **{name: importlib.metadata.version(name) for name in ("mindspore", "numpy", "scipy")}}


def folder_name(name):
    """A --name that can be one folder's. Raises InputError."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise InputError(f"--name is {name!r}; it must be the name of one folder: give it without slashes and control characters")
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"--name has {len(name.encode())} bytes; it must be the name of one folder: give at most {LONGEST_NAME}")
    return name


def free_folder(task, name):
    """runs/NAME, which must not exist yet; without a name the task and the first free number. Creates nothing."""
    if name is None:
        name = next(name for name in (f"{task}-{i}" for i in itertools.count(1)) if not os.path.lexists(f"runs/{name}"))
    folder_name(name)
    if os.path.lexists(f"runs/{name}"):
        raise InputError(f"runs/{name} exists; nothing was changed: go on with it by --resume, give another --name, or remove it")
    return f"runs/{name}"


def old_folder(task, name):
    """runs/NAME, which must exist; without a name the task's run of the highest number. For --resume."""
    numbered = [path for path in glob.glob(f"runs/{task}-*")
                if path.removeprefix(f"runs/{task}-").isdecimal() and os.path.isdir(path)]
    if name is None and not numbered:
        raise InputError(f"--resume finds no run of {task} in runs/; give --name, or leave --resume away to begin one")
    newest = max(numbered, key=lambda path: int(path.rpartition("-")[2]), default="")
    name = os.path.basename(newest) if name is None else folder_name(name)
    if not os.path.isdir(f"runs/{name}"):
        raise InputError(f"--resume finds no folder runs/{name}; give the --name of a run, or leave --resume away to begin one")
    return f"runs/{name}"


def resuming(argv, folder):
    """The command that goes on with the run that argv began."""
    more = [] if "--resume" in argv else ["--resume"]
    if not any(word.split("=")[0] == "--name" for word in argv):
        more = ["--name", os.path.basename(folder), *more]
    return shlex.join(["./run.sh", *argv, *more])


def write_round(folder, state, log, domains, partition):
    """What is known after a round: its rows, the network, the prototypes and what they were made from.

    domains: of each of the M clients; partition: of FINCH, "first" | "last". In the rounds SNAPSHOTS the prototypes are
    kept beside the newest. The clusters are made anew from the class means, so that methods without clusters have them too.
    """
    rows = cluster_rows(log["class_means"], log["counts"], domains, partition)
    append_round(folder, log, purity(rows))
    append_clusters(folder, log["round"], rows, [*dict.fromkeys([*log["accuracy"], *domains])])
    network = {name: value.asnumpy() for name, value in (state.params | state.stats).items()}
    arrays = {**state.prototypes._asdict(), "class_means": log["class_means"], "counts": log["counts"]}
    save_arrays(folder, network, arrays)
    if log["round"] in SNAPSHOTS:
        save_prototypes(os.path.join(folder, f"prototypes-{log['round']}.npz"), arrays)


def cluster_rows(class_means, counts, domains, partition):
    """Which domains each cluster of local prototypes gathers: [(class, cluster, {domain: members})]."""
    rows = []
    for k in range(np.shape(counts)[1]):
        holders = np.flatnonzero(np.asarray(counts)[:, k] > 0)
        if len(holders):
            labels = finch(class_means[holders, k])[0 if partition == "first" else -1]
            for cluster in range(labels.max() + 1):
                rows.append((k, cluster, dict(Counter(domains[m] for m in holders[labels == cluster]))))
    return rows


def purity(rows):
    """Share of the clusters, of all classes together, whose members are of one domain, in percent.

    rows: (class, cluster, {domain: members}). A cluster of one counts as pure; FINCH makes one only of a sole holder.
    """
    return 100 * sum(sum(n > 0 for n in members.values()) == 1 for _, _, members in rows) / max(len(rows), 1)


def pictures(folder, logs, domains):
    """accuracy.png and prototypes.png of a run whose last round is written. domains: of each client."""
    save_picture(f"{folder}/accuracy.png",
                 draw.accuracy_picture(logs, f"Accuracy by round, mean of the domains {logs[-1]['avg']:.2f} %"))
    scene = draw.read_scene(f"{folder}/prototypes.npz", domains)
    save_picture(f"{folder}/prototypes.png", draw.prototypes_picture(scene, f"Prototypes after round {logs[-1]['round']}"))


def write_whole(path, write):
    """write(temporary name), to the disk, then the rename that makes it path: there is the old file or the new one."""
    part = f"{path}.part"
    try:
        write(part)
    except safetensors.SafetensorError as error:  # what safetensors makes of every OSError, its number in the text alone
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, f"{part} cannot be written ({error})") from error
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def write_config(folder, record):
    """config.json: every setting, which data, which software."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_whole(f"{folder}/config.json", lambda path: Path(path).write_text(text, encoding="utf-8"))


def append_rows(path, head, rows):
    """More rows of a CSV file, on disk when this returns; the header comes with the first."""
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(rows if file.tell() else [head, *rows])


def append_round(folder, log, purity):
    """One more row of rounds.csv."""
    append_rows(os.path.join(folder, "rounds.csv"),
                ["round", "loss", *log["accuracy"], "avg", "clusters", "seconds", "purity"],
                [[log["round"], log["loss"], *log["accuracy"].values(), log["avg"],
                  " ".join(map(str, log["clusters_per_class"])), log["seconds"], purity]])


def append_clusters(folder, number, rows, domains):
    """A round's clusters, one row each, to clusters.csv: how many members it has, and how many of each domain."""
    append_rows(os.path.join(folder, "clusters.csv"), ["round", "class", "cluster", "clients", *domains],
                [[number, k, cluster, sum(members.values()), *(members.get(domain, 0) for domain in domains)]
                 for k, cluster, members in rows])


def save_arrays(folder, network, prototypes):
    """model.safetensors and prototypes.npz, each from a dict name -> NumPy array.

    network: params and stats; prototypes: clusters, mask, unbiased, class_means, counts.
    """
    # subtle: safetensors writes the memory as it lies, so a transposed view would come back scrambled.
    network = {name: np.ascontiguousarray(value) for name, value in network.items()}
    write_whole(os.path.join(folder, "model.safetensors"), lambda path: safetensors.numpy.save_file(network, path))
    save_prototypes(os.path.join(folder, "prototypes.npz"), prototypes)


def save_prototypes(path, arrays):
    """An npz file of a dict name -> NumPy array."""
    def write(part):
        with open(part, "wb") as file:  # an open file, since savez adds .npz to a name
            np.savez(file, **arrays)
    write_whole(path, write)


def save_picture(path, figure):
    write_whole(path, lambda part: draw.save(figure, part))
