"""Files -> arrays: the digit and office domains of Sec. 4.1 as uint8 images [n,32,32,3] and int32 labels [n].

`load(task, folder)` reads published copies where they lie. With no files at all, digits fall back to a built-in stand-in:
real MNIST and optdigits images from installed packages, SVHN and SYN drawn from fonts. Office photos have no stand-in.
Every reader distrusts its file: it checks sizes before it allocates, and says which file is wrong and what was wanted.
"""
import bz2
import gzip
import hashlib
import io
import math
import os
import re
import struct
import warnings
import zlib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

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
# whatever a file is called, nothing else is tried: Pillow hands EPS to Ghostscript, for one
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_SIDE = 1 << 15  # pixels; Pillow's resizing takes memory by the longer side
# bytes of a file: a sparse one takes no disk, but all of the memory; the largest published ones are IDX of 47 MB, MATLAB of 182 MB
LARGEST = {"picture": 1 << 26, "IDX": 1 << 29, "MATLAB": 1 << 31}
OFFICE_HELP = ("Office-Caltech10 has no built-in stand-in: unpack it so that DIR holds amazon, caltech10, dslr and webcam with one "
               "folder per class (https://github.com/med-air/FedBN links a copy), then pass --data DIR")


def load(task, folder=None):
    """(train, tests, sources) of the task "digits" or "office".

    train and tests: domain -> (images, labels); sources: domain -> kind, what, train, test (numbers of images), repeated (test images
    that are training images too), sha256.
    Without a folder the files are looked for in `data/`."""
    try:
        if task == "digits":
            train, tests, kind, what = _load_digits(folder)
        elif task == "office":
            train, tests, kind, what = _load_office(folder)
        else:
            raise InputError(f"unknown task {task!r}; wanted digits or office")
    except OSError as error:
        raise InputError(f"cannot read {error.filename or folder or 'data'}: {error.strerror or error}; check that the file is there "
                         "and readable") from error
    for domain in train:
        if not len(train[domain][1]) or not len(tests[domain][1]):
            raise InputError(f"{domain} ({what[domain]}) gives {len(train[domain][1])} training and {len(tests[domain][1])} test "
                             "images; wanted at least one of each")
    sources = {domain: {"kind": kind, "what": what[domain], "train": len(train[domain][1]), "test": len(tests[domain][1]),
                        "repeated": repeated(train[domain][0], tests[domain][0]),
                        "sha256": digest(*train[domain], *tests[domain])} for domain in train}
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
    if folder is not None and not os.fspath(folder):
        raise InputError(f"--data is empty; {help_text}")
    folder_given, folder = folder is not None, Path("data" if folder is None else folder)
    if (folder_given or os.path.lexists(folder)) and not folder.is_dir():
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
    """A Pillow image -> [32,32,3], bilinear."""
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image.convert("RGB"))


def to_squares(images):
    """Grey images [n,h,w] uint8 -> [n,32,32,3]; many at once, which is 20 times faster than to_square for each.

    The same values up to 32 a side; larger ones, which no published set has, may be rounded otherwise.
    """
    def widened(rows):  # [n,h,w] -> [n,h,32]: a resize of the width alone does not see that the rows are of many images
        n, h, w = rows.shape
        return np.asarray(Image.fromarray(rows.reshape(n * h, w)).resize((SIDE, n * h), Image.Resampling.BILINEAR)).reshape(n, h, SIDE)

    squares = np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    for start in range(0, len(images), 256):
        part = slice(start, start + 256)
        upright = widened(np.ascontiguousarray(widened(images[part]).transpose(0, 2, 1)))  # Pillow too takes the width first
        squares[part] = upright.transpose(0, 2, 1)[..., None]
    return squares


def check_labels(labels, low, high, path):
    """Labels as int32, or an error naming the first that is not a whole number in low..high."""
    bad = np.flatnonzero(~np.isin(labels, np.arange(low, high + 1)))
    if bad.size:
        raise InputError(f"{path}: label {labels[bad[0]]} at position {bad[0]}; wanted a whole number from {low} to {high}; "
                         "get a fresh copy of the file")
    return labels.astype(np.int32)


def most_unpacked(size, room=1 << 24):
    """The bytes that a packed file of this size may grow to, so that a few kilobytes cannot fill the memory.

    The published files grow 2 to 5 times; the room is for small files of a single shade.
    """
    return 32 * size + room


def check_size(path, kind):
    """The bytes of a file that is to be read whole."""
    size = path.stat().st_size
    if size > LARGEST[kind]:
        raise InputError(f"{path}: {size} bytes; wanted at most {LARGEST[kind]}; get a fresh copy of the file")
    return size


def read_up_to(file, count):
    """At most count bytes. In pieces, because a packed file's own read(count) allocates them all before it has them."""
    content = bytearray()
    while piece := file.read(min(count - len(content), 1 << 20)):
        content += piece
    return content


def read_idx(path, dims):
    """An IDX file of uint8 with this many dimensions, plain or .gz."""
    size, packed = check_size(path, "IDX"), path.suffix.lower() == ".gz"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            if len(head) < 4 + 4 * dims or struct.unpack(">i", head[:4])[0] != 0x800 + dims:
                raise InputError(f"{path}: starts with {head[:4].hex() or 'nothing'}; wanted {0x800 + dims:08x}, an IDX file of "
                                 f"bytes in {dims} dimensions; get a fresh copy of the file")
            shape = struct.unpack(f">{dims}I", head[4:])
            count = math.prod(shape)
            # the header is not trusted with memory
            body = read_up_to(file, count + 1) if count <= (most_unpacked(size) if packed else size) else b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); get a fresh copy of the file") from error
    if len(body) != count or 0 in shape[1:]:
        raise InputError(f"{path}: promises {' x '.join(map(str, shape))} = {count} bytes, the file of {size} bytes holds "
                         f"{'more' if len(body) > count else 'fewer'}; get a fresh copy of the file")
    if any(side < SIDE // 2 for side in shape[1:]):  # each becomes 3,072 bytes: a byte a picture would fill the memory
        raise InputError(f"{path}: pictures of {' x '.join(map(str, shape[1:]))}; wanted 28 x 28, or {SIDE // 2} a side at least")
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_mnist(images_path, labels_path):
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise InputError(f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels; wanted equal numbers")
    return to_squares(images), check_labels(labels, 0, 9, labels_path)


# Python's float takes more than this, 1_0 for one. Each text fits in one way only, so that a failure takes no longer.
NUMBER = rb"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|\.[0-9]+|inf|nan)"
USPS_LINE = re.compile(rb"\s*" + NUMBER + rb"(?:\s+[0-9.]+:" + NUMBER + rb")*\s*", re.IGNORECASE)
USPS_INDICES = [b"%d" % i for i in range(1, 257)]


def _usps_line(line, path, number):
    """One libsvm line -> (label, 256 values)."""
    if not USPS_LINE.fullmatch(line):
        good = USPS_LINE.match(line)
        raise InputError(f"{path}, line {number}: not of the form `label 1:value ... 256:value` from "
                         f"{line[good.end() if good else 0:][:20]!r} on")
    label, *pairs = line.replace(b":", b" ").split()
    if pairs[::2] != USPS_INDICES:
        raise InputError(f"{path}, line {number}: {len(pairs) // 2} values; wanted the indices 1 to 256, each once and in order")
    values = np.array(pairs[1::2], float)
    if not np.all(np.abs(values) <= 1):
        raise InputError(f"{path}, line {number}: value {values[~(np.abs(values) <= 1)][0]}; wanted -1 to 1")
    return float(label), values


def read_usps(path):
    """libsvm text, plain or .bz2: label digit + 1, values -1..1 of a 16x16 image."""
    labels, images, most = [], [], most_unpacked(path.stat().st_size, 1 << 21)
    try:
        with (bz2.open if path.suffix.lower() == ".bz2" else open)(path, "rb") as file:
            read = 0
            # a published line has about 2,200 bytes; the bound keeps a damaged file from being one endless line
            for number, line in enumerate(iter(lambda: file.readline(1 << 15), b""), 1):
                label, values = _usps_line(line, path, number)
                read += len(line)
                if read > most:
                    raise InputError(f"{path}: unpacks to more than {most} bytes, too many for its size; get a fresh copy of the file")
                labels.append(label)
                images.append(np.round((values + 1) / 2 * 255).astype(np.uint8))
    except (EOFError, OSError) as error:
        raise InputError(f"{path}: damaged or unreadable ({error}); get a fresh copy of the file") from error
    return to_squares(np.array(images, np.uint8).reshape(-1, 16, 16)), check_labels(np.array(labels), 1, 10, path) - 1


# MATLAB 5: how numbers lie in the file, and what class of array they make
MAT_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MAT_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
MAT_MATRIX, MAT_PACKED = 14, 15


def mat_elements(content, order):
    """The elements that content (a memoryview) consists of: (type, its bytes). order: "<" or ">"."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:  # of at most 4 bytes, which lie within the 8 of the head
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + size
        if end > len(content) or (start == at + 4 and size > 4):
            raise ValueError(f"an element promises {size} bytes, the file holds fewer")
        yield kind, content[start:end]
        at = at + 8 if start == at + 4 else end if kind == MAT_PACKED else end + -end % 8


def mat_array(content, order):
    """The elements of a matrix -> (name, array with its axes reversed, or None for what is not real numbers)."""
    (_, flags), (_, dims), (_, name), *rest = mat_elements(content, order)
    flags = struct.unpack(order + "II", flags)[0]
    if flags & 0xFF not in MAT_CLASSES or len(rest) != 1:  # complex numbers have two parts
        return bytes(name), None
    (stored, raw), = rest
    if stored not in MAT_STORED:
        raise ValueError(f"numbers of the unknown type {stored}")
    shape = np.frombuffer(dims, order + "i4")[::-1]
    if (shape < 0).any():
        raise ValueError(f"an array of {list(shape[::-1])}")
    values = np.frombuffer(raw, order + MAT_STORED[stored]).reshape(shape)
    return bytes(name), values.astype(MAT_CLASSES[flags & 0xFF], casting="safe", copy=False)


def read_mat(path):
    """The variables of a MATLAB 5 file: name (bytes) -> array with its axes reversed. Raises ValueError and the like.

    In place of scipy.io.loadmat, which on damaged files reads beyond its memory (a segmentation fault with SciPy 1.17.1)
    and allocates what the file promises.
    """
    check_size(path, "MATLAB")
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        if order is None:
            raise ValueError("no MATLAB 5 header")
        content = memoryview(file.read())
    arrays = {}
    for kind, part in mat_elements(content, order):
        if kind == MAT_PACKED:
            unpacker = zlib.decompressobj()
            inner = unpacker.decompress(part, most_unpacked(len(part)))
            if not unpacker.eof:
                raise ValueError("its packed data are cut off or too many")
            (kind, part), = mat_elements(memoryview(inner), order)
        if kind == MAT_MATRIX:
            name, array = mat_array(part, order)
            arrays[name] = array
    return arrays


def read_svhn(path):
    """A MATLAB file: X [32,32,3,n] uint8 and y [n,1] or [1,n], where 10 stands for the digit 0, or 0 itself does."""
    with open(path, "rb") as file:
        head = file.read(520)
    if b"\x89HDF" in head or b"MATLAB 7.3" in head:
        raise InputError(f"{path}: a MATLAB 7.3 (HDF5) file; wanted the published 32x32 file, or save it again with `-v7`")
    try:
        content = read_mat(path)
        images, labels = content[b"X"], content[b"y"]
        shape, kind, sides = images.shape, images.dtype, labels.shape
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: not a readable MATLAB file with X and y ({type(error).__name__}: {error}); "
                         "get a fresh copy of the file") from error
    if len(sides) != 2 or 1 not in sides:  # of several rows and columns the order is anybody's guess
        raise InputError(f"{path}: y is {list(sides[::-1])}; wanted [n, 1] or [1, n]; get a fresh copy of the file")
    labels = labels.ravel()
    if kind != np.uint8 or len(shape) != 4 or shape[1:] != (3, SIDE, SIDE) or shape[0] != len(labels):
        raise InputError(f"{path}: X is {kind} {list(shape[::-1])} with {len(labels)} labels; wanted uint8 [32, 32, 3, n] "
                         "with n labels")
    if np.isin([0, 10], labels).all():
        raise InputError(f"{path}: y has both 0 and 10; wanted one of them for the digit 0; get a fresh copy of the file")
    return np.ascontiguousarray(images.transpose(0, 3, 2, 1)), check_labels(labels, 0, 10, path) % 10


def decode(content):
    """The bytes of one picture of any mode -> [32,32,3]. A rotation that EXIF asks for is left alone, as in torchvision."""
    with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
        # a photo has hardly less than a bit for three pixels; the constant leaves room for small files of a single shade
        if image.width * image.height > min(24 * len(content) + (1 << 22), 1 << 26) or max(image.size) > LARGEST_SIDE:
            raise ValueError(f"{image.width} x {image.height} pixels in {len(content)} bytes are too many")
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers of unknown range")
        if image.mode.startswith("I"):  # 16-bit grey: Pillow's own convert would clip everything above 255 to white
            grey = np.clip(np.asarray(image), 0, 65535).astype(np.int32)
            return to_square(Image.fromarray(((grey + 128) // 257).astype(np.uint8)))
        # 16-bit colours, unlike 16-bit grey, come from Pillow cut to their upper bytes: at most one of 255 shades too dark.
        # By way of RGBA, for Pillow warns about a palette with transparency
        return to_square(image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB"))


def read_image(path):
    """One picture file -> [32,32,3]."""
    try:
        if path.stat().st_size > LARGEST["picture"]:
            raise ValueError(f"{path.stat().st_size} bytes, wanted at most {LARGEST['picture']}")
        # subtle: read whole, because Pillow asks an open file for as many bytes as a damaged header promises
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Pillow can do without, or what is refused anyway
            return decode(content)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a readable image (none of {', '.join(IMAGE_FORMATS)}); replace or remove it") from error
    except Exception as error:  # a damaged file raises nearly anything here, Pillow names no common class
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason}); replace or remove it") from error


def read_class_folders(folder, classes):
    """Pictures below one folder per class -> images, labels; by class, then by file name."""
    label_of = {name: label for label, names in enumerate(classes) for name in names.split("|")}
    paths = {label: [] for label in range(len(classes))}
    for sub in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if sub.name.lower() not in label_of:
            raise InputError(f"{sub}: class folder {sub.name!r} is not expected; wanted {', '.join(label_of)}; move it away")
        # a link that leads nowhere is a picture that is missing, where a folder or a pipe is none
        paths[label_of[sub.name.lower()]] += sorted(path for path in sub.iterdir() if path.suffix.lower() in IMAGE_ENDINGS
                                                    and not path.name.startswith(".") and (path.is_file() or not path.exists()))
    empty = [classes[label].replace("|", " or ") for label in paths if not paths[label]]
    if empty:
        raise InputError(f"{folder}: no images for class {', '.join(empty)}; wanted one folder with images per class")
    images = np.empty((sum(map(len, paths.values())), SIDE, SIDE, 3), np.uint8)
    for i, path in enumerate(path for label in paths for path in paths[label]):
        images[i] = read_image(path)
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
