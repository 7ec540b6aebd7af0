"""Texts for the screen."""


def plural(number, noun):
    """plural(1, "run") -> "1 run", plural(2000, "run") -> "2,000 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_name(value):
    """Whether the pictures can show it.

    matplotlib leaves out what begins with _, and fails at half a letter such as \\ud800.
    """
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value) <= 100
        and not value.startswith("_")
    )


def one_line(error):
    """What is said as one line of bounded length, whatever flags and paths it quotes."""
    text = " ".join(str(error).splitlines())
    text = text.encode(errors="backslashreplace").decode()  # a path need not be UTF-8
    return text if len(text) <= 2000 else f"{text[:1900]} ... {text[-90:]}"


def percents(values):
    """Numbers as texts with two decimals."""
    return [f"{value:.2f}" for value in values]


def table(rows, left):
    """Rows of texts -> aligned lines; the columns numbered in left are flush left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
