"""Two rounds of five small clients, and all bytes that they leave: for the tests of engines."""

import numpy as np
from tiny import TINY, images_and_labels

import fpl


def some_clients(sizes=(4, 8, 4, 12, 4)):
    """Whole batches of four: each process compiles one shape."""
    return [fpl.Client(*images_and_labels(n, m), "mnist") for m, n in enumerate(sizes)]


def everything(engine, server_round=fpl.server_round):
    """Names -> bytes of all that two rounds leave."""
    clients, found = some_clients(), {}
    tests = {"mnist": clients[1][:2]}
    run = fpl.run(clients, tests, TINY, engine=engine, server_round=server_round)
    for state, log in run:
        arrays = {"params": state.params, "stats": state.stats, **state.prototypes._asdict()}
        arrays |= {"means": log["class_means"], "counts": log["counts"]}
        for m, kept in getattr(state, "memory", {}).items():
            arrays |= {f"{m} {name}": value for name, value in kept.items()}
        for name, value in arrays.items():
            found[f"{log['round']} {name}"] = np.asarray(value).tobytes()
        for name in ("losses", "accuracy"):
            found[f"{log['round']} {name}"] = repr(log[name])
    return found
