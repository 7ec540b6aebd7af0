"""Compile what a run computes with, or take it from an earlier run that compiled the same.

MindSpore's own cache knows a graph by its number in the process and by nothing else: a process that
compiles in another order, or for another width, is handed a wrong graph. So a folder here holds the
graphs of one call of `compile_both`, which come in one order; its name is a hash of all that can
change them; and MindSpore's cache is switched off again before anything else is compiled. Only a
fresh process may come here, in which nobody has put other functions in the place of fpl's.
"""

import contextlib
import dataclasses
import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np

import fpl
from lab.shell.errors import InputError
from lab.shell.files import locked, write_whole

KEPT = Path(sys.prefix, "compiled")  # beside the packages, and goes with them
MOST = 50  # folders, of 0.4 MB each
SUMS = "sha256.json"  # of each file, so that a damaged one is not taken


def prepare(cfg):
    """Have the graphs of a run ready, from KEPT if they are there; else leave them there.

    One process compiles, the others of the run wait for it: side by side each takes longer.
    """
    folder = KEPT / key(cfg)
    with contextlib.suppress(InputError, OSError), locked(folder, wait=True):
        whole = sums(folder) == sums_of_before(folder)
        if not whole:  # of a process that was killed, or damaged: MindSpore would read it
            shutil.rmtree(folder / "rank_0", ignore_errors=True)
        with kept_by_mindspore(folder):
            compile_both(cfg)
        if not whole:
            text = json.dumps(sums(folder))
            write_whole(folder / SUMS, lambda part: Path(part).write_text(text))
            forget_oldest()


def compile_both(cfg):
    """The training step and the prediction, by a client of two images that nobody else sees."""
    client = fpl.Client(np.zeros((2, cfg.size, cfg.size, 3), np.uint8), np.zeros(2, np.int32), "")
    cfg = dataclasses.replace(cfg, local_epochs=1, prototypes_from="final")
    fpl.client_update(fpl.init_state(cfg), client, fpl.stream(cfg, "client", 0), cfg)


@contextlib.contextmanager
def kept_by_mindspore(folder):
    """MindSpore reads and writes what it compiles there. It heeds the first folder of a process."""
    fpl.ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
    try:
        yield
    finally:
        fpl.ms.set_context(enable_compile_cache=False)


def key(cfg):
    """A hash of all that can change the graphs, and of more than that, so that none is stale."""
    settings = dataclasses.replace(cfg, seed=0, rounds=1)  # which no graph can see
    versions = sys.version, fpl.ms.__version__, np.__version__, platform.machine()
    facts = repr((settings, versions)).encode() + Path(fpl.__file__).read_bytes()
    return hashlib.sha256(facts).hexdigest()


def sums(folder):
    """{file: sha256} of what MindSpore has left in a folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "rank_0").rglob("*")
        if path.is_file()
    }


def sums_of_before(folder):
    """What `prepare` has written of them; None if it did not come to its end."""
    try:
        return json.loads((folder / SUMS).read_text())
    except (OSError, ValueError):
        return None


def forget_oldest():
    newest = sorted(KEPT.iterdir(), key=lambda path: -path.stat().st_mtime)
    for folder in newest[MOST:]:
        shutil.rmtree(folder, ignore_errors=True)
