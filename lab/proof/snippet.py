"""Calls as Python code that makes them again, bit for bit."""

import os
import re
import sys
import textwrap

import numpy as np

WRAP = {"subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}


def literal(value):
    """A value as Python that makes it again, bit for bit."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, np.ndarray):
        if not value.size:
            return f"np.zeros({value.shape}, np.{value.dtype})"
        text = np.array2string(
            value,
            separator=", ",
            threshold=sys.maxsize,
            max_line_width=10**9,
            formatter={"float_kind": str},  # the shortest text that reads back as the same number
        )
        text = re.sub(r"(?<=\[) +", "", " ".join(text.split()))
        kind = "bool" if value.dtype == bool else f"np.{value.dtype}"
        return f"np.array({text}, {kind})"
    if isinstance(value, float) and not np.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value.item() if isinstance(value, np.generic) else value)


def call_text(function, arguments):
    """A call in one line. arguments: {name: value}."""
    return f"{function}({', '.join(map(literal, arguments.values()))})"


def snippet(path, calls):
    """Python that makes the calls again, to be pasted anywhere."""
    path = os.path.abspath(path)
    functions = list(dict.fromkeys(call.function for call in calls))
    lines = ["import runpy, sys", "import numpy as np", "from numpy import inf, nan", ""]
    lines += [
        f"sys.path.insert(0, {os.path.dirname(path)!r})",
        f"theirs = runpy.run_path({path!r})",
    ]
    lines += [f"{name} = theirs[{name!r}]" for name in functions]
    shown = {}
    for call in calls:
        lines.append("")
        for name, value in call.arguments.items():
            text = literal(value)
            if shown.get(name) != text:
                lines += textwrap.wrap(f"{name} = {text}", 96, **WRAP)
                shown[name] = text
        lines.append(f"print({call.function}({', '.join(call.arguments)}))")
    return "\n".join(lines)
