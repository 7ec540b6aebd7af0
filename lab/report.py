"""What a run shows and leaves: tables for the screen, and in its folder config.json, rounds.csv, model.safetensors,
prototypes.npz, accuracy.png, prototypes.png. The functions for the screen return a text; the others write a file.

The same input gives the same bytes, pictures included. Whole files appear at once (written beside, then renamed), so
that an interrupted run leaves no half of one.
"""
import csv
import importlib.metadata
import itertools
import json
import math
import os
import platform

import numpy as np
import safetensors.numpy
from matplotlib.figure import Figure  # not pyplot: no window, no state shared between pictures
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from fpl import TASKS, InputError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")  # Okabe-Ito, colour-blind safe
MARKERS = "os^vPXp"  # a second sign beside the colour, for grey prints
LAST = 5  # rounds in the number that Sec. 4.1 reports


# -- for the screen

def describe(sources, clients, cfg):
    """Before training: which files, how many images, who holds what, and what is not as in the paper."""
    lines = [f"{cfg.task}: {len(clients)} clients, {cfg.rounds} rounds of {cfg.local_epochs} local epochs, "
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
    if any(source["kind"] == "stand-in" for source in sources.values()):
        notes.append("Warning: this is the built-in stand-in, not the paper's data: the accuracies are not the paper's "
                     "and cannot be compared with its tables.")
    else:
        published = TASKS[cfg.task].published
        notes += [f"Warning: {domain} has {source['train']:,} training images, the published set {published[domain]:,}; "
                  "its accuracy cannot be compared with the paper's." for domain, source in sources.items()
                  if source["train"] != published.get(domain, source["train"])]
    return "\n".join(lines + ([""] + notes if notes else []) + [""])


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
    """What else the numbers depend on."""
    return {"python": platform.python_version(), "platform": platform.platform(),
            **{name: importlib.metadata.version(name) for name in ("mindspore", "numpy", "scipy")}}


def free_folder(task, name):
    """runs/NAME, which must not exist yet; without a name the task and the first free number. Creates nothing."""
    if name is None:
        name = next(name for name in (f"{task}-{i}" for i in itertools.count(1)) if not os.path.exists(f"runs/{name}"))
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InputError(f"--name is {name!r}; it must be the name of one folder: give it without slashes")
    if os.path.lexists(f"runs/{name}"):
        raise InputError(f"runs/{name} exists; nothing was changed: give another --name or remove it")
    return f"runs/{name}"


def write_round(folder, state, log):
    """What is known after a round: its row, the network, the prototypes and what they were made from."""
    append_round(folder, log)
    network = {name: value.asnumpy() for name, value in (state.params | state.stats).items()}
    save_arrays(folder, network, {**state.prototypes._asdict(), "class_means": log["class_means"], "counts": log["counts"]})


def pictures(folder, state, logs, domains):
    """accuracy.png and prototypes.png of a finished run. domains: of each client."""
    accuracy_picture(f"{folder}/accuracy.png", logs, f"Accuracy by round, mean of the domains {logs[-1]['avg']:.2f} %")
    prototypes_picture(f"{folder}/prototypes.png", logs[-1]["class_means"], logs[-1]["counts"], domains,
                       *state.prototypes, f"Prototypes after round {state.round}")


def write_whole(path, write):
    """write(temporary name), then the rename that makes it path."""
    part = f"{path}.part"
    write(part)
    os.replace(part, path)


def write_config(folder, cfg, sources, versions):
    """config.json: every setting, which data, which software. cfg: a dict."""
    def write(path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"config": cfg, "sources": sources, "versions": versions}, file, indent=2, allow_nan=False)
            file.write("\n")
    write_whole(os.path.join(folder, "config.json"), write)


def append_round(folder, log):
    """One more row of rounds.csv, on disk when this returns; the header comes with the first."""
    with open(os.path.join(folder, "rounds.csv"), "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(["round", "loss", *log["accuracy"], "avg", "clusters", "seconds"])
        writer.writerow([log["round"], log["loss"], *log["accuracy"].values(), log["avg"],
                         " ".join(map(str, log["clusters_per_class"])), log["seconds"]])


def save_arrays(folder, network, prototypes):
    """model.safetensors and prototypes.npz, each from a dict name -> NumPy array.

    network: params and stats; prototypes: clusters, mask, unbiased, class_means, counts.
    """
    # subtle: safetensors writes the memory as it lies, so a transposed view would come back scrambled.
    network = {name: np.ascontiguousarray(value) for name, value in network.items()}
    write_whole(os.path.join(folder, "model.safetensors"), lambda path: safetensors.numpy.save_file(network, path))

    def write(path):
        with open(path, "wb") as file:  # an open file, since savez adds .npz to a name
            np.savez(file, **prototypes)
    write_whole(os.path.join(folder, "prototypes.npz"), write)


def save_picture(path, figure):
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=120, metadata={"Software": None}))


# -- pictures

def accuracy_picture(path, logs, title):
    """Accuracy by round, a line for each domain and one for their plain mean."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    rounds, every = [log["round"] for log in logs], max(1, len(logs) // 12)
    for domain, colour, marker in zip(logs[0]["accuracy"], COLOURS, MARKERS):
        axes.plot(rounds, [log["accuracy"][domain] for log in logs], color=colour, marker=marker, markevery=every,
                  label=f"{domain}  {logs[-1]['accuracy'][domain]:.2f}")
    axes.plot(rounds, [log["avg"] for log in logs], color="black", linewidth=2.5, marker="D", markevery=every,
              label=f"AVG  {logs[-1]['avg']:.2f}")
    axes.set(title=title, xlabel="round", ylabel="top-1 accuracy on the test images (%)", ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    figure.legend(title="last round (%)", loc="outside right center", frameon=False)
    save_picture(path, figure)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def plane(x):
    """x [n,d] -> (project, share): project puts rows [.,d] on the two axes of most variance, share [2] in percent."""
    centre = x.mean(axis=0)
    _, scale, axes = np.linalg.svd(x - centre, full_matrices=False)
    axes[scale < 1e-6] = 0  # a direction made of rounding errors is none
    axes = np.concatenate([axes, np.zeros((2, x.shape[1]))])[:2]  # one row spans no second axis
    axes *= np.where(axes[np.arange(2), np.abs(axes).argmax(axis=1)] < 0, -1, 1)[:, None]  # SVD leaves the sign open
    share = 100 * np.append(scale, [0, 0])[:2] ** 2 / max(np.sum(scale ** 2), 1e-12)
    return (lambda rows: (rows - centre) @ axes.T), share


def prototypes_picture(path, class_means, counts, domains, clusters, mask, unbiased, title):
    """Local, cluster and unbiased prototypes: all classes in one plane, then each class in its own.

    class_means [M,K,d], counts [M,K], domains: M names, clusters [K,J,d], mask [K,J] bool, unbiased [K,d].
    """
    domains, held, known = np.array(domains), np.asarray(counts) > 0, np.asarray(mask).any(axis=1)
    weights = counts / np.maximum(counts.sum(axis=0), 1)
    overall = unit(np.einsum("mk,mkd->kd", weights, class_means))
    local, clusters, unbiased = unit(class_means), unit(clusters), unit(unbiased)
    signs = dict(zip(dict.fromkeys(domains.tolist()), itertools.cycle(zip(COLOURS, MARKERS))))
    columns, num_classes = 5, held.shape[1]
    rows = math.ceil(num_classes / columns)
    figure = Figure(figsize=(14, 5.8 + 2.6 * rows))
    upper, lower = figure.add_gridspec(2, 1, height_ratios=(5, 2.6 * rows), hspace=0.17,
                                       left=0.06, right=0.98, top=0.96, bottom=0.02)

    def draw(axes, project, classes, size):
        for domain, (colour, marker) in signs.items():
            points = project(np.concatenate([local[(domains == domain) & held[:, k], k] for k in classes]))
            axes.scatter(*points.T, s=size, color=colour, marker=marker, alpha=0.75, linewidths=0)
        for k in classes:
            own, middle = project(clusters[k][mask[k]]), project(unbiased[k:k + 1])
            for point in own:
                axes.plot(*zip(point, middle[0]), color="0.6", linewidth=0.8, zorder=1)
            axes.scatter(*own.T, s=1.6 * size, marker="D", facecolors="none", edgecolors="black", linewidths=1.2)
            if known[k]:
                axes.scatter(*middle.T, s=4 * size, marker="*", color="gold", edgecolors="black", zorder=4)
        axes.margins(0.12)

    top = upper.subgridspec(1, 2, width_ratios=(10, 5), wspace=0.03)
    axes, side = figure.add_subplot(top[0]), figure.add_subplot(top[1])
    side.axis("off")
    if held.any():
        project, share = plane(local[held])
        draw(axes, project, range(num_classes), 26)
        for k in np.flatnonzero(known):
            axes.annotate(str(k), project(unbiased[k:k + 1])[0], xytext=(0, 9), textcoords="offset points", ha="center",
                          fontsize=15, fontweight="bold", zorder=5,
                          path_effects=[withStroke(linewidth=3, foreground="white")])
        axes.set(xlabel=f"first axis ({share[0]:.0f} % of the variance)", ylabel=f"second axis ({share[1]:.0f} %)")
    axes.set_title(title, loc="left")
    for k, cell in zip(range(num_classes), lower.subgridspec(rows, columns, hspace=0.22, wspace=0.06)):
        small = figure.add_subplot(cell)
        small.set(xticks=[], yticks=[])
        if not held[:, k].any():
            small.set_title(f"class {k}: no client holds it", fontsize=10)
            continue
        project, share = plane(local[held[:, k], k])
        draw(small, project, [k], 34)
        small.set_aspect("equal", adjustable="datalim")  # or the middle of the clusters would not look like the middle
        small.scatter(*project(overall[k:k + 1]).T, s=70, marker="x", color="black", linewidths=2, zorder=5)
        holders, number = held[:, k].sum(), mask[k].sum()
        small.set_title(f"class {k}: {number} cluster{'' if number == 1 else 's'}, " +
                        (f"{share.sum():.0f} %" if holders > 1 else "one client"), fontsize=10)

    def sign(label, marker, **style):
        return Line2D([], [], linestyle="none", label=label, marker=marker, **style)
    handles = [sign(f"local prototype, {domain} ({(domains == domain).sum()} clients)", marker, color=colour)
               for domain, (colour, marker) in signs.items()]
    handles += [sign("cluster prototype (Eq. 5)", "D", color="black", markerfacecolor="none"),
                sign("unbiased prototype (Eq. 6): each cluster one vote", "*", color="gold", markersize=13,
                     markeredgecolor="black"),
                sign("for comparison: mean over all images", "x", color="black", markersize=8, markeredgewidth=2)]
    side.legend(handles=handles, loc="upper left", frameon=False, borderaxespad=0)
    side.text(0.03, 0.0, "Here: all classes; the number is the class.\nBelow: each class in a plane of its own; the "
              "percentage is\nthe share of its variance that the plane shows.\n"
              "The planes are principal axes of the local prototypes.\n"
              "Every vector is first scaled to length 1, since FINCH\nand CPCL see only angles (the cosine). "
              "Axes have no unit.",
              transform=side.transAxes, va="bottom", fontsize=9.5, color="0.25")
    save_picture(path, figure)
