"""A run on folders of one's own, end to end, and what its network says of pictures."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import fpl
from lab.data.images import read_picture
from lab.run import predict, repeat, train
from lab.run.records import read_run

DOMAINS, CLASSES = ["Büro foto", "photo", "スケッチ"], [f"class {letter}" for letter in "abcdefg"]
FLAGS = ["--rounds", "2", "--local-epochs", "1", "--width", "1", "--size", "16", "--engine", "loop"]


def made(root):
    """Three domains of seven classes, each a stripe on the domain's shade."""
    rng = np.random.default_rng(0)
    for i, domain in enumerate(DOMAINS):
        for k, name in enumerate(CLASSES):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for j in range(5):
                pixels = rng.integers(0, 60, (24, 20, 3), np.uint8) + np.uint8(60 * i)
                pixels[3 * k : 3 * k + 3] = 250
                Image.fromarray(pixels).save(folder / f"{j}.png")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data/ and the finished run runs/own."""
    home, before = tmp_path_factory.mktemp("own"), os.getcwd()
    os.chdir(home)
    try:
        made(home / "data")
        assert train.main(["folder", "--data", "data", "--name", "own", *FLAGS]) == 0
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def at_home(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def one_line(capsys, *words):
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for word in words:
        assert word in line


def test_a_run_says_whose_domains_they_are(at_home):
    record = json.loads(Path("runs/own/config.json").read_text())
    assert record["classes"] == CLASSES and list(record["sources"]) == DOMAINS
    assert record["reading"] == {"size": 16, "fit": "stretch", "rotation": "exif"}
    assert (record["config"]["classes"], record["config"]["clients"]) == (7, [2, 2, 2])
    run = read_run("runs/own")
    assert list(run.rounds[0]["accuracy"]) == DOMAINS and run.task.classes == tuple(CLASSES)
    weights = load_file("runs/own/model.safetensors")
    assert weights["linear.weight"].shape == (7, 8)
    with open("runs/own/clients.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["client", "domain", "images", *CLASSES]
    assert [row[:3] for row in rows] == [
        [str(m), DOMAINS[m // 2], "14"] for m in range(6)
    ]  # 35 a domain, of which 7 are held back
    assert all(sum(map(int, row[3:])) == 14 for row in rows)


def test_it_is_repeated_and_made_longer(at_home, capsys):
    assert repeat.main(["runs/own", "--data", "data"]) == 0
    assert "the same result" in capsys.readouterr().out
    shutil.copytree("runs/own", "runs/longer", dirs_exist_ok=True)
    flags = [*FLAGS, "--rounds", "3", "--name", "longer", "--resume"]
    assert train.main(["folder", "--data", "data", *flags]) == 0
    assert len(read_run("runs/longer").rounds) == 3
    assert train.main(["folder", "--data", "data", *flags, "--fit", "crop"]) == 2
    one_line(capsys, "the data of Büro foto, sha256", "nothing was changed")


def by_hand(path):
    """(shares [K], cosines of all cluster prototypes, their (class, cluster)), slowly."""
    weights = load_file("runs/own/model.safetensors")
    params, stats = (
        fpl.joined([weights[name] for name, _ in shapes])
        for shapes in (fpl.param_shapes(1, 7), fpl.stat_shapes(1))
    )
    logits, z = fpl.predict(params, stats, read_picture(path, 16, rotation="exif")[None])
    raised = [np.exp(float(x)) for x in logits[0]]
    cosines, whose = [], []
    with np.load("runs/own/prototypes.npz") as arrays:
        for k in range(7):
            for j in range(arrays["mask"].shape[1]):
                if arrays["mask"][k, j]:
                    p = arrays["clusters"][k, j].astype(float)
                    lengths = np.sqrt((p @ p) * (z[0].astype(float) @ z[0].astype(float)))
                    cosines.append(p @ z[0] / lengths)
                    whose.append((k, j))
    return np.array(raised) / sum(raised), cosines, whose


def domains_of(k, j):
    """What clusters.csv says that a cluster of the last round gathers."""
    with open("runs/own/clusters.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["round"], row["class"], row["cluster"]) == ("2", str(k), str(j)):
                return ", ".join(f"{d} {row[d]}" for d in DOMAINS if row[d] != "0")


def test_a_table_tells_class_share_and_prototype(at_home, capsys):
    paths = [Path("data", DOMAINS[i], CLASSES[k], "1.png") for i in range(3) for k in (0, 3, 6)]
    assert predict.main(["runs/own", *map(str, paths), "--csv", "told.csv"]) == 0
    with open("told.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    os.remove("told.csv")
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 10 and out[0].split() == " ".join(head).split()
    for path, row in zip(paths, rows, strict=True):
        shares, cosines, whose = by_hand(path)
        k, j = whose[int(np.argmax(cosines))]
        number = sum(other == k for other, _ in whose)
        name = CLASSES[k] if number == 1 else f"{CLASSES[k]}, cluster {j + 1} of {number}"
        assert row[:2] == [str(path), CLASSES[int(np.argmax(shares))]]
        # the network's float32 outputs for one image or nine: 1e-3 of a percent is far beyond them
        assert float(row[2]) == pytest.approx(100 * shares.max(), abs=0.051)
        assert row[3] == name and row[5] == domains_of(k, j)
        assert float(row[4]) == pytest.approx(max(cosines), abs=0.00051)


def test_a_folder_stands_for_its_pictures(at_home, capsys):
    assert predict.main(["runs/own", "data/photo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    want = sorted(Path("data/photo").rglob("*.png"))
    assert [line.split(".png")[0] + ".png" for line in lines[1:]] == [str(path) for path in want]


def test_the_nearest_images_are_drawn(at_home, capsys):
    assert predict.main(["runs/own", "--nearest", "--data", "data"]) == 0
    assert capsys.readouterr().out == "runs/own/nearest.png\n"
    with Image.open("runs/own/nearest.png") as image:
        assert min(image.size) > 300
    os.remove("runs/own/nearest.png")
    shutil.copytree("data", "other")
    Image.new("RGB", (20, 24)).save("other/photo/class a/1.png")
    assert predict.main(["runs/own", "--nearest", "--data", "other"]) == 2
    one_line(capsys, "the data of photo, sha256", "give the --data that it was made from")
    assert not os.path.exists("runs/own/nearest.png")


def test_the_nearest_are_the_nearest(monkeypatch):
    """By the cosine, over all clients, the nearest first."""
    z = {"a": [[1, 0], [0, 2], [3, 3], [-1, -1]], "b": [[-1, 0], [5, 1], [0, -1], [-2, -1]]}
    numbers = np.arange(4, dtype=np.uint8)[:, None, None, None]  # all that an image shows
    clients = [
        fpl.Client(np.full((4, 2, 2, 3), 10 * i, np.uint8) + numbers, None, name)
        for i, name in enumerate(z)
    ]
    monkeypatch.setattr(
        fpl, "predict", lambda p, s, images: (None, np.float32(z["ab"[images[0, 0, 0, 0] // 10]]))
    )
    trained = predict.Trained(
        None, None, ("x",), np.float64([[1, 0], [0, 1]]), [(0, 0, 2), (0, 1, 2)], [{}, {}]
    )
    found = predict.nearest.nearest(trained, clients)
    told = [[(int(image[0, 0, 0]), domain) for image, domain in own] for own in found]
    assert told == [[(0, "a"), (11, "b"), (2, "a")], [(1, "a"), (2, "a"), (11, "b")]]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["runs/none", "data/photo"], "runs/none is not the folder of a run"),
        (["runs/own"], "no IMAGE is given; give pictures, folders of pictures, or --nearest"),
        (["runs/own", "nowhere.png"], "nowhere.png is not there"),
        (["runs/own", "runs/own/rounds.csv"], "1 picture of 1 cannot be used"),
        (["runs/own", "empty"], "empty holds no picture"),
        (["runs/own", "data", "--csv", "runs/own/rounds.csv"], "rounds.csv is there already"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(argv, words, at_home, capsys):
    os.makedirs("empty", exist_ok=True)
    assert predict.main(argv) == 2
    one_line(capsys, words)


@pytest.mark.parametrize("name", ["model.safetensors", "prototypes.npz"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100])
def test_a_spoiled_run_is_one_line(name, content, at_home, capsys):
    shutil.copytree("runs/own", "runs/spoiled", dirs_exist_ok=True)
    Path("runs/spoiled", name).write_bytes(content)
    assert predict.main(["runs/spoiled", "data/photo"]) == 2
    one_line(capsys, f"runs/spoiled/{name} is not what a run writes", "put a good copy")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"classes": CLASSES[:6]}, "does not name its classes once each"),
        ({"classes": CLASSES[:6] + CLASSES[:1]}, "does not name its classes once each"),
        ({"classes": None}, "lacks the names of its domains and classes"),
        ({"sources": {}}, "lacks the names of its domains and classes"),
        ({"reading": {"fit": "none"}}, "does not say how pictures were read"),
    ],
)
def test_a_config_of_no_folder_is_one_line(change, words, at_home, capsys):
    shutil.copytree("runs/own", "runs/odd", dirs_exist_ok=True)
    record = json.loads(Path("runs/own/config.json").read_text())
    Path("runs/odd/config.json").write_text(json.dumps({**record, **change}))
    assert predict.main(["runs/odd", "data/photo"]) == 2
    one_line(capsys, words)
