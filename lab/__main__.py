"""The door of all commands: `.venv/bin/python -I ROOT/lab/__main__.py COMMAND ARGS`.

-I keeps other packages called lab or fpl, on PYTHONPATH or in the working folder, out of sight;
the folder above this one comes first instead.
"""

import importlib
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
COMMANDS = {  # each module has main(arguments) -> exit status
    "digits": "lab.run.train",
    "office": "lab.run.train",
    "folder": "lab.run.train",
    "predict": "lab.run.predict",
    "compare": "lab.methods.compare",
    "ablate": "lab.methods.ablate",
    "report": "lab.report.report",
    "repeat": "lab.run.repeat",
    "check": "lab.proof.check",
    "check-device": "lab.device.check_device",
    "lesson": "lab.proof.lesson",
    "bench": "lab.proof.bench",
    "mutants": "lab.proof.mutants",
    "fetch": "lab.data.fetch",
}


def chosen(command="", *arguments):
    """The main of a command, and its arguments; a task to train on is the first of them."""
    if command not in COMMANDS:
        print(
            f"fpl: unknown command '{command}'; it must be one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    if command in ("digits", "office", "folder"):
        arguments = command, *arguments
    from lab.shell import plotting  # noqa: F401  (before any other imports matplotlib)

    return importlib.import_module(COMMANDS[command]).main, list(arguments)


if __name__ == "__main__":
    sys.path.insert(0, ROOT)

    from lab.shell import starting  # noqa: F401, I001  (first: it guards what is loaded)
    from lab.shell.program import as_program

    main, arguments = chosen(*sys.argv[1:])
    as_program(lambda: main(arguments))
