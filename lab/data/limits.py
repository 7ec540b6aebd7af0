"""How much memory a file may take. A sparse or packed one takes little disk, but all of it."""

from lab.shell.errors import InputError

# Bytes of a file; the largest published ones are IDX of 47 MB and MATLAB of 182 MB.
LARGEST = {"picture": 1 << 26, "IDX": 1 << 29, "npz": 1 << 29, "MATLAB": 1 << 31}


def check_size(path, kind):
    """The bytes of a file that is to be read whole. Raises InputError if they are too many."""
    size = path.stat().st_size
    if size > LARGEST[kind]:
        raise InputError(
            f"{path}: {size} bytes; wanted at most {LARGEST[kind]}; get a fresh copy of the file"
        )
    return size


def most_unpacked(size, room=1 << 24):
    """The bytes that a packed file of this size may grow to.

    The published files grow 2 to 5 times; the room is for small files of a single shade.
    """
    return 32 * size + room


def read_up_to(file, count):
    """At most count bytes, in pieces: a packed file allocates what read(count) asks for."""
    content = bytearray()
    while piece := file.read(min(count - len(content), 1 << 20)):
        content += piece
    return content
