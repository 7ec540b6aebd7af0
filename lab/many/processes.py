"""The engine `processes`: a round on the cores of this machine, one process with one thread each.

What travels: images as files of a temporary folder, which each process maps into its memory;
network and prototypes once a round, as such a file too; back, through pipes, the ClientUpdates.
What is unpickled was pickled by this run.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import weakref
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

import numpy as np

from lab.shell.errors import InputError

TRIES = 4  # the first one, and three after processes that were killed
WINDOW = 64  # as many results of a round wait in memory for their turn, at most


# ---------------------------------------------------------------- in a worker


def begin(folder, cfg):
    """A worker's first acts. It ends with its parent, and not before, by Ctrl-C; it has a core.

    folder: of the run's files; cfg: of the run, or None where several will follow each other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, args=(folder,), daemon=True).start()
    from lab.many import compiled, worker  # which load MindSpore

    worker.own_core()
    if cfg is not None:
        compiled.prepare(cfg)


def end_with_parent(folder):
    """Wait for the parent's end, whatever it is; a parent that was killed has left the folder."""
    wait([multiprocessing.parent_process().sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


@functools.lru_cache(maxsize=1)
def read_state(path):
    with open(path, "rb") as file:
        return pickle.load(file)


def turn(function, state_file, images_file, client, rest):
    """A client's turn: the function of an item, of which state and images lie in files."""
    images = np.asarray(np.load(images_file, mmap_mode="r"))
    return function((read_state(state_file), client._replace(images=images), *rest))


# ---------------------------------------------------------------- in the parent


class Workers:
    """The processes of all runs of a command; they are begun anew when one of them dies.

    engine(function, items): items are tuples that begin with the server's state and a Client.
    """

    def __init__(self, number, cfg, folder):
        self.number, self.cfg, self.folder = number, cfg, folder
        self.state, self.state_file = None, None
        self.files = {}  # id of images -> their file
        self.start()

    def start(self):
        context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
        self.pool = concurrent.futures.ProcessPoolExecutor(
            self.number, context, begin, (self.folder, self.cfg)
        )
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # for the processes, which inherit it
        for _ in range(self.number):
            self.pool.submit(int)  # each call begins one more
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
        self.processes = [p for p in multiprocessing.active_children() if p not in others]

    def end(self):
        """Kill them: a worker that trains would not listen."""
        for process in self.processes:
            process.kill()
        self.pool.shutdown(cancel_futures=True)

    def engine(self, function, items, done=lambda: None):
        """The results in the order of the items; done() is called when one has come."""
        items = list(items)
        for start in range(0, len(items), WINDOW):
            yield from self.results(function, items[start : start + WINDOW], done)

    def results(self, function, items, done):
        """The client with the most images begins first."""
        largest_first = sorted(range(len(items)), key=lambda i: -len(items[i][1].labels))
        futures = {i: self.submit(function, items[i], done) for i in largest_first}
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
                    self.start()
                    again = [j for j in largest_first if j in futures and lost(futures[j])]
                    futures |= {j: self.submit(function, items[j], done) for j in again}
                yield futures.pop(i).result()
        finally:  # nobody asks for the rest where a client's update is refused
            for future in futures.values():
                future.cancel()

    def submit(self, function, item, done):
        """The future of a turn; a pool that breaks meanwhile gives one that is lost."""
        state, client, *rest = item
        files = self.file_of_state(state), self.file_of_images(client.images)
        try:
            future = self.pool.submit(turn, function, *files, client._replace(images=None), rest)
        except BrokenProcessPool as error:
            future = concurrent.futures.Future()
            future.set_exception(error)
        future.add_done_callback(lambda future: future.cancelled() or future.exception() or done())
        return future

    def file_of_state(self, state):
        """Where the newest state lies; those before it are asked for no more."""
        if state is not self.state:
            if self.state_file:
                os.remove(self.state_file)
            self.state, self.state_file = state, self.new_file("state")
            with open(self.state_file, "wb") as file:
                pickle.dump(state, file)
        return self.state_file

    def file_of_images(self, images):
        """Where they lie, as long as the run holds them."""
        if id(images) not in self.files:
            self.files[id(images)] = self.new_file("images.npy")
            np.save(self.files[id(images)], images)
            weakref.finalize(images, self.forget, id(images)).atexit = False
        return self.files[id(images)]

    def forget(self, key):
        with contextlib.suppress(OSError):  # the folder went before
            os.remove(self.files.pop(key))

    def new_file(self, name):
        number, path = tempfile.mkstemp("-" + name, dir=self.folder)
        os.close(number)
        return path


def lost(future):
    """Whether its worker died; waits for the end of it."""
    return isinstance(future.exception(), BrokenProcessPool)


@contextlib.contextmanager
def opened(number, cfg=None):
    """The engine of that many workers until the end of the `with`. cfg: see `begin`."""
    with tempfile.TemporaryDirectory(prefix="fpl-", ignore_cleanup_errors=True) as folder:
        workers = Workers(number, cfg, folder)
        try:
            yield workers.engine
        finally:
            workers.end()
