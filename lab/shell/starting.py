"""Imported first, before the packages that take seconds to load.

What would end in an abort or a traceback meanwhile is one line, or does no harm. It needs the
standard library alone; `lab.shell.program.as_program` takes over when all is loaded.
"""

import os
import re
import signal
import sys
import warnings

from lab.shell import environment
from lab.shell.program import endings


def stopped(number, frame):
    """Ctrl-C while C++ code loads: an exception in its midst would abort the process."""
    try:
        os.write(2, b"\nStopped while starting; nothing was begun.\n")
    finally:  # standard error may be closed
        os._exit(130)


for number in endings():
    signal.signal(number, stopped)

try:
    os.getcwd()
except OSError as error:
    print(
        f"fpl: the working folder cannot be found ({error.strerror}); go into one that is there "
        "and give the same command again",
        file=sys.stderr,
    )
    sys.exit(2)

environment.settle()
# What OpenMP and MindSpore cannot use counts as not given.
if not re.fullmatch("[1-9][0-9]{0,2}", os.environ.get("OMP_NUM_THREADS", "1")):
    del os.environ["OMP_NUM_THREADS"]

# A package's warning is no error.
kept = [rule for rule in warnings.filters if rule[0] != "error"]
if len(kept) < len(warnings.filters):
    warnings.filters[:] = kept
    sys.warnoptions.clear()
