"""Pictures of one run: accuracy by round, prototypes in the plane.

Each function returns a Figure or draws into axes. Colours are Okabe and Ito's, which colour-blind
readers can tell apart; a marker says the same for grey prints.
"""

import io
import itertools
import math
import warnings
import zipfile
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no window, no state shared between pictures
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lab.shell.words import plural

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
MARKERS = "os^vPXp"
MOST_CLASSES = 20  # that have a panel of their own
HOW_TO_READ = """Here: all classes, each at its name.
Below: each class in a plane of its own; the percentage is
the share of its variance that the plane shows.
The planes are principal axes of the local prototypes.
Every vector is first scaled to length 1, since FINCH
and CPCL see only angles (the cosine). Axes have no unit."""
# A name may hold dollars, which are not to be read as formulas.
matplotlib.rcParams["text.parse_math"] = False


def save(figure, file):
    """PNG, 120 dots an inch, without a date: the same figure gives the same bytes.

    file: a path or an open file.
    """
    with warnings.catch_warnings():
        # A name in other letters is boxes here; the tables spell it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def accuracy_picture(logs, title, unseen=()):
    """Accuracy by round, a line for each domain and one for their plain mean.

    unseen: the domains that nobody trains on.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    rounds, every = [log["round"] for log in logs], max(1, len(logs) // 12)
    at_the_end = logs[-1]["accuracy"]
    looks = itertools.cycle(zip(COLOURS, MARKERS))
    for domain, (colour, marker) in zip(logs[0]["accuracy"], looks):
        axes.plot(
            rounds,
            [log["accuracy"][domain] for log in logs],
            color=colour,
            marker=marker,
            markevery=every,
            label=f"{domain}{' (unseen)' * (domain in unseen)}  {at_the_end[domain]:.2f}",
        )
    axes.plot(
        rounds,
        [log["avg"] for log in logs],
        color="black",
        linewidth=2.5,
        marker="D",
        markevery=every,
        label=f"AVG  {logs[-1]['avg']:.2f}",
    )
    axes.set(
        title=title, xlabel="round", ylabel="top-1 accuracy on the test images (%)", ylim=(0, 100)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    figure.legend(title="last round (%)", loc="outside right center", frameon=False)
    return figure


# ---------------------------------------------------------------- prototypes in the plane


class Scene(NamedTuple):
    """All prototypes of a round, scaled to length 1, since FINCH and CPCL see only angles."""

    domains: np.ndarray  # [M]
    held: np.ndarray  # [M,K] bool: client m has images of class k
    known: np.ndarray  # [K] bool: class k has a cluster prototype
    local: np.ndarray  # [M,K,d]
    clusters: np.ndarray  # [K,J,d]
    mask: np.ndarray  # [K,J] bool
    unbiased: np.ndarray  # [K,d]
    overall: np.ndarray  # [K,d]: mean over all images


def unit(x):
    """x [...,d] scaled to length 1 along its last axis."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def scene(domains, class_means, counts, clusters, mask, unbiased):
    """The Scene of a round.

    domains: M names, class_means [M,K,d], counts [M,K],
    clusters [K,J,d], mask [K,J], unbiased [K,d].
    """
    counts, mask = np.asarray(counts), np.asarray(mask)
    if counts.shape[0] != len(domains):
        raise ValueError(f"{len(domains)} domains for {counts.shape[0]} clients")
    overall = np.einsum("mk,mkd->kd", counts / np.maximum(counts.sum(axis=0), 1), class_means)
    return Scene(
        np.array(domains),
        counts > 0,
        mask.any(axis=1),
        unit(class_means),
        unit(clusters),
        mask,
        unit(unbiased),
        unit(overall),
    )


def read_array(archive, name):
    """An array of an npz file as np.savez writes it; never unpickles. Raises ValueError and such.

    It stands in place of np.load, which allocates what an
    array's header promises before it looks whether the file has it.
    """
    if archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is packed")
    file = io.BytesIO(archive.read(f"{name}.npy"))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{name} is of another version")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    if kind.kind not in "biu" and kind not in ("f4", "f8"):  # linear algebra knows no others
        raise ValueError(f"{name} holds {kind}, no numbers")
    array = np.frombuffer(file.read(), kind).reshape(shape, order="F" if by_columns else "C")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array


def read_scene(path, domains):
    """A round's prototypes.npz -> Scene.

    Raises ValueError and the like where it is not one of these domains.
    """
    with zipfile.ZipFile(path) as archive:
        arrays = [
            read_array(archive, name)
            for name in ("class_means", "counts", "clusters", "mask", "unbiased")
        ]
    means, counts, clusters, mask, unbiased = arrays
    (m, k, d), j = means.shape, mask.shape[-1]
    if [array.shape for array in arrays] != [(m, k, d), (m, k), (k, j, d), (k, j), (k, d)] or not (
        m and k and j and d
    ):
        raise ValueError(f"arrays of {[array.shape for array in arrays]}")
    if counts.min() < 0 or mask.dtype != bool:
        raise ValueError("counts or mask are none")
    return scene(domains, *arrays)


def plane(x):
    """The plane of most variance. x [n,d] -> (project, share).

    project puts rows [.,d] on its two axes; share [2] is the variance along each, in percent.
    """
    centre = x.mean(axis=0)
    _, scale, axes = np.linalg.svd(x - centre, full_matrices=False)
    axes[scale < 1e-6] = 0  # a direction made of rounding errors is none
    axes = np.concatenate([axes, np.zeros((2, x.shape[1]))])[:2]  # one row spans no second axis
    largest = axes[np.arange(2), np.abs(axes).argmax(axis=1)]
    axes *= np.where(largest < 0, -1, 1)[:, None]  # SVD leaves the sign open
    share = 100 * np.append(scale, [0, 0])[:2] ** 2 / max(np.sum(scale**2), 1e-12)
    return (lambda rows: (rows - centre) @ axes.T), share


def signs(domains):
    """domain -> (colour, marker)."""
    return dict(zip(dict.fromkeys(domains.tolist()), itertools.cycle(zip(COLOURS, MARKERS))))


def draw(axes, scene, project, classes, size):
    """Local, cluster and unbiased prototypes of some classes.

    A line joins a cluster to its class's middle.
    """
    link, rim, star = (0.8, 1.2, 1.5) if size > 20 else (0.5, 0.8, 0.8)  # widths of lines
    for domain, (colour, marker) in signs(scene.domains).items():
        points = project(
            np.concatenate(
                [scene.local[(scene.domains == domain) & scene.held[:, k], k] for k in classes]
            )
        )
        axes.scatter(*points.T, s=size, color=colour, marker=marker, alpha=0.75, linewidths=0)
    for k in classes:
        if scene.known[k]:
            own = project(scene.clusters[k][scene.mask[k]])
            middle = project(scene.unbiased[k : k + 1])
            for point in own:
                axes.plot(*zip(point, middle[0]), color="0.6", linewidth=link, zorder=1)
            axes.scatter(
                *own.T, s=1.6 * size, marker="D", facecolors="none", edgecolors="black",
                linewidths=rim,
            )  # fmt: skip
            axes.scatter(
                *middle.T, s=4 * size, marker="*", color="gold", edgecolors="black",
                linewidths=star, zorder=4,
            )  # fmt: skip
    axes.margins(0.12)


def short(name):
    """A class's name as far as there is room for it."""
    return name if len(name) <= 16 else f"{name[:15]}…"


def name_classes(axes, scene, project, size, classes):
    """The class's name above its unbiased prototype, or above its mean where it has none."""
    if len(classes) > MOST_CLASSES:  # they would hide the points
        return
    if max(map(len, classes)) > 3:
        size *= 0.7
    for k in np.flatnonzero(scene.held.any(axis=0)):
        middle = (scene.unbiased if scene.known[k] else scene.overall)[k : k + 1]
        axes.annotate(
            short(classes[k]),
            project(middle)[0],
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=size,
            fontweight="bold",
            zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def draw_class(axes, scene, k, name):
    """One class in a plane of its own."""
    axes.set(xticks=[], yticks=[])
    held, name = scene.held[:, k], short(name)
    if not held.any():
        axes.set_title(f"class {name}: no client holds it", fontsize=10)
        return
    project, share = plane(scene.local[held, k])
    draw(axes, scene, project, [k], 34)
    # Otherwise the middle of the clusters would not look like the middle.
    axes.set_aspect("equal", adjustable="datalim")
    axes.scatter(
        *project(scene.overall[k : k + 1]).T,
        s=70,
        marker="x",
        color="black",
        linewidths=2,
        zorder=5,
    )
    axes.set_title(
        f"class {name}: {plural(scene.mask[k].sum(), 'cluster')}, "
        + (f"{share.sum():.0f} %" if held.sum() > 1 else "one client"),
        fontsize=10,
    )


def legend_handles(scene):
    """What the signs of `draw` mean."""

    def sign(label, marker, **style):
        return Line2D([], [], linestyle="none", label=label, marker=marker, **style)

    handles = [
        sign(
            f"local prototype, {domain} ({plural((scene.domains == domain).sum(), 'client')})",
            marker,
            color=colour,
        )
        for domain, (colour, marker) in signs(scene.domains).items()
    ]
    if scene.known.any():
        handles += [
            sign("cluster prototype (Eq. 5)", "D", color="black", markerfacecolor="none"),
            sign(
                "unbiased prototype (Eq. 6): each cluster one vote",
                "*",
                color="gold",
                markersize=13,
                markeredgecolor="black",
            ),
        ]
    return handles


def prototypes_picture(scene, title, classes):
    """The prototypes of a round: all classes in one plane, then each of the first in its own.

    classes: their names.
    """
    columns, num_classes = 5, scene.held.shape[1]
    rows = math.ceil(min(num_classes, MOST_CLASSES) / columns)
    figure = Figure(figsize=(14, 5.8 + 2.6 * rows))
    upper, lower = figure.add_gridspec(
        2,
        1,
        height_ratios=(5, 2.6 * rows),
        hspace=0.17,
        left=0.06,
        right=0.98,
        top=0.96,
        bottom=0.02,
    )
    top = upper.subgridspec(1, 2, width_ratios=(10, 5), wspace=0.03)
    axes, side = figure.add_subplot(top[0]), figure.add_subplot(top[1])
    if scene.held.any():
        project, share = plane(scene.local[scene.held])
        draw(axes, scene, project, range(num_classes), 26)
        name_classes(axes, scene, project, 15, classes)
        axes.set(
            xlabel=f"first axis ({share[0]:.0f} % of the variance)",
            ylabel=f"second axis ({share[1]:.0f} %)",
        )
    axes.set_title(title, loc="left")
    cells = lower.subgridspec(rows, columns, hspace=0.22, wspace=0.06)
    for k, cell in zip(range(num_classes), cells):  # no further than there are cells
        draw_class(figure.add_subplot(cell), scene, k, classes[k])
    side.axis("off")
    comparison = Line2D(
        [],
        [],
        linestyle="none",
        label="for comparison: mean over all images",
        marker="x",
        color="black",
        markersize=8,
        markeredgewidth=2,
    )
    side.legend(
        handles=[*legend_handles(scene), comparison],
        loc="upper left",
        frameon=False,
        borderaxespad=0,
    )
    side.text(
        0.03, 0.0, HOW_TO_READ, transform=side.transAxes, va="bottom", fontsize=9.5, color="0.25"
    )
    return figure
