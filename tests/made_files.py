"""Small copies of the published files, ten images to a domain, for tests that read or spoil."""

import bz2
import gzip
import struct

import numpy as np
from PIL import Image
from scipy.io import savemat

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10, 28, 28)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
DIGITS = np.arange(10)
OBJECTS = (
    "backpack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop",
    "monitor",
    "mouse",
    "mug",
    "projector",
)


def idx(array, magic=None, shape=None):
    """The bytes of an IDX file; magic and shape may lie."""
    shape = shape or array.shape
    head = struct.pack(f">i{len(shape)}I", magic or 0x800 + len(shape), *shape)
    return head + array.astype(np.uint8).tobytes()


def usps(labels, values=None, count=256):
    """The bytes of a libsvm file, of black images without values."""
    values = np.full((len(labels), count), -1.0) if values is None else values
    rows = [" ".join(f"{i}:{value:g}" for i, value in enumerate(row, 1)) for row in values]
    return "".join(f"{label} {row}\n" for label, row in zip(labels, rows)).encode()


def write(path, content):
    """Bytes to a file, its folder made if need be -> its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_mat(path, labels, images=COLOUR):
    """A MATLAB file as SVHN's -> its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels).reshape(-1, 1)})
    return path


def write_png(path, array=COLOUR[0]):
    """A picture in the format that the path's ending says -> its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_digits(
    root,
    mnist="MNIST/raw",
    usps_place="USPS",
    svhn="SVHN",
    syn="syn",
    splits=("train", "val"),
    pack=False,
):
    """A copy of all four domains, one image for each digit and half -> root."""
    (zipped, gz), (bzipped, bz) = (
        ((gzip.compress, ".gz"), (bz2.compress, ".bz2")) if pack else ((bytes, ""), (bytes, ""))
    )
    for part in ("train", "t10k"):
        write(root / mnist / f"{part}-images-idx3-ubyte{gz}", zipped(idx(GREY)))
        write(root / mnist / f"{part}-labels-idx1-ubyte{gz}", zipped(idx(DIGITS)))
    for name in ("usps", "usps.t"):
        write(root / usps_place / f"{name}{bz}", bzipped(usps(DIGITS + 1)))
    for part in ("train", "test"):
        write_mat(root / svhn / f"{part}_32x32.mat", [10, *range(1, 10)])
    for part in splits:
        for digit in DIGITS:
            write_png(root / syn / part / str(digit) / "a.png", COLOUR[digit])
    return root


def write_office(root, count=3, caltech="caltech10", bag="backpack", notebook="laptop"):
    """count differently grey images for each class and domain -> root."""
    names = {"backpack": bag, "laptop": notebook}
    for domain in (caltech, "amazon", "webcam", "dslr"):
        for label, name in enumerate(OBJECTS):
            for i in range(count):
                shade = np.full((20, 30, 3), (label * count + i) * 7 % 256, np.uint8)
                write_png(root / domain / names.get(name, name) / f"{i:03}.jpg", shade)
    return root
