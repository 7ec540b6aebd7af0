"""Whatever is done to a valid file or a command line, what comes is a result or one line.

No other exception, no memory beyond the file's size times a small factor, no hang.
HYPOTHESIS_PROFILE=deep for long.
"""

import bz2
import contextlib
import copy
import dataclasses
import gzip
import io
import json
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import made_runs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_files import COLOUR, DIGITS, GREY, idx, usps
from made_runs import RECORD, arrays_of, next_state
from PIL import Image
from scipy.io import savemat
from tiny import TINY

import fpl
from lab.data import digits, matlab
from lab.data.images import read_image
from lab.data.tasks import TASKS
from lab.report import charts, report
from lab.run import checkpoint, repeat
from lab.run.folder import folder_name
from lab.run.records import read_run
from lab.run.settings import complete, parse, settings_parser
from lab.shell.errors import InputError

SECONDS = 5  # of the processor, for one file of a few kilobytes; a valid one takes milliseconds
# bytes of memory for each byte of content: an IDX picture of 16 x 16 becomes 32 x 32 x 3,
# which is 12 times as much, and its own bytes are held too, in a buffer that grows by an eighth
FACTOR = 14
CONSTANT = (
    1 << 22
)  # a piece of 1 MiB of a packed file, the tables of numbers within a line of USPS, the message


# ---------------------------------------------------------------- what is done to a file

NUMBERS = [
    struct.pack(order + "I", number)
    for order in "<>"
    for number in (0, 1, 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
]


@st.composite
def damaged(draw, valid):
    """A valid file with up to four changes; most of them near its start, where the headers are."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        place = st.integers(0, max(0, len(content) - 1))
        at, to = draw(st.one_of(st.integers(0, min(200, len(content))), place)), draw(place)
        change = draw(
            st.sampled_from(["byte", "number", "cut", "remove", "insert", "splice", "double"])
        )
        if change == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif change == "number":
            content[at : at + 4] = draw(st.sampled_from(NUMBERS))
        elif change == "cut":
            del content[at:]
        elif change == "remove":
            del content[at : at + draw(st.sampled_from([1, 4, 100]))]
        elif change == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif change == "splice":
            content[at : at + 16] = content[to : to + 16]
        else:
            content += content[at:]
    return bytes(content)


def matlab_file(**options):
    file = io.BytesIO()
    savemat(
        file,
        {"X": COLOUR.transpose(1, 2, 3, 0)[..., :3], "y": np.array([[1.0], [2.0], [10.0]])},
        **options,
    )
    return file.getvalue()


def pack_matlab(content):
    """Each of its two variables packed; X takes 8 + 9272 bytes."""
    parts = [zlib.compress(part) for part in (content[128:9408], content[9408:])]
    return content[:128] + b"".join(
        struct.pack("<II", matlab.PACKED, len(part)) + part for part in parts
    )


def picture(kind, mode):
    file, image = io.BytesIO(), Image.fromarray(COLOUR[0])
    if mode == "I;16":
        image = Image.fromarray((np.arange(1024).reshape(32, 32) * 60).astype(np.uint16))
    image.convert(mode).save(file, kind)
    return file.getvalue()


def pack_png(content):
    """13 bytes of header and the rows -> a PNG file with right checksums."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", content[:13])
        + chunk(b"IDAT", zlib.compress(content[13:]))
        + chunk(b"IEND", b"")
    )


def npz_file(save):
    """The bytes of a file like Keras's mnist.npz."""
    file, part = io.BytesIO(), (GREY[:2], DIGITS[:2])
    save(file, x_train=part[0], y_train=part[1], x_test=part[0], y_test=part[1])
    return file.getvalue()


PNG = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0) + b"".join(
    b"\0" + row.tobytes() for row in COLOUR[0]
)
MNIST_LABELS = idx(DIGITS[:2])
FILES = {  # what: (file name, valid content, how it is packed after the damage)
    "idx": ("images", idx(GREY[:2]), bytes),
    "idx.gz, damaged": ("images.gz", gzip.compress(idx(GREY[:2])), bytes),
    "idx.gz, packed again": ("images.gz", idx(GREY[:2]), gzip.compress),
    "labels": ("labels", MNIST_LABELS, bytes),
    "usps": ("usps", usps([1, 10]), bytes),
    "usps.bz2, damaged": ("usps.bz2", bz2.compress(usps([1, 10])), bytes),
    "usps.bz2, packed again": ("usps.bz2", usps([1, 10]), bz2.compress),
    "mat": ("train_32x32.mat", matlab_file(), bytes),
    "npz": ("mnist.npz", npz_file(np.savez), bytes),
    "npz, damaged": ("mnist.npz", npz_file(np.savez_compressed), bytes),
    "mat, damaged": ("train_32x32.mat", matlab_file(do_compression=True), bytes),
    "mat, packed again": ("train_32x32.mat", matlab_file(), pack_matlab),
    "mat of version 4": (
        "train_32x32.mat",
        b"\0\0\0\0\3\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0y\0" + bytes(24),
        bytes,
    ),
    "png, packed again": ("a.png", PNG, pack_png),
    **{
        f"{kind} {mode}": ("a.png", picture(kind, mode), bytes)
        for kind, mode in [
            ("PNG", "RGB"),
            ("PNG", "P"),
            ("PNG", "I;16"),
            ("PNG", "LA"),
            ("JPEG", "RGB"),
            ("JPEG", "CMYK"),
            ("BMP", "RGB"),
            ("GIF", "P"),
            ("TIFF", "RGB"),
            ("TIFF", "I;16"),
            ("TIFF", "F"),
            ("WEBP", "RGB"),
            ("PPM", "RGB"),
            ("PPM", "L"),
        ]
    },
}


def read(path, folder):
    """Whatever reader the file name calls for -> (images, labels)."""
    if path.name.startswith("images"):
        (folder / "good").write_bytes(MNIST_LABELS)
        return digits.read_mnist(path, folder / "good")
    if path.name == "labels":
        (folder / "good").write_bytes(idx(GREY[:2]))
        return digits.read_mnist(folder / "good", path)
    if path.name.startswith("usps"):
        return digits.read_usps(path)
    if path.name.endswith(".mat"):
        return digits.read_svhn(path)
    if path.name == "mnist.npz":
        return digits.read_mnist_npz(path)[0]
    return read_image(path)[None], np.zeros(1, np.int32)


def unpacked_size(path):
    """How many bytes come out of a file before its damage, at least its own size."""
    content = path.read_bytes()
    total = len(content)
    with contextlib.suppress(OSError, EOFError, zlib.error):
        if path.suffix in (".gz", ".bz2"):
            with (gzip if path.suffix == ".gz" else bz2).open(path) as file:
                while piece := file.read(1 << 16):
                    total += len(piece)
    if path.suffix == ".mat":
        for at in range(128, len(content) - 8):  # wherever a packed element may have been moved to
            with contextlib.suppress(zlib.error):
                total += (
                    len(zlib.decompressobj().decompress(content[at:], 1 << 20))
                    if content[at : at + 1] == b"\x78"
                    else 0
                )
    return total


def resident(kind):
    """VmRSS (now) or VmHWM (at most, since it was reset) of this process, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(kind))


@contextlib.contextmanager
def bounded(memory, resident_memory):
    """What runs within takes no more bytes than memory
    of Python's and resident_memory of the machine's, nor SECONDS.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, start = resident("VmRSS"), time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < SECONDS
    assert peak <= memory, f"{peak} bytes were allocated, at most {memory} are right"
    grown = resident("VmHWM") - before
    assert grown <= resident_memory, (
        f"{grown} bytes were taken, at most {resident_memory} are right"
    )


def pixels_at_most(size):
    """The bytes that Pillow takes for a picture:
    each pixel 4 when decoded, 4 as RGBA, 4 as RGB, 4 for a row pass.
    """
    return 16 * (24 * size + (1 << 22))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", FILES)
@given(drawn=st.data())
def test_a_damaged_file_gives_images_or_one_line(what, drawn, tmp_path_factory):
    name, valid, pack = FILES[what]
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(pack(drawn.draw(damaged(valid))))
    size, is_picture = path.stat().st_size, name == "a.png"
    memory = FACTOR * unpacked_size(path) + CONSTANT
    try:
        # the grey of 16 bits is calculated in NumPy, so it counts for both
        with bounded(
            memory + pixels_at_most(size) * is_picture,
            memory + (1 << 24) + pixels_at_most(size) * is_picture,
        ):
            images, labels = read(path, folder)
    except InputError as error:
        assert (
            len(str(error).splitlines()) == 1
            and len(str(error)) < 1000
            and str(folder) in str(error)
        )
    else:
        assert images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3)
        assert labels.dtype == np.int32 and np.isin(labels, range(10)).all()


@pytest.mark.parametrize("what", FILES)
def test_files_damaged_here_are_good_before(what, tmp_path):
    name, valid, pack = FILES[what]
    (tmp_path / name).write_bytes(pack(valid))
    if what in ("mat of version 4", "TIFF F"):
        with pytest.raises(InputError):
            read(tmp_path / name, tmp_path)
    else:
        images, labels = read(tmp_path / name, tmp_path)
        assert len(images) == len(labels) > 0


PROMISES = {  # what: the file's name, the start of a file that promises much more than it has
    "idx of 4 billion images": ("images", idx(GREY, shape=((1 << 32) - 1, 28, 28))),
    "idx.gz of 16 MB": ("images.gz", gzip.compress(idx(GREY, shape=(20_000, 28, 28)))),
    "mat of 4 GB": ("train_32x32.mat", matlab_file()[:188] + b"\xff\xff\xff\xff" + bytes(100)),
    "png with a chunk of 4 GB": ("a.png", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR" + bytes(30)),
    "png with rows of 2 GB": (
        "a.png",
        pack_png(PNG)[:33] + b"\x7f\xff\xff\xff" + pack_png(PNG)[37:],
    ),
    "png with text of 4 GB": ("a.png", pack_png(PNG)[:33] + b"\xff\xff\xff\xfftEXt" + bytes(30)),
}


@pytest.mark.parametrize("what", PROMISES)
def test_what_a_header_promises_is_not_allocated(what, tmp_path):
    name, content = PROMISES[what]
    (tmp_path / name).write_bytes(content)
    with (
        bounded(CONSTANT, 1 << 24),
        contextlib.suppress(InputError),
    ):  # Pillow knows the end of the rows without it
        read(tmp_path / name, tmp_path)


@pytest.mark.parametrize(
    "name, size",
    [
        ("a.png", 1 << 31),
        ("images", 1 << 31),
        ("train_32x32.mat", 1 << 32),
        ("train_32x32.mat", 1 << 30),
    ],
)
def test_a_sparse_file_takes_no_memory(name, size, tmp_path):
    """A sparse file takes no disk, and what is made of it takes no memory."""
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, size)
    with bounded(CONSTANT, 1 << 24), pytest.raises(InputError):
        read(tmp_path / name, tmp_path)


# ---------------------------------------------------------------- the command line

WORDS = [
    "",
    "0",
    "1",
    "-1",
    "nan",
    "inf",
    "1e400",
    "1e-320",
    "9" * 5000,
    "1_0",
    "٣",
    "²",
    "6,4,3,7",
    "1,,2",
    "a\nb",
    "\udcff",
    "a b",
    "%s",
    "{",
    "@f",
    "--",
    "-x",
    "x" * 300,
    "first",
    "mean",
    "paper",
    "CPU",
    "None",
    "0x10",
    str(1 << 63),
    "1.5",
    "\0",
    "..",
    "a/b",
]
FLAGS = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(fpl.Config)] + [
    "--data",
    "--name",
    "--paper",
    "--as",
    "--resume",
    "--summary",
    "--help",
]


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*TASKS, *WORDS]),
            st.sampled_from(FLAGS),
            st.text(max_size=6),
            st.builds("{}={}".format, st.sampled_from(FLAGS), st.sampled_from(WORDS)),
            st.tuples(st.sampled_from(FLAGS), st.sampled_from(WORDS)),
        ),
        max_size=6,
    ).map(
        lambda words: [
            part for word in words for part in (word if isinstance(word, tuple) else [word])
        ]
    ),
    st.booleans(),
)
@example(["--seed=9\n9"], True)
@example(["--seed", "9" * 5000], True)
@example(["--seed=--"], True)
def test_any_command_line_gives_settings_or_one_line(words, with_task):
    parser = settings_parser("./run.sh", "")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--summary")
    argv = ["digits", *words] if with_task else words
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cfg, task, given_too = parse(parser, argv)
            folder_name(given_too.get("name", "a"))
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) <= 2000
    except SystemExit as stop:
        assert (
            stop.code == 0
            and {"--help", "-h"} & set(argv)
            or any(word.startswith("-h") for word in argv)
        )
    else:
        assert complete(cfg, task) == cfg and cfg.task in argv


# ---------------------------------------------------------------- what a run left

ODD = [
    None,
    True,
    [],
    {},
    "",
    "x",
    "\n",
    -1,
    0,
    1 << 70,
    0.5,
    float("nan"),
    float("inf"),
    [[]],
    [None] * 4,
    [-1] * 4,
    [10**9] * 4,
    {"a": {}},
]
DEEP = b"[" * 100_000


def places(node):
    """Every (dict or list, key) within a JSON value."""
    for key in (
        node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    ):
        yield node, key
        yield from places(node[key])


@st.composite
def spoiled_json(draw, valid):
    """JSON with one or two values exchanged or taken out; or its bytes damaged."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.one_of(damaged(valid), st.just(DEEP)))
    content = json.loads(valid)
    for _ in range(draw(st.integers(1, 2))):
        where = list(places(content))
        node, key = where[draw(st.integers(0, len(where) - 1))]
        if draw(st.integers(0, 5)) == 0:
            del node[key]
        else:
            node[key] = copy.deepcopy(
                draw(st.sampled_from(ODD))
            )  # or a second change would put it into itself
    return json.dumps(content).encode()


@st.composite
def spoiled_csv(draw, valid):
    """A table with one or two cells exchanged; or its bytes damaged."""
    if draw(st.integers(0, 2)) == 0:
        return draw(damaged(valid))
    rows = [line.split(b",") for line in valid.split(b"\n")]
    for _ in range(draw(st.integers(1, 2))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = draw(
            st.sampled_from(
                [
                    b"",
                    b"0",
                    b"-1",
                    b"1e999",
                    b"nan",
                    b"9" * 5000,
                    b"9" * 200_000,
                    b'"',
                    b"\0",
                    b"\xff",
                    b",",
                    b"\n",
                    b"\r",
                    b"1.5",
                    b"99999999",
                    "\u2028".encode(),
                    "٣".encode(),
                ]
            )
        )
    return b"\n".join(b",".join(row) for row in rows)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A folder as a finished run leaves it, and its files."""
    folder = tmp_path_factory.mktemp("left") / "digits-1"
    made_runs.made_run(folder, "fpl", made_runs.config_of(rounds=2, clients=(2, 1, 1, 1)))
    checkpoint.save(folder, next_state(fpl.init_state(TINY), 2), RECORD)
    return str(folder), {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line_or(call, *arguments):
    """What call gives, None where it refuses."""
    try:
        with bounded(1 << 26, 1 << 27):
            return call(*arguments)
    except InputError as error:
        assert "\n" not in str(error)


def restored(left, name, content):
    """The folder as it was, but for one file."""
    folder, files = left
    for good in files:
        Path(folder, good).write_bytes(content if good == name else files[good])
    return folder


def show(folder):
    """The report without its pictures."""
    parts = report.sections(folder, draw=lambda runs, tsne: [])
    return (
        report.page_html("", parts),
        report.page_csv(parts),
        report.page_markdown("", parts),
        report.page_text(parts),
    )


def test_a_refusal_is_one_line_whatever_it_quotes(left):
    """It is one line though what it quotes has several."""
    config = json.loads(left[1]["config.json"]) | {"variant": "a\r\nb\u2028c"}
    folder = restored(left, "config.json", json.dumps(config).encode())
    with pytest.raises(InputError, match="was made with variant a b c, this call has None"):
        checkpoint.check_same(folder, RECORD, "")


@given(drawn=st.data())
@example(drawn=DEEP)
def test_a_spoiled_config_is_read_or_one_line(left, drawn):
    """What is not read is refused in one line."""
    content = DEEP if drawn is DEEP else drawn.draw(spoiled_json(left[1]["config.json"]))
    folder = restored(left, "config.json", content)
    run = one_line_or(read_run, folder)
    assert run is None or run.config["task"] in TASKS
    one_line_or(show, folder)
    one_line_or(repeat.read, folder)
    one_line_or(checkpoint.check_same, folder, RECORD, "")
    assert Path(folder, "config.json").read_bytes() == content


@pytest.mark.parametrize("name", ["rounds.csv", "clusters.csv"])
@given(drawn=st.data())
def test_a_spoiled_table_is_read_or_one_line(name, left, drawn):
    """What is not read is refused in one line."""
    content = drawn.draw(spoiled_csv(left[1][name]))
    folder = restored(left, name, content)
    run = one_line_or(read_run, folder)
    if run and run.rounds:
        assert all(
            0 <= value <= 100
            for log in run.rounds
            for value in [log["avg"], *log["accuracy"].values()]
        )
    one_line_or(show, folder)
    one_line_or(checkpoint.cut_back, folder, 1)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("config.json", b"[2, 1, 1, 1]", b"[1000000000, 1, 1, 1]"),
        ("config.json", b'"local_epochs": 10', b'"local_epochs": null'),
        ("config.json", b'"train": 60000', b'"train": "many"'),
        ("config.json", b'"tau": 0.02', b'"tau": -1'),
        ("rounds.csv", b"2.5", b"9" * 200_000),
        ("clusters.csv", b"1,0,0,5", b"1,0,0.5,5,"),
        ("clusters.csv", b"1,0,0,5", b"9" * 5000 + b",0,0,5"),
    ],
)
def test_values_that_no_run_writes_are_one_line(name, old, new, left):
    """Each is refused in one line."""
    assert old in left[1][name]
    folder = restored(left, name, left[1][name].replace(old, new, 1))
    assert one_line_or(read_run, folder) is None


NINES = b"9" * 400
DOMAINS = b"mnist,usps,svhn,syn"


def config_with(**changes):
    """config.json with other settings, or another variant; ... takes one out."""

    def change(content):
        about = json.loads(content)
        for name, value in changes.items():
            part = about if name in ("variant", "sources") else about["config"]
            part.pop(name) if value is ... else part.update({name: value})
        return json.dumps(about).encode()

    return change


def replaced(old, new):
    """Every old text exchanged."""

    def change(content):
        assert old in content
        return content.replace(old, new)

    return change


def first_row(row):
    """Another row in place of a table's first."""

    def change(content):
        head, _, *rows = content.splitlines(keepends=True)
        return head + row + b"\n" + b"".join(rows)

    return change


def without_columns(first, last):
    """A table without some of its columns."""
    return lambda content: b"".join(
        b",".join(cells[:first] + cells[last:]) + b"\n"
        for cells in (line.split(b",") for line in content.splitlines())
    )


# file, what is done to it, the words that must come; None: the report must come, with its pictures
SPOILED = [
    *[
        ("config.json", config_with(**{name: ...}), f"lacks {name};")
        for name in ("seed", "rounds", "cpcl", "upcr", "tau", "clients")
    ],
    ("config.json", config_with(task=...), "lacks a task"),
    ("config.json", config_with(clients=[]), "has clients '[]'"),
    ("config.json", config_with(variant="$\\frac$"), None),
    ("config.json", config_with(variant="a b 数据"), None),
    *[
        ("config.json", config_with(variant=name), "has variant")
        for name in ("\ud800", "a\0b", "\x1b[31m", "a\nb", "_x", "x" * 101, ["fpl"], 3, {"a": 1})
    ],
    ("config.json", config_with(sources={"a\x1bb": {}}), "has a domain"),
    ("rounds.csv", without_columns(2, 6), "rounds.csv has the domains ''"),
    ("rounds.csv", replaced(b"mnist", b"avg"), "rounds.csv has the domains ''"),
    (
        "rounds.csv",
        replaced(b"usps", b"avg"),
        "clusters.csv has the domains 'mnist,usps,svhn,syn', not 'mnist' or",
    ),
    ("rounds.csv", replaced(b"avg", b"mean"), "rounds.csv has the domains"),
    ("rounds.csv", replaced(b"usps", b"mnist"), "rounds.csv has the domains"),
    *[
        ("rounds.csv", replaced(b"mnist", name), "rounds.csv has the domains")
        for name in (b"", b"$\\frac$", b"\x1b", b"amazon", b"_x")
    ],
    ("clusters.csv", first_row(b"1,0,0,0,0,0,0,0"), "0 members, not 0"),
    ("clusters.csv", first_row(b"1,0,0,2,1,0,0,0"), "1 members, not 2"),
    ("clusters.csv", first_row(b"1,0,0,-5,-5,0,0,0"), "'-5' is no whole number"),
    ("clusters.csv", first_row(b"1,0,0,1,6,-5,0,0"), "'-5' is no whole number"),
    ("clusters.csv", first_row(b"1,0,0," + NINES + b"," + NINES + b",0,0,0"), "is no whole number"),
    (
        "clusters.csv",
        first_row(b"1,0,0,9,9,0,0,0"),
        "members of mnist in class 0 of round 1, where mnist has 2 clients",
    ),
    ("clusters.csv", first_row(b"1,10,0,1,1,0,0,0"), "a class 10 of 10"),
    ("clusters.csv", first_row(b"1,-1,0,1,1,0,0,0"), "'-1' is no whole number"),
    ("clusters.csv", first_row(b"9,0,0,1,1,0,0,0"), "has a round 9 of 2"),
    ("clusters.csv", first_row(b"0,0,0,1,1,0,0,0"), "has a round 0 of 2"),
    (
        "clusters.csv",
        lambda content: content + b"".join(b"2,%d,0,1,1,0,0,0\n" % k for k in range(300)),
        "a class 10 of 10",
    ),
    (
        "clusters.csv",
        lambda content: content + b"2,0,0,1,1,0,0,0\n" * 3000,
        "where mnist has 2 clients",
    ),
    ("clusters.csv", without_columns(4, 8), "clusters.csv has the domains ''"),
    (
        "clusters.csv",
        lambda content: b"round,class,cluster,clients,usps,svhn,syn\n1,0,0,1,1,0,0\n",
        "has the domains 'usps,svhn,syn', rounds.csv beside it 'mnist,usps,svhn,syn'",
    ),
    (
        "clusters.csv",
        replaced(DOMAINS, b"caltech,amazon,webcam,dslr"),
        "clusters.csv has the domains",
    ),
    ("clusters.csv", replaced(DOMAINS, b"usps,mnist,svhn,syn"), "rounds.csv beside it"),
]


@pytest.mark.parametrize(
    "name, change, words", SPOILED, ids=[f"{name} {i}" for i, (name, *_) in enumerate(SPOILED)]
)
@pytest.mark.filterwarnings("error")
def test_all_pictures_or_one_line_come(name, change, words, left, capsys):
    """A report comes with all its pictures, or one line comes."""
    folder = restored(left, name, change(left[1][name]))
    assert report.main([folder]) == (2 if words else 0)
    err = capsys.readouterr().err
    assert (
        (words in err and err.startswith("report: ") and err.count("\n") == 1 and len(err) < 600)
        if words
        else not err
    )


@pytest.mark.parametrize(
    "name, spoil",
    [("config.json", spoiled_json), ("rounds.csv", spoiled_csv), ("clusters.csv", spoiled_csv)],
)
@given(drawn=st.data())
@settings(
    max_examples=max(8, settings.default.max_examples // 10)
)  # each draws for a second, unless it is refused
def test_what_is_read_can_be_drawn_too(name, spoil, left, drawn):
    folder = restored(left, name, drawn.draw(spoil(left[1][name])))
    try:
        report.write_report(folder)
    except InputError as error:
        assert "\n" not in str(error)


@given(drawn=st.data())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_spoiled_prototypes_are_read_or_one_line(left, drawn):
    """What is not read is refused in one line."""
    folder = restored(left, "prototypes.npz", drawn.draw(damaged(left[1]["prototypes.npz"])))
    run = read_run(folder)
    scene = one_line_or(
        charts.read_scene, f"{folder}/prototypes.npz", report.client_domains(run), 10
    )
    if scene:
        assert scene.mask.dtype == bool and all(
            np.isfinite(value).all() for value in (scene.local, scene.clusters, scene.unbiased)
        )


@pytest.mark.parametrize(
    "change",
    [
        {"unbiased": np.full((10, 32), np.nan)},
        {"clusters": np.full((10, 2, 32), "x")},
        {"unbiased": np.ones((10, 32), complex)},
        {"mask": np.ones((10, 2))},
        {"counts": np.full((5, 10), -1)},
        {"class_means": np.ones((5, 10, 31))},
        {"class_means": np.ones((5, 10))},
        {"unbiased": np.ones((9, 32))},
        {
            "class_means": np.ones((5, 300, 32)),
            "counts": np.ones((5, 300)),
            "clusters": np.ones((300, 2, 32)),
            "mask": np.ones((300, 2), bool),
            "unbiased": np.ones((300, 32)),
        },
        {"clusters": np.ones((10, 3000, 32)), "mask": np.ones((10, 3000), bool)},
        {"class_means": np.full((5, 10, 32), 1e308)},
        {"unbiased": np.full((10, 32), 3e38, np.float32)},
        {"counts": np.zeros((5, 10), int)},
        {"class_means": np.ones((5, 10, 32), np.float16)},
        {"class_means": np.ones((5, 10, 32), np.longdouble)},
        {
            "class_means": np.ones((5, 0, 32)),
            "counts": np.ones((5, 0)),
            "clusters": np.ones((0, 2, 32)),
            "mask": np.ones((0, 2), bool),
            "unbiased": np.ones((0, 32)),
        },
    ],
    ids=lambda change: " ".join(f"{name} {list(value.shape)}" for name, value in change.items()),
)
def test_prototypes_that_no_run_writes_are_one_line(change, left):
    """They are refused in one line."""
    with np.load(io.BytesIO(left[1]["prototypes.npz"])) as arrays:
        spoiled = {**arrays, **change}
    file = io.BytesIO()
    np.savez(file, **spoiled)
    folder = restored(left, "prototypes.npz", file.getvalue())
    assert one_line_or(charts.read_scene, f"{folder}/prototypes.npz", ["mnist"] * 5, 10) is None


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickles_within_prototypes_are_refused_and_never_run(left, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, files = left
    with np.load(io.BytesIO(files["prototypes.npz"])) as arrays:
        spoiled = {**arrays, "counts": np.array([Trap()], object)}
    file = io.BytesIO()
    np.savez(file, **spoiled)
    restored(left, "prototypes.npz", file.getvalue())
    assert one_line_or(charts.read_scene, f"{folder}/prototypes.npz", ["mnist"] * 5, 10) is None
    assert not os.path.exists("trapped")


def packed_prototypes():
    """A billion numbers in a megabyte, as np.savez_compressed
    would write them, and as an array's header may promise them.
    """
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (10**9,)}
    )
    return head.getvalue()


def test_prototypes_that_promise_a_billion_numbers_allocate_none(left):
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("class_means", "counts", "clusters", "mask", "unbiased"):
            archive.writestr(f"{name}.npy", packed_prototypes() + bytes(80))
    folder = restored(left, "prototypes.npz", file.getvalue())
    with (
        bounded(1 << 20, 1 << 24),
        pytest.raises(InputError, match="is not what a run of 5 clients writes"),
    ):
        charts.read_scene(f"{folder}/prototypes.npz", ["mnist"] * 5, 10)


@given(drawn=st.data())
def test_a_spoiled_state_is_the_same_or_refused(left, drawn):
    """A refusal is one line."""
    folder = restored(left, checkpoint.FILE, drawn.draw(damaged(left[1][checkpoint.FILE])))
    state = one_line_or(checkpoint.load, folder, RECORD)
    if state:
        want = arrays_of(next_state(fpl.init_state(TINY), 2))
        assert state.round == 2 and all(
            (want[name] == value).all() for name, value in arrays_of(state).items()
        )


def test_no_byte_of_a_states_header_can_change(left):
    """No single byte of what a state says of itself can be changed. The header names the round;
    a state that passes for one of another round would be trained on from there."""
    valid = left[1][checkpoint.FILE]
    start = valid.index(b"round")
    for at in range(start, start + 100):
        if valid[at : at + 1].isalnum():
            other = b"1" if valid[at : at + 1] != b"1" else b"3"
            folder = restored(left, checkpoint.FILE, valid[:at] + other + valid[at + 1 :])
            assert one_line_or(checkpoint.load, folder, RECORD) is None, valid[start : at + 9]
