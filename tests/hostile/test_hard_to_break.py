"""What a user's machine, folders and files can be like, as tables: what there is -> what must come.

Either the right result or one line and exit status 2; nothing that was on the disk is lost. A row
is (what there is, how to make it, what must come); a new one goes at the end of its table. More bad
files stand in lab/test_data.py, bad flags in lab/test_cli.py.
"""

import ast
import bz2
import contextlib
import gzip
import io
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import made_runs
import numpy as np
import pytest
from made_files import COLOUR, DIGITS, GREY, idx, usps, write, write_digits, write_office, write_png
from PIL import Image
from scipy.io import savemat

import fpl
from lab.data import digits
from lab.data.load import load, repeated
from lab.data.tasks import TASKS
from lab.report import report
from lab.run import repeat, train
from lab.run.screen import describe

ROOT = Path(__file__).resolve().parent.parent.parent
command = made_runs.command  # a fixture
DOOR = [sys.executable, "-I", str(ROOT / "lab" / "__main__.py")]
IMAGES, LABELS = "MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"
MAT, CLASS = "SVHN/train_32x32.mat", "syn/train/3"


def saved(image, kind="PNG", **options):
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def instead(name, content, packed=""):
    """Put content in the place of a file, as NAME or as NAME.gz or NAME.bz2."""

    def spoil(root):
        (root / name).unlink()
        write(root / f"{name}{packed}", content)

    return spoil


def one_picture(content, name="a.png"):
    """One picture of class 3, and no other."""

    def spoil(root):
        (root / CLASS / "a.png").unlink()
        write(root / CLASS / name, content)

    return spoil


def beside(name, make):
    """make(path) something in the folder of class 3, where there is one picture already."""
    return lambda root: make(root / CLASS / name)


def mat(**variables):
    """The file of SVHN's training images with these variables in place of the right ones."""
    options = {
        name: variables.pop(name) for name in ("format", "do_compression") if name in variables
    }

    def spoil(root):
        right = {
            "X": COLOUR.transpose(1, 2, 3, 0),
            "y": np.array([[10], *([digit] for digit in range(1, 10))]),
        }
        content = {
            name: value for name, value in {**right, **variables}.items() if value is not None
        }
        savemat(root / MAT, content, **options)

    return spoil


def patched(name, at, content):
    """Bytes of a file overwritten."""

    def spoil(root):
        old = (root / name).read_bytes()
        (root / name).write_bytes(old[:at] + content + old[at + len(content) :])

    return spoil


def digits_as(domain, images=None, labels=range(10)):
    """The domain's training set has these images and labels, whatever the files look like."""

    def holds(train):
        return np.array_equal(train[domain][1], labels) and (
            images is None or np.array_equal(train[domain][0], images)
        )

    return holds


def class_3(wanted, count=1):
    """Class 3 of syn has so many images, the last of them this one."""

    def holds(train):
        chosen = train["syn"][0][train["syn"][1] == 3]
        return len(chosen) == count and np.array_equal(chosen[-1], wanted)

    return holds


def png_of(width, height, rows):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def rotated():
    """A picture whose EXIF data ask for a turn by 90 degrees."""
    exif = Image.Exif()
    exif[0x112] = 6
    return saved(Image.fromarray(COLOUR[1]), exif=exif)


ANIMATED = {"save_all": True, "append_images": [Image.fromarray(COLOUR[2])], "duration": 50}
LINE = usps([1])
GREEN = np.full((32, 32, 3), (0, 128, 0), np.uint8)
POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(ran) (w) file closefile\nshowpage\n"
)
BIG = np.zeros((40_000, 28, 28), np.uint8)  # 31 MB, which gzip packs into 30 kB

# what there is, how it is made of a good copy,
# the words that must come or what the training sets must be
DIGIT_FILES = [
    # -- IDX
    (
        "a product of sizes beyond 64 bits",
        lambda root: write(root / IMAGES, idx(GREY, shape=(2**32 - 1,) * 3)),
        "fewer",
    ),
    (
        "a gzip file that unpacks to far more than its size",
        lambda root: instead(IMAGES, gzip.compress(idx(BIG)), ".gz")(root),
        "fewer",
    ),
    ("a plain file called .gz", instead(IMAGES, idx(GREY), ".gz"), "damaged gzip file"),
    ("a packed file not called .gz", instead(IMAGES, gzip.compress(idx(GREY))), "starts with 1f8b"),
    ("a gzip file with a tail", instead(IMAGES, gzip.compress(idx(GREY)) + b"tail", ".gz"), "gzip"),
    (
        "a gzip file of an empty file",
        instead(IMAGES, gzip.compress(b""), ".gz"),
        "starts with nothing",
    ),
    (
        "numbers in the other order of bytes",
        lambda root: write(root / IMAGES, struct.pack("<iIII", 0x803, 10, 28, 28) + GREY.tobytes()),
        "starts with 03080000; wanted 00000803",
    ),
    (
        "images of one pixel",
        lambda root: write(root / IMAGES, idx(GREY[:, :1, :1])),
        "pictures of 1 x 1; wanted 28 x 28",
    ),
    (
        "images of 32 x 32",
        lambda root: write(root / IMAGES, idx(COLOUR[..., 0])),
        digits_as("mnist", np.repeat(COLOUR[..., :1], 3, -1)),
    ),
    (
        "images without a width",
        lambda root: write(root / IMAGES, idx(GREY[:, :, :0])),
        "10 x 28 x 0",
    ),
    (
        "images and labels exchanged",
        lambda root: (
            (root / IMAGES).rename(root / "old"),
            (root / LABELS).rename(root / IMAGES),
            (root / "old").rename(root / LABELS),
        ),
        "starts with 00000801; wanted 00000803",
    ),
    (
        "a folder called like the images",
        lambda root: ((root / IMAGES).unlink(), (root / IMAGES).mkdir()),
        "looked for train-images",
    ),
    (
        "a pipe called like the images",
        lambda root: ((root / IMAGES).unlink(), os.mkfifo(root / IMAGES)),
        "looked for train-images",
    ),
    (
        "a link to nowhere",
        lambda root: ((root / IMAGES).unlink(), (root / IMAGES).symlink_to("nowhere")),
        "looked for train-images",
    ),
    (
        "a link to itself",
        lambda root: ((root / IMAGES).unlink(), (root / IMAGES).symlink_to(root / IMAGES)),
        "looked for train-images",
    ),
    (
        "a link to the file",
        lambda root: (
            (root / IMAGES).rename(root / "elsewhere"),
            (root / IMAGES).symlink_to(root / "elsewhere"),
        ),
        digits_as("mnist"),
    ),
    (
        "upper-case names",
        lambda root: (root / IMAGES).rename(root / IMAGES.replace("train-images", "TRAIN-IMAGES")),
        digits_as("mnist"),
    ),
    (
        "an ending in capitals",
        lambda root: (
            (root / IMAGES).unlink(),
            write(root / "MNIST/raw/TRAIN-IMAGES-IDX3-UBYTE.GZ", gzip.compress(idx(GREY))),
        ),
        digits_as("mnist"),
    ),
    (
        "a sparse file of 2 GB",
        lambda root: os.truncate(root / IMAGES, 1 << 31),
        "2147483648 bytes; wanted at most 536870912",
    ),
    # -- USPS
    (
        "an infinite value",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 7:-1", b" 7:-inf")),
        "line 1: value -inf",
    ),
    (
        "a huge value",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 7:-1", b" 7:1e999")),
        "line 1: value inf",
    ),
    (
        "an index beyond 256",
        lambda root: write(root / "USPS/usps", LINE.replace(b"256:", b"257:")),
        "the indices 1 to 256",
    ),
    (
        "an index that is no whole number",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 7:", b" 7.5:")),
        "the indices 1 to 256",
    ),
    (
        "indices in another order",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 1:-1 2:", b" 2:-1 1:")),
        "in order",
    ),
    (
        "a value without an index",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 7:", b" ")),
        "line 1: not of the form",
    ),
    (
        "a label that is no number",
        lambda root: write(root / "USPS/usps", LINE.replace(b"1 ", b"nan ", 1)),
        "label nan at position 0",
    ),
    (
        "a label between two",
        lambda root: write(root / "USPS/usps", LINE.replace(b"1 ", b"1.5 ", 1)),
        "label 1.5 at position 0",
    ),
    (
        "an empty line",
        lambda root: write(root / "USPS/usps", LINE + b"\n" + LINE),
        "line 2: not of the form",
    ),
    ("an empty file", lambda root: write(root / "USPS/usps", b""), "0 training and 10 test images"),
    (
        "a single endless line",
        lambda root: write(root / "USPS/usps", b"1 1:" + b"x" * 3_000_000),
        "line 1: not of the form",
    ),
    (
        "text of two bytes a letter",
        lambda root: write(root / "USPS/usps", LINE.decode().encode("utf-16")),
        "line 1: not of the form",
    ),
    (
        "nothing but zero bytes",
        lambda root: write(root / "USPS/usps", bytes(1 << 20)),
        "line 1: not of the form",
    ),
    (
        "lines that end as on Windows",
        lambda root: write(root / "USPS/usps", usps(DIGITS + 1).replace(b"\n", b"\r\n")),
        digits_as("usps"),
    ),
    (
        "tabs and blanks",
        lambda root: write(root / "USPS/usps", usps(DIGITS + 1).replace(b" ", b" \t ")),
        digits_as("usps"),
    ),
    (
        "no newline at the end",
        lambda root: write(root / "USPS/usps", usps(DIGITS + 1)[:-1]),
        digits_as("usps"),
    ),
    (
        "bz2 that unpacks to far more than its size",
        instead("USPS/usps", bz2.compress(LINE * 2000), ".bz2"),
        "too many for its size",
    ),
    ("a plain file called .bz2", instead("USPS/usps", LINE, ".bz2"), "usps.bz2: damaged"),
    (
        "an ending of USPS in capitals",
        instead("USPS/usps", bz2.compress(usps(DIGITS + 1)), ".BZ2"),
        digits_as("usps"),
    ),
    (
        "an underscore in a label",
        lambda root: write(root / "USPS/usps", LINE.replace(b"1 ", b"1_0 ", 1)),
        "line 1: not of the form",
    ),
    (
        "an underscore in a value",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 7:-1", b" 7:-0_1")),
        "line 1: not of the form `label 1:value ... 256:value` from b'_1 8:-1",
    ),
    (
        "an underscore in an index",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 12:", b" 1_2:")),
        "line 1: not of the form",
    ),
    (
        "blanks in place of all colons",
        lambda root: write(root / "USPS/usps", LINE.replace(b":", b" ")),
        "line 1: not of the form",
    ),
    (
        "a colon too many",
        lambda root: write(root / "USPS/usps", LINE.replace(b" 7:", b" 7::")),
        "line 1: not of the form",
    ),
    (
        "values in other writings",
        lambda root: write(
            root / "USPS/usps",
            usps(DIGITS + 1)
            .replace(b" 7:-1", b" 7:-1.0e+00")
            .replace(b" 8:-1", b" 8:-10E-1")
            .replace(b" 9:-1", b" 9:-1.")
            .replace(b"1 1:", b"+1. 1:"),
        ),
        digits_as("usps"),
    ),
    # -- MATLAB
    ("variables of other names", mat(X=None, x=COLOUR), "X and y (KeyError"),
    (
        "images as floating-point numbers",
        mat(X=COLOUR.transpose(1, 2, 3, 0) / 255),
        "X is float64 [32, 32, 3, 10]",
    ),
    ("images of signed bytes", mat(X=COLOUR.transpose(1, 2, 3, 0).astype(np.int8)), "X is int8"),
    ("images with three axes", mat(X=COLOUR[..., 0].transpose(1, 2, 0)), "X is uint8 [32, 32, 10]"),
    ("images by number first", mat(X=COLOUR), "X is uint8 [10, 32, 32, 3]"),
    ("complex images", mat(X=COLOUR.transpose(1, 2, 3, 0) + 1j), "not a readable MATLAB file"),
    ("more labels than images", mat(y=np.ones((11, 1))), "with 11 labels"),
    ("labels that are no numbers", mat(y=np.full((10, 1), np.nan)), "label nan at position 0"),
    ("a label between two digits", mat(y=np.full((10, 1), 1.5)), "label 1.5 at position 0"),
    ("a negative label", mat(y=np.full((10, 1), -1)), "label -1 at position 0"),
    ("labels as text", mat(y="0123456789"), "not a readable MATLAB file"),
    (
        "labels in cells",
        mat(y=np.array([[i] for i in range(10)], object)),
        "not a readable MATLAB file",
    ),
    (
        "no image at all",
        mat(X=np.zeros((32, 32, 3, 0), np.uint8), y=np.zeros((0, 1))),
        "0 training and 10 test images",
    ),
    ("a file of version 4", mat(X=COLOUR[0, :, :, 0], format="4"), "no MATLAB 5 header"),
    ("labels in a row", mat(y=np.arange(10.0)[None]), digits_as("svhn", COLOUR)),
    (
        "labels of two bytes",
        mat(y=np.arange(10, dtype=np.uint16)[:, None]),
        digits_as("svhn", COLOUR),
    ),
    (
        "packed variables and others beside them",
        mat(do_compression=True, note="text", z=np.eye(3)),
        digits_as("svhn", COLOUR),
    ),
    (
        "only zeros that are written as 10",
        mat(y=np.full((10, 1), 10)),
        digits_as("svhn", COLOUR, [0] * 10),
    ),
    (
        "a type of numbers that there is not",
        patched(MAT, 184, struct.pack("<I", 163)),
        "unknown type 163",
    ),  # crashes SciPy 1.17.1
    (
        "signed numbers in an array of bytes",
        patched(MAT, 184, struct.pack("<I", 1)),
        "not a readable MATLAB file with X and y (TypeError",
    ),
    (
        "an element that promises 4 GB",
        patched(MAT, 188, b"\xff\xff\xff\xff"),
        "promises 4294967295 bytes",
    ),
    ("a negative size", patched(MAT, 160, struct.pack("<i", -32)), "an array of [-32, 32, 3, 10]"),
    (
        "sizes beyond the data",
        patched(MAT, 172, struct.pack("<i", 2**31 - 1)),
        "not a readable MATLAB file",
    ),
    (
        "packed data without an end",
        lambda root: (mat(do_compression=True)(root), os.truncate(root / MAT, 9000)),
        "promises",
    ),
    (
        "packed data that unpack to far more than their size",
        lambda root: write(
            root / MAT,
            (root / MAT).read_bytes()[:128]
            + (lambda packed: struct.pack("<II", 15, len(packed)) + packed)(
                zlib.compress(bytes(20_000_000))
            ),
        ),
        "cut off or too many",
    ),
    (
        "labels in two rows",
        mat(y=np.arange(10).reshape(2, 5)),
        "y is [2, 5]; wanted [n, 1] or [1, n]",
    ),
    (
        "labels in two columns",
        mat(y=np.arange(10).reshape(5, 2)),
        "y is [5, 2]; wanted [n, 1] or [1, n]",
    ),
    (
        "zeros written as 0 and as 10",
        mat(y=np.array([[10], [0], *([digit] for digit in range(2, 10))])),
        "y has both 0 and 10",
    ),
    (
        "a sparse file of more than 2 GB",
        lambda root: os.truncate(root / MAT, (1 << 31) + 1),
        "2147483649 bytes; wanted at most 2147483648",
    ),
    # -- pictures
    (
        "400 million pixels in 50 kB",
        one_picture(png_of(20_000, 20_000, bytes(2501 * 20_000))),
        "not a readable image",
    ),
    (
        "100 million pixels in 13 kB",
        one_picture(png_of(10_000, 10_000, bytes(1251 * 10_000))),
        "10000 x 10000 pixels in",
    ),
    (
        "a strip of a million pixels",
        one_picture(png_of(1_000_000, 1, bytes(125_001))),
        "1000000 x 1 pixels in",
    ),
    ("an empty picture file", one_picture(b""), "3/a.png: not a readable image (none of PNG"),
    (
        "a page in place of a picture",
        one_picture(b"<html>not found</html>"),
        "3/a.png: not a readable image",
    ),
    (
        "PostScript called .png",
        one_picture(POSTSCRIPT),
        "3/a.png: not a readable image (none of PNG",
    ),
    (
        "floating-point pixels",
        one_picture(saved(Image.fromarray(np.eye(32, dtype=np.float32)), "TIFF"), "a.tif"),
        "floating-point",
    ),
    (
        "a PNG that moves",
        one_picture(saved(Image.fromarray(COLOUR[1]), **ANIMATED)),
        class_3(COLOUR[1]),
    ),
    (
        "a GIF that moves",
        one_picture(saved(Image.fromarray(GREEN), "GIF", **ANIMATED), "a.gif"),
        class_3(GREEN),
    ),
    (
        "a TIFF of two pages",
        one_picture(
            saved(
                Image.fromarray(COLOUR[1]),
                "TIFF",
                save_all=True,
                append_images=[Image.new("L", (9, 9))],
            ),
            "a.tiff",
        ),
        class_3(COLOUR[1]),
    ),
    ("EXIF data that ask for a turn", one_picture(rotated()), class_3(COLOUR[1])),
    (
        "two shades",
        one_picture(saved(Image.fromarray(COLOUR[1]).convert("1"))),
        class_3(np.asarray(Image.fromarray(COLOUR[1]).convert("1").convert("RGB"))),
    ),
    (
        "grey with transparency",
        one_picture(saved(Image.fromarray(COLOUR[1]).convert("LA"))),
        class_3(np.asarray(Image.fromarray(COLOUR[1]).convert("L").convert("RGB"))),
    ),
    (
        "a palette with a transparent colour",
        one_picture(saved(Image.fromarray(GREEN).quantize(4), transparency=bytes([128]))),
        class_3(GREEN),
    ),
    (
        "grey of twelve bits",
        one_picture(b"P5 32 32 4095\n" + np.full(1024, 4095, ">u2").tobytes(), "a.pgm"),
        class_3(np.full((32, 32, 3), 255)),
    ),
    (
        "four printing colours",
        one_picture(saved(Image.fromarray(GREEN).convert("CMYK"), "JPEG"), "a.jpg"),
        lambda train: abs(train["syn"][0][3].astype(int) - GREEN).max() <= 3,
    ),  # JPEG's own loss
    ("a single pixel", one_picture(saved(Image.new("RGB", (1, 1), (0, 128, 0)))), class_3(GREEN)),
    (
        "a picture of one row",
        one_picture(saved(Image.new("RGB", (5000, 1), (0, 128, 0)))),
        class_3(GREEN),
    ),
    (
        "a JPEG called .png in capitals",
        one_picture(saved(Image.fromarray(GREEN), "JPEG", quality=100), "A.PNG"),
        lambda train: abs(train["syn"][0][3].astype(int) - GREEN).max() <= 2,
    ),
    (
        "a sparse picture of 2 GB",
        lambda root: os.truncate(root / CLASS / "a.png", 1 << 31),
        "3/a.png: not a readable image (2147483648 bytes, wanted at most 67108864)",
    ),
    (
        "a picture with a tail",
        one_picture(saved(Image.fromarray(COLOUR[1])) + b"tail"),
        class_3(COLOUR[1]),
    ),
    # -- folders
    ("a folder called like a picture", beside("x.png", Path.mkdir), class_3(COLOUR[3])),
    ("a pipe called like a picture", beside("x.png", os.mkfifo), class_3(COLOUR[3])),
    (
        "a picture that is a link to nowhere",
        beside("x.png", lambda path: path.symlink_to("nowhere")),
        "3/x.png: No such file",
    ),
    (
        "a picture that is a link to itself",
        beside("x.png", lambda path: path.symlink_to(path)),
        "3/x.png: Too many levels",
    ),
    (
        "a picture that is a link to one",
        beside("x.png", lambda path: path.symlink_to("a.png")),
        class_3(COLOUR[3], 2),
    ),
    (
        "a class that links to its parent",
        beside("x", lambda path: path.symlink_to("..")),
        class_3(COLOUR[3]),
    ),
    (
        "unicode, blanks and a line break in a name",
        beside("zwei Wörter\n数据 .png", lambda path: write_png(path, COLOUR[5])),
        class_3(COLOUR[5], 2),
    ),
    (
        "a name that is no UTF-8",
        beside(
            os.fsdecode(b"\xff.png"),
            lambda path: path.write_bytes(saved(Image.fromarray(COLOUR[5]))),
        ),
        class_3(COLOUR[5], 2),
    ),
    (
        "what systems leave",
        lambda root: [
            write(root / CLASS / name, b"x")
            for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png")
        ],
        class_3(COLOUR[3]),
    ),
    (
        "a class folder too many",
        lambda root: (root / "syn/train/10").mkdir(),
        "class folder '10' is not expected",
    ),
    (
        "a class folder with a blank",
        lambda root: (root / "syn/train/3").rename(root / "syn/train/3 "),
        "class folder '3 ' is not expected",
    ),
    (
        "a file in place of a class folder",
        lambda root: (shutil.rmtree(root / CLASS), write(root / CLASS, b"")),
        "no images for class 3",
    ),
    (
        "class folders one level too deep",
        lambda root: (root / CLASS / "a.png").rename(
            (root / CLASS / "b").mkdir() or root / CLASS / "b/a.png"
        ),
        "no images for class 3",
    ),
    (
        "two folders of pictures, one within the other",
        lambda root: (
            (root / "syn").rename(root / "x")
            and (root / "x").rename(
                ((root / "synthetic-digits").mkdir(), root / "synthetic-digits/synthetic_digits")[1]
            )
        ),
        class_3(COLOUR[3]),
    ),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("good"))


def one_line(capsys, *words):
    """What was said on the screen is one line with these words."""
    err = capsys.readouterr().err
    assert (
        err.startswith("fpl: ") and err.count("\n") == 1 and err.endswith("\n") and len(err) < 1500
    ), err
    for word in words:
        assert word in err


def loaded(arguments, monkeypatch):
    """A run up to the end of reading -> (exit status, what load gave or None)."""
    seen = []

    def load_and_stop(task, folder):
        seen.append(load(task, folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load", load_and_stop)
    return train.main(arguments), seen[0] if seen else None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "spoil, wanted", [row[1:] for row in DIGIT_FILES], ids=[row[0] for row in DIGIT_FILES]
)
def test_files_give_the_right_images_or_one_line(
    spoil, wanted, good, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(good, tmp_path / "a b")
    monkeypatch.chdir(tmp_path)
    spoil(folder)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    status, result = loaded(["digits", "--data", "a b"], monkeypatch)
    if isinstance(wanted, str):
        assert status == 2 and result is None
        one_line(capsys, wanted)
    else:
        assert result is not None, capsys.readouterr().err
        assert wanted(result[0]) and capsys.readouterr().err == "\nStopped.\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


OFFICE_FOLDERS = [
    (
        "class names in capitals",
        lambda root: [
            (root / "amazon" / name).rename(root / "amazon" / name.upper())
            for name in os.listdir(root / "amazon")
        ],
        "",
    ),
    ("a class folder named twice", lambda root: (root / "amazon/back_pack").mkdir(), ""),
    (
        "a class folder that is empty",
        lambda root: [path.unlink() for path in (root / "amazon/mug").iterdir()],
        "no images for class mug",
    ),
    (
        "a class folder misspelled",
        lambda root: (root / "amazon/mug").rename(root / "amazon/mugs"),
        "'mugs' is not expected",
    ),
    ("domains in capitals", lambda root: (root / "amazon").rename(root / "Amazon"), ""),
    (
        "what a zip file of macOS brings",
        lambda root: write(root / "__MACOSX/amazon/._a.jpg", b"x"),
        "",
    ),
    (
        "a domain that is a file",
        lambda root: ((root / "dslr").rename(root / "old"), write(root / "dslr", b"")),
        "dslr: looked for dslr",
    ),
]


@pytest.mark.parametrize(
    "spoil, words", [row[1:] for row in OFFICE_FOLDERS], ids=[row[0] for row in OFFICE_FOLDERS]
)
def test_photo_folders_give_all_images_or_one_line(spoil, words, tmp_path, monkeypatch, capsys):
    spoil(write_office(tmp_path, count=1))
    status, result = loaded(["office", "--data", str(tmp_path)], monkeypatch)
    if words:
        assert status == 2 and result is None
        one_line(capsys, words)
    else:
        assert all(
            len(part[domain][1]) == n
            for part, n in zip(result, (8, 2))
            for domain in ("caltech", "amazon", "webcam", "dslr")
        )


# ---------------------------------------------------------------- folders and rights


@contextlib.contextmanager
def nobody():
    """A user who may read and write what everybody may, and no more.

    Root may do anything, so it steps down meanwhile.
    """
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that everybody may reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


RIGHTS = [  # what may not be read, the words that must come
    (IMAGES, "train-images-idx3-ubyte: Permission denied"),
    ("USPS/usps", "Permission denied"),
    (MAT, "train_32x32.mat: Permission denied"),
    ("syn/train/3/a.png", "3/a.png: Permission denied"),
    (CLASS, "Permission denied"),
    ("syn/train", "Permission denied"),
    ("MNIST", "Permission denied"),
    (".", "Permission denied"),
]


@pytest.mark.parametrize("name, words", RIGHTS, ids=[row[0] for row in RIGHTS])
def test_what_may_not_be_read_is_one_line(name, words, good, open_folder, monkeypatch, capsys):
    """The line names it."""
    folder = shutil.copytree(good, open_folder / "data")
    os.chmod(folder, 0o755)
    os.chmod(folder / name, 0)
    monkeypatch.chdir(open_folder)
    with nobody():
        status, _ = loaded(["digits", "--data", str(folder)], monkeypatch)
    os.chmod(folder / name, 0o700)
    assert status == 2
    one_line(capsys, words)


PLACES = [  # where the data are said to be, what is there before, the words that must come
    ("an empty --data", ["--data", ""], lambda root: None, "--data is empty"),
    (
        "a file",
        ["--data", "file"],
        lambda root: write(root / "file", b""),
        "--data file is not a folder",
    ),
    (
        "a home folder that no shell has put in",
        ["--data", "~/data"],
        lambda root: None,
        "--data ~/data is not a folder",
    ),
    ("a name too long", ["--data", "x" * 300], lambda root: None, "File name too long"),
    ("a line break", ["--data", "a\nb"], lambda root: None, "--data a b is not a folder"),
    ("a path that is no UTF-8", ["--data", "\udcff"], lambda root: None, "is not a folder"),
    (
        "a link to itself",
        ["--data", "loop"],
        lambda root: (root / "loop").symlink_to("loop"),
        "--data loop is not a folder",
    ),
    ("data, which is a file", [], lambda root: write(root / "data", b""), "data is not a folder"),
    (
        "data, which is a link to nowhere",
        [],
        lambda root: (root / "data").symlink_to("nowhere"),
        "data is not a folder",
    ),
    (
        "runs, which is a link to nowhere",
        ["--data", "good"],
        lambda root: (root / "runs").symlink_to("nowhere"),
        "runs/digits-1 cannot be made",
    ),
    (
        "runs, which is a file",
        ["--data", "good"],
        lambda root: write(root / "runs", b"mine"),
        "runs/digits-1 cannot be made",
    ),
    ("a name with a folder", ["--name", "a/b"], lambda root: None, "--name is 'a/b'"),
    ("a name that leads up", ["--name", ".."], lambda root: None, "--name is '..'"),
    ("a name of nothing", ["--name", ""], lambda root: None, "--name is ''"),
    ("a name with a line break", ["--name", "a\nb"], lambda root: None, "--name is 'a\\nb'"),
    ("a name that is no UTF-8", ["--name", "\udcff"], lambda root: None, "--name is '\\udcff'"),
    (
        "a name of 300 letters",
        ["--name", "x" * 300],
        lambda root: None,
        "--name has 300 bytes; it must be the name of one folder: give at most 240",
    ),
    (
        "a name of 100 letters of three bytes",
        ["--name", "数" * 100],
        lambda root: None,
        "--name has 300 bytes",
    ),
]


def tree(root):
    """Everything below root, with the content of the files."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize(
    "arguments, make, words", [row[1:] for row in PLACES], ids=[row[0] for row in PLACES]
)
def test_places_that_cannot_be_used_are_one_line(
    arguments, make, words, good, tmp_path, monkeypatch, capsys
):
    """The line names the place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").symlink_to(good)
    make(tmp_path)
    before = tree(tmp_path)
    # 6 images for the one client
    assert train.main(["digits", "--clients", "1,0,0,0", "--fraction", "0.0001", *arguments]) == 2
    one_line(capsys, words)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["zwei Wörter 数据", "a'b\"c $HOME;*", "-x", "x" * 240])
def test_names_that_can_be_folders_are(name, command, tmp_path, capsys):
    assert command(f"--name={name}") == 0
    assert (
        command(f"--name={name}") == 2 and "exists; nothing was changed" in capsys.readouterr().err
    )
    assert command(f"--name={name}", "--resume") == 0
    assert os.listdir(tmp_path / "runs") == [name]


def test_a_folder_numbered_with_zeros_is_found_again(command, tmp_path):
    assert command("--name", "digits-007") == 0
    assert command("--resume") == 0 and os.listdir(tmp_path / "runs") == ["digits-007"]


def test_a_run_lacking_a_file_is_not_repeated(command, capsys):
    """A run without one of its files is not repeated in vain."""
    assert command("--name", "n") == 0
    os.remove("runs/n/prototypes.npz")
    capsys.readouterr()
    assert repeat.main(["runs/n"]) == 2
    one_line(capsys, "runs/n lacks prototypes.npz")


IN_THE_WAY = [
    "config.json.part",
    "rounds.csv",
    "clusters.csv",
    "model.safetensors",
    "model.safetensors.part",
    "prototypes.npz.part",
    "prototypes-1.npz",
    "state.safetensors.part",
    "accuracy.png.part",
]


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_folders_in_files_places_are_one_line(name, command, tmp_path, capsys):
    """The run goes on without that file."""
    assert command("--name", "whole") == 0
    os.makedirs(f"runs/n/{name}")
    if name != "config.json.part":
        shutil.copy("runs/whole/config.json", "runs/n")
    capsys.readouterr()
    assert command("--name", "n", "--resume") == 2
    step = "move it away" if name.endswith(".csv") else "look at what is there, move it away"
    one_line(capsys, f"runs/n/{name}", step)
    os.rmdir(f"runs/n/{name}")
    assert command("--name", "n", "--resume") == 0 and tree(tmp_path / "runs/n") == tree(
        tmp_path / "runs/whole"
    )


@pytest.mark.parametrize("number", ["digits-1", "digits-2"])
def test_a_link_to_nowhere_takes_no_run(number, command):
    """Its number is left out."""
    os.makedirs("runs")
    os.symlink("nowhere", f"runs/{number}")
    assert command() == 0 and command() == 0
    assert sorted(os.listdir("runs")) == ["digits-1", "digits-2", "digits-3"] and os.path.islink(
        f"runs/{number}"
    )


# ---------------------------------------------------------------- a disk that takes no more


@contextlib.contextmanager
def small_disk(folder, size):
    """folder is a file system of its own of so many bytes."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be made here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def no_mount():
    if os.geteuid():
        pytest.skip("only root makes file systems")


@pytest.mark.parametrize("share", [0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])  # of what a run takes
def test_a_full_disk_is_one_line(share, no_mount, command, tmp_path, capsys):
    """The run goes on when there is room."""
    os.mkdir("runs")
    assert command("--name", "whole") == 0
    want = tree(tmp_path / "runs/whole")
    pages = int(share * sum(-(-len(content) // 4096) for content in want.values()))
    shutil.rmtree("runs/whole")
    capsys.readouterr()
    with small_disk(tmp_path / "runs", 1 << 22):
        room = os.statvfs("runs").f_bavail * os.statvfs("runs").f_bsize
        Path("runs/full").write_bytes(bytes(room - pages * 4096))
        assert command("--name", "n") == 2
        one_line(capsys, "No space left on device", "; make room, what is finished is kept")
        os.remove("runs/full")
        again = ["--resume"] if os.path.isdir("runs/n") else []
        assert command("--name", "n", *again) == 0
        assert tree(tmp_path / "runs/n") == want


def test_a_limit_on_file_size_is_one_line(command, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))
    try:
        status = command("--name", "n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    one_line(capsys, "cannot be written", "File too large", "; make room, what is finished is kept")
    assert command("--name", "n", "--resume") == 0


def test_a_folder_closed_to_writing_is_one_line(good, open_folder, monkeypatch, capsys):
    """The folder may not be written."""
    folder = shutil.copytree(good, open_folder / "data")
    monkeypatch.chdir(open_folder)
    os.chmod(folder, 0o755)
    os.chmod(open_folder, 0o555)
    with nobody():
        status = train.main(
            ["digits", "--data", "data", "--clients", "1,0,0,0", "--fraction", "0.0001"]
        )
    assert status == 2 and os.listdir(open_folder) == ["data"]
    one_line(capsys, "runs/digits-1 cannot be made or opened (Permission denied)")


def texts(path):
    """The texts of a Python file that are no docstrings, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.lineno, node.value


def test_no_message_tells_to_remove_anything():
    """What is called unusable may be whole: it is moved away, or left."""
    paths = [ROOT / "fpl.py", *(ROOT / "lab").rglob("*.py")]
    told = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in paths
        for line, text in texts(path)
        if re.search(
            r"\b(remove|delete|erase|discard|rm|overwrite) (it|them|the|its|\{|\w+\.)", text
        )
    ]
    assert len(paths) > 40 and told == []


def test_a_report_closed_to_writing_is_one_line(open_folder, capsys):
    """The report may not be written."""
    folder = made_runs.write_run(f"{open_folder}/digits-1", made_runs.config_of(rounds=1), [])
    with nobody():
        assert report.main([folder]) == 2
    err = capsys.readouterr().err
    assert err.startswith("report: [Errno 13] Permission denied") and err.count("\n") == 1


def test_ctrl_c_while_reading_files_is_one_line(good, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Another test of this process may have left a handler that does nothing for two seconds.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(
        digits, "read_usps", lambda path: (os.kill(os.getpid(), signal.SIGINT), time.sleep(5))
    )
    try:
        assert train.main(["digits", "--data", str(good)]) == 130
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    assert capsys.readouterr().err == "\nStopped.\n" and not os.listdir()


def test_memory_that_does_not_suffice_is_one_line(good, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fail(path):
        raise MemoryError

    monkeypatch.setattr(digits, "read_usps", fail)
    assert train.main(["digits", "--data", str(good)]) == 2
    one_line(capsys, "the memory does not suffice")


def test_test_images_that_were_trained_on_are_counted(tmp_path):
    _, _, sources = load("digits", write_digits(tmp_path))  # its training and test files are alike
    assert sources["mnist"]["repeated"] == 10
    cfg = fpl.Config(clients=(1, 0, 0, 0))
    text = describe(sources, [fpl.Client(COLOUR, DIGITS, "mnist")], TASKS["digits"], cfg)
    assert (
        "Warning: mnist is tested with 10 of 10 images that are among its training images too."
        in text
    )
    assert repeated(COLOUR, COLOUR[::-1][:3]) == 3 and repeated(COLOUR, 255 - COLOUR) == 0


# ---------------------------------------------------------------- whole processes

# what becomes of the output: (how a process gets there, exit status, what must come of errors)
STREAMS = {
    "nobody reads it": (
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)",
        2,
        "fpl: nobody reads the output any more; what is finished is kept\n",
    ),
    "a full disk": (
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
        2,
        "fpl: [Errno 28] No space left on device; make room, what is finished is kept\n",
    ),
    "a full disk, seen at the end": (
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); late = True",
        2,
        "fpl: the output cannot be written (No space left on device)\n",
    ),
    "closed": (
        "os.closerange(0, 3); sys.stdin = sys.stdout = sys.stderr = None",
        0,
        "",
    ),  # as Python finds it after `>&-`
    "letters that it cannot spell": ("sys.stdout.reconfigure(encoding='ascii')", 0, ""),
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """What became of each: exit status and errors.

    One process imports everything and branches, for that takes seconds.
    """
    folder = tmp_path_factory.mktemp("streams")
    program = f"""
import os, sys; sys.path.insert(0, {str(ROOT)!r})
from lab.shell import program
late = False
def show(argv):
    print("a line, läuft \\udcff", flush=not late)
    with open("file", "w") as file:
        os.write(2, b"" if file.fileno() > 2 else b"the file took the place of a stream")
    return 0
for name, (start, *_) in {STREAMS!r}.items():
    if not os.fork():
        os.dup2(os.open("errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        exec(start)
        program.as_program(lambda: program.guarded(show, []))
    print(os.waitstatus_to_exitcode(os.wait()[1]), repr(open("errors").read()), sep=",",
          flush=True)"""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": ""},
    )
    lines = [line for line in done.stdout.decode().splitlines() if not line.startswith("a line")]
    assert len(lines) == len(STREAMS), (done.stdout, done.stderr)
    return dict(zip(STREAMS, map(ast.literal_eval, lines)))


@pytest.mark.parametrize("what", STREAMS)
def test_output_going_nowhere_is_one_line_at_most(what, streams):
    assert streams[what] == STREAMS[what][1:]


def read_only(root):
    """A command before another one that makes it see root read-only, or why there is none."""
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
        str(root),
    ]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("a read-only file system cannot be made here")
    return words


@pytest.mark.slow
def test_a_read_only_checkout_trains_in_other_folders(good, tmp_path):
    """It trains in any, without home or temporary folder, in a C locale,
    with paths in other letters and nowhere for matplotlib to write."""
    folder = tmp_path / "zwei Wörter 数据 \udcff"
    folder.mkdir()
    shutil.copytree(good, folder / "Daten 数")
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "TMPDIR": "/nowhere",
        "MPLCONFIGDIR": "/proc/nowhere",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [
        *DOOR,
        "digits",
        "--data",
        "Daten 数",
        "--clients",
        "1,0,0,0",
        "--fraction",
        "0.0001",
        "--width",
        "1",
        "--rounds",
        "1",
        "--local-epochs",
        "1",
        "--name",
        "läuft",
    ]
    done = subprocess.run(
        [*read_only(ROOT), *arguments],
        cwd=folder,
        capture_output=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr and "mnist files in Daten 数".encode() in done.stdout
    assert sorted(os.listdir(folder)) == ["Daten 数", "runs"]
    assert {"rounds.csv", "accuracy.png", "state.safetensors"} <= set(
        os.listdir(folder / "runs" / "läuft")
    )


def test_results_in_read_only_checkouts_are_one_line(good, tmp_path):
    """Within a read-only checkout they have no place."""
    arguments = [
        *DOOR,
        "digits",
        "--data",
        str(good),
        "--clients",
        "1,0,0,0",
        "--fraction",
        "0.0001",
    ]
    (tmp_path / "checkout").mkdir()
    done = subprocess.run(
        [
            *read_only(tmp_path / "checkout"),
            "sh",
            "-c",
            'cd "$0" && exec "$@"',
            str(tmp_path / "checkout"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "runs/digits-1 cannot be made or opened (Read-only file system)" in done.stderr
