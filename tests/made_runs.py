"""Folders as runs leave them, without training: filled with drawn numbers, or by a stand-in for it.

The same seed gives the same bytes.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from tiny import tiny

import fpl
from lab.data.tasks import TASKS
from lab.run import folder as run_folder
from lab.run import repeat, train
from lab.run.settings import THE_TASKS, complete
from lab.shell.files import write_whole

SOURCES = {
    "digits": {
        "mnist": (60000, 10000),
        "usps": (7291, 2007),
        "svhn": (4434, 1000),
        "syn": (2000, 400),
    },
    "office": {
        "caltech": (898, 224),
        "amazon": (767, 190),
        "webcam": (237, 58),
        "dslr": (127, 30),
    },
}
LEVELS = {
    "mnist": 94, "usps": 66, "svhn": 56, "syn": 40,
    "caltech": 52, "amazon": 61, "webcam": 44, "dslr": 38,
}  # fmt: skip
GAINS = {
    "fedavg": 0, "fedprox": 0.4, "moon": -3, "feddyn": 0.6, "fedopt": -1, "fedproc": -2,
    "fedproto": 1.5, "fpl": 3.5, "neither": 0, "cpcl": 1.4, "upcr": 1.8, "both": 3.2,
    "upcr-global": 1, "cpcl-global": -0.5, "tau-0.005": -3, "tau-0.01": 1, "tau-0.05": 2.6,
    "tau-0.1": 2, "tau-0.2": 1.2, "tau-0.5": -1,
}  # fmt: skip


# -- drawn numbers


def config_of(task="digits", **changes):
    """The fields of a Config as config.json has them."""
    cfg = fpl.Config(**{"task": task, **THE_TASKS, **changes})
    return json.loads(json.dumps(dataclasses.asdict(complete(cfg, TASKS[cfg.task]))))


def sources_of(task, kind="files"):
    """What config.json says of the files of each domain."""
    return {
        domain: {
            "kind": kind,
            "what": f"{domain}, made for a test",
            "train": train,
            "test": test,
            "sha256": f"{i}" * 64,
        }
        for i, (domain, (train, test)) in enumerate(SOURCES[task].items(), 1)
    }


def write_run(
    folder,
    config,
    accuracies,
    variant=None,
    purities=None,
    clusters=None,
    diverged=None,
    sources=None,
):
    """A run's config.json, rounds.csv and, where they are given, clusters.csv and diverged.txt.

    accuracies: of each round, domain -> percent; clusters:
    of each round, rows as cluster_rows gives them.
    """
    os.makedirs(folder)
    about = {
        "config": config,
        "sources": sources or sources_of(config["task"]),
        "versions": {"python": "3.11"},
    }
    if variant:
        about |= {"variant": variant, "method": {"name": variant, "numbers": {}}}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(about, file)
    os.utime(f"{folder}/config.json", (1.7e9, 1.7e9))  # 14 November 2023
    for number, accuracy in enumerate(accuracies, 1):
        log = {
            "round": number,
            "loss": 2.5 / number,
            "accuracy": accuracy,
            "avg": float(np.mean(list(accuracy.values()))),
            "clusters_per_class": [4] * 10,
            "seconds": 1.5,
        }
        run_folder.append_round(folder, log, purities[number - 1] if purities else 100.0)
    for number, rows in enumerate(clusters or [], 1):
        run_folder.append_clusters(folder, number, rows, list(accuracies[0]))
    if diverged:
        with open(f"{folder}/diverged.txt", "w") as file:
            file.write(f"{diverged}\n")
    return folder


def made_arrays(rng, domains, progress, aligned, d=32):
    """Class means that point by class and by domain, the more by class the further training is."""
    names = list(dict.fromkeys(domains))
    of_class, of_domain = rng.random((10, d)) ** 3, rng.random((len(names), 10, d)) ** 3
    index = [names.index(domain) for domain in domains]
    means = (
        (0.3 + progress) * of_class
        + (1 - 0.5 * progress) * of_domain[index] * (0.4 + 0.6 * aligned)
        + 0.45 * rng.random((len(domains), 10, d))
    ).astype(np.float32)
    counts = rng.integers(3, 70, (len(domains), 10))
    clusters, mask = fpl.cluster_prototypes(means, counts, "first")
    return {
        "clusters": clusters,
        "mask": mask,
        "unbiased": fpl.unbiased_prototypes(clusters, mask),
        "class_means": means,
        "counts": counts,
    }


def made_run(folder, variant, config, gain=0.0, sources=None):
    """A whole run with curves that rise, clusters and prototypes."""
    rng = np.random.default_rng([config["seed"], *variant.encode()])
    luck = np.random.default_rng([config["seed"], 99]).normal(0, 3)
    names = list(TASKS[config["task"]].clients)
    domains = [name for name, n in zip(names, config["clients"]) for _ in range(n)]
    rounds, accuracies, rows, arrays = config["rounds"], [], [], {}
    for number in range(1, rounds + 1):
        rise = 1 - np.exp(-4 * number / rounds)
        means = {name: 10 + (LEVELS[name] + gain + luck - 10) * rise for name in names}
        accuracies.append(
            {
                name: float(np.clip(mean + rng.normal(0, 1.5), 0, 100))
                for name, mean in means.items()
            }
        )
        state = np.random.default_rng([config["seed"], 5])
        aligned = 0.9 if variant in ("fpl", "both") else 0.1
        arrays[number] = made_arrays(state, domains, rise, aligned)
        members = fpl.cluster_members(
            arrays[number]["class_means"], arrays[number]["counts"], "first"
        )
        rows.append(run_folder.cluster_rows(members, domains))
    purities = [run_folder.purity(some) for some in rows]
    write_run(folder, config, accuracies, variant, purities, rows, sources=sources)
    for number in run_folder.SNAPSHOTS:
        if number <= rounds:
            run_folder.save_prototypes(f"{folder}/prototypes-{number}.npz", arrays[number])
    run_folder.save_prototypes(f"{folder}/prototypes.npz", arrays[rounds])
    return folder


def made_experiment(folder, variants, seeds=(0, 1, 2), task="digits", **changes):
    """runs/compare-digits and the like."""
    for variant in variants:
        for seed in seeds:
            own = {"tau": float(variant[4:])} if variant.startswith("tau-") else {}
            config = config_of(task, seed=seed, **{**changes, **own})
            made_run(f"{folder}/{variant}/seed-{seed}", variant, config, GAINS[variant])
    about = {
        "command": "compare",
        "config": config_of(task),
        "sources": sources_of(task),
        "versions": {},
    }
    with open(f"{folder}/config.json", "w") as file:
        json.dump(about, file)
    return folder


# -- a stand-in for the training

RECORD = {
    "config": {"tau": 0.02, "clients": (1, 2)},
    "sources": {"mnist": {"sha256": "abc"}},
    "versions": {},
}
SMALL = ["digits", "--rounds", "3", "--width", "1", "--clients", "1,1,1,1", "--fraction", "0.0005"]
SMALL += ["--test-images", "4"]
SECONDS = [0.0]  # what a round of the stand-in takes


def arrays_of(state):
    """Every array of a state: name -> NumPy array."""
    memory = getattr(state, "memory", {})
    return {
        "params": state.params.asnumpy(),
        "stats": state.stats.asnumpy(),
        **state.prototypes._asdict(),
        **{f"{who} {k}": v.asnumpy() for who, kept in memory.items() for k, v in kept.items()},
    }


def next_state(state, number):
    """A state with other numbers everywhere, the same ones for the same state."""

    def moved(vector):
        return Tensor(vector.asnumpy() * np.float32(0.5) + np.float32(number))

    clusters = state.prototypes.clusters + np.float32(number)
    mask = np.ones_like(state.prototypes.mask)
    return state._replace(
        round=number,
        params=moved(state.params),
        stats=moved(state.stats),
        prototypes=fpl.Prototypes(clusters, mask, clusters.mean(axis=1)),
    )


def stand_in_run(clients, tests, cfg, state=None, engine=map, server_round=fpl.server_round):
    """In place of fpl.run: no training."""
    state = state or fpl.init_state(cfg)
    for number in range(state.round + 1, cfg.rounds + 1):
        moved_by = number + len(server_round.__qualname__) / 8  # another method, other numbers
        state = next_state(state, moved_by)._replace(round=number)
        accuracy = {domain: 100 / (number + 1 + i) for i, domain in enumerate(tests)}
        rng = np.random.default_rng(number)
        means = rng.random((len(clients), 10, 8 * cfg.width)).astype(np.float32)
        yield (
            state,
            {
                "round": number,
                "loss": 1 / 3 / number,
                "accuracy": accuracy,
                "avg": sum(accuracy.values()) / 4,
                "seconds": SECONDS[0],
                "clusters_per_class": [2] * 10,
                "losses": {},
                "class_means": means,
                "counts": np.ones((len(clients), 10), int),
            },
        )


def picture(folder, logs, domains, classes):
    """In place of the pictures, which take seconds."""
    text = repr([(log["round"], log["avg"], log["accuracy"]) for log in logs])
    write_whole(f"{folder}/accuracy.png", lambda part: Path(part).write_text(text))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(*flags) -> exit status of a run without training, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fpl, "run", stand_in_run)
    for module in (train, repeat):
        monkeypatch.setattr(module, "load", tiny)
    monkeypatch.setattr(run_folder, "pictures", picture)
    return lambda *flags: train.main([*SMALL, *flags])
