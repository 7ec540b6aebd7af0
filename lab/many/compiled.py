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
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import fpl

KEPT = Path(sys.prefix, "compiled")  # beside the packages, and goes with them
MOST = 50  # folders, of 0.4 MB each
SUMS = "sha256.json"  # of each file, so that a damaged one is not taken


def prepare(cfg):
    """Have the graphs of a run ready, from KEPT if they are there; else leave them there."""
    folder = KEPT / key(cfg)
    if whole(folder):
        with kept_by_mindspore(folder):
            compile_both(cfg)
        return
    with contextlib.suppress(OSError):  # a folder that cannot be written, a full disk
        KEPT.mkdir(exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="part-", dir=KEPT))
        with kept_by_mindspore(part):
            compile_both(cfg)
        (part / SUMS).write_text(json.dumps(sums(part)))
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        part.rename(folder)  # fails where another process was first
    forget_oldest()


def compile_both(cfg):
    """The training step and the prediction: a turn of a client of two images, which is forgotten."""
    client = fpl.Client(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int32), "")
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
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def whole(folder):
    """Whether a folder is there with all its files as they were written."""
    try:
        return sums(folder) == json.loads((folder / SUMS).read_text())
    except (OSError, ValueError):
        return False


def forget_oldest():
    """Keep the newest folders; those without sums are of processes that were killed."""
    with contextlib.suppress(OSError):
        newest = sorted(KEPT.iterdir(), key=lambda path: -path.stat().st_mtime)
        for folder in newest[MOST:]:
            shutil.rmtree(folder, ignore_errors=True)
