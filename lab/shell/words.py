"""Texts for the screen."""

from unicodedata import east_asian_width


def plural(number, noun):
    """plural(1, "run") -> "1 run", plural(2000, "run") -> "2,000 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    widths = [max(map(columns, column)) for column in zip(*rows)]

    def padded(i, cell):
        room = " " * (widths[i] - columns(cell))
        return cell + room if i in left else room + cell

    return ["  ".join(padded(i, cell) for i, cell in enumerate(row)).rstrip() for row in rows]


def columns(text):
    """How wide a terminal shows it: a Chinese letter takes two columns."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def is_name(value):
    """Whether tables and pictures can show it.

    matplotlib leaves out what begins with _, and fails at half a letter such as \ud800.
    """
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value) <= 100
        and not value.startswith("_")
    )
