"""Decoded pictures, kept in runs/.pictures so that the next run need not decode them again.

An entry is a key, a checksum and the bytes of one array. It is an offer, never a duty: whatever is
odd about it, the pictures are read again; and where it cannot be written there is none. The folder
may be removed at any time.
"""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import PIL
from PIL import features

from lab.data import images as reader
from lab.shell.files import write_whole

FOLDER = Path("runs/.pictures")
MOST_ENTRIES = 4  # the newest ones; one for each folder, size, fit and rotation
FEWEST_BYTES = 300_000  # of all files; fewer are decoded in about a tenth of a second


def decoder():
    """What decodes: the same files come out otherwise where this is another one."""
    source = hashlib.sha256(Path(reader.__file__).read_bytes()).hexdigest()
    return PIL.__version__, features.version("libjpeg_turbo"), features.version("jpg"), source


def entry(about):
    """The file for (folder, size, fit, rotation): what it held for older pictures is replaced."""
    return FOLDER / f"{hashlib.sha256(repr(about).encode()).hexdigest()[:32]}.bytes"


def load(about, key, images):
    """Whether images, an array, was filled with what is kept under this key."""
    try:
        with open(entry(about), "rb") as file:
            if os.fstat(file.fileno()).st_size != 64 + images.nbytes or file.read(32) != key:
                return False
            checksum = file.read(32)
            whole = file.readinto(images.reshape(-1)) == images.nbytes
        if whole and hashlib.sha256(images).digest() == checksum:
            with contextlib.suppress(OSError):
                os.utime(entry(about))  # the newest are kept
            return True
    except OSError:
        pass
    return False


def save(about, key, images):
    """Keep images, if the disk has room and lets us."""
    path = entry(about)

    def write(part):
        with open(part, "wb") as file:
            file.write(key + hashlib.sha256(images).digest())
            file.write(images)

    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        if images.nbytes > shutil.disk_usage(FOLDER).free // 2:  # a run needs room for itself
            return
        try:
            write_whole(path, write)
        except OSError:
            os.unlink(f"{path}.part")
        by_age = sorted(FOLDER.glob("*.bytes*"), key=lambda path: path.stat().st_mtime)
        for old in by_age[:-MOST_ENTRIES]:
            old.unlink()
    except OSError:
        pass
