"""What a run shows and leaves is what happened: tables, config.json, CSV, arrays, pictures."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import fpl
from fpl import Config, Prototypes
from lab.data.tasks import TASKS, own
from lab.run import folder, pictures, screen
from lab.shell.files import write_whole

DOMAINS = ("mnist", "usps")
DIGITS = TASKS["digits"]


def log_of(number, **accuracy):
    accuracy = accuracy or {"mnist": 10.0 * number, "usps": 5.0 * number}
    return {
        "round": number,
        "loss": 1 / (3 * number),
        "accuracy": accuracy,
        "avg": sum(accuracy.values()) / len(accuracy),
        "clusters_per_class": [5, 4] * 5,
        "seconds": 1.5,
    }


def source_of(kind, train):
    return {
        "kind": kind,
        "what": "some files",
        "train": train,
        "test": 100,
        "sha256": "0123456789abcdef" * 4,
    }


def client_of(domain, images):
    return SimpleNamespace(
        domain=domain,
        images=np.zeros((images, 32, 32, 3), np.uint8),
        labels=np.zeros(images, np.int32),
    )


def prototypes(seed=0, m=5, k=10, d=16):
    """Random prototypes of m clients; nobody holds class 1, one client alone holds class 2."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 50, (m, k))
    counts[:, 1] = counts[1:, 2] = 0
    class_means = rng.random((m, k, d)) * (counts > 0)[..., None]
    mask = np.zeros((k, m // 2), bool)
    mask[:, 0] = counts.any(axis=0)
    mask[3:, 1] = True
    clusters = rng.random((k, m // 2, d)) * mask[..., None]
    unbiased = clusters.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
    return {
        "class_means": class_means,
        "counts": counts,
        "clusters": clusters,
        "mask": mask,
        "unbiased": unbiased,
    }


# -- tables


def test_describe_says_which_data_each_client_holds():
    """It says which data they are, and which client holds how much."""
    sources = {"mnist": source_of("files", 60000), "usps": source_of("files", 7291)}
    clients = [client_of("mnist", 600)] * 2 + [
        client_of("mnist", 599),
        client_of("usps", 72),
        client_of("usps", 72),
    ]
    text = screen.describe(sources, clients, DIGITS, Config())
    assert "60,000" in text and "0123456789ab " in text and "0123456789abc" not in text
    assert "0-1: 600 each, 2: 599" in text and "1,799" in text
    assert "3-4: 72 each" in text
    assert "stand-in" not in text and "Warning" not in text


def test_describe_says_a_stand_in_is_one():
    """It says that a stand-in is not the paper's data."""
    text = screen.describe(
        {"mnist": source_of("files", 60000), "usps": source_of("stand-in", 1000)},
        [client_of("mnist", 3), client_of("mnist", 3), client_of("usps", 3), client_of("usps", 3)],
        DIGITS,
        Config(),
    )
    assert "stand-in" in text and "not the paper's" in text


@pytest.mark.parametrize(
    "usps_clients, words", [(0, "usps has no client"), (1, "usps has only one client")]
)
def test_describe_warns_of_domains_with_one_client(usps_clients, words):
    """It warns of a domain with less than two clients."""
    sources = {"mnist": source_of("files", 60000), "usps": source_of("files", 7291)}
    clients = [client_of("mnist", 3)] * 2 + [client_of("usps", 3)] * usps_clients
    warnings = [
        line
        for line in screen.describe(sources, clients, DIGITS, Config()).splitlines()
        if line.startswith("Warning")
    ]
    assert len(warnings) == 1 and words in warnings[0]


def test_describe_names_the_classes_that_a_client_lacks():
    sources = {"mnist": source_of("files", 60000), "usps": source_of("files", 7291)}
    clients = [
        client_of("mnist", 20),
        client_of("mnist", 20),
        client_of("usps", 20),
        client_of("usps", 20),
    ]
    for client in clients:
        client.labels[:10] = range(10)
    assert "holds no image" not in screen.describe(sources, clients, DIGITS, Config())
    clients[2].labels[[3, 7]] = 0
    text = screen.describe(sources, clients, DIGITS, Config())
    assert (
        "Note: client 2 (usps) holds no image of class 3, 7; it sends no prototype of that." in text
    )
    assert text.count("Note: ") == 1


def test_what_a_domain_lacks_is_told_once():
    """Its clients lack it too; where a note has said so, only what they lack beyond is told."""
    images = np.zeros((3, 32, 32, 3), np.uint8)
    clients = [
        fpl.Client(images, np.int32(labels), domain)
        for domain, labels in (
            ("a", [0, 1, 1]),
            ("a", [0, 0, 0]),
            ("b", [0, 1, 2]),
            ("b", [0, 1, 2]),
        )
    ]
    task = own(["a", "b"], ["x", "y", "z"])
    first, second = screen.lacking(clients, task)
    assert "client 0 (a) holds no image of class z;" in first
    assert "client 1 (a) holds no image of class y, z;" in second
    (line,) = screen.lacking(clients, task._replace(notes=("a lacks 1 of 3 classes: z",)))
    assert "client 1 (a) holds no image of class y;" in line


def test_describe_warns_of_partial_files():
    """It warns of files that are a part of the published set."""
    sources, clients = {"svhn": source_of("files", 4434)}, [client_of("svhn", 3)] * 2
    text = screen.describe(sources, clients, DIGITS, Config())
    assert "svhn has 4,434 training images, the published set 73,257" in text


def test_round_line_is_one_line_with_every_number():
    line = screen.round_line(log_of(3))
    assert "\n" not in line
    numbers = "clusters 5 4 5 4 5 4 5 4 5 4 1.5 s"
    want = f"round 3 loss 0.1111 mnist 30.00 usps 15.00 AVG 22.50 {numbers}"
    assert " ".join(line.split()) == want


@pytest.mark.parametrize(
    "rounds, words, means",
    [
        (7, "mean of the last 5 rounds", ["50.00", "25.00", "37.50"]),  # of rounds 3 to 7
        (2, "mean of the last 2 rounds", ["15.00", "7.50", "11.25"]),
        (1, "mean of the last round", ["10.00", "5.00", "7.50"]),
    ],
)
def test_the_final_table_has_last_round_and_mean(rounds, words, means):
    """The mean is that of the last five rounds."""
    head, last, mean = screen.final_table(
        [log_of(number) for number in range(1, rounds + 1)]
    ).splitlines()
    assert head.split()[-3:] == ["mnist", "usps", "AVG"]
    assert last.startswith(f"round {rounds} ")
    assert last.split()[-3:] == [f"{10 * rounds:.2f}", f"{5 * rounds:.2f}", f"{7.5 * rounds:.2f}"]
    assert mean.startswith(words + "  ") and mean.split()[-3:] == means


# -- files


def test_rounds_csv_gives_back_every_number_exactly(tmp_path):
    """It has one header."""
    logs = [log_of(1, mnist=100 / 3, usps=200 / 7), log_of(2, mnist=0.1 + 0.2, usps=100.0)]
    for written, log in enumerate(logs, start=1):
        folder.append_round(tmp_path, log, 100 / 7)
        assert (
            len((tmp_path / "rounds.csv").read_text().splitlines()) == 1 + written
        )  # on disk after each round
    with open(tmp_path / "rounds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "round",
        "loss",
        "mnist",
        "usps",
        "avg",
        "clusters",
        "seconds",
        "purity",
    ]
    for row, log in zip(rows, logs, strict=True):
        assert {domain: float(row[domain]) for domain in DOMAINS} == log["accuracy"]
        assert (
            int(row["round"]),
            float(row["loss"]),
            float(row["avg"]),
            float(row["seconds"]),
        ) == (log["round"], log["loss"], log["avg"], log["seconds"])
        assert [int(number) for number in row["clusters"].split()] == log["clusters_per_class"]
        assert float(row["purity"]) == 100 / 7


# Four clients at 0, 10, 90 and 95 degrees make the
# clusters 0 1 and 2 3 (finch.py's example); class 1 has one holder.
CORNER = np.stack(
    [np.cos(np.radians([0, 10, 90, 95])), np.sin(np.radians([0, 10, 90, 95]))], axis=1
)
MEANS = np.stack([CORNER, CORNER], axis=1).astype(np.float32)
COUNTS = np.array([[5, 0], [5, 0], [5, 3], [5, 0]])


@pytest.mark.parametrize(
    "domains, members, pure",
    [
        (["a", "a", "b", "b"], [{"a": 2}, {"b": 2}, {"b": 1}], 100),
        (["a", "b", "b", "b"], [{"a": 1, "b": 1}, {"b": 2}, {"b": 1}], 200 / 3),
        (["a", "b", "a", "b"], [{"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 1}], 100 / 3),
    ],
)
def test_clusters_are_counted_by_domain(domains, members, pure):
    """Purity is the share of those with one domain."""
    rows = folder.cluster_rows(fpl.cluster_members(MEANS, COUNTS, "first"), domains)
    assert rows == [(0, 0, members[0]), (0, 1, members[1]), (1, 0, members[2])]
    assert folder.purity(rows) == pytest.approx(pure)


def test_clusters_are_those_fpl_trains_with():
    """The clusters are those of the partition that FPL trains with."""
    rng = np.random.default_rng(3)
    means, counts = rng.random((60, 10, 6)), rng.integers(0, 4, (60, 10))
    numbers = {}
    for partition in ("first", "last"):
        members = fpl.cluster_members(means, counts, partition)
        rows = folder.cluster_rows(members, ["a", "b"] * 30)
        numbers[partition] = [sum(k == row[0] for row in rows) for k in range(10)]
        mask = fpl.cluster_prototypes(means, counts, partition)[1]
        assert numbers[partition] == mask.sum(axis=1).tolist()
        assert sum(sum(of.values()) for _, _, of in rows) == (counts > 0).sum()
    assert numbers["first"] != numbers["last"]


WIDE = np.pad(MEANS, ((0, 0), (0, 0), (0, 6)))  # d = 8, of a network of width 1


def state_of(number, mask=True):
    clusters, there = fpl.cluster_prototypes(WIDE, COUNTS, "first")
    there = there & mask
    start = fpl.init_state(Config(width=1, clients=(4, 0, 0, 0), classes=len(COUNTS[0])))
    unbiased = fpl.unbiased_prototypes(clusters, there)
    return start._replace(round=number, prototypes=Prototypes(clusters, there, unbiased))


@pytest.mark.parametrize("has_prototypes", [True, False])  # False: of a method such as FedAvg
@pytest.mark.parametrize(
    "tells", [True, False]
)  # whether the method tells its clusters, as FPL does
def test_a_round_adds_clusters_and_keeps_prototypes(tells, has_prototypes, tmp_path):
    """The prototypes kept are those of the rounds that are shown."""
    domains = ["usps", "mnist", "mnist", "mnist"]
    members = {"members": fpl.cluster_members(WIDE, COUNTS, "first")} if tells else {}
    for number in (1, 2, 5):
        log = log_of(number) | {"class_means": WIDE * number, "counts": COUNTS} | members
        folder.write_round(tmp_path, state_of(number, has_prototypes), log, domains, "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clusters.csv",
        "model.safetensors",
        "prototypes-1.npz",
        "prototypes-5.npz",
        "prototypes.npz",
        "rounds.csv",
    ]
    of_a_round = ["0,0,2,1,1", "0,1,2,2,0", "1,0,1,1,0"]
    assert (tmp_path / "clusters.csv").read_text().splitlines() == [
        "round,class,cluster,clients,mnist,usps",
        *(f"{number},{row}" for number in (1, 2, 5) for row in of_a_round),
    ]
    with open(tmp_path / "rounds.csv", newline="") as file:
        assert [float(row["purity"]) for row in csv.DictReader(file)] == pytest.approx(
            [200 / 3] * 3
        )
    for name, number in (("prototypes-1", 1), ("prototypes-5", 5), ("prototypes", 5)):
        with np.load(tmp_path / f"{name}.npz") as stored:
            np.testing.assert_array_equal(stored["class_means"], WIDE * number)
            assert set(stored) == {"clusters", "mask", "unbiased", "class_means", "counts"}
            assert stored["mask"].any() == has_prototypes


def test_config_json_has_settings_data_and_versions(tmp_path):
    sources = {"mnist": source_of("files", 60000)}
    folder.write_config(
        tmp_path,
        {
            "config": {"clients": (6, 4, 3, 7), "tau": 0.02},
            "sources": sources,
            "versions": folder.versions(),
        },
    )
    read = json.loads((tmp_path / "config.json").read_text())
    assert read["config"] == {"clients": [6, 4, 3, 7], "tau": 0.02} and read["sources"] == sources
    assert set(read["versions"]) == {"code", "python", "mindspore", "numpy", "scipy", "platform"}
    assert read["versions"]["numpy"] == np.__version__


def test_arrays_come_back_even_from_a_view(tmp_path):
    """They come back as they were."""
    network = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.float32(2)}
    arrays = prototypes()
    folder.save_arrays(tmp_path, network, arrays)
    read = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for name, value in network.items():
        np.testing.assert_array_equal(read[name].squeeze(), value)
    with np.load(tmp_path / "prototypes.npz") as stored:
        assert set(stored) == set(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(stored[name], value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors",
        "prototypes.npz",
    ]


def test_failed_writes_leave_the_old_file_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def broken(part):
        with open(part, "w") as file:
            file.write("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, broken)
    assert path.read_text() == "old"


def test_clusters_that_a_method_tells_are_written(tmp_path):
    """They are not made anew."""
    members = np.array([[0, -1], [1, -1], [1, 0], [0, -1]])  # FINCH would pair 0 1 and 2 3
    log = log_of(1) | {"class_means": WIDE, "counts": COUNTS, "members": members}
    folder.write_round(tmp_path, state_of(1), log, ["mnist", "usps", "usps", "mnist"], "first")
    assert (tmp_path / "clusters.csv").read_text().splitlines()[1:] == [
        "1,0,0,2,2,0",
        "1,0,1,2,0,2",
        "1,1,0,1,0,1",
    ]


def test_rounds_without_test_images_leave_two_files(tmp_path):
    """Without test images a round leaves the network and the prototypes alone."""
    log = {**log_of(1), "accuracy": {}, "class_means": WIDE, "counts": COUNTS}
    folder.write_round(tmp_path, state_of(1), log, ["mnist"] * 4, "first")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.safetensors", "prototypes.npz"]


def test_states_by_name_make_the_same_vectors_again():
    state = state_of(1)
    params, stats = folder.named(state)
    assert {name: value.shape for name, value in params.items()} == dict(
        fpl.param_shapes(1, len(COUNTS[0]))
    )
    for by_name, vector in ((params, state.params), (stats, state.stats)):
        joined = fpl.joined(list(by_name.values()))
        np.testing.assert_array_equal(joined.asnumpy(), vector.asnumpy())


# -- pictures


def draw_accuracy(path, rounds=6):
    folder.save_picture(
        path,
        pictures.accuracy_picture([log_of(number) for number in range(1, rounds + 1)], "a title"),
    )


def draw_prototypes(path, **change):
    scene = pictures.scene(["mnist"] * 3 + ["usps"] * 2, **{**prototypes(), **change})
    folder.save_picture(path, pictures.prototypes_picture(scene, "a title", DIGITS.classes))


@pytest.mark.parametrize("draw", [draw_accuracy, draw_prototypes])
def test_pictures_open_and_keep_their_bytes(draw, tmp_path):
    """They show something, and have the same bytes again."""
    draw(tmp_path / "one.png")
    draw(tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert min(picture.size) > 500 and len(picture.convert("RGB").getcolors(1 << 24)) > 50
        assert not picture.text  # no date, no software
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.filterwarnings("error")
def test_pictures_of_one_round_can_be_drawn(tmp_path):
    """So can those of no prototype."""
    draw_accuracy(tmp_path / "one round.png", rounds=1)
    draw_prototypes(
        tmp_path / "none.png",
        **{name: np.zeros_like(value) for name, value in prototypes().items()},
    )
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


def test_the_plane_keeps_distances_and_fixes_signs():
    """Distances are those of points that lie in one plane."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(8, 2)))[0]
    flat = rng.normal(size=(12, 2)) * (3, 1)
    points = flat @ basis.T + rng.normal(size=8)
    project, share = pictures.plane(points)
    distances = np.linalg.norm(flat[:, None] - flat, axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(project(points)[:, None] - project(points), axis=-1), distances, atol=1e-12
    )
    assert share[0] >= share[1] and share.sum() == pytest.approx(100)
    centre = project(np.zeros((1, 8)))
    axes = project(np.eye(8)) - centre  # column i: axis i
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes.T)


def test_the_plane_shows_no_rounding_errors():
    nearly = np.ones((5, 4)) + 1e-9 * np.random.default_rng(0).normal(size=(5, 4))
    assert not pictures.plane(nearly)[0](nearly).any()


def test_the_plane_of_one_point_is_it():
    """The plane of a single point is that point."""
    project, share = pictures.plane(np.ones((1, 4)))
    assert not project(np.ones((1, 4))).any() and not share.any()


def test_the_legend_counts_clients():
    """It names no cluster where there is none."""
    scene = pictures.scene(["mnist"] * 4 + ["usps"], **prototypes())
    labels = [handle.get_label() for handle in pictures.legend_handles(scene)]
    assert (
        labels[:2] == ["local prototype, mnist (4 clients)", "local prototype, usps (1 client)"]
        and len(labels) == 4
    )
    arrays = prototypes()
    bare = pictures.scene(["mnist"] * 5, **{**arrays, "mask": np.zeros_like(arrays["mask"])})
    assert len(pictures.legend_handles(bare)) == 1
