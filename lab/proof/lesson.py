"""`./run.sh lesson`: run the blocks of docs/lesson.md, and draw its pictures with what they define.

The blocks run from top to bottom, as a reader would paste them, and what they print is shown. Then
the pictures are drawn, from the functions and numbers that the blocks have left behind: whoever
changes a number in the page gets other pictures. They are written beside the page, or to --to DIR.
"""

import argparse
import contextlib
import io
import os
import pathlib
import re
import traceback
import warnings
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from lab.run.pictures import COLOURS, save
from lab.shell.errors import InputError
from lab.shell.files import write_whole
from lab.shell.options import read_options
from lab.shell.program import guarded
from lab.shell.words import one_line

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "lesson.md"

# ---------------------------------------------------------------- the page and its blocks


class Block(NamedTuple):
    """A block of code of the page."""

    step: str  # the heading above it
    line: int  # of the page, where its code begins
    code: str
    printed: str  # what the page says that it prints; "" where nothing is said


def blocks(text):
    """The python blocks of a page, each with the text block that follows at once."""
    fenced = r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?"
    found = []
    for match in re.finditer(fenced, text, re.MULTILINE | re.DOTALL):
        above = text[: match.start(1)]
        steps = re.findall(r"^## (.*)$", above, re.MULTILINE)
        step = steps[-1] if steps else ""
        found.append(Block(step, above.count("\n") + 1, match[1], match[2] or ""))
    return found


def run(some, page=PAGE):
    """Run blocks in one namespace. -> the namespace, what each block printed. Raises InputError."""
    names, outputs = {"__name__": "lesson"}, []
    for block in some:
        # The empty lines make an error tell the line of the page.
        code, printed = "\n" * (block.line - 1) + block.code, io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(code, str(page), "exec"), names)
        except Exception as error:
            line = error.lineno if isinstance(error, SyntaxError) else line_of(error, page)
            raise InputError(
                f"{page}, line {line}: {type(error).__name__}: {error}; "
                "mend the page there and call again"
            ) from error
        outputs.append(printed.getvalue())
    return names, outputs


def line_of(error, page):
    """The line of the page where an error arose, also if it was raised further inside."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if frame.filename == str(page)][-1]


# ---------------------------------------------------------------- the pictures


def axes_in_the_plane(axes, title):
    axes.set_title(title, fontsize=10)
    axes.set_aspect("equal")
    axes.axhline(0, color="0.9", zorder=0)
    axes.axvline(0, color="0.9", zorder=0)


def links(axes, rows, neighbours, labels, **style):
    """Rows in the colour of their cluster, and an arrow from each to its first neighbour."""
    colours = [COLOURS[label % len(COLOURS)] for label in labels]
    for m, n in enumerate(neighbours):
        # One way outside of the circle, the way back inside, so that both can be seen.
        bend = (rows[m] + rows[n]) / 2 * (1.25 if m < n else 0.75)
        curve = Path([rows[m], bend, rows[n]], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        arrow = FancyArrowPatch(
            path=curve, arrowstyle="->", mutation_scale=9, color=colours[m], shrinkB=3
        )
        axes.add_patch(arrow)
    axes.scatter(*rows.T, s=28, c=colours, zorder=3, **style)


def finch_picture(names):
    """Step 4: the links of four rows, of a chain, and of eight rows with their clusters' means."""
    first_neighbours, link = names["first_neighbours"], names["link"]
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {
        "four": "four rows: two clusters",
        "chain": "a chain: one cluster",
        "eight": "eight rows, and their clusters",
    }
    for axes, (name, title) in zip(panels, titles.items()):
        rows = names[name]
        axes_in_the_plane(axes, title)
        links(axes, rows, first_neighbours(rows), link(rows))
        for m, row in enumerate(rows):
            axes.plot(*zip((0, 0), row), color="0.85", linewidth=0.8, zorder=1)
            axes.annotate(str(m), row * 1.18, ha="center", va="center", fontsize=9)
        least = np.minimum(rows.min(axis=0), 0) - 0.35
        axes.set(xlim=(least[0], 1.35), ylim=(least[1], 1.35))
    means = names["cluster_means"](names["eight"], names["fine"])
    links(panels[2], means, first_neighbours(means), names["coarse"] + 4, marker="D")
    return figure


def prototypes_picture(names):
    """Step 5: five class means, their clusters, and three ways to take one mean of them."""
    received, prototypes = names["received"], names["prototypes"]
    figure = Figure(figsize=(5.9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes_in_the_plane(axes, "The five means of step 2, seen by the server")
    labels = names["link"](received)
    for j, prototype in enumerate(prototypes):
        rows = received[labels == j]
        axes.scatter(*rows.T, color=COLOURS[j], label=f"mean features, cluster {j}")
        for row in rows:
            axes.plot(*zip(row, prototype), color=COLOURS[j], linewidth=0.8, zorder=1)
    over_images = np.average(received, axis=0, weights=names["images"])
    signs = (
        (prototypes, "cluster prototypes", "D", "none"),
        (names["unbiased"][None], "unbiased prototype", "*", "gold"),
        (received.mean(axis=0)[None], "mean over clients", "X", "0.6"),
        (over_images[None], "mean over images", "P", "0.6"),
    )
    for points, label, marker, colour in signs:
        axes.scatter(
            *points.T, s=130, marker=marker, facecolors=colour, edgecolors="black", label=label
        )
    axes.plot(*prototypes.T, color="0.7", linestyle=":", zorder=0)
    axes.set_anchor("W")
    figure.legend(loc="outside right center", frameon=False, fontsize=9, labelspacing=0.9)
    return figure


def cpcl_picture(names):
    """Step 7: tau times CPCL, and tau times its slope, as z turns once around."""
    own, other = names["own"], names["other"]
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    degrees = np.arange(-90, 270.5, 0.5)
    for tau, colour, style in zip((1, 0.2, 0.02), COLOURS, ("-", "--", ":")):
        for axes, of_angle in zip(panels, (names["cpcl"], names["slope"])):
            values = [tau * of_angle(z, own, other, tau) for z in names["at"](*degrees)]
            axes.plot(degrees, values, style, color=colour, label=f"tau = {tau}", linewidth=2)
    for axes in panels:
        for some, sign in (own, "positive"), (other, "negative"):
            for x, y in some:
                angle = np.degrees(np.arctan2(y, x))
                axes.axvline(angle, color="0.8", zorder=0)
                axes.annotate(
                    sign, (angle, 1.0), xycoords=("data", "axes fraction"), xytext=(0, -11),
                    textcoords="offset points", ha="center", fontsize=8, color="0.4",
                )  # fmt: skip
        axes.margins(x=0, y=0.12)
    panels[0].set_ylabel("tau * CPCL")
    panels[1].set(
        ylabel="tau * its slope", xlabel="angle of z (degrees)", xticks=range(-90, 271, 45)
    )
    panels[0].legend(frameon=False, loc="upper left")
    return figure


PICTURES = {
    "lesson-finch.png": finch_picture,
    "lesson-prototypes.png": prototypes_picture,
    "lesson-cpcl.png": cpcl_picture,
}


def draw(names, folder, page=PAGE):
    """Write the pictures. -> their paths. Raises InputError where a block no longer defines one."""
    paths = []
    for name, picture in PICTURES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = picture(names)
        except Exception as error:
            raise InputError(
                f"{name} cannot be drawn from what the blocks of {page} define: "
                f"{type(error).__name__}: {error}; keep their names and the shapes of their results"
            ) from error
        paths.append(os.path.join(folder, name))
        write_whole(paths[-1], lambda part, figure=figure: save(figure, part))
    return paths


# ---------------------------------------------------------------- the command


def lesson(argv):
    """What `main` does when all goes well."""
    parser = argparse.ArgumentParser(
        prog="./run.sh lesson",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--to", metavar="DIR", default=str(PAGE.parent), help="where the pictures go; default: docs"
    )
    options = read_options(parser, argv)
    if not os.path.isdir(options.to):
        raise InputError(f"--to is {options.to}, which is no folder; make it, or leave --to away")
    try:
        some = blocks(PAGE.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{PAGE} cannot be read ({one_line(error)})") from error
    names, outputs = run(some)
    step = None
    for block, printed in zip(some, outputs):
        if block.step != step:
            step = block.step
            print(f"\n{step}\n")
        print(printed, end="")
    print("\nThe pictures:", *draw(names, options.to), sep="\n")
    return 0


def main(argv=None):
    """Exit status: 0 done, 2 something to set right, 130 interrupted."""
    return guarded(lesson, argv)
