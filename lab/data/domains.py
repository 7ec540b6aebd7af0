"""Images of the user's own domains: a folder for each domain, with a folder for each class in it.

    DIR/<domain>/<class>/*.jpg                 a part of the images is held back for the test
    DIR/<domain>/{train,test}/<class>/*.jpg    val, valid or validation does for test
    DIR/<domain>.npz                           images [n,h,w] or [n,h,w,3] uint8, labels [n] from 0;
                                               test_images and test_labels, if there are any

`look` finds the pictures and opens none, `read` reads them, on all cores.
"""

import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from lab.data import cache
from lab.data.find import in_other_formats
from lab.data.images import is_picture, pixels, subfolders, to_square
from lab.data.npz import read_npz
from lab.shell.cores import granted, memory
from lab.shell.errors import InputError
from lab.shell.words import is_name, plural

TEST_FOLDERS = ("test", "val", "valid", "validation")
MOST_CLASSES = 1000
# what columns of rounds.csv and clusters.csv are called
TAKEN = {"round", "loss", "avg", "AVG", "clusters", "seconds", "purity"}
TAKEN |= {"class", "cluster", "clients", "each"}  # the last is what --hold-out takes for all
LAYOUT = "wanted DIR/<domain>/<class>/ with pictures in it, or DIR/<domain>.npz"


class Listing(NamedTuple):
    """What a folder holds. Of a domain in an npz file the path stands in the place of the pairs."""

    folder: Path
    classes: tuple  # names, in the order of their numbers
    train: dict  # domain -> ((path, label), ...)
    tests: dict  # the same; () where the domain has no test images of its own
    notes: tuple  # lines to show


# ---------------------------------------------------------------- what is there


def look(folder):
    """The Listing of a folder. Raises InputError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder; {LAYOUT}")
    subs = subfolders(folder)
    packed = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npz")
    if subs and packed:
        raise InputError(
            f"{folder} holds the folder {subs[0].name} and the file {packed[0].name}; {LAYOUT}: "
            "move one kind away"
        )
    if not subs and not packed:
        others = sorted(path.name for path in in_other_formats([folder]))[:5]
        seen = f"holds {', '.join(others)}, which is not read" if others else "holds no folder"
        raise InputError(f"--data {folder} {seen}; {LAYOUT}")
    check_names("domain", [path.stem if packed else path.name for path in subs or packed])
    return look_at_files(folder, packed) if packed else look_at_folders(folder, subs)


def check_names(kind, names):
    """Refuse names that tables and pictures cannot show. Raises InputError."""
    for name in names:
        if not is_name(name):
            raise InputError(
                f"{kind} folder {name[:100]!r}: tables and pictures cannot show this name; wanted "
                "at most 100 printable letters that do not begin with _: rename it"
            )
        if kind == "domain" and name in TAKEN:
            raise InputError(
                f"domain folder {name!r}: a column of the tables has this name; rename it"
            )


def look_at_folders(folder, subs):
    """The Listing of domains that are folders."""
    found = {sub.name: (pictures_by_class(sub), {}) for sub in subs}
    for sub in subs:
        parts = {part.name.lower(): part for part in subfolders(sub)}
        if "train" in parts and subfolders(parts["train"]):
            test = next((parts[name] for name in TEST_FOLDERS if name in parts), None)
            found[sub.name] = pictures_by_class(parts["train"]), pictures_by_class(test)
    for sub in subs:
        if not any(found[sub.name][0].values()):
            raise InputError(why_none(sub))
    names = {name for parts in found.values() for part in parts for name in part if part[name]}
    classes = sorted(names)
    check_names("class", classes)
    check_number(folder, len(classes))
    for name in classes:
        if not any(train.get(name) for train, _ in found.values()):
            raise InputError(
                f"{folder}: class {name!r} has test images alone; wanted training images of it in "
                "one domain at least"
            )
    train, tests = (
        {domain: pairs(parts[which], classes) for domain, parts in found.items()}
        for which in (0, 1)
    )
    return Listing(folder, tuple(classes), train, tests, notes(found, classes))


def pictures_by_class(folder):
    """{class: its pictures, by name}. folder: of a domain or of its test images, or None."""
    if folder is None:
        return {}
    return {
        sub.name: sorted(path for path in sub.iterdir() if is_picture(path))
        for sub in subfolders(folder)
    }


def pairs(by_class, classes):
    """((path, label), ...), class by class."""
    return tuple((path, k) for k, name in enumerate(classes) for path in by_class.get(name, ()))


def why_none(folder):
    """The line for a domain without a picture where pictures are looked for."""
    if any(map(is_picture, folder.iterdir())):
        return (
            f"{folder} holds pictures itself; {LAYOUT}: if {folder.parent} is one domain, put it "
            "into a folder of the domain's name and give that one's folder above"
        )
    for sub in subfolders(folder):
        for deeper in subfolders(sub):
            if any(map(is_picture, deeper.iterdir())):
                return (
                    f"{deeper} holds pictures, one folder too deep; {LAYOUT}: if its domain is "
                    f"{sub.name}, give --data {folder}, else move the pictures up"
                )
    return f"{folder} holds no class folder with pictures; {LAYOUT}"


def notes(found, classes):
    """A line for what a domain lacks, for class folders without pictures, for names alike."""
    lines = []
    for domain, (train, _) in found.items():
        if lacks := [name for name in classes if not train.get(name)]:
            more = f" and {len(lacks) - 8} more" if len(lacks) > 8 else ""
            lines.append(
                f"Note: {domain} has no training image of {', '.join(lacks[:8])}{more}; its "
                "clients send no prototype of that."
            )
    everywhere = {name for parts in found.values() for part in parts for name in part}
    if empty := sorted(everywhere - set(classes)):
        lines.append(f"Note: class folders without a picture do not count: {', '.join(empty[:8])}.")
    for kind, names in ("Domains", list(found)), ("Classes", classes):
        if len({name.lower() for name in names}) < len(names):
            lines.append(f"Note: {kind} whose names differ in their case alone are kept apart.")
    return tuple(lines)


def check_number(folder, number):
    """Refuse another number of classes than 2 to 1,000. Raises InputError."""
    if not 2 <= number <= MOST_CLASSES:
        raise InputError(
            f"{folder} holds {plural(number, 'class').replace('classs', 'classes')}; wanted 2 to "
            f"{MOST_CLASSES:,}; {LAYOUT}"
        )


def look_at_files(folder, packed):
    """The Listing of domains that are npz files."""
    number = 1 + max(int(read_labels(path).max(initial=0)) for path in packed)
    check_number(folder, number)
    for path in packed:
        if has_test(path) and (most := read_labels(path, "test_labels").max(initial=0)) >= number:
            raise InputError(
                f"{path}: test_labels has {most}, and no domain has a training image of a class "
                f"beyond {number - 1}; wanted training images of it in one domain at least"
            )
    train = {path.stem: path for path in packed}
    return Listing(folder, tuple(map(str, range(number))), train, dict.fromkeys(train, ()), ())


# ---------------------------------------------------------------- what it looks like


def read(listing, size=32, fit="stretch", rotation="exif"):
    """(train, tests) of a Listing: {domain: (images [n,size,size,3] uint8, labels [n] int32)}.

    Of a domain without test images of its own there are none. fit: "stretch", the whole picture
    made a square, or "crop", the middle of its longer side; rotation: "exif", turned as EXIF asks,
    or "file", as it is stored. Raises InputError that names every picture that cannot be used.
    """
    if not 8 <= size <= 224 or size % 8:
        raise InputError(f"--size is {size}; it must be a multiple of 8 from 8 to 224")
    how = {"side": size, "fit": fit, "rotation": rotation}
    if any(isinstance(content, Path) for content in listing.train.values()):
        both = {domain: read_file(path, size, fit) for domain, path in listing.train.items()}
        return ({domain: both[domain][which] for domain in both} for which in (0, 1))
    paths = [
        path
        for part in (listing.train, listing.tests)
        for pair in part.values()
        for path, _ in pair
    ]
    images = cache.kept(listing.folder, paths, how, lambda: read_pictures(paths, how))
    return split(images, listing.train, listing.tests)


def split(images, *parts):
    """The images of each domain of each part, in the order in which they were read."""
    start, made = 0, []
    for part in parts:
        made.append({})
        for domain, own in part.items():
            labels = np.array([label for _, label in own], np.int32)
            made[-1][domain] = images[start : start + len(own)], labels
            start += len(own)
    return made


def read_pictures(paths, how):
    """All pictures [n,size,size,3], on all cores. Raises InputError."""
    size, failed = how["side"], {}
    check_memory(len(paths), size)
    images = np.empty((len(paths), size, size, 3), np.uint8)

    def take(i):
        try:
            images[i] = pixels(paths[i], **how)
        except OSError as error:
            failed[i] = error.strerror or type(error).__name__
        except ValueError as error:
            failed[i] = str(error)

    # Pillow lets go of Python's lock while it decodes and resizes.
    with ThreadPoolExecutor(granted()) as threads:
        done = threads.map(take, range(len(paths)))
        for _ in tqdm(done, total=len(paths), unit="picture", disable=None):
            pass
    if failed:
        raise InputError(all_failed({paths[i]: failed[i] for i in sorted(failed)}))
    return images


def check_memory(number, size):
    """Tell how much memory the images take, before it is taken; refuse more than is free."""
    need, room = number * size * size * 3, memory()
    if need > 1e9:
        print(f"{number:,} pictures of {size} x {size} take {need / 1e9:.1f} GB", file=sys.stderr)
    if room is not None and need > 0.8 * room:
        raise InputError(
            f"{number:,} pictures of {size} x {size} take {need / 1e9:.1f} GB, and "
            f"{room / 1e9:.1f} GB are free; give a smaller --size or fewer pictures"
        )


def all_failed(reasons):
    """The line that names all pictures that cannot be used. reasons: {path: why}."""
    named = [f"{path} ({reason})" for path, reason in reasons.items()]
    text, step = ", ".join(named), "put good copies in their places or move them away"
    if len(text) > 1500:
        listed = Path("runs", "not-readable.txt")
        listed.parent.mkdir(exist_ok=True)
        listed.write_text("\n".join(named) + "\n", encoding="utf-8", errors="backslashreplace")
        text = f"{text[:1000]} ...; {listed} names them all"
    return f"{plural(len(named), 'picture')} cannot be used: {text}; {step}"


def read_labels(path, name="labels"):
    """The labels of an npz file. Raises InputError."""
    (labels,) = read_npz(path, (name,))
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise InputError(
            f"{path}: {name} is {labels.dtype} {list(labels.shape)}; "
            "wanted whole numbers [n] from 0"
        )
    return labels.astype(np.int32)


def has_test(path):
    """Whether an npz file has test images."""
    with zipfile.ZipFile(path) as archive:  # it was read before, so it is one
        return "test_images.npy" in archive.namelist()


def read_file(path, size, fit):
    """An npz file -> (images, labels) to train, (images, labels) to test, none if it has none."""
    parts, made = [("images", "labels"), ("test_images", "test_labels")], []
    for name, of_labels in parts[: 1 + has_test(path)]:
        (images,), labels = read_npz(path, (name,)), read_labels(path, of_labels)
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        whole = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        if not whole or images.dtype != np.uint8 or len(images) != len(labels) or 0 in images.shape:
            raise InputError(
                f"{path}: {name} is {images.dtype} {list(images.shape)} with labels "
                f"{list(labels.shape)}; wanted uint8 [n, h, w] or [n, h, w, 3] with n labels"
            )
        check_memory(len(images), size)
        squares = [to_square(Image.fromarray(image), size, fit) for image in images]
        made.append((np.stack(squares), labels))
    nothing = np.empty((0, size, size, 3), np.uint8), np.empty(0, np.int32)
    return (*made, nothing)[:2]
