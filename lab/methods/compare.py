"""`./run.sh compare digits` or `office`: all methods of Table 2 on the same terms."""

from lab.methods.baselines import METHODS
from lab.methods.experiment import run_all
from lab.shell.program import guarded


def methods(cfg):
    """Table 2: {variant: (Method, changes of Config)}."""
    return {name: (method, {}) for name, method in METHODS.items()}


def compare(argv):
    """What `main` does when all goes well."""
    return run_all("compare", methods, "Train all methods of Table 2 on the same terms.", argv)


def main(argv=None):
    """Exit status: 0 done (diverged runs included), 2 bad input or no writing, 130 interrupted."""
    return guarded(compare, argv, "Stopped; the same command goes on.")
