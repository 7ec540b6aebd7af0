"""Pictures of any format and size -> uint8 [32,32,3], or of another size [s,s,3]."""

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


def to_square(image, side=SIDE, fit="stretch"):
    """A Pillow image -> [side,side,3], bilinear. fit "crop": of its longer side the middle."""
    if fit == "crop":
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    elif image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
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


def decode(content, side=SIDE, fit="stretch", rotation="file"):
    """The bytes of one picture of any mode -> [side,side,3]; of an animated one its first image.

    A rotation that EXIF asks for is left alone, as in torchvision, or done: rotation "exif".
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        # A photo has hardly less than a bit for three pixels;
        # the constant leaves room for small files of a single shade.
        most = min(24 * len(content) + (1 << 22), 1 << 26)
        if image.width * image.height > most or max(image.size) > LARGEST_SIDE:
            raise ValueError(
                f"{image.width} x {image.height} pixels in {len(content)} bytes are too many"
            )
        if rotation == "exif":
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers of unknown range")
        if image.mode.startswith("I"):
            # 16-bit grey: Pillow's own convert would clip everything above 255 to white.
            grey = np.clip(np.asarray(image), 0, 65535).astype(np.int32)
            plain = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
        else:
            # 16-bit colours come from Pillow cut to their upper bytes: at most one of 255 shades
            # too dark. About a palette with transparency it warns unless it goes by way of RGBA.
            plain = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
        return to_square(plain, side, fit)


def read_image(path, **how):
    """One picture file -> [32,32,3], or as decode's other arguments say.

    Raises InputError for what is no picture, OSError for what cannot be read and may be one.
    """
    try:
        return pixels(path, **how)
    except ValueError as error:
        raise InputError(
            f"{path}: not a readable image ({error}); put a good copy in its place or move it away"
        ) from error


def pixels(path, **how):
    """`read_image`, with a ValueError that says in a few words why it is no picture."""
    size = path.stat().st_size
    # Read whole, because Pillow asks an open file for as many bytes as a damaged header promises.
    content = path.read_bytes() if size <= LARGEST["picture"] else b""
    try:
        if size > LARGEST["picture"]:
            raise ValueError(f"{size} bytes, wanted at most {LARGEST['picture']}")
        with warnings.catch_warnings():
            # They are about what Pillow can do without, or what is refused anyway.
            warnings.simplefilter("ignore")
            return decode(content, **how)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"none of {', '.join(FORMATS)}") from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(reason) from error


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
