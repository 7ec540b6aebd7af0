"""NumPy's npz files, packed or not.

In place of np.load, which allocates what an array's header promises.
"""

import io
import zipfile

import numpy as np

from lab.data.limits import check_size, most_unpacked, read_up_to
from lab.shell.errors import InputError


def read_npz(path, names, optional=()):
    """The arrays of these names, then the optional ones or None; never unpickles.

    Raises InputError, and OSError.
    """
    most = most_unpacked(check_size(path, "npz"))
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = {*names, *(name for name in optional if f"{name}.npy" in archive.namelist())}
            return [
                read_npy(archive, name, most) if name in there else None
                for name in (*names, *optional)
            ]
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputError(
            f"{path}: not an npz file with {', '.join(names)} ({type(error).__name__}: {error}); "
            "get a fresh copy of the file"
        ) from error


def read_npy(archive, name, most):
    """One array of an open archive, of at most so many bytes. Raises ValueError and such."""
    with archive.open(f"{name}.npy") as file:
        content = io.BytesIO(read_up_to(file, most))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{name} is of another version")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(content)
    return np.frombuffer(content.read(), kind).reshape(shape, order="F" if by_columns else "C")
