"""The published digit files -> uint8 images [n,32,32,3] and int32 labels [n]."""

import bz2
import gzip
import math
import re
import struct
import zlib

import numpy as np

from lab.data.find import DIGITS, DIGITS_HELP, find_all
from lab.data.images import SIDE, read_class_folders, to_squares
from lab.data.limits import check_size, most_unpacked, read_up_to
from lab.data.matlab import read_mat
from lab.data.npz import read_npz
from lab.data.standin import stand_in
from lab.shell.errors import InputError


def load_digits(folder):
    """(train, tests, kind, {domain: what}), see `lab.data.load.load`. folder None: `data/`."""
    found = find_all("digits", folder, DIGITS, "digits", DIGITS_HELP)
    if found is None:
        return stand_in()
    train, tests = {}, {}
    train["mnist"], tests["mnist"] = read_all_of_mnist(*found["mnist"])
    for domain, read in {"usps": read_usps, "svhn": read_svhn, "syn": read_syn}.items():
        train[domain], tests[domain] = map(read, found[domain])
    what = {domain: f"{domain} files in {paths[0].parent}" for domain, paths in found.items()}
    return train, tests, "files", what


def check_labels(labels, low, high, path):
    """Labels as int32. Raises InputError naming the first that is no whole number in low..high."""
    bad = np.flatnonzero(~np.isin(labels, np.arange(low, high + 1)))
    if bad.size:
        raise InputError(
            f"{path}: label {labels[bad[0]]} at position {bad[0]}; wanted a whole "
            f"number from {low} to {high}; get a fresh copy of the file"
        )
    return labels.astype(np.int32)


# -- MNIST


def read_all_of_mnist(train_x, train_y, test_x, test_y):
    """Four IDX files, or mnist.npz in the place of some -> (images, labels) to train, to test."""
    packed = [path for path in (train_x, train_y, test_x, test_y) if path.suffix.lower() == ".npz"]
    if packed:
        return read_mnist_npz(packed[0])
    return read_mnist(train_x, train_y), read_mnist(test_x, test_y)


def read_mnist_npz(path):
    """Keras's mnist.npz -> (images, labels) to train, (images, labels) to test."""
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = read_npz(path, names)
    parts = []
    for name, images, labels in zip(names[::2], arrays[::2], arrays[1::2]):
        whole = images.ndim == 3 and labels.shape == images.shape[:1]
        if not whole or images.dtype != np.uint8 or min(images.shape[1:]) < SIDE // 2:
            raise InputError(
                f"{path}: {name} is {images.dtype} {list(images.shape)} with labels "
                f"{list(labels.shape)}; wanted uint8 [n, 28, 28] with n labels"
            )
        parts.append((to_squares(np.ascontiguousarray(images)), check_labels(labels, 0, 9, path)))
    return parts


def read_mnist(images_path, labels_path):
    """Two IDX files -> images, labels."""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise InputError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} "
            "labels; wanted equal numbers"
        )
    return to_squares(images), check_labels(labels, 0, 9, labels_path)


def read_idx(path, dims):
    """An IDX file of uint8 with this many dimensions, plain or .gz."""
    size, packed = check_size(path, "IDX"), path.suffix.lower() == ".gz"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or struct.unpack(">i", head[:4])[0] != 0x800 + dims:
                raise InputError(
                    f"{path}: starts with {head[:4].hex() or 'nothing'}; wanted {0x800 + dims:08x},"
                    f" an IDX file of bytes in {dims} dimensions; get a fresh copy of the file"
                )
            shape = struct.unpack(f">{dims}I", head[4:])
            count = math.prod(shape)
            most = most_unpacked(size) if packed else size  # the header is not trusted with memory
            body = read_up_to(file, count + 1) if count <= most else b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: damaged gzip file ({error}); get a fresh copy of the file"
        ) from error
    if len(body) != count or 0 in shape[1:]:
        raise InputError(
            f"{path}: promises {' x '.join(map(str, shape))} = {count} bytes, the file of {size} "
            f"bytes holds {'more' if len(body) > count else 'fewer'}; get a fresh copy of the file"
        )
    if any(side < SIDE // 2 for side in shape[1:]):
        # Each becomes 3,072 bytes, so that a byte a picture would fill the memory.
        raise InputError(
            f"{path}: pictures of {' x '.join(map(str, shape[1:]))}; "
            f"wanted 28 x 28, or {SIDE // 2} a side at least"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


# -- USPS

# Python's float takes more than this, 1_0 for one.
# Each text fits in one way only, so that a failure takes no longer.
NUMBER = rb"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|\.[0-9]+|inf|nan)"
USPS_LINE = re.compile(rb"\s*" + NUMBER + rb"(?:\s+[0-9.]+:" + NUMBER + rb")*\s*", re.IGNORECASE)
USPS_INDICES = [b"%d" % i for i in range(1, 257)]


def read_usps(path):
    """libsvm text, plain or .bz2: label digit + 1, values -1..1 of a 16x16 image."""
    labels, images, most = [], [], most_unpacked(path.stat().st_size, 1 << 21)
    try:
        with (bz2.open if path.suffix.lower() == ".bz2" else open)(path, "rb") as file:
            read = 0
            # A published line has about 2,200 bytes;
            # the bound keeps a damaged file from being one endless line.
            for number, line in enumerate(iter(lambda: file.readline(1 << 15), b""), 1):
                label, values = usps_line(line, path, number)
                read += len(line)
                if read > most:
                    raise InputError(
                        f"{path}: unpacks to more than {most} bytes, too many for its "
                        "size; get a fresh copy of the file"
                    )
                labels.append(label)
                images.append(np.round((values + 1) / 2 * 255).astype(np.uint8))
    except (EOFError, OSError) as error:
        if getattr(error, "errno", None):  # the disk's or the rights': the file may be whole
            raise
        raise InputError(
            f"{path}: damaged bz2 file ({error}); get a fresh copy of the file"
        ) from error
    images = to_squares(np.array(images, np.uint8).reshape(-1, 16, 16))
    return images, check_labels(np.array(labels), 1, 10, path) - 1


def usps_line(line, path, number):
    """One libsvm line -> (label, 256 values)."""
    if not USPS_LINE.fullmatch(line):
        good = USPS_LINE.match(line)
        raise InputError(
            f"{path}, line {number}: not of the form `label 1:value ... 256:value` "
            f"from {line[good.end() if good else 0 :][:20]!r} on"
        )
    label, *pairs = line.replace(b":", b" ").split()
    if pairs[::2] != USPS_INDICES:
        raise InputError(
            f"{path}, line {number}: {len(pairs) // 2} values; "
            "wanted the indices 1 to 256, each once and in order"
        )
    values = np.array(pairs[1::2], float)
    if not np.all(np.abs(values) <= 1):
        raise InputError(
            f"{path}, line {number}: value {values[~(np.abs(values) <= 1)][0]}; wanted -1 to 1"
        )
    return float(label), values


# -- SVHN, SYN


def read_svhn(path):
    """A MATLAB file: X [32,32,3,n] uint8 and y [n,1] or [1,n]; the digit 0 is 10, or 0 itself."""
    with open(path, "rb") as file:
        head = file.read(520)
    if b"\x89HDF" in head or b"MATLAB 7.3" in head:
        raise InputError(
            f"{path}: a MATLAB 7.3 (HDF5) file; "
            "wanted the published 32x32 file, or save it again with `-v7`"
        )
    try:
        content = read_mat(path)
        images, labels = content[b"X"], content[b"y"]
        shape, kind, sides = images.shape, images.dtype, labels.shape
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, zlib.error) as error:
        raise InputError(
            f"{path}: not a readable MATLAB file with X and y "
            f"({type(error).__name__}: {error}); "
            "get a fresh copy of the file"
        ) from error
    if len(sides) != 2 or 1 not in sides:  # of several rows and columns the order is a guess
        raise InputError(
            f"{path}: y is {list(sides[::-1])}; wanted [n, 1] or [1, n]; "
            "get a fresh copy of the file"
        )
    labels = labels.ravel()
    whole = len(shape) == 4 and shape[1:] == (3, SIDE, SIDE) and shape[0] == len(labels)
    if kind != np.uint8 or not whole:
        raise InputError(
            f"{path}: X is {kind} {list(shape[::-1])} with {len(labels)} labels; "
            "wanted uint8 [32, 32, 3, n] with n labels"
        )
    if np.isin([0, 10], labels).all():
        raise InputError(
            f"{path}: y has both 0 and 10; wanted one of them for the digit 0; "
            "get a fresh copy of the file"
        )
    images = np.ascontiguousarray(images.transpose(0, 3, 2, 1))
    return images, check_labels(labels, 0, 10, path) % 10


def read_syn(folder):
    """Folders 0 to 9 of pictures -> images, labels."""
    return read_class_folders(folder, tuple("0123456789"))
