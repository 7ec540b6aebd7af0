"""What a run shows. Each function returns a text."""

import itertools

import numpy as np

from lab.data.tasks import NUM_CLASSES, TASKS
from lab.run.folder import LAST
from lab.shell.words import percents, plural, table


def describe(sources, clients, cfg):
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
    notes = of_few_clients(held) + lacking(clients) + of_the_data(sources, cfg)
    return "\n".join(
        [
            head,
            "",
            *table(files, left=(0, 3, 4)),
            "",
            *table(allotted, left=(0, 3)),
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
        f"Warning: {domain} has no client; it is tested and never trained on."
        for domain, rows in held.items()
        if not rows
    ]


def lacking(clients):
    """A line for each client that does not hold every class."""
    notes = []
    for m, client in enumerate(clients):
        if missing := sorted(set(range(NUM_CLASSES)) - set(client.labels.tolist())):
            notes.append(
                f"Note: client {m} ({client.domain}) holds no image of class "
                f"{', '.join(map(str, missing))}; it sends no prototype of that."
            )
    return notes


def of_the_data(sources, cfg):
    """A line for each way in which the data keep the accuracies from being the paper's."""
    notes = [
        f"Warning: {domain} is tested with {source['repeated']:,} of "
        f"{plural(source['test'], 'image')} that are among its training images too."
        for domain, source in sources.items()
        if source.get("repeated")
    ]
    if any(source["kind"] == "stand-in" for source in sources.values()):
        return [
            *notes,
            "Warning: this is the built-in stand-in, not the paper's data: the "
            "accuracies are not the paper's and cannot be compared with its tables.",
        ]
    published, checksums = TASKS[cfg.task].published, TASKS[cfg.task].checksums
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
    accuracies = "  ".join(f"{domain} {value:5.2f}" for domain, value in log["accuracy"].items())
    return (
        f"round {log['round']:3d}  loss {log['loss']:7.4f}  {accuracies}  "
        f"AVG {log['avg']:5.2f}  clusters {' '.join(map(str, log['clusters_per_class']))}  "
        f"{log['seconds']:.1f} s"
    )


def final_table(logs):
    """Top-1 accuracy in percent: of the last round, and the mean of the last five or fewer."""
    last, recent = logs[-1], logs[-LAST:]
    domains = list(last["accuracy"])
    means = [np.mean([log["accuracy"][domain] for log in recent]) for domain in domains]
    means.append(np.mean([log["avg"] for log in recent]))
    how_many = f"{len(recent)} rounds" if len(recent) > 1 else "round"
    return "\n".join(
        table(
            [
                ["top-1 accuracy (%)", *domains, "AVG"],
                [f"round {last['round']}", *percents([*last["accuracy"].values(), last["avg"]])],
                [f"mean of the last {how_many}", *percents(means)],
            ],
            left=(0,),
        )
    )
