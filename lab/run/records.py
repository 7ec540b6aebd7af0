"""Reads back what a run left in its folder: Run, read_run.

What cannot be read is refused in one line that names the file.
"""

import csv
import dataclasses
import json
import math
from collections import Counter
from typing import NamedTuple

from fpl import Config
from lab.data import tasks
from lab.run.settings import READING, THE_TASKS, complete
from lab.shell.errors import InputError
from lab.shell.files import is_there, read_file
from lab.shell.words import is_name, plural

MOST_CLIENTS = 1_000_000  # of a domain: what is drawn has a row for each
NEEDED = ("seed", "rounds", "cpcl", "upcr", "tau", "clients")  # no report can be without these


class Run(NamedTuple):
    """A folder's content, but for the arrays."""

    folder: str
    variant: str
    config: dict  # all fields of fpl.Config
    sources: dict  # domain -> which files
    rounds: list  # {"round", "loss", "accuracy": {domain: percent}, "avg", "purity": % or None}
    clusters: dict  # round -> [(class, {domain: members})]
    task: tasks.Task
    reading: dict  # how the task folder's pictures were read
    diverged: str  # why it stopped early; "" if it did not

    @property
    def seed(self):
        return self.config["seed"]


def read_run(folder):
    """The Run in a folder. Raises InputError for files that no run left so."""
    about, config, sources = read_json(f"{folder}/config.json")
    task = task_of(f"{folder}/config.json", about, config, sources)
    check_config(f"{folder}/config.json", config, sources, task)
    reading = reading_of(f"{folder}/config.json", about, config)
    variant = variant_of(f"{folder}/config.json", about, config)
    rounds, clusters, diverged = [], {}, ""
    domains = list(task.clients)
    if is_there(path := f"{folder}/rounds.csv"):
        domains, rounds = read_numbers(path, ["round", "loss"], domains, parse_round)
        if [log["round"] for log in rounds] != list(range(1, len(rounds) + 1)):
            raise unusable(path, "does not count its rounds 1, 2, 3 and so on")
    if is_there(path := f"{folder}/clusters.csv"):
        clusters = read_clusters(path, config, task, domains)
    if is_there(path := f"{folder}/diverged.txt"):
        diverged = " ".join(read_file(path).decode(errors="replace").split()) or "no reason given"
    return Run(folder, variant, config, sources, rounds, clusters, task, reading, diverged)


def unusable(path, what):
    """The InputError for a file that no run left so."""
    return InputError(f"{path} {what}; put a good copy in its place or move its folder away")


# ---------------------------------------------------------------- config.json


def read_json(path):
    """(all that config.json says, its settings, its sources). Raises InputError."""
    content = read_file(path)
    try:
        about = json.loads(content.decode())
        sources = {domain: {**source} for domain, source in about.get("sources", {}).items()}
        return about, {**about["config"]}, sources
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unusable(
            path, f"is not what a run writes ({type(error).__name__}: {error})"
        ) from error


def task_of(path, about, config, sources):
    """The Task that a run was of. Raises InputError."""
    name, classes = config.get("task"), about.get("classes")
    if name not in tasks.NAMES:
        raise unusable(path, "lacks a task that is known here")
    if name != "folder":
        return tasks.TASKS[name]
    if not isinstance(classes, list) or not all(map(is_name, classes)) or not sources:
        raise unusable(path, "lacks the names of its domains and classes")
    if len(set(classes)) < len(classes) or config.get("classes") != len(classes):
        raise unusable(path, "does not name its classes once each")
    return tasks.own(sources, classes)


def reading_of(path, about, config):
    """How the task folder's pictures were read; {} for other tasks. Raises InputError."""
    if config["task"] != "folder":
        return {}
    said = about.get("reading")
    if not isinstance(said, dict) or any(
        said.get(name) not in READING[name][0] for name in READING
    ):
        raise unusable(path, "does not say how pictures were read")
    return {name: said[name] for name in READING}


def check_config(path, config, sources, task):
    """Refuse settings of a wrong type or out of bounds. Raises InputError.

    Settings that another version had, or had not, are no matter.
    """
    if missing := [name for name in NEEDED if name not in config]:
        raise unusable(path, f"lacks {', '.join(missing)}")
    known = {
        field.name: type(field.default)
        for field in dataclasses.fields(Config)
        if field.name in config
    }
    for name, kind in known.items():
        if not is_a(config[name], kind):
            raise unusable(path, f"has {name} {str(config[name])[:60]!r}, which is no such setting")
    for domain, source in sources.items():
        check_source(path, domain, source)
    settings = {
        name: tuple(config[name]) if kind is tuple else config[name] for name, kind in known.items()
    }
    try:
        complete(Config(**{**THE_TASKS, **settings}), task)
    except InputError as error:
        raise unusable(path, f"has settings that no run has ({error})") from error


def check_source(path, domain, source):
    """Refuse what is said about a domain's files if no run says so. Raises InputError."""
    if not is_name(domain):
        raise unusable(path, f"has a domain {domain[:60]!r}, which is no name")
    kinds = {"kind": str, "what": str, "sha256": str, "train": int, "test": int}
    for name, kind in kinds.items():
        if not is_a(source.get(name, kind()), kind):
            raise unusable(
                path,
                f"has {name} {str(source[name])[:60]!r} of {domain[:60]!r}, which is no such thing",
            )


def is_a(value, kind):
    """Whether a value of JSON is of the kind of a setting.

    A whole number is a float too; a tuple's items are numbers of clients.
    """
    if kind is tuple:
        return (
            isinstance(value, list)
            and len(value) > 0
            and all(type(n) is int and n <= MOST_CLIENTS for n in value)
        )
    return type(value) in ((int, float) if kind is float else (kind,))


def variant_of(path, about, config):
    """A run's variant; one that was trained alone is named by what it trains. Raises InputError."""
    alone = {
        (False, False): "fedavg",
        (True, False): "cpcl",
        (False, True): "upcr",
        (True, True): "fpl",
    }
    variant = about.get("variant") or alone[config["cpcl"] > 0, config["upcr"] > 0]
    if not is_name(variant):
        raise unusable(path, f"has variant {str(variant)[:60]!r}, which is no name")
    return variant


# ---------------------------------------------------------------- rounds.csv, clusters.csv


def read_numbers(path, start, known, parse):
    """A CSV file of the columns start, some of the known domains, then avg and others, or none.

    -> (its domains, parse(name -> text) of each row). Raises InputError.
    """
    text = read_file(path).decode(errors="replace")
    try:
        head, *rows = csv.reader(text.splitlines()) if text else [[]]
    except csv.Error as error:
        raise unusable(path, f"is not what a run writes ({error})") from error
    if head[: len(start)] != start:
        raise unusable(path, f"begins with {','.join(head)[:60]!r}, not with {','.join(start)!r}")
    domains = head[len(start) : head.index("avg") if "avg" in head else None]
    if not domains or len(set(domains)) < len(domains) or not set(domains) <= set(known):
        raise unusable(
            path,
            f"has the domains {','.join(domains)[:60]!r}, not {','.join(known)!r} or some of them",
        )
    if not text.endswith("\n"):
        raise unusable(path, "is cut off in its last line")
    parsed = []
    for line, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise unusable(
                path, f"line {line} has {plural(len(row), 'cell')}, its header {len(head)}"
            )
        try:
            parsed.append(parse(dict(zip(head, row))))
        except (ValueError, KeyError) as error:
            raise unusable(path, f"line {line} is not what a run writes ({error})") from error
    return domains, parsed


def read_clusters(path, config, task, domains):
    """clusters.csv -> round -> [(class, {domain: members})]. Raises InputError."""
    start = ["round", "class", "cluster", "clients"]
    own, rows = read_numbers(path, start, domains, parse_cluster)
    if beyond := [k for _, k, _ in rows if k >= len(task.classes)]:
        raise unusable(path, f"has a class {beyond[0]} of {len(task.classes)}")
    if own != domains:
        raise unusable(
            path, f"has the domains {','.join(own)!r}, rounds.csv beside it {','.join(domains)!r}"
        )
    clients = dict(zip(task.clients, config["clients"]))
    members_of, clusters = Counter(), {}
    for number, k, members in rows:
        if not 1 <= number <= config["rounds"]:
            raise unusable(path, f"has a round {number} of {config['rounds']}")
        for domain, n in members.items():
            # A client is in one cluster of a class, which bounds the number of clusters too.
            members_of[number, k, domain] += n
            if members_of[number, k, domain] > clients[domain]:
                raise unusable(
                    path,
                    f"has {members_of[number, k, domain]} members of {domain} in "
                    f"class {k} of round {number}, where {domain} has "
                    f"{plural(clients[domain], 'client')}",
                )
        clusters.setdefault(number, []).append((k, members))
    return clusters


def parse_round(row):
    """A line of rounds.csv. The domains stand between loss and avg."""
    names = list(row)
    accuracy = {domain: percent(row[domain]) for domain in names[2 : names.index("avg")]}
    return {
        "round": whole(row["round"]),
        "loss": finite(row["loss"]),
        "accuracy": accuracy,
        "avg": percent(row["avg"]),
        "purity": percent(row["purity"]) if row.get("purity") else None,
    }


def parse_cluster(row):
    """A line of clusters.csv -> (round, class, {domain: members})."""
    members = {domain: n for domain in list(row)[4:] if (n := whole(row[domain]))}
    if not members or sum(members.values()) != whole(row["clients"]):
        raise ValueError(f"{sum(members.values())} members, not {row['clients'][:20]}")
    return whole(row["round"]), whole(row["class"]), members


def percent(text):
    """A number from 0 to 100. Raises ValueError."""
    value = float(text)
    if "_" in text or not 0 <= value <= 100:
        raise ValueError(f"{text[:20]} is no percentage")
    return value


def whole(text):
    """A number of at most nine digits, which is more than any count needs. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError(f"{text[:20]!r} is no whole number of a run")
    return int(text)


def finite(text):
    """A finite number; a run that diverges stops before it writes another. Raises ValueError."""
    value = float(text)
    if "_" in text or not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number of a run")
    return value
