"""Files -> arrays: the digit and office domains of Sec. 4.1 as uint8 images [n,32,32,3] and int32 labels [n].

`load(task, folder)` reads published copies where they lie. With no files at all, digits fall back to a built-in stand-in:
real MNIST and optdigits images from installed packages, SVHN and SYN drawn from fonts. Office photos have no stand-in.
Every reader distrusts its file: it checks sizes before it allocates, and says which file is wrong and what was wanted.
"""
import bz2
import gzip
import hashlib
import struct
import zlib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image

from fpl import InputError

SIDE = 32
# domain -> places below the data folder, most specific first; then what one place must hold ("a|b": either name)
DIGITS = {
    "mnist": (("mnist/raw", "mnist", "raw", ""), tuple(
        f"{name}|{name}.gz" for name in ("train-images?idx3-ubyte", "train-labels?idx1-ubyte",
                                         "t10k-images?idx3-ubyte", "t10k-labels?idx1-ubyte"))),
    "usps": (("usps", "usps/raw", ""), ("usps|usps.bz2", "usps.t|usps.t.bz2")),
    "svhn": (("svhn", ""), ("train_32x32.mat", "test_32x32.mat")),
    "syn": (("syn", "synthetic_digits", "synthetic-digits", "syn/synthetic_digits", "synthetic-digits/synthetic_digits"),
            ("train|imgs_train", "val|imgs_valid|test")),
}
OFFICE = {name: (("", "office*caltech*"), (folder,)) for name, folder in
          {"caltech": "caltech10|caltech", "amazon": "amazon", "webcam": "webcam", "dslr": "dslr"}.items()}
OBJECTS = ("backpack|back_pack", "bike", "calculator", "headphones", "keyboard", "laptop|laptop_computer", "monitor", "mouse",
           "mug", "projector")
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
OFFICE_HELP = ("Office-Caltech10 has no built-in stand-in: unpack it so that DIR holds amazon, caltech10, dslr and webcam with one "
               "folder per class (https://github.com/med-air/FedBN links a copy), then pass --data DIR")


def load(task, folder=None):
    """(train, tests, sources) of the task "digits" or "office".

    train and tests: domain -> (images, labels); sources: domain -> kind, what, train, test (numbers of images), sha256.
    Without a folder the files are looked for in `data/`."""
    try:
        if task == "digits":
            train, tests, kind, what = _load_digits(folder)
        elif task == "office":
            train, tests, kind, what = _load_office(folder)
        else:
            raise InputError(f"unknown task {task!r}; wanted digits or office")
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror or error}; check that the file is there and readable") from error
    for domain in train:
        if not len(train[domain][1]) or not len(tests[domain][1]):
            raise InputError(f"{domain} ({what[domain]}) gives {len(train[domain][1])} training and {len(tests[domain][1])} test "
                             "images; wanted at least one of each")
    sources = {domain: {"kind": kind, "what": what[domain], "train": len(train[domain][1]), "test": len(tests[domain][1]),
                        "sha256": digest(*train[domain], *tests[domain])} for domain in train}
    return train, tests, sources


def digest(*arrays):
    """sha256 over shapes and bytes: equal digests mean equal data."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


# -- finding ---------------------------------------------------------------------------------------------------------------

def _matches(folder, pattern):
    """Paths below folder whose parts match the pattern's parts, whatever their case."""
    head, _, rest = pattern.partition("/")
    if not head:
        return [folder]
    if not folder.is_dir():
        return []
    hits = [path for path in sorted(folder.iterdir()) if fnmatch(path.name.lower(), head)]
    return [path for hit in hits for path in _matches(hit, rest)] if rest else hits


def _find(roots, places, wanted, is_right):
    """([path or None per wanted name], folders looked in): the place that holds most of what is wanted, the first if equal."""
    best, looked = [None] * len(wanted), []
    for root in roots:
        for place in places:
            looked.append(root / place)
            for base in _matches(root, place):
                found = [next((path for name in names.split("|") for path in _matches(base, name) if is_right(path)), None)
                         for names in wanted]
                best = max(best, found, key=lambda paths: sum(path is not None for path in paths))
    return best, looked


def _readable(names):
    """"usps|usps.bz2" -> "usps[.bz2]", "train|imgs_train" -> "train or imgs_train"."""
    first, *others = names.replace("?", "-").split("|")
    return first + "".join(f"[{name.removeprefix(first)}]" if name.startswith(f"{first}.") else f" or {name}" for name in others)


def _find_all(task, folder, domains, subfolder, help_text):
    """domain -> its paths; None when folder is the default `data/` and holds nothing of any domain."""
    folder_given, folder = folder is not None, Path(folder or "data")
    if folder_given and not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder; {help_text}")
    found, missing = {}, []
    for domain, (places, wanted) in domains.items():
        is_right = Path.is_file if domain in ("mnist", "usps", "svhn") else Path.is_dir
        found[domain], looked = _find([folder, *_matches(folder, subfolder)], places, wanted, is_right)
        names = [_readable(names) for names, path in zip(wanted, found[domain]) if path is None]
        if names:
            places = ", ".join(str(path.relative_to(folder)) for path in looked)
            missing.append(f"{domain}: looked for {', '.join(names)} in {places}")
    if not folder_given and not any(path for paths in found.values() for path in paths):
        return None
    if missing:
        raise InputError(f"{task} in {folder} lacks {len(missing)} of {len(domains)} domains; {'; '.join(missing)}; next: {help_text}")
    return found


# -- readers ---------------------------------------------------------------------------------------------------------------

def to_square(image):
    """A Pillow image or an array [h,w] or [h,w,3] -> [32,32,3], bilinear."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image.convert("RGB"))


def to_squares(images):
    """[n,h,w] or [n,h,w,3] uint8 -> [n,32,32,3] uint8."""
    squares = np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    for i, image in enumerate(images):
        squares[i] = to_square(image)
    return squares


def check_labels(labels, low, high, path):
    """Labels as int32, or an error naming the first that is not a whole number in low..high."""
    bad = np.flatnonzero(~np.isin(labels, np.arange(low, high + 1)))
    if bad.size:
        raise InputError(f"{path}: label {labels[bad[0]]} at position {bad[0]}; wanted a whole number from {low} to {high}; "
                         "get a fresh copy of the file")
    return labels.astype(np.int32)


def read_idx(path, dims):
    """An IDX file of uint8 with this many dimensions, plain or .gz."""
    size, packed = path.stat().st_size, path.suffix == ".gz"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or struct.unpack(">i", head[:4])[0] != 0x800 + dims:
                raise InputError(f"{path}: starts with {head[:4].hex() or 'nothing'}; wanted {0x800 + dims:08x}, an IDX file of "
                                 f"bytes in {dims} dimensions; get a fresh copy of the file")
            shape = struct.unpack(f">{dims}I", head[4:])
            count = int(np.prod(shape, dtype=object))
            # the header is not trusted with memory: deflate packs at most 1032 to 1
            body = file.read(count + 1) if count <= size * (1032 if packed else 1) else b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); get a fresh copy of the file") from error
    if len(body) != count or 0 in shape[1:]:
        raise InputError(f"{path}: promises {' x '.join(map(str, shape))} = {count} bytes, the file of {size} bytes holds "
                         f"{'more' if len(body) > count else 'fewer'}; get a fresh copy of the file")
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_mnist(images_path, labels_path):
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise InputError(f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels; wanted equal numbers")
    return to_squares(images), check_labels(labels, 0, 9, labels_path)


def _usps_line(line, path, number):
    """One libsvm line -> (label, 256 values)."""
    label, *pairs = line.split() or [b""]
    try:
        indices, values = np.array([pair.split(b":") for pair in pairs], float).reshape(-1, 2).T
        label = float(label)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not of the form `label 1:value ... 256:value` ({error})") from error
    if not np.array_equal(indices, np.arange(1, 257)):
        raise InputError(f"{path}, line {number}: {len(indices)} values; wanted the indices 1 to 256, each once and in order")
    if not np.all(np.abs(values) <= 1):
        raise InputError(f"{path}, line {number}: value {values[~(np.abs(values) <= 1)][0]}; wanted -1 to 1")
    return label, values


def read_usps(path):
    """libsvm text, plain or .bz2: label digit + 1, values -1..1 of a 16x16 image."""
    labels, images = [], []
    try:
        with (bz2.open if path.suffix == ".bz2" else open)(path, "rb") as file:
            # a published line has about 2,200 bytes; the bound keeps a damaged file from being one endless line
            for number, line in enumerate(iter(lambda: file.readline(1 << 15), b""), 1):
                label, values = _usps_line(line, path, number)
                labels.append(label)
                images.append(np.round((values + 1) / 2 * 255).astype(np.uint8).reshape(16, 16))
    except (EOFError, OSError) as error:
        raise InputError(f"{path}: damaged or unreadable ({error}); get a fresh copy of the file") from error
    return to_squares(images), check_labels(np.array(labels), 1, 10, path) - 1


def read_svhn(path):
    """A MATLAB file: X [32,32,3,n] uint8 and y [n,1], where 10 stands for the digit 0."""
    from scipy.io import loadmat
    with open(path, "rb") as file:
        head = file.read(520)
    if b"\x89HDF" in head or b"MATLAB 7.3" in head:
        raise InputError(f"{path}: a MATLAB 7.3 (HDF5) file; wanted the published 32x32 file, or save it again with `-v7`")
    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].ravel()
    except Exception as error:  # a damaged file raises nearly anything here, SciPy names no common class
        raise InputError(f"{path}: not a readable MATLAB file with X and y ({type(error).__name__}: {error}); "
                         "get a fresh copy of the file") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (SIDE, SIDE, 3) or images.shape[3] != len(labels):
        raise InputError(f"{path}: X is {images.dtype} {list(images.shape)} with {len(labels)} labels; wanted uint8 [32, 32, 3, n] "
                         "with n labels")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), check_labels(labels, 0, 10, path) % 10


def read_image(path):
    """One picture of any mode -> [32,32,3]."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit grey: Pillow's own convert would clip everything above 255 to white
                image = Image.fromarray((np.clip(np.asarray(image, float), 0, 65535) / 257).round().astype(np.uint8))
            # by way of RGBA, for Pillow warns about a palette with transparency
            return to_square(image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason}); replace or remove it") from error


def read_class_folders(folder, classes):
    """Pictures below one folder per class -> images, labels; by class, then by file name."""
    label_of = {name: label for label, names in enumerate(classes) for name in names.split("|")}
    paths = {label: [] for label in range(len(classes))}
    for sub in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if sub.name.lower() not in label_of:
            raise InputError(f"{sub}: class folder {sub.name!r} is not expected; wanted {', '.join(label_of)}; move it away")
        paths[label_of[sub.name.lower()]] += sorted(path for path in sub.iterdir() if path.suffix.lower() in IMAGE_ENDINGS
                                                    and not path.name.startswith(".") and path.is_file())
    empty = [classes[label].replace("|", " or ") for label in paths if not paths[label]]
    if empty:
        raise InputError(f"{folder}: no images for class {', '.join(empty)}; wanted one folder with images per class")
    images = np.stack([read_image(path) for label in paths for path in paths[label]])
    return images, np.repeat(np.arange(len(classes)), [len(paths[label]) for label in paths]).astype(np.int32)


# -- tasks -----------------------------------------------------------------------------------------------------------------

def _load_digits(folder):
    found = _find_all("digits", folder, DIGITS, "digits", "`./run.sh fetch digits --data DIR` gets all but syn and says how to get "
                      "that; without --data, and with no digit files in data/, the built-in stand-in is used")
    if found is None:
        from lab.standin import stand_in  # here, because it is seldom wanted and imports this module

        return stand_in()
    (train_x, train_y, test_x, test_y), digits = found["mnist"], tuple("0123456789")
    train, tests = {"mnist": read_mnist(train_x, train_y)}, {"mnist": read_mnist(test_x, test_y)}
    for domain, read in {"usps": read_usps, "svhn": read_svhn, "syn": lambda path: read_class_folders(path, digits)}.items():
        train[domain], tests[domain] = map(read, found[domain])
    return train, tests, "files", {domain: f"{domain} files in {paths[0].parent}" for domain, paths in found.items()}


def _load_office(folder):
    found = _find_all("office", folder, OFFICE, "office*caltech*", OFFICE_HELP)
    if found is None:
        raise InputError(f"no office folders in data/; {OFFICE_HELP}")
    train, tests = {}, {}
    for domain, (path,) in found.items():
        images, labels = read_class_folders(path, OBJECTS)
        # Sec. 4.1 names no files; the last two of every ten over a whole domain give its 224, 190, 58 and 30 test images
        is_test = np.arange(len(labels)) % 10 >= 8
        train[domain], tests[domain] = (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])
    return train, tests, "files", {domain: f"Office-Caltech10 photos in {path}" for domain, (path,) in found.items()}
