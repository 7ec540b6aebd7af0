"""The verdicts as one HTML page that needs no other file."""

import html

from lab.proof.judge import FAILS, HOLDS, NOT_JUDGED, UNUSABLE
from lab.proof.properties.contract import FUNCTIONS
from lab.proof.verdict import not_judged_lines, off_by, summary

CSS = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; overflow-wrap: anywhere }
h2 { font: 600 1.2rem/1.4 ui-monospace, "DejaVu Sans Mono", monospace; margin: 2.2rem 0 .3rem }
code, pre { font: .87rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace }
pre { background: #f2f6f9; padding: .8rem 1rem; overflow-x: auto; max-height: 30rem }
ul { list-style: none; padding: 0 }
li { margin: .35rem 0; padding-left: 8.5rem; text-indent: -8.5rem }
li > * { text-indent: 0 }
.mark { display: inline-block; width: 8rem; margin-right: .5rem; font-weight: 600 }
.holds .mark { color: #00704a } .fails .mark { color: #b3400e } .known .mark { color: #555 }
section { border-left: 4px solid #b3400e; padding: .1rem 0 .1rem 1rem; margin: 1rem 0 1.5rem }
dt { font-weight: 600 } dd { margin: 0 0 .5rem 0; overflow-wrap: anywhere }
.signature { color: #555; font-size: .9rem }
@media (prefers-color-scheme: dark) {
  body { background: #16191c; color: #e6e6e6 } pre { background: #22272c }
  .holds .mark { color: #5fcf9f } .fails .mark { color: #ff9a66 }
  .known .mark, .signature { color: #aaa }
}
"""
MARKS = {HOLDS: "holds", FAILS: "fails", UNUSABLE: "fails"}


def escape(text):
    return html.escape(str(text), quote=True)


def item(verdict, known):
    """One property as a list item, its counterexample below it."""
    is_known = verdict.outcome == FAILS and verdict.name in known
    kind, outcome = ("known", "known") if is_known else (MARKS[verdict.outcome], verdict.outcome)
    line = f'<span class="mark">{outcome}</span><span>{escape(verdict.sentence)}</span>'
    return f'<li class="{kind}">{line}</li>'


def failure_html(verdict):
    """The smallest case in which a property does not hold."""
    failure = verdict.failure
    rows = [
        ("What is wrong", failure["what"]),
        ("Came out", failure["came_out"]),
        ("The oracle says", failure["wanted"]),
        ("By how much", off_by(failure)),
        ("Usual cause", verdict.cause),
    ]
    facts = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows if text)
    code = f"<pre>{escape(failure['snippet'])}</pre>" if failure["snippet"] else ""
    name = f"<p><strong>{escape(verdict.sentence)}</strong> <code>{verdict.name}</code></p>"
    return f"<section>{name}<dl>{facts}</dl>{code}</section>"


def function_html(function, verdicts, known):
    """All that was judged of one function."""
    items = "\n".join(item(v, known) for v in verdicts)
    notes = "".join(f"<p>{escape(v.note)}</p>" for v in verdicts if v.outcome == UNUSABLE)
    failures = "\n".join(failure_html(v) for v in verdicts if v.failure)
    signature = f'<p class="signature"><code>{escape(function + FUNCTIONS[function])}</code></p>'
    return f"<h2>{function}</h2>\n{signature}\n<ul>\n{items}\n</ul>\n{notes}{failures}"


def page(first_line, verdicts, known):
    """The whole page. first_line: what was judged, and how."""
    title, _, how = first_line.partition(": ")
    judged = [v for v in verdicts if v.outcome != NOT_JUDGED]
    parts = [
        function_html(function, some, known)
        for function in FUNCTIONS
        if (some := [v for v in judged if v.functions[0] == function])
    ]
    rest = "".join(f"<li>{escape(line.strip())}</li>" for line in not_judged_lines(verdicts)[1:])
    if rest:
        parts.append(f"<h2>not judged</h2>\n<ul>{rest}</ul>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: properties of FPL</title><style>{CSS}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(summary(verdicts, known))}</p>\n"
        f"<p>{escape(how)}.</p>\n{body}\n</body></html>\n"
    )
