"""Files that are there whole or not at all, and folders that one process has for itself."""

import contextlib
import errno
import fcntl
import os
import re
import stat

import safetensors

from lab.shell.errors import InputError


def write_whole(path, write):
    """write(temporary name), to the disk, then the rename that makes it path: old or new, whole."""
    part = f"{path}.part"
    try:
        write(part)
    except safetensors.SafetensorError as error:  # its OSErrors have their number in the text alone
        number = re.search(r"os error (\d+)", str(error))
        number = int(number[1]) if number else errno.EIO
        raise OSError(number, f"{part} cannot be written ({error})") from error
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


# What file systems without locks answer; EBADF: NFS, which locks only what is open for writing.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@contextlib.contextmanager
def locked(folder, wait):
    """Whether this process alone holds the folder, made if need be, until the end of the `with`."""
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made or opened ({error.strerror}); look at the rights of "
            f"{os.path.dirname(folder) or '.'} in {os.getcwd()} and at what is there"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        mine = True
    except BlockingIOError:
        mine = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        mine = True
    try:
        yield mine
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone_in(folder):
    """Two runs never write into one folder. Raises InputError."""
    with locked(folder, wait=False) as mine:
        if not mine:
            raise InputError(
                f"another run is at work in {folder}; wait for its end or give another --name"
            )
        yield


def is_there(path):
    """Whether something has this name, be it a link to nowhere.

    A disk that fails is no reason to say no, as os.path.exists does. Raises InputError.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def read_file(path):
    """All bytes of a file. Raises InputError, which tells nobody to give up what may be whole."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for its writer for ever
            raise InputError(f"{path} is no file; nothing was changed: move it away")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path, error):
    """The InputError for what cannot be read, and is perhaps whole."""
    return InputError(
        f"{path} cannot be read ({error.strerror or error}); nothing was changed: keep it, look at "
        "its rights and its disk, then give the same command again"
    )
