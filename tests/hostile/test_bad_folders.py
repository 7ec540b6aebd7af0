"""Folders that nobody could train on, and pictures that are none: one clear line for each."""

import errno
import os
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_domains import picture, write_domains, write_picture
from PIL import Image

from lab.data import domains, pictures
from lab.shell.errors import InputError


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test has a working folder of its own, for runs/ in it."""
    monkeypatch.chdir(tmp_path)


def refusal(call, *args, **options):
    """The line of the InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1900
    return line


# -- layouts

LAYOUTS = {
    "classes at the top": (
        {".": "cat dog"},
        "looks like one domain: its folder cat holds pictures",
    ),
    "one domain's splits": (
        {"train": "a b", "test": "a"},
        "one domain: its folders are test, train",
    ),
    "pictures too deep": ({"x/a": "one two", "y": "a"}, "x/a/one is nested too deep"),
    "deeper beside pictures": ({"x": "a b", "x/a": "sub"}, "x/a/sub is nested too deep"),
    "no train": ({"x/test": "a b"}, "x holds test; wanted one folder of training classes"),
    "two trains": ({"x/train": "a", "x/Train": "b"}, "x holds Train, train; wanted one folder"),
    "two vals": ({"x/train": "a", "x/val": "b", "x/valid": "b"}, "x holds train, val, valid"),
    "a class beside train": ({"x/train": "a b", "x": "c"}, "x/c lies beside train"),
    "one domain of pictures": ({"x": "a b", ".": "y"}, "y holds pictures but no class folders"),
    "one class": ({"x": "a", "y": "a"}, "images of 1 class, a; wanted 2 to 1000"),
    "a class in test only": (
        {"x/train": "a b", "x/test": "a c"},
        "x has test images of c, of which no domain has a training image",
    ),
    "a domain of test alone": (
        {"x/train/n": "", "x/test": "a b", "y": "a b"},
        "x holds test; wanted",
    ),
    "a class of _": ({"x": "_a b"}, "holds the class '_a', which cannot be a name"),
    "a formula": ({"x": "$a$ b US$x$"}, "holds the class 'US$x$', which cannot be a name"),
    "a line break": ({"x\ny": "a b"}, "holds the domain 'x\\ny', which cannot be a name"),
    "half a letter": ({"x": "b \udcff"}, "holds the class '\\udcff', which cannot be a name"),
    "a long name": ({"x": f"b {'n' * 101}"}, "which cannot be a name"),
    "a column's name": ({"AVG": "a b"}, "a column of the tables has it"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_wrong_layout_is_told(tmp_path, case):
    layout, words = LAYOUTS[case]
    assert words in refusal(domains.look, write_domains(tmp_path / "d", layout, 1))


def test_a_domain_without_pictures_is_told(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    (root / "y/a").mkdir(parents=True)
    assert "y holds no pictures in class folders" in refusal(domains.look, root)


def test_more_than_1000_classes_are_told(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a"}, 1)
    for i in range(1000):
        (root / f"x/c{i}").mkdir()
        os.link(root / "x/a/000.png", root / f"x/c{i}/0.png")
    assert "images of 1001 classes, a, c0, c1, c10, c100 and 996 more" in refusal(
        domains.look, root
    )


def test_no_folder_of_domains_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert refusal(domains.look, "").startswith(
        "--data is not given, or empty; wanted DIR/<domain>/<class>/"
    )
    assert "gone is not a folder" in refusal(domains.look, tmp_path / "gone")
    assert "file is not a folder" in refusal(domains.look, str(tmp_path / "file"))
    assert "holds no folders and no .npz files" in refusal(domains.look, tmp_path / "empty")


def test_folders_beside_npz_are_refused(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    np.savez(root / "y.npz", images=np.zeros((1, 8, 8), "u1"), labels=[0])
    assert "holds folders (x) and .npz files (y.npz)" in refusal(domains.look, root)


def test_links_in_circles_end_in_a_line(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    (root / "x/up").symlink_to(root)
    assert "x/up/x is nested too deep" in refusal(domains.look, root)
    (root / "x/up").unlink()
    for name in ("x/itself", "x/a/itself.png"):
        (root / name).symlink_to(root / name)
    assert domains.look(root).classes == ("a", "b")
    assert "1 picture of 5" in refusal(domains.read, domains.look(root))


def test_a_folder_without_rights_is_told(tmp_path, monkeypatch):
    """Not as damaged. Root may read everything, so the refusal is planted."""
    root = write_domains(tmp_path / "d", {"x": "a b"})
    there = Path.iterdir

    def refuse(path):
        if path.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return there(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    line = refusal(domains.look, root)
    assert "x/b cannot be read (Permission denied); look at its rights" in line


# -- .npz files

GOOD = {"images": np.zeros((3, 8, 8), "u1"), "labels": np.array([0, 1, 1])}
FILES = {
    "no labels": ({"labels": None}, "not an npz file with labels"),
    "no images": ({"images": None}, "not an npz file with images, labels"),
    "too few labels": ({"labels": np.array([0, 1])}, "its labels are [2]"),
    "floats": ({"images": np.zeros((3, 8, 8))}, "images is float64 [3, 8, 8]"),
    "two channels": ({"images": np.zeros((3, 8, 8, 2), "u1")}, "images is uint8 [3, 8, 8, 2]"),
    "channels first": ({"images": np.zeros((3, 3, 8, 8), "u1")}, "images is uint8 [3, 3, 8, 8]"),
    "no pixels": ({"images": np.zeros((3, 0, 8), "u1")}, "images is uint8 [3, 0, 8]"),
    "flat": ({"images": np.zeros((3, 64), "u1")}, "images is uint8 [3, 64]"),
    "negative": ({"labels": np.array([0, 1, -1])}, "labels holds -1; wanted whole numbers from 0"),
    "half": ({"labels": np.array([0, 1, 0.5])}, "labels holds 0.5"),
    "not a number": ({"labels": np.array([0, 1, np.nan])}, "labels holds nan"),
    "many classes": ({"labels": np.array([0, 1, 1000])}, "labels holds 1000"),
    "one-hot": ({"labels": np.eye(3)}, "labels is float64 [3, 3]; wanted one whole number"),
    "texts": ({"labels": np.array(["a", "b", "c"])}, "labels is <U1 [3]"),
    "objects": ({"labels": np.array([0, 1, None])}, "not an npz file with labels"),
    "empty": ({"images": GOOD["images"][:0], "labels": np.array([], int)}, "labels is int64 [0]"),
    "one class": ({"labels": np.zeros(3, int)}, "images of 1 class, 0"),
    "test labels alone": ({"test_labels": np.array([0])}, "test_images is lacking"),
    "test images alone": ({"test_images": GOOD["images"]}, "test_images is uint8 [3, 8, 8]"),
    "a class in test only": (
        {"test_images": GOOD["images"], "test_labels": np.array([0, 1, 2])},
        "x has test images of 2, of which no domain has a training image",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_npz_is_told(tmp_path, case):
    changes, words = FILES[case]
    arrays = {name: array for name, array in (GOOD | changes).items() if array is not None}
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d/x.npz", **arrays)
    line = refusal(lambda: domains.read(domains.look(tmp_path / "d")))
    assert words in line


def test_a_file_that_is_no_npz_is_told(tmp_path):
    path = tmp_path / "d/x.npz"
    path.parent.mkdir()
    np.savez(path, **GOOD)
    for content in (b"", b"words", path.read_bytes()[:-9]):
        path.write_bytes(content)
        assert "x.npz: not an npz file with labels" in refusal(domains.look, path.parent)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npy", b"no array")
    assert "x.npz: not an npz file with labels" in refusal(domains.look, path.parent)


def test_two_npz_of_one_name_are_told(tmp_path):
    (tmp_path / "d").mkdir()
    for ending in ("npz", "NPZ"):
        with open(tmp_path / f"d/x.{ending}", "wb") as file:
            np.savez(file, **GOOD)
    assert "are of one name" in refusal(domains.look, tmp_path / "d")


def test_a_large_npz_says_what_else_to_do(tmp_path):
    (tmp_path / "d").mkdir()
    with open(tmp_path / "d/x.npz", "wb") as file:
        file.truncate((1 << 29) + 1)
    assert "wanted at most 536870912; lay its images as pictures" in refusal(
        domains.look, tmp_path / "d"
    )


# -- pictures


@pytest.fixture
def bad(tmp_path):
    """A good folder with a row of files in it that are no pictures."""
    root = write_domains(tmp_path / "d", {"x": "a b", "y/train": "a b", "y/test": "a"})
    whole = (root / "x/a/000.png").read_bytes()
    (root / "x/a/cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "x/b/nothing.jpg").write_bytes(b"")
    (root / "y/train/a/words.png").write_text("these are words")
    (root / "y/test/a/lost.png").symlink_to(root / "nowhere.png")
    Image.fromarray(np.zeros((4, 4), "f4")).save(root / "x/b/float.tiff")
    Image.new("1", (9000, 9000)).save(root / "x/b/huge.png")
    return root


def test_all_damaged_pictures_are_named(bad):
    line = refusal(domains.read, domains.look(bad))
    assert "5 pictures of 16 in" in line and "put good copies in their place" in line
    assert "1 picture of 16 in" in line and "cannot be read, but may be whole" in line
    for name, why in {
        "x/a/cut.png": "truncated",
        "x/b/nothing.jpg": "none of PNG, JPEG",
        "y/train/a/words.png": "none of PNG, JPEG",
        "x/b/float.tiff": "floating-point",
        "x/b/huge.png": "9000 x 9000 pixels in",
        "y/test/a/lost.png": "No such file or directory",
    }.items():
        assert f"{name} (" in line and why in line.partition(f"{name} (")[2].partition(")")[0], name
    assert not Path("runs").exists()


def test_many_damaged_pictures_are_listed_in_a_file(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    for i in range(300):
        (root / f"x/a/bad{i:03}.png").write_text("words")
    line = refusal(domains.read, domains.look(root))
    assert line.startswith("300 pictures of 304 in") and line.endswith(
        "; runs/damaged.txt lists all"
    )
    listed = Path("runs/damaged.txt").read_text().splitlines()
    assert [name.partition(" ")[0] for name in listed] == [f"x/a/bad{i:03}.png" for i in range(300)]
    shown = line.count("x/a/bad")
    assert shown > 9 and f" and {300 - shown} more;" in line


def test_a_list_that_cannot_be_written_is_not_named(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    for i in range(100):
        (root / f"x/a/bad{i:03}.png").write_text("words")
    Path("runs").write_text("a file")
    assert refusal(domains.read, domains.look(root)).endswith(" more")


def test_a_strange_file_name_stays_in_its_line(tmp_path):
    """The screen escapes what is no UTF-8, see lab.shell.words.one_line."""
    root = write_domains(tmp_path / "d", {"x": "a b"})
    for i in range(60):
        (root / "x/a" / f"{i}\n\udcff.png").write_text("words")
    assert "60 pictures" in refusal(domains.read, domains.look(root))
    assert len(Path("runs/damaged.txt").read_text().splitlines()) == 60


def test_a_lacking_format_damages_no_picture(tmp_path, monkeypatch):
    """A plugin of Pillow's may be unreadable: the pictures are whole."""
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}))
    monkeypatch.delitem(Image.OPEN, "JPEG")
    line = refusal(domains.read, found)
    assert line.startswith("Pillow cannot open JPEG here") and "x/a" not in line


def test_damaged_exif_turns_nothing(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"}, 1)
    starts = (b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09")
    for i, start in enumerate(starts):
        write_picture(root / f"x/a/bad{i}.jpg", 3, 32, 32, exif=b"Exif\0\0" + start)
    turned, plain = (domains.read(domains.look(root), rotation=how) for how in ("exif", "file"))
    assert np.array_equal(turned[0]["x"][0], plain[0]["x"][0]) and len(turned[0]["x"][0]) == 5


@pytest.mark.parametrize("tag", [(0x100, 2, 1), (0x11A, 7, 1), (0x8769, 6, 1), (0x8825, 8, 1)])
def test_a_damaged_entry_leaves_the_rotation(tmp_path, tag):
    """Pillow turns the picture, then fails to write the other entries back."""
    entries = struct.pack("<HHI4s", 0x112, 3, 1, b"\x06") + struct.pack(
        "<HHI4s", *tag, b"\xc7\xd6\xf4\xf6"
    )
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + bytes(4)
    for name in "ab":
        write_picture(tmp_path / f"d/x/{name}/0.png", 3, 32, 32, exif=exif)
    train, _ = domains.read(domains.look(tmp_path / "d"))
    assert np.array_equal(train["x"][0][0], np.rot90(np.asarray(picture(3, 32, 32)), -1))


def test_a_picture_of_one_row_is_read(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"}, 1)
    write_picture(root / "x/a/thin.png", 1, 30000, 1)
    for fit in ("stretch", "crop"):
        assert len(domains.read(domains.look(root), 224, fit)[0]["x"][0]) == 3


def test_a_pipe_is_no_picture(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    os.mkfifo(root / "x/a/pipe.png")
    found = domains.look(root)
    assert len(found.train["x"]) == 4 and "1 file skipped" in found.notes[0]


def test_a_picture_that_changes_meanwhile_is_told(tmp_path, monkeypatch):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    read = pictures.read_picture

    def meanwhile(path, *options):
        image = read(path, *options)
        if path.name == "001.png" and path.parent.name == "a":
            picture(99).save(path)
        return image

    monkeypatch.setattr(pictures, "read_picture", meanwhile)
    assert "x/a/001.png changed while the pictures were read" in refusal(
        domains.read, domains.look(root)
    )


def test_a_folder_that_vanishes_is_told(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b", "y": "a"})
    found = domains.look(root)
    (root / "x").rename(tmp_path / "gone")
    line = refusal(domains.read, found)
    assert line.startswith("4 pictures of 6") and "may be whole" in line and "No such file" in line
    np.savez(tmp_path / "z.npz", **GOOD)
    (tmp_path / "e").mkdir()
    (tmp_path / "z.npz").rename(tmp_path / "e/z.npz")
    found = domains.look(tmp_path / "e")
    (tmp_path / "e/z.npz").unlink()
    assert "z.npz cannot be read (No such file" in refusal(domains.read, found)


def test_an_interrupt_does_not_wait_for_all(tmp_path, monkeypatch):
    """Ctrl-C after the first of 40 pictures, each of which takes a hundredth of a second."""
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}, 20))
    read = []

    def slowly(path, *options):
        read.append(path)
        time.sleep(0.01)
        return 0

    def interrupted(done, **options):
        yield next(done)
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "read_picture", slowly)
    monkeypatch.setattr(pictures, "tqdm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        domains.read(found)
    assert 0 < len(read) < 30


# -- settings and memory


@pytest.mark.parametrize(
    "options",
    [{"size": n} for n in (0, 7, 33, 232, -8, 32.0, True, "32", None)]
    + [{"fit": "pad"}, {"rotation": "none"}, {"fit": None}],
)
def test_a_wrong_setting_is_told(tmp_path, options):
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}))
    ((name, value),) = options.items()
    assert refusal(domains.read, found, **options).startswith(f"--{name} {value!r}; wanted ")


@pytest.mark.parametrize("kind", ["folders", "npz"])
def test_too_little_memory_is_told_before(tmp_path, monkeypatch, kind):
    root = tmp_path / "d"
    if kind == "folders":
        write_domains(root, {"x": "a", "y": "b"}, 3)
    else:
        root.mkdir()
        np.savez(root / "x.npz", images=np.zeros((6, 8, 8), "u1"), labels=[0, 1, 1, 0, 1, 1])
    found, needed = domains.look(root), 2 * 6 * 224 * 224 * 3
    monkeypatch.setattr(domains.cores, "memory", lambda: needed - 1)
    line = refusal(domains.read, found, 224)
    assert (
        line.startswith("6 pictures at --size 224 take 0.0 GB of memory")
        and "smaller --size" in line
    )
    monkeypatch.setattr(domains.cores, "memory", lambda: needed)
    assert len(domains.read(found, 224)[0]) == (2 if kind == "folders" else 1)
    monkeypatch.setattr(domains.cores, "memory", lambda: None)
    assert len(domains.read(found, 224)[0]) == (2 if kind == "folders" else 1)


def test_much_memory_is_told_before_it_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(domains.cores, "memory", lambda: None)
    domains.check_memory(5000, 224)
    assert capsys.readouterr().err == "5,000 pictures take 1.5 GB of memory\n"
    domains.check_memory(5000, 32)
    assert capsys.readouterr().err == ""
