"""lab/data: published copies are read exactly, damaged ones are named in one line."""

import bz2
import errno
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_files import (
    COLOUR,
    DIGITS,
    GREY,
    RNG,
    idx,
    usps,
    write,
    write_digits,
    write_mat,
    write_office,
    write_png,
)
from PIL import Image
from scipy.io import savemat

from lab.data import digits, images, limits, standin
from lab.data.load import digest, load, repeated
from lab.data.tasks import TASKS
from lab.run.screen import of_the_data
from lab.shell.errors import InputError

# -- good files


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"pack": True},
        {
            "mnist": "mnist",
            "usps_place": "usps",
            "syn": "SYN",
            "splits": ("imgs_train", "imgs_valid"),
        },
        {
            "mnist": ".",
            "usps_place": ".",
            "svhn": ".",
            "syn": "synthetic_digits/",
            "splits": ("TRAIN", "test"),
        },
        {
            "mnist": "digits/MNIST/raw",
            "usps_place": "digits/USPS",
            "svhn": "digits/SVHN",
            "syn": "digits/syn",
        },
    ],
)
def test_digits_are_found_in_every_published_layout(tmp_path, layout):
    train, tests, sources = load("digits", write_digits(tmp_path / "zwei Wörter 数据", **layout))
    assert list(train) == list(tests) == list(sources) == ["mnist", "usps", "svhn", "syn"]
    for pictures, labels in (*train.values(), *tests.values()):
        assert pictures.dtype == np.uint8 and pictures.shape == (10, 32, 32, 3)
        assert labels.dtype == np.int32 and labels.tolist() == list(range(10))
    for source in sources.values():
        assert (source["kind"], source["train"], source["test"]) == ("files", 10, 10)
    assert np.array_equal(train["svhn"][0], COLOUR) and np.array_equal(train["syn"][0], COLOUR)


def test_idx_images_become_three_equal_channels(tmp_path):
    paths = write(tmp_path / "x", idx(GREY)), write(tmp_path / "y", idx(DIGITS))
    squares, _ = digits.read_mnist(*paths)
    for square, image in zip(squares, GREY, strict=True):
        wanted = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(square, np.repeat(np.asarray(wanted)[..., None], 3, -1))


def test_usps_values_become_bytes(tmp_path):
    values = np.repeat([[-1.0], [-0.2], [0.0], [1.0]], 256, axis=1)
    squares, labels = digits.read_usps(write(tmp_path / "usps", usps([10, 1, 2, 3], values)))
    assert squares[:, 5, 5, 0].tolist() == [0, 102, 128, 255] and labels.tolist() == [9, 0, 1, 2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "RGB", "LA", "1", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.png" if mode != "CMYK" else "a.tif")
    Image.fromarray(COLOUR[0]).convert(mode).save(path)
    image = images.read_image(path)
    wanted = np.asarray(Image.fromarray(COLOUR[0]).convert(mode).convert("RGB"))
    assert image.dtype == np.uint8 and np.array_equal(image, wanted)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    shades = np.arange(1024).reshape(32, 32) % 256
    path = write_png(tmp_path / "a.png", (shades * 257).astype(np.uint16))
    assert np.array_equal(images.read_image(path)[..., 1], shades)


def test_stray_files_are_no_images(tmp_path):
    write_digits(tmp_path)
    for stray in (
        ".DS_Store",
        "train/.DS_Store",
        "train/notes.txt",
        "train/3/.DS_Store",
        "train/3/._a.png",
        "train/3/list.csv",
        "train/.cache/a.png",
    ):
        write(tmp_path / "syn" / stray, b"no image")
    assert load("digits", tmp_path)[2]["syn"]["train"] == 10


@pytest.mark.parametrize(
    "layout", [{}, {"caltech": "Caltech", "bag": "back_pack", "notebook": "laptop_computer"}]
)
@pytest.mark.parametrize("place", ["", "office_caltech_10"])
def test_office_is_split_eight_to_two(tmp_path, layout, place):
    write_office(tmp_path / place, **layout)
    train, tests, _ = load("office", tmp_path)
    assert list(train) == ["caltech", "amazon", "webcam", "dslr"]
    for domain in train:
        shades, held_out = (part[domain][0][:, 0, 0, 0].tolist() for part in (train, tests))
        assert held_out == [i * 7 % 256 for i in (8, 9, 18, 19, 28, 29)]
        assert sorted(shades + held_out) == sorted(i * 7 % 256 for i in range(30))
        assert tests[domain][1].tolist() == [2, 3, 6, 6, 9, 9]


OFFICE_LAYOUTS = {  # where Office-31 and other copies have it, and what lies beside the classes
    "images within each domain": (lambda root: [deeper(root / name, "images") for name in OFFICE]),
    "interest points beside the images": (
        lambda root: [
            (deeper(root / name, "images"), write(root / name / "interest_points/mug/a.mat", b"x"))
            for name in OFFICE
        ]
    ),
    "any single folder within": lambda root: deeper(root / "amazon", "amazon"),
    "all within images": lambda root: deeper(root, "OfficeCaltechDomainAdaptation/images"),
    "all within Original_images": lambda root: deeper(root, "Original_images"),
}
OFFICE = ("amazon", "caltech10", "dslr", "webcam")


def deeper(folder, name):
    """All that is in a folder, moved into a folder in it."""
    content = [*folder.iterdir()]
    (folder / name).mkdir(parents=True)
    for path in content:
        path.rename(folder / name / path.name)


@pytest.mark.parametrize("move", OFFICE_LAYOUTS.values(), ids=OFFICE_LAYOUTS)
def test_office_is_found_one_level_deeper(move, tmp_path):
    want = load("office", write_office(tmp_path / "usual", count=1))[2]
    move(write_office(tmp_path / "moved", count=1))
    found = load("office", tmp_path / "moved")[2]
    assert {name: source["sha256"] for name, source in found.items()} == {
        name: source["sha256"] for name, source in want.items()
    }


def test_class_folders_in_two_places_are_no_guess(tmp_path):
    write_office(tmp_path, count=1)
    deeper(tmp_path / "amazon", "clean")
    write_png(tmp_path / "amazon/noisy/mug/a.png")
    with pytest.raises(InputError, match="amazon/clean: class folders 'clean', 'noisy' are not"):
        load("office", tmp_path)


SYSTEM_FOLDERS = (".ipynb_checkpoints", "@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX")
SYSTEM_FOLDERS += ("~snapshot", "lost+found", "System Volume Information", "@Recycle", ".Trash-0")


def test_what_systems_leave_is_no_class(tmp_path):
    """Synology, QNAP, Windows, macOS, Linux and Jupyter put folders of their own anywhere."""
    write_digits(tmp_path)
    for name in SYSTEM_FOLDERS:
        for place in ("", "syn", "syn/train", "syn/train/3", "MNIST/raw"):
            write_png(tmp_path / place / name / "a.png")
            write(tmp_path / place / name / "a.png@SynoResource", b"x")
    assert load("digits", tmp_path)[2]["syn"]["train"] == 10


def npz_of(save=np.savez_compressed, **changes):
    """The bytes of a file like Keras's mnist.npz."""
    arrays = {"x_train": GREY, "y_train": DIGITS, "x_test": GREY, "y_test": DIGITS.astype(np.uint8)}
    file = io.BytesIO()
    save(file, **{k: v for k, v in {**arrays, **changes}.items() if v is not None})
    return file.getvalue()


def with_npz(root, content, place="mnist.npz"):
    """The copy with mnist.npz in place of MNIST's four files."""
    for path in (root / "MNIST/raw").iterdir():
        path.unlink()
    write(root / place, content)
    return root


@pytest.mark.parametrize("place", ["mnist.npz", "MNIST/mnist.npz", "digits/mnist/raw/MNIST.npz"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mnist_is_read_from_npz_too(place, save, tmp_path):
    want = load("digits", write_digits(tmp_path / "usual"))
    got = load("digits", with_npz(write_digits(tmp_path / "npz"), npz_of(save), place))
    assert got[2]["mnist"]["sha256"] == want[2]["mnist"]["sha256"]
    assert got[2]["mnist"]["train"] == 10


BAD_NPZ = {  # its content, what the line says
    "cut off": (npz_of()[:-30], "not an npz file with x_train, y_train, x_test, y_test"),
    "not packed": (b"\x93NUMPY", "not an npz file"),
    "other names": (npz_of(x_train=None, images=GREY), "KeyError"),
    "objects": (npz_of(y_train=np.array([*"0123456789"], object)), "not an npz file"),
    "floating-point images": (npz_of(x_train=GREY / 255), "x_train is float64 [10, 28, 28]"),
    "fewer labels": (npz_of(y_test=DIGITS[:9]), "x_test is uint8 [10, 28, 28] with labels [9]"),
    "another label": (npz_of(y_train=DIGITS + 1), "label 10 at position 9"),
    "flat images": (npz_of(x_train=GREY.reshape(10, 784)), "x_train is uint8 [10, 784]"),
    "a pixel each": (npz_of(x_test=GREY[:, :1, :1]), "x_test is uint8 [10, 1, 1]"),
}


@pytest.mark.parametrize("content, words", BAD_NPZ.values(), ids=BAD_NPZ)
def test_a_bad_npz_is_one_line(content, words, tmp_path):
    with pytest.raises(InputError) as refused:
        load("digits", with_npz(write_digits(tmp_path), content))
    assert f"{tmp_path}/mnist.npz: " in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize("domain", ["mnist", "usps"])
def test_another_set_under_published_names_is_told(domain):
    """By its checksum, where the number of images is the published one, as Fashion-MNIST's is."""
    task = TASKS["digits"]
    sources = {
        name: {"kind": "files", "train": n, "sha256": task.checksums.get(name, "any")}
        for name, n in task.published.items()
    }
    assert of_the_data(sources, task) == []
    sources[domain]["sha256"] = "another"
    (line,) = of_the_data(sources, task)
    assert line.startswith(f"Note that {domain} has as many training images as the published")
    assert "another checksum" in line and "Fashion-MNIST" in line


OTHERS = {  # a file of another format, where it lies -> whether it is meant for digits
    "mnist/train-00000-of-00001.parquet": True,
    "mnist_train.csv": True,
    "mnist.pkl.gz": True,
    "MNIST/processed/training.pt": False,  # nobody looks there
    "MNIST/training.pt": True,
    "USPS/usps.h5": True,
    "usps.zip": True,
    "SVHN/extra_32x32.mat": True,
    "SVHN/train.tar.gz": True,
    "archive.zip": False,
    "notes.txt": False,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_named(name, tmp_path, monkeypatch):
    """With --data all are; in data/ those that are named by a domain keep the stand-in away."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / name, b"x")
    with pytest.raises(InputError) as refused:
        load("digits", "data")
    looked_at = OTHERS[name] or name == "archive.zip"
    assert (f"; not read as it is: {name}; next: " in str(refused.value)) == looked_at
    with monkeypatch.context() as patch:
        patch.setattr("lab.data.digits.stand_in", lambda: ({}, {}, "stand-in", {}))
        if OTHERS[name]:
            with pytest.raises(InputError, match="4 of 4 domains"):
                load("digits")
        else:
            assert load("digits")[0] == {}


def test_a_packed_office_is_named(tmp_path):
    write(tmp_path / "office31.tar.gz", b"x")
    with pytest.raises(InputError, match="not read as it is: office31.tar.gz; next: Office"):
        load("office", tmp_path)


# -- files that cannot be read, and may be whole

ERRORS = (errno.EIO, errno.ENODEV, errno.EMFILE, errno.ESTALE, errno.EACCES)


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "name, pack",
    [
        ("train-images-idx3-ubyte", False),
        ("train-images-idx3-ubyte.gz", True),
        ("usps", False),
        ("usps.bz2", True),
        ("train_32x32.mat", False),
        ("a.png", False),
        ("mnist.npz", False),
    ],
)
def test_a_failing_disk_makes_no_bad_file(name, pack, number, tmp_path, monkeypatch):
    """The line neither calls the file damaged nor tells to replace it."""
    write_digits(tmp_path, pack=pack)
    if name == "mnist.npz":
        with_npz(tmp_path, npz_of())
    really = io.open

    def failing(path, *args, **kwargs):
        if Path(path).name == name:
            raise OSError(number, "the disk's own words", str(path))
        return really(path, *args, **kwargs)

    for opener in ("io.open", "builtins.open", "bz2._builtin_open"):
        monkeypatch.setattr(opener, failing)
    with pytest.raises(InputError) as refused:
        load("digits", tmp_path)
    said = str(refused.value)
    assert said.startswith("cannot read ") and f"{name}: the disk's own words" in said
    assert not any(word in said for word in ("damaged", "fresh", "remove", "copy", "no image"))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 3, 257]),
    st.integers(16, 32),
    st.integers(16, 32),
)
def test_many_images_become_what_each_becomes_alone(seed, n, h, w):
    grey = np.random.default_rng(seed).integers(0, 256, (n, h, w), np.uint8)
    squares = images.to_squares(grey)
    assert squares.shape == (n, 32, 32, 3) and squares.dtype == np.uint8
    for square, image in zip(squares, grey):
        np.testing.assert_array_equal(square, images.to_square(Image.fromarray(image)))


def test_the_digest_sees_shape_and_content():
    other = COLOUR.copy()
    other.flat[7] ^= 1
    assert digest(COLOUR) == digest(COLOUR.copy())
    assert len({digest(COLOUR), digest(COLOUR.reshape(-1)), digest(other)}) == 3


def test_repeated_images_are_counted():
    assert repeated(COLOUR, COLOUR[::-1][:3]) == 3 and repeated(COLOUR, 255 - COLOUR) == 0


# -- the stand-in


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """What load gives in a folder without files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        return load("digits")


def test_the_stand_in_is_the_same_each_time(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("digits")[2] == stand_in[2]


def test_the_stand_in_says_what_it_is(stand_in):
    for source in stand_in[2].values():
        assert source["kind"] == "stand-in" and "stand-in" in source["what"]


def test_the_stand_in_has_images_of_all_digits(stand_in):
    train, tests, sources = stand_in
    sizes = {domain: (source["train"], source["test"]) for domain, source in sources.items()}
    assert sizes == {
        "mnist": (4000, 1000),
        "usps": (1400, 397),
        "svhn": (4400, 1000),
        "syn": (1400, 1000),
    }
    for pictures, labels in (*train.values(), *tests.values()):
        assert pictures.shape == (len(labels), 32, 32, 3) and pictures.dtype == np.uint8
        assert pictures.std() > 20 and set(labels.tolist()) == set(range(10))
    for part in (train, tests):
        for domain in ("svhn", "syn"):  # drawn, digits in turn
            assert len(set(np.bincount(part[domain][1]))) == 1


@pytest.mark.parametrize("draw", [standin.house_number, standin.synthetic])
def test_a_drawn_picture_depends_on_its_number(draw):
    short, long = standin.drawn(draw, 4, 12)[0], standin.drawn(draw, 4, 24)[0]
    assert np.array_equal(short, long[:12]) and len({image.tobytes() for image in long}) == 24


# -- bad files

TRAIN_IMAGES = "MNIST/raw/train-images-idx3-ubyte"
TRAIN_LABELS = "MNIST/raw/train-labels-idx1-ubyte"
TEST_LABELS = "MNIST/raw/t10k-labels-idx1-ubyte"
TRAIN_MAT, TEST_MAT = "SVHN/train_32x32.mat", "SVHN/test_32x32.mat"


def written(name, content):
    """What spoils a copy by other content of one file."""
    return lambda root: write(root / name, content)


def packed(name, ending, content):
    """What spoils a copy by a packed file in the place of a plain one."""

    def spoil(root):
        (root / name).rename(root / "old")
        write(root / f"{name}{ending}", content)

    return spoil


def no_images(root):
    write(root / TRAIN_LABELS, idx(DIGITS[:0]))
    write(root / TRAIN_IMAGES, idx(GREY[:0]))


BAD = {  # what is wrong: (how to spoil a good copy, fragments of the message)
    "truncated idx": (
        written(TRAIN_IMAGES, idx(GREY)[:-5]),
        ["train-images-idx3-ubyte", "10 x 28 x 28", "fewer"],
    ),
    "idx with more": (written(TEST_LABELS, idx(DIGITS) + b"x"), ["t10k-labels-idx1-ubyte", "more"]),
    "idx header only": (written(TEST_LABELS, b"\0\0"), ["0000", "00000801"]),
    "empty idx": (written(TEST_LABELS, b""), ["nothing", "00000801"]),
    "idx of four billion": (
        written(TRAIN_IMAGES, idx(GREY, shape=(4_000_000_000, 28, 28))),
        ["4000000000 x 28 x 28", "fewer"],
    ),
    "packed idx of four billion": (
        packed(TRAIN_IMAGES, ".gz", gzip.compress(idx(GREY, shape=(4_000_000_000, 28, 28)))),
        ["fewer"],
    ),
    "damaged gzip": (
        packed(TRAIN_LABELS, ".gz", gzip.compress(idx(DIGITS))[:-12]),
        ["labels-idx1-ubyte.gz", "gzip"],
    ),
    "idx of another kind": (
        written(TRAIN_IMAGES, idx(GREY, magic=0xD03)),
        ["00000d03", "00000803"],
    ),
    "idx label": (
        written(TRAIN_LABELS, idx(np.array([*range(9), 11]))),
        ["train-labels-idx1-ubyte", "label 11", "position 9", "0 to 9"],
    ),
    "unequal idx": (written(TRAIN_LABELS, idx(DIGITS[:9])), ["10 images", "9 labels"]),
    "no images": (no_images, ["mnist", "at least one"]),
    "usps 255 values": (
        written("USPS/usps", usps([1, 2]) + usps([3], count=255)),
        ["line 3", "255", "1 to 256"],
    ),
    "usps 257 values": (written("USPS/usps.t", usps([1], count=257)), ["usps.t, line 1", "257"]),
    "usps twice one index": (
        written("USPS/usps", usps([1]).replace(b" 2:", b" 1:")),
        ["line 1", "each once"],
    ),
    "usps label": (written("USPS/usps", usps([1, 11])), ["label 11", "position 1", "1 to 10"]),
    "usps label zero": (written("USPS/usps", usps([0])), ["label 0", "1 to 10"]),
    "usps value": (
        written("USPS/usps", usps([1], np.full((1, 256), 1.5))),
        ["line 1", "1.5", "-1 to 1"],
    ),
    "usps not a number": (
        written("USPS/usps", usps([1], np.full((1, 256), np.nan))),
        ["line 1", "nan"],
    ),
    "usps words": (written("USPS/usps", b"<html>no</html>\n"), ["usps, line 1", "label 1:value"]),
    "usps binary": (written("USPS/usps", RNG.bytes(500)), ["usps, line 1"]),
    "usps damaged bz2": (
        packed("USPS/usps", ".bz2", bz2.compress(usps(DIGITS + 1))[:-9]),
        ["usps.bz2", "damaged"],
    ),
    "svhn label": (
        lambda root: write_mat(root / TRAIN_MAT, [*range(1, 10), 12]),
        ["train_32x32.mat", "label 12", "position 9"],
    ),
    "svhn shape": (
        lambda root: write_mat(root / TEST_MAT, range(1, 11), COLOUR[:, :16]),
        ["16, 32", "32, 32, 3, n"],
    ),
    "svhn without labels": (
        lambda root: savemat(root / TEST_MAT, {"X": COLOUR}),
        ["test_32x32.mat", "X and y"],
    ),
    "damaged mat": (
        lambda root: write(root / TRAIN_MAT, (root / TEST_MAT).read_bytes()[:9000]),
        ["train_32x32.mat", "not a readable MATLAB"],
    ),
    "no mat": (written(TRAIN_MAT, b"<html>not found</html>"), ["not a readable MATLAB"]),
    "mat 7.3": (
        written(TRAIN_MAT, b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"),
        ["7.3", "-v7"],
    ),
    "hdf5": (written(TRAIN_MAT, b"\x89HDF\r\n\x1a\n" + bytes(600)), ["HDF5"]),
    "image": (written("syn/train/3/b.png", b"no image"), ["3/b.png", "not a readable image"]),
    "truncated image": (
        lambda root: write(
            root / "syn/train/3/a.png", (root / "syn/train/4/a.png").read_bytes()[:900]
        ),
        ["3/a.png", "not a readable image"],
    ),
    "class folder": (
        lambda root: write_png(root / "syn/val/ten/a.png"),
        ["val/ten", "'ten'", "0, 1, 2"],
    ),
    "class without images": (
        lambda root: (root / "syn/val/7/a.png").unlink(),
        ["syn/val", "class 7"],
    ),
    "missing domain": (
        lambda root: (root / "SVHN").rename(root / "other"),
        ["1 of 4 domains", "svhn: looked for train_32x32.mat"],
    ),
    "missing file": (
        lambda root: (root / TEST_LABELS).unlink(),
        ["mnist: looked for t10k-labels-idx1-ubyte[.gz] in mnist/raw"],
    ),
}


@pytest.mark.parametrize("spoil, fragments", BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("error")
def test_a_bad_copy_is_refused_in_one_line(tmp_path, spoil, fragments):
    spoil(write_digits(tmp_path))
    with pytest.raises(InputError) as caught:
        load("digits", tmp_path)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    for kind in ("IDX", "MATLAB"):
        with monkeypatch.context() as patch:
            patch.setitem(limits.LARGEST, kind, 100)
            with pytest.raises(InputError, match=r"^[^:(]*: \d+ bytes; wanted at most 100; get a"):
                load("digits", write_digits(tmp_path))


def test_some_domains_in_data_are_no_stand_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data/USPS/usps", usps([1]))
    with pytest.raises(
        InputError, match="4 of 4 domains.*mnist: .*usps: looked for usps.t.*svhn: .*syn: "
    ):
        load("digits")


def test_an_empty_folder_given_by_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="4 of 4 domains"):
        load("digits", tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        load("digits", tmp_path / "nowhere")


def test_office_names_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no built-in.*amazon, caltech10, dslr and webcam"):
        load("office")
    (write_office(tmp_path) / "dslr").rename(tmp_path / "camera")
    with pytest.raises(InputError, match="1 of 4 domains; dslr: looked for dslr"):
        load("office", tmp_path)
    (tmp_path / "camera").rename(tmp_path / "dslr")
    (tmp_path / "amazon/mug").rename(tmp_path / "amazon/cup")
    with pytest.raises(InputError, match="amazon/cup.*'cup'.*backpack, back_pack, bike"):
        load("office", tmp_path)


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="'letters'; wanted digits, office, folder"):
        load("letters")
