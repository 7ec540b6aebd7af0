"""The engine `ray`: a round on the workers of a Ray cluster.

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
import weakref

from lab.shell import environment
from lab.shell.errors import InputError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# without working_dir the caller's folder would come first on a worker
CODE = {"working_dir": ROOT, "excludes": ["/*", "!/.", "!/fpl.py", "!/finch.py", "!/lab"]}


def turn(function, state, images, client, *rest):
    """A client's turn on a worker: the function of an item, of which Ray keeps state and images."""
    from lab.many.worker import own_core

    own_core()
    return function((state, client._replace(images=images), *rest))


def over(ray):
    """The engine of a running Ray: results in order, few waiting; a lost worker's items go again.

    engine(function, items): items are tuples that begin with the server's state and a Client.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(turn)
    kept = {}  # id of images -> Ray's reference to them, as long as the run holds them

    def submit(function, state, client, *rest):
        images = client.images
        if id(images) not in kept:
            kept[id(images)] = ray.put(images)
            weakref.finalize(images, kept.pop, id(images)).atexit = False
        return task.remote(function, state, kept[id(images)], client._replace(images=None), *rest)

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

    def oldest(waiting, done):
        update = result(*waiting.popleft())
        done()
        return update

    def engine(function, items, done=lambda: None):
        state, there, waiting = None, None, collections.deque()
        # so that all have work while a large client is due
        most = 4 * int(ray.cluster_resources().get("CPU", 1))
        for number, item in enumerate(items):
            if item[0] is not state:
                state, there = item[0], ray.put(item[0])
            waiting.append((number, submit(function, there, *item[1:])))
            if len(waiting) == most:
                yield oldest(waiting, done)
        while waiting:
            yield oldest(waiting, done)

    return engine


def own_cluster(folder, workers):
    """What Ray is told to begin a cluster of its own, on this machine alone."""
    # Told to be 127.0.0.1, Ray listens on every address of the machine.
    # This switch, which it has for macOS, keeps it on the loopback;
    # the token keeps other users out. It reads both when it is imported.
    token = os.environ.get("RAY_AUTH_TOKEN") or os.urandom(32).hex()
    os.environ.update(
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token
    )
    return {"num_cpus": workers, "include_dashboard": False, "_temp_dir": folder}


@contextlib.contextmanager
def opened(address, workers):
    """The engine of the cluster at the address until the end of the `with`. Raises InputError.

    address "local": a cluster of its own, of that many workers.
    """
    with (
        tempfile.TemporaryDirectory(
            prefix="fpl-", dir=environment.short_folder(), ignore_cleanup_errors=True
        ) as folder,
        contextlib.ExitStack() as stack,
    ):
        os.environ.update(
            RAY_USAGE_STATS_ENABLED="0",
            RAY_IGNORE_UNHANDLED_ERRORS="1",
            RAY_NUM_REDIS_GET_RETRIES="2",
        )
        where = own_cluster(folder, workers) if address == "local" else {}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            import ray

            stack.callback(ray.shutdown)
            where |= {"runtime_env": CODE | {"env_vars": {"OMP_NUM_THREADS": "1"}}}
            ray.init(address, **where, logging_level="ERROR", log_to_driver=False)
        except Exception as error:  # Ray raises this very class when a process does not start
            raise InputError(
                f"--engine ray does not start at {address}: {error}; look at RAY_ADDRESS, "
                f"or install it: {sys.executable} -m pip install -r {ROOT}/requirements-ray.txt"
            ) from error
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process without a word
        yield over(ray)
