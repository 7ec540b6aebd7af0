"""One page that shows what runs gave, report.html, and its tables as report.md and report.csv.

    ./run.sh report              every run and experiment below runs/, into runs/report.*
    ./run.sh report runs/NAME    one of them, into its own folder

The page needs no other file. The same folders give the same bytes. tables.py has the numbers,
charts.py the pictures; here they become a page.
"""

import argparse
import base64
import csv
import html
import importlib.util
import io
import os
import time
from typing import NamedTuple

from lab.report import charts, folders, tables
from lab.run import pictures
from lab.shell.errors import InputError
from lab.shell.files import write_whole
from lab.shell.options import read_options
from lab.shell.program import guarded
from lab.shell.words import table as aligned_table


class Section(NamedTuple):
    """What one folder gives."""

    title: str
    day: str
    notes: list
    tables: list
    pictures: list  # (short text, caption, PNG)


# -- from folders to sections


def png(figure):
    file = io.BytesIO()
    pictures.save(figure, file)
    return file.getvalue()


def day_of(runs):
    """When the newest run wrote its config.json last, UTC."""
    newest = max(os.stat(f"{run.folder}/config.json").st_mtime for run in runs)
    return time.strftime("%Y-%m-%d", time.gmtime(newest))


def client_domains(run):
    """The domain of each client: they are dealt out domain by domain."""
    shares = zip(run.task.clients, run.config["clients"])
    return [domain for domain, number in shares for _ in range(number)]


def draw_all(runs, tsne):
    """(short text, caption, PNG) of each picture that the runs have data for."""
    groups = tables.by_variant(runs)
    good = folders.finished(runs)
    if not good:
        return []
    first = {name: some[0] for name in groups if (some := folders.finished(groups[name]))}
    fpl_run = next((first[name] for name in charts.BOTH if name in first), good[0])
    base_run = next(
        (first[name] for name in charts.NEITHER if name in first and first[name] is not fpl_run),
        None,
    )
    drawn = [
        ("accuracy by round", charts.curves(groups, ["AVG"])),
        ("accuracy by round and domain", charts.curves(groups, folders.domains_of(runs))),
        ("bars of the tables", charts.bars(groups, tables.plans(groups))),
        ("accuracy by tau", charts.tau_curve(groups)),
        ("prototypes in the plane", charts.snapshots(fpl_run, client_domains(fpl_run), tsne)),
        ("clusters and their purity by round", charts.cluster_curves(groups)),
        ("domains by cluster", charts.heat(fpl_run)),
        ("domains by cluster, for comparison", charts.heat(base_run) if base_run else None),
    ]
    return [(short, result[1], png(result[0])) for short, result in drawn if result]


def sections(folder, draw=draw_all, tsne=False):
    found = folders.find_sections(folder)
    parts = [
        Section(
            os.path.basename(os.path.abspath(path)),
            day_of(runs),
            tables.facts(path, runs),
            tables.tables(runs),
            draw(runs, tsne),
        )
        for path, runs in found
    ]
    if one_left_out := tables.leave_one_out([runs for _, runs in found]):
        title = os.path.basename(os.path.abspath(folder))
        parts.insert(0, Section(title, max(part.day for part in parts), [], [one_left_out], []))
    return parts


# -- HTML

CSS = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; max-width: 1100px;
       margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem }
h2 { font-size: 1.4rem; margin-top: 3rem; border-top: 2px solid #0072b2; padding-top: .6rem }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd;
         vertical-align: top }
th { background: #f2f6f9; vertical-align: bottom }
tbody th { background: none; font-weight: normal; vertical-align: top }
th:first-child, .text { text-align: left } th:first-child { white-space: nowrap }
td.number { white-space: nowrap } td.text { min-width: 5rem }
tr.paper th, tr.paper td { color: #555; font-style: italic }
tr.paper th { padding-left: 1.7rem }
.note, figcaption, li { font-size: .92rem; color: #333 }
figure { margin: 2rem 0 }
img { max-width: 100%; height: auto; display: block; border: 1px solid #eee }
"""


def escape(text):
    return html.escape(text, quote=True)


def is_number(text):
    return text == "diverged" or all(
        word in "±-" or word.lstrip("+-").replace(".", "", 1).isdigit() for word in text.split()
    )


def cell_html(tag, text, number):
    return f'<{tag} class="{"number" if number else "text"}">{escape(text)}</{tag.split()[0]}>'


def table_html(table):
    """Columns of numbers are flush right, the others left."""
    numbers = [all(map(is_number, column)) for column in zip(*table.rows)]
    lines = []
    for first, *rest in table.rows:
        kind = ' class="paper"' if first.startswith(" ") else ""
        cells = "".join(cell_html("td", text, number) for text, number in zip(rest, numbers[1:]))
        lines.append(f'<tr{kind}><th scope="row">{escape(first.strip())}</th>{cells}</tr>')
    head = "".join(
        cell_html('th scope="col"', text, number) for text, number in zip(table.head, numbers)
    )
    return "\n".join(
        [
            f"<h3>{escape(table.title)}</h3>",
            '<div class="wide"><table>',
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody></table></div>",
            f'<p class="note">{escape(table.note)}</p>',
        ]
    )


def picture_html(short, caption, data, title):
    inlined = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure><img alt="{escape(f"{title}: {short}")}" src="{inlined}"/>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def page_html(title, parts):
    """The whole page. It is XML too, so that its form can be checked."""
    body = [f"<h1>{escape(title)}</h1>"]
    for part in parts:
        body += [
            f"<h2>{escape(part.title)}</h2>",
            f'<p class="note">Runs of {part.day} (UTC).</p>',
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in part.notes) + "</ul>",
        ]
        body += [table_html(table) for table in part.tables]
        body += [picture_html(*picture, part.title) for picture in part.pictures]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


# -- the same tables as Markdown, CSV and plain text


def escape_markdown(text):
    return html.escape(text.strip(), quote=False).replace("\\", "\\\\").replace("|", "\\|")


def page_markdown(title, parts):
    lines = [f"# {escape_markdown(title)}", ""]
    for part in parts:
        lines += [f"## {escape_markdown(part.title)}", "", f"Runs of {part.day} (UTC).", ""]
        lines += [f"- {escape_markdown(note)}" for note in part.notes] + [""]
        for table in part.tables:
            rows = [" | ".join(map(escape_markdown, row)) for row in [table.head, *table.rows]]
            rule = "---" + " | ---:" * (len(table.head) - 1)
            lines += [
                f"### {escape_markdown(table.title)}",
                "",
                *(f"| {row} |" for row in [rows[0], rule, *rows[1:]]),
                "",
            ]
            lines += [escape_markdown(table.note), ""]
    return "\n".join(lines)


def page_csv(parts):
    """A line for each number, so that tables of different domains fit into one file."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["section", "table", "source", "variant", "seeds", "column", "mean", "spread"])
    for part in parts:
        for table in part.tables:
            writer.writerows([part.title, table.title, *record] for record in table.records)
    return file.getvalue()


def page_text(parts):
    lines = []
    for part in parts:
        for table in part.tables:
            aligned = aligned_table([table.head, *table.rows], left=(0, len(table.head) - 1))
            lines += [f"{part.title}: {table.title}", *aligned, table.note, ""]
        lines += [*part.notes, ""]
    return "\n".join(lines).rstrip()


# -- files and command line


def summary_text(folder, first=False):
    """The tables for the screen, or the first section's alone.

    Raises InputError where the folder has no run, or files that no run left so.
    """
    parts = sections(folder, draw=lambda runs, tsne: [])
    return page_text(parts[:1] if first else parts)


def write_report(folder, tsne=False):
    """report.html, report.md and report.csv in the folder.

    Returns the first one's path. Raises InputError.
    """
    if tsne and importlib.util.find_spec("sklearn") is None:
        raise InputError(
            "--tsne needs scikit-learn, which is not installed here; install it, or leave --tsne "
            "away for PCA"
        )
    parts = sections(folder, tsne=tsne)
    title = f"FPL: report on {os.path.basename(os.path.abspath(folder))}"
    texts = {
        "csv": page_csv(parts),
        "md": page_markdown(title, parts),
        "html": page_html(title, parts),
    }
    for kind, text in texts.items():

        def write(path, text=text):
            with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
                file.write(text)

        write_whole(os.path.join(folder, f"report.{kind}"), write)
    return os.path.join(folder, "report.html")


def write_and_show(argv):
    """What `main` does when all goes well."""
    parser = argparse.ArgumentParser(
        prog="./run.sh report",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="*", metavar="DIR", help="a run's or an experiment's folder; default: runs"
    )
    parser.add_argument(
        "--tsne",
        action="store_true",
        help="prototypes in the plane by t-SNE, as in Figure 7, not by PCA",
    )
    options = read_options(parser, argv)
    for folder in options.folders or ["runs"]:
        if not os.path.isdir(folder):
            raise InputError(
                f"{folder} is no folder; ./run.sh digits or ./run.sh compare makes runs"
            )
        path = write_report(folder, options.tsne)
        print(f"{summary_text(folder)}\n\n{path}, report.md and report.csv beside it")
    return 0


def main(argv=None):
    """Exit status: 0 done, 2 something to set right, 130 interrupted.

    2 stands for no run there, a file that no run left so, or one that cannot be written.
    """
    return guarded(write_and_show, argv, prefix="report: ")
