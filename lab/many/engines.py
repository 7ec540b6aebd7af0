"""Engines for fpl.run: `map` is the built-in loop, the other one maps a round over the workers of a Ray cluster.

What travels: images once to each machine that trains their client; network and prototypes once a round to each machine;
of a method's memory to each client its own; back, the ClientUpdates. Ray pickles between its own processes; nothing
that comes from elsewhere is unpickled.
"""
import collections
import contextlib
import os
import signal
import sys
import tempfile

import fpl

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CODE = {"working_dir": ROOT, "excludes": ["/*", "!/.", "!/fpl.py", "!/finch.py", "!/lab"]}  # else the caller's folder comes first


def turn(shared, memory, client, m):
    """fpl.train_client on a worker. shared: (state without the clients' memories, method, cfg). -> ClientUpdate."""
    state, *rest = shared
    return fpl.train_client(state._replace(memory={**state.memory, m: memory}), {m: client}, *rest, m)


def over(ray):
    """The engine of a running Ray: results in order, few waiting at a time; a lost worker's clients are trained again."""
    task, sent, there = ray.remote(num_cpus=1, max_retries=3)(turn), None, {}  # there: what Ray holds of the clients sent

    def result(m, reference):
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise fpl.InputError(f"Ray lost client {m} ({error}); look at its workers' memory, then go on with --resume") from error

    def engine(function, items):
        nonlocal sent, there
        state, clients, *rest = function.args  # what server_round binds to fpl.train_client
        if sent is not clients:
            sent, there = clients, {}
        common = {holder: kept for holder, kept in state.memory.items() if holder == "server"}
        shared, waiting = ray.put((state._replace(memory=common), *rest)), collections.deque()
        most = 4 * int(ray.cluster_resources().get("CPU", 1))  # so that all have work while a large client is due
        for m in items:
            there[m] = there.get(m) or ray.put(clients[m])
            waiting.append((m, task.remote(shared, state.memory.get(m, {}), there[m], m)))
            if len(waiting) == most:
                yield result(*waiting.popleft())
        while waiting:
            yield result(*waiting.popleft())
    return engine


@contextlib.contextmanager
def opened(name, workers=None):
    """The engine "loop" or "ray" until the end of the `with`. Raises InputError. Ray's cluster is the one at RAY_ADDRESS,
    else one on this machine alone, of one worker for each core that this process may use."""
    if name == "loop":
        yield map
        return
    with tempfile.TemporaryDirectory(prefix="fpl-", ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_IGNORE_UNHANDLED_ERRORS="1", RAY_NUM_REDIS_GET_RETRIES="2")
        where, on_sigterm = {"address": os.environ.get("RAY_ADDRESS", "local")}, signal.getsignal(signal.SIGTERM)
        if where["address"] == "local":
            # trap: told to be 127.0.0.1, Ray listens on every address of the machine. This switch, which it has for macOS,
            # keeps it on the loopback; the token keeps other users out. It reads both when it is imported
            token = os.environ.get("RAY_AUTH_TOKEN") or os.urandom(32).hex()
            os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
            where |= dict(num_cpus=workers or len(os.sched_getaffinity(0)), include_dashboard=False, _temp_dir=folder)
        try:
            import ray
            stack.callback(ray.shutdown)
            ray.init(**where, runtime_env=CODE | {"env_vars": {"OMP_NUM_THREADS": "1"}}, logging_level="ERROR", log_to_driver=False)
        except Exception as error:  # Ray raises this very class when one of its processes does not start
            raise fpl.InputError(f"--engine ray does not start at {where['address']}: {error}; look at RAY_ADDRESS, or install it: "
                                 f"{sys.executable} -m pip install -r {ROOT}/requirements-ray.txt") from error
        signal.signal(signal.SIGTERM, on_sigterm)  # in place of Ray's, which ends the process without a word
        yield over(ray)
