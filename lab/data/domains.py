"""Images of the user's own domains: a folder of pictures or an .npz file for each domain.

    DIR/<domain>/<class>/*.jpg                 no test set of its own
    DIR/<domain>/{train,test}/<class>/*.jpg
    DIR/<domain>.npz                           images, labels, and perhaps test_images, test_labels

`look` finds out what is there and opens no picture, `read` decodes what it found.
"""

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lab.data import cache
from lab.data.images import is_picture, subfolders, to_square
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
    if not os.fspath(folder):
        raise InputError(f"--data is empty; {WANTED}")
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
        found = look_at_files(files) if files else look_at_folders(folder, subs)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be read ({error.strerror or error}); "
            "look at its rights and its disk, then give the same command again"
        ) from error
    return checked(Listing(folder, *found))


def is_npz(path):
    return path.suffix.lower() == ".npz" and not path.name.startswith(".") and path.is_file()


def checked(listing):
    """The listing with a note for each domain that lacks classes. Raises InputError."""
    if not 2 <= len(listing.classes) <= MOST_CLASSES:
        raise InputError(
            f"{listing.folder} holds images of {len(listing.classes)} "
            f"class{'es' * (len(listing.classes) != 1)}, {first_of(listing.classes)}; "
            f"wanted 2 to {MOST_CLASSES}; {WANTED}"
        )
    held = {domain: labels_held(train) for domain, train in listing.train.items()}
    known = set().union(*held.values())
    for domain, test in listing.tests.items():
        strange = sorted(labels_held(test, "test_labels") - known)
        if strange:
            raise InputError(
                f"{domain}'s test images are of class {first_of(listing.classes[k] for k in strange)},"
                " of which no domain has a training image; wanted some; move them away or add some"
            )
    notes = list(listing.notes)
    for domain, labels in held.items():
        lacking = [name for k, name in enumerate(listing.classes) if k not in labels]
        if lacking:
            total = len(listing.classes)
            notes.append(f"{domain} lacks {len(lacking)} of {total} classes: {first_of(lacking)}")
    notes += [*alike("domain", held), *alike("class", listing.classes)]
    return listing._replace(notes=tuple(notes))


def labels_held(part, name="labels"):
    """The labels of a domain's part of a Listing, as a set."""
    if isinstance(part, Path):
        return set(read_labels(part)[name].tolist())
    return {label for _, label in part}


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
    """The folders of domains -> (classes, train, tests, notes)."""
    refuse_one_domain(folder, subs)
    notes, skipped, empty = [], Counter(), set()
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
    return tuple(classes), train, tests, tuple(notes)


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


def look_at_files(files):
    """The .npz files of domains -> (classes, train, tests, notes)."""
    train, tests, most = {}, {}, 0
    for path in files:
        check_name(path, path.stem, "domain")
        if path.stem in train:
            raise InputError(
                f"{path} and {train[path.stem].name} are of one name; wanted one file for each "
                "domain; rename one of them"
            )
        labels = read_labels(path)
        train[path.stem] = path
        tests[path.stem] = path if "test_labels" in labels else ()
        most = max(most, *(part.max(initial=0) for part in labels.values()))
    return tuple(str(k) for k in range(most + 1)), train, tests, ()


def read_labels(path):
    """{"labels": int32 [n]} of an .npz file, and its "test_labels" if it has them."""
    labels, test_labels = read_npz(path, ("labels",), ("test_labels",))
    found = {"labels": labels} | ({} if test_labels is None else {"test_labels": test_labels})
    for name, array in found.items():
        if array.ndim != 1 or array.dtype.kind not in "iuf" or not array.size:
            raise InputError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}; "
                "wanted one whole number for each image; save it again"
            )
        bad = array[~np.isin(array, np.arange(MOST_CLASSES))]
        if bad.size:
            raise InputError(
                f"{path}: {name} holds {bad[0]}; wanted whole numbers from 0 to "
                f"{MOST_CLASSES - 1}; number the classes from 0 and save it again"
            )
        found[name] = array.astype(np.int32)
    return found


def read_file(path, size, fit):
    """An .npz file -> (images, labels) to train, (images, labels) to test, perhaps none."""
    labels = read_labels(path)
    images = read_npz(path, ("images",), ("test_images",))
    parts = []
    for array, which in zip(images, ("", "test_")):
        wanted = labels.get(f"{which}labels")
        if array is None and wanted is None:
            parts.append(none_of(size))
            continue
        shape = () if array is None else array.shape
        good = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
        if not good or array.dtype != np.uint8 or wanted is None or shape[:1] != wanted.shape:
            kind = "lacking" if array is None else f"{array.dtype} {list(shape)}"
            count = "no" if wanted is None else len(wanted)
            raise InputError(
                f"{path}: {which}images is {kind}, with {count} {which}labels; wanted uint8 "
                "[n, h, w], [n, h, w, 1] or [n, h, w, 3] and n labels; save it again"
            )
        if not all(shape[1:3]):
            raise InputError(
                f"{path}: {which}images of {list(shape)} have no pixels; save it again"
            )
        parts.append((squares(array, size, fit), wanted))
    return parts


def squares(array, size, fit):
    """Images [n,h,w], [n,h,w,1] or [n,h,w,3] -> [n,size,size,3], as to_square makes each."""
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    images = np.empty((len(array), size, size, 3), np.uint8)
    for i, image in enumerate(array):
        images[i] = to_square(Image.fromarray(np.ascontiguousarray(image)), size, fit)
    return images


def none_of(size):
    return np.empty((0, size, size, 3), np.uint8), np.empty(0, np.int32)


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
    check_memory(count(listing), size)
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


def count(listing):
    """How many images, training and test ones, a Listing stands for."""
    parts = [*listing.train.values(), *listing.tests.values()]
    files = {part for part in parts if isinstance(part, Path)}
    in_files = sum(len(labels) for path in files for labels in read_labels(path).values())
    return in_files + sum(len(part) for part in parts if not isinstance(part, Path))


def check_memory(pictures, size):
    """Refuse what does not fit into the memory that is free. Raises InputError."""
    needed, free = pictures * size * size * 3, cores.memory()
    if free is not None and needed > free:
        raise InputError(
            f"{plural(pictures, 'picture')} at --size {size} take {needed / 1e9:.1f} GB of memory, "
            f"of which {free / 1e9:.1f} GB are free; give a smaller --size or fewer pictures"
        )


def read_folders(listing, size, fit, rotation):
    """(train, tests) of folders of pictures, all of which lie in one array, from the cache if so."""
    parts = [*listing.train.values(), *listing.tests.values()]
    paths = [path for part in parts for path, _ in part]
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
