"""`python mend.py VENV`: make the programs of an environment start after its folder was moved.

Each program in bin/ begins with the path that the environment's Python had when it was installed.
"""

import os
import re
import sys
from pathlib import Path

# As pip writes it: one line, or three where the path has blanks or is long.
ONE = rb"#!(/[^\n]*/python[0-9.]*)\n"
THREE = rb"#!/bin/sh\n'''exec' \"?(/[^\n\"]*/python[0-9.]*)\"? \"\$0\" \"\$@\"\n' '''\n"


def mended(text, python):
    """What a program is to hold; the same bytes where the Python that it names is there."""
    head = re.match(THREE, text) or re.match(ONE, text)
    if not head or os.path.exists(head[1]):
        return text
    new = b"#!/bin/sh\n'''exec' \"%s\" \"$0\" \"$@\"\n' '''\n" % os.fsencode(python)
    return new + text[head.end() :]


def main(folder):
    programs = Path(folder, "bin").absolute()
    for path in programs.iterdir():
        if path.is_file() and not path.is_symlink() and os.access(path, os.W_OK):
            text = path.read_bytes()
            if (new := mended(text, programs / "python")) != text:
                path.write_bytes(new)


if __name__ == "__main__":
    main(sys.argv[1])
