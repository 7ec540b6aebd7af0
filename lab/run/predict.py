"""`./run.sh predict runs/NAME IMAGE ...`: what a trained network says of pictures.

For each picture: its class and that class's share of the softmax, then the cluster prototype that
its feature is nearest to by the cosine, and the domains whose clients that cluster gathers.
"""

import argparse
import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

import fpl
from lab.data.images import is_picture
from lab.data.pictures import decode_all
from lab.device.target import use_device
from lab.run import nearest, pictures
from lab.run.records import read_run, unusable
from lab.shell.errors import InputError
from lab.shell.files import is_there, read_file, write_whole
from lab.shell.options import read_options
from lab.shell.program import guarded
from lab.shell.words import table

AT_ONCE = 4096  # pictures in memory
HEAD = ("image", "class", "share (%)", "nearest cluster prototype", "cosine", "domains in it")


class Trained(NamedTuple):
    """What a run has learnt."""

    params: fpl.Tensor  # [P]
    stats: fpl.Tensor  # [S]
    classes: tuple  # K names
    prototypes: np.ndarray  # [n,d], of length 1; all cluster prototypes there are
    whose: list  # of each (its class, its number among those of the class, how many these are)
    gathers: list  # of each {domain: clients}, as clusters.csv has it


def main(argv=None):
    """Exit status: 0 done, 2 bad input or a file that cannot be had or written, 130 interrupted."""
    return guarded(predict, argv)


def predict(argv):
    """What `main` does when all goes well."""
    parser = argparse.ArgumentParser(
        prog="./run.sh predict",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Pictures are made as large as the run's, and read as these were. MNIST's and\n"
        "USPS's digits are white on black; dark ink on white paper is another domain.",
    )
    parser.add_argument("folder", metavar="runs/NAME")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="a picture, or a folder of some")
    parser.add_argument("--csv", metavar="FILE", help="write the table there too, as CSV")
    parser.add_argument(
        "--nearest",
        action="store_true",
        help="draw runs/NAME/nearest.png: the training images nearest to each cluster prototype",
    )
    parser.add_argument("--data", metavar="DIR", help="for --nearest: the run's folder of files")
    options = read_options(parser, argv)
    if not options.images and not options.nearest:
        raise InputError("no IMAGE is given; give pictures, folders of pictures, or --nearest")
    if options.csv and is_there(options.csv):
        raise InputError(f"--csv {options.csv} is there already; give the name of a new file")
    run, paths = read_finished(options.folder), find_pictures(options.images)
    use_device(run.config["device"])
    trained, how, rows = read_trained(run), reading_of(run), []
    if options.nearest:
        print(draw_nearest(run, trained, options.data))
    if not paths:
        return 0
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        rows += answers(trained, some, decoded(some, **how))
    head = HEAD if len(trained.prototypes) else HEAD[:3]
    print("\n".join(table([head, *rows], left=(0, 1, 3, 5))))
    if not len(trained.prototypes):
        print("This run has no cluster prototypes; its method makes none.")
    if options.csv:
        write_csv(options.csv, head, rows)
    return 0


def draw_nearest(run, trained, data_folder):
    """The path of nearest.png. Raises InputError."""
    if not len(trained.prototypes):
        raise InputError(f"{run.folder} has no cluster prototypes; give a run of FPL")
    cfg = fpl.Config(**{**run.config, "clients": tuple(run.config["clients"])})
    return nearest.draw(run, cfg, trained, data_folder)


def find_pictures(names):
    """The paths of pictures; a folder stands for all that it holds. Raises InputError."""
    paths = []
    for name in map(Path, names):
        if not name.exists():
            raise InputError(f"{name} is not there; give pictures, or folders of pictures")
        found = [name]
        if name.is_dir():
            found = [
                Path(place, file)
                for place, _, files in sorted(os.walk(name))
                for file in sorted(files)
                if is_picture(Path(place, file))
            ]
            if not found:
                raise InputError(f"{name} holds no picture; give pictures, or folders of pictures")
        paths += found
    return paths


def decoded(paths, size, fit, rotation):
    """The pictures [n,size,size,3]. Raises InputError."""
    images = np.empty((len(paths), size, size, 3), np.uint8)
    decode_all(None, paths, images, fit, rotation)
    return images


def write_csv(path, head, rows):
    def write(part):
        with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])

    write_whole(path, write)


# ---------------------------------------------------------------- the run


def read_finished(folder):
    """The Run in a folder, which has a round at least. Raises InputError."""
    folder = folder.rstrip("/")
    if not os.path.isfile(f"{folder}/config.json"):
        raise InputError(
            f"{folder} is not the folder of a run, it has no config.json; give one such as "
            "runs/digits-1, or runs/compare-digits/fpl/seed-0"
        )
    run = read_run(folder)
    if not run.rounds:
        raise InputError(f"{folder} has no finished round; go on with it first, by --resume")
    return run


def reading_of(run):
    """How the run's pictures were read."""
    if run.config["task"] != "folder":
        return {"size": 32, "fit": "stretch", "rotation": "file"}
    return {"size": run.config["size"], **run.reading}


def read_trained(run):
    """What a run has left. Raises InputError."""
    path, num_classes = f"{run.folder}/model.safetensors", len(run.task.classes)
    width = run.config["width"]
    p_shapes, s_shapes = fpl.param_shapes(width, num_classes), fpl.stat_shapes(width)
    try:
        arrays = load(read_file(path))
        right = {name: arrays[name].shape for name, _ in p_shapes + s_shapes}
    except (SafetensorError, KeyError, ValueError) as error:
        raise unusable(path, f"is not what a run writes ({error})") from error
    if right != dict(p_shapes + s_shapes):
        raise unusable(path, f"is not of a network of width {width} for {num_classes} classes")
    params, stats = (
        fpl.joined([arrays[name] for name, _ in shapes]) for shapes in (p_shapes, s_shapes)
    )
    return Trained(params, stats, run.task.classes, *read_prototypes(run))


def read_prototypes(run):
    """(prototypes, whose, gathers) of a run's last round, see Trained. Raises InputError."""
    path = f"{run.folder}/prototypes.npz"
    shares = zip(run.task.clients, run.config["clients"])
    domains = [domain for domain, number in shares for _ in range(number)]
    try:
        scene = pictures.read_scene(path, domains)
        if scene.mask.shape[0] != len(run.task.classes):
            raise ValueError(f"{len(scene.mask)} classes")
    except OSError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise unusable(path, f"is not what a run writes ({error})") from error
    members = {}
    for k, gathered in run.clusters.get(len(run.rounds), ()):
        members.setdefault(k, []).append(gathered)
    whose, gathers = [], []
    for k, j in np.argwhere(scene.mask).tolist():
        whose.append((k, j, int(scene.mask[k].sum())))
        gathers.append(members[k][j] if j < len(members.get(k, ())) else {})
    return scene.clusters[scene.mask], whose, gathers


# ---------------------------------------------------------------- the answers


def answers(trained, paths, images):
    """A row of texts for each picture: those of HEAD. images [n,s,s,3] uint8."""
    logits, z = fpl.predict(trained.params, trained.stats, images)
    shares = softmax(logits.astype(np.float64))
    rows = []
    for path, share, feature in zip(paths, shares, pictures.unit(z.astype(np.float64))):
        k = int(share.argmax())
        rows.append([str(path), trained.classes[k], f"{100 * share[k]:.1f}"])
        if len(trained.prototypes):
            cosines = trained.prototypes @ feature
            nearest = int(cosines.argmax())
            rows[-1] += [
                name_of(trained, nearest),
                f"{cosines[nearest]:.3f}",
                ", ".join(f"{domain} {n}" for domain, n in trained.gathers[nearest].items()),
            ]
    return rows


def softmax(logits):
    """Shares that add up to 1 along the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def name_of(trained, number):
    """A cluster prototype's name: "7, cluster 2 of 3"."""
    k, j, of = trained.whose[number]
    return f"{trained.classes[k]}, cluster {j + 1} of {of}" if of > 1 else trained.classes[k]
