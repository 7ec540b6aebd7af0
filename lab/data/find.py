"""Where the files of each domain lie: the usual places below a data folder, in any case."""

import os
from fnmatch import fnmatch
from pathlib import Path

from lab.shell.errors import InputError

# domain -> places below the data folder, most specific first;
# then what one place must hold, where "a|b" is either name
DIGITS = {
    "mnist": (
        ("mnist/raw", "mnist", "raw", ""),
        tuple(
            f"{name}|{name}.gz|mnist.npz"  # which is Keras's, and holds all four
            for name in (
                "train-images?idx3-ubyte",
                "train-labels?idx1-ubyte",
                "t10k-images?idx3-ubyte",
                "t10k-labels?idx1-ubyte",
            )
        ),
    ),
    "usps": (("usps", "usps/raw", ""), ("usps|usps.bz2", "usps.t|usps.t.bz2")),
    "svhn": (("svhn", ""), ("train_32x32.mat", "test_32x32.mat")),
    "syn": (
        (
            "syn",
            "synthetic_digits",
            "synthetic-digits",
            "syn/synthetic_digits",
            "synthetic-digits/synthetic_digits",
        ),
        ("train|imgs_train", "val|imgs_valid|test"),
    ),
}
OFFICE = {
    domain: (("", "images", "original_images", "domain_adaptation_images"), (folder,))
    for domain, folder in {
        "caltech": "caltech10|caltech",
        "amazon": "amazon",
        "webcam": "webcam",
        "dslr": "dslr",
    }.items()
}
# Other formats, which are named where a domain is not found: they may be what the user means.
OTHER_FORMATS = (
    (".parquet", ".arrow", ".tfrecord", ".h5", ".hdf5", ".pt", ".pth", ".pkl", ".npz", ".npy")
    + (".csv", ".mat", ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
)  # fmt: skip
DIGITS_HELP = (
    "`./run.sh fetch digits --data DIR` gets all but syn and says how to get that; "
    "without --data, and with no digit files in data/, the built-in stand-in is used"
)
OFFICE_HELP = (
    "Office-Caltech10 has no built-in stand-in: unpack it so that DIR holds amazon, "
    "caltech10, dslr and webcam with one folder per class "
    "(https://github.com/med-air/FedBN links a copy), then pass --data DIR"
)


def find_all(task, folder, domains, subfolder, help_text):
    """domain -> its paths; None when folder is None and `data/` holds nothing of any domain.

    domains: as DIGITS; subfolder: a pattern of what the data folder may hold instead of the
    places themselves. Raises InputError that tells for each lacking domain where it was looked for.
    """
    if folder is not None and not os.fspath(folder):
        raise InputError(f"--data is empty; {help_text}")
    folder_given, folder = folder is not None, Path("data" if folder is None else folder)
    if (folder_given or os.path.lexists(folder)) and not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder; {help_text}")
    found, missing, bases = {}, [], []
    for domain, (places, wanted) in domains.items():
        is_right = Path.is_file if domain in ("mnist", "usps", "svhn") else Path.is_dir
        roots = [folder, *matches(folder, subfolder)]
        found[domain], looked, there = find(roots, places, wanted, is_right)
        names = [readable(names) for names, path in zip(wanted, found[domain]) if path is None]
        if names:
            places = ", ".join(str(path.relative_to(folder)) for path in looked)
            missing.append(f"{domain}: looked for {', '.join(names)} in {places}")
            bases += there
    right = {path for paths in found.values() for path in paths if path}
    others = [str(path.relative_to(folder)) for path in in_other_formats(bases) - right]
    of_a_domain = [name for name in others if any(domain in name.lower() for domain in domains)]
    if not (folder_given or right or of_a_domain):
        return None
    if missing:
        beside = f"; not read as it is: {', '.join(sorted(others)[:9])}" if others else ""
        raise InputError(
            f"{task} in {folder} lacks {len(missing)} of {len(domains)} domains; "
            f"{'; '.join(missing)}{beside}; next: {help_text}"
        )
    return found


def find(roots, places, wanted, is_right):
    """([path or None for each wanted name], places looked in, those of them that there are).

    The place that holds most of what is wanted, the first one if several do.
    """
    best, looked, there = [None] * len(wanted), [], []
    for root in roots:
        for place in places:
            looked.append(root / place)
            there += matches(root, place)
            for base in matches(root, place):
                found = [
                    next(
                        (
                            path
                            for name in names.split("|")
                            for path in matches(base, name)
                            if is_right(path)
                        ),
                        None,
                    )
                    for names in wanted
                ]
                best = max(best, found, key=lambda paths: sum(path is not None for path in paths))
    return best, looked, there


def in_other_formats(folders):
    """The files in these folders whose endings are those of OTHER_FORMATS."""
    files = [path for folder in set(folders) if folder.is_dir() for path in folder.iterdir()]
    return {path for path in files if path.name.lower().endswith(OTHER_FORMATS)}


def matches(folder, pattern):
    """Paths below folder whose parts match the pattern's parts, whatever their case."""
    head, _, rest = pattern.partition("/")
    if not head:
        return [folder]
    if not folder.is_dir():
        return []
    hits = [path for path in sorted(folder.iterdir()) if fnmatch(path.name.lower(), head)]
    return [path for hit in hits for path in matches(hit, rest)] if rest else hits


def readable(names):
    """ "usps|usps.bz2" -> "usps[.bz2]", "train|imgs_train" -> "train or imgs_train"."""
    first, *others = names.replace("?", "-").removesuffix("|mnist.npz").split("|")
    return first + "".join(
        f"[{name.removeprefix(first)}]" if name.startswith(f"{first}.") else f" or {name}"
        for name in others
    )
