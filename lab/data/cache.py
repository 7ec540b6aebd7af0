"""Pictures that were read once, kept in runs/.pictures for the next run.

A file there is named by a hash of all that its content depends on: the folder, how pictures are
read, and of each picture its path, size, times and number on the disk. It ends in a checksum of its
own bytes. Whatever is not right means to read the pictures again; nothing here is an error.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from lab.shell.files import write_whole

KEPT = Path("runs", ".pictures")
MOST = 4  # files, of the size of the images
FEWEST = 500  # pictures: fewer are read as fast


def kept(folder, paths, how, read):
    """The images of these paths, from an earlier run, or by read(), which are kept then."""
    if len(paths) < FEWEST:
        return read()
    before = key(folder, paths, how)
    path = KEPT / f"{before}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        images = np.load(path, allow_pickle=False)
        size = how["side"]
        whole = images.shape == (len(paths), size, size, 3) and images.dtype == np.uint8
        if whole and path.with_suffix(".sha256").read_text() == digest(images):
            return images
    images = read()
    if key(folder, paths, how) == before:  # else a picture was changed meanwhile
        with contextlib.suppress(OSError):
            keep(path, images)
    return images


def key(folder, paths, how):
    """A hash of all that the images depend on."""
    files = []
    for path in paths:
        state = os.stat(path)
        times = state.st_mtime_ns, state.st_ctime_ns
        files.append((os.fsdecode(path), state.st_size, *times, state.st_ino, state.st_dev))
    facts = [os.path.abspath(folder), how, Image.__version__, files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def digest(images):
    return hashlib.sha256(np.ascontiguousarray(images)).hexdigest()


def keep(path, images):
    """Write the images, and forget the oldest beyond MOST."""
    KEPT.mkdir(parents=True, exist_ok=True)

    def write(part):
        with open(part, "wb") as file:  # an open file, since np.save adds .npy to a name
            np.save(file, images)

    write_whole(path, write)
    write_whole(path.with_suffix(".sha256"), lambda part: Path(part).write_text(digest(images)))
    newest = sorted(KEPT.glob("*.npy"), key=lambda path: -path.stat().st_mtime)
    for old in newest[MOST:]:
        old.unlink()
        old.with_suffix(".sha256").unlink(missing_ok=True)
