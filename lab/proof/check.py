"""`./run.sh check FILE`: judge the functions of a Python file by the properties of FPL.

FILE has any of these functions, NumPy in and NumPy out; what it lacks is not judged:

{functions}

M clients, K classes, B images in a batch, d feature width, at most J clusters of a class.
partition is "first" or "last", reduce "mean" or "sum". FILE may import what lies beside it, and
may name in SETTINGS = {{"partition": ..., "reduce": ..., "level": ..., "sums": ...}} what it
stands for. Where neither says which partition or reduce, both are judged. Level "equations" is
what an ordinary float32 implementation must satisfy; "strict" adds tiny losses, zero rows, small
tau and ties. sums "float64" says that means are summed in float64 and rounded once.

In an environment without MindSpore, from this folder: python -m lab.proof.check FILE (Python 3.9
or newer, with numpy and hypothesis). Exit status: 0 all that was judged holds, 1 some does not,
2 FILE cannot be used.
"""

import argparse
import difflib
import json
import multiprocessing
import os
import signal
import sys

from lab.shell.errors import InputError
from lab.shell.options import read_options
from lab.shell.program import guarded
from lab.shell.words import one_line

try:
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f"fpl: check needs {error.name}: python -m pip install numpy hypothesis")

from lab.proof import implementation, verdict
from lab.proof.judge import FAILS, HOLDS, NOT_JUDGED, UNUSABLE, chosen, judge
from lab.proof.page import page
from lab.proof.properties.contract import FUNCTIONS, PROPERTIES
from lab.proof.snippet import call_text

# ---------------------------------------------------------------- the command line


def names(text):
    """An argparse type: "cpcl,finch" -> the names of functions and properties."""
    there = [*FUNCTIONS, *(p.name for p in PROPERTIES)]
    found = [name.strip() for name in text.split(",") if name.strip()]
    for name in found:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentTypeError(
                f"{name!r} is no function of the contract and no property{hint} "
                f"Functions: {', '.join(FUNCTIONS)}"
            )
    return found


def parser():
    contract = "\n".join(f"    {name}{what}" for name, what in FUNCTIONS.items())
    made = argparse.ArgumentParser(
        prog="check",
        allow_abbrev=False,
        description=__doc__.format(functions=contract),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("file", metavar="FILE", help="the Python file to judge")
    made.add_argument(
        "--only",
        type=names,
        default=[],
        metavar="NAMES",
        help="these functions or properties alone",
    )
    choices = implementation.CHOICES
    made.add_argument("--level", choices=choices["level"], help="default: equations")
    made.add_argument("--partition", choices=choices["partition"], help="the one that FILE has")
    made.add_argument("--upcr", choices=choices["reduce"], help="the reduce that FILE has")
    made.add_argument("--examples", type=int, default=100, metavar="N", help="cases a property")
    made.add_argument("--seed", type=int, default=0, help="of the cases")
    made.add_argument("--json", metavar="FILE", help="write the verdicts there")
    made.add_argument("--html", metavar="FILE", help="write them there as one page")
    made.add_argument("--known", metavar="FILE", help="properties, one a line, that may fail")
    made.add_argument(
        "--patience", type=float, default=60, metavar="S", help="seconds that one call may take"
    )
    return made


def read(path, what):
    """The text of a file. Raises InputError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"{path} cannot be read ({why}); {what}") from error


def read_known(path):
    """The properties that are known to fail: a name a line, what follows a # is a remark."""
    lines = read(path, "--known wants a file with a property's name on each line").splitlines()
    known = [line.partition("#")[0].strip() for line in lines]
    known = [name for name in known if name]
    for name in known:
        if name not in {p.name for p in PROPERTIES}:
            near = difflib.get_close_matches(name, [p.name for p in PROPERTIES], 1)
            hint = f"did you mean {near[0]}?" if near else "a verdict shows the names"
            raise InputError(f"{path} names {name!r}, which is no property; {hint}")
    return known


# ---------------------------------------------------------------- the process that judges


def work(connection, path, given, only, examples, number):
    """Load and judge; what happens goes through the connection.

    In a process of its own: FILE may end it, hang in it or print.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    os.dup2(2, 1)  # what FILE prints is none of the verdict
    sys.stdout.reconfigure(line_buffering=True)  # and is there when this process is ended
    try:
        module = implementation.load(path)
        settings = implementation.settings_of(module, given)
        if missing := implementation.missing(module):
            raise implementation.Unusable(missing)
        connection.send(("settings", settings))
        theirs = implementation.Implementation(
            module, settings, lambda *call: connection.send(("call", call))
        )
        for one in judge(theirs, chosen(only), examples, number):
            if one.failure:
                one = one._replace(failure=verdict.explained(one.failure, path))
            connection.send(("verdict", one))
        connection.send(("done", None))
    except implementation.Unusable as error:
        connection.send(("unusable", str(error)))


def ended(process, call, path):
    """One line on a process that ended before it was done."""
    process.join(5)
    code = process.exitcode
    how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with status {code}"
    return f"{path}: {during(call)} ended the process {how}"


def during(call):
    return call_text(*call) if call else "the import"


def messages(options, given):
    """What the process that judges sends. Raises InputError where it dies or hangs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (theirs, options.file, given, options.only, options.examples, options.seed)
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    call = None
    try:
        while True:
            if not ours.poll(options.patience):
                raise InputError(
                    f"{options.file}: {during(call)} has not come back for {options.patience:g} "
                    "seconds; --patience S allows more"
                )
            try:
                kind, what = ours.recv()
            except EOFError:
                raise InputError(ended(process, call, options.file)) from None
            if kind == "done":
                return
            if kind == "call":
                call = what
            else:
                yield kind, what
    finally:
        process.kill()
        process.join()


# ---------------------------------------------------------------- the command


def told(options, settings):
    """The first line."""
    return (
        f"{options.file}: level {settings.level}, partition {' and '.join(settings.partitions)}, "
        f"reduce {' and '.join(settings.reduces)}; {options.examples} cases a property, "
        f"seed {options.seed}"
    )


def judged(options, known):
    """Print each verdict as it comes. -> settings, verdicts"""
    given = {"level": options.level, "partition": options.partition, "reduce": options.upcr}
    settings, verdicts, heading = None, [], None
    for kind, what in messages(options, given):
        if kind == "unusable":
            raise InputError(f"{options.file}: {what}")
        if kind == "settings":
            settings = what
            print(told(options, settings), flush=True)
            continue
        verdicts.append(what)
        if what.outcome == NOT_JUDGED:
            continue
        if heading != what.functions[0]:
            heading = what.functions[0]
            print(heading, flush=True)
        print(verdict.line_of(what, known), flush=True)
    return settings, verdicts


def status(verdicts, known):
    """0: all that was judged holds. 1: some does not. 2: some cannot be used, or none is judged."""
    outcomes = [v.outcome for v in verdicts if v.name not in known]
    if complaints(verdicts):
        return 2
    return int(FAILS in outcomes)


def write(path, text):
    """A file that is there whole or not at all."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def tell(options, verdicts, known):
    """What comes after the lines of the verdicts: what is not judged, each failure, the sum."""
    for line in verdict.not_judged_lines(verdicts):
        print(line)
    for one in verdicts:
        if one.outcome == FAILS and one.name not in known:
            print("", *verdict.counterexample(one), sep="\n")
    print(verdict.summary(verdicts, known))
    healed = [v.name for v in verdicts if v.name in known and v.outcome == HOLDS]
    if healed:
        print(f"{options.known} names {', '.join(healed)}, which holds: take it out of the list")


def complaints(verdicts):
    """Why the exit status is 2, in lines."""
    unusable = [v.note for v in verdicts if v.outcome == UNUSABLE]
    if unusable or {HOLDS, FAILS} & {v.outcome for v in verdicts}:
        return unusable
    return [f"nothing was judged: {'; '.join(dict.fromkeys(v.note for v in verdicts))}"]


def check(argv):
    """What `main` does when all goes well."""
    options = read_options(parser(), argv)
    if options.examples < 1 or options.seed < 0 or not options.patience > 0:
        raise InputError(
            f"--examples is {options.examples}, --seed {options.seed}, --patience "
            f"{options.patience:g}; they must be at least 1, at least 0 and above 0"
        )
    if not os.path.isfile(options.file):
        raise InputError(
            f"{options.file} is not a file; give a Python file with any of the "
            f"functions {', '.join(FUNCTIONS)}"
        )
    known = read_known(options.known) if options.known else []
    settings, verdicts = judged(options, known)
    tell(options, verdicts, known)
    if options.json:
        head = {"file": options.file, "settings": settings._asdict(), "seed": options.seed}
        write(options.json, json.dumps(verdict.as_json(head, verdicts, known), indent=2) + "\n")
    if options.html:
        write(options.html, page(told(options, settings), verdicts, known))
    for complaint in complaints(verdicts):
        print(one_line(f"fpl: {options.file}: {complaint}"), file=sys.stderr)
    return status(verdicts, known)


def main(argv=None):
    """Exit status: 0, 1 or 2 as told above, 130 interrupted."""
    return guarded(check, argv)


if __name__ == "__main__":
    sys.exit(main())
