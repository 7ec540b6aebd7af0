"""Folders that are not as they should be: one line with what was seen, wanted and to be done."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.data import domains
from lab.data.load import load
from lab.shell.errors import InputError

WANTED = "wanted DIR/<domain>/<class>/ with pictures in it, or DIR/<domain>.npz"


def png(seed=0, side=8, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def put(root, *names, content=None):
    """Pictures of these names, or files with this content."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i) if content is None else content)


@pytest.fixture
def good(tmp_path, monkeypatch):
    """Two domains with two classes of two pictures."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    put(root, *(f"{d}/{k}/{i}.png" for d in "ab" for k in "xy" for i in range(2)))
    return root


def refused(call, *words):
    with pytest.raises(InputError) as stop:
        call()
    line = str(stop.value)
    assert "\n" not in line and len(line) < 2200
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize(
    "files, words",
    [
        ([], ["holds no folder", WANTED]),
        (["data.parquet"], ["holds data.parquet, which is not read", WANTED]),
        (["a/1.png"], ["a holds pictures itself", "put it into a folder of the domain's name"]),
        (
            ["p/a/x/1.png"],
            ["x holds pictures, one folder too deep", "p, else move the pictures up"],
        ),
        (["a/x/y/z/u/1.png"], ["a holds no class folder with pictures", WANTED]),
        (["a/x/1.png"], ["holds 1 class; wanted 2 to 1,000"]),
        (["a/x/1.png", "a/y/1.png", "b.npz"], ["the folder a and the file b.npz", "one kind away"]),
        (["avg/x/1.png"], ["domain folder 'avg'", "rename it"]),
        (["_a/x/1.png", "_a/y/1.png"], ["domain folder '_a'", "rename it"]),
        (["a/x\x07/1.png", "a/y/1.png"], ["class folder 'x\\x07'", "rename it"]),
        (["a/" + "n" * 101 + "/1.png", "a/y/1.png"], ["at most 100 printable letters"]),
        (
            ["a/train/x/1.png", "a/train/y/1.png", "a/test/z/1.png"],
            ["class 'z' has test images alone", "training images of it in one domain"],
        ),
        (["a/x/1.png", "a/y/1.png", "b/x/README"], ["b holds no class folder with pictures"]),
    ],
)
def test_a_folder_of_another_layout_is_one_line(files, words, tmp_path):
    put(tmp_path, *files)
    refused(lambda: domains.look(tmp_path), *words)


def test_more_than_1000_classes_are_one_line(tmp_path):
    for k in range(1001):
        put(tmp_path, f"a/{k:04d}/1.png", content=b"")
    refused(lambda: domains.look(tmp_path), "holds 1,001 classes; wanted 2 to 1,000")


def test_links_in_circles_end_in_one_line(good, tmp_path):
    (tmp_path / "round" / "a").mkdir(parents=True)
    (tmp_path / "round" / "a" / "back").symlink_to(tmp_path / "round")
    (tmp_path / "round" / "self").symlink_to("self")
    refused(lambda: domains.look(tmp_path / "round"), "holds no class folder with pictures")
    (good / "a" / "up").symlink_to(good)
    assert domains.look(good).classes == ("x", "y")


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


HUGE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0))
DAMAGED = {
    "cut.png": png()[:60],
    "empty.png": b"",
    "text.jpg": b"not a picture",
    "huge.png": HUGE + chunk(b"IEND", b""),
    "one.tif": b"II*\0",
}


def test_all_damaged_pictures_are_named(good):
    for name, content in DAMAGED.items():
        put(good, f"b/y/{name}", content=content)
    (good / "a" / "x" / "gone.png").symlink_to("nowhere")
    line = refused(
        lambda: domains.read(domains.look(good)), "6 pictures cannot be used", "put good copies"
    )
    for name in (*DAMAGED, "gone.png"):
        assert f"{name} (" in line
    assert "12000 x 12000" in line and "0.png" not in line
    assert "gone.png (No such file or directory)" in line
    assert not Path("runs").exists()


def test_very_many_damaged_pictures_are_in_a_file(good):
    names = [f"a/x/{i:03d}{'n' * 60}.png" for i in range(40)]
    for name in names:
        put(good, name, content=b"")
    refused(lambda: domains.read(domains.look(good)), "40 pictures", "runs/not-readable.txt names")
    listed = Path("runs", "not-readable.txt").read_text().splitlines()
    assert [line.split(" (")[0] for line in listed] == [str(good / name) for name in names]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_without_rights_is_named(good):
    (good / "a" / "x" / "0.png").chmod(0)
    refused(lambda: domains.read(domains.look(good)), "0.png (Permission denied)")


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def kinds():
    """name -> (a Pillow image of the grey ramp, how it is saved, what may differ)."""
    grey = Image.fromarray(GREY)
    clear = grey.convert("P")
    clear.info["transparency"] = 3
    return {
        "1.png": (grey.point(lambda x: 255 * (x > 127)).convert("1"), {}),
        "grey.png": (grey, {}),
        "16.png": (Image.fromarray(GREY.astype(np.uint16) * 257), {}),
        "la.png": (grey.convert("LA"), {}),
        "rgba.png": (grey.convert("RGBA"), {}),
        "palette.gif": (grey.convert("P"), {}),
        "clear.png": (clear, {}),
        "cmyk.tif": (grey.convert("RGB").convert("CMYK"), {}),
        "animated.gif": (grey, {"save_all": True, "append_images": [Image.new("L", (8, 8), 255)]}),
        "many.tif": (grey, {"save_all": True, "append_images": [Image.new("L", (8, 8), 255)]}),
    }


@pytest.mark.parametrize("name", kinds())
def test_every_kind_of_picture_is_read(name, good):
    """Of several images the first; transparency is dropped; CMYK comes back to a shade or two."""
    image, how = kinds()[name]
    image.save(good / "a" / "x" / name, **how)
    listing = domains.look(good)
    at = [path.name for path, _ in listing.train["a"]].index(name)
    images, _ = domains.read(listing)[0]["a"]
    want = (GREY > 127) * 255 if name == "1.png" else GREY
    want = Image.fromarray(want.astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR)
    off = np.abs(images[at].astype(int) - np.asarray(want)[..., None]).max()
    assert off <= (2 if name == "cmyk.tif" else 0) or (name == "1.png" and off <= 255)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": [-1, 0, 1, 1]}, ["labels is int64 [4]", "whole numbers [n] from 0"]),
        ({"labels": [0.0, 1.0, 1.0, 0.0]}, ["labels is float64 [4]", "whole numbers"]),
        ({"labels": [[0], [1], [1], [0]]}, ["labels is int64 [4, 1]"]),
        ({"labels": [0, 1]}, ["images is uint8 [4, 8, 8, 3] with labels [2]", "with n labels"]),
        ({"labels": [0, 0, 0, 0]}, ["holds 1 class; wanted 2"]),
        ({"labels": [0, 1, 2, 1000]}, ["holds 1,001 classes"]),
        ({"labels": np.array([0, 1, {}, 1], object)}, ["not an npz file with labels"]),
        ({"images": np.zeros((4, 8, 8, 3))}, ["images is float64", "wanted uint8"]),
        ({"images": np.zeros((4, 8, 8, 4), np.uint8)}, ["images is uint8 [4, 8, 8, 4]"]),
        ({"images": np.zeros((4, 0, 8), np.uint8)}, ["images is uint8 [4, 0, 8]"]),
        ({"test_images": np.zeros((1, 8, 8), np.uint8), "test_labels": [7]}, ["test_labels has 7"]),
    ],
)
def test_an_npz_file_of_another_form_is_one_line(change, words, tmp_path):
    right = {"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": [0, 1, 1, 0]}
    np.savez(tmp_path / "a.npz", **{**right, **change})
    refused(lambda: domains.read(domains.look(tmp_path)), str(tmp_path / "a.npz"), *words) if (
        "classes" not in words[0] and "class;" not in words[0]
    ) else refused(lambda: domains.look(tmp_path), *words)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4"])
def test_an_npz_file_that_is_none_is_one_line(content, tmp_path):
    put(tmp_path, "a.npz", content=content)
    refused(lambda: domains.look(tmp_path), "a.npz: not an npz file with labels")


@pytest.mark.parametrize("size", [0, 4, 20, 232, -8])
def test_a_size_of_another_kind_is_one_line(size, good):
    refused(lambda: domains.read(domains.look(good), size=size), f"--size is {size}", "8 to 224")


def test_more_pictures_than_memory_are_one_line(good, monkeypatch):
    monkeypatch.setattr(domains, "memory", lambda: 20_000)
    refused(lambda: domains.read(domains.look(good)), "8 pictures of 32 x 32", "smaller --size")


def test_pictures_in_train_and_test_are_counted(tmp_path):
    put(tmp_path, *(f"a/train/{k}/{i}.png" for k in "xy" for i in range(3)))
    put(tmp_path, *(f"a/test/x/{i}.png" for i in range(2)))  # put numbers its pictures
    sources = load("folder", tmp_path)[2]
    assert sources["a"]["repeated"] == 2 and "held_back" not in sources["a"]
