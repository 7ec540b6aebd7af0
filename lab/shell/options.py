"""The command line, read with argparse; what is wrong is one line."""

import argparse

from lab.shell.errors import InputError
from lab.shell.words import one_line


def read_options(parser, argv):
    """parser.parse_args(argv). Raises InputError where argparse would print lines and exit."""

    def refuse(message):
        raise InputError(one_line(f"{message}; {parser.prog} --help lists what there is"))

    parser.error = refuse
    for word in argv:
        if word.startswith("-") and word.endswith("=--"):  # argparse makes an empty list of it
            parser.error(f"{word[:-3]} has no value")
    return parser.parse_args(argv)


def whole_numbers(text):
    """An argparse type: "6,4,3,7" -> (6, 4, 3, 7)."""
    if not all(number.strip().isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not whole numbers with commas between them, such as 6,4,3,7"
        )
    return tuple(int(number) for number in text.split(","))
