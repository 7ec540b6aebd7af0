"""`./run.sh check-device`: what a device computes beside NumPy, and how far it may be off."""

import argparse

from lab.device import selfcheck
from lab.device.target import set_target
from lab.run.settings import SETTINGS
from lab.shell.options import read_options
from lab.shell.program import guarded
from lab.shell.words import table


def main(argv=None):
    """-> 0 it computes right, 1 it does not, else as `lab.shell.program.guarded` says."""
    return guarded(check_device, argv, "Stopped.")


def check_device(argv):
    """What `main` does when all goes well."""
    parser = argparse.ArgumentParser(
        prog="./run.sh check-device",
        allow_abbrev=False,
        description="Compute a tiny training on the device and in NumPy, and compare. A run on any "
        "device but the CPU begins with it, and is refused where something is off.",
    )
    parser.add_argument("--device", choices=SETTINGS["device"]["choices"], default="CPU")
    device = read_options(parser, argv).device
    set_target(device)
    checks = selfcheck.run(device)
    rows = [["", "off by", "at most", ""]]
    rows += [
        [check.name, f"{check.off:.2g}", f"{check.room:.2g}", "right" if check.right else "WRONG"]
        for check in checks
    ]
    print("\n".join(table(rows, left=(0, 3))))
    wrong = sum(not check.right for check in checks)
    print(f"\n{device}: {len(checks) - wrong} of {len(checks)} right")
    return 1 if wrong else 0
