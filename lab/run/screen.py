"""What a run shows. Each function returns a text."""

import itertools

import numpy as np

from lab.run.clients import images_by_class
from lab.run.folder import LAST
from lab.shell.words import percents, plural, table

MOST_NAMES = 8  # classes or clients that a line lists


def describe(sources, clients, task, cfg):
    """Before training: which files, how many images, who holds what, what is not as in the paper.

    sources: from lab.data.load.load; clients: the M Clients.
    """
    head = (
        f"{cfg.task}: {plural(len(clients), 'client')}, {plural(cfg.rounds, 'round')} of "
        f"{plural(cfg.local_epochs, 'local epoch')}, feature width d = {8 * cfg.width}, "
        f"seed {cfg.seed}"
    )
    files = [["domain", "train", "test", "sha256", "files"]]
    files += [
        [
            domain,
            f"{source['train']:,}",
            f"{source['test']:,}",
            source["sha256"][:12],
            source["what"],
        ]
        for domain, source in sources.items()
    ]
    held = {
        domain: [
            (m, len(client.labels)) for m, client in enumerate(clients) if client.domain == domain
        ]
        for domain in sources
    }
    allotted = [["domain", "clients", "images", "client number: images"]]
    allotted += [
        [domain, str(len(rows)), f"{sum(n for _, n in rows):,}", shares(rows)]
        for domain, rows in held.items()
    ]
    notes = [*(f"Note: {note}." for note in task.notes), *of_few_clients(held)]
    if not cfg.alpha:  # else the table tells
        notes += lacking(clients, task)
    notes += of_the_data(sources, task)
    return "\n".join(
        [
            head,
            "",
            *table(files, left=(0, 3, 4)),
            "",
            *table(allotted, left=(0, 3)),
            *(["", *by_class(clients, task.classes)] if cfg.alpha else []),
            *(["", *notes] if notes else []),
            "",
        ]
    )


def of_few_clients(held):
    """A line for each domain with fewer than two clients. held: {domain: one item a client}."""
    notes = [
        f"Warning: {domain} has only one client; where other clients hold a class too, its "
        "prototype shares a cluster with theirs."
        for domain, rows in held.items()
        if len(rows) == 1
    ]
    return notes + [
        f"Warning: {domain} has no client; it is unseen: tested and never trained on."
        for domain, rows in held.items()
        if not rows
    ]


def by_class(clients, classes):
    """The table of images per client and class, or where it lies if it is too wide for a screen."""
    if len(classes) > 2 * MOST_NAMES:
        return [
            f"clients.csv says how many images of each of {len(classes)} classes a client holds."
        ]
    rows = [["images of each class", "client", *classes]]
    for m, counts in enumerate(images_by_class(clients, len(classes))):
        rows.append([clients[m].domain, str(m), *map(str, counts)])
    return table(rows, left=(0,))


def lacking(clients, task):
    """A line for each client that does not hold every class, or one if there are many such.

    What a whole domain lacks is no client's news where the task's notes have told it.
    """
    counts, classes, missing = images_by_class(clients, len(task.classes)), task.classes, {}
    for m, client in enumerate(clients):
        lacks = counts[m] == 0
        if task.notes:
            lacks &= counts[[other.domain == client.domain for other in clients]].any(axis=0)
        if lacks.any():
            missing[m] = [classes[k] for k in np.flatnonzero(lacks)]
    if len(missing) > MOST_NAMES:
        return [
            f"Note: {len(missing)} of {len(clients)} clients do not hold every class and send no "
            "prototype of what they lack; clients.csv has their numbers."
        ]
    return [
        f"Note: client {m} ({clients[m].domain}) holds no image of class {some(names)}; it sends "
        "no prototype of that."
        for m, names in missing.items()
    ]


def some(names):
    """The first few names, and how many there are beyond them."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def of_the_data(sources, task):
    """A line for each way in which the data keep the accuracies from being the paper's."""
    notes = [
        f"Warning: {domain} is tested with {source['repeated']:,} of "
        f"{plural(source['test'], 'image')} that are among its training images too."
        for domain, source in sources.items()
        if source.get("repeated") and not source.get("held_back")
    ]
    notes += [
        f"Warning: {domain} holds {plural(source['repeated'], 'image')} once more; where the test "
        "has one of the two and a client the other, it was trained on."
        for domain, source in sources.items()
        if source.get("repeated") and source.get("held_back")
    ]
    if any(source["kind"] == "stand-in" for source in sources.values()):
        return [
            *notes,
            "Warning: this is the built-in stand-in, not the paper's data: the "
            "accuracies are not the paper's and cannot be compared with its tables.",
        ]
    published, checksums = task.published, task.checksums
    for domain, source in sources.items():
        if source["train"] != published.get(domain, source["train"]):
            notes.append(
                f"Warning: {domain} has {source['train']:,} training images, the published "
                f"set {published[domain]:,}; its accuracy cannot be compared with the paper's."
            )
        elif source["sha256"] != checksums.get(domain, source["sha256"]):
            notes.append(
                f"Note that {domain} has as many training images as the published set, but another "
                "checksum; the files may be another set's (Fashion-MNIST's have MNIST's names)."
            )
    return notes


def shares(rows):
    """[(0, 600), (1, 600), (2, 72)] -> "0-1: 600 each, 2: 72"."""
    parts = []
    # In a row of clients with equal numbers of images, client number minus position is the same.
    runs = itertools.groupby(enumerate(rows), key=lambda item: (item[1][0] - item[0], item[1][1]))
    for (_, images), group in runs:
        first, *rest = [m for _, (m, _) in group]
        parts.append(f"{first}-{rest[-1]}: {images:,} each" if rest else f"{first}: {images:,}")
    return ", ".join(parts) or "none"


def round_line(log):
    """One line: round, loss, accuracies, clusters of each class, seconds."""
    clusters = log["clusters_per_class"]
    if len(clusters) > 2 * MOST_NAMES:
        clusters = [f"{min(clusters)} to {max(clusters)} a class"]
    accuracies = "  ".join(f"{domain} {value:5.2f}" for domain, value in log["accuracy"].items())
    return (
        f"round {log['round']:3d}  loss {log['loss']:7.4f}  {accuracies}  "
        f"AVG {log['avg']:5.2f}  clusters {' '.join(map(str, clusters))}  "
        f"{log['seconds']:.1f} s"
    )


def unseen(task, cfg):
    """The domains that no client is of."""
    return [domain for domain, number in zip(task.clients, cfg.clients) if not number]


def final_table(logs, unseen=()):
    """Top-1 accuracy in percent: of the last round, and the mean of the last five or fewer."""
    last, recent = logs[-1], logs[-LAST:]
    domains = list(last["accuracy"])
    means = [np.mean([log["accuracy"][domain] for log in recent]) for domain in domains]
    means.append(np.mean([log["avg"] for log in recent]))
    titles = [f"{domain} (unseen)" if domain in unseen else domain for domain in domains]
    how_many = f"{len(recent)} rounds" if len(recent) > 1 else "round"
    return "\n".join(
        table(
            [
                ["top-1 accuracy (%)", *titles, "AVG"],
                [f"round {last['round']}", *percents([*last["accuracy"].values(), last["avg"]])],
                [f"mean of the last {how_many}", *percents(means)],
            ],
            left=(0,),
        )
    )
