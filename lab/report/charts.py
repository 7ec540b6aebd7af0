"""Pictures of a report: several runs in one picture.

Each function returns (Figure, what it shows), or None without data.

A line or bar is a mean over seeds; a band reaches
from the lowest to the highest seed, a dot is one seed.
"""

import io
import math
import os
import statistics
from collections import Counter

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lab.report import paper
from lab.report.folders import finished
from lab.report.tables import TAU_ADDRESS, label_of, pure_share, recent, tau_runs
from lab.run import pictures
from lab.run.folder import SNAPSHOTS
from lab.run.pictures import COLOURS, MARKERS
from lab.run.records import unusable
from lab.shell.files import read_file
from lab.shell.words import plural

WIDTH = 9  # inches; at 120 dots an inch a page's width
MOST_NUMBERS = 40  # columns of a panel: more would lie on one another, and take minutes
BOTH, NEITHER = ("fpl", "both"), ("fedavg", "neither")


def names(groups, wanted):
    """The variants of wanted that are there and have a finished run."""
    return [name for name in wanted if finished(groups.get(name, []))]


def styles(names):
    """variant -> how its line looks; FPL is black, so that it stands out among the others."""
    others = [name for name in names if name not in BOTH]
    looks = {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3],
        }
        for i, name in enumerate(others)
    }
    return {
        name: looks.get(name, {"color": "black", "marker": "D", "linestyle": "-"}) for name in names
    }


def band(axes, series, label, color, **style):
    """The series' mean by round as a line, from their lowest to their highest as a band.

    series: lists of numbers from round 1 on.
    """
    length = min(map(len, series))
    values = np.array([one[:length] for one in series], float)
    rounds = np.arange(1, length + 1)
    axes.plot(
        rounds,
        values.mean(axis=0),
        label=label,
        color=color,
        markersize=5,
        markevery=max(1, length // 10),
        **style,
    )
    if len(values) > 1:
        axes.fill_between(
            rounds, values.min(axis=0), values.max(axis=0), color=color, alpha=0.13, linewidth=0
        )


def by_round(axes, **labels):
    axes.set(**labels)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")


def legend_below(figure, axes, columns=4):
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False
    )


def seeds_of(groups, names):
    """The numbers of seeds behind some variants, in words."""
    numbers = sorted({len(finished(groups[name])) for name in names})
    return "one seed" if numbers == [1] else f"{' or '.join(map(str, numbers))} seeds"


def lines_show(groups, names):
    """What lines and bands show."""
    seeds = seeds_of(groups, names)
    return (
        "Lines: one seed."
        if seeds == "one seed"
        else f"Lines: mean of {seeds}; bands: lowest to highest seed."
    )


def curves(groups, keys):
    """Accuracy by round of each variant.

    keys: ["AVG"] for one panel, or the domains for a panel each.
    """
    shown = names(groups, [name for name in groups if not name.startswith("tau-")]) or names(
        groups, groups
    )
    if not shown:
        return None
    columns = min(2, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(WIDTH, 4.45 if rows == 1 else 1 + 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for key, axes in zip(keys, panels):
        for name, style in styles(shown).items():
            series = [
                [{**log["accuracy"], "AVG": log["avg"]}[key] for log in run.rounds]
                for run in finished(groups[name])
            ]
            band(axes, series, label_of(name), **style)
        by_round(
            axes,
            xlabel="round",
            ylabel="top-1 accuracy (%)",
            title=key.replace("AVG", "AVG, the mean of the domains"),
        )
        axes.label_outer(remove_inner_ticks=False)
        axes.tick_params(labelleft=True)  # each panel has a scale of its own
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    legend_below(figure, panels[0])
    what = (
        "the plain mean of the domains"
        if keys == ["AVG"]
        else "each domain in a panel with a scale of its own"
    )
    left_out = ["variants of tau"] * any(
        name.startswith("tau-") for name in set(groups) - set(shown)
    ) + ["diverged runs"] * any(run.diverged for runs in groups.values() for run in runs)
    return figure, (
        f"Top-1 accuracy (%) on the test images by round: {what}. {lines_show(groups, shown)}"
        + (f" Left out: {', '.join(left_out)}." if left_out else "")
    )


def bars(groups, plans):
    """AVG of each variant of each table: a bar for the mean, a dot for each seed."""
    plans = [
        plan
        for plan in plans
        if plan.address != TAU_ADDRESS and len(names(groups, plan.variants)) > 1
    ]
    if not plans:
        return None
    sizes = [len(names(groups, plan.variants)) for plan in plans]
    figure = Figure(
        figsize=(WIDTH, 1.1 + 0.62 * len(plans) + 0.36 * sum(sizes)), layout="constrained"
    )
    panels = figure.subplots(
        len(plans), 1, sharex=True, squeeze=False, height_ratios=[size + 1 for size in sizes]
    )[:, 0]
    for plan, axes in zip(plans, panels):
        shown = names(groups, plan.variants)
        for i, name in enumerate(shown):
            values = [recent(run)["AVG"] for run in finished(groups[name])]
            mean = statistics.fmean(values)
            axes.barh(i, mean, color="#9ecae1" if name not in BOTH else "#0072B2", height=0.7)
            axes.plot(
                values,
                [i] * len(values),
                "o",
                color="black",
                markersize=4.5,
                markeredgecolor="white",
                clip_on=False,
            )
            axes.text(max(values) + 1.2, i, f"{mean:.2f}", va="center", fontsize=10)
        axes.set(
            title=plan.title,
            yticks=range(len(shown)),
            yticklabels=[plan.labels.get(name) or label_of(name) for name in shown],
        )
        axes.invert_yaxis()
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set(xlim=(0, 100), xlabel="AVG, top-1 accuracy (%), mean of the last rounds")
    every = [name for plan in plans for name in names(groups, plan.variants)]
    diverged = any(
        run.diverged for plan in plans for name in plan.variants for run in groups.get(name, [])
    )
    return figure, (
        "AVG (%, mean of the domains, mean of the last rounds) of each variant. Bar and number: "
        f"mean of {seeds_of(groups, every)}; dot: one seed."
        + (" Left out: diverged runs." if diverged else "")
    )


def tau_curve(groups):
    """AVG against the temperature, on a logarithmic axis."""
    points = {
        tau: [recent(run)["AVG"] for run in finished(runs)]
        for tau, runs in tau_runs(groups).items()
    }
    lost = [f"{tau:g}" for tau, values in points.items() if not values]
    points = {tau: values for tau, values in points.items() if values}
    if len(points) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        list(points),
        list(map(statistics.fmean, points.values())),
        color=COLOURS[0],
        label="mean over seeds",
    )
    dots = [(tau, value) for tau, values in points.items() for value in values]
    axes.plot(*zip(*dots), "o", color="black", markersize=4.5, label="one seed")
    axes.axvline(
        paper.TAU, color=COLOURS[1], linestyle="--", label=f"the paper's choice, {paper.TAU:g}"
    )
    axes.set_xscale("log")
    axes.set(
        xticks=list(points),
        xticklabels=[f"{tau:g}" for tau in points],
        xlabel="tau (no unit, logarithmic axis)",
        ylabel="AVG, top-1 accuracy (%)",
        title="Accuracy by temperature",
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="0.9")
    axes.legend(frameon=False)
    seeds = seeds_of(
        groups, [runs[0].variant for tau, runs in tau_runs(groups).items() if tau in points]
    )
    return figure, (
        "AVG (%, mean of the last rounds) of FPL by the temperature tau of Eq. 7; line: mean over "
        f"seeds, dot: one seed ({seeds} a point)."
        + (f" No finished run with tau {', '.join(lost)}." if lost else "")
    )


def cluster_curves(groups):
    """Clusters per class and the share of pure ones, by round.

    Of FPL and FedAvg, or else of the first variant that there is.
    """
    there = {
        name: some
        for name, runs in groups.items()
        if (some := [run for run in finished(runs) if run.clusters])
    }
    shown = [name for name in (*BOTH, *NEITHER) if name in there] or list(there)[:1]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for name, colour, marker in zip(shown, COLOURS, MARKERS):
        series = [[run.clusters[number] for number in sorted(run.clusters)] for run in there[name]]
        per_class = [[list(Counter(k for k, _ in rows).values()) for rows in one] for one in series]
        style = {"label": label_of(name), "color": colour, "marker": marker}
        band(left, [[statistics.fmean(numbers) for numbers in one] for one in per_class], **style)
        band(right, [[pure_share(rows) for rows in one] for one in series], **style)
        for pick, label in ((min, f"{label_of(name)}, the class with fewest, most"), (max, None)):
            ends = [pick(map(pick, same_round)) for same_round in zip(*per_class)]
            left.plot(
                range(1, len(ends) + 1),
                ends,
                color=colour,
                linestyle=":",
                linewidth=1.2,
                label=label,
            )
    by_round(left, xlabel="round", ylabel="clusters", title="Clusters per class")
    left.set_ylim(bottom=0)
    by_round(right, xlabel="round", ylabel="clusters of one domain (%)", title="Pure clusters")
    right.set_ylim(-3, 103)
    legend_below(figure, left, 2)
    return figure, (
        "Left: number of clusters per class, mean of the classes; dotted: the class with fewest "
        "and the one with most, of all seeds. Right: share of all clusters whose members are of "
        f"one domain (%). {lines_show(there, shown)}"
    )


def heat(run):
    """Which domains each cluster gathers in the last round.

    A panel is a class, a column a cluster.
    """
    if not run.clusters:
        return None
    number = max(run.clusters)
    rows = run.clusters[number]
    domains = [
        domain
        for domain in run.rounds[0]["accuracy"]
        if any(domain in members for _, members in rows)
    ]
    classes = sorted({k for k, _ in rows})
    classes, others = classes[: pictures.MOST_CLASSES], len(classes) - pictures.MOST_CLASSES
    columns = min(5, len(classes))
    height = math.ceil(len(classes) / columns)
    figure = Figure(figsize=(WIDTH, 0.8 + 1.75 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False, sharey=True).ravel()
    most = max(n for _, members in rows for n in members.values())
    for k, axes in zip(classes, panels):
        table = np.array(
            [[members.get(domain, 0) for kk, members in rows if kk == k] for domain in domains]
        )
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1.3 * most, aspect="auto")
        count = table.shape[1]
        for (i, j), n in np.ndenumerate(table) if count <= MOST_NUMBERS else ():
            if n:
                axes.text(
                    j,
                    i,
                    str(n),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if n > 0.75 * most else "black",
                )
        mixed = int(((table > 0).sum(axis=0) > 1).sum())
        name = pictures.short(run.task.classes[k])
        axes.set_title(f"class {name}: {mixed} of {count} mixed", fontsize=9)
        ticks = range(0, count, max(1, count // 20))
        axes.set(
            xticks=ticks,
            xticklabels=[j + 1 for j in ticks],
            yticks=range(len(domains)),
            yticklabels=domains,
        )
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(0.5, count - 1) if count <= MOST_NUMBERS else [], minor=True)
        axes.grid(which="minor", axis="x", color="0.7", linewidth=1)
        axes.tick_params(which="minor", length=0)
    for axes in panels[len(classes) :]:
        axes.set_visible(False)
    figure.supxlabel("cluster", fontsize=10)
    label, most_clusters = label_of(run.variant), max(Counter(k for k, _ in rows).values())
    return figure, (
        f"Which domains each cluster gathers: {label}, seed {run.seed}, round {number}. A column "
        "is a cluster, a number says how many clients of the domain are its members. A column "
        "with one number is pure."
        + (
            f" Beyond {MOST_NUMBERS} clusters of a class the shade alone says it."
            if most_clusters > MOST_NUMBERS
            else ""
        )
        + (f" The other {others} classes are in clusters.csv." if others > 0 else "")
    )


def tsne(x):
    """project of `pictures.plane` by t-SNE, for rows of x [n,d] only."""
    from sklearn.manifold import TSNE

    # exact, one seed, a start from PCA: the same rows lie at the same places
    places = TSNE(
        perplexity=min(30, (len(x) - 1) / 3), init="pca", method="exact", random_state=0
    ).fit_transform(x)
    where = {row.tobytes(): place for row, place in zip(x.astype(np.float64), places)}
    return lambda rows: np.array([where[row.tobytes()] for row in rows.astype(np.float64)]).reshape(
        -1, 2
    )


def read_scene(path, domains, num_classes):
    """prototypes.npz -> Scene.

    Raises InputError where it is not one, or of another number of clients or classes.
    """
    content = io.BytesIO(read_file(path))
    try:
        with np.errstate(over="raise", invalid="raise"):
            scene = pictures.read_scene(content, domains)
        if len(scene.mask) != num_classes or scene.mask.shape[1] > len(domains):
            raise ValueError(
                f"{len(scene.mask)} classes of up to {plural(scene.mask.shape[1], 'cluster')}"
            )
        if not scene.held.any():
            raise ValueError("nobody holds an image")
        return scene
    except (
        Exception
    ) as error:  # a damaged archive raises nearly anything here, zipfile names no common class
        raise unusable(
            path, f"is not what a run of {plural(len(domains), 'client')} writes ({error})"
        ) from error


def snapshots(run, domains, use_tsne):
    """The prototypes of all classes in the plane, after the rounds that were kept and the last."""
    last = len(run.rounds)
    paths = {
        number: f"{run.folder}/prototypes-{number}.npz" for number in SNAPSHOTS if number < last
    }
    paths[last] = f"{run.folder}/prototypes.npz"
    paths = {number: path for number, path in paths.items() if os.path.exists(path)}
    if not paths:
        return None
    columns = min(2, len(paths))
    height = math.ceil(len(paths) / columns)
    figure = Figure(figsize=(WIDTH, 1 + 4.2 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    for (number, path), axes in zip(paths.items(), panels):
        scene = read_scene(path, domains, len(run.task.classes))
        rows = scene.local[scene.held]
        if use_tsne and len(rows) > 3:
            project = tsne(
                np.concatenate([rows, scene.clusters[scene.mask], scene.unbiased, scene.overall])
            )
            axes.set(xticks=[], yticks=[], title=f"round {number}")
        else:
            project, share = pictures.plane(rows)
            axes.set_title(f"round {number}: {share.sum():.0f} % of the variance")
            axes.set_xlabel("first axis", fontsize=9)
            axes.set_ylabel("second axis", fontsize=9)
        pictures.draw(axes, scene, project, range(scene.held.shape[1]), 14)
        pictures.name_classes(axes, scene, project, 11, run.task.classes)
        axes.tick_params(labelsize=8)
    for axes in panels[len(paths) :]:
        axes.set_visible(False)
    figure.legend(
        handles=pictures.legend_handles(scene), loc="outside lower center", ncols=2, frameon=False
    )
    names = list(map(str, range(len(run.task.classes)))) != list(run.task.classes)
    named = "" if names else "The number is the class."
    how = (
        "The plane is made by t-SNE, as in Figure 7: neighbours stay neighbours, distances mean "
        "little"
        if use_tsne
        else "The plane is spanned by the two principal axes of the round's local prototypes"
    )
    return figure, (
        f"The prototypes of all classes in the plane by round: {label_of(run.variant)}, seed "
        f"{run.seed} ({plural(len(domains), 'client')}). {named} {how}. Every "
        "vector is first scaled to length 1, the axes have no unit."
    )
