"""The images of a task: published files where they lie, or the stand-in for digits.

With no files at all, digits are the built-in stand-in: real MNIST and optdigits images from
installed packages, SVHN and SYN drawn from fonts. Office photos have no stand-in.
"""

import hashlib

import numpy as np

from lab.data import domains
from lab.data.digits import load_digits
from lab.data.office import load_office
from lab.shell.errors import InputError


def load_folder(folder, **reading):
    """(train, tests, kind, {domain: what}) of the user's own domains, see `lab.data.domains`."""
    listing = domains.look(folder)
    train, tests = domains.read(listing, **reading)
    return train, tests, "files", {domain: f"{domain} in {folder}" for domain in train}


READERS = {"digits": load_digits, "office": load_office, "folder": load_folder}


def load(task, folder=None, **reading):
    """(train, tests, sources) of the task "digits", "office" or "folder".

    train, tests: {domain: (images [n,s,s,3] uint8, labels [n] int32)}, where s is 32 for digits and
    office; sources: {domain: kind, what, train, test (numbers of images), repeated (test images
    that are training images too), sha256}. Without a folder the files are looked for in `data/`.
    reading: size, fit and rotation of `lab.data.domains.read`, for "folder" alone; there a domain
    may have no test images: `lab.run.clients` takes them from its training images, by seed, and
    repeated counts the images that the domain holds twice. Raises InputError.
    """
    if task not in READERS:
        raise InputError(f"unknown task {task!r}; wanted {', '.join(READERS)}")
    try:
        train, tests, kind, what = READERS[task](folder, **reading)
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename or folder or 'data'}: "
            f"{error.strerror or error}; "
            "check that the file is there and readable"
        ) from error
    sources = {}
    for domain, (images, labels) in train.items():
        test_images, test_labels = tests[domain]
        held_back = 0 if len(test_labels) else share_to_test(len(labels))
        if len(labels) == held_back or not len(test_labels) + held_back:
            raise InputError(
                f"{domain} ({what[domain]}) gives {len(labels)} training and "
                f"{len(test_labels)} test images; wanted at least one of each"
            )
        sources[domain] = {
            "kind": kind,
            "what": what[domain],
            "train": len(labels) - held_back,
            "test": len(test_labels) + held_back,
            **({"held_back": held_back} if held_back else {}),
            "repeated": twice(images) if held_back else repeated(images, test_images),
            "sha256": digest(images, labels, test_images, test_labels),
        }
    return train, tests, sources


def repeated(train, test):
    """How many test images are training images too. train, test: [n,32,32,3]."""
    seen = {hash(image.tobytes()) for image in train}
    return sum(hash(image.tobytes()) in seen for image in test)


def share_to_test(number):
    """How many of a domain's images are held back for the test where it has no test images."""
    return max(1, number // 5) if number > 1 else 0


def twice(images):
    """How many images have an equal one before them. images: [n,s,s,3]."""
    return len(images) - len({hash(image.tobytes()) for image in images})


def digest(*arrays):
    """sha256 over shapes and bytes: equal digests mean equal data."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
