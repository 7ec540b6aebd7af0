"""`./run.sh ablate digits` or `office`: FPL with its parts taken out or exchanged."""

from lab.methods.baselines import FPL, FPL_GLOBAL
from lab.methods.experiment import run_all
from lab.shell.errors import InputError
from lab.shell.program import guarded

TAUS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # Fig. 4


def parts(cfg):
    """Tables 1 and 3, Fig. 4 and 5: {variant: (Method, changes of Config)}.

    `both` stands for cfg's own tau in Fig. 4. Raises InputError where a term is off already.
    """
    if not (cfg.cpcl and cfg.upcr):
        raise InputError(
            f"--cpcl is {cfg.cpcl}, --upcr is {cfg.upcr}; ablate switches them off "
            "itself and needs both more than 0: leave the flag away"
        )
    cpcl, upcr = {"upcr": 0.0}, {"cpcl": 0.0}
    return {
        "neither": (FPL, cpcl | upcr),
        "cpcl": (FPL, cpcl),
        "upcr": (FPL, upcr),
        "both": (FPL, {}),
        "upcr-global": (FPL_GLOBAL, upcr),  # Table 3: beside upcr
        "cpcl-global": (FPL_GLOBAL, cpcl),  # Fig. 5: beside cpcl
        **{f"tau-{tau:g}": (FPL, {"tau": tau}) for tau in TAUS if tau != cfg.tau},
    }


def ablate(argv):
    """What `main` does when all goes well."""
    description = "Train FPL with its parts taken out or exchanged (Tables 1 and 3, Fig. 4 and 5)."
    return run_all("ablate", parts, description, argv)


def main(argv=None):
    """Exit status: 0 done (diverged runs included), 2 bad input or no writing, 130 interrupted."""
    return guarded(ablate, argv, "Stopped; the same command goes on.")
