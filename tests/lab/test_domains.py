"""Folders of the user's own domains: what is found, what is read, what is kept."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.data import cache, domains
from lab.data.images import read_class_folders
from lab.data.load import load
from lab.data.office import OBJECTS
from lab.shell.errors import InputError

OFFICE = Path(__file__).resolve().parents[3] / "shared" / "data" / "office_caltech"


def picture(path, seed=0, size=(12, 10), **how):
    """A PNG, or what the path's ending says, of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def folder_of(root, names, classes, each=3, part=""):
    """DIR/<domain>/[part/]<class>/ with so many pictures."""
    for i, domain in enumerate(names):
        for k, name in enumerate(classes):
            for j in range(each):
                picture(root / domain / part / name / f"{j}.png", (i, k, j, len(part)))
    return root


def turned(path, orientation):
    """A JPEG that asks to be turned."""
    exif = Image.Exif()
    exif[274] = orientation
    return picture(path, size=(20, 10), exif=exif)


# -- what is found


@pytest.mark.parametrize(
    "names, classes",
    [
        (["Büro foto", "photo", "スケッチ"], [f"class {letter}" for letter in "abcdefg"]),
        (["one", "two"], ["cat", "dog"]),
        (["p", "q"], [f"thing{k:02d}" for k in range(65)]),
        (["only"], ["cat", "dog"]),
    ],
)
def test_domains_and_classes_are_the_folders(names, classes, tmp_path):
    listing = domains.look(folder_of(tmp_path, names, classes, each=1))
    assert listing.classes == tuple(classes) and list(listing.train) == names
    for domain in names:
        labels = [label for _, label in listing.train[domain]]
        assert labels == list(range(len(classes))) and listing.tests[domain] == ()
        assert [path.parent.name for path, _ in listing.train[domain]] == classes


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
def test_test_folders_are_the_test_images(test, tmp_path):
    folder_of(tmp_path, ["a"], ["x", "y"], 2, "train")
    folder_of(tmp_path, ["a"], ["y"], 3, test)
    folder_of(tmp_path, ["b"], ["x", "y"], 2)
    listing = domains.look(tmp_path)
    assert [label for _, label in listing.train["a"]] == [0, 0, 1, 1]
    assert [label for _, label in listing.tests["a"]] == [1, 1, 1]
    assert len(listing.train["b"]) == 4 and listing.tests["b"] == ()


def test_a_class_may_be_called_train(tmp_path):
    listing = domains.look(folder_of(tmp_path, ["a"], ["bus", "train"]))
    assert listing.classes == ("bus", "train") and len(listing.train["a"]) == 6


def test_a_class_that_a_domain_lacks_is_told(tmp_path):
    folder_of(tmp_path, ["a"], ["x", "y"])
    folder_of(tmp_path, ["b"], ["y", "z"])
    (tmp_path / "a" / "empty").mkdir()
    listing = domains.look(tmp_path)
    assert listing.classes == ("x", "y", "z")
    assert {label for _, label in listing.train["b"]} == {1, 2}
    assert listing.notes == (
        "Note: a has no training image of z; its clients send no prototype of that.",
        "Note: b has no training image of x; its clients send no prototype of that.",
        "Note: class folders without a picture do not count: empty.",
    )


def test_what_systems_leave_is_passed_over(tmp_path):
    folder_of(tmp_path, ["a"], ["x", "y"])
    for name in ("@eaDir/x/1.png", "a/__MACOSX/1.png", "a/.hidden/1.png"):
        picture(tmp_path / name)
    (tmp_path / "a" / "x" / "README.txt").write_text("no picture")
    listing = domains.look(tmp_path)
    assert list(listing.train) == ["a"] and listing.classes == ("x", "y")
    assert len(listing.train["a"]) == 6


# -- what is read


def by_pillow(path, size, fit, rotation):
    """The picture again, step by step."""
    image = Image.open(path).convert("RGB")
    if rotation == "exif" and Image.open(path).getexif().get(274) == 6:
        image = image.transpose(Image.Transpose.ROTATE_270)
    if fit == "crop":
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("rotation", ["exif", "file"])
@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_picture_is_turned_then_made_square(size, fit, rotation, tmp_path):
    folder_of(tmp_path, ["a"], ["x", "y"])
    turned(tmp_path / "a" / "y" / "turned.jpg", 6)
    listing = domains.look(tmp_path)
    train, tests = domains.read(listing, size, fit, rotation)
    images, labels = train["a"]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1] and labels.dtype == np.int32
    assert tests["a"][0].shape == (0, size, size, 3) and tests["a"][1].shape == (0,)
    for (path, _), image in zip(listing.train["a"], images, strict=True):
        np.testing.assert_array_equal(image, by_pillow(path, size, fit, rotation))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_rotation_of_exif_is_done(orientation, suffix, tmp_path):
    """The grey corner that is seen at the top left is where EXIF puts it."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = 200
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "a" / "x").mkdir(parents=True)
    picture(tmp_path / "a" / "y" / "1.png")
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / "a" / "x" / f"1.{suffix}", exif=exif, **lossless)
    (image, _), _ = domains.read(domains.look(tmp_path))[0]["a"]
    # where EXIF's table puts the stored picture's first corner: row, column
    corner = {
        1: (0, 0),
        2: (0, 1),
        3: (1, 1),
        4: (1, 0),
        5: (0, 0),
        6: (0, 1),
        7: (1, 1),
        8: (1, 0),
    }
    bright = [(i, j) for i in (0, 1) for j in (0, 1) if image[8 + 16 * i, 8 + 16 * j, 0] > 100]
    assert bright == [corner[orientation]]


def test_train_and_test_images_go_to_their_places(tmp_path):
    folder_of(tmp_path, ["a", "b"], ["x", "y"], 2, "train")
    folder_of(tmp_path, ["a", "b"], ["x", "y"], 1, "test")
    listing = domains.look(tmp_path)
    for made, files in zip(domains.read(listing), (listing.train, listing.tests), strict=True):
        for domain, own in files.items():
            for image, (path, _) in zip(made[domain][0], own, strict=True):
                np.testing.assert_array_equal(image, by_pillow(path, 32, "stretch", "file"))


@pytest.mark.parametrize("shape", [(32, 32), (28, 20), (28, 28, 1), (40, 30, 3)])
def test_a_domain_may_be_an_npz_file(shape, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, *shape), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1, 2, 1, 0])
    np.savez(
        tmp_path / "b.npz",
        images=images,
        labels=[0] * 5,
        test_images=images[:2],
        test_labels=[2, 0],
    )
    (tmp_path / "notes.txt").write_text("not read")
    listing = domains.look(tmp_path)
    assert listing.classes == tuple("012") and list(listing.train) == ["a", "b"]
    train, tests = domains.read(listing)
    assert train["a"][1].tolist() == [0, 1, 2, 1, 0] and len(tests["a"][1]) == 0
    assert tests["b"][1].tolist() == [2, 0]
    plain = Image.fromarray(images[3].squeeze()).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(train["a"][0][3], np.asarray(plain.convert("RGB")))


def test_office_comes_through_both_doors_alike(tmp_path):
    """As its own reader has it, if rotations are left alone."""
    classes = [names.split("|")[0] for names in OBJECTS]
    folder_of(tmp_path, ["amazon", "dslr"], classes, 2)
    turned(tmp_path / "dslr" / "mug" / "turned.jpg", 8)
    train, _ = domains.read(domains.look(tmp_path), rotation="file")
    for domain, (images, labels) in train.items():
        want = read_class_folders(tmp_path / domain, OBJECTS)
        np.testing.assert_array_equal(images, want[0])
        np.testing.assert_array_equal(labels, want[1])


@pytest.mark.slow
@pytest.mark.skipif(not OFFICE.is_dir(), reason="Office-Caltech10's files are not here")
def test_the_published_office_comes_alike(tmp_path, monkeypatch):
    """One picture of it stands upright and asks for a rotation."""
    monkeypatch.chdir(tmp_path)
    left, done = (
        domains.read(domains.look(OFFICE), rotation=rotation)[0] for rotation in ("file", "exif")
    )
    for domain, (images, labels) in left.items():
        want = read_class_folders(OFFICE / domain, OBJECTS)
        np.testing.assert_array_equal(images, want[0])
        np.testing.assert_array_equal(labels, want[1])
        differ = (images != done[domain][0]).any(axis=(1, 2, 3)).sum()
        assert differ == (domain == "caltech10")


def test_load_says_how_many_are_held_back(tmp_path):
    folder_of(tmp_path, ["a"], ["x", "y"], 6)
    picture(tmp_path / "a" / "x" / "again.png", (0, 0, 0, 0))  # equal to 0.png
    train, tests, sources = load("folder", tmp_path)
    assert len(train["a"][1]) == 13 and len(tests["a"][1]) == 0
    told = {name: sources["a"][name] for name in ("train", "test", "held_back", "repeated")}
    assert told == {"train": 11, "test": 2, "held_back": 2, "repeated": 1}


def test_a_domain_of_one_image_is_one_line(tmp_path):
    folder_of(tmp_path, ["a"], ["x", "y"])
    picture(tmp_path / "b" / "x" / "1.png")
    with pytest.raises(InputError, match="b .* gives 1 training and 0 test images; wanted"):
        load("folder", tmp_path)


# -- what is kept


@pytest.fixture
def keeping(tmp_path, monkeypatch):
    """(the folder, read() -> images, how often pictures were really read)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "FEWEST", 1)
    root, calls = folder_of(tmp_path / "own", ["a"], ["x", "y"]), []
    real = domains.read_pictures

    def counted(paths, how):
        calls.append(len(paths))
        return real(paths, how)

    monkeypatch.setattr(domains, "read_pictures", counted)
    return root, lambda **how: domains.read(domains.look(root), **how)[0]["a"][0], calls


def test_pictures_are_read_once(keeping):
    _, read, calls = keeping
    first = read()
    np.testing.assert_array_equal(read(), first)
    assert calls == [6]
    read(size=16)
    read(fit="crop")
    read(rotation="file")
    assert len(calls) == 4


@pytest.mark.parametrize(
    "change", ["content", "a name", "one more", "one less", "content and time"]
)
def test_changed_pictures_are_read_again(change, keeping):
    root, read, calls = keeping
    path = root / "a" / "x" / "0.png"
    read()
    before, content = path.stat(), path.read_bytes()
    if change in ("content", "content and time"):
        path.write_bytes(content)
        picture(path, seed=99)
        path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0")[: max(before.st_size, 1)])
        picture(path, seed=99)
        if change == "content and time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "a name":
        path.rename(path.with_name("0b.png"))
    elif change == "one more":
        picture(path.with_name("9.png"))
    else:
        path.unlink()
    images = read()
    assert len(calls) == 2
    listing = domains.look(root)
    for image, (path, _) in zip(images, listing.train["a"], strict=True):
        np.testing.assert_array_equal(image, by_pillow(path, 32, "stretch", "file"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
        lambda path: path.with_suffix(".sha256").unlink(),
        lambda path: np.save(path, np.zeros((6, 8, 8, 3), np.uint8)),
        lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
        lambda path: path.unlink() or path.mkdir(),
    ],
)
def test_what_was_kept_is_not_trusted(spoil, keeping):
    _, read, calls = keeping
    first = read()
    (kept,) = cache.KEPT.glob("*.npy")
    spoil(kept)
    np.testing.assert_array_equal(read(), first)
    assert calls == [6, 6]


def test_where_nothing_can_be_kept_all_is_read(keeping):
    _, read, calls = keeping
    Path("runs").write_text("a file")
    np.testing.assert_array_equal(read(), read())
    assert calls == [6, 6]


def test_the_kept_files_are_bounded(keeping):
    _, read, _ = keeping
    for size in range(16, 16 + 8 * (cache.MOST + 2), 8):
        read(size=size)
    assert len(list(cache.KEPT.glob("*.npy"))) == cache.MOST
    assert len(list(cache.KEPT.iterdir())) == 2 * cache.MOST


def test_a_picture_changed_meanwhile_is_not_kept(keeping):
    root, _, _ = keeping
    listing = domains.look(root)
    paths = [path for path, _ in listing.train["a"]]

    def read():
        picture(paths[0], seed=5)
        return np.zeros((6, 32, 32, 3), np.uint8)

    cache.kept(root, paths, {"side": 32}, read)
    assert not list(cache.KEPT.glob("*.npy"))
