"""The engine `processes`: a round on the cores of this machine, one process with one thread each.

What travels: a client's images once to each process that trains it, network and prototypes once a
round to each process, both as files of a temporary folder; back, through pipes, the ClientUpdates.
What is unpickled was pickled by this run.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import multiprocessing
import os
import pickle
import signal
import tempfile
from concurrent.futures.process import BrokenProcessPool

from lab.shell.errors import InputError

TRIES = 4  # the first one, and three after processes that were killed
WINDOW = 64  # as many results of a round wait in memory for their turn, at most
PR_SET_PDEATHSIG = 1  # of prctl(2)


# ---------------------------------------------------------------- in a worker


def begin(cores, parent):
    """A worker's first acts. It dies with its parent, not by Ctrl-C, and has a core for itself.

    It binds itself after a first product of matrices: the bits of a product depend on how many
    cores the process may use when it computes its first one, and shall be those of the loop.
    """
    os.setpgrp()  # the terminal sends Ctrl-C to the parent's group
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        os._exit(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    import fpl  # now, because MindSpore reads it while it is loaded

    def product(x):
        return fpl.ops.matmul(x, x)

    fpl.ms.jit(product)(fpl.Tensor([[1.0, 0.0], [0.0, 1.0]], fpl.ms.float32)).asnumpy()
    core = cores.get()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), {core})


def read(path):
    with open(path, "rb") as file:
        return pickle.load(file)


read_client = functools.cache(read)
read_state = functools.lru_cache(maxsize=1)(read)


def turn(function, state, client, rest):
    """A client's turn: the function of an item, whose first two parts lie in files."""
    return function((read_state(state), read_client(client), *rest))


# ---------------------------------------------------------------- in the parent


class Workers:
    """The processes of one run: begun when the first round asks for them, begun anew when one dies.

    engine(function, items): items are tuples that begin with the server's state and the client.
    """

    def __init__(self, cores, folder):
        self.cores, self.folder, self.pool = cores, folder, None
        self.state, self.state_file = None, None
        self.clients = {}  # id of a client -> the client, its file

    def engine(self, function, items):
        items = list(items)
        for start in range(0, len(items), WINDOW):
            yield from self.results(function, items[start : start + WINDOW])

    def results(self, function, items):
        """In the order of the items; the client with the most images begins first."""
        largest_first = sorted(range(len(items)), key=lambda i: -len(items[i][1].labels))
        futures = {i: self.submit(function, items[i]) for i in largest_first}
        tries = 1
        try:
            for i in range(len(items)):
                while lost(futures[i]):
                    if tries == TRIES:
                        raise InputError(
                            f"workers of --engine processes were killed {TRIES} times in a round; "
                            "look at the machine's memory, or go on with --resume --engine loop"
                        )
                    tries += 1
                    self.end()
                    again = [j for j in largest_first if j in futures and lost(futures[j])]
                    futures |= {j: self.submit(function, items[j]) for j in again}
                yield futures.pop(i).result()
        finally:  # nobody asks for the rest where a client's update is refused
            for future in futures.values():
                future.cancel()

    def submit(self, function, item):
        """The future of a turn; a pool that breaks meanwhile gives one that is lost."""
        state, client, *rest = item
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            cores = context.SimpleQueue()
            for core in self.cores:
                cores.put(core)
            self.pool = concurrent.futures.ProcessPoolExecutor(
                len(self.cores), context, begin, (cores, os.getpid())
            )
        try:
            return self.pool.submit(
                turn, function, self.file_of_state(state), self.file_of_client(client), rest
            )
        except BrokenProcessPool as error:
            broken = concurrent.futures.Future()
            broken.set_exception(error)
            return broken

    def file_of_state(self, state):
        """Where the newest state lies; those before it are asked for no more."""
        if state is not self.state:
            if self.state_file:
                os.remove(self.state_file)
            self.state, self.state_file = state, self.written(state, "state")
        return self.state_file

    def file_of_client(self, client):
        if id(client) not in self.clients:
            self.clients[id(client)] = client, self.written(client, "client")
        return self.clients[id(client)][1]

    def written(self, thing, kind):
        number, path = tempfile.mkstemp(prefix=kind, dir=self.folder)
        with open(number, "wb") as file:
            pickle.dump(thing, file)
        return path

    def end(self):
        """Kill what is left: a worker that trains would not listen."""
        if self.pool is not None:
            for process in multiprocessing.active_children():
                process.kill()
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


def lost(future):
    """Whether its worker died; waits for the end of it."""
    return isinstance(future.exception(), BrokenProcessPool)


@contextlib.contextmanager
def opened(most=None):
    """The engine until the end of the `with`. most: how many workers have work, at most."""
    cores = sorted(os.sched_getaffinity(0))[:most]
    with tempfile.TemporaryDirectory(prefix="fpl-", ignore_cleanup_errors=True) as folder:
        workers = Workers(cores, folder)
        try:
            yield workers.engine
        finally:
            workers.end()
