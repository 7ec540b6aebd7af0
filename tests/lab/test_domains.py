"""lab/data/domains.py: the user's own images are found, read exactly and kept."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_domains import picture, write_domains, write_picture
from PIL import Image

from lab.data import cache, domains, pictures
from lab.data.images import read_class_folders, read_image, to_square
from lab.data.load import repeated
from lab.data.office import OBJECTS

OFFICE = Path(__file__).resolve().parents[3] / "shared/data/office_caltech"
LETTERS = "a b c d e f g"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test has a working folder of its own, for runs/ in it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kept(monkeypatch):
    """A cache for folders however small, and the list of what was decoded."""
    decoded = []
    read = pictures.read_picture
    monkeypatch.setattr(cache, "FEWEST_BYTES", 1)
    monkeypatch.setattr(
        pictures, "read_picture", lambda path, *rest: decoded.append(path.name) or read(path, *rest)
    )
    return decoded


def same(one, other):
    """Whether two (train, tests) are equal to the last byte."""
    pairs = [(one[i], other[i]) for i in (0, 1)]
    return all(
        a.keys() == b.keys()
        and all(np.array_equal(x, y) for d in a for x, y in zip(a[d], b[d], strict=True))
        for a, b in pairs
    )


# -- the look


def test_three_domains_of_seven_classes_are_found(tmp_path):
    root = write_domains(tmp_path / "d", dict.fromkeys(("x", "y", "z"), LETTERS), count=3)
    found = domains.look(root)
    assert found.folder == root and found.classes == tuple(LETTERS.split())
    assert list(found.train) == ["x", "y", "z"] and found.notes == ()
    assert found.tests == {"x": (), "y": (), "z": ()}
    wanted = [
        (root / "y" / c / f"{i:03}.png", k) for k, c in enumerate("abcdefg") for i in range(3)
    ]
    assert list(found.train["y"]) == wanted


@pytest.mark.parametrize("count", [2, 65])
def test_any_number_of_classes_is_read(tmp_path, count):
    """Sorted as plain strings: class10 comes before class2."""
    names = [f"class{i}" for i in range(count)]
    found = domains.look(write_domains(tmp_path / "d", {"x": " ".join(names)}, count=1))
    assert found.classes == tuple(sorted(names))
    train, tests = domains.read(found, 8)
    assert train["x"][1].tolist() == list(range(count)) and train["x"][1].dtype == np.int32
    assert train["x"][0].shape == (count, 8, 8, 3) and train["x"][0].dtype == np.uint8
    assert tests["x"][0].shape == (0, 8, 8, 3) and tests["x"][1].shape == (0,)


def test_names_of_every_script_are_fine(tmp_path):
    for place in ("Büro/große Tasse", "Büro/カップ", "my photos/カップ"):
        write_picture(tmp_path / "d" / place / "ein Bild 写真.png")
    found = domains.look(tmp_path / "d")
    assert found.classes == ("große Tasse", "カップ")
    assert found.notes == ("my photos lacks 1 of 2 classes: große Tasse",)
    assert domains.read(found)[0]["my photos"][1].tolist() == [1]


@pytest.mark.parametrize("name", ["test", "Val", "valid", "validation", "TESTING"])
def test_a_folder_beside_train_is_the_test(tmp_path, name):
    root = write_domains(tmp_path / "d", {"x/train": "a b", f"x/{name}": "b", "y": "a b"}, 1)
    found = domains.look(root)
    assert found.tests["x"] == ((root / "x" / name / "b/000.png", 1),) and found.tests["y"] == ()
    assert [label for _, label in found.train["x"]] == [0, 1]
    note = (f"x: {name} is the test set",) if name.lower().startswith("val") else ()
    assert found.notes == note
    train, tests = domains.read(found)
    assert np.array_equal(tests["x"][0][0], read_image(root / "x" / name / "b/000.png"))
    assert len(tests["x"][0]) == 1 and len(train["x"][0]) == 2


def test_of_test_and_val_test_is_used(tmp_path):
    layout = {"x/train": "a b", "x/val": "a", "x/test": "b"}
    found = domains.look(write_domains(tmp_path / "d", layout))
    assert {path.parent.parent.name for path, _ in found.tests["x"]} == {"test"}
    assert found.notes == ("x: test is the test set; val is not used",)


def test_a_class_may_be_called_train(tmp_path):
    """As in DomainNet: a folder of that name that holds pictures itself."""
    found = domains.look(write_domains(tmp_path / "d", {"real": "bus train", "clip": "bus test"}))
    assert found.classes == ("bus", "test", "train")


def test_what_is_left_out_is_noted(tmp_path):
    root = write_domains(tmp_path / "d", {"x": "a b", "y": "b"})
    (root / "x/none").mkdir()
    (root / "y/a").mkdir()
    write_picture(root / "x/@eaDir/a.png")
    write_picture(root / "x/#odd/a.png")
    for name in (
        "x/a/README",
        "x/b/t.csv",
        "x/b/u.CSV",
        "x/list.txt",
        "x/a/.DS_Store",
        "x/a/Thumbs.db",
    ):
        (root / name).write_text("words")
    found = domains.look(root)
    assert found.classes == ("a", "b")
    assert found.notes == (
        "no pictures in any domain, so no class: none",
        "4 files skipped, for its ending or place: .csv, .txt, no ending",
        "passed over, as folders that systems leave: #odd",
        "y lacks 1 of 2 classes: a",
    )


def test_names_that_look_alike_are_noted(tmp_path):
    root = write_domains(
        tmp_path / "d", {"x": "Cup cup caf\u00e9", "y": "cafe\u0301 cup", "X": "cup"}
    )
    found = domains.look(root)
    assert len(found.classes) == 4 and len(found.train) == 3
    assert sum("look alike" in note for note in found.notes) == 3
    assert "'caf\\xe9'" in " ".join(found.notes)


# -- .npz files


def save(path, **arrays):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("tail", [(), (1,), (3,)])
def test_npz_files_are_domains(tmp_path, tail):
    draw = np.random.default_rng(0).integers(0, 256, (5, 10, 14, *tail)).astype(np.uint8)
    root = save(tmp_path / "d/x.npz", images=draw, labels=np.array([0, 2, 1, 1, 0.0])).parent
    save(
        root / "y.npz",
        images=draw,
        labels=np.zeros(5, "i8"),
        test_images=draw[:2],
        test_labels=[2, 0],
    )
    found = domains.look(root)
    assert found.classes == ("0", "1", "2")
    assert found.train == {"x": root / "x.npz", "y": root / "y.npz"}
    assert found.tests == {"x": (), "y": root / "y.npz"}
    assert found.notes == ("y lacks 2 of 3 classes: 1, 2",)
    train, tests = domains.read(found, 16)
    wanted = to_square(Image.fromarray(draw[3].squeeze()), 16)
    assert np.array_equal(train["x"][0][3], wanted) and train["x"][1].tolist() == [0, 2, 1, 1, 0]
    assert np.array_equal(tests["y"][0], train["y"][0][:2]) and tests["y"][1].tolist() == [2, 0]
    assert tests["x"][0].shape == (0, 16, 16, 3) and train["x"][1].dtype == np.int32


# -- reading


def test_a_stretch_is_what_office_gets(tmp_path):
    """With size 32 and the rotation of the file, byte for byte, for formats of all kinds."""
    root = write_domains(tmp_path / "d", {"x": "a b"}, count=3, ending=".jpg")
    for mode in ("1", "L", "LA", "RGBA", "P", "I;16", "CMYK"):
        ending = "tif" if mode == "CMYK" else "png"
        grey = Image.fromarray(np.arange(0, 65536, 64).astype(np.uint16).reshape(32, 32))
        image = grey if mode == "I;16" else picture(9, 40, 20).convert(mode)
        image.save(root / f"x/b/{mode.replace(';', '')}.{ending}")
    picture(5).save(root / "x/b/moves.gif", save_all=True, append_images=[picture(6)])
    train, _ = domains.read(domains.look(root), rotation="file")
    images, labels = read_class_folders(root / "x", ("a", "b"))
    assert len(images) == 14
    assert np.array_equal(train["x"][0], images) and np.array_equal(train["x"][1], labels)


@pytest.mark.skipif(not OFFICE.is_dir(), reason="Office-Caltech10 is not at hand")
@pytest.mark.slow
def test_office_is_read_as_office(monkeypatch):
    """One picture of it has a stale EXIF orientation."""
    found = domains.look(OFFICE)
    as_they_lie, _ = domains.read(found, rotation="file")
    turned, _ = domains.read(found)
    differ = []
    for domain, (images, labels) in as_they_lie.items():
        wanted = read_class_folders(OFFICE / domain, OBJECTS)
        assert np.array_equal(images, wanted[0]) and np.array_equal(labels, wanted[1])
        odd = np.flatnonzero((turned[domain][0] != images).any((1, 2, 3)))
        differ += [str(found.train[domain][i][0].relative_to(OFFICE)) for i in odd]
    assert differ == ["caltech10/mug/041_0006.jpg"]


def test_a_crop_is_the_middle(tmp_path):
    """Of 96 x 32 pixels it is the 32 in the middle, as they stand."""
    path = write_picture(tmp_path / "d/x/a/wide.png", 1, 96, 32)
    write_picture(tmp_path / "d/x/b/tall.png", 2, 32, 64)
    deep = np.arange(0, 65536, 32, dtype=np.uint16).reshape(32, 64)
    Image.fromarray(deep).save(tmp_path / "d/x/b/with 16 bits.png")
    train, _ = domains.read(domains.look(tmp_path / "d"), 32, "crop")
    assert np.array_equal(train["x"][0][0], np.asarray(Image.open(path))[:, 32:64])
    assert np.array_equal(train["x"][0][1], np.asarray(picture(2, 32, 64))[16:48])
    assert np.abs(train["x"][0][2][..., 0] - deep[:, 16:48] / 257).max() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_if_asked(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in "ab":
        write_picture(tmp_path / f"d/x/{name}/0.png", 3, 32, 32, exif=exif)
    found = domains.look(tmp_path / "d")
    plain = np.asarray(picture(3, 32, 32))
    turned = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1],
        5: plain.swapaxes(0, 1), 6: np.rot90(plain, -1), 7: np.rot90(plain.swapaxes(0, 1), 2),
        8: np.rot90(plain),
    }[orientation]  # fmt: skip
    assert np.array_equal(domains.read(found)[0]["x"][0][0], turned)
    assert np.array_equal(domains.read(found, rotation="file")[0]["x"][0][0], plain)


def test_threads_do_not_change_a_byte(tmp_path, monkeypatch):
    found = domains.look(
        write_domains(tmp_path / "d", {"x": LETTERS, "y/train": "a", "y/test": "b"}, 5)
    )
    results = []
    for threads in (1, 8):
        monkeypatch.setattr(pictures.cores, "granted", lambda threads=threads: threads)
        results.append(domains.read(found, 16))
    assert same(*results) and len(results[0][0]["x"][0]) == 35


def test_a_picture_may_lie_there_twice(tmp_path):
    root = write_domains(tmp_path / "d", {"x/train": "a b", "x/test": "a"}, count=1)
    for place in ("x/train/a/again.png", "x/test/a/again.png"):
        (root / place).write_bytes((root / "x/train/a/000.png").read_bytes())
    train, tests = domains.read(domains.look(root))
    assert len(train["x"][0]) == 3 and repeated(train["x"][0], tests["x"][0]) == 1


def test_no_bar_where_there_is_no_screen(tmp_path, capsys):
    domains.read(domains.look(write_domains(tmp_path / "d", {"x": "a b"})))
    assert capsys.readouterr() == ("", "")


# -- the cache


def test_a_second_reading_decodes_nothing(tmp_path, kept):
    root = write_domains(tmp_path / "d", {"x/train": "a b", "x/test": "b", "y": "a"})
    first = domains.read(domains.look(root))
    assert len(kept) == 8
    assert same(first, domains.read(domains.look(root))) and len(kept) == 8
    assert same(first, domains.read(domains.look(os.path.relpath(root)))) and len(kept) == 8


@pytest.mark.parametrize("change", ["content", "name", "size", "fit", "rotation", "reader"])
def test_what_changes_the_images_misses_the_cache(tmp_path, kept, monkeypatch, change):
    root, options = write_domains(tmp_path / "d", {"x": "a b"}), {}
    domains.read(domains.look(root))
    path = root / "x/a/000.png"
    if change == "content":  # of the same length and time of change
        status, content = path.stat(), path.read_bytes()
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "name":
        path.rename(path.with_name("zzz.png"))
    elif change == "reader":
        monkeypatch.setattr(cache.PIL, "__version__", "another")
    else:
        options = {change: {"size": 16, "fit": "crop", "rotation": "file"}[change]}
    domains.read(domains.look(root), **options)
    assert len(kept) == 8


def test_file_names_count_where_times_do_not(tmp_path, kept, monkeypatch):
    """A file system may leave a renamed file's times as they are."""
    root = write_domains(tmp_path / "d", {"x": "a b"})
    monkeypatch.setattr(domains, "stamp", lambda path: (1, 2, 3))
    domains.read(domains.look(root))
    (root / "x/a/000.png").rename(root / "x/a/zzz.png")
    domains.read(domains.look(root))
    assert len(kept) == 8


def test_a_damaged_cache_is_built_anew(tmp_path, kept):
    """Cut at any place, one byte changed at any place, empty, or a folder: nothing is said."""
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}, 1))
    first = domains.read(found, 8)
    (path,) = (tmp_path / "runs/.pictures").iterdir()
    good = path.read_bytes()
    assert len(good) == 64 + 2 * 8 * 8 * 3
    changed = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in (0, 40, 64, len(good) - 1)]
    for number, bad in enumerate([b"", good[:10], good[:-1], good + b"x", *changed], 2):
        path.write_bytes(bad)
        assert same(first, domains.read(found, 8))
        assert len(kept) == 2 * number and path.read_bytes() == good
    path.unlink()
    (path / "in").mkdir(parents=True)
    assert same(first, domains.read(found, 8))
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_the_cache_stays_small(tmp_path, kept):
    """Four entries, those used last; what else lies there is nobody's to remove."""
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}, 1))
    domains.read(found, 8)
    (first,) = (tmp_path / "runs/.pictures").iterdir()
    (first.parent / "mine.txt").write_text("keep")
    os.utime(first, (1, 1))
    for size in (16, 24, 32):
        domains.read(found, size)
    os.utime(first, (1, 1))
    domains.read(found, 8)  # which makes it the newest
    for size in (40, 48, 56):
        domains.read(found, size)
    assert first.exists() and len(list(first.parent.glob("*.bytes"))) == 4
    assert (first.parent / "mine.txt").exists()


def test_a_new_picture_replaces_the_entry(tmp_path, kept):
    root = write_domains(tmp_path / "d", {"x": "a b"})
    domains.read(domains.look(root))
    write_picture(root / "x/a/new.png", 77)
    train, _ = domains.read(domains.look(root))
    assert len(train["x"][0]) == 5 and len(list((tmp_path / "runs/.pictures").iterdir())) == 1


def test_few_pictures_are_not_kept(tmp_path):
    domains.read(domains.look(write_domains(tmp_path / "d", {"x": "a b"})))
    assert not (tmp_path / "runs").exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, kept, monkeypatch):
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}))

    def fail(path, write):
        write(f"{path}.part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_whole", fail)
    first = domains.read(found)
    folder = tmp_path / "runs/.pictures"
    assert len(first[0]["x"][0]) == 4 and list(folder.iterdir()) == []
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    assert same(first, domains.read(found)) and len(kept) == 8


def test_a_nearly_full_disk_keeps_its_room(tmp_path, kept, monkeypatch):
    found = domains.look(write_domains(tmp_path / "d", {"x": "a b"}))
    needed = 4 * 32 * 32 * 3
    for free, entries in ((2 * needed - 2, 0), (2 * needed, 1)):
        disk = SimpleNamespace(free=free)
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _, disk=disk: disk)
        domains.read(found)
        assert len(list((tmp_path / "runs/.pictures").iterdir())) == entries
