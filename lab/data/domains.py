"""Images of the user's own domains: a folder of pictures or an .npz file for each domain.

    DIR/<domain>/<class>/*.jpg                 no test set of its own
    DIR/<domain>/{train,test}/<class>/*.jpg
    DIR/<domain>.npz                           images, labels, and perhaps test_images, test_labels

`look` finds out what is there and opens no picture, `read` decodes what it found.
"""

import hashlib
import os
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lab.data import cache
from lab.data.images import is_picture, subfolders, to_square
from lab.data.limits import LARGEST
from lab.data.npz import read_npz
from lab.data.pictures import decode_all
from lab.shell import cores
from lab.shell.errors import InputError
from lab.shell.words import is_name, plural

FITS, ROTATIONS = ("stretch", "crop"), ("exif", "file")
MOST_CLASSES = 1000
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
# The columns of rounds.csv and clusters.csv, beside which the domains stand.
COLUMNS = {"round", "loss", "avg", "clusters", "seconds", "purity", "class", "cluster", "clients"}
COLUMNS.add("each")  # --hold-out takes it for all domains
LEFTOVERS = {"thumbs.db", "desktop.ini", "icon\r"}  # and what begins with a dot
SYSTEMS = {"@eadir", "__macosx", "$recycle.bin", "lost+found", "system volume information"}
SYSTEMS |= {"#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot", "__pycache__"}
WANTED = (
    "wanted DIR/<domain>/<class>/ with pictures, or DIR/<domain>/train/<class>/ and "
    "test/<class>/, or one DIR/<domain>.npz for each domain"
)


class Listing(NamedTuple):
    """What a look at the folder found."""

    folder: Path
    classes: tuple[str, ...]  # of all domains, sorted as plain strings; of .npz files "0", "1", ...
    train: dict  # domain -> ((path, label), ...) by class, then by file name; or the .npz's path
    tests: dict  # the same of the test folders; () for a domain without
    notes: tuple[str, ...]  # lines to show once


# ---------------------------------------------------------------- the look


def look(folder):
    """A Listing of what lies in a folder of domains. Raises InputError."""
    if not folder:
        raise InputError(f"--data is not given, or empty; {WANTED}")
    folder = Path(folder)
    try:
        if not folder.is_dir():
            raise InputError(f"--data {folder} is not a folder; {WANTED}")
        files = [path for path in sorted(folder.iterdir()) if is_npz(path)]
        subs = subfolders(folder)
        if files and subs:
            raise InputError(
                f"{folder} holds folders ({subs[0].name}) and .npz files ({files[0].name}); wanted "
                "one kind for all domains; put one of the two into a folder of its own"
            )
        if not files and not subs:
            raise InputError(f"{folder} holds no folders and no .npz files; {WANTED}")
        found = look_at_files(folder, files) if files else look_at_folders(folder, subs)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be read ({error.strerror or error}); "
            "look at its rights and its disk, then give the same command again"
        ) from error
    return checked(*found)


def is_npz(path):
    return path.suffix.lower() == ".npz" and not path.name.startswith(".") and path.is_file()


def checked(listing, held, tested):
    """The listing with a note for each domain that lacks classes. Raises InputError.

    held, tested: {domain: the labels of its training images, of its test images, as a set}.
    """
    classes, notes = listing.classes, list(listing.notes)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{listing.folder} holds images of {len(classes)} class{'es' * (len(classes) != 1)}, "
            f"{first_of(classes)}; wanted 2 to {MOST_CLASSES}; {WANTED}"
        )
    known = set().union(*held.values())
    for domain, labels in tested.items():
        if strange := [classes[k] for k in sorted(labels - known)]:
            raise InputError(
                f"{domain} has test images of {first_of(strange)}, of which no domain has a "
                "training image; wanted some of each class; add them, or move the test images away"
            )
    for domain, labels in held.items():
        if lacking := [name for k, name in enumerate(classes) if k not in labels]:
            total = len(classes)
            notes.append(f"{domain} lacks {len(lacking)} of {total} classes: {first_of(lacking)}")
    notes += [*alike("domain", held), *alike("class", classes)]
    return listing._replace(notes=tuple(notes))


def alike(kind, names):
    """Notes about names that differ only by case or in how their letters are put together."""
    same = defaultdict(list)
    for name in names:
        same[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [
        f"{' and '.join(map(ascii, group))} look alike, and are each a {kind} of their own"
        for group in same.values()
        if len(group) > 1
    ]


def check_name(path, name, kind):
    """Refuse a name that a CSV file or a picture cannot show. Raises InputError."""
    # matplotlib takes what stands between two $ for a formula.
    if is_name(name) and name.count("$") < 2 and not (kind == "domain" and taken(name)):
        return
    why = "a column of the tables has it" if taken(name) else "tables and pictures cannot show it"
    raise InputError(
        f"{str(path.parent)!r} holds the {kind} {name[:100]!r}, which cannot be a name: {why}; "
        "wanted 1 to 100 printable characters, the first no _, one $ at most; rename it"
    )


def taken(name):
    return name.lower() in COLUMNS


def first_of(names, most=5):
    """Names as a text, the first few if there are many."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---------------------------------------------------------------- folders


def look_at_folders(folder, subs):
    """The folders of domains -> what `checked` takes."""
    refuse_one_domain(folder, subs)
    notes, skipped = [], Counter()
    passed = passed_over(folder)
    parts = {}  # domain -> its two {class: pictures}
    for sub in subs:
        check_name(sub, sub.name, "domain")
        train, test = splits_of(sub, notes)
        parts[sub.name] = [
            class_pictures(place, skipped, passed) if place else {} for place in (train, test)
        ]
        if not any(parts[sub.name][0].values()):
            raise InputError(
                f"{train} holds no pictures in class folders; {WANTED}; "
                "give it some, or move it out of the folder that --data names"
            )
        if train == sub:
            skipped.update(ending(path) for path in sub.iterdir() if is_extra(path))
    every = [part for pair in parts.values() for part in pair]
    classes = sorted({name for part in every for name, pictures in part.items() if pictures})
    empty = sorted({name for part in every for name in part} - set(classes))
    if empty:
        notes.append(f"no pictures in any domain, so no class: {first_of(empty)}")
    if skipped:
        count = plural(sum(skipped.values()), "file")
        notes.append(f"{count} skipped, for its ending or place: {first_of(sorted(skipped), 9)}")
    if passed:
        notes.append(f"passed over, as folders that systems leave: {first_of(passed)}")
    train, tests = (
        {domain: in_order(pair[i], classes) for domain, pair in parts.items()} for i in (0, 1)
    )
    held, tested = (
        {domain: {label for _, label in pairs} for domain, pairs in side.items()}
        for side in (train, tests)
    )
    return Listing(folder, tuple(classes), train, tests, tuple(notes)), held, tested


def in_order(pictures, classes):
    """{class: pictures} -> ((path, label), ...) in order of class."""
    return tuple((path, k) for k, name in enumerate(classes) for path in pictures.get(name, ()))


def refuse_one_domain(folder, subs):
    """A folder that holds classes, or train and test, is one domain. Raises InputError."""
    pictured = [sub for sub in subs if holds_pictures(sub) and not subfolders(sub)]
    if len(pictured) == len(subs):
        seen = f"its folder {pictured[0].name} holds pictures itself"
    elif all(sub.name.lower() in SPLITS for sub in subs):
        seen = f"its folders are {', '.join(sub.name for sub in subs)}"
    elif pictured:
        raise InputError(
            f"{pictured[0]} holds pictures but no class folders; {WANTED}; "
            "put its pictures into a folder of their class"
        )
    else:
        return
    raise InputError(
        f"{folder} looks like one domain: {seen}; {WANTED}; "
        "make a folder with the domain's name in it and move the others into that"
    )


def holds_pictures(folder):
    return any(map(is_picture, folder.iterdir()))


def splits_of(domain, notes):
    """A domain's folder -> its folder of training classes, and that of test classes or None.

    A folder called train that holds pictures is a class, as in DomainNet.
    """
    subs = subfolders(domain)
    roles = defaultdict(list)
    for sub in subs:
        if sub.name.lower() in SPLITS and subfolders(sub) and not holds_pictures(sub):
            roles[SPLITS[sub.name.lower()]].append(sub)
    if not roles:
        return domain, None
    places = [place for group in roles.values() for place in group]
    if len(places) > len(roles) or "train" not in roles:
        raise InputError(
            f"{domain} holds {', '.join(sub.name for sub in subs)}; wanted one folder of training "
            "classes, train, and at most one of each of test and val; rename or merge them"
        )
    others = [sub for sub in subs if sub not in places and any(sub.iterdir())]
    if others:
        raise InputError(
            f"{others[0]} lies beside {', '.join(place.name for place in places)}; wanted classes "
            f"in {places[0]} and the like only; move it there, or out of {domain}"
        )
    train, test, val = (roles.get(role, [None])[0] for role in ("train", "test", "val"))
    if test and val:
        notes.append(f"{domain.name}: {test.name} is the test set; {val.name} is not used")
    elif val:
        notes.append(f"{domain.name}: {val.name} is the test set")
    return train, test or val


def class_pictures(folder, skipped, passed):
    """{class: its pictures, by file name} of a folder of class folders. Raises InputError."""
    classes = {}
    passed += [name for name in passed_over(folder) if name not in passed]
    for sub in subfolders(folder):
        check_name(sub, sub.name, "class")
        deeper = subfolders(sub)
        if deeper:
            raise InputError(
                f"{deeper[0]} is nested too deep: {sub.name} is taken for a class; {WANTED}; "
                f"move its pictures up into {sub}, or move it away"
            )
        entries = sorted(sub.iterdir())
        classes[sub.name] = list(filter(is_picture, entries))
        others = set(entries).difference(classes[sub.name])
        skipped.update(ending(path) for path in others if is_extra(path))
    return classes


def is_extra(path):
    """Whether it is a file that somebody may miss."""
    hidden = path.name.startswith(".") or path.name.lower() in LEFTOVERS
    return not hidden and not path.is_dir()


def ending(path):
    return ascii(path.suffix.lower())[1:-1][:20] or "no ending"


def passed_over(folder):
    """The names of the folders that `subfolders` leaves out and that may be no system's."""
    kept = {path.name for path in subfolders(folder)}
    return [
        ascii(path.name)[1:-1]
        for path in sorted(folder.iterdir())
        if path.name not in kept and not path.name.startswith(".")
        if path.name.lower() not in SYSTEMS and path.is_dir()
    ]


# ---------------------------------------------------------------- .npz files


def look_at_files(folder, files):
    """The .npz files of domains -> what `checked` takes."""
    train, tests, held, tested = {}, {}, {}, {}
    for path in files:
        domain = path.stem
        check_name(path, domain, "domain")
        if domain in train:
            raise InputError(
                f"{path} and {train[domain].name} are of one name; wanted one file for each "
                "domain; rename one of them"
            )
        if path.stat().st_size > LARGEST["npz"]:
            raise InputError(
                f"{path} has {path.stat().st_size} bytes; wanted at most {LARGEST['npz']}; "
                "lay its images as pictures into DIR/<domain>/<class>/"
            )
        labels, test_labels = read_npz(path, ("labels",), ("test_labels",))
        train[domain], tests[domain] = path, () if test_labels is None else path
        held[domain] = set(checked_labels(path, "labels", labels).tolist())
        tested[domain] = set()
        if test_labels is not None:
            tested[domain] |= set(checked_labels(path, "test_labels", test_labels).tolist())
    most = max(max(held[domain] | tested[domain]) for domain in held)
    classes = tuple(str(k) for k in range(most + 1))
    return Listing(folder, classes, train, tests, ()), held, tested


def checked_labels(path, name, labels):
    """Labels as int32 [n]. Raises InputError."""
    if labels.ndim != 1 or labels.dtype.kind not in "iuf" or not labels.size:
        raise InputError(
            f"{path}: {name} is {labels.dtype} {list(labels.shape)}; "
            "wanted one whole number for each image; save it again"
        )
    bad = labels[~np.isin(labels, np.arange(MOST_CLASSES))]
    if bad.size:
        raise InputError(
            f"{path}: {name} holds {bad[0]}; wanted whole numbers from 0 to "
            f"{MOST_CLASSES - 1}; number the classes from 0 and save it again"
        )
    return labels.astype(np.int32)


def read_file(path, size, fit):
    """An .npz file -> (images, labels) to train, (images, labels) to test, perhaps none."""
    names = ("images", "labels"), ("test_images", "test_labels")
    arrays = read_npz(path, *names)
    parts = []
    for name, images, labels in zip(("images", "test_images"), arrays[::2], arrays[1::2]):
        if images is None and labels is None:
            parts.append((np.empty((0, size, size, 3), np.uint8), np.empty(0, np.int32)))
            continue
        shape = () if images is None else images.shape
        good = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        good = good and images.dtype == np.uint8 and all(shape[1:3])
        if not good or labels is None or labels.shape != shape[:1]:
            kind = "lacking" if images is None else f"{images.dtype} {list(shape)}"
            of = "none" if labels is None else list(labels.shape)
            raise InputError(
                f"{path}: {name} is {kind}, its labels are {of}; wanted uint8 [n, h, w], "
                "[n, h, w, 1] or [n, h, w, 3] and n labels; save it again"
            )
        check_memory(len(images), size)
        labels = checked_labels(path, name.replace("images", "labels"), labels)
        parts.append((squares(images, size, fit), labels))
    return parts


def squares(array, size, fit):
    """Images [n,h,w], [n,h,w,1] or [n,h,w,3] -> [n,size,size,3], as to_square makes each."""
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    images = np.empty((len(array), size, size, 3), np.uint8)
    for i, image in enumerate(array):
        images[i] = to_square(Image.fromarray(np.ascontiguousarray(image)), size, fit)
    return images


# ---------------------------------------------------------------- reading


def read(listing, size=32, fit="stretch", rotation="exif"):
    """(train, tests): {domain: (images [n,size,size,3] uint8, labels [n] int32)}.

    A domain without a test set has no test images. Raises InputError.
    """
    if type(size) is not int or size not in range(8, 225, 8):
        raise InputError(f"--size {size!r}; wanted a multiple of 8 from 8 to 224")
    for name, value, choices in (("fit", fit, FITS), ("rotation", rotation, ROTATIONS)):
        if value not in choices:
            raise InputError(f"--{name} {value!r}; wanted {' or '.join(choices)}")
    try:
        if any(isinstance(part, Path) for part in listing.train.values()):
            pairs = {d: read_file(path, size, fit) for d, path in listing.train.items()}
            return tuple({domain: pair[i] for domain, pair in pairs.items()} for i in (0, 1))
        return read_folders(listing, size, fit, rotation)
    except OSError as error:
        raise InputError(
            f"{error.filename or listing.folder} cannot be read ({error.strerror or error}); "
            "look at its rights and its disk, then give the same command again"
        ) from error


def check_memory(pictures, size):
    """Tell how much memory many pictures take; refuse what is not free. Raises InputError."""
    # once as they are read, and once with the clients and the test sets
    needed, free = 2 * pictures * size * size * 3, cores.memory()
    if needed > 1e9:
        print(f"{pictures:,} pictures take {needed / 1e9:.1f} GB of memory", file=sys.stderr)
    if free is not None and needed > free:
        raise InputError(
            f"{plural(pictures, 'picture')} at --size {size} take {needed / 1e9:.1f} GB of memory, "
            f"of which {free / 1e9:.1f} GB are free; give a smaller --size or fewer pictures"
        )


def read_folders(listing, size, fit, rotation):
    """(train, tests) of folders of pictures: slices of one array, which the cache may have."""
    parts = [*listing.train.values(), *listing.tests.values()]
    paths = [path for part in parts for path, _ in part]
    check_memory(len(paths), size)
    about = (os.path.abspath(listing.folder), size, fit, rotation)
    stamps = [stamp(path) for path in paths]
    key = key_of(about, listing.folder, paths, stamps)
    images = np.empty((len(paths), size, size, 3), np.uint8)
    if not cache.load(about, key, images):
        decode_all(listing.folder, paths, images, fit, rotation)
        for path, before in zip(paths, stamps):
            if stamp(path) != before:
                raise InputError(
                    f"{path} changed while the pictures were read; "
                    "give the same command again when nothing writes there"
                )
        if sum(length for length, *_ in stamps) >= cache.FEWEST_BYTES:
            cache.save(about, key, images)
    domains, at = [], 0
    for part in parts:
        labels = np.array([label for _, label in part], np.int32)
        domains.append((images[at : at + len(part)], labels))
        at += len(part)
    half = len(listing.train)
    return dict(zip(listing.train, domains[:half])), dict(zip(listing.tests, domains[half:]))


def stamp(path):
    """What changes with a file's content; None where there is none to be had."""
    try:
        status = path.stat()
    except OSError:  # read_picture says why
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def key_of(about, folder, paths, stamps):
    """A hash of everything that the decoded images depend on, but for the labels."""
    total = hashlib.sha256(repr((about, cache.decoder())).encode())
    for path, what in zip(paths, stamps):
        total.update(repr((os.fspath(path.relative_to(folder)), what)).encode())
    return total.digest()
