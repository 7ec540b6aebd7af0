"""MATLAB 5 files.

In place of scipy.io.loadmat, which on damaged files reads beyond its memory (a segmentation fault
with SciPy 1.17.1) and allocates what the file promises.
"""

import struct
import zlib

import numpy as np

from lab.data.limits import check_size, most_unpacked

# how numbers lie in the file, and what class of array they make
STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
MATRIX, PACKED = 14, 15


def read_mat(path):
    """Its variables: name (bytes) -> array with its axes reversed.

    Raises InputError if it is too large, ValueError,
    TypeError, struct.error or zlib.error if it is damaged.
    """
    check_size(path, "MATLAB")
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        if order is None:
            raise ValueError("no MATLAB 5 header")
        content = memoryview(file.read())
    arrays = {}
    for kind, part in elements(content, order):
        if kind == PACKED:
            unpacker = zlib.decompressobj()
            inner = unpacker.decompress(part, most_unpacked(len(part)))
            if not unpacker.eof:
                raise ValueError("its packed data are cut off or too many")
            ((kind, part),) = elements(memoryview(inner), order)
        if kind == MATRIX:
            name, array = named_array(part, order)
            arrays[name] = array
    return arrays


def elements(content, order):
    """The elements that content, a memoryview, consists of: (type, bytes). order: "<" or ">"."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:  # of at most 4 bytes, which lie within the 8 of the head
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + size
        if end > len(content) or (start == at + 4 and size > 4):
            raise ValueError(f"an element promises {size} bytes, the file holds fewer")
        yield kind, content[start:end]
        at = at + 8 if start == at + 4 else end if kind == PACKED else end + -end % 8


def named_array(content, order):
    """The elements of a matrix -> (name, array or None for what is not real numbers).

    The array has its axes reversed, because MATLAB's first axis runs fastest.
    """
    (_, flags), (_, dims), (_, name), *rest = elements(content, order)
    flags = struct.unpack(order + "II", flags)[0]
    if flags & 0xFF not in CLASSES or len(rest) != 1:  # complex numbers have two parts
        return bytes(name), None
    ((stored, raw),) = rest
    if stored not in STORED:
        raise ValueError(f"numbers of the unknown type {stored}")
    shape = np.frombuffer(dims, order + "i4")[::-1]
    if (shape < 0).any():
        raise ValueError(f"an array of {list(shape[::-1])}")
    values = np.frombuffer(raw, order + STORED[stored]).reshape(shape)
    return bytes(name), values.astype(CLASSES[flags & 0xFF], casting="safe", copy=False)
