"""Which engine maps a round over its clients: the loop, processes, or a Ray cluster.

engine(function, items, done) applies the function to each item, a tuple that begins with the
server's state and a Client, yields the results in order, and calls done() as they come.
"""

import contextlib
import os

from lab.many import cluster, processes
from lab.shell.cores import granted, memory
from lab.shell.words import plural


def worker_memory(width, size):
    """Bytes of a worker at its peak, as measured with batches of 64; docs/machines.md has them."""
    return 0.95e9 + 11e6 * width + 5e6 * width * ((size / 32) ** 2 - 1)


def loop(function, items, done=lambda: None):
    """One item after another, in this process."""
    for item in items:
        result = function(item)
        done()
        yield result


def chosen(name, turns, cfg):
    """The engine's name, its number of workers, and the line that says so.

    name: what --engine says, or None; turns: clients that train in a round.
    """
    cores, room = granted(), memory()
    fit = cores if room is None else max(1, int(room / worker_memory(cfg.width, cfg.size)))
    workers = min(cores, turns, fit)
    if name is None:
        name = "processes" if workers > 1 and cfg.device == "CPU" else "loop"
    if name == "loop":
        return name, 1, "engine loop: clients train one after another, in this process"
    if name == "ray" and "RAY_ADDRESS" in os.environ:
        return name, None, f"engine ray: the cluster at {os.environ['RAY_ADDRESS']}"
    why = f"{plural(cores, 'core')}, {plural(turns, 'client')} a round"
    if room is not None:
        why += f", {room / 1e9:.1f} GB of free memory"
    return name, workers, f"engine {name}: {plural(workers, 'worker')} ({why})"


@contextlib.contextmanager
def opened(name, workers=1, cfg=None):
    """The engine "loop", "processes" or "ray" until the end of the `with`. Raises InputError.

    Ray's cluster is the one at RAY_ADDRESS, else one on this machine of that many workers.
    cfg: of the run that it is for, so that processes compile at once, or None if there are several.
    """
    if name == "loop":
        yield loop
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    opening = cluster.opened(address, workers) if name == "ray" else processes.opened(workers, cfg)
    with opening as engine:
        yield engine
