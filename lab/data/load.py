"""The images of a task: published files where they lie, or the stand-in for digits.

With no files at all, digits are the built-in stand-in: real MNIST and optdigits images from
installed packages, SVHN and SYN drawn from fonts. Office photos have no stand-in.
"""

import hashlib

import numpy as np

from lab.data.digits import load_digits
from lab.data.office import load_office
from lab.shell.errors import InputError

READERS = {"digits": load_digits, "office": load_office}


def load(task, folder=None):
    """(train, tests, sources) of the task "digits" or "office".

    train, tests: {domain: (images [n,32,32,3] uint8, labels [n] int32)}; sources: {domain: kind,
    what, train, test (numbers of images), repeated (test images that are training images too),
    sha256}. Without a folder the files are looked for in `data/`. Raises InputError.
    """
    if task not in READERS:
        raise InputError(f"unknown task {task!r}; wanted {' or '.join(READERS)}")
    try:
        train, tests, kind, what = READERS[task](folder)
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename or folder or 'data'}: "
            f"{error.strerror or error}; "
            "check that the file is there and readable"
        ) from error
    sources = {}
    for domain, (images, labels) in train.items():
        test_images, test_labels = tests[domain]
        if not len(labels) or not len(test_labels):
            raise InputError(
                f"{domain} ({what[domain]}) gives {len(labels)} training and "
                f"{len(test_labels)} test images; wanted at least one of each"
            )
        sources[domain] = {
            "kind": kind,
            "what": what[domain],
            "train": len(labels),
            "test": len(test_labels),
            "repeated": repeated(images, test_images),
            "sha256": digest(images, labels, test_images, test_labels),
        }
    return train, tests, sources


def repeated(train, test):
    """How many test images are training images too. train, test: [n,32,32,3]."""
    seen = {hash(image.tobytes()) for image in train}
    return sum(hash(image.tobytes()) in seen for image in test)


def digest(*arrays):
    """sha256 over shapes and bytes: equal digests mean equal data."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
