"""Engines for fpl.run: `map` is the built-in loop, the other one uses the workers of a Ray cluster.

What travels: images once to each machine that trains their client; network and prototypes once a
round to each machine; what a method remembers of a client, to that client; back, the ClientUpdates.
Ray pickles between its own processes; nothing that comes from elsewhere is unpickled.
"""

import collections
import contextlib
import os
import signal
import sys
import tempfile

from lab.many import processes
from lab.shell.errors import InputError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# without working_dir the caller's folder would come first on a worker
CODE = {"working_dir": ROOT, "excludes": ["/*", "!/.", "!/fpl.py", "!/finch.py", "!/lab"]}


def turn(function, state, client, *rest):
    """A client's turn on a worker: the function of one item, whose first two parts Ray keeps."""
    return function((state, client, *rest))


def over(ray):
    """The engine of a running Ray: results in order, few waiting; a lost worker's items go again.

    Its items are tuples that begin with the server's state and the client.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(turn)
    kept = {}  # id of a client -> the client, Ray's reference to it
    newest = 0  # round

    def result(number, reference):
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise InputError(
                f"Ray lost client {number} of this round ({error}); look at its workers' memory, "
                "then go on with --resume"
            ) from error

    def engine(function, items):
        nonlocal newest
        shared, there, waiting = None, None, collections.deque()
        # so that all have work while a large client is due
        most = 4 * int(ray.cluster_resources().get("CPU", 1))
        for number, (state, client, *rest) in enumerate(items):
            if state is not shared:
                shared, there = state, ray.put(state)
                if state.round != newest + 1:  # another run, which has clients of its own
                    kept.clear()
                newest = state.round
            if id(client) not in kept:
                kept[id(client)] = client, ray.put(client)
            reference = task.remote(function, there, kept[id(client)][1], *rest)
            waiting.append((number, reference))
            if len(waiting) == most:
                yield result(*waiting.popleft())
        while waiting:
            yield result(*waiting.popleft())

    return engine


@contextlib.contextmanager
def opened(name, workers=None):
    """The engine "loop", "processes" or "ray" until the end of the `with`. Raises InputError.

    Ray's cluster is the one at RAY_ADDRESS, else one on this machine alone, of one worker for each
    core that this process may use.
    """
    if name == "loop":
        yield map
        return
    if name == "processes":
        with processes.opened(workers) as engine:
            yield engine
        return
    with (
        tempfile.TemporaryDirectory(prefix="fpl-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        os.environ.update(
            RAY_USAGE_STATS_ENABLED="0",
            RAY_IGNORE_UNHANDLED_ERRORS="1",
            RAY_NUM_REDIS_GET_RETRIES="2",
        )
        where = {"address": os.environ.get("RAY_ADDRESS", "local")}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if where["address"] == "local":
            # Told to be 127.0.0.1, Ray listens on every address of the machine.
            # This switch, which it has for macOS, keeps it on the loopback;
            # the token keeps other users out. It reads both when it is imported.
            token = os.environ.get("RAY_AUTH_TOKEN") or os.urandom(32).hex()
            os.environ.update(
                RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token
            )
            cores = workers or len(os.sched_getaffinity(0))
            where |= {"num_cpus": cores, "include_dashboard": False, "_temp_dir": folder}
        try:
            import ray

            stack.callback(ray.shutdown)
            environment = CODE | {"env_vars": {"OMP_NUM_THREADS": "1"}}
            ray.init(**where, runtime_env=environment, logging_level="ERROR", log_to_driver=False)
        except Exception as error:  # Ray raises this very class when a process does not start
            raise InputError(
                f"--engine ray does not start at {where['address']}: {error}; look at RAY_ADDRESS, "
                f"or install it: {sys.executable} -m pip install -r {ROOT}/requirements-ray.txt"
            ) from error
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process without a word
        yield over(ray)
