"""Reads what runs leave. A run is what fpl.py leaves in a folder; an experiment is a folder of <variant>/seed-<s>/, each of
them a run, as lab/compare.py leaves it. What cannot be read is refused in one line that names the file.
"""
import csv
import dataclasses
import glob
import json
import math
import os
import re
from collections import Counter
from typing import NamedTuple

import fpl
from lab.pictures import plural


MOST_CLIENTS = 1_000_000  # of a domain: what is drawn has a row for each
NEEDED = ("seed", "rounds", "cpcl", "upcr", "tau", "clients")  # settings without which a report cannot be


class Run(NamedTuple):
    folder: str
    variant: str
    config: dict     # all fields of fpl.Config
    sources: dict    # domain -> which files
    rounds: list     # {"round", "loss", "accuracy": {domain: percent}, "avg", "purity": percent or None}
    clusters: dict   # round -> [(class, {domain: members})]
    diverged: str    # why it stopped early; "" if it did not

    @property
    def seed(self):
        return self.config["seed"]


def unusable(path, what):
    return fpl.InputError(f"{path} {what}; repair it or move its folder away")


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            about = json.load(file)
        return about, {**about["config"]}, {domain: {**source} for domain, source in about.get("sources", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unusable(path, f"is not what a run writes ({type(error).__name__}: {error})") from error


def check_config(path, config, sources):
    """Refuse settings of a wrong type or out of bounds; others that another version had or had not are no matter."""
    if config.get("task") not in list(fpl.TASKS):
        raise unusable(path, "lacks a task that is known here")
    if missing := [name for name in NEEDED if name not in config]:
        raise unusable(path, f"lacks {', '.join(missing)}")
    known = {field.name: type(field.default) for field in dataclasses.fields(fpl.Config) if field.name in config}
    for name, kind in known.items():
        if not is_a(config[name], kind):
            raise unusable(path, f"has {name} {str(config[name])[:60]!r}, which is no such setting")
    for domain, source in sources.items():
        if not is_name(domain):
            raise unusable(path, f"has a domain {domain[:60]!r}, which is no name")
        for name, kind in (("kind", str), ("what", str), ("sha256", str), ("train", int), ("test", int)):
            if not is_a(source.get(name, kind()), kind):
                raise unusable(path, f"has {name} {str(source[name])[:60]!r} of {domain[:60]!r}, which is no such thing")
    try:
        fpl.complete(fpl.Config(**{name: tuple(config[name]) if kind is tuple else config[name] for name, kind in known.items()}))
    except fpl.InputError as error:
        raise unusable(path, f"has settings that no run has ({error})") from error


def is_a(value, kind):
    """Whether a value of JSON is of the kind of a setting: a whole number is a float too, a tuple's items are client numbers."""
    if kind is tuple:
        return isinstance(value, list) and len(value) > 0 and all(type(n) is int and n <= MOST_CLIENTS for n in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def is_name(value):
    """Whether the pictures can show it: matplotlib leaves out what begins with _, and fails at half a letter such as \\ud800."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 100 and not value.startswith("_")


def read_numbers(path, start, known, parse):
    """A CSV file of the columns start, then some of the known domains, then avg and others, or none.

    -> (its domains, parse(name -> text) of each row). Raises InputError.
    """
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        text = file.read()
    try:
        head, *rows = csv.reader(text.splitlines()) if text else [[]]
    except csv.Error as error:
        raise unusable(path, f"is not what a run writes ({error})") from error
    if head[:len(start)] != start:
        raise unusable(path, f"begins with {','.join(head)[:60]!r}, not with {','.join(start)!r}")
    domains = head[len(start):head.index("avg") if "avg" in head else None]
    if not domains or len(set(domains)) < len(domains) or not set(domains) <= set(known):
        raise unusable(path, f"has the domains {','.join(domains)[:60]!r}, not {','.join(known)!r} or some of them")
    if not text.endswith("\n"):
        raise unusable(path, "is cut off in its last line")
    parsed = []
    for line, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise unusable(path, f"line {line} has {plural(len(row), 'cell')}, its header {len(head)}")
        try:
            parsed.append(parse(dict(zip(head, row))))
        except (ValueError, KeyError) as error:
            raise unusable(path, f"line {line} is not what a run writes ({error})") from error
    return domains, parsed


def percent(text):
    value = float(text)
    if "_" in text or not 0 <= value <= 100:
        raise ValueError(f"{text[:20]} is no percentage")
    return value


def whole(text):
    """Of at most nine digits, which is more than any count here needs."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError(f"{text[:20]!r} is no whole number of a run")
    return int(text)


def finite(text):
    value = float(text)
    if "_" in text or not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number of a run")  # one that diverges stops before it is written
    return value


def parse_round(row):
    """A line of rounds.csv. The domains stand between loss and avg."""
    names = list(row)
    accuracy = {domain: percent(row[domain]) for domain in names[2:names.index("avg")]}
    return {"round": whole(row["round"]), "loss": finite(row["loss"]), "accuracy": accuracy, "avg": percent(row["avg"]),
            "purity": percent(row["purity"]) if row.get("purity") else None}


def parse_cluster(row):
    """A line of clusters.csv -> (round, class, {domain: members})."""
    members = {domain: n for domain in list(row)[4:] if (n := whole(row[domain]))}
    if not members or sum(members.values()) != whole(row["clients"]):
        raise ValueError(f"{sum(members.values())} members, not {row['clients'][:20]}")
    if whole(row["class"]) >= fpl.NUM_CLASSES:
        raise ValueError(f"class {row['class']} of {fpl.NUM_CLASSES}")
    return whole(row["round"]), whole(row["class"]), members


def read_clusters(path, config, domains):
    """clusters.csv -> round -> [(class, {domain: members})]. Raises InputError."""
    own, rows = read_numbers(path, ["round", "class", "cluster", "clients"], domains, parse_cluster)
    if own != domains:
        raise unusable(path, f"has the domains {','.join(own)!r}, rounds.csv beside it {','.join(domains)!r}")
    clients, members_of, clusters = dict(zip(fpl.TASKS[config["task"]].clients, config["clients"])), Counter(), {}
    for number, k, members in rows:
        if not 1 <= number <= config["rounds"]:
            raise unusable(path, f"has a round {number} of {config['rounds']}")
        for domain, n in members.items():  # a client is in one cluster of a class, which bounds their number too
            members_of[number, k, domain] += n
            if members_of[number, k, domain] > clients[domain]:
                raise unusable(path, f"has {members_of[number, k, domain]} members of {domain} in class {k} of round {number}, "
                                     f"where {domain} has {plural(clients[domain], 'client')}")
        clusters.setdefault(number, []).append((k, members))
    return clusters


def variant_of(about, config, folder):
    """A run that fpl.py made alone is named by what it trains."""
    alone = {(False, False): "fedavg", (True, False): "cpcl", (False, True): "upcr", (True, True): "fpl"}
    name = alone[config["cpcl"] > 0, config["upcr"] > 0]
    variant = about.get("variant") or name
    if not is_name(variant):
        raise unusable(f"{folder}/config.json", f"has variant {str(variant)[:60]!r}, which is no name")
    return variant


def read_run(folder):
    """Raises InputError for files that no run left so."""
    about, config, sources = read_json(f"{folder}/config.json")
    check_config(f"{folder}/config.json", config, sources)
    rounds, clusters, diverged, domains = [], {}, "", list(fpl.TASKS[config["task"]].clients)
    if os.path.exists(f"{folder}/rounds.csv"):
        domains, rounds = read_numbers(f"{folder}/rounds.csv", ["round", "loss"], domains, parse_round)
        if [log["round"] for log in rounds] != list(range(1, len(rounds) + 1)):
            raise unusable(f"{folder}/rounds.csv", "does not count its rounds 1, 2, 3 and so on")
    if os.path.exists(f"{folder}/clusters.csv"):
        clusters = read_clusters(f"{folder}/clusters.csv", config, domains)
    if os.path.exists(f"{folder}/diverged.txt"):
        with open(f"{folder}/diverged.txt", encoding="utf-8", errors="replace") as file:
            diverged = " ".join(file.read().split()) or "no reason given"
    return Run(folder, variant_of(about, config, folder), config, sources, rounds, clusters, diverged)


def seeds_in(folder, ending=""):
    """The folders of an experiment's runs, those with ".part" of unfinished ones; `repeat` leaves others beside them."""
    return [path for path in sorted(glob.glob(f"{glob.escape(folder)}/*/seed-*{ending}"))
            if re.fullmatch(f"seed-[0-9]+{re.escape(ending)}", os.path.basename(path))]


def find_runs(folder):
    """The runs of an experiment, or the run that the folder is, or None where it is neither."""
    found, unfinished = seeds_in(folder), seeds_in(folder, ".part")
    if not (found or unfinished) and os.path.exists(f"{folder}/config.json"):
        return [read_run(folder)]
    runs = [read_run(path) for path in found]
    seen = Counter((run.variant, run.seed) for run in runs)
    if len(seen) < len(runs):
        (variant, seed), _ = seen.most_common(1)[0]
        raise fpl.InputError(f"{folder} has two runs of {variant} with seed {seed}; move one of them away")
    if len({tuple(run.rounds[0]["accuracy"]) for run in runs if run.rounds}) > 1:
        raise fpl.InputError(f"{folder} has runs of different domains; report them from folders of their own")
    return runs if found or unfinished else None


def find_sections(folder):
    """[(folder, runs)]: the folder itself if it is a run or an experiment, else those right below it."""
    runs = find_runs(folder)
    below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()) if runs is None else []
    sections = [(folder, runs)] if runs else [(path, found) for path in below if (found := find_runs(path))]
    if not sections:
        raise fpl.InputError(f"{folder} holds no finished run; ./run.sh digits or ./run.sh compare makes some")
    return sections


def finished(runs):
    """Those that give numbers."""
    return [run for run in runs if run.rounds and not run.diverged]


def domains_of(runs):
    return next((list(run.rounds[0]["accuracy"]) for run in runs if run.rounds),
                list(fpl.TASKS[runs[0].config["task"]].clients))
