"""Folders as runs leave them, filled with drawn numbers instead of trained ones. The same seed gives the same bytes."""
import dataclasses
import json
import os

import numpy as np

import finch
import fpl
from lab import report

SOURCES = {
    "digits": {"mnist": (60000, 10000), "usps": (7291, 2007), "svhn": (4434, 1000), "syn": (2000, 400)},
    "office": {"caltech": (898, 224), "amazon": (767, 190), "webcam": (237, 58), "dslr": (127, 30)},
}
LEVELS = {"mnist": 94, "usps": 66, "svhn": 56, "syn": 40, "caltech": 52, "amazon": 61, "webcam": 44, "dslr": 38}


def config_of(task="digits", **changes):
    """The fields of a Config as config.json has them."""
    return json.loads(json.dumps(dataclasses.asdict(fpl.complete(fpl.Config(task=task, **changes)))))


def sources_of(task, kind="files"):
    return {domain: {"kind": kind, "what": f"{domain}, made for a test", "train": train, "test": test, "sha256": f"{i}" * 64}
            for i, (domain, (train, test)) in enumerate(SOURCES[task].items(), 1)}


def write_run(folder, config, accuracies, variant=None, purities=None, clusters=None, diverged=None, sources=None):
    """accuracies: of each round, domain -> percent; clusters: of each round, rows as report.cluster_rows gives them."""
    os.makedirs(folder)
    about = {"config": config, "sources": sources or sources_of(config["task"]), "versions": {"python": "3.11"}}
    if variant:
        about |= {"variant": variant, "method": {"name": variant, "numbers": {}}}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(about, file)
    os.utime(f"{folder}/config.json", (1.7e9, 1.7e9))  # 14 November 2023
    for number, accuracy in enumerate(accuracies, 1):
        report.append_round(folder, {"round": number, "loss": 2.5 / number, "accuracy": accuracy, "seconds": 1.5,
                                     "avg": float(np.mean(list(accuracy.values()))), "clusters_per_class": [4] * 10},
                            100.0 if purities is None else purities[number - 1])
    for number, rows in enumerate(clusters or [], 1):
        report.append_clusters(folder, number, rows, list(accuracies[0]))
    if diverged:
        with open(f"{folder}/diverged.txt", "w") as file:
            file.write(f"{diverged}\n")
    return folder


def made_arrays(rng, domains, progress, aligned, d=32):
    """Class means that point by class and by domain, the more by class the further training is."""
    names = list(dict.fromkeys(domains))
    of_class, of_domain = rng.random((10, d)) ** 3, rng.random((len(names), 10, d)) ** 3
    index = [names.index(domain) for domain in domains]
    means = ((0.3 + progress) * of_class + (1 - 0.5 * progress) * of_domain[index] * (0.4 + 0.6 * aligned) +
             0.45 * rng.random((len(domains), 10, d)))
    counts = rng.integers(3, 70, (len(domains), 10))
    clusters, mask = np.zeros((10, len(domains) // 2, d)), np.zeros((10, len(domains) // 2), bool)
    for k in range(10):
        labels = finch.finch(means[:, k])[0]
        for j in range(labels.max() + 1):
            clusters[k, j], mask[k, j] = means[labels == j, k].mean(axis=0), True
    return {"clusters": clusters, "mask": mask, "unbiased": clusters.sum(axis=1) / mask.sum(axis=1)[:, None],
            "class_means": means, "counts": counts}


def made_run(folder, variant, config, gain=0.0, sources=None):
    """A whole run with curves that rise, clusters and prototypes."""
    rng = np.random.default_rng([config["seed"], *variant.encode()])
    luck = np.random.default_rng([config["seed"], 99]).normal(0, 3)
    task = fpl.TASKS[config["task"]]
    domains = [domain for domain, n in zip(task.clients, config["clients"]) for _ in range(n)]
    rounds, accuracies, rows, arrays = config["rounds"], [], [], {}
    for number in range(1, rounds + 1):
        rise = 1 - np.exp(-4 * number / rounds)
        means = {domain: 10 + (LEVELS[domain] + gain + luck - 10) * rise for domain in task.clients}
        accuracies.append({domain: float(np.clip(mean + rng.normal(0, 1.5), 0, 100)) for domain, mean in means.items()})
        state = np.random.default_rng([config["seed"], 5])
        arrays[number] = made_arrays(state, domains, rise, 0.9 if variant in ("fpl", "both") else 0.1)
        rows.append(report.cluster_rows(arrays[number]["class_means"], arrays[number]["counts"], domains, "first"))
    write_run(folder, config, accuracies, variant, [report.purity(some) for some in rows], rows, sources=sources)
    for number in [*report.SNAPSHOTS, rounds]:
        if number <= rounds:
            name = f"prototypes-{number}" if number in report.SNAPSHOTS else "prototypes"
            report.save_prototypes(f"{folder}/{name}.npz", arrays[number])
    report.save_prototypes(f"{folder}/prototypes.npz", arrays[rounds])
    return folder


GAINS = {"fedavg": 0, "fedprox": 0.4, "moon": -3, "feddyn": 0.6, "fedopt": -1, "fedproc": -2, "fedproto": 1.5, "fpl": 3.5,
         "neither": 0, "cpcl": 1.4, "upcr": 1.8, "both": 3.2, "upcr-global": 1, "cpcl-global": -0.5, "tau-0.005": -3,
         "tau-0.01": 1, "tau-0.05": 2.6, "tau-0.1": 2, "tau-0.2": 1.2, "tau-0.5": -1}


def made_experiment(folder, variants, seeds=(0, 1, 2), task="digits", **changes):
    """runs/compare-digits and the like."""
    for variant in variants:
        for seed in seeds:
            own = {"tau": float(variant[4:])} if variant.startswith("tau-") else {}
            config = config_of(task, seed=seed, **{**changes, **own})
            made_run(f"{folder}/{variant}/seed-{seed}", variant, config, GAINS[variant])
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"command": "compare", "config": config_of(task), "sources": sources_of(task), "versions": {}}, file)
    return folder
