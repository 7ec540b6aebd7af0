"""What a run leaves in its folder, and what the folder is called.

config.json, clients.csv, rounds.csv, clusters.csv, model.safetensors, prototypes.npz (of some
rounds a copy, prototypes-<round>.npz), accuracy.png, prototypes.png; state.safetensors is that of
checkpoint.py.

The same input gives the same bytes, pictures included. Whole files appear at once (written beside,
then renamed), so that an interrupted run leaves no half of one.
"""

import csv
import dataclasses
import glob
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import safetensors.numpy

import fpl
from lab.run import pictures as draw
from lab.run.clients import images_by_class
from lab.shell.errors import InputError
from lab.shell.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
CODE = ("fpl.py", "finch.py", "lab/methods/baselines.py")
LAST = 5  # rounds in the number that Sec. 4.1 reports
LONGEST_NAME = 240  # bytes: file systems take 255, and `repeat` puts NAME.repeat.part beside NAME
SNAPSHOTS = (1, 5, 15, 50, 75)  # rounds whose prototypes stay: those of Fig. 7, and the first


# ---------------------------------------------------------------- what it is called


def folder_name(name):
    """A --name that can be one folder's. Raises InputError."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise InputError(
            f"--name is {name!r}; it must be the name of one folder: "
            "give it without slashes and control characters"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"--name has {len(name.encode())} bytes; it must be the name of one "
            f"folder: give at most {LONGEST_NAME}"
        )
    return name


def free_folder(task, name):
    """runs/NAME, which must not exist yet; by default the task and the first free number.

    It creates nothing. Raises InputError.
    """
    if name is None:
        names = (f"{task}-{i}" for i in itertools.count(1))
        name = next(name for name in names if not os.path.lexists(f"runs/{name}"))
    folder_name(name)
    if os.path.lexists(f"runs/{name}"):
        raise InputError(
            f"runs/{name} exists; nothing was changed: go on with it by --resume, "
            "give another --name, or move it away"
        )
    return f"runs/{name}"


def old_folder(task, name):
    """runs/NAME, which must exist, for --resume; by default the task's run of the highest number.

    Raises InputError.
    """
    start = f"runs/{task}-"
    numbered = [
        path
        for path in glob.glob(f"{start}*")
        if path.removeprefix(start).isdecimal() and os.path.isdir(path)
    ]
    if name is None and not numbered:
        raise InputError(
            f"--resume finds no run of {task} in runs/; give --name, "
            "or leave --resume away to begin one"
        )
    if name is None:
        return max(numbered, key=lambda path: int(path.removeprefix(start)))
    if not os.path.isdir(f"runs/{folder_name(name)}"):
        raise InputError(
            f"--resume finds no folder runs/{name}; give the --name of a run, "
            "or leave --resume away to begin one"
        )
    return f"runs/{name}"


def resuming(argv, folder):
    """The command that goes on with the run that argv began."""
    more = [] if "--resume" in argv else ["--resume"]
    if not any(word.split("=")[0] == "--name" for word in argv):
        more = ["--name", os.path.basename(folder), *more]
    return shlex.join(["./run.sh", *argv, *more])


def comparing(argv):
    """The command that trains FedAvg and FPL on the terms of the run that argv began."""
    words, kept = iter(argv), []
    for word in words:
        if word in ("--name", "--summary"):
            next(words)
        elif word != "--resume" and not word.startswith(("--name=", "--summary=")):
            kept.append(word)
    return shlex.join(["./run.sh", "compare", *kept, "--methods", "fedavg,fpl", "--seeds", "1"])


# ---------------------------------------------------------------- at the start


def versions():
    """What else the numbers depend on; code: a sha256's start over the files that compute them."""
    code = b"".join((ROOT / name).read_bytes() for name in CODE)
    packages = ("mindspore", "numpy", "scipy")
    return {
        "code": hashlib.sha256(code).hexdigest()[:12],
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def record_of(cfg, task, sources, reading):
    """What config.json says of a run: every setting, which data, which software."""
    return {
        "config": dataclasses.asdict(cfg),
        "classes": list(task.classes),
        **({"reading": reading} if reading else {}),
        "sources": sources,
        "versions": versions(),
    }


def write_config(folder, record):
    """config.json, from `record_of`."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_whole(f"{folder}/config.json", lambda path: Path(path).write_text(text, encoding="utf-8"))


def write_clients(folder, clients, classes):
    """clients.csv: each client's domain, its images, and how many of each class. classes: names."""
    counts = images_by_class(clients, len(classes))
    rows = [[m, client.domain, len(client.labels), *counts[m]] for m, client in enumerate(clients)]

    def write(part):
        with open(part, "w", newline="", encoding="utf-8") as file:
            head = ["client", "domain", "images", *classes]
            csv.writer(file, lineterminator="\n").writerows([head, *rows])

    write_whole(f"{folder}/clients.csv", write)


# ---------------------------------------------------------------- after each round


def write_round(folder, state, log, domains, partition):
    """What is known after a round: its rows, the network, the prototypes, what they are made of.

    log: from fpl.run; domains: of each of the M clients; partition: FINCH's, "first" | "last", for
    methods that tell no clusters. The prototypes of the rounds SNAPSHOTS are kept. Without test
    images there is the network and the newest prototypes alone.
    """
    params, stats = named(state)
    arrays = {
        **state.prototypes._asdict(),
        "class_means": log["class_means"],
        "counts": log["counts"],
    }
    if log["accuracy"]:
        members = log.get("members")
        if members is None:
            members = fpl.cluster_members(log["class_means"], log["counts"], partition)
        rows = cluster_rows(members, domains)
        append_round(folder, log, purity(rows))
        append_clusters(folder, log["round"], rows, [*dict.fromkeys([*log["accuracy"], *domains])])
    save_arrays(folder, {**params, **stats}, arrays)
    if log["accuracy"] and log["round"] in SNAPSHOTS:
        save_prototypes(os.path.join(folder, f"prototypes-{log['round']}.npz"), arrays)


def named(state):
    """The weights and the statistics of a state by name, as NumPy: (params, stats)."""
    num_classes, d = state.prototypes.unbiased.shape

    def parts(vector, shapes):
        return {name: part.asnumpy() for name, part in fpl.views(vector, shapes).items()}

    params = parts(state.params, fpl.param_shapes(d // 8, num_classes))
    return params, parts(state.stats, fpl.stat_shapes(d // 8))


def cluster_rows(members, domains):
    """Which domains each cluster of local prototypes gathers: [(class, cluster, {domain: number})].

    members [M,K]: the cluster of each client's mean, -1 for none, from `fpl.cluster_members`.
    """
    rows = []
    for k in range(members.shape[1]):
        for cluster in range(members[:, k].max() + 1):
            inside = np.flatnonzero(members[:, k] == cluster)
            rows.append((k, cluster, dict(Counter(domains[m] for m in inside))))
    return rows


def purity(rows):
    """Share of the clusters, of all classes together, whose members are of one domain, in percent.

    rows: from `cluster_rows`. A cluster of one counts as pure; only a sole holder is one.
    """
    pure = sum(sum(n > 0 for n in members.values()) == 1 for _, _, members in rows)
    return 100 * pure / max(len(rows), 1)


def append_rows(path, head, rows):
    """More rows of a CSV file, on disk when this returns; the header comes with the first."""
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(rows if file.tell() else [head, *rows])


def append_round(folder, log, purity):
    """One more row of rounds.csv."""
    append_rows(
        os.path.join(folder, "rounds.csv"),
        ["round", "loss", *log["accuracy"], "avg", "clusters", "seconds", "purity"],
        [
            [
                log["round"],
                log["loss"],
                *log["accuracy"].values(),
                log["avg"],
                " ".join(map(str, log["clusters_per_class"])),
                log["seconds"],
                purity,
            ]
        ],
    )


def append_clusters(folder, number, rows, domains):
    """A round's clusters to clusters.csv, a row each: how many members, how many of each domain."""
    append_rows(
        os.path.join(folder, "clusters.csv"),
        ["round", "class", "cluster", "clients", *domains],
        [
            [
                number,
                k,
                cluster,
                sum(members.values()),
                *(members.get(domain, 0) for domain in domains),
            ]
            for k, cluster, members in rows
        ],
    )


def save_arrays(folder, network, prototypes):
    """model.safetensors and prototypes.npz, each from a dict name -> NumPy array.

    network: weights and statistics; prototypes: clusters, mask, unbiased, class_means, counts.
    """
    # safetensors writes the memory as it lies, so a transposed view would come back scrambled.
    network = {name: np.ascontiguousarray(value) for name, value in network.items()}
    write_whole(
        os.path.join(folder, "model.safetensors"),
        lambda path: safetensors.numpy.save_file(network, path),
    )
    save_prototypes(os.path.join(folder, "prototypes.npz"), prototypes)


def save_prototypes(path, arrays):
    """An npz file of a dict name -> NumPy array."""

    def write(part):
        with open(part, "wb") as file:  # an open file, since savez adds .npz to a name
            np.savez(file, **arrays)

    write_whole(path, write)


# ---------------------------------------------------------------- at the end


def pictures(folder, logs, domains, classes):
    """accuracy.png and prototypes.png of a run whose last round is written.

    logs: of all rounds; domains: of each client; classes: their names.
    """
    last = logs[-1]
    title = f"Accuracy by round, mean of the domains {last['avg']:.2f} %"
    unseen = set(last["accuracy"]) - set(domains)
    save_picture(f"{folder}/accuracy.png", draw.accuracy_picture(logs, title, unseen))
    save_picture(
        f"{folder}/prototypes.png",
        draw.prototypes_picture(
            draw.read_scene(f"{folder}/prototypes.npz", domains),
            f"Prototypes after round {last['round']}",
            classes,
        ),
    )


def save_picture(path, figure):
    """A matplotlib figure as a PNG file."""
    write_whole(path, lambda part: draw.save(figure, part))
