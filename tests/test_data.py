"""What lab/data.py promises: published copies are found and read exactly, damaged ones are named in one line."""
import bz2
import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from fpl import InputError
from lab import data, standin

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10, 28, 28)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
DIGITS = np.arange(10)


def idx(array, magic=None, shape=None):
    shape = shape or array.shape
    return struct.pack(f">i{len(shape)}I", magic or 0x800 + len(shape), *shape) + array.astype(np.uint8).tobytes()


def usps(labels, values=None, count=256):
    values = np.full((len(labels), count), -1.0) if values is None else values
    return "".join(f"{label} " + " ".join(f"{i}:{value:g}" for i, value in enumerate(row, 1)) + "\n"
                   for label, row in zip(labels, values)).encode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_mat(path, labels, images=COLOUR):
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array(labels).reshape(-1, 1)})
    return path


def write_png(path, array=COLOUR[0]):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_digits(root, mnist="MNIST/raw", usps_place="USPS", svhn="SVHN", syn="syn", splits=("train", "val"), pack=False):
    """A small copy of all four domains: ten images each, one per digit."""
    zipped, bzipped = (gzip.compress, bz2.compress) if pack else (bytes, bytes)
    for part in ("train", "t10k"):
        write(root / mnist / f"{part}-images-idx3-ubyte{'.gz' if pack else ''}", zipped(idx(GREY)))
        write(root / mnist / f"{part}-labels-idx1-ubyte{'.gz' if pack else ''}", zipped(idx(DIGITS)))
    for name in ("usps", "usps.t"):
        write(root / usps_place / f"{name}{'.bz2' if pack else ''}", bzipped(usps(DIGITS + 1)))
    for part in ("train", "test"):
        write_mat(root / svhn / f"{part}_32x32.mat", [10, *range(1, 10)])
    for part in splits:
        for digit in DIGITS:
            write_png(root / syn / part / str(digit) / "a.png", COLOUR[digit])
    return root


def write_office(root, count=3, caltech="caltech10", bag="backpack", notebook="laptop"):
    """count[i] differently grey images per class and domain."""
    for domain in (caltech, "amazon", "webcam", "dslr"):
        for label, name in enumerate([bag, "bike", "calculator", "headphones", "keyboard", notebook, "monitor", "mouse", "mug",
                                      "projector"]):
            for i in range(count):
                write_png(root / domain / name / f"{i:03}.jpg", np.full((20, 30, 3), (label * count + i) * 7 % 256, np.uint8))
    return root


# -- good files ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", [
    {}, {"pack": True}, {"mnist": "mnist", "usps_place": "usps", "syn": "SYN", "splits": ("imgs_train", "imgs_valid")},
    {"mnist": ".", "usps_place": ".", "svhn": ".", "syn": "synthetic_digits/", "splits": ("TRAIN", "test")},
    {"mnist": "digits/MNIST/raw", "usps_place": "digits/USPS", "svhn": "digits/SVHN", "syn": "digits/syn"},
])
def test_digits_are_found_in_every_published_layout(tmp_path, layout):
    train, tests, sources = data.load("digits", write_digits(tmp_path / "zwei Wörter 数据", **layout))
    assert list(train) == list(tests) == list(sources) == ["mnist", "usps", "svhn", "syn"]
    for images, labels in (*train.values(), *tests.values()):
        assert images.dtype == np.uint8 and images.shape == (10, 32, 32, 3)
        assert labels.dtype == np.int32 and labels.tolist() == list(range(10))
    assert all(source["kind"] == "files" and source["train"] == source["test"] == 10 for source in sources.values())
    assert np.array_equal(train["svhn"][0], COLOUR) and np.array_equal(train["syn"][0], COLOUR)


def test_idx_images_keep_their_order_and_become_three_equal_channels(tmp_path):
    images, _ = data.read_mnist(write(tmp_path / "x", idx(GREY)), write(tmp_path / "y", idx(DIGITS)))
    wanted = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in GREY])
    assert np.array_equal(images, np.repeat(wanted[..., None], 3, -1))


def test_usps_values_from_minus_one_to_one_become_bytes(tmp_path):
    values = np.repeat([[-1.0], [-0.2], [0.0], [1.0]], 256, axis=1)
    images, labels = data.read_usps(write(tmp_path / "usps", usps([10, 1, 2, 3], values)))
    assert images[:, 5, 5, 0].tolist() == [0, 102, 128, 255] and labels.tolist() == [9, 0, 1, 2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "RGB", "LA", "1", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    Image.fromarray(COLOUR[0]).convert(mode).save(tmp_path / ("a.png" if mode != "CMYK" else "a.tif"))
    image = data.read_image(tmp_path / ("a.png" if mode != "CMYK" else "a.tif"))
    wanted = np.asarray(Image.fromarray(COLOUR[0]).convert(mode).convert("RGB"))
    assert image.dtype == np.uint8 and np.array_equal(image, wanted)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    write_png(tmp_path / "a.png", (np.arange(1024).reshape(32, 32) % 256 * 257).astype(np.uint16))
    assert np.array_equal(data.read_image(tmp_path / "a.png")[..., 1], np.arange(1024).reshape(32, 32) % 256)


def test_stray_files_are_no_images(tmp_path):
    write_digits(tmp_path)
    for stray in (".DS_Store", "train/.DS_Store", "train/notes.txt", "train/3/.DS_Store", "train/3/._a.png", "train/3/list.csv"):
        write(tmp_path / "syn" / stray, b"no image")
    write(tmp_path / "syn/train/.cache/a.png", b"no image")
    assert data.load("digits", tmp_path)[2]["syn"]["train"] == 10


@pytest.mark.parametrize("layout", [{}, {"caltech": "Caltech", "bag": "back_pack", "notebook": "laptop_computer"}])
@pytest.mark.parametrize("place", ["", "office_caltech_10"])
def test_office_is_split_eight_to_two_without_overlap(tmp_path, layout, place):
    write_office(tmp_path / place, **layout)
    train, tests, sources = data.load("office", tmp_path)
    assert list(train) == ["caltech", "amazon", "webcam", "dslr"]
    for domain in train:
        shades, held_out = (part[domain][0][:, 0, 0, 0].tolist() for part in (train, tests))
        assert len(shades) == 24 and len(held_out) == 6
        assert sorted(shades + held_out) == sorted(i * 7 % 256 for i in range(30))
        assert held_out == [i * 7 % 256 for i in (8, 9, 18, 19, 28, 29)]
        assert tests[domain][1].tolist() == [2, 3, 6, 6, 9, 9]


# -- the stand-in ----------------------------------------------------------------------------------------------------------

@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 3, 257]), st.integers(16, 32), st.integers(16, 32))
def test_many_grey_images_become_the_squares_that_each_becomes_alone(seed, n, h, w):
    images = np.random.default_rng(seed).integers(0, 256, (n, h, w), np.uint8)
    squares = data.to_squares(images)
    assert squares.shape == (n, 32, 32, 3) and squares.dtype == np.uint8
    for square, image in zip(squares, images):
        np.testing.assert_array_equal(square, data.to_square(Image.fromarray(image)))


def test_the_stand_in_is_the_same_each_time_and_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = data.load("digits"), data.load("digits")
    assert first[2] == second[2]
    sizes = {domain: (source["train"], source["test"]) for domain, source in first[2].items()}
    assert sizes == {"mnist": (4000, 1000), "usps": (1400, 397), "svhn": (4400, 1000), "syn": (1400, 1000)}
    assert all(source["kind"] == "stand-in" and "stand-in" in source["what"] for source in first[2].values())
    for domain in ("svhn", "syn"):
        for part in first[:2]:
            assert len(set(np.bincount(part[domain][1], minlength=10))) == 1
    for images, labels in (*first[0].values(), *first[1].values()):
        assert images.shape == (len(labels), 32, 32, 3) and images.dtype == np.uint8 and images.std() > 20


def test_a_drawn_picture_depends_on_its_own_number_only():
    short, long = standin.drawn(standin.synthetic, 4, 12)[0], standin.drawn(standin.synthetic, 4, 24)[0]
    assert np.array_equal(short, long[:12]) and len({image.tobytes() for image in long}) == 24


def test_the_digest_sees_shape_and_content():
    assert data.digest(COLOUR) == data.digest(COLOUR.copy()) != data.digest(COLOUR.reshape(-1))
    assert data.digest(COLOUR) != data.digest(COLOUR ^ (np.arange(COLOUR.size).reshape(COLOUR.shape) == 7))


# -- bad files -------------------------------------------------------------------------------------------------------------

BAD = {  # what is wrong: (how to spoil a good copy, fragments of the message)
    "truncated idx": (lambda root: write(root / "MNIST/raw/train-images-idx3-ubyte", idx(GREY)[:-5]),
                      ["train-images-idx3-ubyte", "10 x 28 x 28", "fewer"]),
    "idx with more": (lambda root: write(root / "MNIST/raw/t10k-labels-idx1-ubyte", idx(DIGITS) + b"x"),
                      ["t10k-labels-idx1-ubyte", "more"]),
    "idx header only": (lambda root: write(root / "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0"), ["0000", "00000801"]),
    "empty idx": (lambda root: write(root / "MNIST/raw/t10k-labels-idx1-ubyte", b""), ["nothing", "00000801"]),
    "idx of four billion": (lambda root: write(root / "MNIST/raw/train-images-idx3-ubyte", idx(GREY, shape=(4_000_000_000, 28, 28))),
                            ["4000000000 x 28 x 28", "fewer"]),
    "packed idx of four billion": (lambda root: (root / "MNIST/raw/train-images-idx3-ubyte").rename(root / "old") and write(
        root / "MNIST/raw/train-images-idx3-ubyte.gz", gzip.compress(idx(GREY, shape=(4_000_000_000, 28, 28)))), ["fewer"]),
    "damaged gzip": (lambda root: (root / "MNIST/raw/train-labels-idx1-ubyte").rename(root / "old") and write(
        root / "MNIST/raw/train-labels-idx1-ubyte.gz", gzip.compress(idx(DIGITS))[:-12]), ["labels-idx1-ubyte.gz", "gzip"]),
    "idx of another kind": (lambda root: write(root / "MNIST/raw/train-images-idx3-ubyte", idx(GREY, magic=0xD03)),
                            ["00000d03", "00000803"]),
    "idx label": (lambda root: write(root / "MNIST/raw/train-labels-idx1-ubyte", idx(np.array([*range(9), 11]))),
                  ["train-labels-idx1-ubyte", "label 11", "position 9", "0 to 9"]),
    "unequal idx": (lambda root: write(root / "MNIST/raw/train-labels-idx1-ubyte", idx(DIGITS[:9])), ["10 images", "9 labels"]),
    "no images": (lambda root: (write(root / "MNIST/raw/train-labels-idx1-ubyte", idx(DIGITS[:0])),
                                write(root / "MNIST/raw/train-images-idx3-ubyte", idx(GREY[:0]))), ["mnist", "at least one"]),
    "usps 255 values": (lambda root: write(root / "USPS/usps", usps([1, 2]) + usps([3], count=255)), ["line 3", "255", "1 to 256"]),
    "usps 257 values": (lambda root: write(root / "USPS/usps.t", usps([1], count=257)), ["usps.t, line 1", "257"]),
    "usps twice one index": (lambda root: write(root / "USPS/usps", usps([1]).replace(b" 2:", b" 1:")), ["line 1", "each once"]),
    "usps label": (lambda root: write(root / "USPS/usps", usps([1, 11])), ["label 11", "position 1", "1 to 10"]),
    "usps label zero": (lambda root: write(root / "USPS/usps", usps([0])), ["label 0", "1 to 10"]),
    "usps value": (lambda root: write(root / "USPS/usps", usps([1], np.full((1, 256), 1.5))), ["line 1", "1.5", "-1 to 1"]),
    "usps not a number": (lambda root: write(root / "USPS/usps", usps([1], np.full((1, 256), np.nan))), ["line 1", "nan"]),
    "usps words": (lambda root: write(root / "USPS/usps", b"<html>no</html>\n"), ["usps, line 1", "label 1:value"]),
    "usps binary": (lambda root: write(root / "USPS/usps", RNG.bytes(500)), ["usps, line 1"]),
    "usps damaged bz2": (lambda root: (root / "USPS/usps").rename(root / "old") and write(
        root / "USPS/usps.bz2", bz2.compress(usps(DIGITS + 1))[:-9]), ["usps.bz2", "damaged"]),
    "svhn label": (lambda root: write_mat(root / "SVHN/train_32x32.mat", [*range(1, 10), 12]), ["train_32x32.mat", "label 12", "position 9"]),
    "svhn shape": (lambda root: write_mat(root / "SVHN/test_32x32.mat", range(1, 11), COLOUR[:, :16]), ["16, 32", "32, 32, 3, n"]),
    "svhn without labels": (lambda root: savemat(root / "SVHN/test_32x32.mat", {"X": COLOUR}), ["test_32x32.mat", "X and y"]),
    "damaged mat": (lambda root: write(root / "SVHN/train_32x32.mat", (root / "SVHN/test_32x32.mat").read_bytes()[:9000]),
                    ["train_32x32.mat", "not a readable MATLAB"]),
    "no mat": (lambda root: write(root / "SVHN/train_32x32.mat", b"<html>not found</html>"), ["not a readable MATLAB"]),
    "mat 7.3": (lambda root: write(root / "SVHN/train_32x32.mat", b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"), ["7.3", "-v7"]),
    "hdf5": (lambda root: write(root / "SVHN/train_32x32.mat", b"\x89HDF\r\n\x1a\n" + bytes(600)), ["HDF5"]),
    "image": (lambda root: write(root / "syn/train/3/b.png", b"no image"), ["3/b.png", "not a readable image"]),
    "truncated image": (lambda root: write(root / "syn/train/3/a.png", (root / "syn/train/4/a.png").read_bytes()[:900]),
                        ["3/a.png", "not a readable image"]),
    "class folder": (lambda root: write_png(root / "syn/val/ten/a.png"), ["val/ten", "'ten'", "0, 1, 2"]),
    "class without images": (lambda root: (root / "syn/val/7/a.png").unlink(), ["syn/val", "class 7"]),
    "missing domain": (lambda root: (root / "SVHN").rename(root / "other"), ["1 of 4 domains", "svhn: looked for train_32x32.mat"]),
    "missing file": (lambda root: (root / "MNIST/raw/t10k-labels-idx1-ubyte").unlink(),
                     ["mnist: looked for t10k-labels-idx1-ubyte[.gz] in mnist/raw"]),
}


@pytest.mark.parametrize("spoil, fragments", BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("error")
def test_a_bad_copy_is_refused_in_one_line(tmp_path, spoil, fragments):
    spoil(write_digits(tmp_path))
    with pytest.raises(InputError) as caught:
        data.load("digits", tmp_path)
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_default_folder_with_some_domains_is_no_reason_for_the_stand_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data/USPS/usps", usps([1]))
    with pytest.raises(InputError, match="4 of 4 domains.*mnist: .*usps: looked for usps.t.*svhn: .*syn: "):
        data.load("digits")


def test_an_empty_folder_given_by_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="4 of 4 domains"):
        data.load("digits", tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        data.load("digits", tmp_path / "nowhere")


def test_office_names_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no built-in.*amazon, caltech10, dslr and webcam"):
        data.load("office")
    (write_office(tmp_path) / "dslr").rename(tmp_path / "camera")
    with pytest.raises(InputError, match="1 of 4 domains; dslr: looked for dslr"):
        data.load("office", tmp_path)
    (tmp_path / "camera").rename(tmp_path / "dslr")
    (tmp_path / "amazon/mug").rename(tmp_path / "amazon/cup")
    with pytest.raises(InputError, match="amazon/cup.*'cup'.*backpack, back_pack, bike"):
        data.load("office", tmp_path)


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match="'letters'; wanted digits or office"):
        data.load("letters")
