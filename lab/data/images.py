"""Pictures of any format and size -> uint8 [32,32,3], or another square."""

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lab.data.limits import LARGEST
from lab.shell.errors import InputError

SIDE = 32
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
# Whatever a file is called, nothing else is tried: Pillow hands EPS to Ghostscript, for one.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_SIDE = 1 << 15  # pixels; Pillow's resizing takes memory by the longer side


def to_square(image, size=SIDE, fit="stretch"):
    """A Pillow image -> [size,size,3], bilinear: the whole of it, or its middle with fit "crop"."""
    if fit == "crop":
        # The same as a resize of the shorter side and a cut: but a picture of 1 x 30,000 pixels
        # does not become one of size x 30,000 size on the way.
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    elif image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image.convert("RGB"))


def to_squares(images):
    """Grey images [n,h,w] uint8 -> [n,32,32,3], 20 times faster than to_square for each.

    The same values up to 32 a side; larger ones,
    which no published set has, may be rounded otherwise.
    """
    squares = np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    for start in range(0, len(images), 256):
        part = slice(start, start + 256)
        sideways = widened(images[part]).transpose(0, 2, 1)  # Pillow too takes the width first
        upright = widened(np.ascontiguousarray(sideways))
        squares[part] = upright.transpose(0, 2, 1)[..., None]
    return squares


def widened(rows):
    """[n,h,w] -> [n,h,32]: a resize of the width alone need not know whose rows these are."""
    n, h, w = rows.shape
    sheet = Image.fromarray(rows.reshape(n * h, w))
    return np.asarray(sheet.resize((SIDE, n * h), Image.Resampling.BILINEAR)).reshape(n, h, SIDE)


def decode(content, size=SIDE, fit="stretch", rotation="file"):
    """The bytes of one picture of any mode -> [size,size,3].

    rotation "file": what EXIF asks for is left alone, as in torchvision; "exif": it is done.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        # A photo has hardly less than a bit for three pixels;
        # the constant leaves room for small files of a single shade.
        most = min(24 * len(content) + (1 << 22), 1 << 26)
        if image.width * image.height > most or max(image.size) > LARGEST_SIDE:
            raise ValueError(
                f"{image.width} x {image.height} pixels in {len(content)} bytes are too many"
            )
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers of unknown range")
        if rotation == "exif":
            turn(image)
        if image.mode.startswith("I"):
            # 16-bit grey: Pillow's own convert would clip everything above 255 to white.
            grey = np.clip(np.asarray(image), 0, 65535).astype(np.int32)
            grey = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
            return to_square(grey, size, fit)
        # 16-bit colours come from Pillow cut to their upper bytes: at most one of 255 shades too
        # dark. About a palette with transparency it warns unless it goes by way of RGBA.
        image = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
        return to_square(image, size, fit)


def turn(image):
    """Turn a Pillow image in place as its EXIF asks, as far as that can be read."""
    image.load()  # not below: a damaged picture is an error
    # EXIF with a damaged entry raises nearly anything, even when the image is turned already.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


class DamagedPicture(InputError):
    """A file that is no picture that can be used; reason: why, without the file's name."""

    def __init__(self, path, reason):
        super().__init__(
            f"{path}: not a readable image ({reason}); put a good copy in its place or move it away"
        )
        self.reason = reason


def read_image(path):
    """One picture file -> [32,32,3], as read_picture without any warning."""
    with warnings.catch_warnings():
        # They are about what Pillow can do without, or what is refused anyway.
        warnings.simplefilter("ignore")
        return read_picture(path)


def read_picture(path, size=SIDE, fit="stretch", rotation="file"):
    """One picture file -> [size,size,3]; threads may call it at the same time.

    Raises DamagedPicture for what is no picture, OSError for what cannot be read and may be one.
    """
    length = path.stat().st_size
    # Read whole, because Pillow asks an open file for as many bytes as a damaged header promises.
    content = path.read_bytes() if length <= LARGEST["picture"] else b""
    try:
        if length > LARGEST["picture"]:
            raise ValueError(f"{length} bytes, wanted at most {LARGEST['picture']}")
        return decode(content, size, fit, rotation)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DamagedPicture(path, f"none of {', '.join(FORMATS)}") from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DamagedPicture(path, reason) from error


def read_class_folders(folder, classes):
    """Pictures below one folder for each class -> images, labels; by class, then by file name."""
    label_of = {name: label for label, names in enumerate(classes) for name in names.split("|")}
    paths = {label: [] for label in range(len(classes))}
    subs = class_folders(folder, label_of)
    strange = [sub for sub in subs if sub.name.lower() not in label_of]
    if strange:
        names = ", ".join(repr(sub.name) for sub in strange)
        raise InputError(
            f"{strange[0]}: class folder{'s' * (len(strange) > 1)} {names} "
            f"{'are' if len(strange) > 1 else 'is'} not expected; wanted {', '.join(label_of)}; "
            f"move {'them' if len(strange) > 1 else 'it'} away"
        )
    for sub in subs:
        paths[label_of[sub.name.lower()]] += sorted(filter(is_picture, sub.iterdir()))
    empty = [classes[label].replace("|", " or ") for label in paths if not paths[label]]
    if empty:
        raise InputError(
            f"{folder}: no images for class {', '.join(empty)}; "
            "wanted one folder with images per class"
        )
    images = np.empty((sum(map(len, paths.values())), SIDE, SIDE, 3), np.uint8)
    for i, path in enumerate(path for label in paths for path in paths[label]):
        images[i] = read_image(path)
    sizes = [len(paths[label]) for label in paths]
    return images, np.repeat(np.arange(len(classes)), sizes).astype(np.int32)


def class_folders(folder, names):
    """The folders in a folder, or one level deeper where classes of these names lie only there."""

    def hold_classes(folders):
        return any(sub.name.lower() in names for sub in folders)

    subs = subfolders(folder)
    if not hold_classes(subs):
        deeper = [sub for sub in subs if hold_classes(subfolders(sub))]
        images = [sub for sub in deeper if sub.name.lower() == "images"]  # of Office-31
        if len(one := images or deeper) == 1:
            return subfolders(one[0])
    return subs


def subfolders(folder):
    """The folders in a folder, but for those that systems leave: @eaDir, __MACOSX, $RECYCLE.BIN."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir()
        and not path.name.startswith((".", "@", "#", "$", "~", "__"))
        and path.name.lower() not in ("lost+found", "system volume information")
    )


def is_picture(path):
    """A link that leads nowhere is a picture that is missing; a folder or a pipe is none."""
    return (
        path.suffix.lower() in ENDINGS
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())
    )
