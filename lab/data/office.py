"""Office-Caltech10: its folders of photos, and how a client comes to hold every class."""

import numpy as np

from lab.data.find import OFFICE, OFFICE_HELP, find_all
from lab.data.images import read_class_folders
from lab.shell.errors import InputError

OBJECTS = (
    "backpack|back_pack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop|laptop_computer",
    "monitor",
    "mouse",
    "mug",
    "projector",
)


def load_office(folder):
    """(train, tests, kind, {domain: what}), see `lab.data.load.load`. folder None: `data/`."""
    found = find_all("office", folder, OFFICE, "office*", OFFICE_HELP)
    if found is None:
        raise InputError(f"no office folders in data/; {OFFICE_HELP}")
    train, tests = {}, {}
    for domain, (path,) in found.items():
        images, labels = read_class_folders(path, OBJECTS)
        # Sec. 4.1 names no files; the last two of every ten
        # over a whole domain give its 224, 190, 58 and 30 test images.
        is_test = np.arange(len(labels)) % 10 >= 8
        train[domain] = images[~is_test], labels[~is_test]
        tests[domain] = images[is_test], labels[is_test]
    what = {domain: f"Office-Caltech10 photos in {path}" for domain, (path,) in found.items()}
    return train, tests, "files", what


def one_of_each_class(mine, rest, labels):
    """Swap images between mine and rest so that mine has each class of which rest has an image.

    mine, rest: shuffled indices into labels. The client's most frequent
    class gives up an image. The released code does the same for Office,
    but from the images of all clients, so that two may hold the same one.
    """
    mine, rest = mine.copy(), rest.copy()
    for k in range(len(OBJECTS)):
        counts = np.bincount(labels[mine], minlength=len(OBJECTS))
        spare = np.flatnonzero(labels[rest] == k)
        if counts[k] == 0 and len(spare) and counts.max() > 1:
            surplus = np.flatnonzero(labels[mine] == counts.argmax())
            mine[surplus[0]], rest[spare[0]] = rest[spare[0]], mine[surplus[0]]
    return mine, rest
