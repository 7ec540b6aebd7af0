"""`finch` by its authors' package, finch-clust, which computes in float32.

At the level strict it differs: it wants a row, numbers within float32, and decides ties in float32.
"""

import importlib.metadata
import importlib.util
import sys

import numpy as np


def authors_finch():
    """FINCH of the package, which is imported as `finch`, as ours may be already."""
    place = importlib.metadata.distribution("finch-clust").locate_file("finch/__init__.py")
    spec = importlib.util.spec_from_file_location(
        "finch", place, submodule_search_locations=[str(place.parent)]
    )
    ours = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "finch"}
    for name in ours:
        del sys.modules[name]
    sys.modules["finch"] = theirs = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(theirs)
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "finch"]:
            del sys.modules[name]
        sys.modules.update(ours)
    return theirs.FINCH


FINCH = authors_finch()


def finch(x):
    partitions, _, _ = FINCH(np.float32(x), ensure_early_exit=False, verbose=False)
    return list(partitions.T)
